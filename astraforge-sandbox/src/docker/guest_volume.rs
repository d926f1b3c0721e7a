//! The volume from which every sandbox runs its guest: filled once for each guest program, and never written again.

use std::{collections::HashMap, io, path::PathBuf, sync::Arc};

use astraforge_core::BoxError;
use bollard::{
    errors::Error,
    query_parameters::{ContainerArchiveInfoOptionsBuilder, ListVolumesOptionsBuilder},
};
use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;

use super::{
    engine::{Engine, found},
    maker::Maker,
    names, spec,
};
use crate::container::{GUEST, GUEST_FOLDER, GUEST_MODE};

/// How long a volume that nobody uses stays: another server may just have filled it.
const KEPT_UNUSED: chrono::Duration = chrono::Duration::days(1);

/// The guest program of this driver, and the volume it lies on.
///
/// The volume's name holds what the program contains, so servers of several versions share an engine.
#[derive(Debug)]
pub(super) struct GuestVolume {
    name: String,
    program: Arc<[u8]>,
    is_filled: Mutex<bool>,
}

impl GuestVolume {
    /// Reads the program.
    pub(super) async fn read(program: PathBuf, prefix: &str) -> io::Result<Self> {
        let program: Arc<[u8]> = tokio::fs::read(program).await?.into();
        let hash = Sha256::digest(&program);
        let hash: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let name = format!("{prefix}guest-{}-{hash}", env!("CARGO_PKG_VERSION"));
        Ok(Self { name, program, is_filled: Mutex::default() })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Makes sure that the program lies on the volume. The first call looks, the others know.
    pub(super) async fn ensure(&self, engine: &Engine, image: &str, maker: &Maker) -> Result<(), BoxError> {
        let mut is_filled = self.is_filled.lock().await;
        if !*is_filled {
            self.fill(engine, image, maker).await?;
            *is_filled = true;
        }
        Ok(())
    }

    /// Looks again at the next call: somebody may have removed the volume.
    pub(super) async fn doubt(&self) {
        *self.is_filled.lock().await = false;
    }

    /// Fills the volume unless it is filled, through a container that is never started.
    async fn fill(&self, engine: &Engine, image: &str, maker: &Maker) -> Result<(), BoxError> {
        // Not one for all: another server may be at it too, and put the same bytes in the same place.
        let container = format!("{}-{}", self.name, astraforge_core::id::SandboxId::random());
        let labels = HashMap::from([(names::GUEST.to_owned(), env!("CARGO_PKG_VERSION").to_owned())]);
        let mount = spec::volume(&self.name, GUEST_FOLDER, labels.clone());
        let mut labels = labels;
        labels.insert(names::MAKER.to_owned(), maker.to_label());
        engine.create(&container, spec::preparation(image, labels, vec![mount])).await?;
        let filled = self.fill_through(engine, &container).await;
        engine.remove(&container).await?;
        filled
    }

    async fn fill_through(&self, engine: &Engine, container: &str) -> Result<(), BoxError> {
        let options = ContainerArchiveInfoOptionsBuilder::default().path(GUEST).build();
        let there = found(engine.0.get_container_archive_info(container, Some(options)).await)?;
        if there.is_some_and(|it| u64::try_from(it.size).is_ok_and(|size| size == self.program.len() as u64)) {
            return Ok(());
        }
        tracing::info!(volume = self.name, "putting the guest program on its volume");
        Ok(engine.upload(container, archive(&self.program)?).await?)
    }
}

/// Removes what was broken off when a volume was filled, and volumes with guests of other versions that nobody uses any
/// more.
pub(super) async fn sweep(engine: &Engine, current: &str, maker: &Maker, now: DateTime<Utc>) -> Result<(), Error> {
    let filter = HashMap::from([("label".to_owned(), vec![names::GUEST.to_owned()])]);
    for container in engine.containers(&filter).await? {
        let maker_of = container.labels.as_ref().and_then(|labels| labels.get(names::MAKER));
        let is_left = !maker_of.is_some_and(|it| maker.leaves_to(it));
        if let Some(id) = container.id.filter(|_| is_left) {
            engine.remove(&id).await?;
        }
    }
    let options = ListVolumesOptionsBuilder::new().filters(&filter).build();
    for volume in engine.0.list_volumes(Some(options)).await?.volumes.unwrap_or_default() {
        let made = volume.created_at.as_ref().and_then(|at| DateTime::parse_from_rfc3339(&at.to_string()).ok());
        let is_old = made.is_some_and(|made| now.signed_duration_since(made) > KEPT_UNUSED);
        if volume.name != current && is_old {
            // One that is in use refuses, which is what it is to do.
            drop(engine.remove_volume(&volume.name).await);
        }
    }
    Ok(())
}

/// The program at its place in a container, for root to own and for all to run.
fn archive(program: &[u8]) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::with_capacity(program.len() + 4096));
    let mut header = tar::Header::new_gnu();
    header.set_mode(GUEST_MODE);
    header.set_size(program.len() as u64);
    header.set_entry_type(tar::EntryType::Regular);
    archive.append_data(&mut header, GUEST.trim_start_matches('/'), program)?;
    archive.into_inner()
}
