//! A live sandbox: what its driver and its guest do, as one.

use std::{sync::Arc, time::Duration};

use astraforge_core::{
    archive::{ArchiveSummary, CompareRequest, Comparison, PackRequest, UnpackRequest},
    egress::EgressEvent,
    files::{DownloadRequest, FileEvent, FileReply, FileRequest, UploadRequest, WatchRequest},
    id::SandboxId,
    ports::{
        machines::{ByteStream, Machine, Usage},
        sessions::{Execution, Session, SessionError},
    },
    process::{Process, ProcessName, ProcessTag},
    session::{Command, Signal},
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use tokio::time::timeout;

use super::{out_of_memory::Kills, session_error};
use crate::{driver::DynSandboxDriver, egress::Gateway, guest::client::GuestClient};

/// How long a guest may take to say what its sandbox uses.
const PATIENCE: Duration = Duration::from_secs(5);

/// A live sandbox.
#[derive(Debug)]
pub(super) struct SandboxSession {
    id: SandboxId,
    guest: GuestClient,
    driver: DynSandboxDriver,
    kills: Arc<Kills>,
    gateway: Gateway,
}

impl SandboxSession {
    pub(super) fn new(id: SandboxId, guest: GuestClient, driver: DynSandboxDriver, gateway: Gateway) -> Self {
        let kills = Arc::new(Kills::new(id, Arc::clone(&driver)));
        Self { id, guest, driver, kills, gateway }
    }

    /// Its way out.
    pub(super) fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// Tells whether the connection to the guest is gone.
    pub(super) fn is_lost(&self) -> bool {
        self.guest.is_lost()
    }
}

#[async_trait]
impl Session for SandboxSession {
    fn id(&self) -> SandboxId {
        self.id
    }

    async fn exec(&self, command: Command) -> Result<Execution, SessionError> {
        self.kills.watch(self.guest.exec(command)).await
    }

    async fn read_file(&self, path: &str, max_bytes: u64) -> Result<Bytes, SessionError> {
        self.guest.read_file(path, max_bytes).await
    }

    async fn write_file(&self, path: &str, contents: Bytes, mode: u32) -> Result<(), SessionError> {
        self.guest.write_file(path, contents, mode).await
    }
}

#[async_trait]
impl Machine for SandboxSession {
    async fn spawn(&self, command: Command, tag: Option<ProcessTag>) -> Result<Process, SessionError> {
        self.guest.spawn(command, tag).await
    }

    async fn processes(&self) -> Result<Vec<Process>, SessionError> {
        self.guest.processes().await
    }

    async fn attach(&self, process: ProcessName, from: u64) -> Result<Execution, SessionError> {
        self.kills.watch(self.guest.attach(process, from)).await
    }

    async fn signal(&self, process: ProcessName, signal: Signal) -> Result<(), SessionError> {
        self.guest.signal(process, signal).await
    }

    async fn file(&self, request: FileRequest) -> Result<FileReply, SessionError> {
        self.guest.file(request).await
    }

    async fn watch(
        &self,
        request: WatchRequest,
    ) -> Result<BoxStream<'static, Result<FileEvent, SessionError>>, SessionError> {
        self.guest.watch(request).await
    }

    async fn download(&self, request: DownloadRequest) -> Result<ByteStream, SessionError> {
        self.guest.download(request).await
    }

    async fn upload(&self, request: UploadRequest, contents: ByteStream) -> Result<u64, SessionError> {
        self.guest.upload(request, contents).await
    }

    async fn pack(&self, request: PackRequest) -> Result<ByteStream, SessionError> {
        self.guest.pack(request).await
    }

    async fn unpack(&self, request: UnpackRequest, archive: ByteStream) -> Result<ArchiveSummary, SessionError> {
        self.guest.unpack(request, archive).await
    }

    async fn compare(&self, request: CompareRequest, archive: ByteStream) -> Result<Comparison, SessionError> {
        self.guest.compare(request, archive).await
    }

    async fn usage(&self) -> Result<Usage, SessionError> {
        let told = self.driver.usage(self.id).await.map_err(session_error)?;
        if told.is_complete() {
            return Ok(told);
        }
        // From inside, what is in there could hold it up for good.
        match timeout(PATIENCE, self.guest.usage()).await {
            Ok(Ok(inside)) => Ok(told.or(inside)),
            Ok(Err(_)) | Err(_) => Ok(told),
        }
    }

    async fn egress_log(&self) -> Result<Vec<EgressEvent>, SessionError> {
        Ok(self.gateway.events())
    }
}
