//! What the sandbox uses, as far as it can be told from inside.

use std::{fs, path::Path, time::Duration};

use astraforge_core::{ports::machines::Usage, session::ByteSize};
use rustix::process::getppid;

use super::{
    Daemon, FrameSink, Frames,
    errand::{self, Outcome},
};
use crate::{
    container::WORKSPACE,
    guest::frame::Failure,
    usage::{MEMORY, MEMORY_PEAK, first_number, in_file_system, on_disk, tree},
};

/// Where a container's own control group is, of version 2 and version 1.
const MEMORY_CGROUPS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/memory"];
/// Processor time that a control group counted, in nanoseconds.
const CPU_V1: [&str; 2] = ["/sys/fs/cgroup/cpuacct/cpuacct.usage", "/sys/fs/cgroup/cpu,cpuacct/cpuacct.usage"];
/// The same, in microseconds, among other counters.
const CPU_V2: &str = "/sys/fs/cgroup/cpu.stat";

/// What a file system in memory says it is.
const TMPFS: i128 = 0x0102_1994;

/// Answers with what the sandbox uses. Its files may be many: an errand counts them.
pub(super) async fn measure(daemon: &Daemon, frames: Frames, sink: FrameSink) {
    errand::run(daemon, frames, sink, |_, _| told(read(Path::new(WORKSPACE)))).await;
}

fn told(usage: Usage) -> Outcome {
    serde_json::to_vec(&usage).map(Some).map_err(|error| Failure::Refused { reason: error.to_string() })
}

/// Measures, in a child of the daemon.
fn read(workspace: &Path) -> Usage {
    let daemon = getppid().map_or(1, |pid| pid.as_raw_pid());
    let (cpu_of_tree, processes) = tree(Path::new("/proc"), daemon).unzip();
    let memory = |names| first_number(&MEMORY_CGROUPS.map(Into::into), names).map(ByteSize::bytes);
    let is_in_memory = rustix::fs::statfs(workspace).is_ok_and(|it| i128::from(it.f_type) == TMPFS);
    let disk = if is_in_memory { in_file_system(workspace) } else { on_disk(workspace).ok() };
    Usage {
        cpu: cpu_of_cgroup().or(cpu_of_tree),
        memory: memory(MEMORY),
        memory_peak: memory(MEMORY_PEAK),
        disk: disk.map(ByteSize::bytes),
        // This one is gone when the answer arrives.
        processes: processes.map(|it| it.saturating_sub(1)),
    }
}

fn cpu_of_cgroup() -> Option<Duration> {
    let number = |text: String| text.trim().parse().ok();
    let v1 = CPU_V1.iter().find_map(|file| fs::read_to_string(file).ok().and_then(number));
    v1.map(Duration::from_nanos).or_else(|| cpu_of_stat(&fs::read_to_string(CPU_V2).ok()?))
}

fn cpu_of_stat(text: &str) -> Option<Duration> {
    let micros = text.lines().find_map(|line| line.strip_prefix("usage_usec ")?.trim().parse().ok());
    micros.map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_from_among_other_counters() {
        let stat = "usage_usec 1500000\nuser_usec 1000000\nsystem_usec 500000\n";
        assert_eq!(cpu_of_stat(stat), Some(Duration::from_millis(1500)));
        assert_eq!(cpu_of_stat("nr_periods 0\n"), None);
    }

    #[test]
    fn what_can_be_told_of_any_process_is_told() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("file"), vec![1; 1 << 20]).unwrap();
        let usage = read(home.path());
        assert!(usage.cpu.is_some());
        assert!(usage.processes.unwrap() >= 1);
        assert!(usage.disk.unwrap() >= ByteSize::mib(1), "{usage:?}");
    }
}
