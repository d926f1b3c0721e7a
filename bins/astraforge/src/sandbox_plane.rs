//! The control plane of a data folder's sandboxes, used by the server and, beside it, by `astraforge sandbox`.

use std::{path::Path, sync::Arc};

use astraforge_adapters::clock::SystemClock;
use astraforge_core::{
    access::{Caller, Role},
    control_plane::{ControlPlane, ControlSettings},
    id::{TenantId, UserId},
    ports::sandbox_store::SandboxStore,
    redact::Redactor,
};

use crate::{
    audit,
    config::{ServerArgs, TENANT},
    drivers,
    egress_refusals::EgressRefusals,
    files::Files,
};

/// Opens the control plane of the data folder at `root`. Several processes may do so at once.
pub(crate) async fn open(args: &ServerArgs, root: &Path) -> anyhow::Result<ControlPlane> {
    let database = args.open_database(root).await?;
    let audit = audit::open(args, root, &database, Redactor::default())?;
    let refusals = EgressRefusals::told_to(audit, database.sandboxes());
    build(args, root, database.sandboxes(), 0, &refusals).await
}

/// Puts the control plane together over a store that is open; `n_ready` native sandboxes are kept ready.
pub(crate) async fn build(
    args: &ServerArgs,
    root: &Path,
    store: Arc<dyn SandboxStore>,
    n_ready: u16,
    refusals: &EgressRefusals,
) -> anyhow::Result<ControlPlane> {
    let files = Files::for_sandboxes(&args.files, root).await?;
    let machines = drivers::machines(args, root, n_ready, refusals).await?;
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
