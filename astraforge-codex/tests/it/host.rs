//! Sessions that run commands on this machine, in a folder of their own: real git, real processes, no isolation.
//!
//! Paths of a sandbox are replaced by paths of that folder wherever they occur in a command.

use std::{
    collections::BTreeSet,
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex},
};

use astraforge_core::{
    id::SandboxId,
    ports::{
        guest_service::ServiceBinding,
        sessions::{ExecControl, Execution, Session, SessionError, Sessions},
    },
    session::{Command, ExecEvent, Exit, PtySize, SandboxSpec, Signal},
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};

/// Makes sessions below a folder.
#[derive(Debug)]
pub(crate) struct HostSessions {
    pub(crate) root: PathBuf,
    /// The bare repository that stands behind the quarantine's address.
    pub(crate) quarantine: PathBuf,
    /// Whether sandboxes can be made at all.
    pub(crate) broken: bool,
    live: Mutex<BTreeSet<SandboxId>>,
    made: Mutex<Vec<(SandboxSpec, Vec<u16>)>>,
}

impl HostSessions {
    pub(crate) fn new(root: &Path, quarantine: &Path) -> Self {
        Self {
            root: root.to_owned(),
            quarantine: quarantine.to_owned(),
            broken: false,
            live: Mutex::default(),
            made: Mutex::default(),
        }
    }

    pub(crate) fn live(&self) -> usize {
        self.live.lock().unwrap().len()
    }

    pub(crate) fn made(&self) -> Vec<(SandboxSpec, Vec<u16>)> {
        self.made.lock().unwrap().clone()
    }
}

#[async_trait]
impl Sessions for HostSessions {
    async fn create(
        &self,
        id: SandboxId,
        spec: SandboxSpec,
        services: Vec<ServiceBinding>,
    ) -> Result<Arc<dyn Session>, SessionError> {
        self.live.lock().unwrap().insert(id);
        if self.broken {
            return Err(SessionError::Unsupported {
                what: "a sandbox".into(),
                reason: "user namespaces are forbidden".into(),
            });
        }
        let root = self.root.join(id.to_string());
        for folder in ["workspace", "home"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        let mut map = vec![
            ("/workspace".to_owned(), root.join("workspace").display().to_string()),
            ("/home/agent".to_owned(), root.join("home").display().to_string()),
            ("git://127.0.0.2:9418/repository".to_owned(), self.quarantine.display().to_string()),
        ];
        map.extend(spec.folders.iter().map(|f| (f.target.display().to_string(), f.source.display().to_string())));
        self.made.lock().unwrap().push((spec, services.iter().map(|s| s.port).collect()));
        Ok(Arc::new(HostSession { id, map }))
    }

    async fn destroy(&self, id: SandboxId) -> Result<(), SessionError> {
        self.live.lock().unwrap().remove(&id);
        _ = std::fs::remove_dir_all(self.root.join(id.to_string()));
        Ok(())
    }

    async fn list(&self) -> Result<Vec<SandboxId>, SessionError> {
        Ok(self.live.lock().unwrap().iter().copied().collect())
    }
}

#[derive(Debug)]
struct HostSession {
    id: SandboxId,
    map: Vec<(String, String)>,
}

impl HostSession {
    fn on_host(&self, text: &str) -> String {
        self.map.iter().fold(text.to_owned(), |text, (inside, outside)| text.replace(inside, outside))
    }

    fn in_sandbox(&self, bytes: Vec<u8>) -> Bytes {
        let text = String::from_utf8_lossy(&bytes);
        self.map.iter().fold(text.into_owned(), |text, (inside, outside)| text.replace(outside, inside)).into()
    }
}

#[async_trait]
impl Session for HostSession {
    fn id(&self) -> SandboxId {
        self.id
    }

