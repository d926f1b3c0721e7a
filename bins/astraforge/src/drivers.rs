//! The drivers of a node's sandboxes, as configured.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
};

use anyhow::Context;
use astraforge_core::{
    id::{NodeId, SandboxId},
    ports::{egress_audit::EgressAudit, machines::Machines},
};
use astraforge_sandbox::{
    attack::{ContainerView, HostView},
    connect::{DriverConfig, connect},
    docker::DockerConfig,
    driver::DynSandboxDriver,
    native::{NativeConfig, NativeView, guest_binary::GuestBinary},
    sandboxes::Sandboxes,
};

use crate::{
    config::{Provisioner, ServerArgs},
    egress_log::EgressLog,
    egress_refusals::EgressRefusals,
};

pub(crate) mod docker;
pub(crate) mod image;
pub(crate) mod k8s;

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

    /// What is added to the data folder's own name where sandboxes of many servers are in one place.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Runs => "runs",
            Self::Sessions => "sessions",
        }
    }
}

/// The sandboxes of the default driver, for the node whose data folder is `root`.
pub(crate) async fn default(
    args: &ServerArgs,
    root: &Path,
    purpose: Purpose,
    refusals: &EgressRefusals,
) -> anyhow::Result<Sandboxes> {
    open(args, root, purpose, args.provisioner, args.native.pool, refusals).await
}

/// The machines of every configured driver for durable sandboxes, the default one first; `n_ready` native ones are kept
/// ready.
pub(crate) async fn machines(
    args: &ServerArgs,
    root: &Path,
    n_ready: u16,
    refusals: &EgressRefusals,
) -> anyhow::Result<Vec<Arc<dyn Machines>>> {
    let others = args.drivers.iter().filter(|driver| **driver != args.provisioner);
    let mut machines: Vec<Arc<dyn Machines>> = Vec::new();
    for &driver in [&args.provisioner].into_iter().chain(others) {
        machines.push(Arc::new(open(args, root, Purpose::Sessions, driver, n_ready, refusals).await?));
    }
    Ok(machines)
}

async fn open(
    args: &ServerArgs,
    root: &Path,
    purpose: Purpose,
    driver: Provisioner,
    n_ready: u16,
    refusals: &EgressRefusals,
) -> anyhow::Result<Sandboxes> {
    let driver = self::driver(args, root, purpose, driver, n_ready).await?;
    let audit: Arc<dyn EgressAudit> = match purpose {
        // What a run reached is in the output of its commands.
        Purpose::Runs => Arc::new(refusals.clone()),
        Purpose::Sessions => {
            let log = EgressLog::open(root).context("cannot keep a log of egress")?;
            Arc::new(refusals.clone().beside(Arc::new(log)))
        }
    };
    Ok(Sandboxes::new(driver).with_egress(args.egress.settings(audit)))
}

/// The driver of that kind, for the node whose data folder is `root`, with so many sandboxes in stock.
pub(crate) async fn driver(
    args: &ServerArgs,
    root: &Path,
    purpose: Purpose,
    driver: Provisioner,
    n_ready: u16,
) -> anyhow::Result<DynSandboxDriver> {
    let config = match driver {
        Provisioner::Native => {
            DriverConfig::Native(native(args, root, &root.join(purpose.folder()))?.with_pool(n_ready.into()))
        }
        Provisioner::Docker => DriverConfig::Docker(docker(args, root, purpose)?),
        Provisioner::K8s => DriverConfig::K8s(Box::new(args.k8s.config(&args.image, root, purpose).await?)),
    };
    connect(config).await.context("this machine cannot run sandboxes; `astraforge doctor` says more")
}

/// The driver whose machines every node of an installation reaches: a cluster, where its pods have one name for all.
pub(crate) fn shared(args: &ServerArgs) -> Option<&'static str> {
    args.k8s.is_shared().then_some("k8s")
}

/// What the host of that driver's sandboxes tells of them.
pub(crate) fn host(root: &Path, purpose: Purpose, driver: Provisioner) -> Arc<dyn HostView> {
    match driver {
        Provisioner::Native => Arc::new(NativeView::new(root.join(purpose.folder()))),
        Provisioner::Docker | Provisioner::K8s => Arc::new(ContainerView::default()),
    }
}

fn native(args: &ServerArgs, root: &Path, state: &Path) -> anyhow::Result<NativeConfig> {
    let guest = GuestBinary::find(args.guest.as_deref(), state)?;
    let config = args.native.apply(NativeConfig::new(state, guest.path()), root);
    Ok(args.toolchains.iter().fold(config, NativeConfig::with_toolchain))
}

/// The Docker driver's configuration, for the node whose data folder is `root`.
pub(crate) fn docker(args: &ServerArgs, root: &Path, purpose: Purpose) -> anyhow::Result<DockerConfig> {
    let guest = GuestBinary::find(args.guest.as_deref(), &root.join(purpose.folder()))?;
    let owner = format!("{}-{}", owner(root)?, purpose.as_str());
    args.docker.config(owner, guest.path(), args.image.image()?)
}

/// The node whose data folder is `root`.
pub(crate) fn node(root: &Path) -> anyhow::Result<NodeId> {
    Ok(owner(root)?.parse()?)
}

/// The name under which this data folder's sandboxes are known where those of others are too; made once, and kept.
pub(crate) fn owner(root: &Path) -> anyhow::Result<String> {
    const FILE: &str = "sandbox-owner";
    let path = root.join(FILE);
    let context = || format!("cannot read or write {}", path.display());
    let draft = root.join(format!(".{FILE}-{}", SandboxId::random()));
    if !path.exists() {
        fs::create_dir_all(root).with_context(context)?;
        let mut file =
            fs::File::options().write(true).create_new(true).mode(0o600).open(&draft).with_context(context)?;
        write!(file, "{}", SandboxId::random()).with_context(context)?;
        // Whoever is first has named it.
        let named = fs::hard_link(&draft, &path);
        fs::remove_file(&draft).with_context(context)?;
        match named {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error).with_context(context),
            _ => {}
        }
    }
    Ok(fs::read_to_string(&path).with_context(context)?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_folder_has_one_name_and_no_two_have_the_same() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let name = owner(one.path()).unwrap();
        assert_eq!(owner(one.path()).unwrap(), name);
        assert_ne!(owner(other.path()).unwrap(), name);
        assert_eq!(fs::read_dir(one.path()).unwrap().count(), 1, "nothing else is left");
    }
}
