//! Looks over the host for whatever belongs to no sandbox that is known.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    process,
    time::{Duration, Instant},
};

use rustix::process::{Pid, WaitOptions};
use serde::Deserialize;

use super::enclosure::Enclosure;

/// How long what was killed may take to be gone.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often the host is looked over until then.
const GLANCE: Duration = Duration::from_millis(50);

/// Where things of sandboxes can be on this host.
#[derive(Debug)]
pub(crate) struct Host {
    /// Every process that the sandboxes and their servers have is below this one.
    root: i32,
    /// The control groups beneath which theirs are.
    groups: Vec<PathBuf>,
    /// The folder of everything: data, temporary files, and what may be mounted.
    scratch: PathBuf,
    /// The folder of the sandboxes' folders.
    state: PathBuf,
}

/// What may be there.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// Processes of ours: the server.
    pub(crate) ours: Vec<i32>,
    /// Sandboxes that live.
    pub(crate) live: BTreeSet<String>,
    /// Sandboxes that are stopped or lost, and may have left a workspace.
    pub(crate) stopped: BTreeSet<String>,
}

/// What is read of a sandbox's record.
#[derive(Debug, Deserialize)]
struct Record {
    keeper: Keeper,
}

#[derive(Debug, Deserialize)]
struct Keeper {
    pid: i32,
}

#[derive(Debug)]
struct Process {
    parent: i32,
    state: char,
    name: String,
}

impl Host {
    /// The host below this process.
    pub(crate) fn new(enclosure: &Enclosure, scratch: &Path, state: &Path) -> Self {
        let root = i32::try_from(process::id()).unwrap_or_default();
        Self { root, groups: enclosure.groups().to_vec(), scratch: scratch.to_owned(), state: state.to_owned() }
    }

    /// Looks until nothing is left over, or the time for it is up; then it tells what is.
    pub(crate) fn settle(&self, known: &Known) -> io::Result<Vec<String>> {
        let start = Instant::now();
        loop {
            let left = self.leftovers(known)?;
            if left.is_empty() || start.elapsed() > PATIENCE {
                return Ok(left);
            }
            std::thread::sleep(GLANCE);
        }
    }

    /// Tells of everything that belongs to no known sandbox.
    pub(crate) fn leftovers(&self, known: &Known) -> io::Result<Vec<String>> {
        let mut left = self.processes(known)?;
        left.extend(self.control_groups(known)?);
        left.extend(self.mounts(known)?);
        left.extend(self.loop_devices(known));
        left.extend(self.folders(known)?);
        Ok(left)
    }

    /// Processes below ours that no server of ours and no launcher of a live sandbox has started. A name space of
    /// its own lives as long as a process or a mount holds it, so there is none beside these.
    fn processes(&self, known: &Known) -> io::Result<Vec<String>> {
        let table = process_table()?;
        let keepers: BTreeSet<i32> = known.live.iter().filter_map(|id| self.keeper(id)).collect();
        let is_known = |pid: i32| known.ours.contains(&pid) || keepers.contains(&pid);
        let mut left = Vec::new();
        for (pid, process) in &table {
            let line = ancestors(&table, *pid);
            if *pid == self.root || !line.contains(&self.root) {
                continue;
            }
            if process.state == 'Z' {
                // It is dead; where its parent died first it is ours to bury. Others are buried where they are awaited.
                if process.parent == self.root && !known.ours.contains(pid) {
                    _ = Pid::from_raw(*pid).map(|pid| rustix::process::waitpid(Some(pid), WaitOptions::NOHANG));
                }
                continue;
            }
            if !line.iter().take_while(|it| **it != self.root).any(|pid| is_known(*pid)) {
                left.push(format!("process {pid} ({})", process.name));
            }
        }
        Ok(left)
    }

    /// The launcher of a sandbox.
    pub(super) fn keeper(&self, id: &str) -> Option<i32> {
        let record = fs::read(self.state.join(id).join("record.json")).ok()?;
        Some(serde_json::from_slice::<Record>(&record).ok()?.keeper.pid)
    }

    fn control_groups(&self, known: &Known) -> io::Result<Vec<String>> {
        let mut left = Vec::new();
        for group in &self.groups {
            for folder in folders_below(group)? {
                let name = folder.file_name().unwrap_or_default().to_string_lossy();
                let of = name.strip_prefix("astraforge-");
                if of.is_some_and(|of| !known.live.contains(of)) {
                    left.push(format!("control group {}", folder.display()));
                }
            }
        }
        Ok(left)
    }

