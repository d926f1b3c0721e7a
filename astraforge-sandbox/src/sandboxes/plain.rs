//! A session on a sandbox without a guest: commands, whole files and archives, through the image's own `sh` and `tar`.

use std::sync::Arc;

use astraforge_core::{
    archive::{ArchiveSummary, CompareRequest, Comparison, PackRequest, UnpackRequest},
    egress::EgressEvent,
    files::{DownloadRequest, Existing, FileEvent, FileReply, FileRequest, Roots, UploadRequest, WatchRequest},
    id::SandboxId,
    ports::{
        machines::{ByteStream, Machine, Usage, read_whole},
        sessions::{Execution, Session, SessionError},
    },
    process::{Process, ProcessName, ProcessTag},
    session::{Command, Signal},
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream, stream::BoxStream};

use self::start::Starter;
use super::session_error;
use crate::driver::DynSandboxDriver;

mod archives;
mod exec;
mod files;
mod start;

/// A live sandbox without a guest.
#[derive(Debug)]
pub(super) struct PlainSession {
    id: SandboxId,
    driver: DynSandboxDriver,
    starter: Arc<Starter>,
}

impl PlainSession {
    /// The session of a sandbox that lives.
    pub(super) fn new(id: SandboxId, driver: DynSandboxDriver) -> Self {
        let starter = Arc::new(Starter::new(id, Arc::clone(&driver)));
        Self { id, driver, starter }
    }
}

#[async_trait]
impl Session for PlainSession {
    fn id(&self) -> SandboxId {
        self.id
    }

    async fn exec(&self, command: Command) -> Result<Execution, SessionError> {
        exec::start(&self.starter, command).await
    }

    async fn read_file(&self, path: &str, max_bytes: u64) -> Result<Bytes, SessionError> {
        let limit = Some(max_bytes.saturating_add(1));
        let request = DownloadRequest { roots: Roots::everywhere(), path: path.to_owned(), offset: 0, limit };
        read_whole(self.download(request).await?, path, max_bytes).await
    }

    async fn write_file(&self, path: &str, contents: Bytes, mode: u32) -> Result<(), SessionError> {
        let request =
            UploadRequest { roots: Roots::everywhere(), path: path.to_owned(), mode, existing: Existing::Replace };
        self.upload(request, stream::iter([Ok(contents)]).boxed()).await.map(drop)
    }
}

#[async_trait]
impl Machine for PlainSession {
    async fn spawn(&self, _: Command, _: Option<ProcessTag>) -> Result<Process, SessionError> {
        Err(needs_guest("a background process"))
    }

    async fn processes(&self) -> Result<Vec<Process>, SessionError> {
        Ok(Vec::new())
    }

    async fn attach(&self, process: ProcessName, _: u64) -> Result<Execution, SessionError> {
        Err(SessionError::NoSuchProcess { name: process })
    }

    async fn signal(&self, process: ProcessName, _: Signal) -> Result<(), SessionError> {
        Err(SessionError::NoSuchProcess { name: process })
    }

    async fn file(&self, request: FileRequest) -> Result<FileReply, SessionError> {
        files::verb(&self.starter, request).await
    }

    async fn watch(
        &self,
        _: WatchRequest,
    ) -> Result<BoxStream<'static, Result<FileEvent, SessionError>>, SessionError> {
        Err(needs_guest("watching files"))
    }

    async fn download(&self, request: DownloadRequest) -> Result<ByteStream, SessionError> {
        files::read(&self.starter, request).await
    }

    async fn upload(&self, request: UploadRequest, contents: ByteStream) -> Result<u64, SessionError> {
        files::write(&self.starter, request, contents).await
    }

    async fn pack(&self, request: PackRequest) -> Result<ByteStream, SessionError> {
        archives::pack(&self.starter, request).await
    }

    async fn unpack(&self, request: UnpackRequest, archive: ByteStream) -> Result<ArchiveSummary, SessionError> {
        archives::unpack(&self.starter, request, archive).await
    }

    async fn compare(&self, _: CompareRequest, _: ByteStream) -> Result<Comparison, SessionError> {
        Err(needs_guest("comparing files with a snapshot"))
    }

    async fn usage(&self) -> Result<Usage, SessionError> {
        self.driver.usage(self.id).await.map_err(session_error)
    }

    async fn egress_log(&self) -> Result<Vec<EgressEvent>, SessionError> {
        Ok(Vec::new())
    }
}

fn needs_guest(what: &str) -> SessionError {
    SessionError::Unsupported {
        what: what.to_owned(),
        reason: "the guest program cannot run in this sandbox, so programs are only started one at a time; give the \
                 driver a guest for the image's processor"
            .to_owned(),
    }
}

#[cfg(test)]
mod tests;
