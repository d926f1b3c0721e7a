//! Which system calls a sandbox may make. What is not on the list is refused, not killed, so that programs can fall back.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use super::launch_spec::{AtStep, Failure};

/// Calls that work on files, memory, processes, signals, time and sockets the process has already a right to.
const ALLOWED: &[libc::c_long] = &[
    // Files and folders
    libc::SYS_chdir, libc::SYS_close, libc::SYS_close_range, libc::SYS_copy_file_range, libc::SYS_dup, libc::SYS_dup3,
    libc::SYS_faccessat, libc::SYS_faccessat2, libc::SYS_fadvise64, libc::SYS_fallocate, libc::SYS_fchdir,
    libc::SYS_fchmod, libc::SYS_fchmodat, libc::SYS_fchown, libc::SYS_fchownat, libc::SYS_fcntl, libc::SYS_fdatasync,
    libc::SYS_fgetxattr, libc::SYS_flistxattr, libc::SYS_flock, libc::SYS_fremovexattr, libc::SYS_fsetxattr,
    libc::SYS_fstat, libc::SYS_fstatfs, libc::SYS_fsync, libc::SYS_ftruncate, libc::SYS_getcwd, libc::SYS_getdents64,
    libc::SYS_getxattr, libc::SYS_inotify_add_watch, libc::SYS_inotify_init1, libc::SYS_inotify_rm_watch,
    libc::SYS_lgetxattr, libc::SYS_linkat, libc::SYS_listxattr, libc::SYS_llistxattr, libc::SYS_lremovexattr,
    libc::SYS_lseek, libc::SYS_lsetxattr, libc::SYS_mkdirat, libc::SYS_name_to_handle_at, libc::SYS_newfstatat,
    libc::SYS_openat, libc::SYS_openat2, libc::SYS_pread64, libc::SYS_preadv, libc::SYS_preadv2, libc::SYS_pwrite64,
    libc::SYS_pwritev, libc::SYS_pwritev2, libc::SYS_read, libc::SYS_readahead, libc::SYS_readlinkat, libc::SYS_readv,
    libc::SYS_removexattr, libc::SYS_renameat, libc::SYS_renameat2, libc::SYS_sendfile, libc::SYS_setxattr,
    libc::SYS_splice, libc::SYS_statfs, libc::SYS_statx, libc::SYS_symlinkat, libc::SYS_sync, libc::SYS_sync_file_range,
    libc::SYS_syncfs, libc::SYS_tee, libc::SYS_truncate, libc::SYS_umask, libc::SYS_unlinkat, libc::SYS_utimensat,
    libc::SYS_vmsplice, libc::SYS_write, libc::SYS_writev,
    // Waiting
    libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2, libc::SYS_eventfd2,
    libc::SYS_io_cancel, libc::SYS_io_destroy, libc::SYS_io_getevents, libc::SYS_io_setup, libc::SYS_io_submit,
    libc::SYS_pipe2, libc::SYS_ppoll, libc::SYS_pselect6, libc::SYS_signalfd4,
    // Memory
    libc::SYS_brk, libc::SYS_get_mempolicy, libc::SYS_madvise, libc::SYS_membarrier, libc::SYS_memfd_create,
    libc::SYS_mincore, libc::SYS_mlock, libc::SYS_mlock2, libc::SYS_mlockall, libc::SYS_mmap, libc::SYS_mprotect,
    libc::SYS_mremap, libc::SYS_msync, libc::SYS_munlock, libc::SYS_munlockall, libc::SYS_munmap, libc::SYS_pkey_alloc,
    libc::SYS_pkey_free, libc::SYS_pkey_mprotect, libc::SYS_remap_file_pages,
    // Processes and threads
    libc::SYS_capget, libc::SYS_capset, libc::SYS_execve, libc::SYS_execveat, libc::SYS_exit, libc::SYS_exit_group,
    libc::SYS_futex, libc::SYS_futex_waitv, libc::SYS_get_robust_list, libc::SYS_getcpu, libc::SYS_getegid,
    libc::SYS_geteuid, libc::SYS_getgid, libc::SYS_getgroups, libc::SYS_getpgid, libc::SYS_getpid, libc::SYS_getppid,
    libc::SYS_getpriority, libc::SYS_getresgid, libc::SYS_getresuid, libc::SYS_getrlimit, libc::SYS_getrusage,
    libc::SYS_getsid, libc::SYS_gettid, libc::SYS_getuid, libc::SYS_ioprio_get, libc::SYS_ioprio_set, libc::SYS_kill,
    libc::SYS_landlock_add_rule, libc::SYS_landlock_create_ruleset, libc::SYS_landlock_restrict_self,
    libc::SYS_pidfd_open, libc::SYS_pidfd_send_signal, libc::SYS_prctl, libc::SYS_prlimit64,
    libc::SYS_restart_syscall, libc::SYS_rseq, libc::SYS_sched_get_priority_max, libc::SYS_sched_get_priority_min,
    libc::SYS_sched_getaffinity, libc::SYS_sched_getattr, libc::SYS_sched_getparam, libc::SYS_sched_getscheduler,
    libc::SYS_sched_rr_get_interval, libc::SYS_sched_setaffinity, libc::SYS_sched_setattr, libc::SYS_sched_setparam,
    libc::SYS_sched_setscheduler, libc::SYS_sched_yield, libc::SYS_seccomp, libc::SYS_set_robust_list,
    libc::SYS_set_tid_address, libc::SYS_setfsgid, libc::SYS_setfsuid, libc::SYS_setgid, libc::SYS_setgroups,
    libc::SYS_setpgid, libc::SYS_setpriority, libc::SYS_setregid, libc::SYS_setresgid, libc::SYS_setresuid,
    libc::SYS_setreuid, libc::SYS_setrlimit, libc::SYS_setsid, libc::SYS_setuid, libc::SYS_tgkill, libc::SYS_tkill,
    libc::SYS_wait4, libc::SYS_waitid,
    // Signals
    libc::SYS_rt_sigaction, libc::SYS_rt_sigpending, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_sigreturn, libc::SYS_rt_sigsuspend, libc::SYS_rt_sigtimedwait, libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_sigaltstack,
    // Time
    libc::SYS_clock_getres, libc::SYS_clock_gettime, libc::SYS_clock_nanosleep, libc::SYS_getitimer,
    libc::SYS_gettimeofday, libc::SYS_nanosleep, libc::SYS_setitimer, libc::SYS_timer_create, libc::SYS_timer_delete,
    libc::SYS_timer_getoverrun, libc::SYS_timer_gettime, libc::SYS_timer_settime, libc::SYS_timerfd_create,
    libc::SYS_timerfd_gettime, libc::SYS_timerfd_settime, libc::SYS_times,
    // Sockets (which kinds, is decided when one is made)
    libc::SYS_accept, libc::SYS_accept4, libc::SYS_bind, libc::SYS_connect, libc::SYS_getpeername,
    libc::SYS_getsockname, libc::SYS_getsockopt, libc::SYS_listen, libc::SYS_recvfrom, libc::SYS_recvmmsg,
    libc::SYS_recvmsg, libc::SYS_sendmmsg, libc::SYS_sendmsg, libc::SYS_sendto, libc::SYS_setsockopt,
    libc::SYS_shutdown,
    // System V and POSIX objects, which the sandbox has its own name space of
    libc::SYS_mq_getsetattr, libc::SYS_mq_notify, libc::SYS_mq_open, libc::SYS_mq_timedreceive,
    libc::SYS_mq_timedsend, libc::SYS_mq_unlink, libc::SYS_msgctl, libc::SYS_msgget, libc::SYS_msgrcv,
    libc::SYS_msgsnd, libc::SYS_semctl, libc::SYS_semget, libc::SYS_semop, libc::SYS_semtimedop, libc::SYS_shmat,
    libc::SYS_shmctl, libc::SYS_shmdt, libc::SYS_shmget,
    // The machine
    libc::SYS_getrandom, libc::SYS_sysinfo, libc::SYS_uname,
    // Newer calls, whose numbers every architecture shares
    libc::SYS_process_mrelease, 451 /* cachestat */, libc::SYS_fchmodat2, 453 /* map_shadow_stack */,
    454 /* futex_wake */, 455 /* futex_wait */, 456 /* futex_requeue */, libc::SYS_mseal,
    463 /* setxattrat */, 464 /* getxattrat */, 465 /* listxattrat */, 466 /* removexattrat */,
];

