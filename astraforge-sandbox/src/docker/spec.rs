//! From what a sandbox is asked to be to what an engine is told: the whole decision, and nothing else.

use std::{collections::HashMap, path::Path};

use astraforge_core::{
    egress::Egress,
    id::SandboxId,
    session::{ByteSize, Limit, ReadOnlyFolder, SandboxSpec, Strictness, Workspace},
};
use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigCgroupnsModeEnum, HostConfigLogConfig, Mount,
    MountBindOptions, MountType, MountVolumeOptions, RestartPolicy, RestartPolicyNameEnum,
};

use super::{
    names::{self, Role},
    settings::{DockerConfig, HostGateway, ISOLATED, Network, RootFiles, Seccomp},
};
use crate::{
    container::{CONFIG_VARIABLE, ContainerConfig, GUEST, GUEST_FOLDER, HOME, WORKSPACE},
    driver::{Access, Capabilities, DriverError, Enforcement, room_for_files},
};

/// What tells of the host or its kernel: what Engine 20.10 masks by itself, and what the attack suite found beside it. It
/// stands in the place of the engine's own list.
const MASKED: [&str; 20] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/bus",
    "/proc/config.gz",
    "/proc/interrupts",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/keys",
    "/proc/kmsg",
    "/proc/latency_stats",
    "/proc/modules",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/kernel/debug",
    "/sys/kernel/tracing",
    "/sys/kernel/vmcoreinfo",
];

/// What a container is made from, beside the sandbox's own wishes.
pub(super) struct Surroundings<'a> {
    pub(super) config: &'a DockerConfig,
    pub(super) capabilities: &'a Capabilities,
    /// The image, as the engine names it.
    pub(super) image: &'a str,
    /// The volume that holds the guest.
    pub(super) guest: &'a str,
    /// Who makes it.
    pub(super) maker: &'a str,
}

/// Decides all about the container of a sandbox, or refuses it.
pub(super) fn container(
    id: SandboxId,
    spec: &SandboxSpec,
    service_ports: &[u16],
    around: &Surroundings<'_>,
) -> Result<ContainerCreateBody, DriverError> {
    let config = around.config;
    let mut labels = names::labels(&config.owner, id);
    labels.extend([(names::ROLE, Role::Fresh.as_str()), (names::MAKER, around.maker)].map(owned));
    let Program { entrypoint, cmd, env } = program(spec, service_ports, around.capabilities.access)?;
    Ok(ContainerCreateBody {
        hostname: Some(names::container(id)),
        user: Some(config.user.to_string()),
        image: Some(around.image.to_owned()),
        entrypoint: Some(vec![entrypoint]),
        cmd: Some(cmd),
        env: Some(env),
        working_dir: Some(WORKSPACE.to_owned()),
        healthcheck: Some(HealthConfig { test: Some(vec!["NONE".to_owned()]), ..Default::default() }),
        labels: Some(labels),
        host_config: Some(host(id, spec, around)?),
        ..Default::default()
    })
}

/// The first program of a container.
struct Program {
    entrypoint: String,
    cmd: Vec<String>,
    env: Vec<String>,
}

/// The guest, or a program that does nothing until the container is removed.
fn program(spec: &SandboxSpec, service_ports: &[u16], access: Access) -> Result<Program, DriverError> {
    match access {
        Access::Guest => {
            let guest = ContainerConfig::new(spec, service_ports)
                .to_variable()
                .map_err(|error| unsupported("that environment", error.to_string()))?;
            let env = vec![format!("{CONFIG_VARIABLE}={guest}")];
            Ok(Program { entrypoint: GUEST.to_owned(), cmd: vec!["serve".to_owned()], env })
        }
        Access::PlainExec if service_ports.is_empty() => {
            let home = [("HOME", HOME), ("TMPDIR", "/tmp")].map(|(name, value)| format!("{name}={value}"));
            let own = spec.env.iter().map(|(name, value)| format!("{name}={value}"));
            let env = home.into_iter().chain(own).collect();
            Ok(Program { entrypoint: "sleep".to_owned(), cmd: vec!["infinity".to_owned()], env })
        }
        Access::PlainExec => {
            let reason = "only the guest can forward them, and it cannot run on this engine's machines".to_owned();
            Err(unsupported("services inside the sandbox", reason))
        }
    }
}

