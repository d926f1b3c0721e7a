//! Removes stored files that no row tells of: what a kill between the two leaves behind.

use std::collections::{BTreeMap, BTreeSet};

use chrono::TimeDelta;

use super::engine::Engine;
use crate::{
    error::ForgeError,
    id::{ArtifactId, SandboxId, SnapshotId},
    ports::store::StoreError,
};

/// How long a file may be stored before its row is: the longest that storing one may take, and then some.
const GRACE: TimeDelta = TimeDelta::hours(24);

/// What a sweep did.
#[derive(Debug, Default)]
pub struct Swept {
    /// How many stored files it looked at.
    pub n_checked: usize,
    /// The keys of those it removed.
    pub removed: Vec<String>,
    /// The keys of those it could not remove, and one for each sandbox that could not be asked about, and why; the next
    /// sweep tries them again.
    pub failed: Vec<(String, ForgeError)>,
}

/// What kind of row tells of a stored file.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Snapshot,
    Artifact,
}

/// How the keys of those rows begin.
const PREFIXES: [(&str, Kind); 2] = [("snapshots/", Kind::Snapshot), ("artifacts/", Kind::Artifact)];

impl Engine {
    /// Removes files that were stored a day ago or earlier for a sandbox of this store and that no row tells of.
    pub(super) async fn sweep(&self) -> Result<Swept, ForgeError> {
        let mut swept = Swept::default();
        for (prefix, kind) in PREFIXES {
            let keys = self.artifacts.list(prefix).await?;
            swept.n_checked += keys.len();
            let mut suspects: BTreeMap<SandboxId, Vec<String>> = BTreeMap::new();
            for key in keys {
                if let Some(sandbox) = self.suspected(&key, prefix, kind) {
                    suspects.entry(sandbox).or_default().push(key);
                }
            }
            for (sandbox, keys) in suspects {
                self.sweep_sandbox(sandbox, kind, keys, &mut swept).await;
            }
        }
        Ok(swept)
    }

    /// The sandbox of a key that is old enough to have a row. Keys that are made differently are not ours.
    fn suspected(&self, key: &str, prefix: &str, kind: Kind) -> Option<SandboxId> {
        let (sandbox, name) = key.strip_prefix(prefix)?.split_once('/')?;
        let made_at = match kind {
            Kind::Snapshot => name.strip_suffix(".tar.zst")?.parse::<SnapshotId>().ok()?.made_at(),
            Kind::Artifact => name.parse::<ArtifactId>().ok()?.made_at(),
        };
        let is_old = self.clock.now() - made_at? > GRACE;
        sandbox.parse().ok().filter(|_| is_old)
    }

    async fn sweep_sandbox(&self, sandbox: SandboxId, kind: Kind, keys: Vec<String>, swept: &mut Swept) {
        // Rows are asked for only after the keys are known. One that was stored meanwhile is younger than those.
        let told = match self.told(sandbox, kind).await {
            // Somebody else keeps files in the same place.
            Ok(None) => return,
            Ok(Some(told)) => told,
            Err(error) => {
                let first = keys.into_iter().next().unwrap_or_default();
                return swept.failed.push((first, error.into()));
            }
        };
        for key in keys {
            if told.contains(&key) {
                continue;
            }
            match self.artifacts.delete(&key).await {
                Ok(()) => swept.removed.push(key),
                Err(error) => swept.failed.push((key, error.into())),
            }
        }
    }