    async fn exec(&self, command: Command) -> Result<Execution, SessionError> {
        let argv: Vec<String> = command.argv.iter().map(|arg| self.on_host(arg)).collect();
        let mut process = tokio::process::Command::new(&argv[0]);
        process
            .args(&argv[1..])
            .current_dir(self.on_host(command.cwd.to_str().unwrap()))
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", self.on_host("/home/agent"))
            .envs(command.env.iter().map(|(name, value)| (name, self.on_host(value))))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        if command.env.contains_key("GIT_ALLOW_PROTOCOL") {
            process.env("GIT_ALLOW_PROTOCOL", "file");
        }
        let mut child = process
            .spawn()
            .map_err(|error| SessionError::Spawn { program: command.argv[0].clone(), reason: error.to_string() })?;
        let group = child.id().unwrap();
        let (sender, receiver) = mpsc::channel(16);
        let mut stdin = child.stdin.take().unwrap();
        // Pathspecs on standard input are relative; the prompt is for the agent.
        let input = command.stdin.clone();
        tokio::spawn(async move {
            _ = stdin.write_all(&input).await;
        });
        let stdout = copy(child.stdout.take().unwrap(), sender.clone(), ExecEvent::Stdout);
        let stderr = copy(child.stderr.take().unwrap(), sender.clone(), ExecEvent::Stderr);
        let timeout = command.timeout.unwrap_or(std::time::Duration::from_secs(3600));
        tokio::spawn(async move {
            let (exit, _group) = (tokio::time::timeout(timeout, child.wait()).await, KillOnDrop(group));
            let exit = match exit {
                Err(_) => Exit::TimedOut,
                Ok(status) => match status.unwrap() {
                    status if status.code().is_some() => Exit::Exited { code: status.code().unwrap() },
                    status => Exit::Signaled { signal: status.signal().unwrap() },
                },
            };
            kill(group, "KILL");
            _ = tokio::join!(stdout, stderr);
            _ = sender.send(ExecEvent::Exited(exit)).await;
        });
        let map = self.map.clone();
        let session = HostSession { id: self.id, map };
        let events = tokio_stream(receiver).map(move |event| {
            Ok(match event {
                ExecEvent::Stdout(bytes) => ExecEvent::Stdout(session.in_sandbox(bytes.to_vec())),
                ExecEvent::Stderr(bytes) => ExecEvent::Stderr(session.in_sandbox(bytes.to_vec())),
                exited => exited,
            })
        });
        let guard = KillOnDrop(group);
        let events = events.map(move |event| {
            let _guard = &guard;
            event
        });
        Ok(Execution { events: events.boxed(), control: Arc::new(Control(group)) })
    }

    async fn read_file(&self, path: &str, max_bytes: u64) -> Result<Bytes, SessionError> {
        match std::fs::read(self.on_host(path)) {
            Ok(bytes) if bytes.len() as u64 > max_bytes => Err(SessionError::TooLarge { path: path.into(), max_bytes }),
            Ok(bytes) => Ok(bytes.into()),
            Err(_) => Err(SessionError::FileNotFound { path: path.into() }),
        }
    }

    async fn write_file(&self, path: &str, contents: Bytes, mode: u32) -> Result<(), SessionError> {
        let path = PathBuf::from(self.on_host(path));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, contents).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        Ok(())
    }
}

fn tokio_stream(receiver: mpsc::Receiver<ExecEvent>) -> impl futures::Stream<Item = ExecEvent> + Send + 'static {
    futures::stream::unfold(
        receiver,
        |mut receiver| async move { receiver.recv().await.map(|event| (event, receiver)) },
    )
}

fn copy(
    mut from: impl AsyncRead + Unpin + Send + 'static,
    to: mpsc::Sender<ExecEvent>,
    event: fn(Bytes) -> ExecEvent,
) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(n @ 1..) = from.read(&mut buffer).await {
            if to.send(event(Bytes::copy_from_slice(&buffer[..n]))).await.is_err() {
                return;
            }
        }
    })
}

struct KillOnDrop(u32);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        kill(self.0, "KILL");
    }
}

fn kill(group: u32, signal: &str) {
    let kill = std::process::Command::new("/bin/kill")
        .args([&format!("-{signal}"), "--", &format!("-{group}")])
        .stderr(Stdio::null())
        .status();
    assert!(kill.is_ok());
}

struct Control(u32);

#[async_trait]
impl ExecControl for Control {
    async fn signal(&self, signal: Signal) -> Result<(), SessionError> {
        let name = match signal {
            Signal::Interrupt => "INT",
            Signal::Terminate => "TERM",
            Signal::Kill => "KILL",
        };
        kill(self.0, name);
        Ok(())
    }

    async fn write_stdin(&self, _: Bytes) -> Result<(), SessionError> {
        unreachable!("a run gives its input at the start")
    }

    async fn close_stdin(&self) -> Result<(), SessionError> {
        Ok(())
    }

    async fn resize(&self, _: PtySize) -> Result<(), SessionError> {
        Ok(())
    }
}