/// Marks a container as one around what an earlier sandbox left.
pub(super) fn around_kept_workspace(mut body: ContainerCreateBody) -> ContainerCreateBody {
    body.labels.get_or_insert_default().insert(names::ROLE.to_owned(), Role::Kept.as_str().to_owned());
    body
}

/// A container that is never started; `mounts` is what something is put on.
pub(super) fn preparation(image: &str, labels: HashMap<String, String>, mounts: Vec<Mount>) -> ContainerCreateBody {
    let mut labels = labels;
    labels.insert(names::ROLE.to_owned(), Role::Preparation.as_str().to_owned());
    ContainerCreateBody {
        image: Some(image.to_owned()),
        entrypoint: Some(vec![GUEST.to_owned()]),
        network_disabled: Some(true),
        labels: Some(labels),
        host_config: Some(HostConfig {
            mounts: Some(mounts),
            network_mode: Some("none".to_owned()),
            cap_drop: Some(vec!["ALL".to_owned()]),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The volume of a sandbox's workspace. It comes to be with the first container that has it.
pub(super) fn workspace_volume(config: &DockerConfig, id: SandboxId) -> Mount {
    volume(&names::workspace(&config.volume_prefix, id), WORKSPACE, names::labels(&config.owner, id))
}

/// A named volume at `target`. What the image has there is not copied onto it.
pub(super) fn volume(name: &str, target: &str, labels: HashMap<String, String>) -> Mount {
    Mount {
        typ: Some(MountType::VOLUME),
        source: Some(name.to_owned()),
        target: Some(target.to_owned()),
        volume_options: Some(MountVolumeOptions { no_copy: Some(true), labels: Some(labels), ..Default::default() }),
        ..Default::default()
    }
}

fn host(id: SandboxId, spec: &SandboxSpec, around: &Surroundings<'_>) -> Result<HostConfig, DriverError> {
    let Surroundings { config, capabilities, .. } = around;
    let limits = &spec.limits;
    let memory = held("memory", &limits.memory, capabilities.memory)?.map(ByteSize::as_bytes).map(signed);
    let processes = held("processes", &limits.processes, capabilities.processes)?;
    let cpu = match &limits.cpu_millis {
        Some(limit) => held("processor time", limit, capabilities.cpu)?,
        None => None,
    };
    let (mounts, tmpfs) = files(id, spec, around)?;
    let networked = spec.egress == Egress::Public && config.network != Network::None;
    let gateway = networked && config.host_gateway == HostGateway::Named;
    Ok(HostConfig {
        memory,
        // No more with swap than without: what is over the limit ends, it does not slow the host down.
        memory_swap: memory,
        nano_cpus: cpu.map(|millis| i64::from(millis) * 1_000_000),
        pids_limit: processes.map(|max| i64::from(max.min(config.max_processes))),
        // When the host itself runs out of memory a sandbox is to go, not its server.
        oom_score_adj: Some(500),
        mounts: Some(mounts),
        tmpfs: Some(tmpfs),
        readonly_rootfs: Some(config.root == RootFiles::ReadOnly),
        network_mode: Some(if networked { network(&config.network) } else { "none".to_owned() }),
        extra_hosts: gateway.then(|| vec!["host.docker.internal:host-gateway".to_owned()]),
        cap_drop: Some(vec!["ALL".to_owned()]),
        security_opt: Some(security(&config.seccomp)),
        ipc_mode: Some("private".to_owned()),
        cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
        masked_paths: Some(MASKED.map(str::to_owned).into()),
        privileged: Some(false),
        // The guest reaps what is left; without it somebody else has to.
        init: Some(capabilities.access == Access::PlainExec),
        auto_remove: Some(false),
        restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), ..Default::default() }),
        runtime: config.runtime.clone(),
        // The guest has a word to say only when it cannot start.
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some([("max-size", "64k"), ("max-file", "1")].map(owned).into()),
        }),
        ..Default::default()
    })
}

