//! From what a sandbox is asked to be to its pod. Pure.

use std::collections::BTreeMap;

use astraforge_core::{
    egress::Egress,
    id::SandboxId,
    image::Image,
    session::{ByteSize, SandboxSpec, Strictness, Workspace},
};
use k8s_openapi::{
    api::core::v1::{
        Capabilities, Container, EmptyDirVolumeSource, EnvVar, Pod, PodDNSConfig, PodSecurityContext, PodSpec,
        ResourceRequirements, SeccompProfile, SecurityContext, Volume, VolumeMount,
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};

use super::{
    config::{K8sConfig, home_size},
    names::{PodEgress, labels, pod_name},
};
use crate::{
    container::{AGENT, CONFIG_VARIABLE, ContainerConfig, GUEST, GUEST_FOLDER, HOME, WORKSPACE},
    driver::{DriverError, room_for_files},
};

/// The container that the sandbox runs in.
pub(super) const CONTAINER: &str = "codex";
/// The container that brings the guest.
pub(super) const INSTALLER: &str = "guest";
/// Where the container that brings the guest sees the volumes.
const VOLUMES: &str = "/volumes";
/// The folder of a volume that belongs to the sandbox's user.
const OWN: &str = "own";
/// What the containers use besides the workspace's files: the guest's copy, logs.
const OVERHEAD: ByteSize = ByteSize::mib(256);
/// Users of their own for sandboxes begin here; so many follow. See [`user`].
const FIRST_USER: u128 = 1 << 20;
const N_USERS: u128 = 1 << 30;

/// Decides all about a sandbox's pod, or refuses it.
pub(super) fn pod(
    config: &K8sConfig,
    id: SandboxId,
    spec: &SandboxSpec,
    service_ports: &[u16],
) -> Result<Pod, DriverError> {
    let egress = egress(config, spec);
    let guest = guest_settings(spec, service_ports)?;
    let main = Container {
        name: CONTAINER.to_owned(),
        image: Some(image(config, spec)?),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: Some(vec![GUEST.to_owned(), "serve".to_owned()]),
        env: Some(vec![EnvVar { name: CONFIG_VARIABLE.to_owned(), value: Some(guest), ..EnvVar::default() }]),
        working_dir: Some("/".to_owned()),
        resources: Some(resources(config, spec)),
        security_context: Some(container_security()),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(vec![
            within("workspace", WORKSPACE),
            within("tmp", "/tmp"),
            within("home", HOME),
            VolumeMount { read_only: Some(true), ..mount("guest", GUEST_FOLDER) },
        ]),
        ..Container::default()
    };
    Ok(Pod {
        metadata: ObjectMeta {
            name: Some(pod_name(id)),
            namespace: Some(config.namespace.clone()),
            labels: Some(labels(config, id, egress)),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            init_containers: Some(vec![installer(config)]),
            containers: vec![main],
            volumes: Some(volumes(spec)?),
            security_context: Some(pod_security(id)),
            runtime_class_name: config.runtime_class.clone(),
            ..hardened(config, egress)
        }),
        ..Pod::default()
    })
}

/// What every pod of ours has: no token, no restart, no host, no names of other services.
pub(super) fn hardened(config: &K8sConfig, egress: PodEgress) -> PodSpec {
    // Without a way out there is nobody to ask for names; the cluster's own server must not be a way.
    let no_names = PodDNSConfig { nameservers: Some(vec!["127.0.0.1".to_owned()]), ..PodDNSConfig::default() };
    let (dns_policy, dns_config) = match egress {
        PodEgress::Off => ("None", Some(no_names)),
        PodEgress::Internet => ("ClusterFirst", None),
    };
    PodSpec {
        automount_service_account_token: Some(false),
        dns_config,
        dns_policy: Some(dns_policy.to_owned()),
        enable_service_links: Some(false),
        restart_policy: Some("Never".to_owned()),
        service_account_name: config.service_account.clone(),
        termination_grace_period_seconds: Some(0),
        ..PodSpec::default()
    }
}

/// The security settings of every container of ours.
pub(super) fn container_security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), ..Capabilities::default() }),
        privileged: Some(false),
        read_only_root_filesystem: Some(true),
        run_as_non_root: Some(true),
        seccomp_profile: Some(runtime_default()),
        ..SecurityContext::default()
    }
}

/// The security settings of a sandbox's pod.
pub(super) fn pod_security(id: SandboxId) -> PodSecurityContext {
    PodSecurityContext {
        fs_group: Some(i64::from(AGENT)),
        run_as_group: Some(i64::from(AGENT)),
        run_as_non_root: Some(true),
        run_as_user: Some(user(id)),
        seccomp_profile: Some(runtime_default()),
        ..PodSecurityContext::default()
    }
}