/// The older calls that only x86-64 still has.
#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: &[libc::c_long] = &[
    libc::SYS_access, libc::SYS_alarm, libc::SYS_arch_prctl, libc::SYS_chmod, libc::SYS_chown, libc::SYS_creat,
    libc::SYS_dup2, libc::SYS_epoll_create, libc::SYS_epoll_wait, libc::SYS_eventfd, libc::SYS_fork,
    libc::SYS_futimesat, libc::SYS_getdents, libc::SYS_getpgrp, libc::SYS_inotify_init, libc::SYS_lchown,
    libc::SYS_link, libc::SYS_lstat, libc::SYS_mkdir, libc::SYS_open, libc::SYS_pause, libc::SYS_pipe,
    libc::SYS_poll, libc::SYS_readlink, libc::SYS_rename, libc::SYS_rmdir, libc::SYS_select, libc::SYS_signalfd,
    libc::SYS_stat, libc::SYS_symlink, libc::SYS_time, libc::SYS_unlink, libc::SYS_utime, libc::SYS_utimes,
    libc::SYS_vfork,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[libc::c_long] = &[];

/// The first number past the newest system call that the list above was written for, and how far calls may yet come.
const UNKNOWN: std::ops::Range<i64> = 470..512;

/// Compiles the filters, in the order in which they are to be loaded.
pub(super) fn filters() -> Result<[BpfProgram; 2], Failure> {
    compile().at("compile the system call filter")
}

