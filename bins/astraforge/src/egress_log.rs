//! The last connections of durable sandboxes, kept in a file each, for whichever process asks.

use std::{
    fs,
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use astraforge_core::{egress::EgressEvent, id::SandboxId, ports::egress_audit::EgressAudit};

/// The folder below the data folder.
const FOLDER: &str = "sandbox-egress";
/// A file that has become larger begins anew; the one before it is kept.
const MAX_BYTES: u64 = 256 * 1024;
/// Files that nothing was written to for so long are removed.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// Files with one event a line.
#[derive(Debug)]
pub(crate) struct EgressLog {
    folder: PathBuf,
}

impl EgressLog {
    /// The log of the data folder at `root`.
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        let folder = root.join(FOLDER);
        fs::create_dir_all(&folder)?;
        let is_old = |file: &fs::DirEntry| {
            let modified = file.metadata().and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
            SystemTime::now().duration_since(modified).is_ok_and(|age| age > KEPT)
        };
        for file in fs::read_dir(&folder)?.filter_map(Result::ok).filter(is_old) {
            fs::remove_file(file.path())?;
        }
        Ok(Self { folder })
    }

    /// The last `max` events of a sandbox, oldest first.
    pub(crate) fn last(&self, sandbox: SandboxId, max: usize) -> io::Result<Vec<EgressEvent>> {
        let mut events = Vec::new();
        for path in [self.path(sandbox, "old"), self.path(sandbox, "jsonl")] {
            let file = match fs::File::open(path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            // A line that a crash cut short says nothing.
            let lines = BufReader::new(file).lines();
            events.extend(lines.map_while(Result::ok).filter_map(|line| serde_json::from_str(&line).ok()));
        }
        Ok(events.split_off(events.len().saturating_sub(max)))
    }

    fn append(&self, sandbox: SandboxId, event: &EgressEvent) -> io::Result<()> {
        let path = self.path(sandbox, "jsonl");
        let mut file = fs::File::options().append(true).create(true).open(&path)?;
        // In one call, so that lines of several processes stay whole.
        file.write_all(format!("{}\n", serde_json::to_string(event)?).as_bytes())?;
        if file.metadata()?.len() > MAX_BYTES {
            fs::rename(&path, self.path(sandbox, "old"))?;
        }
        Ok(())
    }

    fn path(&self, sandbox: SandboxId, extension: &str) -> PathBuf {
        self.folder.join(format!("{sandbox}.{extension}"))
    }
}

impl EgressAudit for EgressLog {
    fn note(&self, sandbox: SandboxId, event: &EgressEvent) {
        if let Err(error) = self.append(sandbox, event) {
            tracing::error!(sandbox.id = %sandbox, %error, "a connection is missing in the log of egress");
        }
    }
}

#[cfg(test)]
mod tests {
    use astraforge_core::egress::EgressOutcome;

    use super::*;

    #[test]
    fn the_last_events_are_kept_and_files_stay_small() {
        let folder = tempfile::tempdir().unwrap();
        let (log, id) = (EgressLog::open(folder.path()).unwrap(), SandboxId::random());
        assert_eq!(log.last(id, 10).unwrap(), []);
        let event = |port| EgressEvent {
            at: chrono::DateTime::UNIX_EPOCH,
            host: "x".repeat(200),
            port,
            outcome: EgressOutcome::Refused { reason: "y".repeat(200) },
        };
        for port in 1..4000 {
            log.note(id, &event(port));
        }
        let other_process = EgressLog::open(folder.path()).unwrap();
        let ports: Vec<u16> = other_process.last(id, 3).unwrap().into_iter().map(|event| event.port).collect();
        assert_eq!(ports, [3997, 3998, 3999]);
        let n_bytes: u64 = fs::read_dir(&log.folder).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
        assert!(n_bytes < 3 * MAX_BYTES, "{n_bytes}");
        assert_eq!(log.last(SandboxId::random(), 3).unwrap(), []);
    }
}
