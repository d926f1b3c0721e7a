//! The Kubernetes driver: each sandbox is a pod, reached over the API server alone.
//!
//! An init container brings the guest; the pod's main container runs it. Exec, files and services go through one exec
//! of the guest's relay over a websocket, so neither a network path to the pod nor a program in its image is needed.

use std::time::Duration;

use astraforge_core::{
    BoxError,
    error::chain,
    id::SandboxId,
    ports::{
        guest_service::GuestStream,
        machines::{Usage, WorkspaceOrigin},
    },
    session::SandboxSpec,
};
use async_trait::async_trait;
use k8s_openapi::api::{core::v1::Pod, networking::v1::NetworkPolicy};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, PostParams, Preconditions},
};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::compat::TokioAsyncReadCompatExt;
use uuid::Uuid;

use self::{
    error::{ClusterError, backend, code},
    names::{pod_name, sandbox_of, selector},
    probe::Verdict,
    standing::Standing,
    wait::{Failure, until_gone, until_ready},
};
use crate::{
    driver::{Capabilities, DriverError, Enforcement, IsolationTier, SandboxDriver},
    guest::client::GuestClient,
};

mod client;
mod config;
mod error;
mod exec;
mod names;
mod pod;
mod policies;
mod probe;
mod standing;
mod wait;

pub use config::{GUEST_IMAGE, K8sConfig};
pub use kube::Config as ClusterConfig;

/// Tells one attempt to make a pod from another, when an answer of the API server was lost.
const ATTEMPT: &str = "astraforge.dev/attempt";
/// How long a guest may take to end all that runs.
const FAREWELL: Duration = Duration::from_secs(5);
/// How long a node may take to end a pod whose guest did not.
const REMOVAL: Duration = Duration::from_secs(60);
/// How long it waits before a pod is asked for anew that the server did not hear of.
const RETRY: Duration = Duration::from_millis(250);
/// How long a ready pod may refuse to run the relay.
const SHYNESS: Duration = Duration::from_secs(15);

/// Runs sandboxes as pods of a cluster.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use astraforge_core::{id::SandboxId, ports::sessions::Sessions, session::{Command, SandboxSpec}};
/// use astraforge_sandbox::{kubernetes::{K8sConfig, KubernetesDriver, find_cluster}, sandboxes::Sandboxes};
///
/// let config = K8sConfig::new(find_cluster().await?, "agents", "python:3.11-slim".parse()?);
/// let sandboxes = Sandboxes::new(Arc::new(KubernetesDriver::connect(config).await?));
/// let session = sandboxes.create(SandboxId::random(), SandboxSpec::default(), Vec::new()).await?;
/// let output = session.exec(Command::new(["python3", "-c", "print(6 * 7)"])).await?.collect(1024).await?;
/// assert_eq!(output.stdout, b"42\n");
/// sandboxes.destroy(session.id()).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct KubernetesDriver {
    config: K8sConfig,
    pods: Api<Pod>,
    policies: Api<NetworkPolicy>,
}

impl std::fmt::Debug for KubernetesDriver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KubernetesDriver").field("namespace", &self.config.namespace).finish_non_exhaustive()
    }
}

/// Finds the cluster as `kubectl` would: the one that this process runs in, else the current one of the kubeconfig.
///
/// # Errors
/// [`DriverError::Unsupported`] when there is neither.
pub async fn find_cluster() -> Result<ClusterConfig, DriverError> {
    match ClusterConfig::incluster_env() {
        Ok(config) => Ok(config),
        Err(_) => ClusterConfig::from_kubeconfig(&kube::config::KubeConfigOptions::default())
            .await
            .map_err(|error| unsupported(format!("{error}; run inside of a cluster, or set KUBECONFIG"))),
    }
}

