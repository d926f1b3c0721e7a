//! Measures processes, control groups and files: a host does from outside, a guest from inside.

use std::{
    collections::HashSet,
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};

/// Memory of a control group, by the names that version 2 and version 1 have for it.
pub(crate) const MEMORY: [&str; 2] = ["memory.current", "memory.usage_in_bytes"];
/// The most memory so far.
pub(crate) const MEMORY_PEAK: [&str; 2] = ["memory.peak", "memory.max_usage_in_bytes"];

/// Processes that are looked at; a sandbox that has more is not counted.
const MAX_PROCESSES: usize = 1 << 16;

/// Files and folders that are looked at; a workspace that has more is not measured.
const MAX_ENTRIES: usize = 1 << 20;

/// How deep folders are looked into; each holds a descriptor meanwhile.
const MAX_DEPTH: usize = 128;

/// The kernel tells programs of a hundredth of a second, whatever it counts in itself.
const MILLIS_PER_TICK: u64 = 10;

/// How often processes are counted at most, if some end each time.
const MAX_COUNTS: usize = 5;

/// Returns the processor time and the number of the processes that descend from `first`, itself included.
pub(crate) fn tree(proc: &Path, first: i32) -> Option<(Duration, u32)> {
    let mut counted = count(proc, first)?;
    for _ in 1..MAX_COUNTS {
        if counted.is_whole {
            break;
        }
        let again = count(proc, first)?;
        // Time is never given back, so the higher one is nearer to it.
        counted = Count { time: counted.time.max(again.time), ..again };
    }
    Some((counted.time, counted.n_processes))
}

/// The processes that descend from one.
struct Count {
    time: Duration,
    n_processes: u32,
    /// Whether none ended on the way: the time of such a one is told by its parent, which may have been read before.
    is_whole: bool,
}

fn count(proc: &Path, first: i32) -> Option<Count> {
    let mut ticks = 0_u64;
    let mut is_whole = true;
    let mut found = vec![first];
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        let process = proc.join(pid.to_string());
        next += 1;
        // Children first: the time of one that ends in between is told by its parent then, or it is missed below.
        for thread in fs::read_dir(process.join("task")).into_iter().flatten().flatten() {
            // Without this file the kernel was built not to tell, and nothing is known.
            let children = match fs::read_to_string(thread.path().join("children")) {
                Ok(children) => children,
                Err(_) if next == 1 => return None,
                Err(_) => continue,
            };
            found.extend(children.split_whitespace().filter_map(|it| it.parse::<i32>().ok()));
        }
        match fs::read_to_string(process.join("stat")).ok().and_then(|stat| times(&stat)) {
            Some(used) => ticks = ticks.saturating_add(used),
            None if next == 1 => return None,
            None => is_whole = false,
        }
        if found.len() > MAX_PROCESSES {
            return None;
        }
    }
    let time = Duration::from_millis(ticks.saturating_mul(MILLIS_PER_TICK));
    Some(Count { time, n_processes: u32::try_from(found.len()).ok()?, is_whole })
}

/// Adds up what a process and those of its children that ended have used, in clock ticks.
fn times(stat: &str) -> Option<u64> {
    let fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let times: Vec<u64> = fields.skip(11).take(4).map(|it| it.parse().ok()).collect::<Option<_>>()?;
    (times.len() == 4).then(|| times.iter().sum())
}

/// Reads a number from the first file that one of the control groups has; each kernel interface has its own name for it.
pub(crate) fn first_number(cgroups: &[PathBuf], names: [&str; 2]) -> Option<u64> {
    let mut files = cgroups.iter().flat_map(|folder| names.map(|name| folder.join(name)));
    files.find_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok())
}

/// Asks a file system how much of it is taken.
pub(crate) fn in_file_system(top: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(top).ok()?;
    stat.f_blocks.checked_sub(stat.f_bfree)?.checked_mul(stat.f_frsize)
}

