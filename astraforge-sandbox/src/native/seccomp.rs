//! Which system calls a sandbox may make. What is not on the list is refused, not killed, so that programs can fall back.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use self::tree::Answer;
use super::launch_spec::{AtStep, Failure};

mod tree;

/// Lists system calls; libc names their numbers.
macro_rules! calls {
    ($($name:ident)*) => { &[$(libc::$name),*] };
}

/// Calls that work on files, memory, processes, signals, time and sockets the process has already a right to.
const ALLOWED: &[libc::c_long] = calls! {
    // Files and folders
    SYS_chdir SYS_close SYS_close_range SYS_copy_file_range SYS_dup SYS_dup3 SYS_faccessat SYS_faccessat2
    SYS_fadvise64 SYS_fallocate SYS_fchdir SYS_fchmod SYS_fchmodat SYS_fchmodat2 SYS_fchown SYS_fchownat SYS_fcntl
    SYS_fdatasync SYS_fgetxattr SYS_flistxattr SYS_flock SYS_fremovexattr SYS_fsetxattr SYS_fstat SYS_fstatfs
    SYS_fsync SYS_ftruncate SYS_getcwd SYS_getdents64 SYS_getxattr SYS_inotify_add_watch SYS_inotify_init1
    SYS_inotify_rm_watch SYS_lgetxattr SYS_linkat SYS_listxattr SYS_llistxattr SYS_lremovexattr SYS_lseek
    SYS_lsetxattr SYS_mkdirat SYS_name_to_handle_at SYS_newfstatat SYS_openat SYS_openat2 SYS_pread64 SYS_preadv
    SYS_preadv2 SYS_pwrite64 SYS_pwritev SYS_pwritev2 SYS_read SYS_readahead SYS_readlinkat SYS_readv
    SYS_removexattr SYS_renameat SYS_renameat2 SYS_sendfile SYS_setxattr SYS_splice SYS_statfs SYS_statx
    SYS_symlinkat SYS_sync SYS_sync_file_range SYS_syncfs SYS_tee SYS_truncate SYS_umask SYS_unlinkat SYS_utimensat
    SYS_vmsplice SYS_write SYS_writev
    // Waiting
    SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_pwait2 SYS_eventfd2 SYS_pipe2 SYS_ppoll SYS_pselect6
    SYS_signalfd4
    // Memory
    SYS_brk SYS_get_mempolicy SYS_madvise SYS_membarrier SYS_memfd_create SYS_mincore SYS_mlock SYS_mlock2
    SYS_mlockall SYS_mmap SYS_mprotect SYS_mremap SYS_mseal SYS_msync SYS_munlock SYS_munlockall SYS_munmap
    SYS_pkey_alloc SYS_pkey_free SYS_pkey_mprotect SYS_remap_file_pages
    // Processes and threads
    SYS_capget SYS_capset SYS_execve SYS_execveat SYS_exit SYS_exit_group SYS_futex SYS_futex_waitv
    SYS_get_robust_list SYS_getcpu SYS_getegid SYS_geteuid SYS_getgid SYS_getgroups SYS_getpgid SYS_getpid
    SYS_getppid SYS_getpriority SYS_getresgid SYS_getresuid SYS_getrlimit SYS_getrusage SYS_getsid SYS_gettid
    SYS_getuid SYS_ioprio_get SYS_ioprio_set SYS_kill SYS_landlock_add_rule SYS_landlock_create_ruleset
    SYS_landlock_restrict_self SYS_pidfd_open SYS_pidfd_send_signal SYS_prctl SYS_prlimit64 SYS_process_mrelease
    SYS_restart_syscall SYS_rseq SYS_sched_get_priority_max SYS_sched_get_priority_min SYS_sched_getaffinity
    SYS_sched_getattr SYS_sched_getparam SYS_sched_getscheduler SYS_sched_rr_get_interval SYS_sched_setaffinity
    SYS_sched_setattr SYS_sched_setparam SYS_sched_setscheduler SYS_sched_yield SYS_seccomp SYS_set_robust_list
    SYS_set_tid_address SYS_setfsgid SYS_setfsuid SYS_setgid SYS_setgroups SYS_setpgid SYS_setpriority SYS_setregid
    SYS_setresgid SYS_setresuid SYS_setreuid SYS_setrlimit SYS_setsid SYS_setuid SYS_tgkill SYS_tkill SYS_wait4
    SYS_waitid
    // Signals
    SYS_rt_sigaction SYS_rt_sigpending SYS_rt_sigprocmask SYS_rt_sigqueueinfo SYS_rt_sigreturn SYS_rt_sigsuspend
    SYS_rt_sigtimedwait SYS_rt_tgsigqueueinfo SYS_sigaltstack
    // Time
    SYS_clock_getres SYS_clock_gettime SYS_clock_nanosleep SYS_getitimer SYS_gettimeofday SYS_nanosleep
    SYS_setitimer SYS_timer_create SYS_timer_delete SYS_timer_getoverrun SYS_timer_gettime SYS_timer_settime
    SYS_timerfd_create SYS_timerfd_gettime SYS_timerfd_settime SYS_times
    // Sockets (which kinds, is decided when one is made)
    SYS_accept SYS_accept4 SYS_bind SYS_connect SYS_getpeername SYS_getsockname SYS_getsockopt SYS_listen
    SYS_recvfrom SYS_recvmmsg SYS_recvmsg SYS_sendmmsg SYS_sendmsg SYS_sendto SYS_setsockopt SYS_shutdown
    // System V and POSIX objects, which the sandbox has its own name space of
    SYS_mq_getsetattr SYS_mq_notify SYS_mq_open SYS_mq_timedreceive SYS_mq_timedsend SYS_mq_unlink SYS_msgctl
    SYS_msgget SYS_msgrcv SYS_msgsnd SYS_semctl SYS_semget SYS_semop SYS_semtimedop SYS_shmat SYS_shmctl SYS_shmdt
    SYS_shmget
    // The machine
    SYS_getrandom SYS_sysinfo SYS_uname
};

