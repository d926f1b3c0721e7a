//! The control plane of a data folder's sandboxes, used by the server and, beside it, by `astraforge sandbox`.

use std::{path::Path, sync::Arc};

use astraforge_adapters::clock::SystemClock;
use astraforge_core::{
    access::{Caller, Role},
    control_plane::{ControlPlane, ControlSettings},
    id::{TenantId, UserId},
    ports::sandbox_store::SandboxStore,
};

use crate::{
    config::{ServerArgs, TENANT},
    drivers,
    files::Files,
};

/// Opens the control plane of the data folder at `root`. Several processes may do so at once.
pub(crate) async fn open(args: &ServerArgs, root: &Path) -> anyhow::Result<ControlPlane> {
    build(args, root, args.open_database(root).await?.sandboxes(), 0).await
}

/// Puts the control plane together over a store that is open; `n_ready` native sandboxes are kept ready.
pub(crate) async fn build(
    args: &ServerArgs,
    root: &Path,
    store: Arc<dyn SandboxStore>,
    n_ready: u16,
) -> anyhow::Result<ControlPlane> {
    let files = Files::for_sandboxes(&args.files, root).await?;
    let machines = drivers::machines(args, root, n_ready).await?;
    let settings = ControlSettings::default()
        .with_kept_automatic(usize::from(args.files.kept_snapshots))
        .with_node(drivers::node(root)?)
        .with_link_key(args.keys.links(root)?);
    let settings = drivers::shared(args).into_iter().fold(settings, ControlSettings::with_shared_mode);
    Ok(ControlPlane::builder(store, Arc::new(files), Arc::new(SystemClock), machines, settings).build())
}

/// Whoever owns the data folder.
pub(crate) fn owner() -> Caller {
    Caller::new(TenantId::new(TENANT), UserId::new("owner"), Role::Admin)
}
