//! A sandbox of another server, behind the same ports as one on this machine.

use std::sync::Arc;

use astraforge_core::{
    archive::{ArchiveSummary, CompareRequest, Comparison, Compression, PackRequest, UnpackRequest},
    egress::EgressEvent,
    files::{DownloadRequest, Existing, FileEvent, FileReply, FileRequest, Roots, UploadRequest, WatchRequest},
    id::SandboxId,
    ports::{
        machines::{ByteStream, Machine, Usage, read_whole},
        sessions::{Execution, Session, SessionError},
    },
    process::{Process, ProcessName, ProcessTag},
    session::{ByteSize, Command, Signal},
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use http::{Method, header::CONTENT_TYPE};

use self::steering::{Steering, new_process, word_of};
use super::{
    Client, ClientError,
    sandboxes::{answer, done, path, succeeded},
};
use crate::wire::sandbox::{
    archive::PackBody,
    files::WriteView,
    process::{ProcessView, SignalBody},
};

mod files;
mod following;
mod steering;
mod watching;

pub(super) use self::following::follow;

/// How many connections are asked for where the caller wants all that is remembered.
const ALL_EVENTS: usize = 1000;

/// A sandbox of another server: the same [`Session`] and [`Machine`] as one on this machine, so that what works with the one
/// works with the other. Clones share it.
///
/// - A command ends with whoever started it: when its [`Execution`] is dropped, or, if the program is killed, when the
///   server has waited for it to come back in vain, for 15 s unless it is told otherwise.
/// - A connection that breaks is made again, and output goes on where it was, without a loss. So does that of
///   [`spawn`](Machine::spawn)ed processes when the server starts anew; a command of [`exec`](Session::exec) ends with its
///   server, which is told as [`SessionError::Lost`].
/// - Errors are those that the sandbox gave on the server.
/// - The server says in which folders files may be used. Verbs for fewer folders than those are refused.
///
/// ```
/// use astraforge_core::ports::{machines::Machine, sessions::Session};
/// use astraforge_http::{Client, wire::sandbox::NewSession};
/// # use std::sync::Arc;
/// # use astraforge_core::{access::{ApiKey, Role}, control_plane::ControlPlane, forge::{Forge, Settings}};
/// # use astraforge_core::{ports::store::Store, testing::{MemoryArtifacts, MemorySandboxStore, PlayedMachines, Spine, TestClock, samples}};
/// # use astraforge_http::{AppState, router, server::Server};
///
/// /// Works with a sandbox of this machine as well.
/// async fn greet(sandbox: &dyn Machine) -> Result<(), Box<dyn std::error::Error>> {
///     sandbox.write_file("/workspace/greeting", "hello".into(), 0o644).await?;
///     assert_eq!(sandbox.read_file("/workspace/greeting", 1024).await?, "hello");
///     Ok(())
/// }
///
/// # async fn serve() -> (String, String) {
/// #     let spine = Spine::new().await;
/// #     let (key, hash) = astraforge_http::mint_api_key().unwrap();
/// #     spine.store.add_api_key(ApiKey { hash, role: Role::Admin, ..samples::api_key() }).await.unwrap();
/// #     let (store, files) = (Arc::new(MemorySandboxStore::default()), Arc::new(MemoryArtifacts::default()));
/// #     let plane = ControlPlane::new(store, files, Arc::new(TestClock::new()), vec![Arc::new(PlayedMachines::default())]);
/// #     let app = router(AppState::builder(Forge::new(spine.ports(Settings::default()))).with_sandboxes(plane).build());
/// #     let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
/// #     let url = format!("http://{}", listener.local_addr().unwrap());
/// #     tokio::spawn(async move { Server::new(listener, app).run().await });
/// #     (url, key.reveal().to_owned())
/// # }
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// # let (url, key) = serve().await;
/// # rustls::crypto::ring::default_provider().install_default().ok();
/// let client = Client::new(&url, key)?;
/// let made = client.create_sandbox(&NewSession::default()).await?;
/// greet(&client.open_sandbox(made.id).await?).await?;
/// client.delete_sandbox(made.id).await?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct RemoteSandbox {
    client: Client,
    id: SandboxId,
    /// Where the server lets its callers use files.
    roots: Roots,
}

