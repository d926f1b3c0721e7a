//! Sockets and objects of the local machine that belong to others.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::FileTypeExt,
            net::{SocketAddr, UnixStream},
        },
    },
    path::PathBuf,
    time::Duration,
};

use crate::{
    Attack, say,
    sys::{address, call_with, place},
};

pub(crate) const ATTACKS: &[(&str, Attack)] = &[
    ("local-sockets", local_sockets),
    ("abstract", abstract_socket),
    ("socket-kinds", socket_kinds),
    ("objects", objects),
    ("routes", routes),
];

/// Connects to every socket that lies anywhere in the file system, and speaks to it.
fn local_sockets(_: &[String]) {
    let mut found: BTreeSet<PathBuf> = [
        "/run/docker.sock",
        "/var/run/docker.sock",
        "/run/containerd/containerd.sock",
        "/run/dbus/system_bus_socket",
        "/run/crio/crio.sock",
        "/run/podman/podman.sock",
        "/run/systemd/private",
    ]
    .map(PathBuf::from)
    .into();
    let listed = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    found.extend(
        listed
            .lines()
            .filter_map(|it| it.split_whitespace().nth(7))
            .filter(|it| it.starts_with('/'))
            .map(PathBuf::from),
    );
    found.extend(std::env::var_os("SSH_AUTH_SOCK").map(PathBuf::from));
    let mut next: Vec<PathBuf> =
        ["/run", "/var", "/tmp", "/dev", "/home", "/workspace", "/opt", "/etc", "/mnt", "/srv"]
            .map(PathBuf::from)
            .into();
    let mut n_folders = 0;
    while let Some(folder) = next.pop().filter(|_| n_folders < 20_000) {
        n_folders += 1;
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => next.push(entry.path()),
                Ok(kind) if kind.is_socket() => drop(found.insert(entry.path())),
                _ => {}
            }
        }
    }
    for path in found {
        match UnixStream::connect(&path) {
            Ok(stream) => speak(&path.display().to_string(), stream),
            Err(error) => say::held(format_args!("{}: {error}", path.display())),
        }
    }
}

/// A socket that hangs up without a word has given nothing away.
fn speak(name: &str, mut stream: UnixStream) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
    let _ = stream.set_write_timeout(Some(Duration::from_secs(1)));
    // Long enough for a frame's header of the guest's own protocol, and a request for any server that speaks HTTP.
    let sent = stream.write_all(b"GET /version HTTP/1.0\r\nHost: x\r\n\r\n");
    let mut answer = [0; 64];
    match stream.read(&mut answer) {
        Ok(0) => say::held(format_args!("{name}: hangs up")),
        Ok(n_bytes) => say::open(format_args!("{name} answers {:?}", String::from_utf8_lossy(&answer[..n_bytes]))),
        Err(error) if sent.is_err() => say::held(format_args!("{name}: {error}")),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            say::open(format_args!("{name} takes what it is told, and says nothing"));
        }
        Err(error) => say::held(format_args!("{name}: {error}")),
    }
}

/// Connects to sockets without a file, by name.
fn abstract_socket(names: &[String]) {
    for name in names {
        let connected = SocketAddr::from_abstract_name(name).and_then(|it| UnixStream::connect_addr(&it));
        match connected {
            Ok(_) => say::open(format_args!("the host's socket {name} takes connections")),
            Err(error) => say::held(format_args!("{name}: {error}")),
        }
    }
    let listed = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    say::note("sockets", listed.lines().count().saturating_sub(1));
}

