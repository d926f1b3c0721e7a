//! What an attacker's program sees and tries. These run inside a sandbox, started by [`attacks`](super::attacks).
#![expect(unsafe_code, reason = "an attacker does not go through a safe wrapper")]

use std::{
    collections::BTreeSet,
    fs, io,
    net::TcpStream,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixStream},
    },
};

fn call(number: libc::c_long, args: [libc::c_long; 6]) -> Result<libc::c_long, i32> {
    let [a, b, c, d, e, f] = args;
    // SAFETY: the calls below are to be refused before the kernel looks at an argument; those that are not are given
    // arguments that it finds invalid.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result == -1 { Err(io::Error::last_os_error().raw_os_error().unwrap()) } else { Ok(result) }
}

#[track_caller]
fn refused(name: &str, number: libc::c_long, args: [libc::c_long; 6]) {
    assert_eq!(call(number, args), Err(libc::EPERM), "{name}");
}

#[test]
#[ignore = "runs inside a sandbox"]
fn calls_that_reach_beyond_the_sandbox_are_refused() {
    let none = [0; 6];
    for (name, number) in [
        ("acct", libc::SYS_acct),
        ("add_key", libc::SYS_add_key),
        ("bpf", libc::SYS_bpf),
        ("chroot", libc::SYS_chroot),
        ("clock_adjtime", libc::SYS_clock_adjtime),
        ("clock_settime", libc::SYS_clock_settime),
        ("delete_module", libc::SYS_delete_module),
        ("fanotify_init", libc::SYS_fanotify_init),
        ("finit_module", libc::SYS_finit_module),
        ("fsconfig", libc::SYS_fsconfig),
        ("fsmount", libc::SYS_fsmount),
        ("fsopen", libc::SYS_fsopen),
        ("fspick", libc::SYS_fspick),
        ("init_module", libc::SYS_init_module),
        ("io_uring_enter", libc::SYS_io_uring_enter),
        ("io_uring_register", libc::SYS_io_uring_register),
        ("io_uring_setup", libc::SYS_io_uring_setup),
        ("kcmp", libc::SYS_kcmp),
        ("kexec_load", libc::SYS_kexec_load),
        ("keyctl", libc::SYS_keyctl),
        ("mount", libc::SYS_mount),
        ("mount_setattr", libc::SYS_mount_setattr),
        ("move_mount", libc::SYS_move_mount),
        ("open_by_handle_at", libc::SYS_open_by_handle_at),
        ("open_tree", libc::SYS_open_tree),
        ("perf_event_open", libc::SYS_perf_event_open),
        ("pidfd_getfd", libc::SYS_pidfd_getfd),
        ("pivot_root", libc::SYS_pivot_root),
        ("process_madvise", libc::SYS_process_madvise),
        ("process_vm_readv", libc::SYS_process_vm_readv),
        ("process_vm_writev", libc::SYS_process_vm_writev),
        ("ptrace", libc::SYS_ptrace),
        ("quotactl", libc::SYS_quotactl),
        ("reboot", libc::SYS_reboot),
        ("request_key", libc::SYS_request_key),
        ("setns", libc::SYS_setns),
        ("settimeofday", libc::SYS_settimeofday),
        ("swapoff", libc::SYS_swapoff),
        ("swapon", libc::SYS_swapon),
        ("syslog", libc::SYS_syslog),
        ("umount2", libc::SYS_umount2),
        ("unshare", libc::SYS_unshare),
        ("userfaultfd", libc::SYS_userfaultfd),
        ("vhangup", libc::SYS_vhangup),
        #[cfg(target_arch = "x86_64")]
        ("ioperm", libc::SYS_ioperm),
        #[cfg(target_arch = "x86_64")]
        ("iopl", libc::SYS_iopl),
        #[cfg(target_arch = "x86_64")]
        ("modify_ldt", libc::SYS_modify_ldt),
        #[cfg(target_arch = "x86_64")]
        ("getpid of x32", libc::SYS_getpid | 0x4000_0000),
    ] {
        refused(name, number, none);
    }
    for flag in [libc::CLONE_NEWUSER, libc::CLONE_NEWNS, libc::CLONE_NEWPID, libc::CLONE_NEWNET, libc::CLONE_NEWCGROUP]
    {
        refused("clone", libc::SYS_clone, [i64::from(flag | libc::SIGCHLD), 0, 0, 0, 0, 0]);
    }
    assert_eq!(call(libc::SYS_clone3, none), Err(libc::ENOSYS), "clone3");
    refused("personality", libc::SYS_personality, [i64::from(libc::ADDR_NO_RANDOMIZE), 0, 0, 0, 0, 0]);
    refused("ioctl(TIOCSTI)", libc::SYS_ioctl, [0, libc::TIOCSTI.cast_signed(), 0, 0, 0, 0]);
    // The kernel takes only half of the argument: a filter that compares all of it can be got round.
    refused("ioctl(TIOCSTI)", libc::SYS_ioctl, [0, (libc::TIOCSTI | 1 << 40).cast_signed(), 0, 0, 0, 0]);
    let device = i64::from(libc::S_IFCHR | 0o600);
    refused("mknod", libc::SYS_mknodat, [i64::from(libc::AT_FDCWD), c"/tmp/null".as_ptr() as i64, device, 0x103, 0, 0]);
}

