//! A sandbox driver of one's own: plain processes of this user, each with a guest daemon.
//!
//! It separates nothing, and says so: for programs that one would start anyway. What it shows is how little a driver
//! has to do. Commands, files, background processes and services are written once, above [`SandboxDriver::connect`].
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use astraforge_sandbox::sandboxes::Sandboxes;
//! use own_driver::ProcessDriver;
//!
//! let driver = ProcessDriver::new("/run/user/1000/own-driver", std::env::current_exe()?)?;
//! let sandboxes = Sandboxes::new(Arc::new(driver));
//! # Ok::<(), std::io::Error>(())
//! ```

use std::{
    collections::HashMap,
    fs, io,
    os::{
        fd::OwnedFd,
        unix::{net::UnixListener, process::CommandExt as _},
    },
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
};

use astraforge_core::{
    egress::GATEWAY_PORT,
    id::SandboxId,
    ports::{
        guest_service::GuestStream,
        machines::{Usage, WorkspaceOrigin},
    },
    session::{Limit, SandboxSpec, Strictness, Workspace},
};
use astraforge_sandbox::{
    driver::{Capabilities, DriverError, IsolationTier, SandboxDriver},
    guest::{GuestConfig, client::GuestClient, daemon},
};
use async_trait::async_trait;
use tokio::net::UnixStream;
use tokio_util::compat::TokioAsyncReadCompatExt as _;

/// Runs sandboxes as processes of this user, in a folder that holds a socket for each.
#[derive(Debug)]
pub struct ProcessDriver {
    folder: PathBuf,
    guest: PathBuf,
    children: Mutex<HashMap<SandboxId, Child>>,
}

impl ProcessDriver {
    /// A driver that keeps its sockets in `folder`, and starts `guest guest` for each sandbox; see [`serve`].
    pub fn new(folder: impl Into<PathBuf>, guest: impl Into<PathBuf>) -> io::Result<Self> {
        let folder = folder.into();
        fs::create_dir_all(&folder)?;
        Ok(Self { folder, guest: guest.into(), children: Mutex::default() })
    }

    fn socket(&self, id: SandboxId) -> PathBuf {
        self.folder.join(id.to_string())
    }

    fn start(&self, id: SandboxId, config: &GuestConfig) -> io::Result<()> {
        // The socket is what makes the id taken: of two who bind it one fails.
        let listener = UnixListener::bind(self.socket(id))?;
        let guest = Command::new(&self.guest)
            .arg("guest")
            .arg(serde_json::to_string(config)?)
            // What ends this process's terminal does not end the sandbox.
            .process_group(0)
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .stdout(Stdio::null())
            .spawn()?;
        self.children.lock().unwrap_or_else(PoisonError::into_inner).insert(id, guest);
        Ok(())
    }

    /// Waits for the end of a guest that was told to end.
    async fn buried(&self, id: SandboxId) -> io::Result<()> {
        let child = self.children.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        if let Some(mut child) = child {
            tokio::task::spawn_blocking(move || child.wait()).await.map_err(io::Error::other)??;
        }
        match fs::remove_file(self.socket(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// The other side: what the guest program does when it is started with `guest CONFIG`. It returns when the sandbox ends.
pub fn serve(config: &str) -> io::Result<()> {
    let listener = UnixListener::from(OwnedFd::from(std::os::fd::AsFd::as_fd(&io::stdin()).try_clone_to_owned()?));
    daemon::run(listener, serde_json::from_str(config)?)
}

#[async_trait]
impl SandboxDriver for ProcessDriver {
    fn name(&self) -> &'static str {
        "process"
    }

    fn capabilities(&self) -> Capabilities {
        // No limit holds, and nothing is separated. The suite skips what follows from that, aloud.
        Capabilities::new(IsolationTier::None)
    }

    async fn create(
        &self,
        id: SandboxId,
        spec: &SandboxSpec,
        service_ports: &[u16],
    ) -> Result<WorkspaceOrigin, DriverError> {
        refuse_what_cannot_be_given(spec)?;
        let config = GuestConfig {
            // All of them share this machine's network, where only one could have the usual port of the way out.
            service_ports: service_ports.iter().copied().filter(|port| *port != GATEWAY_PORT).collect(),
            env: spec.env.clone(),
            orphan_timeout: spec.orphan_timeout,
        };
        match self.start(id, &config) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(DriverError::AlreadyExists { id }),
            started => started.map_err(|error| backend("create", id, error))?,
        }
        // It has come to be once its guest answers.
        match GuestClient::connect(self.connect(id).await?, Vec::new()).await {
            Ok(_) => Ok(WorkspaceOrigin::Fresh),
            Err(error) => {
                self.destroy(id).await?;
                Err(DriverError::Backend { operation: "create", id, source: error.into() })
            }
        }
    }

    async fn connect(&self, id: SandboxId) -> Result<GuestStream, DriverError> {
        let stream = UnixStream::connect(self.socket(id)).await.map_err(|_| DriverError::NotFound { id })?;
        Ok(Box::pin(stream.compat()))
    }

    async fn usage(&self, _: SandboxId) -> Result<Usage, DriverError> {
        // From outside nothing can be told; the guest is asked for the rest.
        Ok(Usage::default())
    }

    async fn list(&self) -> Result<Vec<SandboxId>, DriverError> {
        let failed = |error: io::Error| DriverError::Unsupported {
            what: "listing sandboxes".to_owned(),
            reason: error.to_string(),
        };
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let Some(id) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            if self.connect(id).await.is_ok() {
                ids.push(id);
            }
        }
        Ok(ids)
    }

    async fn destroy(&self, id: SandboxId) -> Result<(), DriverError> {
        // Only the guest can end what was started in it: no name space holds it.
        if let Ok(stream) = self.connect(id).await
            && let Ok(guest) = GuestClient::connect(stream, Vec::new()).await
        {
            drop(guest.shutdown().await);
        }
        self.buried(id).await.map_err(|error| backend("destroy", id, error))
    }
}

/// Nothing weaker runs in the place of what was asked for. The default's number of processes and its workspace in memory
/// it has in name only: without them nobody could use it, and its capabilities say that no limit holds.
fn refuse_what_cannot_be_given(spec: &SandboxSpec) -> Result<(), DriverError> {
    let is_required = |strictness: Strictness| strictness == Strictness::Required;
    let limits = &spec.limits;
    let refused = if let Some(image) = &spec.image {
        format!("the image `{image}`")
    } else if !spec.folders.is_empty() {
        "a folder of the host at another place".to_owned()
    } else if is_required(limits.memory.strictness)
        || limits.cpu_millis.is_some_and(|it: Limit<_>| is_required(it.strictness))
        || matches!(spec.workspace, Workspace::Disk { size } if is_required(size.strictness))
    {
        "a limit that holds".to_owned()
    } else {
        return Ok(());
    };
    let reason = format!("for {refused} there would have to be more than plain processes of this user");
    Err(DriverError::Unsupported { what: refused, reason })
}

fn backend(operation: &'static str, id: SandboxId, source: io::Error) -> DriverError {
    DriverError::Backend { operation, id, source: source.into() }
}