impl KubernetesDriver {
    /// Prepares the driver: reaches the cluster, makes or verifies its network policies and tries them out, and removes
    /// pods that have ended.
    ///
    /// # Errors
    /// [`DriverError::Unsupported`] when the cluster can't be reached or used, or does not keep sandboxes off its
    /// network and the configuration does not accept that; the text says what would change it.
    pub async fn connect(config: K8sConfig) -> Result<Self, DriverError> {
        config.check()?;
        let client = client::client(&config.cluster, config.patience)
            .map_err(|error| unsupported(chain(&ClusterError::from(error))))?;
        let pods = Api::namespaced(client.clone(), &config.namespace);
        let policies = Api::namespaced(client, &config.namespace);
        let driver = Self { config, pods, policies };
        driver.sweep().await.map_err(|error| unsupported(chain(&error)))?;
        if driver.config.accept_unenforced_egress {
            tracing::warn!("sandboxes run whether or not the cluster keeps them off its network");
        } else {
            Box::pin(driver.keeps_policies()).await?;
        }
        Ok(driver)
    }

    /// Makes or verifies the network policies, and has pods try whether the cluster keeps them. Takes some seconds.
    ///
    /// # Errors
    /// [`DriverError::Unsupported`] when it does not, or when that cannot be told.
    pub async fn keeps_policies(&self) -> Result<(), DriverError> {
        policies::ensure(&self.policies, &self.config).await.map_err(|error| unsupported(chain(&error)))?;
        let verdict =
            Box::pin(probe::probe(&self.pods, &self.config)).await.map_err(|error| unsupported(chain(&error)))?;
        let what = match verdict {
            Verdict::Enforced => return Ok(()),
            Verdict::Unenforced => {
                "this cluster takes network policies and does not enforce them: a pod that may reach \
                                    nothing reached another pod"
                    .to_owned()
            }
            Verdict::Inconclusive(why) => {
                format!("whether this cluster enforces network policies cannot be told: {why}")
            }
        };
        Err(unsupported(format!(
            "{what}. Use a network plugin that enforces them, or accept it with --accept-unenforced-egress; then \
             nothing but the cluster's own rules keeps sandboxes off its network"
        )))
    }

    /// Removes pods that have ended. What they held is gone already: it ended with them.
    async fn sweep(&self) -> Result<(), ClusterError> {
        for pod in self.found().await? {
            if matches!(Standing::of(&pod), Standing::Ended(_))
                && let Err(error) = self.delete(&pod, 0).await
            {
                tracing::warn!(pod = pod.name_any(), error = &error as &dyn std::error::Error, "cannot remove a pod");
            }
        }
        Ok(())
    }

    async fn found(&self) -> Result<Vec<Pod>, ClusterError> {
        Ok(self.pods.list(&ListParams::default().labels(&selector(&self.config))).await?.items)
    }

    /// The pod of sandbox `id`, unless it is somebody else's.
    async fn find(&self, id: SandboxId) -> kube::Result<Option<Pod>> {
        let pod = self.pods.get_opt(&pod_name(id)).await?;
        Ok(pod.filter(|pod| sandbox_of(&self.config, &pod.metadata) == Some(id)))
    }

    /// Makes the pod, in the place of one that has ended.
    async fn place(&self, id: SandboxId, mut pod: Pod) -> Result<Pod, DriverError> {
        let attempt = Uuid::new_v4().to_string();
        pod.annotations_mut().insert(ATTEMPT.to_owned(), attempt.clone());
        let is_ours = |pod: &Pod| pod.annotations().get(ATTEMPT) == Some(&attempt);
        let deadline = Instant::now() + REMOVAL;
        let mut patience = None;
        loop {
            let error = match self.pods.create(&PostParams::default(), &pod).await {
                Ok(made) => return Ok(made),
                Err(error) => error,
            };
            let taken = code(&error) == Some(409);
            if !taken && code(&error).is_some_and(|code| code < 500) {
                return Err(backend("create", id, error));
            }
            // From the first time that the server is not reached: what came before may have taken long.
            let until = client::is_unreached(&error)
                .then(|| *patience.get_or_insert_with(|| Instant::now() + self.config.patience));
            // Taken, or nobody knows: an answer may have been lost on its way.
            match self.pods.get_opt(&pod_name(id)).await {
                Ok(Some(found)) if is_ours(&found) => return Ok(found),
                // It did not arrive, or will only now: then the next attempt finds it as its own.
                Ok(None) if until.is_some_and(|until| Instant::now() < until) => sleep(RETRY).await,
                Ok(Some(_) | None) | Err(_) if !taken => return Err(backend("create", id, error)),
                Ok(Some(found)) => Box::pin(self.clear(id, found)).await?,
                Ok(None) if Instant::now() < deadline => {}
                Ok(None) => return Err(backend("create", id, error)),
                Err(error) => return Err(backend("create", id, error)),
            }
        }
    }