/// Adds up what the files of a tree take on disk, without following links; a file with two names counts once.
///
/// # Errors
/// When a part of it cannot be read, or it is larger than is looked at: then nothing is known.
pub(crate) fn on_disk(top: &Path) -> io::Result<u64> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = |dir: &OwnedFd, name: &std::ffi::CStr| rustix::fs::openat(dir, name, flags, Mode::empty());
    let too_large = || io::Error::other("the workspace is larger than is looked at");
    let mut linked = HashSet::new();
    let (mut bytes, mut n_entries) = (0_u64, 0);
    let mut open_folders = vec![rustix::fs::Dir::new(rustix::fs::openat(CWD, top, flags, Mode::empty())?)?];
    while let Some(folder) = open_folders.last_mut() {
        let Some(entry) = folder.read().transpose()? else {
            open_folders.pop();
            continue;
        };
        let name = entry.file_name();
        if [c".", c".."].contains(&name) {
            continue;
        }
        n_entries += 1;
        if n_entries > MAX_ENTRIES {
            return Err(too_large());
        }
        let dir = rustix::io::dup(folder.fd()?)?;
        // What is gone meanwhile takes no room any more.
        let Ok(stat) = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        let is_folder = FileType::from_raw_mode(stat.st_mode).is_dir();
        if is_folder || stat.st_nlink < 2 || linked.insert((stat.st_dev, stat.st_ino)) {
            bytes = bytes.saturating_add(u64::try_from(stat.st_blocks).unwrap_or_default().saturating_mul(512));
        }
        if is_folder {
            if open_folders.len() == MAX_DEPTH {
                return Err(too_large());
            }
            open_folders.push(rustix::fs::Dir::new(open(&dir, name)?)?);
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_a_process_and_of_its_children_that_ended() {
        let stat = "7 (a) R b) S 1 7 7 0 -1 4194304 1 0 0 0 10 20 300 4000 20 0 1 0 4711 1 1 1";
        assert_eq!(times(stat), Some(4330));
        assert_eq!(times("7 (a) S 1 2 3"), None);
        assert_eq!(times("garbage"), None);
    }

    #[test]
    fn a_process_counts_itself_and_its_children() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let (_, processes) = tree(Path::new("/proc"), std::process::id().cast_signed()).unwrap();
        assert!(processes >= 2, "{processes}");
        let of_child = tree(Path::new("/proc"), child.id().cast_signed()).unwrap();
        assert_eq!(of_child.1, 1);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(tree(Path::new("/proc"), child.id().cast_signed()), None);
    }

    #[test]
    fn time_is_never_given_back_while_processes_end() {
        let short = "i=0; while [ $i -lt 30000 ]; do i=$((i + 1)); done";
        let many = format!("while :; do sh -c '{short}'; done");
        let mut parent = std::process::Command::new("sh").args(["-c", &many]).spawn().unwrap();
        let pid = parent.id().cast_signed();
        let counted: Vec<Duration> = (0..20_000).map(|_| tree(Path::new("/proc"), pid).unwrap().0).collect();
        parent.kill().unwrap();
        parent.wait().unwrap();
        assert!(counted.is_sorted(), "{:?}", counted.windows(2).find(|pair| pair[1] < pair[0]));
        assert!(counted.last().unwrap() > counted.first().unwrap());
    }

    #[test]
    fn memory_is_read_by_the_name_that_either_version_has() {
        let home = tempfile::tempdir().unwrap();
        let (cpu, memory) = (home.path().join("cpu"), home.path().join("memory"));
        [&cpu, &memory].into_iter().for_each(|it| fs::create_dir(it).unwrap());
        assert_eq!(first_number(&[cpu.clone(), memory.clone()], MEMORY), None);
        fs::write(memory.join("memory.usage_in_bytes"), "4096\n").unwrap();
        assert_eq!(first_number(&[cpu.clone(), memory.clone()], MEMORY), Some(4096));
        fs::write(cpu.join("memory.current"), "8192\n").unwrap();
        assert_eq!(first_number(&[cpu, memory], MEMORY), Some(8192));
    }

    #[test]
    fn a_tree_is_measured_once_whatever_its_links() {
        let home = tempfile::tempdir().unwrap();
        let inner = home.path().join("inner");
        fs::create_dir(&inner).unwrap();
        fs::write(inner.join("file"), vec![1; 1 << 20]).unwrap();
        let once = on_disk(home.path()).unwrap();
        assert!((1 << 20..3 << 20).contains(&once), "{once}");
        fs::hard_link(inner.join("file"), home.path().join("again")).unwrap();
        std::os::unix::fs::symlink("/", home.path().join("root")).unwrap();
        std::os::unix::fs::symlink(".", home.path().join("loop")).unwrap();
        let more = on_disk(home.path()).unwrap();
        assert!(more < once + (1 << 16), "{once} {more}");
    }

    #[test]
    fn a_tree_that_is_too_deep_is_not_measured() {
        let home = tempfile::tempdir().unwrap();
        let mut deep = home.path().to_owned();
        for _ in 0..MAX_DEPTH {
            deep.push("d");
            fs::create_dir(&deep).unwrap();
        }
        on_disk(home.path()).unwrap_err();
    }
}