/// Newer calls that libc does not name yet; every architecture has them under the same number.
const ALLOWED_NEWER: &[libc::c_long] = &[
    451, // cachestat
    453, // map_shadow_stack
    454, // futex_wake
    455, // futex_wait
    456, // futex_requeue
    463, // setxattrat
    464, // getxattrat
    465, // listxattrat
    466, // removexattrat
];

/// The older calls that only x86-64 still has.
#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: &[libc::c_long] = calls! {
    SYS_access SYS_alarm SYS_arch_prctl SYS_chmod SYS_chown SYS_creat SYS_dup2 SYS_epoll_create SYS_epoll_wait
    SYS_eventfd SYS_fork SYS_futimesat SYS_getdents SYS_getpgrp SYS_inotify_init SYS_lchown SYS_link SYS_lstat
    SYS_mkdir SYS_open SYS_pause SYS_pipe SYS_poll SYS_readlink SYS_rename SYS_rmdir SYS_select SYS_signalfd
    SYS_stat SYS_symlink SYS_time SYS_unlink SYS_utime SYS_utimes SYS_vfork
};
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[libc::c_long] = &[];

/// Calls that are answered as if the kernel had none of them, so that programs take another way.
///
/// `clone3` has its flags where no filter can see them. What `io_setup` hands out the kernel counts for the whole
/// machine: a sandbox could leave the host's databases without.
const MISSING: &[libc::c_long] = calls! { SYS_clone3 SYS_io_setup };

/// All that is allowed whatever its arguments are.
fn unconditional() -> impl Iterator<Item = libc::c_long> {
    ALLOWED.iter().chain(ALLOWED_NEWER).chain(ALLOWED_HERE).copied()
}

/// The first number past the newest system call that the list above was written for, and how far calls may yet come.
const UNKNOWN: std::ops::Range<i64> = 470..N_CALLS as i64;
/// So many numbers have an answer of their own.
const N_CALLS: usize = 512;

/// Compiles the filters, in the order in which they are to be loaded.
pub(crate) fn filters() -> Result<[BpfProgram; 2], Failure> {
    compile().at("compile the system call filter")
}

/// Tells whether a call is refused whatever its arguments are.
#[cfg(feature = "attack")]
pub(super) fn refuses(call: i64) -> bool {
    let mut conditional = conditions().into_iter().map(|(it, _)| it);
    !unconditional().any(|it| it == call) && !conditional.any(|it| it == call)
}

/// Loads the filters; from here on this process and its children are held to them.
pub(crate) fn load(filters: &[BpfProgram]) -> Result<(), Failure> {
    filters.iter().try_for_each(|filter| seccompiler::apply_filter(filter)).at("load the system call filter")
}

fn compile() -> Result<[BpfProgram; 2], Error> {
    let arch = || TargetArch::try_from(std::env::consts::ARCH).map_err(Error::Backend);
    let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let arguments = SeccompFilter::new(arguments()?, refuse, SeccompAction::Allow, arch()?)?;
    let allowed = tree::before(arguments.try_into()?, &answers());
    // Programs that hold secrets forbid dumps, and some end when they may not: they are told that it is done.
    let done = SeccompAction::Errno(0);
    let kept = SeccompFilter::new(core_limit().map_err(Error::Backend)?, SeccompAction::Allow, done, arch()?)?;
    Ok([allowed, kept.try_into()?])
}

