//! Whether a cluster keeps its network policies: tried, because one that does not keep them takes them all the same.
//!
//! Three pods: one listens; one that no policy is about must reach it; one that is labelled as a sandbox must not.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    api::core::v1::{Container, Pod, PodSecurityContext, PodSpec, ResourceRequirements},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use uuid::Uuid;

use super::{
    config::K8sConfig,
    error::ClusterError,
    names::{EGRESS, MANAGED_BY, NAME, PodEgress, TOOLCHAIN},
    pod::{container_security, hardened, quantities},
    wait::{Failure, until_ended, until_ready},
};
use crate::container::{AGENT, probe::PORT};

/// How long each pod may take to start and to end.
const PATIENCE: Duration = Duration::from_secs(90);

/// What the trial has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// What is forbidden does not get through.
    Enforced,
    /// It does.
    Unenforced,
    /// Not even what is allowed gets through, so nothing is known.
    Inconclusive(String),
}

/// Tries the policies out, and removes its pods again.
pub(super) async fn probe(pods: &Api<Pod>, config: &K8sConfig) -> Result<Verdict, ClusterError> {
    let trial = Trial { pods, config, id: Uuid::new_v4().simple().to_string() };
    let verdict = Box::pin(trial.run()).await;
    for role in [Role::Target, Role::Stranger, Role::Sandbox] {
        // One that never came to be is not there. One that cannot be removed ends by its own deadline, and lies there
        // until somebody, or the cluster, clears away what has ended; its name is never used again.
        let pod = trial.name(role);
        if let Err(error) = pods.delete(&pod, &DeleteParams::default().grace_period(0)).await {
            tracing::debug!(pod, error = &error as &dyn std::error::Error, "a probe pod is not removed");
        }
    }
    verdict
}

#[derive(Debug, Clone, Copy)]
enum Role {
    Target,
    Stranger,
    Sandbox,
}

struct Trial<'a> {
    pods: &'a Api<Pod>,
    config: &'a K8sConfig,
    id: String,
}

impl Trial<'_> {
    async fn run(&self) -> Result<Verdict, ClusterError> {
        let target = self.create(Role::Target, &["probe", "listen"]).await?;
        let target = until_ready(self.pods, target, PATIENCE, PATIENCE).await.map_err(failed)?;
        let address = target.status.and_then(|status| status.pod_ip).unwrap_or_default();
        let address = format!("{address}:{PORT}");
        let (stranger, sandbox) = futures::future::try_join(
            Box::pin(self.reaches(Role::Stranger, &address)),
            Box::pin(self.reaches(Role::Sandbox, &address)),
        )
        .await?;
        Ok(match (stranger, sandbox) {
            (_, true) => Verdict::Unenforced,
            (true, false) => Verdict::Enforced,
            (false, false) => Verdict::Inconclusive(format!("no pod reaches another one at {address}")),
        })
    }

    async fn reaches(&self, role: Role, address: &str) -> Result<bool, ClusterError> {
        let pod = self.create(role, &["probe", "reach", address]).await?;
        let pod = match until_ended(self.pods, pod, PATIENCE).await {
            Ok(pod) => pod,
            Err(failure) => return Err(failed(failure)),
        };
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        Ok(phase == Some("Succeeded"))
    }

    async fn create(&self, role: Role, arguments: &[&str]) -> Result<Pod, ClusterError> {
        Ok(self.pods.create(&PostParams::default(), &self.pod(role, arguments)).await?)
    }

    fn name(&self, role: Role) -> String {
        format!("astraforge-probe-{}-{role:?}", self.id).to_lowercase()
    }

    fn pod(&self, role: Role, arguments: &[&str]) -> Pod {
        let (name, value) = match role {
            Role::Sandbox => NAME,
            Role::Target | Role::Stranger => (NAME.0, "astraforge-probe"),
        };
        let labels = [(name, value), MANAGED_BY, (EGRESS, PodEgress::Off.label()), (TOOLCHAIN, "probe")];
        let command = [&["/astraforge-guest"], arguments].concat();
        let container = Container {
            name: "probe".to_owned(),
            image: Some(self.config.guest_image.clone()),
            image_pull_policy: Some("IfNotPresent".to_owned()),
            command: Some(command.into_iter().map(str::to_owned).collect()),
            resources: Some(ResourceRequirements {
                limits: Some(quantities([("cpu", "100m".to_owned()), ("memory", "64Mi".to_owned())])),
                requests: Some(quantities([("cpu", "10m".to_owned()), ("memory", "16Mi".to_owned())])),
                ..ResourceRequirements::default()
            }),
            security_context: Some(container_security()),
            ..Container::default()
        };
        let user = Some(i64::from(AGENT));
        Pod {
            metadata: ObjectMeta {
                name: Some(self.name(role)),
                labels: Some(
                    labels
                        .map(|(name, value)| (name.to_owned(), value.to_owned()))
                        .into_iter()
                        .collect::<BTreeMap<_, _>>(),
                ),
                ..ObjectMeta::default()
            },
            spec: Some(PodSpec {
                active_deadline_seconds: Some(300),
                containers: vec![container],
                security_context: Some(PodSecurityContext {
                    run_as_group: user,
                    run_as_user: user,
                    ..PodSecurityContext::default()
                }),
                ..hardened(self.config, PodEgress::Off)
            }),
            ..Pod::default()
        }
    }
}

fn failed(failure: Failure) -> ClusterError {
    let why = match failure {
        Failure::Cluster(error) => return error,
        Failure::Gone => "it was removed".to_owned(),
        Failure::Hopeless(why) | Failure::TooLong(why) => why,
    };
    ClusterError::new(format!("a pod that tries the network policies out did not run: {why}"))
}
