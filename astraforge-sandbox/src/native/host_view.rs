//! What the host knows of native sandboxes, for the attack suite.

use std::path::PathBuf;

use astraforge_core::{BoxError, id::SandboxId};
use async_trait::async_trait;

use super::{record::Folder, seccomp};
use crate::attack::{Footprint, HostProcess, HostView};

/// The host of native sandboxes: this machine.
#[derive(Debug, Clone)]
pub struct NativeView {
    state_dir: PathBuf,
}

impl NativeView {
    /// The host of the driver that keeps its sandboxes in `state_dir`.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self { state_dir: state_dir.into() }
    }

    fn folder(&self, id: SandboxId) -> Folder {
        Folder::new(self.state_dir.join(id.to_string()))
    }
}

#[async_trait]
impl HostView for NativeView {
    async fn footprint(&self, id: SandboxId) -> Result<Footprint, BoxError> {
        let folder = self.folder(id);
        let mut footprint = Footprint { processes: Some(Vec::new()), ..Footprint::default() };
        let Some(record) = folder.record() else { return Ok(footprint) };
        footprint.processes = Some(record.init.map(|it| crate::attack::tree(it.pid)).unwrap_or_default());
        footprint.keepers.extend(HostProcess::find(record.keeper.pid));
        footprint.paths = record.cgroups;
        footprint.paths.push(folder.path().to_owned());
        Ok(footprint)
    }

    async fn remains(&self, id: SandboxId, before: &Footprint) -> Result<Vec<String>, BoxError> {
        let mut left: Vec<_> =
            before.paths.iter().filter(|it| it.exists()).map(|it| it.display().to_string()).collect();
        if self.folder(id).path().exists() {
            left.push(format!("the folder of {id}"));
        }
        // A mount that outlives its sandbox is seen where the server is.
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        left.extend(mounts.lines().filter(|it| it.contains(&id.to_string())).map(|it| format!("the mount {it}")));
        Ok(left)
    }

    fn n_folders(&self) -> usize {
        std::fs::read_dir(&self.state_dir).map_or(0, Iterator::count)
    }

    fn refuses_call(&self, number: i64) -> Option<bool> {
        Some(seccomp::refuses(number))
    }
}
