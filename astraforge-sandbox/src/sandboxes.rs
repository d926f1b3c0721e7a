//! Sessions on any driver.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use astraforge_core::{
    BoxError,
    egress::{Egress, proxy_variables},
    id::SandboxId,
    ports::{
        guest_service::ServiceBinding,
        machines::{Machine, Machines, Made, WorkspaceOrigin},
        sessions::{Session, SessionError, Sessions},
    },
    session::SandboxSpec,
};
use async_trait::async_trait;
use tokio::{runtime::Handle, task::JoinHandle};

use self::{plain::PlainSession, session::SandboxSession};
use crate::{
    driver::{Access, Capabilities, DriverError, DynSandboxDriver, IsolationTier},
    egress::{EgressSettings, Gateway},
    guest::{HandshakeError, client::GuestClient},
};

mod out_of_memory;
mod plain;
mod session;
mod start;

/// Makes, finds and removes sandboxes on one driver; clones share them.
///
/// ```no_run
/// # async fn example(driver: astraforge_sandbox::driver::DynSandboxDriver) -> Result<(), Box<dyn std::error::Error>> {
/// use astraforge_core::{id::SandboxId, ports::sessions::Sessions, session::{Command, SandboxSpec}};
/// use astraforge_sandbox::sandboxes::Sandboxes;
///
/// let sandboxes = Sandboxes::new(driver);
/// let id = SandboxId::random();
/// let session = sandboxes.create(id, SandboxSpec::default(), Vec::new()).await?;
/// let output = session.exec(Command::shell("echo hello")).await?.collect(1 << 20).await?;
/// assert_eq!(output.stdout, b"hello\n");
/// sandboxes.destroy(id).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Sandboxes {
    driver: DynSandboxDriver,
    egress: EgressSettings,
    live: Arc<Mutex<HashMap<SandboxId, Arc<SandboxSession>>>>,
}

impl Sandboxes {
    /// Sandboxes on `driver`.
    #[must_use]
    pub fn new(driver: DynSandboxDriver) -> Self {
        Self { driver, egress: EgressSettings::default(), live: Arc::default() }
    }

    /// Replaces what holds for the ways out of all sandboxes.
    #[must_use]
    pub fn with_egress(mut self, settings: EgressSettings) -> Self {
        self.egress = settings;
        self
    }