#[test]
#[ignore = "runs inside a sandbox"]
fn only_local_tcp_and_udp_sockets_can_be_made() {
    let socket = |family: i32, kind: i32, protocol: i32| {
        call(libc::SYS_socket, [i64::from(family), i64::from(kind), i64::from(protocol), 0, 0, 0])
    };
    for (family, kind, protocol) in [
        (libc::AF_PACKET, libc::SOCK_RAW, 0),
        (libc::AF_ALG, libc::SOCK_SEQPACKET, 0),
        (libc::AF_VSOCK, libc::SOCK_STREAM, 0),
        (libc::AF_XDP, libc::SOCK_RAW, 0),
        (libc::AF_TIPC, libc::SOCK_STREAM, 0),
        (libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP),
        (libc::AF_INET, libc::SOCK_SEQPACKET, 0),
        (libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_SCTP),
        (libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_ICMPV6),
        (libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_KOBJECT_UEVENT),
        (libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_NETFILTER),
        (libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_AUDIT),
    ] {
        assert_eq!(socket(family, kind, protocol), Err(libc::EPERM), "{family} {kind} {protocol}");
    }
    for (family, kind, protocol) in [
        (libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0),
        (libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, libc::IPPROTO_TCP),
        (libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_UDP),
        (libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE),
    ] {
        assert!(socket(family, kind, protocol).is_ok(), "{family} {kind} {protocol}");
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
#[ignore = "runs inside a sandbox, and is killed there"]
fn a_call_of_another_architecture() {
    // SAFETY: asks for the process id the way 32-bit programs do; changes nothing but the named register.
    unsafe { std::arch::asm!("int 0x80", inout("eax") 20 => _) };
}

#[test]
#[ignore = "runs inside a sandbox"]
fn there_is_no_privilege_to_use() {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let field = |name: &str| status.lines().find_map(|it| it.strip_prefix(name)).unwrap().trim().to_owned();
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!((field("NoNewPrivs:").as_str(), field("Seccomp:").as_str()), ("1", "2"));
    assert_eq!(field("Uid:"), "1000\t1000\t1000\t1000");
    for (name, number) in [("setuid", libc::SYS_setuid), ("setgid", libc::SYS_setgid)] {
        assert!(call(number, [0; 6]).is_err(), "{name}");
    }
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    assert!(limits.lines().any(|it| it.starts_with("Max core file size        0                    0 ")), "{limits}");
}

#[test]
#[ignore = "runs inside a sandbox"]
fn proc_tells_and_steers_nothing_of_the_host() {
    for path in [
        "/proc/1/environ",
        "/proc/1/mem",
        "/proc/1/maps",
        "/proc/1/root/",
        "/proc/1/cwd/",
        "/proc/1/fd",
        "/proc/1/exe",
        "/proc/1/task/1/root/",
        "/proc/self/task/1/root/",
    ] {
        let read = fs::File::open(path).and_then(|mut it| io::Read::read(&mut it, &mut [0]));
        assert!(read.is_err(), "{path} can be read");
        assert!(fs::read_dir(path).is_err(), "{path} can be listed");
    }
    for path in ["/proc/kcore", "/proc/kallsyms", "/proc/keys", "/proc/kmsg", "/proc/timer_list", "/proc/interrupts"] {
        if let Ok(contents) = fs::read(path) {
            assert_eq!(contents, b"", "{path}");
        }
    }
    for path in [
        "/proc/sysrq-trigger",
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/vm/drop_caches",
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sys/user/max_user_namespaces",
        "/proc/self/exe",
        "/proc/self/uid_map",
        "/proc/self/setgroups",
        "/proc/1/oom_score_adj",
        "/proc/1/comm",
        "/proc/irq/default_smp_affinity",
        "/proc/self/mem_of_parent",
    ] {
        let written = fs::File::options().write(true).open(path).and_then(|mut it| io::Write::write(&mut it, b"1"));
        assert!(written.is_err(), "{path} can be written");
    }
    let pids = fs::read_dir("/proc").unwrap().filter_map(|it| it.unwrap().file_name().to_str()?.parse::<u32>().ok());
    assert!(pids.max() < Some(100), "processes of the host are visible");
}

#[test]
#[ignore = "runs inside a sandbox"]
fn only_the_agents_own_folders_can_be_written() {
    for path in ["/workspace", "/tmp", "/run", "/home/agent", "/dev/shm", "/var/tmp"] {
        fs::write(format!("{path}/mine"), "").unwrap_or_else(|error| panic!("{path}: {error}"));
    }
    for path in [
        "/",
        "/usr",
        "/usr/bin",
        "/usr/local/bin",
        "/etc",
        "/etc/ssl/certs",
        "/home",
        "/dev",
        "/proc",
        "/sys",
        "/var",
        "/opt",
        "/lib",
        "/bin",
        "/dev/pts",
    ] {
        assert!(fs::write(format!("{path}/theirs"), "").is_err(), "{path} can be written");
        assert!(fs::create_dir(format!("{path}/folder")).is_err(), "{path} can be written");
    }
    for path in ["/etc/passwd", "/etc/hosts", "/etc/ld.so.cache", "/bin/sh"] {
        assert!(fs::File::options().append(true).open(path).is_err(), "{path} can be written");
        assert!(fs::remove_file(path).is_err(), "{path} can be removed");
    }
    assert_eq!(fs::read_dir("/sys").unwrap().count(), 0, "/sys is empty");
}

#[test]
#[ignore = "runs inside a sandbox"]
fn no_device_but_the_harmless_ones_is_there() {
    use std::os::unix::fs::FileTypeExt;
    let devices: BTreeSet<_> = fs::read_dir("/dev")
        .unwrap()
        .map(Result::unwrap)
        // The folder itself knows only the files that the devices are mounted over.
        .filter(|it| {
            fs::metadata(it.path()).is_ok_and(|it| it.file_type().is_char_device() || it.file_type().is_block_device())
        })
        .map(|it| it.file_name().into_string().unwrap())
        .collect();
    assert_eq!(devices, ["full", "null", "ptmx", "random", "tty", "urandom", "zero"].map(String::from).into());
    assert!(fs::read("/dev/null").unwrap().is_empty());
    fs::write("/dev/null", "x").unwrap();
    let mut random = [0; 8];
    io::Read::read_exact(&mut fs::File::open("/dev/urandom").unwrap(), &mut random).unwrap();
    assert_ne!(random, [0; 8]);
    // SAFETY: opens a descriptor and nothing else.
    let terminal = unsafe { libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY) };
    assert!(terminal >= 0, "a terminal can be made: {}", io::Error::last_os_error());
}

#[test]
#[ignore = "runs inside a sandbox"]
fn no_descriptor_of_the_host_is_inherited() {
    let open: Vec<_> = fs::read_dir("/proc/self/fd")
        .unwrap()
        .map(|it| fs::read_link(it.unwrap().path()).unwrap_or_default().display().to_string())
        .collect();
    for path in &open {
        let harmless = path.is_empty()
            || path == "/dev/null"
            || ["pipe:", "anon_inode:", "/proc/"].iter().any(|it| path.starts_with(it));
        assert!(harmless, "{open:?}");
    }
}

/// The host's test leaves the names of its listeners in the environment.
#[test]
#[ignore = "runs inside a sandbox"]
fn nothing_of_the_host_can_be_reached() {
    let port: u16 = std::env::var("HOST_PORT").unwrap().parse().unwrap();
    for address in ["127.0.0.1", "127.0.0.2", "::1"] {
        let error = TcpStream::connect((address, port)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{address}");
    }
    for address in ["169.254.169.254", "10.0.0.1", "172.17.0.1", "192.168.0.1", "1.1.1.1"] {
        let error = TcpStream::connect((address, 80)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NetworkUnreachable, "{address}");
    }
    let name = std::env::var("HOST_SOCKET").unwrap();
    let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
    assert!(UnixStream::connect_addr(&abstract_name).is_err(), "an abstract socket of the host");
    for path in [
        std::env::var("HOST_FILE").unwrap().as_str(),
        "/root",
        "/etc/shadow",
        "/etc/machine-id",
        "/var/lib",
        "/var/run/docker.sock",
        "/run/docker.sock",
        "/run/dbus",
        "/boot",
        "/mnt",
        "/srv",
        "/etc/ssl/private",
        "/sys/fs/cgroup",
    ] {
        assert!(!fs::exists(path).unwrap_or(true), "{path} is there");
    }
    let interfaces = fs::read_to_string("/proc/net/dev").unwrap();
    assert_eq!(interfaces.lines().count(), 3, "only the loopback interface: {interfaces}");
}

#[test]
#[ignore = "runs inside a sandbox"]
fn system_calls_of_ordinary_programs_work() {
    use std::process::Command;
    std::thread::spawn(|| {}).join().unwrap();
    assert!(Command::new("true").status().unwrap().success());
    // SAFETY: makes an anonymous file and nothing else.
    assert!(unsafe { libc::memfd_create(c"x".as_ptr(), 0) } >= 0);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    assert_eq!(listener.accept().unwrap().1, client.local_addr().unwrap());
    fs::write("/tmp/a", "a").unwrap();
    fs::hard_link("/tmp/a", "/tmp/b").unwrap();
    fs::rename("/tmp/b", "/tmp/c").unwrap();
    fs::create_dir("/tmp/d").unwrap();
    fs::rename("/tmp/c", "/tmp/d/c").unwrap();
    assert_eq!(fs::read("/tmp/d/c").unwrap(), b"a");
}

/// A server that makes a sandbox, says its id, and is then killed. The working directory is its state folder.
#[tokio::test]
#[ignore = "is started by a test, as a server of its own"]
async fn a_server_that_will_be_killed() {
    let state = std::env::current_dir().unwrap();
    let driver = super::NativeDriver::new(super::config(&state)).unwrap();
    let id = astraforge_core::id::SandboxId::random();
    super::SandboxDriver::create(&driver, id, &super::SandboxSpec::default(), &[]).await.unwrap();
    println!("id={id}");
    tokio::time::sleep(super::PATIENCE * 2).await;
}

/// A server that makes, uses and removes sandboxes until it is killed. The working directory is its state folder.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "is started by a test, as a server of its own"]
async fn a_busy_server() {
    use astraforge_core::{id::SandboxId, ports::sessions::Sessions, session::Command};
    let state = std::env::current_dir().unwrap();
    let driver: super::DynSandboxDriver = std::sync::Arc::new(super::NativeDriver::new(super::config(&state)).unwrap());
    println!("busy");
    let sandboxes = super::Sandboxes::new(driver);
    let lives = (0..3).map(|_| async {
        let end = std::time::Instant::now() + super::PATIENCE;
        while std::time::Instant::now() < end {
            let session =
                sandboxes.create(SandboxId::random(), super::SandboxSpec::default(), Vec::new()).await.unwrap();
            let line = Command::shell("(sleep 60 &); echo x > it");
            session.exec(line).await.unwrap().collect(100).await.unwrap();
            sandboxes.destroy(session.id()).await.unwrap();
        }
    });
    futures::future::join_all(lives).await;
}

/// Takes all it gets of what the kernel counts for a whole machine, and keeps it.
#[test]
#[ignore = "runs inside a sandbox, until it is killed there"]
fn everything_countable_is_used_up() {
    let all_of = |n_most: usize, make: &dyn Fn() -> i64| (0..n_most).take_while(|_| make() >= 0).count();
    // SAFETY: makes descriptors and nothing else.
    let watchers = all_of(1000, &|| unsafe { libc::inotify_init1(0) }.into());
    let contexts = all_of(2000, &|| {
        let mut context = 0_u64;
        // SAFETY: the kernel writes one number to the address that it is given.
        unsafe { libc::syscall(libc::SYS_io_setup, 512, &raw mut context) }
    });
    let mut terminals = 0;
    for _ in 0..4 {
        // SAFETY: the child takes what it can, in calls that need no memory, and waits to be killed.
        unsafe {
            let mut ends = [0; 2];
            libc::pipe(ends.as_mut_ptr());
            if libc::fork() == 0 {
                let mut n_taken = 0_u32;
                while n_taken < 1000 && libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY) >= 0 {
                    n_taken += 1;
                }
                libc::write(ends[1], (&raw const n_taken).cast(), 4);
                loop {
                    libc::pause();
                }
            }
            let mut n_taken = 0_u32;
            libc::read(ends[0], (&raw mut n_taken).cast(), 4);
            terminals += n_taken;
        }
    }
    println!("{watchers} watchers, {contexts} contexts, {terminals} terminals: full");
    std::thread::sleep(super::PATIENCE * 4);
}

/// Takes from the daemon what one process of a user may take from another.
#[test]
#[ignore = "runs inside a sandbox, until it is killed there"]
fn the_daemon_is_starved() {
    let none = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    for resource in [libc::RLIMIT_NOFILE, libc::RLIMIT_AS, libc::RLIMIT_STACK, libc::RLIMIT_NPROC, libc::RLIMIT_FSIZE] {
        // SAFETY: the kernel reads one struct from the address that it is given.
        unsafe { libc::prlimit64(1, resource, &raw const none, std::ptr::null_mut()) };
    }
    // SAFETY: takes plain numbers.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 1, 19) };
    for signal in 1..=64 {
        // SAFETY: takes plain numbers.
        unsafe { libc::kill(1, signal) };
    }
    assert!(fs::write("/proc/1/oom_score_adj", "1000").is_err());
    std::thread::sleep(super::PATIENCE * 4);
}

/// Leaves data on its way between local sockets, as much as is taken.
#[test]
#[ignore = "runs inside a sandbox"]
fn memory_is_held_by_sockets() {
    fn fill(writer: &mut impl io::Write) -> usize {
        let piece = vec![0; 1 << 16];
        std::iter::from_fn(|| writer.write(&piece).ok()).sum()
    }
    const ENOUGH: usize = 300 << 20;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (mut network, mut local, mut ends, mut pairs) = (0, 0, Vec::new(), Vec::new());
    for _ in 0..400 {
        if network < ENOUGH
            && let Ok(mut writer) = TcpStream::connect(listener.local_addr().unwrap())
        {
            writer.set_nonblocking(true).unwrap();
            network += fill(&mut writer);
            ends.push((writer, listener.accept()));
        }
    }
    println!("network={network}");
    for _ in 0..1000 {
        if local < ENOUGH
            && let Ok((mut writer, reader)) = UnixStream::pair()
        {
            writer.set_nonblocking(true).unwrap();
            local += fill(&mut writer);
            pairs.push((writer, reader));
        }
    }
    println!("local={local}");
}
