//! How the objects of sandboxes are called, and by which labels they are found again.

use std::collections::BTreeMap;

use astraforge_core::id::SandboxId;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::config::K8sConfig;

/// The label of every pod that a sandbox runs in.
pub(super) const NAME: (&str, &str) = ("app.kubernetes.io/name", "astraforge-workspace");
/// The label of everything of ours.
pub(super) const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "astraforge");
/// The label that network policies select by; see [`policies`](super::policies).
pub(super) const EGRESS: &str = "astraforge.dev/egress";
/// What a pod is to its user.
pub(super) const TOOLCHAIN: &str = "astraforge.dev/toolchain";
const WORKSPACE: &str = "astraforge.dev/workspace";
const SANDBOX: &str = "astraforge.dev/sandbox";
const OWNER: &str = "astraforge.dev/owner";
const SCOPE: &str = "astraforge.dev/scope";

/// The name of a sandbox's pod, for its whole life and after every return.
pub(super) fn pod_name(id: SandboxId) -> String {
    format!("sandbox-{id}-sandbox")
}

/// The labels of a sandbox's pod.
pub(super) fn labels(config: &K8sConfig, id: SandboxId, egress: PodEgress) -> BTreeMap<String, String> {
    let own = [
        (WORKSPACE, pod_name(id)),
        (SANDBOX, id.to_string()),
        (OWNER, config.owner.clone()),
        (SCOPE, config.scope.clone()),
        (TOOLCHAIN, "sandbox".to_owned()),
        (EGRESS, egress.label().to_owned()),
    ];
    let fixed = [NAME, MANAGED_BY].map(|(name, value)| (name.to_owned(), value.to_owned()));
    own.map(|(name, value)| (name.to_owned(), value)).into_iter().chain(fixed).collect()
}

/// Finds the pods of one owner's sandboxes of one scope.
pub(super) fn selector(config: &K8sConfig) -> String {
    format!("{SANDBOX},{OWNER}={},{SCOPE}={}", config.owner, config.scope)
}

/// The sandbox that a pod of this owner and scope belongs to; `None` for any other pod.
pub(super) fn sandbox_of(config: &K8sConfig, metadata: &ObjectMeta) -> Option<SandboxId> {
    let label = |name: &str| metadata.labels.as_ref()?.get(name).map(String::as_str);
    let ours = label(OWNER) == Some(&config.owner) && label(SCOPE) == Some(&config.scope);
    ours.then(|| label(SANDBOX)?.parse().ok()).flatten()
}

/// What a pod's own network interface reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PodEgress {
    /// Nothing.
    Off,
    /// Public addresses.
    Internet,
}

impl PodEgress {
    /// The value of the label [`EGRESS`].
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Internet => "internet",
        }
    }
}
