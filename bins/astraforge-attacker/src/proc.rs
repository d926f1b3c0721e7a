//! What `/proc`, `/sys` and `/dev` tell and steer, and what lies beyond the folders that are one's own.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use crate::{Attack, say, sys::call_with};

pub(crate) const ATTACKS: &[(&str, Attack)] = &[
    ("read", read),
    ("write", write),
    ("writable-below", writable_below),
    ("pids", pids),
    ("daemon", daemon),
    ("devices", devices),
    ("make-devices", make_devices),
    ("descriptors", descriptors),
    ("programs", programs),
    ("sees", sees),
    ("environment", environment),
];

/// Reads files that should tell nothing: missing, closed or empty.
fn read(paths: &[String]) {
    for path in paths {
        let mut bytes = [0; 64];
        match File::open(path).and_then(|mut it| it.read(&mut bytes)) {
            Ok(0) => say::held(format_args!("{path}: empty")),
            Ok(_) if bytes.iter().all(|it| [0, b'\n', b' '].contains(it)) => say::held(format_args!("{path}: blank")),
            Ok(n_bytes) => {
                let text = String::from_utf8_lossy(&bytes[..n_bytes]).trim().to_owned();
                say::open(format_args!("{path} tells {text:?}"));
            }
            Err(error) => say::held(format_args!("{path}: {error}")),
        }
    }
}

/// Opens files for writing that should be closed. Those of a process open for all, and judge what is written.
fn write(paths: &[String]) {
    for path in paths {
        let is_of_process = path.starts_with("/proc/self/") || path.starts_with("/proc/1/");
        let tried = File::options().write(true).open(path).and_then(|mut it| {
            if is_of_process { it.write_all(if path.ends_with("_map") { b"0 0 1\n" } else { b"1\n" }) } else { Ok(()) }
        });
        match tried {
            Ok(()) => say::open(format_args!("{path} can be written")),
            Err(error) => say::held(format_args!("{path}: {error}")),
        }
    }
}

/// Opens every file below some folders for writing, and makes a file in each.
fn writable_below(tops: &[String]) {
    for top in tops {
        let (mut n_tried, mut n_open) = (0, 0);
        let mut next = vec![PathBuf::from(top)];
        while let Some(folder) = next.pop() {
            let mine = folder.join(".attack");
            if n_tried < 60_000 && File::options().write(true).create_new(true).open(&mine).is_ok() {
                say::open(format_args!("{} can be made", mine.display()));
                let _ = fs::remove_file(mine);
            }
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let Ok(kind) = entry.file_type() else { continue };
                if kind.is_dir() && n_tried < 60_000 {
                    next.push(entry.path());
                } else if kind.is_file() {
                    n_tried += 1;
                    let opened = File::options().write(true).open(entry.path());
                    // What lies beneath a mask is not what is opened.
                    if opened.and_then(|it| it.metadata()).is_ok_and(|it| it.is_file()) {
                        n_open += 1;
                        if n_open < 20 {
                            say::open(format_args!("{} can be written", entry.path().display()));
                        }
                    }
                }
            }
        }
        say::held(format_args!("{n_tried} files below {top}"));
    }
}

/// Looks for processes that are not the sandbox's, by the size of their numbers and by their parents.
fn pids(_: &[String]) {
    let listed = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids: Vec<u32> = listed.filter_map(|it| it.file_name().to_str()?.parse().ok()).collect();
    say::note("pids", pids.iter().max().unwrap_or(&0));
    say::note("count", pids.len());
}

/// The first process, as far as it can be looked into.
fn daemon(_: &[String]) {
    for path in
        ["environ", "mem", "maps", "root/etc/passwd", "cwd/x", "fd/0", "exe", "task/1/mem", "auxv", "stack", "syscall"]
    {
        let path = format!("/proc/1/{path}");
        match File::open(&path).and_then(|mut it| it.read(&mut [0])) {
            Ok(0) => say::held(format_args!("{path}: empty")),
            Ok(_) => say::open(format_args!("{path} can be read")),
            Err(error) => say::held(format_args!("{path}: {error}")),
        }
    }
    for path in ["/proc/1/root/", "/proc/1/fd/", "/proc/1/cwd/", "/proc/1/map_files/", "/proc/1/task/1/root/"] {
        if fs::read_dir(path).is_ok_and(|it| it.count() > 0) {
            say::open(format_args!("{path} can be listed"));
        }
    }
    let steering = ["mem", "oom_score_adj", "comm", "uid_map", "gid_map", "setgroups", "exe", "clear_refs"];
    let steering = steering.iter().chain(&["coredump_filter", "timerslack_ns"]);
    write(&steering.map(|it| format!("/proc/1/{it}")).collect::<Vec<_>>());
}

