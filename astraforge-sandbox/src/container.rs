//! What the containers of every engine have in common: where things lie in them, and what their guest is told.
//!
//! The guest lies on a read-only volume, is the container's first process, and listens on an abstract socket. Its host
//! reaches it by having the engine run [`guest::connect`] in the container.

use std::collections::BTreeMap;

use astraforge_core::session::SandboxSpec;
use serde::{Deserialize, Serialize};

use crate::guest::GuestConfig;

pub mod guest;
pub mod probe;

/// Names the variable that tells the guest of a container what to do, as JSON.
pub const CONFIG_VARIABLE: &str = "ASTRAFORGE_GUEST_CONFIG";

/// The folder of the container that the guest's volume is mounted at, read-only.
pub const GUEST_FOLDER: &str = "/.astraforge";

/// The guest program in a container.
pub const GUEST: &str = "/.astraforge/astraforge-guest";

/// The mode of the guest program in a container: it is run and never read.
///
/// What runs a program that it may not read is closed to others of the same user from its first instruction on, so the
/// agent can neither look into the guest nor into the relay that its host starts.
pub const GUEST_MODE: u32 = 0o111;

/// The agent's user and group id.
pub const AGENT: u32 = 1000;

/// The agent's home folder, in memory.
pub const HOME: &str = "/home/agent";

/// The folder that the agent works in.
pub const WORKSPACE: &str = "/workspace";

/// What the guest of a container is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerConfig {
    /// What every guest is told. Its environment lies above the image's.
    pub guest: GuestConfig,
    /// Open file descriptors of one process.
    pub open_files: u32,
    /// Processes of the container's user, for engines that do not limit those of a container. The user must be the
    /// container's own: the kernel counts all that a user runs on the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<u32>,
}

impl ContainerConfig {
    /// What the guest of a sandbox is told whose services are at `service_ports`.
    #[must_use]
    pub fn new(spec: &SandboxSpec, service_ports: &[u16]) -> Self {
        let mut env: BTreeMap<_, _> = environment().map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        env.extend(spec.env.clone());
        let service_ports = service_ports.to_vec();
        let guest = GuestConfig { service_ports, env, orphan_timeout: spec.orphan_timeout };
        Self { guest, open_files: spec.limits.open_files, processes: None }
    }

    /// Limits the processes of the container's user to `max`, besides the guest's own.
    #[must_use]
    pub const fn with_processes(mut self, max: u32) -> Self {
        self.processes = Some(max);
        self
    }

    /// The value of [`CONFIG_VARIABLE`].
    ///
    /// # Errors
    /// Never for values that [`new`](Self::new) makes.
    pub fn to_variable(&self) -> serde_json::Result<String> {
        serde_json::to_string(self)
    }
}

/// What holds in every container, whatever its image says: the image's own home may not be writable. Its `PATH` stands.
const fn environment() -> [(&'static str, &'static str); 6] {
    [
        ("HOME", HOME),
        ("LANG", "C.UTF-8"),
        ("LOGNAME", "agent"),
        ("SHELL", "/bin/sh"),
        ("TMPDIR", "/tmp"),
        ("USER", "agent"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_may_set_what_every_container_has() {
        let spec = SandboxSpec::default().with_env("HOME", "/workspace").with_env("ONE", "1");
        let config = ContainerConfig::new(&spec, &[8080]);
        let config: ContainerConfig = serde_json::from_str(&config.to_variable().unwrap()).unwrap();
        assert_eq!(config.guest.env["HOME"], "/workspace");
        assert_eq!(config.guest.env["ONE"], "1");
        assert_eq!(config.guest.env["USER"], "agent");
        assert!(!config.guest.env.contains_key("PATH"), "the image knows where its programs are");
        assert_eq!(config.guest.service_ports, [8080]);
    }
}