/// Loads the filters; from here on this process and its children are held to them.
pub(super) fn load(filters: &[BpfProgram]) -> Result<(), Failure> {
    filters.iter().try_for_each(|filter| seccompiler::apply_filter(filter)).at("load the system call filter")
}

fn compile() -> Result<[BpfProgram; 2], Error> {
    let arch = || TargetArch::try_from(std::env::consts::ARCH).map_err(Error::Backend);
    let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let unknown = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let allowed = SeccompFilter::new(allowed()?, refuse, SeccompAction::Allow, arch()?)?;
    // Programs ask whether a call exists by making it: these answer no, so that the older call is taken.
    let missing = std::iter::once(libc::SYS_clone3).chain(UNKNOWN).map(|call| (call, Vec::new())).collect();
    let missing = SeccompFilter::new(missing, SeccompAction::Allow, unknown, arch()?)?;
    Ok([BpfProgram::try_from(allowed)?, BpfProgram::try_from(missing)?])
}

fn allowed() -> Result<BTreeMap<i64, Vec<SeccompRule>>, Error> {
    let mut rules: BTreeMap<_, _> = ALLOWED.iter().chain(ALLOWED_HERE).map(|call| (*call, Vec::new())).collect();
    let conditions: [(libc::c_long, Vec<Vec<Condition>>); 7] = [
        (libc::SYS_clone, vec![vec![unset(0, NAMESPACES)]]),
        (libc::SYS_ioctl, vec![vec![differs(1, libc::TIOCSTI), differs(1, libc::TIOCLINUX)]]),
        (libc::SYS_personality, vec![vec![is(0, 0)], vec![is(0, 0xffff_ffff)]]),
        (libc::SYS_socket, sockets()),
        (libc::SYS_socketpair, vec![vec![is(0, libc::AF_UNIX as u64)]]),
        (libc::SYS_mknodat, plain_nodes(2)),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_mknod, plain_nodes(1)),
    ];
    for (call, alternatives) in conditions {
        let alternatives = alternatives.into_iter().map(|all| {
            let all = all.into_iter().map(|(arg, op, value)| SeccompCondition::new(arg, SeccompCmpArgLen::Dword, op, value));
            SeccompRule::new(all.collect::<Result<_, _>>()?)
        });
        rules.insert(call, alternatives.collect::<Result<_, _>>().map_err(Error::Backend)?);
    }
    Ok(rules)
}