/// Sockets of kinds that reach the network card, the kernel or another machine.
///
/// Argument: a group.
fn socket_kinds(args: &[String]) {
    let kinds: &[(&str, i32, i32, i32)] = match args.first().map_or("", String::as_str) {
        "raw" => &[
            ("raw ICMP", libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP),
            ("raw IP", libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW),
            ("raw ICMPv6", libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_ICMPV6),
        ],
        "packet" => &[
            ("packets", libc::AF_PACKET, libc::SOCK_RAW, 0x0300),
            ("cooked packets", libc::AF_PACKET, libc::SOCK_DGRAM, 0x0300),
            ("XDP", libc::AF_XDP, libc::SOCK_RAW, 0),
        ],
        "crypto" => &[("AF_ALG", libc::AF_ALG, libc::SOCK_SEQPACKET, 0)],
        "vsock" => &[
            ("vsock stream", libc::AF_VSOCK, libc::SOCK_STREAM, 0),
            ("vsock datagram", libc::AF_VSOCK, libc::SOCK_DGRAM, 0),
        ],
        "netlink" => &[
            ("audit", libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_AUDIT),
            ("netfilter", libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_NETFILTER),
            ("uevents", libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_KOBJECT_UEVENT),
            ("generic", libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_GENERIC),
            ("xfrm", libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_XFRM),
            ("SCSI", libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_SCSITRANSPORT),
            ("connector", libc::AF_NETLINK, libc::SOCK_DGRAM, 11),
            ("selinux", libc::AF_NETLINK, libc::SOCK_RAW, 7),
        ],
        _ => &[
            ("TIPC", libc::AF_TIPC, libc::SOCK_STREAM, 0),
            ("SCTP", libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_SCTP),
            ("SCTP sequences", libc::AF_INET, libc::SOCK_SEQPACKET, libc::IPPROTO_SCTP),
            ("Bluetooth", libc::AF_BLUETOOTH, libc::SOCK_RAW, 1),
            ("CAN", libc::AF_CAN, libc::SOCK_RAW, 1),
            ("RDS", libc::AF_RDS, libc::SOCK_SEQPACKET, 0),
            ("QIPCRTR", 42, libc::SOCK_DGRAM, 0),
            ("SMC", 43, libc::SOCK_STREAM, 0),
            ("KCM", 41, libc::SOCK_DGRAM, 0),
            ("X.25", libc::AF_X25, libc::SOCK_SEQPACKET, 0),
            ("AX.25", libc::AF_AX25, libc::SOCK_DGRAM, 0),
            ("Phonet", libc::AF_PHONET, libc::SOCK_DGRAM, 0),
            ("PF_KEY", libc::AF_KEY, libc::SOCK_RAW, 2),
            ("PPPoX", libc::AF_PPPOX, libc::SOCK_STREAM, 0),
            ("LLC", libc::AF_LLC, libc::SOCK_STREAM, 0),
        ],
    };
    for (name, family, kind, protocol) in kinds {
        match call_with(libc::SYS_socket, &[(*family).into(), (*kind).into(), (*protocol).into()]) {
            Ok(_) => say::open(format_args!("a socket for {name}")),
            Err(error) => say::held(format_args!("{name}: {error}")),
        }
    }
}

/// Objects of System V and POSIX that were made outside, by key and name.
///
/// Arguments: the key of a segment, the name of a queue.
fn objects(args: &[String]) {
    let key = args.first().and_then(|it| it.parse::<i64>().ok()).unwrap_or(0);
    match call_with(libc::SYS_shmget, &[key, 1, 0]) {
        Ok(_) => say::open("the host's shared memory is found by its key"),
        Err(error) => say::held(format_args!("shmget: {error}")),
    }
    let segments = fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
    if segments.lines().count() > 1 {
        say::open("shared memory of others is listed");
    }
    let name = std::ffi::CString::new(args.get(1).map_or("none", String::as_str)).unwrap_or_default();
    match call_with(libc::SYS_mq_open, &[name.as_ptr() as i64, libc::O_RDONLY.into(), 0, 0]) {
        Ok(_) => say::open("the host's queue is found by its name"),
        Err(error) => say::held(format_args!("mq_open: {error}")),
    }
}

/// Changes the network by the only kind of netlink that there is.
fn routes(_: &[String]) {
    let Ok(socket) = call_with(libc::SYS_socket, &[16, 3, 0]) else { return say::held("no netlink at all") };
    // nlmsghdr and what follows: a link brought down, an address for it, a default route.
    for (name, kind, body) in [
        ("set a link down", 16_u16, [0_u32, 1, 0, 1].to_vec()),
        ("add an address", 20, [0x0008_0002, 1, 0x0002_0008, 0x0105_000a].to_vec()),
        ("add a route", 24, [2, 0x0103_00fe, 0].to_vec()),
        ("remove the loopback address", 21, [0x0008_0802, 1, 0x0002_0008, 0x0100_007f].to_vec()),
    ] {
        let n_bytes = 16 + u32::try_from(body.len()).unwrap_or(0) * 4;
        let mut message = vec![n_bytes, u32::from(kind) | 0x0605_0000, 1, 0];
        message.extend(body);
        let sent = call_with(libc::SYS_sendto, &[socket, address(message.as_slice()), n_bytes.into(), 0, 0, 0]);
        let mut answer = [0_i32; 64];
        let heard = sent.and_then(|_| call_with(libc::SYS_recvfrom, &[socket, place(&mut answer), 256, 64, 0, 0]));
        match (heard, answer[4]) {
            (Ok(_), 0) => say::open(format_args!("netlink: {name}")),
            (Ok(_), error) => say::held(format_args!("netlink, {name}: error {}", -error)),
            (Err(error), _) => say::held(format_args!("netlink, {name}: {error}")),
        }
    }
}