/// A user of the sandbox's own: the kernel counts processes by user on the whole node, and so keeps the limit that
/// Kubernetes has no field for. Two sandboxes also stay strangers to each other should anything else fail.
fn user(id: SandboxId) -> i64 {
    i64::try_from(FIRST_USER + id.as_uuid().as_u128() % N_USERS).unwrap_or(i64::from(AGENT))
}

fn runtime_default() -> SeccompProfile {
    SeccompProfile { type_: "RuntimeDefault".to_owned(), ..SeccompProfile::default() }
}

fn egress(config: &K8sConfig, spec: &SandboxSpec) -> PodEgress {
    if config.direct_egress && spec.egress == Egress::Public { PodEgress::Internet } else { PodEgress::Off }
}

fn image(config: &K8sConfig, spec: &SandboxSpec) -> Result<String, DriverError> {
    let image: &Image = spec.image.as_ref().unwrap_or(&config.image);
    if image.as_path().is_some() {
        let reason = format!(
            "{image} is a path, and nodes pull images by name: put it into a registry that they reach, or load it onto \
             them"
        );
        return Err(refused("that image".to_owned(), &reason));
    }
    Ok(image.to_string())
}

/// The settings of the guest, so that the kubelet leaves every `$` in them alone.
fn guest_settings(spec: &SandboxSpec, service_ports: &[u16]) -> Result<String, DriverError> {
    let settings = ContainerConfig::new(spec, service_ports).with_processes(spec.limits.processes.max);
    let settings = settings.to_variable().map_err(|error| refused("those settings".to_owned(), &error.to_string()))?;
    Ok(settings.replace('$', "$$"))
}

/// The container that copies the guest to where the main one finds it, and makes the sandbox's user the owner of the
/// folders that it works in: git, for one, refuses a repository in somebody else's.
fn installer(config: &K8sConfig) -> Container {
    let owned = ["workspace", "tmp", "home"].map(|name| (name, format!("{VOLUMES}/{name}")));
    let folders = owned.iter().map(|(_, path)| format!("{path}/{OWN}"));
    let program = ["/astraforge-guest", "install"].map(str::to_owned).into_iter();
    let command = program.chain([format!("{VOLUMES}/guest/astraforge-guest")]).chain(folders).collect();
    let guest = mount("guest", &format!("{VOLUMES}/guest"));
    let mounts = owned.iter().map(|(name, path)| mount(name, path)).chain([guest]).collect();
    let limits = quantities([("cpu", "1".to_owned()), ("memory", "64Mi".to_owned())]);
    let requests = quantities([("cpu", "50m".to_owned()), ("memory", "16Mi".to_owned())]);
    Container {
        name: INSTALLER.to_owned(),
        image: Some(config.guest_image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: Some(command),
        resources: Some(ResourceRequirements {
            limits: Some(limits),
            requests: Some(requests),
            ..ResourceRequirements::default()
        }),
        security_context: Some(container_security()),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(mounts),
        ..Container::default()
    }
}

fn resources(config: &K8sConfig, spec: &SandboxSpec) -> ResourceRequirements {
    let memory = spec.limits.memory.max;
    let storage = OVERHEAD.as_bytes() + on_disk(spec);
    let mut limits = vec![("memory", memory.to_string()), ("ephemeral-storage", storage.to_string())];
    let mut requests = vec![
        ("memory", config.reserve(memory.as_bytes()).to_string()),
        ("ephemeral-storage", config.reserve(storage).to_string()),
    ];
    if let Some(cpu) = &spec.limits.cpu_millis {
        limits.push(("cpu", format!("{}m", cpu.max)));
        requests.push(("cpu", format!("{}m", config.reserve(u64::from(cpu.max)).max(1))));
    } else {
        requests.push(("cpu", "100m".to_owned()));
    }
    ResourceRequirements {
        limits: Some(quantities(limits)),
        requests: Some(quantities(requests)),
        ..ResourceRequirements::default()
    }
}

/// Bytes of the workspace on the node's disk.
fn on_disk(spec: &SandboxSpec) -> u64 {
    match spec.workspace {
        Workspace::Disk { size } => size.max.as_bytes(),
        Workspace::Tmpfs { .. } => 0,
    }
}

fn volumes(spec: &SandboxSpec) -> Result<Vec<Volume>, DriverError> {
    if !spec.folders.is_empty() {
        return Err(refused(
            "folders of the host".to_owned(),
            "a pod may run on any node; put the files into the image",
        ));
    }
    let room = ByteSize::bytes(room_for_files(spec.limits.memory.max));
    let in_memory = |name, size: ByteSize| empty_dir(name, Some("Memory".to_owned()), Some(size.min(room)));
    let workspace = match spec.workspace {
        Workspace::Tmpfs { size } => in_memory("workspace", size),
        Workspace::Disk { size } if size.strictness == Strictness::Required => {
            return Err(refused(
                "a hard limit on a workspace on disk".to_owned(),
                "a kubelet measures files now and then and removes the whole pod, with its files, when they are too \
                 large; ask for the limit as best effort, or for a workspace in memory",
            ));
        }
        Workspace::Disk { size } => empty_dir("workspace", None, Some(size.max)),
    };
    let guest = empty_dir("guest", None, Some(ByteSize::mib(128)));
    Ok(vec![workspace, in_memory("tmp", spec.tmp_size), in_memory("home", home_size(spec)), guest])
}

fn empty_dir(name: &str, medium: Option<String>, size: Option<ByteSize>) -> Volume {
    Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource { medium, size_limit: size.map(|size| Quantity(size.to_string())) }),
        ..Volume::default()
    }
}