/// Argument number, comparison, value. Only the lower half of an argument counts: all of these are C `int`s.
type Condition = (u8, SeccompCmpOp, u64);

const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;

const fn is(arg: u8, value: u64) -> Condition {
    (arg, SeccompCmpOp::Eq, value)
}

const fn differs(arg: u8, value: u64) -> Condition {
    (arg, SeccompCmpOp::Ne, value)
}

const fn unset(arg: u8, bits: u64) -> Condition {
    (arg, SeccompCmpOp::MaskedEq(bits), 0)
}

/// Local sockets, TCP and UDP, and the routing questions that listing network interfaces needs.
fn sockets() -> Vec<Vec<Condition>> {
    const KIND: u64 = 0xf; // the rest of the argument is flags
    const MPTCP: u64 = 262;
    let mut kinds = vec![
        vec![is(0, libc::AF_UNIX as u64)],
        vec![is(0, libc::AF_NETLINK as u64), is(2, libc::NETLINK_ROUTE as u64)],
    ];
    for family in [libc::AF_INET, libc::AF_INET6] {
        for (kind, protocols) in [
            (libc::SOCK_STREAM, [0, libc::IPPROTO_TCP as u64, MPTCP].as_slice()),
            (libc::SOCK_DGRAM, [0, libc::IPPROTO_UDP as u64].as_slice()),
        ] {
            kinds.extend(protocols.iter().map(|protocol| {
                vec![is(0, family as u64), (1, SeccompCmpOp::MaskedEq(KIND), kind as u64), is(2, *protocol)]
            }));
        }
    }
    kinds
}

