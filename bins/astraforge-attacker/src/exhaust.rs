//! All there is of what the kernel counts for a process, a user or the whole machine, taken and kept.
#![expect(unsafe_code, reason = "an attacker does not go through a safe wrapper")]

use libc::c_long;

use crate::{
    Attack, say,
    sys::{self, address, call_with, place},
};

pub(crate) const ATTACKS: &[(&str, Attack)] = &[("exhaust", exhaust), ("pass", pass)];

/// Takes all it gets of one kind, in several processes, and keeps it.
///
/// Arguments: the kind, the number of processes, the most that one takes.
fn exhaust(args: &[String]) {
    let [kind, n_processes, most] = args else { return say::open("three arguments are needed") };
    let (n_processes, most): (u32, u64) = (n_processes.parse().unwrap_or(1), most.parse().unwrap_or(1000));
    let mut total = 0;
    for _ in 0..n_processes {
        let mut ends = [0; 2];
        // SAFETY: the kernel writes two numbers to the address that it is given.
        unsafe { libc::pipe(ends.as_mut_ptr()) };
        let started = sys::fork(|| {
            let mut n_taken = 0_u64;
            while n_taken < most && take(kind, n_taken) {
                n_taken += 1;
            }
            // SAFETY: the kernel reads one number from the address that it is given.
            unsafe { libc::write(ends[1], (&raw const n_taken).cast(), 8) };
            sys::pause();
        });
        // SAFETY: the descriptor was made above. Then the kernel writes one number to the address that it is given.
        unsafe { libc::close(ends[1]) };
        if started.is_err() {
            break;
        }
        let mut n_taken = 0_u64;
        // SAFETY: as above.
        unsafe { libc::read(ends[0], (&raw mut n_taken).cast(), 8) };
        total += n_taken;
    }
    say::note("taken", total);
    say::ready_and_stay();
}

fn take(kind: &str, n_taken: u64) -> bool {
    let ok = |number: c_long, args: &[c_long]| call_with(number, args).is_ok();
    let mut pair = [0_i32; 2];
    match kind {
        "descriptors" => ok(libc::SYS_openat, &[libc::AT_FDCWD.into(), c"/dev/null".as_ptr() as c_long, 0]),
        "pipes" => {
            let made = ok(libc::SYS_pipe2, &[place(&mut pair), i64::from(libc::O_NONBLOCK)]);
            made && {
                let _ = call_with(libc::SYS_fcntl, &[pair[1].into(), libc::F_SETPIPE_SZ.into(), 1 << 20]);
                // SAFETY: the kernel reads from a buffer of this process.
                unsafe { libc::write(pair[1], [0_u8; 65536].as_ptr().cast(), 65536) };
                true
            }
        }
        "sockets" => ok(libc::SYS_socketpair, &[1, 1, 0, place(&mut pair)]),
        "watchers" => ok(libc::SYS_inotify_init1, &[0]),
        "watches" => watch(n_taken),
        "timers" => {
            let mut id = 0_u64;
            ok(libc::SYS_timer_create, &[0, 0, place(&mut id)])
        }
        "signals" => ok(libc::SYS_rt_sigqueueinfo, &[c_long::from(std::process::id()), 40, address(&queued())]),
        "contexts" => {
            let mut context = 0_u64;
            ok(libc::SYS_io_setup, &[512, place(&mut context)])
        }
        // SAFETY: makes a descriptor and nothing else.
        "terminals" => (unsafe { libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY) }) >= 0,
        "polls" => ok(libc::SYS_epoll_create1, &[0]),
        "events" => ok(libc::SYS_eventfd2, &[0, 0]),
        "memfds" => ok(libc::SYS_memfd_create, &[c"attack".as_ptr() as c_long, 0]),
        "queues" => {
            let name = std::ffi::CString::new(format!("attack-{}-{n_taken}", std::process::id())).unwrap_or_default();
            ok(libc::SYS_mq_open, &[name.as_ptr() as c_long, (libc::O_CREAT | libc::O_RDWR).into(), 0o600, 0])
        }
        "semaphores" => ok(libc::SYS_semget, &[0, 250, 0o1600]),
        "segments" => ok(libc::SYS_shmget, &[0, 4096, 0o1600]),
        "keys" => {
            let name = std::ffi::CString::new(format!("attack-{n_taken}")).unwrap_or_default();
            ok(libc::SYS_add_key, &[c"user".as_ptr() as c_long, name.as_ptr() as c_long, address("x"), 1, -3])
        }
        "locked" => sys::map(1 << 20, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)
            .is_some_and(|it| ok(libc::SYS_mlock, &[address(&*it), 1 << 20])),
        _ => false,
    }
}