/// What is mounted, and what is in memory.
fn files(
    id: SandboxId,
    spec: &SandboxSpec,
    around: &Surroundings<'_>,
) -> Result<(Vec<Mount>, HashMap<String, String>), DriverError> {
    let config = around.config;
    let mut mounts = match around.capabilities.access {
        Access::Guest => vec![guest_volume(around.guest)],
        Access::PlainExec => Vec::new(),
    };
    let user = config.user;
    let room = match around.capabilities.memory {
        Enforcement::Hard => room_for_files(spec.limits.memory.max),
        _ => u64::MAX,
    };
    // A file for each 4 KiB: an empty one takes memory too.
    let memory = |size: ByteSize, mode: &str| {
        let size = size.as_bytes().min(room);
        let (uid, gid, inodes) = (user.uid, user.gid, (size / 4096).max(1024));
        format!("rw,nosuid,nodev,exec,uid={uid},gid={gid},mode={mode},size={size},nr_inodes={inodes}")
    };
    let mut tmpfs = HashMap::from([
        ("/tmp".to_owned(), memory(spec.tmp_size, "1777")),
        ("/run".to_owned(), memory(ByteSize::mib(16), "0755")),
        (HOME.to_owned(), memory(spec.tmp_size, "0755")),
    ]);
    for folder in &config.tmpfs {
        tmpfs.insert(path("that folder", folder)?, memory(spec.tmp_size, "1777"));
    }
    match spec.workspace {
        Workspace::Tmpfs { size } => {
            tmpfs.insert(WORKSPACE.to_owned(), memory(size, "0755"));
        }
        Workspace::Disk { size } => {
            held("size of a workspace on disk", &size, Enforcement::Soft)?;
            mounts.push(workspace_volume(config, id));
        }
    }
    for folder in &spec.folders {
        mounts.push(bind(folder)?);
    }
    Ok((mounts, tmpfs))
}

/// The guest's volume, as sandboxes see it.
fn guest_volume(name: &str) -> Mount {
    Mount { read_only: Some(true), ..volume(name, GUEST_FOLDER, HashMap::new()) }
}

fn bind(folder: &ReadOnlyFolder) -> Result<Mount, DriverError> {
    Ok(Mount {
        typ: Some(MountType::BIND),
        source: Some(path("that folder", &folder.source)?),
        target: Some(path("that folder", &folder.target)?),
        read_only: Some(true),
        bind_options: Some(MountBindOptions { create_mountpoint: Some(false), ..Default::default() }),
        ..Default::default()
    })
}

/// A path that the engine reads as one: absolute, of plain text, leading nowhere else.
fn path(what: &str, path: &Path) -> Result<String, DriverError> {
    let text = path.to_str().filter(|text| text.starts_with('/') && !text.chars().any(char::is_control));
    let plain = text.filter(|_| !path.components().any(|it| it == std::path::Component::ParentDir));
    plain.map(str::to_owned).ok_or_else(|| unsupported(what, format!("{} is no absolute plain path", path.display())))
}

fn network(network: &Network) -> String {
    match network {
        Network::None => "none".to_owned(),
        Network::Isolated => ISOLATED.to_owned(),
        Network::Named(name) => name.clone(),
    }
}

fn security(seccomp: &Seccomp) -> Vec<String> {
    let mut options = vec!["no-new-privileges:true".to_owned()];
    match seccomp {
        Seccomp::Default => {}
        Seccomp::Unconfined => options.push("seccomp=unconfined".to_owned()),
        Seccomp::Profile(profile) => options.push(format!("seccomp={profile}")),
    }
    options
}

/// The limit, where this engine holds it; a required one that it doesn't is refused.
fn held<T: Copy>(what: &str, limit: &Limit<T>, enforcement: Enforcement) -> Result<Option<T>, DriverError> {
    match (enforcement, limit.strictness) {
        (Enforcement::Hard, _) => Ok(Some(limit.max)),
        (_, Strictness::BestEffort) => Ok(None),
        (_, Strictness::Required) => Err(unsupported(
            &format!("a required limit on {what}"),
            "this engine cannot hold it; ask for it as best effort".to_owned(),
        )),
    }
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn owned((name, value): (&str, &str)) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

pub(super) fn unsupported(what: &str, reason: String) -> DriverError {
    DriverError::Unsupported { what: what.to_owned(), reason }
}

#[cfg(test)]
mod tests;
