//! The words of `astraforge audit`.

use astraforge_core::audit::chain::Mark;
use clap::{Args, Subcommand};

/// What to do with the audit.
#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// List what was done, the newest first
    Ls(ListAuditArgs),
    /// Tell whether every entry is as it was written, and none is missing; fails if not
    ///
    /// Prints the end of each chain. Keep it elsewhere, and pass it with --expect later: then it is told too if the whole
    /// database was put back to an earlier state.
    Verify(VerifyAuditArgs),
    /// Print all entries as JSON Lines, the oldest first
    Export(TenantArg),
}

/// A tenant.
#[derive(Debug, Args)]
pub(crate) struct TenantArg {
    /// Whose audit [default: that of the node's own tenant]
    #[arg(long, value_name = "NAME")]
    pub(crate) tenant: Option<String>,
}

/// Arguments of `audit ls`.
#[derive(Debug, Args)]
pub(crate) struct ListAuditArgs {
    #[command(flatten)]
    pub(crate) whose: TenantArg,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) limit: u32,
    /// Only those before the entry of this number
    #[arg(long, value_name = "SEQ")]
    pub(crate) before: Option<u64>,
}

/// Arguments of `audit verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyAuditArgs {
    /// Only this tenant's [default: those of all tenants]
    #[arg(long, value_name = "NAME")]
    pub(crate) tenant: Option<String>,
    /// What was printed before, which has to be there still; of the named tenant, or else of the node's own
    #[arg(long, value_name = "SEQ:HASH")]
    pub(crate) expect: Option<Mark>,
}