/// Watches files that it makes for it.
fn watch(n_taken: u64) -> bool {
    static WATCHER: std::sync::OnceLock<c_long> = std::sync::OnceLock::new();
    let watcher = *WATCHER.get_or_init(|| call_with(libc::SYS_inotify_init1, &[0]).unwrap_or(-1));
    let path = format!("/tmp/watched-{}-{n_taken}", std::process::id());
    let made = std::fs::write(&path, "").is_ok();
    let path = std::ffi::CString::new(path).unwrap_or_default();
    made && call_with(libc::SYS_inotify_add_watch, &[watcher, path.as_ptr() as c_long, 0xfff]).is_ok()
}

/// A signal of one's own making; it is blocked, so that it waits.
fn queued() -> [i32; 32] {
    let blocked = u64::MAX;
    let _ = call_with(libc::SYS_rt_sigprocmask, &[0, address(&blocked), 0, 8]);
    let mut info = [0; 32];
    (info[0], info[2]) = (40, -1);
    info
}

/// Leaves descriptors on their way through local sockets, far more than a process may have open.
///
/// Argument: the most.
fn pass(args: &[String]) {
    const AT_ONCE: usize = 250;
    let most: usize = args.first().and_then(|it| it.parse().ok()).unwrap_or(0);
    let (mut n_passed, mut ends) = (0, Vec::new());
    // SAFETY: opens a descriptor.
    let null = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY) };
    let passed = vec![null; AT_ONCE];
    let error = 'all: loop {
        let mut pair = [0; 2];
        // SAFETY: the kernel writes two numbers to the address that it is given.
        if unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_NONBLOCK, 0, pair.as_mut_ptr()) } != 0
        {
            break sys::last();
        }
        ends.push(pair);
        loop {
            if n_passed > most {
                break 'all sys::Errno(0);
            }
            match send(pair[0], &passed) {
                Ok(()) => n_passed += AT_ONCE,
                Err(error) if error.0 == libc::EAGAIN => break,
                Err(error) => break 'all error,
            }
        }
    };
    say::note("taken", n_passed);
    say::note("error", error);
    say::ready_and_stay();
}

fn send(socket: i32, descriptors: &[i32]) -> Result<(), sys::Errno> {
    let mut byte = 0_u8;
    let mut piece = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let n_bytes = size_of_val(descriptors);
    // SAFETY: takes plain numbers.
    let room = unsafe { libc::CMSG_SPACE(u32::try_from(n_bytes).unwrap_or(0)) } as usize;
    let mut control = vec![0_u64; room.div_ceil(8)];
    // SAFETY: a header of zeros is one without anything.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut piece;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = room as _;
    // SAFETY: the control buffer has room for one header and these descriptors, and all of it outlives the call.
    let sent = unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(u32::try_from(n_bytes).unwrap_or(0)) as _;
        std::ptr::copy_nonoverlapping(descriptors.as_ptr().cast(), libc::CMSG_DATA(header), n_bytes);
        libc::sendmsg(socket, &raw const message, 0)
    };
    if sent < 0 { Err(sys::last()) } else { Ok(()) }
}
