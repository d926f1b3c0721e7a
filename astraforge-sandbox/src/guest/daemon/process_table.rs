//! Who descends from whom, as `/proc` tells it.
//!
//! Only `/proc/<pid>/stat` is read: the `children` files are a kernel option, and miss processes that come and go.

use std::collections::{HashMap, HashSet};

use rustix::process::{Pid, Signal};

/// Looks at the table between the first stop and the first kill, at most.
const MOST_LOOKS: usize = 20;

/// Returns the parent of process `pid`; 0 when it lies outside the sandbox.
pub(super) fn parent_of(pid: i32) -> Option<i32> {
    read(pid).map(|entry| entry.parent)
}

/// Kills all that descend from `pid`, itself left out, but the trees under `spared` with their roots. Returns how many
/// there were.
///
/// Process groups go first: a group is signalled in one step, during which none of its members can fork. What changes
/// its group with every fork may slip through a round. With `freeze`, all are stopped before any is killed: a fork bomb
/// at its limit then has no slot to grow back into.
pub(super) fn kill_descendants(pid: i32, spared: &HashSet<i32>, freeze: bool) -> usize {
    let mut found = descendants(pid, spared, &table());
    if freeze {
        let mut frozen = HashSet::new();
        for _ in 0..MOST_LOOKS {
            let free: Vec<i32> = found.iter().map(|(pid, _)| *pid).filter(|pid| frozen.insert(*pid)).collect();
            if free.is_empty() {
                break;
            }
            free.into_iter().for_each(|pid| send_signal(pid, Signal::STOP));
            found = descendants(pid, spared, &table());
        }
    }
    // Every command leads a session of its own, so a group has members in one command's tree alone. Only a process
    // that is about to leave its parent's session is still in the parent's group.
    let groups: HashSet<i32> = found.iter().map(|(_, entry)| entry.group).collect();
    for group in groups.into_iter().filter(|group| *group != pid && !spared.contains(group)) {
        signal_group(group, Signal::KILL);
    }
    for (pid, _) in &found {
        send_signal(*pid, Signal::KILL);
    }
    found.len()
}

/// Sends a signal. A process that is gone needs none.
pub(super) fn send_signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Sends a signal to a whole process group, in one step. A group that is gone needs none.
pub(super) fn signal_group(group: i32, signal: Signal) {
    // 0 would be the caller's own, 1 everything there is.
    if let Some(group) = Pid::from_raw(group).filter(|group| !group.is_init()) {
        let _ = rustix::process::kill_process_group(group, signal);
    }
}

/// What the table says of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    parent: i32,
    group: i32,
}

fn table() -> HashMap<i32, Entry> {
    let folders = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    folders
        .filter_map(|folder| {
            let pid = folder.file_name().to_str()?.parse().ok()?;
            Some((pid, read(pid)?))
        })
        .collect()
}

fn read(pid: i32) -> Option<Entry> {
    parse(&std::fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// Reads a `stat` line: number, name, state, parent, group. The name is any bytes in parentheses.
fn parse(stat: &[u8]) -> Option<Entry> {
    let end_of_name = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end_of_name + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace().skip(1).map(str::parse);
    Some(Entry { parent: fields.next()?.ok()?, group: fields.next()?.ok()? })
}

fn descendants(pid: i32, spared: &HashSet<i32>, table: &HashMap<i32, Entry>) -> Vec<(i32, Entry)> {
    let mut children: HashMap<i32, Vec<(i32, Entry)>> = HashMap::new();
    for (&child, &entry) in table {
        children.entry(entry.parent).or_default().push((child, entry));
    }
    let (mut found, mut seen, mut next) = (Vec::new(), HashSet::from([pid]), vec![pid]);
    while let Some(parent) = next.pop() {
        for &(child, entry) in children.get(&parent).into_iter().flatten() {
            // The table is read while it changes, so it may even hold a circle.
            if !spared.contains(&child) && seen.insert(child) {
                found.push((child, entry));
                next.push(child);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_cannot_fake_a_parent() {
        let entry = |parent, group| Some(Entry { parent, group });
        assert_eq!(parse(b"7 (sh) S 3 5 7 0"), entry(3, 5));
        assert_eq!(parse(b"7 (x) S 1 1 ) R 3 5 7"), entry(3, 5));
        assert_eq!(parse(b"7 (\xff\n) Z 12 7 7"), entry(12, 7));
        assert_eq!(parse(b"7 (sh) S 3"), None);
        assert_eq!(parse(b"7 (sh"), None);
        assert_eq!(parse(b""), None);
    }

    #[track_caller]
    fn check_descendants(pid: i32, spared: &[i32], parents: &[(i32, i32)], expected: &[i32]) {
        let table = parents.iter().map(|&(pid, parent)| (pid, Entry { parent, group: pid })).collect();
        let spared = spared.iter().copied().collect();
        let mut found: Vec<i32> = descendants(pid, &spared, &table).into_iter().map(|(pid, _)| pid).collect();
        found.sort_unstable();
        assert_eq!(found, expected);
    }

    #[test]
    fn descendants_are_found_at_any_depth_and_circles_end() {
        check_descendants(2, &[], &[(2, 1), (3, 2), (4, 3), (5, 1), (6, 7), (7, 6), (1, 4)], &[1, 3, 4, 5]);
    }

    #[test]
    fn a_spared_tree_is_left_alone() {
        check_descendants(1, &[2], &[(2, 1), (3, 2), (4, 3), (5, 1)], &[5]);
    }

    #[test]
    fn the_table_knows_this_process() {
        let me = i32::try_from(std::process::id()).unwrap();
        assert_eq!(parent_of(me), i32::try_from(std::os::unix::process::parent_id()).ok());
    }
}
