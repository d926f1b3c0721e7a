//! System calls that reach beyond a sandbox, each tried for real or with arguments that mean nothing.

use libc::c_long;

use crate::{
    Attack, say,
    sys::{self, End, Errno, address, call_with},
};

pub(crate) const ATTACKS: &[(&str, Attack)] = &[
    ("call", named),
    ("namespaces", namespaces),
    ("clone3", clone3),
    ("setns", setns),
    ("own-filter", own_filter),
    ("int80", int80),
    ("personality", personality),
];

/// Calls by what they would give; the arguments are what the call needs to get past its first checks.
fn table(group: &str) -> Vec<(&'static str, c_long, Vec<c_long>)> {
    let own = c_long::from(std::process::id());
    let pattern = [0_u8; 128];
    let zeros = address(Box::leak(Box::new(pattern)));
    let text = |it: &'static std::ffi::CStr| it.as_ptr() as c_long;
    let cwd = c_long::from(libc::AT_FDCWD);
    match group {
        "ptrace" => vec![("ptrace(TRACEME)", libc::SYS_ptrace, vec![0])],
        "ptrace-init" => vec![
            ("ptrace(ATTACH, 1)", libc::SYS_ptrace, vec![16, 1]),
            ("ptrace(SEIZE, 1)", libc::SYS_ptrace, vec![0x4206, 1]),
            ("process_vm_readv(1)", libc::SYS_process_vm_readv, vec![1, zeros, 1, zeros, 1, 0]),
            ("process_vm_writev(1)", libc::SYS_process_vm_writev, vec![1, zeros, 1, zeros, 1, 0]),
            ("kcmp(1)", libc::SYS_kcmp, vec![1, own, 0, 0, 0]),
        ],
        "process-vm" => vec![
            ("process_vm_readv", libc::SYS_process_vm_readv, vec![own, zeros, 0, zeros, 0, 0]),
            ("process_vm_writev", libc::SYS_process_vm_writev, vec![own, zeros, 0, zeros, 0, 0]),
            ("process_madvise", libc::SYS_process_madvise, vec![-1, zeros, 0, 0, 0]),
            ("kcmp", libc::SYS_kcmp, vec![own, own, 0, 0, 0]),
            ("pidfd_getfd", libc::SYS_pidfd_getfd, vec![-1, 0, 0]),
        ],
        "bpf" => vec![
            ("bpf(MAP_CREATE)", libc::SYS_bpf, vec![0, zeros, 72]),
            ("bpf(PROG_LOAD)", libc::SYS_bpf, vec![5, zeros, 72]),
        ],
        "perf-event" => vec![("perf_event_open", libc::SYS_perf_event_open, vec![zeros, 0, -1, -1, 0])],
        "userfaultfd" => vec![
            ("userfaultfd", libc::SYS_userfaultfd, vec![0]),
            ("userfaultfd(USER_MODE_ONLY)", libc::SYS_userfaultfd, vec![1]),
        ],
        "io-uring" => vec![
            ("io_uring_setup", libc::SYS_io_uring_setup, vec![8, zeros]),
            ("io_uring_enter", libc::SYS_io_uring_enter, vec![-1]),
            ("io_uring_register", libc::SYS_io_uring_register, vec![-1]),
        ],
        "keyrings" => vec![
            ("add_key", libc::SYS_add_key, vec![text(c"user"), text(c"attack"), zeros, 1, -3]),
            ("request_key", libc::SYS_request_key, vec![text(c"user"), text(c"attack"), 0, -3]),
            ("keyctl(GET_KEYRING_ID)", libc::SYS_keyctl, vec![0, -3, 1]),
            ("keyctl(JOIN_SESSION)", libc::SYS_keyctl, vec![1, 0]),
        ],
        "mount" => vec![
            ("mount(tmpfs)", libc::SYS_mount, vec![text(c"x"), text(c"/tmp"), text(c"tmpfs"), 0, 0]),
            ("mount(proc)", libc::SYS_mount, vec![text(c"x"), text(c"/tmp"), text(c"proc"), 0, 0]),
            ("mount(cgroup)", libc::SYS_mount, vec![text(c"x"), text(c"/tmp"), text(c"cgroup"), 0, text(c"memory")]),
            ("mount(remount,rw)", libc::SYS_mount, vec![0, text(c"/"), 0, 32, 0]),
            ("mount(bind,remount,rw)", libc::SYS_mount, vec![0, text(c"/"), 0, 32 | 4096, 0]),
            ("mount(shared)", libc::SYS_mount, vec![0, text(c"/"), 0, 1 << 20, 0]),
            ("umount2(/proc)", libc::SYS_umount2, vec![text(c"/proc"), 2]),
            ("umount2(/sys)", libc::SYS_umount2, vec![text(c"/sys"), 2]),
        ],
        "new-mount-api" => vec![
            ("fsopen", libc::SYS_fsopen, vec![text(c"tmpfs"), 0]),
            ("fsconfig", libc::SYS_fsconfig, vec![-1, 0]),
            ("fsmount", libc::SYS_fsmount, vec![-1]),
            ("fspick", libc::SYS_fspick, vec![cwd, text(c"/"), 0]),
            ("open_tree(clone)", libc::SYS_open_tree, vec![cwd, text(c"/"), 1]),
            ("move_mount", libc::SYS_move_mount, vec![cwd, text(c"/tmp"), cwd, text(c"/tmp"), 0]),
            ("mount_setattr", libc::SYS_mount_setattr, vec![cwd, text(c"/"), 0, zeros, 32]),
        ],
        "pivot-root" => vec![
            ("pivot_root", libc::SYS_pivot_root, vec![text(c"/tmp"), text(c"/tmp")]),
            ("chroot", libc::SYS_chroot, vec![text(c"/tmp")]),
        ],
        "swap" => vec![
            ("swapon", libc::SYS_swapon, vec![text(c"/tmp"), 0]),
            ("swapoff", libc::SYS_swapoff, vec![text(c"/tmp")]),
        ],
        "reboot" => vec![("reboot(CAD_OFF)", libc::SYS_reboot, vec![0xfee1_dead, 672_274_793, 0])],
        "kexec" => vec![
            ("kexec_load", libc::SYS_kexec_load, vec![0, 0, 0, 0]),
            #[cfg(target_arch = "x86_64")]
            ("kexec_file_load", libc::SYS_kexec_file_load, vec![-1, -1, 0, 0, 0]),
        ],
        "modules" => vec![
            ("init_module", libc::SYS_init_module, vec![zeros, 0, zeros]),
            ("finit_module", libc::SYS_finit_module, vec![-1, zeros, 0]),
            ("delete_module", libc::SYS_delete_module, vec![text(c"none"), 0]),
        ],
        "file-handles" => vec![("open_by_handle_at", libc::SYS_open_by_handle_at, vec![cwd, zeros, 0])],
        "set-time" => vec![
            ("clock_settime", libc::SYS_clock_settime, vec![0, zeros]),
            ("settimeofday", libc::SYS_settimeofday, vec![zeros, 0]),
            ("clock_adjtime", libc::SYS_clock_adjtime, vec![0, adjustment()]),
            ("adjtimex", libc::SYS_adjtimex, vec![adjustment()]),
        ],
        #[cfg(target_arch = "x86_64")]
        "port-io" => vec![("iopl", libc::SYS_iopl, vec![3]), ("ioperm", libc::SYS_ioperm, vec![0x80, 1, 1])],
        #[cfg(target_arch = "x86_64")]
        "ldt" => vec![("modify_ldt", libc::SYS_modify_ldt, vec![1, zeros, 16])],
        "accounting" => {
            vec![("acct", libc::SYS_acct, vec![0]), ("quotactl", libc::SYS_quotactl, vec![0x80_0001 << 8, 0, 0, 0])]
        }
        "fanotify" => vec![("fanotify_init", libc::SYS_fanotify_init, vec![0, 0])],
        "kernel-log" => vec![
            ("syslog(READ_ALL)", libc::SYS_syslog, vec![3, zeros, 16]),
            ("syslog(CLEAR)", libc::SYS_syslog, vec![5, 0, 0]),
            ("syslog(CONSOLE_OFF)", libc::SYS_syslog, vec![6, 0, 0]),
        ],
        "host-name" => vec![
            ("sethostname", libc::SYS_sethostname, vec![text(c"attacked"), 8]),
            ("setdomainname", libc::SYS_setdomainname, vec![text(c"attacked"), 8]),
        ],
        "hang-up" => vec![("vhangup", libc::SYS_vhangup, vec![])],
        "aio" => vec![("io_setup", libc::SYS_io_setup, vec![1, address(Box::leak(Box::new(0_u64)))])],
        _ => Vec::new(),
    }
}

