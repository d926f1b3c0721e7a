//! The rows of sandboxes that tell of stored files, for the sweep of those that none tells of.

use std::collections::BTreeSet;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::engine::Engine;
use crate::{
    error::ForgeError,
    id::{ArtifactId, SandboxId, SnapshotId},
    ports::{sandbox_store::SandboxStore, store::StoreError},
    sweep::{Rows, Swept},
};

impl Engine {
    /// Removes files that were stored a day ago or earlier for a sandbox of this store and that no row tells of.
    pub(super) async fn sweep(&self) -> Result<Swept, ForgeError> {
        let (mut swept, now, store) = (Swept::default(), self.clock.now(), &*self.store);
        swept.sweep(&*self.artifacts, "snapshots/", &Snapshots(store), now).await?;
        swept.sweep(&*self.artifacts, "artifacts/", &Exports(store), now).await?;
        Ok(swept)
    }
}

struct Snapshots<'a>(&'a dyn SandboxStore);

#[async_trait]
impl Rows for Snapshots<'_> {
    type Owner = SandboxId;

    fn made_at(&self, name: &str) -> Option<DateTime<Utc>> {
        name.strip_suffix(".tar.zst")?.parse::<SnapshotId>().ok()?.made_at()
    }

    async fn told(&self, sandbox: SandboxId) -> Result<Option<BTreeSet<String>>, StoreError> {
        if self.0.sandbox(sandbox).await?.is_none() {
            return Ok(None);
        }
        Ok(Some(self.0.snapshots(sandbox).await?.into_iter().map(|row| row.key).collect()))
    }
}

struct Exports<'a>(&'a dyn SandboxStore);

#[async_trait]
impl Rows for Exports<'_> {
    type Owner = SandboxId;

    fn made_at(&self, name: &str) -> Option<DateTime<Utc>> {
        name.parse::<ArtifactId>().ok()?.made_at()
    }

    async fn told(&self, sandbox: SandboxId) -> Result<Option<BTreeSet<String>>, StoreError> {
        if self.0.sandbox(sandbox).await?.is_none() {
            return Ok(None);
        }
        Ok(Some(self.0.artifacts(sandbox).await?.into_iter().map(|row| row.key).collect()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use chrono::TimeDelta;
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