/// A volume as a whole.
fn mount(name: &str, path: &str) -> VolumeMount {
    VolumeMount { name: name.to_owned(), mount_path: path.to_owned(), ..VolumeMount::default() }
}

/// The folder of a volume that belongs to the sandbox's user.
fn within(name: &str, path: &str) -> VolumeMount {
    VolumeMount { sub_path: Some(OWN.to_owned()), ..mount(name, path) }
}

pub(super) fn quantities(values: impl IntoIterator<Item = (&'static str, String)>) -> BTreeMap<String, Quantity> {
    values.into_iter().map(|(name, value)| (name.to_owned(), Quantity(value))).collect()
}

fn refused(what: String, reason: &str) -> DriverError {
    DriverError::Unsupported { what, reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use astraforge_core::session::{Limit, Limits};

    use super::*;

    fn id() -> SandboxId {
        "b7b1b0a2-6d0e-4a3c-8f52-2f6c1f0e9d77".parse().unwrap()
    }

    fn config() -> K8sConfig {
        let cluster = kube::Config::new("https://127.0.0.1:6443".parse().unwrap());
        K8sConfig::new(cluster, "agents", "example/system:1".parse().unwrap())
            .with_owner("server-1", "sessions")
            .with_guest_image("example/guest:1")
    }

    #[track_caller]
    fn refusal(spec: &SandboxSpec, expected: &str) {
        match pod(&config(), id(), spec, &[]) {
            Err(error @ DriverError::Unsupported { .. }) => assert!(error.to_string().contains(expected), "{error}"),
            other => panic!("expected a refusal, not {other:?}"),
        }
    }

    #[test]
    fn a_sandbox_that_asks_for_nothing_has_the_safest_pod() {
        insta::assert_json_snapshot!(pod(&config(), id(), &SandboxSpec::default(), &[]).unwrap());
    }

    #[test]
    fn all_that_can_be_asked_for_is_in_the_pod() {
        let mut config = config().with_service_account("sandboxes").with_runtime_class("gvisor").with_direct_egress();
        config.overcommit = 2;
        let limits = Limits {
            memory: Limit::required(ByteSize::gib(1)),
            processes: Limit::required(64),
            cpu_millis: Some(Limit::required(1500)),
            open_files: 100,
        };
        let spec = SandboxSpec::default()
            .with_image("example/other@sha256:abcd".parse().unwrap())
            .with_workspace(Workspace::Disk { size: Limit::best_effort(ByteSize::gib(5)) })
            .with_limits(limits)
            .with_egress(Egress::Public)
            .with_env("PRICE", "$(HOME) $5");
        insta::assert_json_snapshot!(pod(&config, id(), &spec, &[8080]).unwrap());
    }

    #[test]
    fn what_a_pod_cannot_be_is_refused_with_the_reason() {
        let disk = Workspace::Disk { size: Limit::required(ByteSize::gib(1)) };
        refusal(&SandboxSpec::default().with_workspace(disk), "best effort");
        refusal(&SandboxSpec::default().with_image("/srv/root".parse().unwrap()), "registry");
        refusal(&SandboxSpec::default().with_folder(Path::new("/opt"), Path::new("/opt")), "into the image");
    }

    #[test]
    fn sandboxes_are_different_users_and_never_roots() {
        let users: std::collections::BTreeSet<i64> = (0..100).map(|_| user(SandboxId::random())).collect();
        assert_eq!(users.len(), 100);
        assert!(users.iter().all(|it| (1 << 20..1 << 31).contains(it)), "{users:?}");
    }

    #[test]
    fn a_pod_whose_sandbox_wants_no_way_out_gets_none_though_the_driver_could_give_one() {
        let pod = pod(&config().with_direct_egress(), id(), &SandboxSpec::default(), &[]).unwrap();
        assert_eq!(pod.metadata.labels.unwrap()["astraforge.dev/egress"], "off");
        assert_eq!(pod.spec.unwrap().dns_policy.unwrap(), "None");
    }
}
