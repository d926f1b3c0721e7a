//! What the Kubernetes driver is told.

use std::time::Duration;

use astraforge_core::{
    image::Image,
    session::{ByteSize, SandboxSpec},
};

use crate::driver::DriverError;

/// The image of the guest that belongs to this version.
pub const GUEST_IMAGE: &str = concat!("astraforge/guest:", env!("CARGO_PKG_VERSION"));

/// Where the Kubernetes driver makes its pods, and what they are.
///
/// ```
/// use astraforge_sandbox::kubernetes::K8sConfig;
///
/// let cluster = kube::Config::new("https://127.0.0.1:6443".parse()?);
/// let config = K8sConfig::new(cluster, "astraforge", "python:3.11-slim".parse()?).with_owner("server-1", "sessions");
/// assert_eq!(config.namespace, "astraforge");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct K8sConfig {
    /// How the API server is reached.
    pub cluster: kube::Config,
    /// The namespace of all pods.
    pub namespace: String,
    /// Whose pods these are. Servers with different owners in one namespace never touch each other's.
    pub owner: String,
    /// What they are for: one owner's pods of different scopes are kept apart too.
    pub scope: String,
    /// What sandboxes see as their system, unless they ask for something else.
    pub image: Image,
    /// The image with the guest program; by default [`GUEST_IMAGE`].
    pub guest_image: String,
    /// The service account of pods, for its image pull secrets and admission rules; its token is never mounted.
    pub service_account: Option<String>,
    /// The runtime class of pods, such as `gvisor` or `kata`.
    pub runtime_class: Option<String>,
    /// How long a pod may take to become ready; by default 180 s.
    pub start_timeout: Duration,
    /// How long a pod may wait for a node with room; by default 60 s. A cluster that adds nodes by itself needs more.
    pub schedule_timeout: Duration,
    /// For how long an API server that is not reached is asked again; by default 10 s. One that answers is taken at its
    /// word.
    pub patience: Duration,
    /// A pod reserves this fraction of its limits on processor and memory: by default a fourth.
    pub overcommit: u32,
    /// Whether pods of sandboxes with public egress reach the internet by the cluster's own network. They then need no
    /// gateway, and nothing they do is logged.
    pub direct_egress: bool,
    /// Whether sandboxes run although the cluster does not keep them off its network.
    pub accept_unenforced_egress: bool,
}

impl K8sConfig {
    /// Pods in `namespace` that show `image`.
    pub fn new(cluster: kube::Config, namespace: impl Into<String>, image: Image) -> Self {
        Self {
            cluster,
            namespace: namespace.into(),
            owner: "astraforge".to_owned(),
            scope: "sandboxes".to_owned(),
            image,
            guest_image: GUEST_IMAGE.to_owned(),
            service_account: None,
            runtime_class: None,
            start_timeout: Duration::from_secs(180),
            schedule_timeout: Duration::from_secs(60),
            patience: Duration::from_secs(10),
            overcommit: 4,
            direct_egress: false,
            accept_unenforced_egress: false,
        }
    }

    /// Sets whose pods these are, and what they are for.
    #[must_use]
    pub fn with_owner(mut self, owner: impl Into<String>, scope: impl Into<String>) -> Self {
        (self.owner, self.scope) = (owner.into(), scope.into());
        self
    }

    /// Sets the image with the guest program.
    #[must_use]
    pub fn with_guest_image(mut self, image: impl Into<String>) -> Self {
        self.guest_image = image.into();
        self
    }

    /// Sets the service account of pods.
    #[must_use]
    pub fn with_service_account(mut self, name: impl Into<String>) -> Self {
        self.service_account = Some(name.into());
        self
    }

    /// Sets the runtime class of pods.
    #[must_use]
    pub fn with_runtime_class(mut self, name: impl Into<String>) -> Self {
        self.runtime_class = Some(name.into());
        self
    }

    /// Sets how long a pod may take to become ready.
    #[must_use]
    pub fn with_start_timeout(mut self, timeout: Duration) -> Self {
        self.start_timeout = timeout;
        self
    }

    /// Sets how long a pod may wait for a node with room.
    #[must_use]
    pub fn with_schedule_timeout(mut self, timeout: Duration) -> Self {
        self.schedule_timeout = timeout;
        self
    }

    /// Sets for how long an API server that is not reached is asked again.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Lets pods of sandboxes with public egress reach the internet by the cluster's own network.
    #[must_use]
    pub fn with_direct_egress(mut self) -> Self {
        self.direct_egress = true;
        self
    }

    /// Runs sandboxes although the cluster does not keep them off its network.
    #[must_use]
    pub fn accepting_unenforced_egress(mut self) -> Self {
        self.accept_unenforced_egress = true;
        self
    }

    /// Checks what the cluster would refuse only later, and less clearly.
    ///
    /// # Errors
    /// [`DriverError::Unsupported`], which names the setting.
    pub(super) fn check(&self) -> Result<(), DriverError> {
        for (what, value) in [("owner", &self.owner), ("scope", &self.scope)] {
            let sound = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            let ends = |c: char| c.is_ascii_alphanumeric();
            if value.len() > 63 || !value.chars().all(sound) || !value.starts_with(ends) || !value.ends_with(ends) {
                return Err(DriverError::Unsupported {
                    what: format!("the {what} `{value}`"),
                    reason:
                        "a label of Kubernetes has 1 to 63 letters, digits, `-`, `_` and `.`, with a letter or digit \
                             at both ends"
                            .to_owned(),
                });
            }
        }
        Ok(())
    }

    /// What a pod reserves of a limit.
    pub(super) fn reserve(&self, limit: u64) -> u64 {
        limit / u64::from(self.overcommit.max(1))
    }
}

/// The size of the home folder, which is in memory like `/tmp`.
pub(super) fn home_size(spec: &SandboxSpec) -> ByteSize {
    spec.tmp_size
}
