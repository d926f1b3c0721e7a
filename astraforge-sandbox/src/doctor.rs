//! Finds out whether this machine can run native sandboxes, and says what would change that.
//!
//! ```no_run
//! use astraforge_sandbox::{doctor::{Status, examine}, native::NativeConfig};
//!
//! let config = NativeConfig::new("/var/lib/astraforge/native", "/usr/lib/astraforge/astraforge-guest");
//! for check in examine(&config).into_iter().filter(|it| it.status != Status::Ok) {
//!     println!("{}: {}; {}", check.name, check.detail, check.remedy.unwrap_or_default());
//! }
//! ```

use std::{fs, path::Path, process::Command, time::Instant};

use crate::{
    driver::{Enforcement, SandboxDriver},
    native::{
        NativeConfig, NativeDriver, guest_binary,
        remedy::{self, Machine},
    },
};

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// What came of it.
    pub status: Status,
    /// What was found, for people.
    pub detail: String,
    /// What would change it: a command to run where there is one.
    pub remedy: Option<String>,
}

/// What came of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Sandboxes run, but something is missing.
    Warn,
    /// No sandbox runs.
    Fail,
}

/// Examines this machine. The last check makes a sandbox and tests it from inside, so it speaks for all the others.
///
/// Blocks for some milliseconds. Makes the state folder, and leaves nothing else.
#[must_use]
pub fn examine(config: &NativeConfig) -> Vec<Check> {
    let mut checks = vec![user_namespaces(), name_spaces(), landlock(), seccomp(), guest(&config.guest)];
    match NativeDriver::unprobed(config.clone()) {
        Ok(driver) => {
            checks.extend(limits(&driver));
            checks.push(sandbox(&driver));
        }
        Err(error) => checks.push(Check::new("sandbox", Status::Fail, error.to_string(), None)),
    }
    checks
}

impl Check {
    /// One thing that was looked at, what came of it, and what would change it.
    pub fn new(name: &'static str, status: Status, detail: impl Into<String>, remedy: Option<String>) -> Self {
        Self { name, status, detail: detail.into(), remedy }
    }

    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(name, Status::Ok, detail, None)
    }

    fn failed(name: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(name, Status::Fail, detail, Some(remedy.into()))
    }
}

fn user_namespaces() -> Check {
    let name = "user namespaces";
    let machine = Machine::read();
    let sysctl = |setting: &str| format!("sudo sysctl -w {setting}");
    if machine.max_user_namespaces == Some(0) {
        Check::failed(name, "user.max_user_namespaces is 0", sysctl("user.max_user_namespaces=65536"))
    } else if rustix::process::geteuid().is_root() {
        Check::ok(name, "allowed, and root may give each sandbox a user of its own")
    } else if machine.user_namespaces_allowed == Some(0) {
        let remedy = sysctl("kernel.unprivileged_userns_clone=1");
        Check::failed(name, "kernel.unprivileged_userns_clone is 0", remedy)
    } else if machine.apparmor_restricts == Some(1) {
        // Not for everyone: a profile may make an exception for the guest program.
        let remedy = sysctl("kernel.apparmor_restrict_unprivileged_userns=0");
        Check::new(name, Status::Warn, "AppArmor restricts them for programs without a profile", Some(remedy))
    } else {
        Check::ok(name, "allowed for ordinary users")
    }
}

fn name_spaces() -> Check {
    let kinds = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"];
    let missing: Vec<_> = kinds.iter().filter(|it| !Path::new("/proc/self/ns").join(it).exists()).copied().collect();
    if missing.is_empty() {
        Check::ok("name spaces", kinds.join(", "))
    } else {
        let detail = format!("this kernel has none for: {}", missing.join(", "));
        Check::failed("name spaces", detail, "boot a kernel built with CONFIG_NAMESPACES and all below it")
    }
}

fn landlock() -> Check {
    match landlock_abi() {
        Some(abi) => Check::ok("Landlock", format!("interface {abi}")),
        None => Check::failed("Landlock", "this kernel has none, or it is not switched on", remedy::LANDLOCK),
    }
}

/// Asks the kernel which Landlock interface it has.
fn landlock_abi() -> Option<i64> {
    const VERSION: libc::c_uint = 1;
    #[expect(unsafe_code, reason = "the landlock crate keeps this answer to itself")]
    // SAFETY: with this flag the kernel takes no memory, makes nothing, and returns a number.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0, VERSION) };
    (abi > 0).then_some(abi)
}

fn seccomp() -> Check {
    let actions = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    if ["errno", "kill_process"].iter().all(|wanted| actions.split_whitespace().any(|it| it == *wanted)) {
        Check::ok("seccomp", "filters")
    } else {
        Check::failed("seccomp", "this kernel loads no filters", "boot a kernel built with CONFIG_SECCOMP_FILTER")
    }
}

fn guest(path: &Path) -> Check {
    let failed = |detail: String| Check::failed("guest program", detail, "cargo xtask guest");
    match Command::new(path).arg("--version").output() {
        Err(error) => failed(format!("{} does not start: {error}", path.display())),
        Ok(output) => {
            let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            if version == format!("{} {}", guest_binary::NAME, env!("CARGO_PKG_VERSION")) {
                Check::ok("guest program", format!("{version} at {}", path.display()))
            } else {
                failed(format!("{} is of another version: {version:?}", path.display()))
            }
        }
    }
}

fn limits(driver: &NativeDriver) -> Vec<Check> {
    const DELEGATE: &str =
        "systemd-run --user --pty -p Delegate=yes -p DelegateSubgroup=server astraforge up (systemd 254 or newer)";
    let capabilities = driver.capabilities();
    let limit = |name, enforcement, remedy: &str| match enforcement {
        Enforcement::Hard => Check::ok(name, "enforced"),
        Enforcement::Soft => Check::new(name, Status::Warn, "measured, not enforced", Some(remedy.to_owned())),
        Enforcement::None => Check::new(name, Status::Warn, "cannot be enforced here", Some(remedy.to_owned())),
    };
    vec![
        limit("memory limit", capabilities.memory, DELEGATE),
        limit("processor limit", capabilities.cpu, DELEGATE),
        limit("process limit", capabilities.processes, DELEGATE),
        limit(
            "limit of workspaces on disk",
            capabilities.disk,
            "ask for workspaces in memory, whose size always holds",
        ),
    ]
}

fn sandbox(driver: &NativeDriver) -> Check {
    let start = Instant::now();
    match driver.try_out() {
        Ok(()) => {
            Check::ok("sandbox", format!("made one, tested it from inside and removed it in {:.1?}", start.elapsed()))
        }
        Err(failure) => {
            let remedy = Machine::read().remedy(&failure).map(str::to_owned);
            Check::new("sandbox", Status::Fail, failure.to_string(), remedy)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_guest_program_is_named_with_the_command_that_builds_it() {
        let state = tempfile::tempdir().unwrap();
        let checks = examine(&NativeConfig::new(state.path(), "/nowhere/astraforge-guest"));
        let of = |name: &str| checks.iter().find(|it| it.name == name).unwrap();
        for name in ["guest program", "sandbox"] {
            assert_eq!(of(name).status, Status::Fail, "{checks:?}");
            assert!(of(name).detail.contains("/nowhere/astraforge-guest"), "{checks:?}");
            assert!(of(name).remedy.as_deref().unwrap_or_default().contains("cargo xtask guest"), "{checks:?}");
        }
        assert_eq!(state.path().read_dir().unwrap().count(), 0, "nothing is left");
    }
}