/// Files, pipes and sockets; no devices.
fn plain_nodes(arg: u8) -> Vec<Vec<Condition>> {
    [0, libc::S_IFREG, libc::S_IFIFO, libc::S_IFSOCK]
        .map(|kind| vec![(arg, SeccompCmpOp::MaskedEq(u64::from(libc::S_IFMT)), u64::from(kind))])
        .to_vec()
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const X86_64: u32 = 0xc000_003e;
    const I386: u32 = 0x4000_0003;
    const ALLOW: u32 = 0x7fff_0000;
    const KILL: u32 = 0x8000_0000;
    const EPERM: u32 = 0x0005_0000 | libc::EPERM.unsigned_abs();
    const ENOSYS: u32 = 0x0005_0000 | libc::ENOSYS.unsigned_abs();

    /// Runs one filter as the kernel does; of classic BPF only what such filters are made of.
    fn run(filter: &BpfProgram, data: &[u8; 64]) -> u32 {
        let (mut at, mut value) = (0, 0_u32);
        loop {
            let it = &filter[at];
            at += 1;
            let jump = |taken: bool| usize::from(if taken { it.jt } else { it.jf });
            match it.code {
                0x20 => value = u32::from_le_bytes(data[it.k as usize..][..4].try_into().unwrap()),
                0x54 => value &= it.k,
                0x05 => at += it.k as usize,
                0x15 => at += jump(value == it.k),
                0x25 => at += jump(value > it.k),
                0x35 => at += jump(value >= it.k),
                0x06 => return it.k,
                code => panic!("an instruction that this test does not know: {code:#x}"),
            }
        }
    }

    /// What the kernel does with a call: of two answers that refuse, the one of the filter that was loaded last counts.
    fn verdict(filters: &[BpfProgram], arch: u32, call: u32, args: [u64; 6]) -> u32 {
        let mut data = [0; 64];
        data[..4].copy_from_slice(&call.to_le_bytes());
        data[4..8].copy_from_slice(&arch.to_le_bytes());
        for (place, arg) in data[16..].chunks_mut(8).zip(args) {
            place.copy_from_slice(&arg.to_le_bytes());
        }
        let strength = |verdict: u32| (verdict & 0xffff_0000).cast_signed();
        filters.iter().rev().map(|it| run(it, &data)).reduce(|a, b| if strength(b) < strength(a) { b } else { a }).unwrap()
    }

    #[track_caller]
    fn check(call: libc::c_long, args: [u64; 6], expected: u32) {
        let found = verdict(&filters().unwrap(), X86_64, u32::try_from(call).unwrap(), args);
        assert_eq!(found, expected, "call {call} {args:x?}: {found:#x}");
    }

    #[test]
    fn every_number_is_answered_as_the_list_says() {
        let filters = filters().unwrap();
        let allowed: BTreeSet<_> = ALLOWED.iter().chain(ALLOWED_HERE).copied().collect();
        let conditional: BTreeSet<_> = super::allowed().unwrap().into_keys().filter(|it| !allowed.contains(it)).collect();
        for call in 0..2048 {
            let expected = match i64::from(call) {
                it if allowed.contains(&it) => ALLOW,
                it if conditional.contains(&it) => continue,
                libc::SYS_clone3 => ENOSYS,
                it if UNKNOWN.contains(&it) => ENOSYS,
                _ => EPERM,
            };
            assert_eq!(verdict(&filters, X86_64, call, [0; 6]), expected, "call {call}");
            assert_eq!(verdict(&filters, X86_64, call | 0x4000_0000, [0; 6]), EPERM, "x32 call {call}");
            assert_eq!(verdict(&filters, I386, call, [0; 6]), KILL, "32-bit call {call}");
        }
    }

    #[test]
    fn arguments_decide_where_the_call_alone_cannot() {
        check(libc::SYS_clone, [libc::SIGCHLD as u64, 0, 0, 0, 0, 0], ALLOW);
        check(libc::SYS_clone, [libc::CLONE_NEWUSER as u64, 0, 0, 0, 0, 0], EPERM);
        check(libc::SYS_personality, [0; 6], ALLOW);
        check(libc::SYS_personality, [0xffff_ffff, 0, 0, 0, 0, 0], ALLOW);
        check(libc::SYS_personality, [0x0004_0000, 0, 0, 0, 0, 0], EPERM);
        check(libc::SYS_ioctl, [0, libc::TCGETS, 0, 0, 0, 0], ALLOW);
        check(libc::SYS_ioctl, [0, libc::TIOCSTI, 0, 0, 0, 0], EPERM);
        check(libc::SYS_ioctl, [0, libc::TIOCLINUX, 0, 0, 0, 0], EPERM);
        check(libc::SYS_ioctl, [0, libc::TIOCSTI | 1 << 32, 0, 0, 0, 0], EPERM);
        check(libc::SYS_mknod, [0, u64::from(libc::S_IFIFO), 0, 0, 0, 0], ALLOW);
        check(libc::SYS_mknod, [0, u64::from(libc::S_IFBLK), 0, 0, 0, 0], EPERM);
        check(libc::SYS_mknodat, [0, 0, u64::from(libc::S_IFCHR), 0, 0, 0], EPERM);
        let socket = |family: i32, kind: i32, protocol: i32| [family as u64, kind as u64, protocol as u64, 0, 0, 0];
        check(libc::SYS_socket, socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0), ALLOW);
        check(libc::SYS_socket, socket(libc::AF_INET, libc::SOCK_RAW, 0), EPERM);
        check(libc::SYS_socket, socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_SCTP), EPERM);
        check(libc::SYS_socket, socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_AUDIT), EPERM);
        check(libc::SYS_socketpair, socket(libc::AF_UNIX, libc::SOCK_STREAM, 0), ALLOW);
        check(libc::SYS_socketpair, socket(libc::AF_TIPC, libc::SOCK_STREAM, 0), EPERM);
    }
}