impl Client {
    /// Opens a sandbox, to be used like one on this machine. It is woken when it is used.
    ///
    /// # Errors
    /// Those of [`ClientError`]; 404 when there is no such sandbox.
    pub async fn open_sandbox(&self, id: SandboxId) -> Result<RemoteSandbox, ClientError> {
        let roots = Roots(self.sandbox(id).await?.roots);
        Ok(RemoteSandbox { client: self.clone(), id, roots })
    }
}

impl RemoteSandbox {
    fn call(&self, method: Method, rest: &str) -> reqwest::RequestBuilder {
        self.client.open_ended_call(method, &path(self.id, rest))
    }

    /// Refuses what is asked for fewer folders than the server looks at: nothing wider runs in its place.
    fn check_roots(&self, asked: &Roots) -> Result<(), SessionError> {
        let covers = |root: &String| {
            let within = |wide: &String| {
                let rest = root.strip_prefix(wide.trim_end_matches('/'));
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            asked.0.iter().any(within)
        };
        if self.roots.0.iter().all(covers) {
            return Ok(());
        }
        Err(SessionError::Unsupported {
            what: format!("a file verb that stays in {}", asked.0.join(", ")),
            reason: format!("its server lets callers use {}; ask for these", self.roots.0.join(", ")),
        })
    }

    async fn bytes(&self, call: reqwest::RequestBuilder) -> Result<ByteStream, SessionError> {
        let bytes = succeeded(call).await.map_err(ClientError::into_session_error)?.bytes_stream();
        let bytes = bytes.map_err(ClientError::transport("read the answer of"));
        Ok(bytes.map_err(ClientError::into_session_error).boxed())
    }

    /// Sends an archive along with a call, and reads what came of it.
    async fn send_archive<T: serde::de::DeserializeOwned>(
        &self,
        rest: &str,
        terms: &[(&str, String)],
        archive: ByteStream,
    ) -> Result<T, SessionError> {
        let call = self.call(Method::POST, rest).query(terms).header(CONTENT_TYPE, "application/octet-stream");
        answer(call.body(reqwest::Body::wrap_stream(archive))).await.map_err(ClientError::into_session_error)
    }
}

#[async_trait]
impl Session for RemoteSandbox {
    fn id(&self) -> SandboxId {
        self.id
    }

    async fn exec(&self, command: Command) -> Result<Execution, SessionError> {
        steering::exec(&self.client, self.id, command).await
    }

    async fn read_file(&self, path: &str, max_bytes: u64) -> Result<Bytes, SessionError> {
        // One more than is wanted tells that there is more.
        let limit = Some(max_bytes.saturating_add(1));
        let request = DownloadRequest { roots: Roots::everywhere(), path: path.to_owned(), offset: 0, limit };
        read_whole(self.download(request).await?, path, max_bytes).await
    }

    async fn write_file(&self, path: &str, contents: Bytes, mode: u32) -> Result<(), SessionError> {
        let (roots, existing) = (Roots::everywhere(), Existing::Replace);
        let request = UploadRequest { roots, path: path.to_owned(), mode, existing };
        self.upload(request, stream::iter([Ok(contents)]).boxed()).await.map(drop)
    }
}

#[async_trait]
impl Machine for RemoteSandbox {
    async fn spawn(&self, command: Command, tag: Option<ProcessTag>) -> Result<Process, SessionError> {
        let new = new_process(&command, tag);
        let view = self.client.start_process(self.id, &new).await.map_err(ClientError::into_session_error)?;
        let process = Process::from(view);
        let steering = Steering::of_process(&self.client, self.id, process.id);
        match steering.give(command.stdin, command.stdin_end).await {
            // One that has ended takes no input, and needs none.
            Err(_) if self.find(process.id).await?.exit_code.is_some() => Ok(process),
            given => given.map(|()| process),
        }
    }

    async fn processes(&self) -> Result<Vec<Process>, SessionError> {
        let views = self.client.processes(self.id).await.map_err(ClientError::into_session_error)?;
        Ok(views.into_iter().map(Process::from).collect())
    }

    async fn attach(&self, process: ProcessName, from: u64) -> Result<Execution, SessionError> {
        let view = self.find(&process).await?;
        if from > view.next_sequence {
            let reason = format!("the process has written {} bytes", view.next_sequence);
            return Err(SessionError::Unsupported { what: format!("byte {from}"), reason });
        }
        let control = Arc::new(Steering::of_process(&self.client, self.id, Process::from(view.clone()).id));
        Ok(Execution { events: follow(&self.client, self.id, &view, from), control })
    }