    /// Returns what the driver can do on this machine.
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        self.driver.capabilities()
    }

    /// Returns the live session of sandbox `id`, if this value made or adopted it and reaches it through a guest.
    #[must_use]
    pub fn get(&self, id: SandboxId) -> Option<Arc<dyn Session>> {
        let session = self.session(id)?;
        Some(session)
    }

    /// Adopts sandbox `id`, which an earlier server left: its services are these from now on. It may reach nothing else
    /// until its egress is set.
    ///
    /// # Errors
    /// [`SessionError::Lost`] when there is no such sandbox, [`SessionError::Backend`] when its guest does not answer.
    pub async fn attach(&self, id: SandboxId, services: Vec<ServiceBinding>) -> Result<Arc<dyn Session>, SessionError> {
        self.check_ports(&services)?;
        Ok(self.open(id, services, self.gateway(id, Egress::Off)?).await?)
    }

    /// Connects to a sandbox: to its guest, or where it has none, and so no gateway, to its driver alone.
    async fn open(
        &self,
        id: SandboxId,
        mut services: Vec<ServiceBinding>,
        gateway: Option<Gateway>,
    ) -> Result<Arc<dyn Machine>, SessionError> {
        let Some(gateway) = gateway else {
            let lives = self.driver.list().await.map_err(session_error)?.contains(&id);
            return if lives {
                Ok(Arc::new(PlainSession::new(id, Arc::clone(&self.driver))))
            } else {
                Err(SessionError::Lost)
            };
        };
        let stream = self.driver.connect(id).await.map_err(session_error)?;
        services.push(ServiceBinding { port: self.egress.port(), service: Arc::new(gateway.clone()) });
        let guest = GuestClient::connect(stream, services).await.map_err(unanswered)?;
        let session = Arc::new(SandboxSession::new(id, guest, Arc::clone(&self.driver), gateway));
        self.lock().insert(id, Arc::clone(&session));
        Ok(session)
    }

    /// The way out of a sandbox. Every one with a guest has it, so that what may be reached can be changed while it runs;
    /// where a driver has no guests there is none, and an egress is refused.
    fn gateway(&self, id: SandboxId, egress: Egress) -> Result<Option<Gateway>, SessionError> {
        match self.driver.capabilities().access {
            Access::Guest => Ok(Some(Gateway::new(id, &self.egress, egress))),
            Access::PlainExec if egress == Egress::Off => Ok(None),
            Access::PlainExec => Err(no_way_out()),
        }
    }

    fn check_ports(&self, services: &[ServiceBinding]) -> Result<(), SessionError> {
        let port = self.egress.port();
        if services.iter().all(|binding| binding.port != port) {
            return Ok(());
        }
        let reason = "programs find the way out of their sandbox there; choose another port".to_owned();
        Err(SessionError::Unsupported { what: format!("a service at port {port}"), reason })
    }

    async fn provision(
        &self,
        id: SandboxId,
        mut spec: SandboxSpec,
        services: Vec<ServiceBinding>,
    ) -> Result<Provisioned, SessionError> {
        self.check_ports(&services)?;
        let gateway = self.gateway(id, spec.egress.clone())?;
        let mut ports: Vec<u16> = services.iter().map(|binding| binding.port).collect();
        if gateway.is_some() {
            ports.push(self.egress.port());
            point_to_proxy(&mut spec, self.egress.port());
        }
        let workspace = self.driver.create(id, &spec, &ports).await.map_err(session_error)?;
        match self.open(id, services, gateway).await {
            Ok(session) => Ok((session, workspace)),
            Err(error) => {
                // Files that an earlier sandbox left are not this creation's to remove.
                if workspace == WorkspaceOrigin::Fresh {
                    self.discard(id).await;
                }
                Err(error)
            }
        }
    }

    /// Removes a sandbox that nobody gets to see.
    async fn discard(&self, id: SandboxId) {
        if let Err(error) = self.destroy(id).await {
            tracing::error!(sandbox.id = %id, error = &error as &dyn std::error::Error, "a sandbox is left over");
        }
    }

    /// The session of sandbox `id`, whether or not its guest is still connected.
    fn session(&self, id: SandboxId) -> Option<Arc<SandboxSession>> {
        self.lock().get(&id).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<SandboxId, Arc<SandboxSession>>> {
        // No code panics while it holds the map, and a map is whole between any two of its calls.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Sessions for Sandboxes {
    /// Makes sandbox `id`; see [`Sessions::create`]. Must be called within a tokio runtime.
    ///
    /// # Cancel safety
    /// Dropping the future removes the sandbox again, in a task of its own.
    async fn create(
        &self,
        id: SandboxId,
        spec: SandboxSpec,
        services: Vec<ServiceBinding>,
    ) -> Result<Arc<dyn Session>, SessionError> {
        let maker = self.clone();
        let making = async move { maker.provision(id, spec, services).await };
        Ok(Creation::start(self, id, making).finish().await?.0)
    }

    async fn destroy(&self, id: SandboxId) -> Result<(), SessionError> {
        let session = self.lock().remove(&id);
        let result = self.driver.destroy(id).await.map_err(session_error);
        if let (Err(_), Some(session)) = (&result, session) {
            // It is still there: keep it in reach, unless somebody adopted it meanwhile.
            self.lock().entry(id).or_insert(session);
        }
        result
    }

    async fn list(&self) -> Result<Vec<SandboxId>, SessionError> {
        self.driver.list().await.map_err(session_error)
    }
}

#[async_trait]
impl Machines for Sandboxes {
    fn mode(&self) -> &'static str {
        self.driver.name()
    }

    /// # Cancel safety
    /// Dropping the future removes the sandbox again, in a task of its own.
    async fn make(&self, id: SandboxId, spec: SandboxSpec) -> Result<Made, SessionError> {
        let has_image = spec.image.is_some() || self.capabilities().tier != IsolationTier::T1;
        let maker = self.clone();
        let making = async move {
            let made = maker.provision(id, spec, Vec::new()).await?;
            if has_image {
                // Awaited, because whoever made it may end at once, as a command line does.
                start::program(&*made.0).await;
            }
            Ok(made)
        };
        let (machine, workspace) = Creation::start(self, id, making).finish().await?;
        Ok(Made { machine, workspace })
    }

    async fn find(&self, id: SandboxId, egress: Egress) -> Result<Arc<dyn Machine>, SessionError> {
        let gateway = match self.session(id) {
            Some(session) => {
                session.gateway().set(egress);
                if !session.is_lost() {
                    return Ok(session);
                }
                // What is remembered of its connections outlives the connection to the guest.
                Some(session.gateway().clone())
            }
            None => self.gateway(id, egress)?,
        };
        self.open(id, Vec::new(), gateway).await
    }

    fn known(&self, id: SandboxId) -> Option<Arc<dyn Machine>> {
        let known = self.session(id).filter(|session| !session.is_lost())?;
        Some(known)
    }

    fn known_egress(&self, id: SandboxId) -> Option<Egress> {
        Some(self.session(id)?.gateway().egress())
    }

    async fn remove(&self, id: SandboxId) -> Result<(), SessionError> {
        self.destroy(id).await
    }

    async fn ids(&self) -> Result<Vec<SandboxId>, SessionError> {
        self.list().await
    }

    async fn left(&self) -> Result<Vec<SandboxId>, SessionError> {
        self.driver.left().await.map_err(session_error)
    }
}

