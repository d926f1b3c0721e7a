//! The drivers of a node's sandboxes, as configured.

use std::{path::Path, sync::Arc};

use anyhow::{Context, bail};
use astraforge_core::ports::machines::Machines;
use astraforge_sandbox::{
    connect::{DriverConfig, connect},
    native::{NativeConfig, guest_binary::GuestBinary},
    sandboxes::Sandboxes,
};

use crate::config::{Provisioner, ServerArgs};

/// What sandboxes are for. The two kinds are kept apart: those of runs are removed when a server starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// One run of an agent.
    Runs,
    /// Durable sandboxes.
    Sessions,
}

impl Purpose {
    /// The folder below the data folder that holds what the native driver keeps.
    pub(crate) const fn folder(self) -> &'static str {
        match self {
            Self::Runs => "sandboxes",
            Self::Sessions => "session-sandboxes",
        }
    }
}

/// The sandboxes of the default driver, for the node whose data folder is `root`.
pub(crate) async fn default(args: &ServerArgs, root: &Path, purpose: Purpose) -> anyhow::Result<Sandboxes> {
    open(args, root, purpose, args.provisioner, args.native.pool).await
}

/// The machines of every configured driver for durable sandboxes, the default one first; `n_ready` native ones are kept
/// ready.
pub(crate) async fn machines(args: &ServerArgs, root: &Path, n_ready: u16) -> anyhow::Result<Vec<Arc<dyn Machines>>> {
    let others = args.drivers.iter().filter(|driver| **driver != args.provisioner);
    let mut machines: Vec<Arc<dyn Machines>> = Vec::new();
    for &driver in [&args.provisioner].into_iter().chain(others) {
        machines.push(Arc::new(open(args, root, Purpose::Sessions, driver, n_ready).await?));
    }
    Ok(machines)
}

async fn open(
    args: &ServerArgs,
    root: &Path,
    purpose: Purpose,
    driver: Provisioner,
    n_ready: u16,
) -> anyhow::Result<Sandboxes> {
    let config = match driver {
        Provisioner::Native => {
            DriverConfig::Native(native(args, root, &root.join(purpose.folder()))?.with_pool(n_ready.into()))
        }
        Provisioner::Docker | Provisioner::K8s => bail!("sandboxes run with `native` today; docker and k8s are coming"),
    };
    let driver = connect(config).await.context("this machine cannot run sandboxes; `astraforge doctor` says more")?;
    Ok(Sandboxes::new(driver))
}

fn native(args: &ServerArgs, root: &Path, state: &Path) -> anyhow::Result<NativeConfig> {
    let guest = GuestBinary::find(args.guest.as_deref(), state)?;
    let config = args.native.apply(NativeConfig::new(state, guest.path()), root);
    Ok(args.toolchains.iter().fold(config, NativeConfig::with_toolchain))
}
