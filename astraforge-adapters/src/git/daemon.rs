//! The git server of one quarantine: the protocol of `git daemon`, over a stream from a sandbox.

use std::{fmt, sync::Arc, time::Duration};

use astraforge_core::ports::guest_service::{GuestService, GuestStream};
use async_trait::async_trait;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::{Mutex, Semaphore},
};
use tokio_util::compat::FuturesAsyncReadCompatExt as _;
use tracing::{debug, warn};

use super::{
    argv::Call,
    quarantine::Bare,
    run::{Git, drained},
};

/// The only path that is served.
const PATH: &str = "/repository";
/// The longest first packet that is read; git's own are below 200 bytes.
const MAX_FIRST_PACKET: usize = 1024;
/// How long a client may take to say what it wants.
const FIRST_PACKET_TIMEOUT: Duration = Duration::from_secs(30);
/// How many connections of one workspace are served at a time.
const MAX_CONNECTIONS: usize = 8;

/// Serves clones from, and pushes to one branch of, one request's quarantine.
pub(crate) struct Daemon {
    git: Git,
    bare: Bare,
    work_branch: String,
    connections: Semaphore,
    /// Held by the push that is being taken, so that what a request may add is not counted twice.
    pushing: Mutex<()>,
}

impl Daemon {
    pub(crate) fn new(git: Git, bare: Bare, work_branch: &str) -> Arc<Self> {
        let (connections, pushing) = (Semaphore::new(MAX_CONNECTIONS), Mutex::new(()));
        Arc::new(Self { git, bare, work_branch: work_branch.to_owned(), connections, pushing })
    }

    async fn answer(&self, stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
        let (mut from_client, mut to_client) = tokio::io::split(stream);
        let read = read_first_packet(&mut from_client);
        let Ok(Some(packet)) = tokio::time::timeout(FIRST_PACKET_TIMEOUT, read).await.unwrap_or(Ok(None)) else {
            debug!("a git client said nothing that git clients say");
            return Ok(());
        };
        let wanted = Wanted::parse(&packet);
        let _pushing = match wanted {
            Some(Wanted { verb: Verb::Receive, .. }) => Some(self.pushing.lock().await),
            _ => None,
        };
        let call = match &wanted {
            Some(wanted) => self.call(wanted).await,
            None => Err("only /repository is served, for clone, fetch and push".to_owned()),
        };
        match call {
            Ok(call) => self.pipe(call, from_client, to_client).await,
            Err(reason) => {
                debug!(reason, "a git client was turned away");
                to_client.write_all(&packet_of(&format!("ERR {reason}"))).await?;
                to_client.shutdown().await
            }
        }
    }

    async fn call(&self, wanted: &Wanted) -> Result<Call, String> {
        let call = match wanted.verb {
            Verb::Upload => self.bare.upload_call(&self.git).await?,
            Verb::Receive => self.bare.receive_call(&self.git, &self.work_branch).await?,
        };
        Ok(match wanted.protocol {
            Some(version) => call.with_env("GIT_PROTOCOL", version),
            None => call,
        })
    }

    async fn pipe(
        &self,
        call: Call,
        mut from_client: impl AsyncRead + Unpin,
        mut to_client: impl AsyncWrite + Unpin,
    ) -> std::io::Result<()> {
        let mut running = self.git.start(call).map_err(std::io::Error::other)?;
        let (stdin, stdout) = (running.child.stdin.take(), running.child.stdout.take());
        let (Some(mut stdin), Some(mut stdout)) = (stdin, stdout) else { return Ok(()) };
        let complaints = drained(running.child.stderr.take());
        let incoming = async move {
            // Ends with the client's last byte; closing git's input is then the news. The wait below goes on.
            let _ = tokio::io::copy(&mut from_client, &mut stdin).await;
            drop(stdin);
            std::future::pending::<()>().await
        };
        let outgoing = async move {
            tokio::io::copy(&mut stdout, &mut to_client).await?;
            to_client.shutdown().await
        };
        let served = async {
            tokio::select! {
                result = outgoing => result,
                () = incoming => Ok(()),
            }
        };
        let (served, said) = tokio::join!(served, complaints);
        served?;
        let status = running.wait().await?;
        debug!(%status, said = said.unwrap_or_default(), "a git connection ended");
        Ok(())
    }
}

