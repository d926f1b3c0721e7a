//! Sandboxes: made, used and ended through a server.

use std::time::Duration;

use astraforge_core::{
    archive::Comparison,
    id::{ArtifactId, SandboxId, SnapshotId},
    ports::sessions::SessionError,
    session::ExecEvent,
};
use bytes::Bytes;
use futures::{StreamExt, TryStream, TryStreamExt, stream::BoxStream};
use http::{Method, header::CONTENT_TYPE};
use reqwest::{RequestBuilder, Response};
use serde::{Serialize, de::DeserializeOwned};

use super::{Client, ClientError, decode, read, remote, retry};
use crate::wire::sandbox::{
    ArtifactList, ArtifactView, ExportBody, HeartbeatView, LinkBody, LinkView, NewSession, NewSnapshotBody,
    RestoreBody, SessionPatch, SessionView, SnapshotList, SnapshotView, UsageView,
    egress::EgressView,
    exec::{ExecBody, ExecView},
    files::{
        EditBody, EditView, EntryList, EntryView, MakeDirBody, MatchList, MoveBody, PathList, RemoveBody, TextWindow,
        WriteView,
    },
    process::{NewProcess, ProcessView, SignalBody},
};

/// What lines are looked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GrepQuery {
    /// The text that is looked for.
    pub pattern: String,
    /// The file or folder; `/workspace` unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Only in files whose name matches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub glob: Option<String>,
    /// Whether the pattern is a regular expression.
    pub regex: bool,
    /// Whether the lines of each file are counted instead.
    pub counts: bool,
    /// At most so many lines or files; 10,000 unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Calls about sandboxes. What makes, wakes or uses one takes as long as that takes, without a limit of the client's own.
/// Dropping the future of a call ends a command that was waited for; other calls that have begun are seen through.
impl Client {
    /// Lists sandboxes, the newest first.
    ///
    /// # Errors
    /// Those of [`ClientError`], as with every method; [`ClientError::code`] tells kinds apart.
    pub async fn sandboxes(&self) -> Result<Vec<SessionView>, ClientError> {
        self.get("api/sandbox/sessions/").await
    }

    /// Makes a sandbox, or finds the one of that id; it is ready then.
    pub async fn create_sandbox(&self, new: &NewSession) -> Result<SessionView, ClientError> {
        self.patiently(Method::POST, "api/sandbox/sessions/", new).await
    }

    /// Shows a sandbox. It is not woken for that.
    pub async fn sandbox(&self, id: SandboxId) -> Result<SessionView, ClientError> {
        self.get(&path(id, "")).await
    }

    /// Changes what a sandbox may reach.
    pub async fn change_sandbox(&self, id: SandboxId, patch: &SessionPatch) -> Result<SessionView, ClientError> {
        self.patiently(Method::PATCH, &path(id, ""), patch).await
    }

    /// Deletes a sandbox for good.
    pub async fn delete_sandbox(&self, id: SandboxId) -> Result<(), ClientError> {
        done(self.open_ended_call(Method::DELETE, &path(id, ""))).await
    }

    /// Stops a sandbox; it comes back with its files when it is used.
    pub async fn stop_sandbox(&self, id: SandboxId) -> Result<(), ClientError> {
        done(self.open_ended_call(Method::POST, &path(id, "stop/"))).await
    }

    /// Says that somebody is there.
    pub async fn note_heartbeat(&self, id: SandboxId) -> Result<HeartbeatView, ClientError> {
        self.send(Method::POST, &path(id, "heartbeat/"), &()).await
    }

    /// Makes a new sandbox with the files that this one has now.
    pub async fn fork_sandbox(&self, id: SandboxId) -> Result<SessionView, ClientError> {
        self.patiently(Method::POST, &path(id, "fork/"), &()).await
    }

    /// Measures what a sandbox uses; `None` while it has no machine.
    pub async fn measure_sandbox(&self, id: SandboxId) -> Result<Option<UsageView>, ClientError> {
        self.get(&path(id, "usage/")).await
    }

    /// Runs a command and waits for its end.
    ///
    /// # Cancel safety
    /// Dropping the future ends the command, with all it started.
    pub async fn exec(&self, id: SandboxId, command: &ExecBody) -> Result<ExecView, ClientError> {
        answer(self.open_ended_call(Method::POST, &path(id, "exec/")).json(command)).await
    }

    /// Writes a file from bytes as they come: whole, or not at all. The answer says why it could not be written.
    pub async fn upload_file<S>(&self, id: SandboxId, file: &str, contents: S) -> Result<WriteView, ClientError>
    where
        S: TryStream<Ok = Bytes, Error: Into<astraforge_core::BoxError>> + Send + 'static,
    {
        let call = self.open_ended_call(Method::POST, &path(id, "files/upload/")).query(&[("path", file)]);
        let call = call.header(CONTENT_TYPE, "application/octet-stream").body(reqwest::Body::wrap_stream(contents));
        answer(call).await
    }