/// What is answered to each number before any argument is looked at; to those that follow, the last.
fn answers() -> Vec<Answer> {
    let error = |errno: i32| Answer::Return(libc::SECCOMP_RET_ERRNO | errno.unsigned_abs());
    let mut answers = vec![error(libc::EPERM); N_CALLS + 1];
    let mut set = |call: libc::c_long, answer| {
        let place = usize::try_from(call).ok().and_then(|it| answers[..N_CALLS].get_mut(it));
        // A call that is beyond them stays refused, and no test passes.
        place.into_iter().for_each(|it| *it = answer);
    };
    // Programs ask whether a call exists by making it: these answer no, so that the older call is taken.
    MISSING.iter().copied().chain(UNKNOWN).for_each(|call| set(call, error(libc::ENOSYS)));
    conditions().into_iter().for_each(|(call, _)| set(call, Answer::Arguments));
    unconditional().for_each(|call| set(call, Answer::Return(libc::SECCOMP_RET_ALLOW)));
    answers
}

/// Changes of the limit on core dumps.
///
/// It is one byte. With that the kernel writes no dump and, where the host hands dumps to a program of its own, does
/// not start it; with none at all it would, as the host's root and on what the sandbox has put into the dump.
fn core_limit() -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
    let is_core = |arg| SeccompCondition::new(arg, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, libc::RLIMIT_CORE.into());
    let sets = SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Ne, 0)?;
    Ok(BTreeMap::from([
        (libc::SYS_setrlimit, vec![SeccompRule::new(vec![is_core(0)?])?]),
        (libc::SYS_prlimit64, vec![SeccompRule::new(vec![is_core(1)?, sets])?]),
    ]))
}

/// What the arguments have to be where they decide.
fn arguments() -> Result<BTreeMap<i64, Vec<SeccompRule>>, Error> {
    let mut rules = BTreeMap::new();
    for (call, alternatives) in conditions() {
        let alternatives = alternatives.into_iter().map(|all| {
            let all =
                all.into_iter().map(|(arg, op, value)| SeccompCondition::new(arg, SeccompCmpArgLen::Dword, op, value));
            SeccompRule::new(all.collect::<Result<_, _>>()?)
        });
        rules.insert(call, alternatives.collect::<Result<_, _>>().map_err(Error::Backend)?);
    }
    Ok(rules)
}

/// The calls whose arguments decide, with the alternatives of which one has to hold.
fn conditions() -> Vec<(libc::c_long, Vec<Vec<Condition>>)> {
    vec![
        (libc::SYS_clone, vec![vec![unset(0, NAMESPACES)]]),
        (libc::SYS_ioctl, vec![vec![differs(1, libc::TIOCSTI), differs(1, libc::TIOCLINUX)]]),
        (libc::SYS_personality, vec![vec![is(0, 0)], vec![is(0, 0xffff_ffff)]]),
        (libc::SYS_socket, sockets()),
        (libc::SYS_socketpair, vec![vec![is(0, libc::AF_UNIX as u64)]]),
        (libc::SYS_mknodat, plain_nodes(2)),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_mknod, plain_nodes(1)),
    ]
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

#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const X86_64: u32 = 0xc000_003e;
    const I386: u32 = 0x4000_0003;
    const ALLOW: u32 = 0x7fff_0000;
    const KILL: u32 = 0x8000_0000;
    const EPERM: u32 = 0x0005_0000 | libc::EPERM.unsigned_abs();
    const ENOSYS: u32 = 0x0005_0000 | libc::ENOSYS.unsigned_abs();
    const DONE: u32 = 0x0005_0000;

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
        filters
            .iter()
            .rev()
            .map(|it| run(it, &data))
            .reduce(|a, b| if strength(b) < strength(a) { b } else { a })
            .unwrap()
    }

    #[track_caller]
    fn check(call: libc::c_long, args: [u64; 6], expected: u32) {
        let found = verdict(&filters().unwrap(), X86_64, u32::try_from(call).unwrap(), args);
        assert_eq!(found, expected, "call {call} {args:x?}: {found:#x}");
    }

    #[test]
    fn every_number_is_answered_as_the_list_says() {
        let filters = filters().unwrap();
        let allowed: BTreeSet<_> = unconditional().collect();
        let conditional: BTreeSet<_> = conditions().into_iter().map(|(it, _)| it).collect();
        for call in 0..2048 {
            let expected = match i64::from(call) {
                it if allowed.contains(&it) => ALLOW,
                it if conditional.contains(&it) => continue,
                it if MISSING.contains(&it) => ENOSYS,
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
        check(libc::SYS_setrlimit, [libc::RLIMIT_CORE.into(), 1, 0, 0, 0, 0], DONE);
        check(libc::SYS_setrlimit, [libc::RLIMIT_NOFILE.into(), 1, 0, 0, 0, 0], ALLOW);
        check(libc::SYS_prlimit64, [0, libc::RLIMIT_CORE.into(), 1 << 40, 0, 0, 0], DONE);
        check(libc::SYS_prlimit64, [0, libc::RLIMIT_CORE.into(), 0, 1, 0, 0], ALLOW);
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
