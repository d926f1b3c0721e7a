//! The audit of a node's database, and who it is that types commands on the machine itself.

use std::{path::Path, sync::Arc};

use astraforge_adapters::clock::SystemClock;
use astraforge_core::{
    audit::{Actor, Audit, Means},
    id::TenantId,
    redact::Redactor,
};

use crate::{
    cli::ConnectionArgs,
    config::{ServerArgs, TENANT},
    database::Database,
};

/// The audit in the database of the node whose data folder is `root`.
pub(crate) fn open(args: &ServerArgs, root: &Path, database: &Database, redactor: Redactor) -> anyhow::Result<Audit> {
    let (key, home) = (args.keys.audit(root)?, TenantId::new(TENANT));
    Ok(Audit::with_redactor(database.audit(), key, Arc::new(SystemClock), home, redactor))
}

/// The same for a command that works on the database itself.
pub(crate) fn of_command_line(args: &ConnectionArgs, database: &Database) -> anyhow::Result<Audit> {
    open(&args.node, &args.node.data_folder()?, database, Redactor::default())
}

/// Whoever types a command: the machine knows them by their number, and says nothing of it that they could choose.
pub(crate) fn whoever_types() -> Actor {
    Actor::new(format!("uid {}", rustix::process::getuid().as_raw()), Means::CommandLine)
}