    fn mounts(&self, known: &Known) -> io::Result<Vec<String>> {
        let table = fs::read_to_string("/proc/self/mountinfo")?;
        let scratch = self.scratch.display().to_string();
        let ours = table.lines().filter(|line| line.contains(&scratch) && !names_one_of(line, &known.live));
        Ok(ours.map(|line| format!("mount {line}")).collect())
    }

    fn loop_devices(&self, known: &Known) -> Vec<String> {
        let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
        let backed = devices.filter_map(|device| {
            let file = fs::read_to_string(device.path().join("loop/backing_file")).ok()?;
            Some((device.file_name(), file))
        });
        let scratch = self.scratch.display().to_string();
        backed
            .filter(|(_, file)| file.contains(&scratch) && !names_one_of(file, &known.live))
            .map(|(device, file)| format!("loop device {} on {}", device.display(), file.trim()))
            .collect()
    }

    /// Folders of sandboxes that are gone, temporary files, and what was never written to its end.
    fn folders(&self, known: &Known) -> io::Result<Vec<String>> {
        let mut left = Vec::new();
        for path in entries(&self.state)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let is_kept = || known.stopped.contains(&name) && path.join("keep").exists();
            if is_id(&name) && !known.live.contains(&name) && !is_kept() {
                left.push(format!("folder {}", path.display()));
            }
        }
        left.extend(entries(&self.scratch.join("tmp"))?.into_iter().map(|it| format!("temporary {}", it.display())));
        for path in everything_below(&self.scratch.join("data/sandbox-files"))? {
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) {
                left.push(format!("half a file {}", path.display()));
            }
        }
        Ok(left)
    }

    /// Tells whether a process is below ours, and alive.
    pub(super) fn is_ours(&self, pid: i32) -> bool {
        process_table().is_ok_and(|table| {
            let lives = table.get(&pid).is_some_and(|process| process.state != 'Z');
            lives && ancestors(&table, pid).contains(&self.root)
        })
    }

    /// Kills what is below ours, so that a run that failed leaves nothing.
    pub(crate) fn kill_all(&self) {
        let Ok(table) = process_table() else { return };
        for pid in table.keys().filter(|pid| **pid != self.root && ancestors(&table, **pid).contains(&self.root)) {
            if let Some(pid) = Pid::from_raw(*pid) {
                _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

fn names_one_of(text: &str, ids: &BTreeSet<String>) -> bool {
    ids.iter().any(|id| text.contains(id.as_str()))
}

/// Sandboxes' folders are called by their ids.
fn is_id(name: &str) -> bool {
    name.len() == 36 && name.bytes().filter(|byte| *byte == b'-').count() == 4
}

fn process_table() -> io::Result<BTreeMap<i32, Process>> {
    let mut table = BTreeMap::new();
    for path in entries(Path::new("/proc"))? {
        let Some(pid) = path.file_name().and_then(|name| name.to_str()?.parse().ok()) else { continue };
        // It may be gone by now.
        let Ok(stat) = fs::read_to_string(path.join("stat")) else { continue };
        if let Some(process) = parse_stat(&stat) {
            table.insert(pid, process);
        }
    }
    Ok(table)
}

/// The program's name comes second, in parentheses, and may hold anything itself.
fn parse_stat(stat: &str) -> Option<Process> {
    let (before, after) = stat.rsplit_once(')')?;
    let mut fields = after.split_ascii_whitespace();
    let (state, parent) = (fields.next()?.chars().next()?, fields.next()?.parse().ok()?);
    Some(Process { parent, state, name: before.split_once('(')?.1.to_owned() })
}

/// A process, its parent, and so on.
fn ancestors(table: &BTreeMap<i32, Process>, pid: i32) -> Vec<i32> {
    let mut line = vec![pid];
    let mut at = pid;
    while let Some(process) = table.get(&at).filter(|process| process.parent != 0 && !line.contains(&process.parent)) {
        at = process.parent;
        line.push(at);
    }
    line
}

/// What is in a folder; nothing where there is none.
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => Ok(entries?.flatten().map(|entry| entry.path()).collect()),
    }
}

fn everything_below(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for path in entries(folder)? {
        if path.is_dir() && !path.is_symlink() {
            all.extend(everything_below(&path)?);
        }
        all.push(path);
    }
    Ok(all)
}

fn folders_below(folder: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(everything_below(folder)?.into_iter().filter(|path| path.is_dir()).collect())
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    const ID: &str = "01234567-89ab-7def-8123-456789abcdef";

    struct Scene {
        scratch: PathBuf,
        host: Host,
    }

    impl Scene {
        fn new(name: &str, root: i32) -> Self {
            let scratch = std::env::temp_dir().join(format!("astraforge-chaos-test-{name}-{}", process::id()));
            let state = scratch.join("data/session-sandboxes");
            fs::create_dir_all(&state).unwrap();
            fs::create_dir_all(scratch.join("groups")).unwrap();
            let host = Host { root, groups: vec![scratch.join("groups")], scratch: scratch.clone(), state };
            Self { scratch, host }
        }

        fn put(&self, path: &str, text: &str) {
            let path = self.scratch.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        #[track_caller]
        fn check(&self, known: &Known, expected: &str) {
            let left = self.host.leftovers(known).unwrap().join("\n");
            assert!(if expected.is_empty() { left.is_empty() } else { left.contains(expected) }, "{left}");
        }
    }

    impl Drop for Scene {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.scratch).unwrap();
        }
    }

    /// A process whose child outlives what it was for.
    fn with_child() -> (Child, i32) {
        let mut parent = Command::new("sh");
        parent.args(["-c", "sleep 600 & echo; wait"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut parent = parent.spawn().unwrap();
        io::Read::read(parent.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        let root = i32::try_from(parent.id()).unwrap();
        // The shell has forked; a moment later what it forked is the program.
        let child = loop {
            let table = process_table().unwrap();
            let found = table.iter().find(|(_, it)| it.parent == root && it.name == "sleep");
            if let Some((child, _)) = found {
                break *child;
            }
        };
        (parent, child)
    }

    #[test]
    fn a_process_of_no_known_sandbox_is_found() {
        let (mut parent, child) = with_child();
        let scene = Scene::new("process", i32::try_from(parent.id()).unwrap());
        let own = Known { ours: vec![child], ..Known::default() };
        let live = Known { live: [ID.to_owned()].into(), ..Known::default() };
        scene.check(&own, "");
        scene.check(&Known::default(), &format!("process {child} (sleep)"));
        scene.check(&live, &format!("process {child} (sleep)"));
        scene.put(
            &format!("data/session-sandboxes/{ID}/record.json"),
            &format!(r#"{{"keeper": {{"pid": {child}, "start_time": 1}}}}"#),
        );
        scene.check(&live, "");
        scene.check(&Known::default(), &format!("process {child} (sleep)"));
        _ = rustix::process::kill_process(Pid::from_raw(child).unwrap(), rustix::process::Signal::KILL);
        parent.kill().unwrap();
        parent.wait().unwrap();
    }

    #[test]
    fn a_control_group_of_no_known_sandbox_is_found() {
        let scene = Scene::new("group", -1);
        fs::create_dir_all(scene.scratch.join(format!("groups/runner/astraforge-{ID}"))).unwrap();
        scene.check(&Known::default(), "control group");
        scene.check(&Known { live: [ID.to_owned()].into(), ..Known::default() }, "");
        fs::create_dir_all(scene.scratch.join("groups/runner/astraforge-probe-1-memory")).unwrap();
        scene.check(&Known { live: [ID.to_owned()].into(), ..Known::default() }, "astraforge-probe-1-memory");
    }

    #[test]
    fn a_folder_stays_only_with_its_sandbox_or_for_its_workspace() {
        let scene = Scene::new("folder", -1);
        scene.put(&format!("data/session-sandboxes/{ID}/record.json"), "{}");
        scene.check(&Known::default(), &format!("session-sandboxes/{ID}"));
        let stopped = Known { stopped: [ID.to_owned()].into(), ..Known::default() };
        scene.check(&stopped, &format!("session-sandboxes/{ID}"));
        scene.put(&format!("data/session-sandboxes/{ID}/keep"), "");
        scene.check(&stopped, "");
        scene.put("tmp/astraforge-1", "");
        scene.check(&stopped, "temporary");
    }

    #[test]
    fn half_a_snapshot_is_found() {
        let scene = Scene::new("half", -1);
        scene.put("data/sandbox-files/snapshots/1/whole.tar.zst", "");
        scene.check(&Known::default(), "");
        scene.put("data/sandbox-files/snapshots/1/.tmp-1", "");
        scene.check(&Known::default(), "half a file");
    }
}