/// Lists the devices that answer.
fn devices(tops: &[String]) {
    let mut next: Vec<PathBuf> = tops.iter().map(PathBuf::from).collect();
    let mut found = Vec::new();
    while let Some(folder) = next.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(kind) = entry.file_type() else { continue };
            let Ok(target) = fs::metadata(&path).map(|it| it.file_type()) else { continue };
            if kind.is_dir() {
                next.push(path);
            } else if (target.is_block_device() || target.is_char_device()) && File::open(&path).is_ok() {
                found.push(path.display().to_string());
            }
        }
    }
    found.sort();
    say::note("devices", found.join(" "));
}

/// Makes device nodes, and opens them.
fn make_devices(_: &[String]) {
    for (name, mode, device) in
        [("memory", libc::S_IFCHR, 0x101), ("disk", libc::S_IFBLK, 0xfe00), ("null", libc::S_IFCHR, 0x103)]
    {
        for folder in ["/workspace", "/tmp", "/dev", "/dev/shm"] {
            let path = format!("{folder}/attack-{name}");
            let text = std::ffi::CString::new(path.clone()).unwrap_or_default();
            let made = call_with(
                libc::SYS_mknodat,
                &[libc::AT_FDCWD.into(), text.as_ptr() as i64, i64::from(mode | 0o666), device],
            );
            match made {
                Ok(_) if File::open(&path).is_ok() => say::open(format_args!("{path} was made and answers")),
                Ok(_) => say::held(format_args!("{path} was made and does not answer")),
                Err(error) => say::held(format_args!("{path}: {error}")),
            }
        }
    }
}

/// Lists what it was given open.
fn descriptors(_: &[String]) {
    let open = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    for entry in open {
        let target = fs::read_link(entry.path()).unwrap_or_default().display().to_string();
        let harmless = target.is_empty()
            || target == "/dev/null"
            || target.starts_with("/dev/pts/")
            || ["pipe:", "anon_inode:", "/proc/"].iter().any(|it| target.starts_with(it));
        if harmless {
            say::held(format_args!("{}: {target}", entry.path().display()));
        } else {
            say::open(format_args!("{} is {target}", entry.path().display()));
        }
    }
}

/// Writes over the programs that run here, the host's among them.
fn programs(_: &[String]) {
    for path in ["/proc/self/exe", "/proc/1/exe", "/proc/self/task/1/exe", "/proc/2/exe"] {
        // Through the link itself, and through a descriptor that only names it.
        let named = File::options().append(true).open(path).map(drop);
        let by_descriptor = path_only(path).and_then(|it| {
            File::options()
                .append(true)
                .open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&it)))
                .map(drop)
        });
        for (how, result) in [("by name", named), ("by descriptor", by_descriptor)] {
            match result {
                Ok(()) => say::open(format_args!("{path} can be written {how}")),
                Err(error) => say::held(format_args!("{path} {how}: {error}")),
            }
        }
    }
    for name in ["sh", "ls", "env"] {
        for folder in ["/bin", "/usr/bin", "/usr/local/bin"] {
            let path = Path::new(folder).join(name);
            if File::options().append(true).open(&path).is_ok_and(|mut it| it.flush().is_ok()) {
                say::open(format_args!("{} can be written", path.display()));
            }
        }
    }
}

fn path_only(path: &str) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options().read(true).custom_flags(libc::O_PATH).open(path)
}

/// Looks for things that should not be there at all.
fn sees(paths: &[String]) {
    for path in paths {
        match fs::symlink_metadata(path) {
            Ok(_) if fs::read_dir(path).is_ok_and(|it| it.count() == 0) => say::held(format_args!("{path} is empty")),
            Ok(_) => say::open(format_args!("{path} is there")),
            Err(error) => say::held(format_args!("{path}: {error}")),
        }
    }
}

/// Says in which folder and as which user it was started, and which variables it was given.
fn environment(_: &[String]) {
    if let Ok(folder) = std::env::current_dir() {
        say::note("folder", folder.display());
    }
    if let Ok(own) = fs::metadata("/proc/self") {
        say::note("user", own.uid());
    }
    for (name, value) in std::env::vars_os() {
        let value = value.to_string_lossy().replace('\n', " ");
        say::note("variable", format_args!("{}={value}", name.to_string_lossy()));
    }
}
