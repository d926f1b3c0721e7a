//! Removes stored files that no row tells of: what a kill between the two leaves behind.

use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    error::ForgeError,
    ports::{artifacts::ArtifactStore, store::StoreError},
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
    /// The keys of those it could not remove, and one for each owner that could not be asked about, and why; the next
    /// sweep tries them again.
    pub failed: Vec<(String, ForgeError)>,
}

/// The rows that tell of the files under one prefix, whose keys are made of it, their owner and a name: `PREFIX/OWNER/NAME`.
#[async_trait]
pub(crate) trait Rows: Send + Sync {
    /// Whose files they are.
    type Owner: FromStr + Ord + Copy + Send + Sync;

    /// When the making of a file of that name began; `None` for a name that is not ours.
    fn made_at(&self, name: &str) -> Option<DateTime<Utc>>;

    /// The keys that an owner's rows tell of; `None` for an owner that the store does not know. It never forgets one that
    /// it knew.
    async fn told(&self, owner: Self::Owner) -> Result<Option<BTreeSet<String>>, StoreError>;
}

impl Swept {
    /// Removes files under `prefix` that were stored a day before `now` or earlier for an owner whom the store knows and
    /// that no row tells of.
    pub(crate) async fn sweep<R: Rows>(
        &mut self,
        artifacts: &dyn ArtifactStore,
        prefix: &str,
        rows: &R,
        now: DateTime<Utc>,
    ) -> Result<(), ForgeError> {
        let keys = artifacts.list(prefix).await?;
        self.n_checked += keys.len();
        let mut suspects: BTreeMap<R::Owner, Vec<String>> = BTreeMap::new();
        for key in keys {
            if let Some(owner) = suspected(&key, prefix, rows, now) {
                suspects.entry(owner).or_default().push(key);
            }
        }
        for (owner, keys) in suspects {
            self.sweep_owner(artifacts, owner, keys, rows).await;
        }
        Ok(())
    }

    async fn sweep_owner<R: Rows>(
        &mut self,
        artifacts: &dyn ArtifactStore,
        owner: R::Owner,
        keys: Vec<String>,
        rows: &R,
    ) {
        // Rows are asked for only after the keys are known. One that was stored meanwhile is younger than those.
        let told = match rows.told(owner).await {
            // Somebody else keeps files in the same place.
            Ok(None) => return,
            Ok(Some(told)) => told,
            Err(error) => {
                let first = keys.into_iter().next().unwrap_or_default();
                return self.failed.push((first, error.into()));
            }
        };
        for key in keys {
            if told.contains(&key) {
                continue;
            }
            match artifacts.delete(&key).await {
                Ok(()) => self.removed.push(key),
                Err(error) => self.failed.push((key, error.into())),
            }
        }
    }
}

/// The owner of a key that is old enough to have a row. Keys that are made differently are not ours.
fn suspected<R: Rows>(key: &str, prefix: &str, rows: &R, now: DateTime<Utc>) -> Option<R::Owner> {
    let (owner, name) = key.strip_prefix(prefix)?.split_once('/')?;
    let is_old = now - rows.made_at(name)? > GRACE;
    owner.parse().ok().filter(|_| is_old)
}