    /// Removes a pod that has ended, or is about to; refuses to remove any other.
    async fn clear(&self, id: SandboxId, found: Pod) -> Result<(), DriverError> {
        let ours = sandbox_of(&self.config, &found.metadata) == Some(id);
        match Standing::of(&found) {
            Standing::Ended(_) | Standing::Hopeless(_) if ours => self.remove(id, found, 0).await,
            _ => Err(DriverError::AlreadyExists { id }),
        }
    }

    /// Deletes a pod and waits until it is gone.
    async fn remove(&self, id: SandboxId, pod: Pod, grace_seconds: u32) -> Result<(), DriverError> {
        let failed = |error: ClusterError| backend("remove", id, error);
        match self.delete(&pod, grace_seconds).await.map_err(failed)? {
            false => Ok(()),
            true => match until_gone(&self.pods, pod, REMOVAL).await {
                Ok(()) | Err(Failure::Gone) => Ok(()),
                Err(failure) => Err(failed(explain(failure, REMOVAL))),
            },
        }
    }

    /// Asks for this very pod's deletion; `false` when it is gone already.
    async fn delete(&self, pod: &Pod, grace_seconds: u32) -> Result<bool, ClusterError> {
        let preconditions = Preconditions { uid: pod.uid(), resource_version: None };
        let params = DeleteParams::background().grace_period(grace_seconds).preconditions(preconditions);
        match self.pods.delete(&pod.name_any(), &params).await {
            Ok(_) => Ok(true),
            // Gone, or another pod's by now.
            Err(error) if matches!(code(&error), Some(404 | 409 | 410)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Has the guest end all that runs; tells whether it did.
    async fn say_farewell(&self, id: SandboxId) -> bool {
        let name = pod_name(id);
        let end = async {
            let relay = exec::relay(&self.pods, &name).await.ok()?;
            let guest = GuestClient::connect(Box::pin(relay.compat()), Vec::new()).await.ok()?;
            guest.shutdown().await.ok()?;
            guest.lost().await;
            // It lets its hosts go first. Its container is over when nothing can be run in it.
            while exec::relay(&self.pods, &name).await.is_ok() {
                sleep(Duration::from_millis(50)).await;
            }
            Some(())
        };
        matches!(timeout(FAREWELL, end).await, Ok(Some(())))
    }
}

#[async_trait]
impl SandboxDriver for KubernetesDriver {
    fn name(&self) -> &'static str {
        "k8s"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            tier: if self.config.runtime_class.is_some() { IsolationTier::Kernel } else { IsolationTier::Container },
            memory: Enforcement::Hard,
            processes: Enforcement::Hard,
            cpu: Enforcement::Hard,
            disk: Enforcement::Soft,
            network: if self.config.accept_unenforced_egress { Enforcement::None } else { Enforcement::Hard },
            ..Capabilities::new(IsolationTier::Container)
        }
    }

    async fn create(
        &self,
        id: SandboxId,
        spec: &SandboxSpec,
        service_ports: &[u16],
    ) -> Result<WorkspaceOrigin, DriverError> {
        let pod = pod::pod(&self.config, id, spec, service_ports)?;
        let pod = Box::pin(self.place(id, pod)).await?;
        let ready = until_ready(&self.pods, pod.clone(), self.config.start_timeout, self.config.schedule_timeout).await;
        let failure = match ready {
            Ok(_) => return Ok(WorkspaceOrigin::Fresh),
            Err(failure) => failure,
        };
        if let Err(error) = self.remove(id, pod, 1).await {
            tracing::error!(sandbox.id = %id, error = &error as &dyn std::error::Error, "a pod is left over");
        }
        Err(backend("start", id, explain(failure, self.config.start_timeout)))
    }

    async fn connect(&self, id: SandboxId) -> Result<GuestStream, DriverError> {
        let deadline = Instant::now() + SHYNESS;
        loop {
            let failed = |error: kube::Error| backend("reach", id, error);
            let pod = self.find(id).await.map_err(failed)?.ok_or(DriverError::NotFound { id })?;
            match Standing::of(&pod) {
                Standing::Ready => {}
                Standing::Ended(_) => return Err(DriverError::NotFound { id }),
                _ => {
                    let (start, schedule) = (self.config.start_timeout, self.config.schedule_timeout);
                    until_ready(&self.pods, pod, start, schedule)
                        .await
                        .map_err(|failure| backend("reach", id, explain(failure, start)))?;
                }
            }
            match exec::relay(&self.pods, &pod_name(id)).await {
                Ok(relay) => return Ok(Box::pin(relay.compat())),
                Err(error) if matches!(code(&error), Some(401 | 403)) || Instant::now() >= deadline => {
                    return Err(failed(error));
                }
                // Its node does not know of it yet, or it has just ended; the next look tells.
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    }

    async fn usage(&self, id: SandboxId) -> Result<Usage, DriverError> {
        let pod = self.find(id).await.map_err(|error| backend("look for", id, error))?;
        match pod.as_ref().map(Standing::of) {
            None | Some(Standing::Ended(_)) => Err(DriverError::NotFound { id }),
            // Metrics of pods are an add-on of clusters, and minutes old.
            Some(_) => Ok(Usage::default()),
        }
    }

    async fn list(&self) -> Result<Vec<SandboxId>, DriverError> {
        let listed = |error: ClusterError| DriverError::Backend {
            operation: "list",
            id: SandboxId::from(Uuid::nil()),
            source: BoxError::from(error),
        };
        let pods = self.found().await.map_err(listed)?;
        let lives = |pod: &&Pod| !matches!(Standing::of(pod), Standing::Ended(_));
        Ok(pods.iter().filter(lives).filter_map(|pod| sandbox_of(&self.config, &pod.metadata)).collect())
    }

    async fn destroy(&self, id: SandboxId) -> Result<(), DriverError> {
        let Some(pod) = self.find(id).await.map_err(|error| backend("remove", id, error))? else { return Ok(()) };
        // A pod that is deleted without grace is gone from the cluster while its processes may still run. So the guest
        // ends them first, else the node confirms that it has.
        let over = match Standing::of(&pod) {
            Standing::Ready => self.say_farewell(id).await,
            Standing::Ended(_) => pod.metadata.deletion_timestamp.is_none(),
            _ => false,
        };
        self.remove(id, pod, if over { 0 } else { 1 }).await
    }
}

/// What was waited for in vain, as an error.
fn explain(failure: Failure, patience: Duration) -> ClusterError {
    match failure {
        Failure::Cluster(error) => error,
        Failure::Gone => ClusterError::new("somebody removed the pod"),
        Failure::Hopeless(why) => ClusterError::new(why),
        Failure::TooLong(what) => {
            ClusterError::new(format!("the pod was not there in time (at most {} s): {what}", patience.as_secs()))
        }
    }
}

fn unsupported(reason: String) -> DriverError {
    DriverError::Unsupported { what: "sandboxes on Kubernetes".to_owned(), reason }
}
