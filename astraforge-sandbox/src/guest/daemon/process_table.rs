//! Who descends from whom, as `/proc` tells it.
//!
//! Only `/proc/<pid>/stat` is read: the `children` files are a kernel option, and miss processes that come and go.

use std::collections::{HashMap, HashSet};

use rustix::process::{Pid, Signal};

/// Processes that are stopped at most before the killing begins.
const MOST_FROZEN: usize = 100_000;

/// Returns the parent of process `pid`; 0 when it lies outside the sandbox.
pub(super) fn parent_of(pid: i32) -> Option<i32> {
    parse_parent(&std::fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// Lists all processes with their parents.
fn parents() -> HashMap<i32, i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            Some((pid, parent_of(pid)?))
        })
        .collect()
}

/// Lists all that descend from `pid`, itself left out, and the trees under `spared` with their roots.
pub(super) fn descendants_of(pid: i32, spared: &HashSet<i32>) -> Vec<i32> {
    descendants(pid, spared, &parents())
}

/// Kills all that descend from `pid` but the `spared` trees. Returns how many there were.
///
/// One round may miss processes that are born meanwhile. With `freeze`, all are stopped before any is killed: a fork
/// bomb at its limit then has no slot to grow back into.
pub(super) fn kill_descendants(pid: i32, spared: &HashSet<i32>, freeze: bool) -> usize {
    let mut found = descendants_of(pid, spared);
    if freeze {
        let mut frozen = HashSet::new();
        while found.iter().any(|pid| !frozen.contains(pid)) && frozen.len() < MOST_FROZEN {
            for &pid in found.iter().filter(|pid| frozen.insert(**pid)) {
                send_signal(pid, Signal::STOP);
            }
            found = descendants_of(pid, spared);
        }
    }
    for &pid in &found {
        send_signal(pid, Signal::KILL);
    }
    found.len()
}

/// Sends a signal. A process that is gone needs none.
pub(super) fn send_signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

fn descendants(pid: i32, spared: &HashSet<i32>, parents: &HashMap<i32, i32>) -> Vec<i32> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for (&child, &parent) in parents {
        children.entry(parent).or_default().push(child);
    }
    let (mut found, mut seen, mut next) = (Vec::new(), HashSet::from([pid]), vec![pid]);
    while let Some(parent) = next.pop() {
        for &child in children.get(&parent).into_iter().flatten() {
            // The table is read while it changes, so it may even hold a circle.
            if !spared.contains(&child) && seen.insert(child) {
                found.push(child);
                next.push(child);
            }
        }
    }
    found
}

/// Reads the parent from a `stat` line. The second field is a name of any bytes in parentheses.
fn parse_parent(stat: &[u8]) -> Option<i32> {
    let end_of_name = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end_of_name + 1..)?).ok()?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_cannot_fake_a_parent() {
        assert_eq!(parse_parent(b"7 (sh) S 3 7 7 0"), Some(3));
        assert_eq!(parse_parent(b"7 (x) S 1 ) R 3 7"), Some(3));
        assert_eq!(parse_parent(b"7 (\xff\n) Z 12 7"), Some(12));
        assert_eq!(parse_parent(b"7 (sh"), None);
        assert_eq!(parse_parent(b""), None);
    }

    #[test]
    fn descendants_are_found_at_any_depth_and_circles_end() {
        let parents = HashMap::from([(2, 1), (3, 2), (4, 3), (5, 1), (6, 7), (7, 6), (1, 4)]);
        let mut found = descendants(2, &HashSet::new(), &parents);
        found.sort_unstable();
        assert_eq!(found, [1, 3, 4, 5]);
    }

    #[test]
    fn a_spared_tree_is_left_alone() {
        let parents = HashMap::from([(2, 1), (3, 2), (4, 3), (5, 1)]);
        assert_eq!(descendants(1, &HashSet::from([2]), &parents), [5]);
    }

    #[test]
    fn the_table_knows_this_process() {
        let me = i32::try_from(std::process::id()).unwrap();
        assert_eq!(parent_of(me), i32::try_from(std::os::unix::process::parent_id()).ok());
    }
}