    async fn signal(&self, process: ProcessName, signal: Signal) -> Result<(), SessionError> {
        let body = SignalBody { signal: word_of(signal).to_owned() };
        let call = self.call(Method::POST, &format!("processes/{process}/signal/")).json(&body);
        done(call).await.map_err(ClientError::into_session_error)
    }

    async fn file(&self, request: FileRequest) -> Result<FileReply, SessionError> {
        self.check_roots(&request.roots)?;
        files::carry_out(&self.client, self.id, request.verb).await
    }

    async fn watch(
        &self,
        request: WatchRequest,
    ) -> Result<BoxStream<'static, Result<FileEvent, SessionError>>, SessionError> {
        self.check_roots(&request.roots)?;
        watching::watch(&self.client, self.id, request).await
    }

    async fn download(&self, request: DownloadRequest) -> Result<ByteStream, SessionError> {
        self.check_roots(&request.roots)?;
        let mut terms = vec![("path", request.path), ("offset", request.offset.to_string())];
        terms.extend(request.limit.map(|limit| ("limit", limit.to_string())));
        self.bytes(self.call(Method::GET, "files/content/").query(&terms)).await
    }

    async fn upload(&self, request: UploadRequest, contents: ByteStream) -> Result<u64, SessionError> {
        self.check_roots(&request.roots)?;
        let existing = if request.existing == Existing::Keep { "keep" } else { "replace" };
        let mode = format!("{:o}", request.mode & 0o777);
        let terms = [("path", request.path), ("mode", mode), ("existing", existing.to_owned())];
        let view: WriteView = self.send_archive("files/upload/", &terms, contents).await?;
        match (view.size_bytes, view.failure) {
            (Some(size), _) => Ok(size),
            (None, Some(failure)) => Err(failure.into_error(view.stderr.into())),
            (None, None) => Err(SessionError::Backend { operation: "write", source: view.stderr.into() }),
        }
    }

    async fn pack(&self, request: PackRequest) -> Result<ByteStream, SessionError> {
        self.bytes(self.call(Method::POST, "archives/pack/").json(&PackBody::from(request))).await
    }

    async fn unpack(&self, request: UnpackRequest, archive: ByteStream) -> Result<ArchiveSummary, SessionError> {
        let mut terms = vec![
            ("compression", name_of(request.compression).to_owned()),
            ("max_bytes", request.max_bytes.to_string()),
            ("max_entries", request.max_entries.to_string()),
        ];
        terms.extend(request.replace.into_iter().map(|path| ("replace", path)));
        self.send_archive("archives/unpack/", &terms, archive).await
    }

    async fn compare(&self, request: CompareRequest, archive: ByteStream) -> Result<Comparison, SessionError> {
        let CompareRequest { pack, limit } = request;
        let mut terms = vec![("compression", name_of(pack.compression).to_owned()), ("limit", limit.to_string())];
        terms.extend(pack.include.into_iter().map(|path| ("include", path)));
        terms.extend(pack.exclude.into_iter().map(|pattern| ("exclude", pattern)));
        self.send_archive("archives/compare/", &terms, archive).await
    }

    async fn usage(&self) -> Result<Usage, SessionError> {
        let view = self.client.measure_sandbox(self.id).await.map_err(ClientError::into_session_error)?;
        let view = view.ok_or(SessionError::Lost)?;
        Ok(Usage {
            cpu: view.cpu_seconds.and_then(|seconds| std::time::Duration::try_from_secs_f64(seconds).ok()),
            memory: view.memory_bytes.map(ByteSize::bytes),
            memory_peak: view.memory_peak_bytes.map(ByteSize::bytes),
            disk: view.disk_bytes.map(ByteSize::bytes),
            processes: view.processes,
        })
    }

    async fn egress_log(&self) -> Result<Vec<EgressEvent>, SessionError> {
        let view = self.client.show_egress(self.id, ALL_EVENTS).await.map_err(ClientError::into_session_error)?;
        Ok(view.events)
    }
}

impl RemoteSandbox {
    /// A process as it is now.
    async fn find(&self, name: impl std::fmt::Display) -> Result<ProcessView, SessionError> {
        let call = self.call(Method::GET, &format!("processes/{name}/"));
        answer(call).await.map_err(ClientError::into_session_error)
    }
}

const fn name_of(compression: Compression) -> &'static str {
    match compression {
        Compression::Zstd => "zstd",
        Compression::Gzip => "gzip",
        Compression::None => "none",
    }
}