    /// Writes a file that is in memory.
    pub async fn write_file(
        &self,
        id: SandboxId,
        file: &str,
        contents: impl Into<Bytes>,
    ) -> Result<WriteView, ClientError> {
        let contents = futures::stream::iter([Ok::<_, std::convert::Infallible>(contents.into())]);
        self.upload_file(id, file, contents).await
    }

    /// Reads a file as a stream.
    pub async fn download_file(
        &self,
        id: SandboxId,
        file: &str,
    ) -> Result<BoxStream<'static, Result<Bytes, ClientError>>, ClientError> {
        let call = self.open_ended_call(Method::GET, &path(id, "files/content/")).query(&[("path", file)]);
        let bytes = succeeded(call).await?.bytes_stream();
        Ok(bytes.map_err(ClientError::transport("read the answer of")).boxed())
    }

    /// Reads a file into memory.
    pub async fn read_file(&self, id: SandboxId, file: &str) -> Result<Bytes, ClientError> {
        let pieces: Vec<Bytes> = self.download_file(id, file).await?.try_collect().await?;
        Ok(pieces.concat().into())
    }

    /// Describes what is at a path, without following a link there.
    pub async fn stat_file(&self, id: SandboxId, file: &str) -> Result<EntryView, ClientError> {
        self.ask(id, "files/stat/", &[("path", file)]).await
    }

    /// Lists a folder and so many levels below it.
    pub async fn list_files(&self, id: SandboxId, folder: &str, depth: u32) -> Result<EntryList, ClientError> {
        self.ask(id, "files/list/", &[("path", folder), ("depth", &depth.to_string())]).await
    }

    /// Reads lines of a text file.
    pub async fn read_text(
        &self,
        id: SandboxId,
        file: &str,
        offset: u64,
        limit: u64,
    ) -> Result<TextWindow, ClientError> {
        let (offset, limit) = (offset.to_string(), limit.to_string());
        self.ask(id, "files/text/", &[("path", file), ("offset", &offset), ("limit", &limit)]).await
    }

    /// Finds regular files by name.
    pub async fn glob_files(&self, id: SandboxId, pattern: &str, folder: &str) -> Result<PathList, ClientError> {
        self.ask(id, "files/glob/", &[("pattern", pattern), ("path", folder)]).await
    }

    /// Finds lines by content.
    pub async fn grep_files(&self, id: SandboxId, query: &GrepQuery) -> Result<MatchList, ClientError> {
        self.ask(id, "files/grep/", query).await
    }

    /// Replaces text in a file.
    pub async fn edit_file(&self, id: SandboxId, edit: &EditBody) -> Result<EditView, ClientError> {
        self.patiently(Method::POST, &path(id, "files/edit/"), edit).await
    }

    /// Makes a folder, and those above it.
    pub async fn make_dir(&self, id: SandboxId, folder: &str) -> Result<(), ClientError> {
        let body = MakeDirBody { path: folder.to_owned() };
        done(self.open_ended_call(Method::POST, &path(id, "files/make-dir/")).json(&body)).await
    }

    /// Moves a file or folder.
    pub async fn move_file(&self, id: SandboxId, body: &MoveBody) -> Result<(), ClientError> {
        done(self.open_ended_call(Method::POST, &path(id, "files/move/")).json(body)).await
    }

    /// Removes a file or folder.
    pub async fn remove_file(&self, id: SandboxId, body: &RemoveBody) -> Result<(), ClientError> {
        done(self.open_ended_call(Method::POST, &path(id, "files/remove/")).json(body)).await
    }

    /// Keeps the files of a sandbox.
    pub async fn take_snapshot(&self, id: SandboxId, new: &NewSnapshotBody) -> Result<SnapshotView, ClientError> {
        self.patiently(Method::POST, &path(id, "snapshots/"), new).await
    }

    /// Lists the snapshots of a sandbox, the newest first.
    pub async fn snapshots(&self, id: SandboxId) -> Result<SnapshotList, ClientError> {
        self.get(&path(id, "snapshots/")).await
    }

    /// Replaces the files of a sandbox by those of a snapshot.
    pub async fn restore_snapshot(&self, id: SandboxId, snapshot_id: SnapshotId) -> Result<(), ClientError> {
        done(self.open_ended_call(Method::POST, &path(id, "restore/")).json(&RestoreBody { snapshot_id })).await
    }

    /// Tells how the files of a sandbox differ from a snapshot.
    pub async fn diff_snapshot(&self, id: SandboxId, snapshot: SnapshotId) -> Result<Comparison, ClientError> {
        answer(self.open_ended_call(Method::GET, &path(id, &format!("snapshots/{snapshot}/diff/")))).await
    }

    /// Takes a file out of a sandbox, to be kept when the sandbox is gone.
    pub async fn export_file(&self, id: SandboxId, export: &ExportBody) -> Result<ArtifactView, ClientError> {
        self.patiently(Method::POST, &path(id, "files/export/"), export).await
    }

    /// Lists the files that were taken out of a sandbox, the newest first.
    pub async fn artifacts(&self, id: SandboxId) -> Result<ArtifactList, ClientError> {
        self.get(&path(id, "artifacts/")).await
    }

    /// Reads a file that was taken out of a sandbox, as a stream.
    pub async fn read_artifact(
        &self,
        artifact: ArtifactId,
    ) -> Result<BoxStream<'static, Result<Bytes, ClientError>>, ClientError> {
        let call = self.open_ended_call(Method::GET, &format!("api/sandbox/artifacts/{artifact}/content/"));
        Ok(succeeded(call).await?.bytes_stream().map_err(ClientError::transport("read the answer of")).boxed())
    }

    /// Makes a link with which anybody can download a file that was taken out, for so many seconds.
    pub async fn link_artifact(&self, artifact: ArtifactId, seconds: u32) -> Result<LinkView, ClientError> {
        let path = format!("api/sandbox/artifacts/{artifact}/link/");
        self.send(Method::POST, &path, &LinkBody { expires_sec: seconds }).await
    }

    /// Replaces the files of a sandbox by those of an archive from elsewhere, compressed with zstd or gzip.
    pub async fn restore_archive<S>(&self, id: SandboxId, archive: S) -> Result<(), ClientError>
    where
        S: TryStream<Ok = Bytes, Error: Into<astraforge_core::BoxError>> + Send + 'static,
    {
        let call = self.open_ended_call(Method::POST, &path(id, "restore/archive/"));
        done(call.header(CONTENT_TYPE, "application/octet-stream").body(reqwest::Body::wrap_stream(archive))).await
    }

    /// Shows what a sandbox may reach, and at most so many of the last connections that it tried to make.
    pub async fn show_egress(&self, id: SandboxId, last: usize) -> Result<EgressView, ClientError> {
        self.ask(id, "egress/", &[("last", last)]).await
    }

    /// Takes a picture of a sandbox's screen, as PNG.
    pub async fn take_screenshot(&self, id: SandboxId) -> Result<Bytes, ClientError> {
        let response = succeeded(self.open_ended_call(Method::GET, &path(id, "screenshot/"))).await?;
        response.bytes().await.map_err(ClientError::transport("read the answer of"))
    }

    /// Starts a command that goes on when nobody watches.
    pub async fn start_process(&self, id: SandboxId, new: &NewProcess) -> Result<ProcessView, ClientError> {
        self.patiently(Method::POST, &path(id, "processes/"), new).await
    }

    /// Lists the commands that were started so, the oldest first.
    pub async fn processes(&self, id: SandboxId) -> Result<Vec<ProcessView>, ClientError> {
        self.get(&path(id, "processes/")).await
    }

    /// Follows what a command that goes on writes, from byte `from` on, to its end. When the connection breaks it is made
    /// again, and nothing is lost or doubled. Dropping the stream leaves the command alone.
    pub async fn follow_process(
        &self,
        id: SandboxId,
        process: &str,
        from: u64,
    ) -> Result<BoxStream<'static, Result<ExecEvent, SessionError>>, ClientError> {
        let view = self.ask(id, &format!("processes/{process}/"), &()).await?;
        Ok(remote::follow(self, id, &view, from))
    }

    /// Sends a signal, `interrupt`, `terminate` or `kill`, to a command by its id or tag.
    pub async fn signal_process(&self, id: SandboxId, process: &str, signal: &str) -> Result<(), ClientError> {
        let body = SignalBody { signal: signal.to_owned() };
        done(self.open_ended_call(Method::POST, &path(id, &format!("processes/{process}/signal/"))).json(&body)).await
    }

    /// Writes to the input of a command that was started with it open, and ends it with `close`.
    pub async fn write_input(
        &self,
        id: SandboxId,
        process: &str,
        bytes: impl Into<Bytes>,
        close: bool,
    ) -> Result<(), ClientError> {
        let call = self.open_ended_call(Method::POST, &path(id, &format!("processes/{process}/input/")));
        let call = call.query(&[("close", close)]).header(CONTENT_TYPE, "application/octet-stream");
        done(call.body(reqwest::Body::from(bytes.into()))).await
    }

    /// Sends a call that takes as long as it takes.
    async fn patiently<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<T, ClientError> {
        decode(&once(self.open_ended_call(method, path).json(body)).await?)
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        id: SandboxId,
        rest: &str,
        query: &(impl Serialize + Sync + ?Sized),
    ) -> Result<T, ClientError> {
        answer(self.open_ended_call(Method::GET, &path(id, rest)).query(query)).await
    }
}

pub(super) fn path(id: SandboxId, rest: &str) -> String {
    format!("api/sandbox/sessions/{id}/{rest}")
}

pub(super) async fn succeeded(call: RequestBuilder) -> Result<Response, ClientError> {
    let response = call.send().await.map_err(ClientError::transport("reach"))?;
    if response.status().is_success() { Ok(response) } else { Err(ClientError::refused(response).await) }
}

pub(super) async fn answer<T: DeserializeOwned>(call: RequestBuilder) -> Result<T, ClientError> {
    read(succeeded(call).await?).await
}

pub(super) async fn done(call: RequestBuilder) -> Result<(), ClientError> {
    once(call).await.map(drop)
}

/// Sends a call that changes something; it takes as long as it takes.
async fn once(call: RequestBuilder) -> Result<Bytes, ClientError> {
    retry::once(call, Duration::MAX).await
}
