//! What would make a sandbox possible that this machine refused: the command to run, as exactly as it can be known.

use std::{fs, path::Path};

use super::launch_spec::Failure;

/// What a machine without Landlock needs.
pub(crate) const LANDLOCK: &str =
    "boot Linux 5.13 or newer with `landlock` among the names of the `lsm=` boot parameter";

/// What of this machine decides whether sandboxes can be made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    /// `kernel.unprivileged_userns_clone`, which some distributions add.
    pub(crate) user_namespaces_allowed: Option<u64>,
    /// `kernel.apparmor_restrict_unprivileged_userns`.
    pub(crate) apparmor_restricts: Option<u64>,
    /// `user.max_user_namespaces`.
    pub(crate) max_user_namespaces: Option<u64>,
    /// Whether this is a container.
    pub(crate) is_container: bool,
}

impl Machine {
    /// Reads what this machine says about itself.
    pub(crate) fn read() -> Self {
        let number = |name: &str| fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?.trim().parse().ok();
        Self {
            user_namespaces_allowed: number("kernel/unprivileged_userns_clone"),
            apparmor_restricts: number("kernel/apparmor_restrict_unprivileged_userns"),
            max_user_namespaces: number("user/max_user_namespaces"),
            is_container: ["/.dockerenv", "/run/.containerenv"].iter().any(|it| Path::new(it).exists()),
        }
    }

    /// Returns the command that would let the failed step succeed, where one is known.
    pub(crate) fn remedy(&self, failure: &Failure) -> Option<&'static str> {
        let step = failure.step.as_str();
        if step.starts_with("restrict file access with Landlock") {
            return Some(LANDLOCK);
        }
        if step.starts_with("start ") || step == "hear from the launcher" {
            return Some("cargo xtask guest, and make sure that this user may run the program it builds");
        }
        if self.max_user_namespaces == Some(0) || failure.error.contains("No space left") {
            return Some("sudo sysctl -w user.max_user_namespaces=65536");
        }
        if !["not permitted", "denied"].iter().any(|it| failure.error.contains(it)) {
            return None;
        }
        if self.user_namespaces_allowed == Some(0) {
            Some("sudo sysctl -w kernel.unprivileged_userns_clone=1")
        } else if self.apparmor_restricts == Some(1) {
            Some("sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0")
        } else if self.is_container {
            Some(
                "start the container with --security-opt seccomp=unconfined --security-opt apparmor=unconfined \
                 --security-opt systempaths=unconfined",
            )
        } else {
            None
        }
    }

    /// Says what failed, and what would help.
    pub(crate) fn explain(&self, failure: &Failure) -> String {
        match self.remedy(failure) {
            Some(remedy) => format!("{failure}; to change that: {remedy}"),
            None => failure.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(machine: Machine, step: &str, error: &str, remedy: Option<&str>) {
        let failure = Failure { step: step.to_owned(), error: error.to_owned() };
        let found = machine.remedy(&failure);
        assert!(remedy.map_or(found.is_none(), |it| found.unwrap_or_default().contains(it)), "{found:?}");
    }

    #[test]
    fn each_reason_has_its_command() {
        const DENIED: &str = "Operation not permitted (os error 1)";
        let open = Machine::default();
        let debian = Machine { user_namespaces_allowed: Some(0), ..open.clone() };
        let ubuntu = Machine { apparmor_restricts: Some(1), ..open.clone() };
        let none = Machine { max_user_namespaces: Some(0), ..open.clone() };
        let docker = Machine { is_container: true, ..open.clone() };
        check(debian, "make name spaces", DENIED, Some("kernel.unprivileged_userns_clone=1"));
        check(ubuntu, "mount /tmp", "Permission denied (os error 13)", Some("apparmor_restrict_unprivileged_userns=0"));
        check(none, "make name spaces", "No space left on device (os error 28)", Some("max_user_namespaces"));
        check(docker.clone(), "mount /proc", DENIED, Some("systempaths=unconfined"));
        check(docker, "show /opt/tools", "No such file or directory (os error 2)", None);
        check(open.clone(), "make name spaces", DENIED, None);
        check(open, "restrict file access with Landlock", "not there", Some("lsm="));
    }
}
