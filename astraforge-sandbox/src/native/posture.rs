//! The self-test: before a sandbox counts as ready it reads from the kernel what really holds.

use std::fs;

use rustix::{fs::OFlags, io::Errno, mount::UnmountFlags, thread::UnshareFlags};

use super::{
    launch_spec::{AtStep, Failure},
    namespaces,
};

/// Mount points that are not read-only: the agent's own folders, and what the kernel answers for.
const WRITABLE: [&str; 6] = ["/workspace", "/tmp", "/run", "/home/agent", "/dev/shm", "/proc"];

/// Mount points where devices answer.
const DEVICES: [&str; 7] =
    ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/pts"];

/// Checks that this process is closed in; `host` are the name spaces it must have left.
pub(super) fn check(host: &[String]) -> Result<(), Failure> {
    let step = "pass the self-test";
    let status = fs::read_to_string("/proc/self/status").at(step)?;
    check_status(&status).at(step)?;
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").at(step)?;
    check_mounts(&mountinfo).at(step)?;
    if let Some(shared) = namespaces::own().at(step)?.iter().find(|own| host.contains(own)) {
        return Err(format!("the name space {shared} is the host's")).at(step);
    }
    for (what, result) in [
        ("unmount", rustix::mount::unmount("/proc", UnmountFlags::DETACH)),
        ("mount", rustix::mount::fsopen("tmpfs", rustix::mount::FsOpenFlags::FSOPEN_CLOEXEC).map(drop)),
        ("leave a name space", namespaces::leave(UnshareFlags::NEWUSER)),
    ] {
        if result != Err(Errno::PERM) {
            return Err(format!("it may {what}: {result:?}")).at(step);
        }
    }
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
    match rustix::fs::open("/self-test", flags, rustix::fs::Mode::RUSR) {
        Err(Errno::ROFS | Errno::ACCESS) => Ok(()),
        other => Err(format!("it may write the root file system: {other:?}")).at(step),
    }
}

/// Checks `/proc/self/status`: no capability in any set, no way to get one, a filter loaded.
fn check_status(status: &str) -> Result<(), String> {
    const NONE: &str = "0000000000000000";
    for (field, wanted) in [
        ("CapInh", NONE),
        ("CapPrm", NONE),
        ("CapEff", NONE),
        ("CapBnd", NONE),
        ("CapAmb", NONE),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
    ] {
        let found = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).map(str::trim);
        if found != Some(wanted) {
            return Err(format!("{field} is {found:?}, not {wanted}"));
        }
    }
    Ok(())
}

/// Checks `/proc/self/mountinfo`: nothing honours setuid bits, devices answer only where they are meant to, and nothing
/// but the agent's own folders can be written.
fn check_mounts(mountinfo: &str) -> Result<(), String> {
    for line in mountinfo.lines() {
        let mut fields = line.split(' ');
        let (target, options) = (fields.nth(4).unwrap_or_default(), fields.next().unwrap_or_default());
        let has = |option| options.split(',').any(|it| it == option);
        if !has("nosuid") {
            return Err(format!("{target} is mounted without nosuid"));
        }
        // What is hidden in `/proc` has `/dev/null` over it.
        if !has("nodev") && !DEVICES.contains(&target) && !target.starts_with("/proc/") {
            return Err(format!("{target} is mounted without nodev"));
        }
        if !has("ro") && !WRITABLE.contains(&target) && !DEVICES.contains(&target) {
            return Err(format!("{target} is mounted writable"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOSED: &str = "Name:\tx\nCapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n\
        CapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t2\n";

    #[test]
    fn a_closed_process_passes() {
        assert_eq!(check_status(CLOSED), Ok(()));
    }

    #[test]
    fn each_opening_is_named() {
        for (closed, open, field) in [
            ("CapBnd:\t0000000000000000", "CapBnd:\t0000000000000001", "CapBnd"),
            ("CapAmb:\t0000000000000000\n", "", "CapAmb"),
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0", "NoNewPrivs"),
            ("Seccomp:\t2", "Seccomp:\t0", "Seccomp"),
        ] {
            let error = check_status(&CLOSED.replace(closed, open)).unwrap_err();
            assert!(error.starts_with(field), "{error}");
        }
    }

    #[track_caller]
    fn check_mount(target: &str, options: &str, ok: bool) {
        let line = format!("36 35 98:0 / {target} {options} - tmpfs tmpfs rw");
        assert_eq!(check_mounts(&line).is_ok(), ok, "{line}");
    }

    #[test]
    fn only_the_agents_own_folders_may_be_writable() {
        check_mount("/", "ro,nosuid,nodev", true);
        check_mount("/", "rw,nosuid,nodev", false);
        check_mount("/usr", "ro,nodev", false);
        check_mount("/usr", "rw,nosuid", false);
        check_mount("/workspace", "rw,nosuid,nodev", true);
        check_mount("/workspace", "rw,nosuid", false);
        check_mount("/workspace/x", "rw,nosuid,nodev", false);
        check_mount("/dev/null", "rw,nosuid,noexec", true);
        check_mount("/usr", "ro,nosuid", false);
        check_mount("/proc/kcore", "ro,nosuid,noexec", true);
    }
}
