//! A driver without isolation: the guest daemon as an ordinary child process.
//!
//! Never to be used outside tests. It lets the suite for drivers run where no sandbox can.
#![expect(clippy::unwrap_used, reason = "this is a part of tests")]

use std::{
    collections::HashMap,
    fs::File,
    os::{
        fd::OwnedFd,
        unix::{net::UnixListener, process::CommandExt},
    },
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use astraforge_core::{
    egress::GATEWAY_PORT,
    id::SandboxId,
    ports::{
        guest_service::GuestStream,
        machines::{Usage, WorkspaceOrigin},
    },
    session::{SandboxSpec, Strictness, Workspace},
};
use astraforge_sandbox::{
    driver::{Capabilities, DriverError, DynSandboxDriver, IsolationTier, SandboxDriver},
    driver_conformance,
    guest::{GuestConfig, client::GuestClient},
};
use async_trait::async_trait;
use tempfile::TempDir;
use tokio_util::compat::TokioAsyncReadCompatExt;

use super::guest_process;

#[derive(Debug)]
pub(crate) struct ProcessDriver {
    folder: TempDir,
    guests: Mutex<HashMap<SandboxId, Child>>,
}

impl ProcessDriver {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), guests: Mutex::default() }
    }

    pub(crate) fn start(&self, id: SandboxId, config: &GuestConfig) {
        let socket = self.folder.path().join(id.to_string());
        let listener = UnixListener::bind(&socket).unwrap();
        serde_json::to_writer(File::create(socket.with_extension("json")).unwrap(), config).unwrap();
        // Not by name: a build may have replaced the file meanwhile.
        let guest = Command::new("/proc/self/exe")
            .args(guest_process::ARGUMENTS)
            // It ends its children by their groups; one that was just forked is still in the daemon's own.
            .process_group(0)
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        self.guests.lock().unwrap().insert(id, guest);
    }

    /// Tells whether the daemon of `id` has ended by itself.
    pub(crate) fn has_ended(&self, id: SandboxId) -> bool {
        self.guests.lock().unwrap().get_mut(&id).unwrap().try_wait().unwrap().is_some()
    }
}

#[async_trait]
impl SandboxDriver for ProcessDriver {
    fn name(&self) -> &'static str {
        "process"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new(IsolationTier::None)
    }

    async fn create(
        &self,
        id: SandboxId,
        spec: &SandboxSpec,
        service_ports: &[u16],
    ) -> Result<WorkspaceOrigin, DriverError> {
        let refused = |what: &str, reason: String| Err(DriverError::Unsupported { what: what.to_owned(), reason });
        if let Some(image) = &spec.image {
            return refused("an image", image.to_string());
        }
        if matches!(spec.workspace, Workspace::Disk { size } if size.strictness == Strictness::Required) {
            return refused("a required limit", "nothing is limited".to_owned());
        }
        if self.guests.lock().unwrap().contains_key(&id) {
            return Err(DriverError::AlreadyExists { id });
        }
        let config = GuestConfig {
            // All of them share the host's network, where only one could have the usual port of the way out.
            service_ports: service_ports.iter().copied().filter(|port| *port != GATEWAY_PORT).collect(),
            env: spec.env.clone(),
            orphan_timeout: Duration::from_secs(20),
        };
        self.start(id, &config);
        let guest = GuestClient::connect(self.connect(id).await?, Vec::new()).await;
        guest.map(|_| WorkspaceOrigin::Fresh).map_err(|error| DriverError::Backend {
            operation: "create",
            id,
            source: error.into(),
        })
    }

    async fn connect(&self, id: SandboxId) -> Result<GuestStream, DriverError> {
        let socket = self.folder.path().join(id.to_string());
        let stream = tokio::net::UnixStream::connect(socket).await.map_err(|_| DriverError::NotFound { id })?;
        Ok(Box::pin(stream.compat()))
    }

    async fn usage(&self, _: SandboxId) -> Result<Usage, DriverError> {
        Ok(Usage::default())
    }

    async fn list(&self) -> Result<Vec<SandboxId>, DriverError> {
        Ok(self.guests.lock().unwrap().keys().copied().collect())
    }

    async fn destroy(&self, id: SandboxId) -> Result<(), DriverError> {
        // Only the daemon itself can end its descendants: no name space holds them.
        if let Ok(stream) = self.connect(id).await
            && let Ok(guest) = GuestClient::connect(stream, Vec::new()).await
        {
            drop(guest.shutdown().await);
        }
        let guest = self.guests.lock().unwrap().remove(&id);
        if let Some(mut guest) = guest {
            tokio::task::spawn_blocking(move || guest.wait()).await.unwrap().unwrap();
            std::fs::remove_file(self.folder.path().join(id.to_string())).unwrap();
        }
        Ok(())
    }
}

driver_conformance!(async { Arc::new(ProcessDriver::new()) as DynSandboxDriver });

mod machines {
    use astraforge_sandbox::sandboxes::Sandboxes;

    use super::*;

    astraforge_core::machines_conformance!(async {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().to_str().unwrap().to_owned();
        (home, Sandboxes::new(Arc::new(ProcessDriver::new())), folder)
    });
}
