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
    driver::Enforcement,
    native::{Machine, NativeConfig, NativeDriver, guest_binary},
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
        Err(error) => checks.push(Check::new("sandbox", Status::Fail, error.to_string())),
    }
    checks
}

impl Check {
    fn new(name: &'static str, status: Status, detail: impl Into<String>) -> Self {
        Self { name, status, detail: detail.into(), remedy: None }
    }

    fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

fn user_namespaces() -> Check {
    let name = "user namespaces";
    let machine = Machine::read();
    let sysctl = |setting: &str| format!("sudo sysctl -w {setting}");
    if machine.max_user_namespaces == Some(0) {
        return Check::new(name, Status::Fail, "user.max_user_namespaces is 0")
            .with_remedy(sysctl("user.max_user_namespaces=65536"));
    }
    if rustix::process::geteuid().is_root() {
        return Check::new(name, Status::Ok, "allowed, and root may give each sandbox a user of its own");
    }
    if machine.user_namespaces_allowed == Some(0) {
        return Check::new(name, Status::Fail, "kernel.unprivileged_userns_clone is 0")
            .with_remedy(sysctl("kernel.unprivileged_userns_clone=1"));
    }
    if machine.apparmor_restricts == Some(1) {
        // Not for everyone: a profile may make an exception for the guest program.
        return Check::new(name, Status::Warn, "AppArmor restricts them for programs without a profile")
            .with_remedy(sysctl("kernel.apparmor_restrict_unprivileged_userns=0"));
    }
    Check::new(name, Status::Ok, "allowed for ordinary users")
}

fn name_spaces() -> Check {
    let kinds = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"];
    let missing: Vec<_> = kinds.iter().filter(|it| !Path::new("/proc/self/ns").join(it).exists()).copied().collect();
    if missing.is_empty() {
        Check::new("name spaces", Status::Ok, kinds.join(", "))
    } else {
        let detail = format!("this kernel has none for: {}", missing.join(", "));
        Check::new("name spaces", Status::Fail, detail).with_remedy("boot a kernel built with CONFIG_NAMESPACES and all below it")
    }
}

fn landlock() -> Check {
    match landlock_abi() {
        Some(abi) => Check::new("Landlock", Status::Ok, format!("interface {abi}")),
        None => Check::new("Landlock", Status::Fail, "this kernel has none, or it is not switched on")
            .with_remedy("boot Linux 5.13 or newer with `landlock` among the names of the `lsm=` boot parameter"),
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
        Check::new("seccomp", Status::Ok, "filters")
    } else {
        Check::new("seccomp", Status::Fail, "this kernel loads no filters")
            .with_remedy("boot a kernel built with CONFIG_SECCOMP_FILTER")
    }
}

fn guest(path: &Path) -> Check {
    let failed = |detail: String| Check::new("guest program", Status::Fail, detail).with_remedy("cargo xtask guest");
    match Command::new(path).arg("--version").output() {
        Err(error) => failed(format!("{} does not start: {error}", path.display())),
        Ok(output) => {
            let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            if version == format!("{} {}", guest_binary::NAME, env!("CARGO_PKG_VERSION")) {
                Check::new("guest program", Status::Ok, format!("{version} at {}", path.display()))
            } else {
                failed(format!("{} is of another version: {version:?}", path.display()))
            }
        }
    }
}

fn limits(driver: &NativeDriver) -> Vec<Check> {
    let capabilities = crate::driver::SandboxDriver::capabilities(driver);
    let limit = |name, enforcement, remedy: &str| match enforcement {
        Enforcement::Hard => Check::new(name, Status::Ok, "enforced"),
        Enforcement::None => Check::new(name, Status::Warn, "cannot be enforced here").with_remedy(remedy),
    };
    const DELEGATE: &str = "systemd-run --user --scope -p Delegate=yes astraforge up, or start the server as root";
    vec![
        limit("memory limit", capabilities.memory, DELEGATE),
        limit("processor limit", capabilities.cpu, DELEGATE),
        limit("process limit", capabilities.processes, DELEGATE),
        limit("limit of workspaces on disk", capabilities.disk, "ask for workspaces in memory, whose size always holds"),
    ]
}

fn sandbox(driver: &NativeDriver) -> Check {
    let start = Instant::now();
    match driver.try_out() {
        Ok(()) => {
            let detail = format!("made one, tested it from inside and removed it in {:.1?}", start.elapsed());
            Check::new("sandbox", Status::Ok, detail)
        }
        Err(failure) => {
            let check = Check::new("sandbox", Status::Fail, failure.to_string());
            match Machine::read().remedy(&failure) {
                Some(remedy) => check.with_remedy(remedy),
                None => check,
            }
        }
    }
}
