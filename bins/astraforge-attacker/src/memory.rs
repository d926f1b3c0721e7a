//! More memory than is allowed, of each kind that the kernel has.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    net::{TcpListener, TcpStream},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
};

use crate::{
    Attack, say,
    sys::{self, call_with},
};

pub(crate) const ATTACKS: &[(&str, Attack)] = &[("memory", memory), ("fill", fill)];

const MIB: usize = 1 << 20;

/// Takes memory of one kind, piece by piece, until there is no more or there is more than the limit.
///
/// Arguments: the kind, the limit in MiB.
fn memory(args: &[String]) {
    let (kind, limit) = (args.first().map_or("", String::as_str), number(args.get(1)));
    let mut held = Held::default();
    let mut n_mib = 0;
    // What is mapped twice or lies in tables is counted in pages of the kernel's own; a tenth more is no breach.
    while n_mib <= limit + limit / 10 + 2 {
        if !held.take(kind, n_mib) {
            say::held(format_args!("no more than {n_mib} MiB"));
            return;
        }
        n_mib += 4;
        say::note("held", n_mib);
    }
    say::open(format_args!("{n_mib} MiB are held under a limit of {limit} MiB"));
}

/// What was taken, and stays so.
#[derive(Default)]
struct Held {
    memory: Vec<&'static mut [u8]>,
    files: Vec<File>,
    streams: Vec<Box<dyn Send>>,
    /// Bytes that sockets took beyond the piece they were asked for.
    ahead: usize,
}

impl Held {
    /// Takes four more MiB.
    fn take(&mut self, kind: &str, n_mib: u64) -> bool {
        const PIECE: usize = 4 * MIB;
        match kind {
            "private" => self.map(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
            "shared" => self.map(libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1),
            "memfd" => {
                let Ok(descriptor) = call_with(libc::SYS_memfd_create, &[c"attack".as_ptr() as i64, 0]) else {
                    return false;
                };
                let file = File::from(own(descriptor));
                let fits = file.set_len(PIECE as u64).is_ok() && self.map(libc::MAP_SHARED, file.as_raw_fd());
                self.files.push(file);
                fits
            }
            "segments" => {
                let Ok(id) = call_with(libc::SYS_shmget, &[0, PIECE as i64, 0o1600]) else { return false };
                let Some(memory) = sys::attach_segment(i32::try_from(id).unwrap_or(-1), PIECE) else { return false };
                sys::touch(memory);
                self.memory.push(memory);
                true
            }
            "local-sockets" => self.fill_sockets(PIECE, || UnixStream::pair().ok().map(|(a, b)| (a, Box::new(b) as _))),
            "network-sockets" => {
                let Ok(listener) = TcpListener::bind("127.0.0.1:0") else { return false };
                let Ok(address) = listener.local_addr() else { return false };
                self.fill_sockets(PIECE, || {
                    let stream = TcpStream::connect(address).ok()?;
                    Some((stream, Box::new(listener.accept().ok()?) as _))
                })
            }
            folder => {
                let file = File::create(format!("{folder}/attack-{n_mib}"));
                let taken = file.and_then(|mut it| it.write_all(&vec![1; PIECE]).map(|()| it));
                taken.map(|it| self.files.push(it)).is_ok()
            }
        }
    }

    fn map(&mut self, flags: i32, descriptor: RawFd) -> bool {
        let Some(memory) = sys::map(4 * MIB, flags, descriptor) else { return false };
        sys::touch(memory);
        self.memory.push(memory);
        true
    }

    /// Leaves data on its way between the two ends of sockets.
    fn fill_sockets<W: Write + Nonblocking + Send + 'static>(
        &mut self,
        n_bytes: usize,
        make: impl Fn() -> Option<(W, Box<dyn Send>)>,
    ) -> bool {
        let piece = vec![1; 1 << 16];
        while self.ahead < n_bytes {
            let Some((mut writer, reader)) = make() else { return false };
            writer.never_wait();
            let taken: usize = std::iter::from_fn(|| writer.write(&piece).ok()).sum();
            self.ahead += taken;
            self.streams.push(Box::new((writer, reader)));
            if taken == 0 {
                return false;
            }
        }
        self.ahead -= n_bytes;
        true
    }
}

trait Nonblocking {
    fn never_wait(&self);
}

impl Nonblocking for UnixStream {
    fn never_wait(&self) {
        let _ = self.set_nonblocking(true);
    }
}

impl Nonblocking for TcpStream {
    fn never_wait(&self) {
        let _ = self.set_nonblocking(true);
    }
}

#[expect(unsafe_code, reason = "the kernel just made this descriptor")]
fn own(descriptor: i64) -> OwnedFd {
    // SAFETY: it was just made, and nobody else has it.
    unsafe { OwnedFd::from_raw_fd(i32::try_from(descriptor).unwrap_or(-1)) }
}

/// Fills a folder in one way, until it is full or holds more than its limit.
///
/// Arguments: how (`bytes`, `deleted`, `sparse`, `names`, `folders`, `links`), the folder, the limit in MiB or names.
fn fill(args: &[String]) {
    let [how, folder, limit] = args else { return say::open("three arguments are needed") };
    let limit = number(Some(limit));
    let mut kept = Vec::new();
    let mut n_held = 0;
    let error = loop {
        if n_held > limit {
            say::open(format_args!("{how}: {n_held} fit where {limit} should"));
            return;
        }
        let path = format!("{folder}/attack-{n_held}");
        let made = match how.as_str() {
            "bytes" | "deleted" => File::create(&path).and_then(|mut it| {
                it.write_all(&vec![1; MIB])?;
                kept.push(it);
                if how == "deleted" { std::fs::remove_file(&path) } else { Ok(()) }
            }),
            "sparse" => sparse(&path),
            "folders" => std::fs::create_dir(&path),
            "links" => std::os::unix::fs::symlink("x".repeat(4000), &path),
            _ => File::create(&path).map(drop),
        };
        match made {
            Ok(()) => n_held += 1,
            Err(error) => break error,
        }
    };
    say::note("errno", error.raw_os_error().unwrap_or(0));
    say::held(format_args!("{how}: {n_held} and then: {error}"));
}

/// A file that claims a terabyte and holds a MiB at its end.
fn sparse(path: &str) -> std::io::Result<()> {
    let mut file = File::options().create(true).truncate(true).read(true).write(true).open(path)?;
    file.set_len(1 << 40)?;
    file.seek(SeekFrom::Start((1 << 40) - MIB as u64))?;
    file.write_all(&vec![1; MIB])?;
    file.seek(SeekFrom::Start(1 << 30))?;
    file.read_exact(&mut [0])
}

fn number(text: Option<&String>) -> u64 {
    text.and_then(|it| it.parse().ok()).unwrap_or(0)
}