/// A change of the clock's rate: what it asks for stays as it is, but asking is a privilege.
fn adjustment() -> c_long {
    let mut change = vec![0_u8; 256];
    change[0] = 0x2; // ADJ_FREQUENCY
    address(change.leak())
}

/// Tries each of the calls of a group, in a process that may be lost.
fn named(args: &[String]) {
    let calls = args.first().map(|it| table(it)).unwrap_or_default();
    if calls.is_empty() {
        say::open("there is no such group of calls: nothing was tried");
    }
    for (name, number, args) in calls {
        let tried = sys::fork(|| {
            sys::alarm(5);
            judge(name, call_with(number, &args));
        });
        match tried.map(sys::wait) {
            Ok(Some(End::Signaled(signal))) if signal == libc::SIGSYS => say::held(format_args!("{name}: killed")),
            Ok(Some(End::Exited(_))) => {}
            other => say::note("trouble", format_args!("{name}: {other:?}")),
        }
    }
}

fn judge<T>(name: &str, result: Result<T, Errno>) {
    match result {
        Ok(_) => say::open(format_args!("{name} succeeds")),
        Err(error) if error.is_refusal() => say::held(format_args!("{name}: {error}")),
        Err(error) => say::open(format_args!("{name} is let through: {error}")),
    }
}