#[async_trait]
impl GuestService for Daemon {
    async fn serve(&self, stream: GuestStream) {
        let Ok(_permit) = self.connections.acquire().await else { return };
        match tokio::time::timeout(self.git.timeout, self.answer(stream.compat())).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, "a git connection broke"),
            Err(_) => warn!(quarantine = %self.bare, "a git connection took too long and was ended"),
        }
    }
}

impl fmt::Debug for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Daemon").field("bare", &self.bare).field("work_branch", &self.work_branch).finish()
    }
}

/// What a client asks for in its first packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wanted {
    verb: Verb,
    /// The wire protocol it offers, if it is one that we know.
    protocol: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Upload,
    Receive,
}

impl Wanted {
    /// Reads `git-upload-pack /repository\0host=…\0\0version=2\0`, and nothing but that.
    fn parse(packet: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(packet).ok()?;
        let (command, extra) = text.split_once('\0').unwrap_or((text.trim_end_matches('\n'), ""));
        let (verb, path) = command.split_once(' ')?;
        let verb = match verb {
            "git-upload-pack" => Verb::Upload,
            "git-receive-pack" => Verb::Receive,
            _ => return None,
        };
        let known = |word: &str| ["version=1", "version=2"].into_iter().find(|version| *version == word);
        (path == PATH).then(|| Self { verb, protocol: extra.split('\0').find_map(known) })
    }
}

/// Reads one packet; `None` when what comes is none, or is too long.
async fn read_first_packet(source: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Option<Vec<u8>>> {
    let mut head = [0; 4];
    source.read_exact(&mut head).await?;
    let hex = |digits: &[u8; 4]| {
        let all_hex = digits.iter().all(u8::is_ascii_hexdigit);
        std::str::from_utf8(digits).ok().filter(|_| all_hex).and_then(|text| usize::from_str_radix(text, 16).ok())
    };
    let Some(length @ 5..=MAX_FIRST_PACKET) = hex(&head) else { return Ok(None) };
    let mut packet = vec![0; length - 4];
    source.read_exact(&mut packet).await?;
    Ok(Some(packet))
}

fn packet_of(text: &str) -> Vec<u8> {
    format!("{:04x}{text}", text.len() + 4).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(packet: &str, wanted: Option<(Verb, Option<&'static str>)>) {
        assert_eq!(Wanted::parse(packet.as_bytes()), wanted.map(|(verb, protocol)| Wanted { verb, protocol }));
    }

    #[test]
    fn only_the_two_verbs_on_the_one_path_are_understood() {
        check(
            "git-upload-pack /repository\0host=127.0.0.2:9418\0\0version=2\0",
            Some((Verb::Upload, Some("version=2"))),
        );
        check("git-receive-pack /repository\0host=x\0", Some((Verb::Receive, None)));
        check("git-upload-pack /repository\n", Some((Verb::Upload, None)));
        check("git-upload-pack /repository\0host=x\0\0version=2:evil\0", Some((Verb::Upload, None)));
        check("git-upload-archive /repository\0host=x\0", None);
        check("git-upload-pack /repository/../other\0host=x\0", None);
        check("git-upload-pack /etc\0", None);
        check("git-upload-pack --help\0", None);
        check("git-upload-pack", None);
        check("", None);
    }

    #[tokio::test]
    async fn a_first_packet_is_bounded() {
        for bad in ["0000", "0004", "+00a", "zzzz", "ffff", "0401", "GET / HTTP/1.1\r\n\r\n"] {
            let read = read_first_packet(&mut bad.as_bytes()).await;
            assert!(matches!(read, Ok(None)), "{bad}");
        }
        assert!(read_first_packet(&mut "0010short".as_bytes()).await.is_err());
        assert_eq!(read_first_packet(&mut "0009hello".as_bytes()).await.unwrap(), Some(b"hello".to_vec()));
        assert_eq!(packet_of("hello"), b"0009hello");
    }
}
