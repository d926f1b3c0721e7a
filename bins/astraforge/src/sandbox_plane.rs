//! The control plane of a data folder's sandboxes, used by the server and, beside it, by `astraforge sandbox`.

use std::{path::Path, sync::Arc};

use anyhow::Context;
use astraforge_adapters::{artifacts::FolderArtifacts, clock::SystemClock, secret_box::SecretKey, sqlite::SqliteStore};
use astraforge_core::{
    access::{Caller, Role},
    control_plane::ControlPlane,
    id::{TenantId, UserId},
};
use astraforge_sandbox::{
    native::{NativeConfig, NativeDriver, guest_binary::GuestBinary},
    sandboxes::Sandboxes,
};

use crate::config::{ServerArgs, TENANT};

/// Where the machines of durable sandboxes are, apart from those of runs: a server removes the latter when it starts.
const MACHINES: &str = "session-sandboxes";
/// Where snapshots and exported files are.
const FILES: &str = "sandbox-files";

/// Opens the control plane of the data folder at `root`. Several processes may do so at once.
pub(crate) async fn open(args: &ServerArgs, root: &Path) -> anyhow::Result<ControlPlane> {
    let key = SecretKey::load_or_create(root.join("secret.key"))?;
    let store = Arc::new(SqliteStore::open(root.join("astraforge.db"), key).await?);
    build(args, root, store)
}

/// Puts the control plane together over a store that is open.
pub(crate) fn build(args: &ServerArgs, root: &Path, store: Arc<SqliteStore>) -> anyhow::Result<ControlPlane> {
    let state = root.join(MACHINES);
    let guest = GuestBinary::find(args.guest.as_deref(), &state)?;
    let mut config = NativeConfig::new(state, guest.path());
    for toolchain in &args.toolchains {
        config = config.with_toolchain(toolchain);
    }
    let driver =
        NativeDriver::new(config).context("this machine cannot run sandboxes; `astraforge doctor` says more")?;
    let files = Arc::new(FolderArtifacts::new(root.join(FILES)));
    let machines = Arc::new(Sandboxes::new(Arc::new(driver)));
    Ok(ControlPlane::new(store, files, Arc::new(SystemClock), vec![machines]))
}

/// Whoever owns the data folder.
pub(crate) fn owner() -> Caller {
    Caller { tenant: TenantId::new(TENANT), user: UserId::new("owner"), role: Role::Admin }
}