const NAMESPACES: [(&str, c_long); 8] = [
    ("user", 0x1000_0000),
    ("mount", 0x0002_0000),
    ("pid", 0x2000_0000),
    ("net", 0x4000_0000),
    ("ipc", 0x0800_0000),
    ("uts", 0x0400_0000),
    ("cgroup", 0x0200_0000),
    ("time", 0x0000_0080),
];

/// New name spaces by `unshare` and `clone`, alone and beside one of users.
fn namespaces(_: &[String]) {
    for (name, flag) in NAMESPACES {
        for flags in [flag, flag | NAMESPACES[0].1] {
            let tried =
                sys::fork(|| judge(&format!("unshare({name}, {flags:#x})"), call_with(libc::SYS_unshare, &[flags])));
            let _ = tried.map(sys::wait);
            if name == "time" {
                continue; // its number is a signal's for `clone`
            }
            let result = call_with(libc::SYS_clone, &[flags | c_long::from(libc::SIGCHLD)]);
            if result == Ok(0) {
                sys::exit(0);
            }
            judge(&format!("clone({name}, {flags:#x})"), result);
        }
    }
}

/// The call whose flags lie in memory, where no filter sees them.
fn clone3(_: &[String]) {
    for (name, flag) in NAMESPACES {
        let mut arguments = [0_u64; 11];
        arguments[0] = flag.unsigned_abs();
        arguments[4] = libc::SIGCHLD.unsigned_abs().into();
        let result = call_with(libc::SYS_clone3, &[address(&arguments), 88]);
        if result == Ok(0) {
            sys::exit(0);
        }
        judge(&format!("clone3({name})"), result);
    }
}

/// Name spaces that exist: those of the first process, and any that a descriptor leads to.
fn setns(_: &[String]) {
    let mut doors: Vec<_> = ["1", "self"]
        .iter()
        .flat_map(|pid| {
            ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"].map(|kind| format!("/proc/{pid}/ns/{kind}"))
        })
        .collect();
    doors.extend((0..64).map(|it| format!("/proc/self/fd/{it}")));
    for path in doors {
        let Ok(door) = std::fs::File::open(&path) else { continue };
        let descriptor = std::os::fd::AsRawFd::as_raw_fd(&door);
        let tried = sys::fork(|| match call_with(libc::SYS_setns, &[descriptor.into(), 0]) {
            Ok(_) => say::open(format_args!("setns({path}) succeeds")),
            Err(error) => say::held(format_args!("setns({path}): {error}")),
        });
        let _ = tried.map(sys::wait);
    }
}

/// A filter of one's own that allows all, and one that asks its maker: neither undoes the sandbox's.
fn own_filter(_: &[String]) {
    #[repr(C)]
    struct Program {
        n_instructions: u16,
        instructions: *const [u8; 8],
    }
    let allow = [[6, 0, 0, 0, 0, 0, 0xff, 0x7f]]; // return SECCOMP_RET_ALLOW
    let ask = [[6, 0, 0, 0, 0, 0, 0xc0, 0x7f]]; // return SECCOMP_RET_USER_NOTIF
    let before = call_with(libc::SYS_unshare, &[NAMESPACES[0].1]);
    judge("unshare before", before);
    for (name, instructions, flags) in [("allows all", &allow, 0), ("asks its maker", &ask, 8)] {
        let tried = sys::fork(|| {
            sys::alarm(2);
            let program = Program { n_instructions: 1, instructions: instructions.as_ptr() };
            let loaded = call_with(libc::SYS_seccomp, &[1, flags, address(&program)]);
            say::note("filter", format_args!("{name}: {loaded:?}"));
            if flags == 0 {
                judge("unshare under a filter that allows all", call_with(libc::SYS_unshare, &[NAMESPACES[0].1]));
            }
        });
        let _ = tried.map(sys::wait);
    }
}

/// A call as 32-bit programs make it.
fn int80(_: &[String]) {
    #[cfg(target_arch = "x86_64")]
    {
        let tried = sys::fork(|| {
            let found = sys::old_getpid();
            sys::exit(if found == i64::from(std::process::id()) { 1 } else { 0 });
        });
        match tried.map(sys::wait) {
            Ok(Some(End::Signaled(signal))) => say::held(format_args!("int 0x80: killed by signal {signal}")),
            Ok(Some(End::Exited(0))) => say::held("int 0x80: answered with an error"),
            other => say::open(format_args!("int 0x80 is answered: {other:?}")),
        }
    }
}

/// Flags that weaken what protects a process from itself.
fn personality(_: &[String]) {
    for (name, flag) in
        [("ADDR_NO_RANDOMIZE", 0x0004_0000), ("READ_IMPLIES_EXEC", 0x0040_0000), ("MMAP_PAGE_ZERO", 0x0010_0000)]
    {
        judge(&format!("personality({name})"), call_with(libc::SYS_personality, &[flag]));
    }
}