    /// The keys that a sandbox's rows tell of; `None` for a sandbox that this store does not know. The rows of
    /// sandboxes are never removed, so that it knows all it ever had.
    async fn told(&self, sandbox: SandboxId, kind: Kind) -> Result<Option<BTreeSet<String>>, StoreError> {
        if self.store.sandbox(sandbox).await?.is_none() {
            return Ok(None);
        }
        Ok(Some(match kind {
            Kind::Snapshot => self.store.snapshots(sandbox).await?.into_iter().map(|row| row.key).collect(),
            Kind::Artifact => self.store.artifacts(sandbox).await?.into_iter().map(|row| row.key).collect(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use chrono::{DateTime, Utc};
    use uuid::{NoContext, Timestamp, Uuid};

    use super::*;
    use crate::{
        access::{Caller, Role},
        control_plane::{ControlPlane, NewExport, NewSandbox, NewSnapshot},
        ports::{artifacts::ArtifactStore as _, clock::Clock as _},
        testing::{MemoryArtifacts, MemorySandboxStore, PlayedMachines, TestClock, samples},
    };

    struct World {
        plane: ControlPlane,
        artifacts: Arc<MemoryArtifacts>,
        machines: Arc<PlayedMachines>,
        clock: TestClock,
        caller: Caller,
    }

    impl World {
        /// Ids are made by the real time, so this world's clock begins there.
        fn new() -> Self {
            let (artifacts, machines) = (Arc::new(MemoryArtifacts::default()), Arc::new(PlayedMachines::default()));
            let made_at = SandboxId::random().made_at().unwrap();
            let (clock, caller) = (TestClock::at(made_at), samples::caller("ada", Role::Maintainer));
            let store = Arc::new(MemorySandboxStore::default());
            let plane = ControlPlane::new(store, artifacts.clone(), Arc::new(clock.clone()), vec![machines.clone()]);
            Self { plane, artifacts, machines, clock, caller }
        }

        async fn sandbox(&self) -> SandboxId {
            let id = self.plane.create(&self.caller, NewSandbox::default()).await.unwrap().sandbox.id;
            self.machines.write(id, "/workspace/work", "precious");
            id
        }

        /// Stores what a killed process left, for a snapshot or a file whose making began then.
        async fn leave(&self, prefix: &str, sandbox: SandboxId, suffix: &str, began: DateTime<Utc>) -> String {
            let seconds = u64::try_from(began.timestamp()).unwrap();
            let id = Uuid::new_v7(Timestamp::from_unix(NoContext, seconds, 0));
            let key = format!("{prefix}/{sandbox}/{id}{suffix}");
            self.artifacts.put(&key, "left".into()).await.unwrap();
            key
        }
    }

    #[tokio::test]
    async fn what_no_row_tells_of_goes_after_a_day_and_what_a_row_tells_of_stays() {
        let world = World::new();
        let id = world.sandbox().await;
        world.plane.snapshot(&world.caller, id, NewSnapshot::default()).await.unwrap();
        world.plane.export(&world.caller, id, NewExport::new("/workspace/work")).await.unwrap();
        let kept = world.artifacts.keys();
        assert_eq!(kept.len(), 2);
        let now = world.clock.now();
        let mut left =
            [world.leave("artifacts", id, "", now).await, world.leave("snapshots", id, ".tar.zst", now).await];
        left.sort();
        world.clock.advance(std::time::Duration::from_secs(23 * 3600));
        assert_eq!(world.plane.sweep().await.unwrap().removed.len(), 0, "their rows may be about to be written");
        world.clock.advance(std::time::Duration::from_secs(2 * 3600));
        let fresh = world.leave("snapshots", id, ".tar.zst", world.clock.now()).await;
        let mut swept = world.plane.sweep().await.unwrap();
        swept.removed.sort();
        assert_eq!((swept.n_checked, swept.removed.as_slice(), swept.failed.len()), (5, left.as_slice(), 0));
        let mut expected = [kept, vec![fresh]].concat();
        expected.sort();
        assert_eq!(world.artifacts.keys(), expected);

        world.clock.advance(std::time::Duration::from_secs(10 * 365 * 24 * 3600));
        world.plane.delete(&world.caller, id).await.unwrap();
        assert_eq!(world.plane.sweep().await.unwrap().removed, expected[2..], "whatever its age, and who it was for");
        assert_eq!(world.artifacts.keys(), expected[..2]);
    }

    #[tokio::test]
    async fn what_others_keep_in_the_same_place_is_left_alone() {
        let world = World::new();
        let id = world.sandbox().await;
        let long_ago = world.clock.now() - TimeDelta::days(400);
        world.leave("snapshots", SandboxId::random(), ".tar.zst", long_ago).await;
        world.leave("snapshots", id, ".tar.gz", long_ago).await;
        world.leave("elsewhere", id, ".tar.zst", long_ago).await;
        // A text that tells no time.
        let key = format!("snapshots/{id}/{}.tar.zst", Uuid::new_v4());
        world.artifacts.put(&key, "x".into()).await.unwrap();
        let swept = world.plane.sweep().await.unwrap();
        assert_eq!((swept.n_checked, swept.removed.len(), swept.failed.len()), (3, 0, 0));
        assert_eq!(world.artifacts.keys().len(), 4);
    }
}