/// Sends the programs of a sandbox through the way out, unless its maker sends them elsewhere.
fn point_to_proxy(spec: &mut SandboxSpec, port: u16) {
    let own: Vec<String> = spec.env.keys().map(|name| name.to_ascii_lowercase()).collect();
    for (name, value) in proxy_variables(port) {
        if !own.contains(&name.to_ascii_lowercase()) {
            spec.env.insert(name.to_owned(), value);
        }
    }
}

fn no_way_out() -> SessionError {
    let reason =
        "it runs no guest in its sandboxes, through which they would be let out: ask for egress off".to_owned();
    SessionError::Unsupported { what: "that egress".to_owned(), reason }
}

/// A sandbox that was just made, and where its workspace comes from.
type Provisioned = (Arc<dyn Machine>, WorkspaceOrigin);

/// A sandbox in the making; dropped before it is finished, it is removed as soon as it is made.
struct Creation {
    sandboxes: Sandboxes,
    id: SandboxId,
    making: Option<JoinHandle<Result<Provisioned, SessionError>>>,
}

impl Creation {
    /// Begins in a task of its own: a driver is never stopped between two of its steps.
    fn start(
        sandboxes: &Sandboxes,
        id: SandboxId,
        making: impl Future<Output = Result<Provisioned, SessionError>> + Send + 'static,
    ) -> Self {
        Self { sandboxes: sandboxes.clone(), id, making: Some(tokio::spawn(making)) }
    }

    async fn finish(&mut self) -> Result<Provisioned, SessionError> {
        let Some(making) = &mut self.making else { return Err(SessionError::Lost) };
        let made = making.await;
        self.making = None;
        made.unwrap_or_else(|error| Err(SessionError::Backend { operation: "create", source: BoxError::from(error) }))
    }
}

impl Drop for Creation {
    fn drop(&mut self) {
        // Without a runtime the task is gone too, and the driver's own clean-up is all there is.
        if let (Some(making), Ok(runtime)) = (self.making.take(), Handle::try_current()) {
            let (sandboxes, id) = (self.sandboxes.clone(), self.id);
            runtime.spawn(async move {
                // One that failed left nothing, and may not even have been ours (`AlreadyExists`). One with files of an
                // earlier sandbox goes on: whoever wants those files finds it.
                if let Ok(Ok((_, WorkspaceOrigin::Fresh))) = making.await {
                    sandboxes.discard(id).await;
                }
            });
        }
    }
}

/// What a driver's failure means to a session's user.
fn session_error(error: DriverError) -> SessionError {
    match error {
        DriverError::NotFound { .. } => SessionError::Lost,
        DriverError::AlreadyExists { id } => SessionError::AlreadyExists { id },
        DriverError::Unsupported { what, reason } => SessionError::Unsupported { what, reason },
        DriverError::Backend { operation, source, .. } => SessionError::Backend { operation, source },
    }
}

fn unanswered(error: HandshakeError) -> SessionError {
    SessionError::Backend { operation: "reach the guest", source: BoxError::from(error) }
}
