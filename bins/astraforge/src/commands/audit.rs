//! `audit`: what was done, as whoever runs the server reads it, and whether it was changed.

use std::process::ExitCode;

use astraforge_core::{
    audit::{Audit, Entry},
    id::TenantId,
};
use astraforge_http::wire::audit::{AuditCheck, AuditEntryView};
use serde_json::{Value, json};

use crate::{
    audit,
    cli::{AuditCommand, ConnectionArgs, ListAuditArgs, VerifyAuditArgs},
    commands::print,
    config::TENANT,
    connection::open_database,
    render::{Terminal, bad, faint, good, harmless},
};

/// Does what was asked.
pub(crate) async fn audit(args: &ConnectionArgs, command: &AuditCommand) -> anyhow::Result<ExitCode> {
    let database = open_database(args).await?;
    let audit = audit::of_command_line(args, &database)?;
    let done = match command {
        AuditCommand::Ls(which) => list(args, &audit, which).await,
        AuditCommand::Verify(which) => verify(args, &audit, which).await,
        AuditCommand::Export(whose) => export(&audit, &tenant(whose.tenant.as_deref())).await,
    };
    database.close().await;
    done
}

fn tenant(given: Option<&str>) -> TenantId {
    TenantId::new(given.unwrap_or(TENANT))
}

async fn list(args: &ConnectionArgs, audit: &Audit, which: &ListAuditArgs) -> anyhow::Result<ExitCode> {
    let tenant = tenant(which.whose.tenant.as_deref());
    let entries = audit.newest(&tenant, which.before, which.limit).await?;
    let views: Vec<_> = entries.iter().cloned().map(AuditEntryView::from).collect();
    print(args, &views, |terminal, _| {
        if entries.is_empty() {
            terminal.line("Nothing is in the audit here.");
        }
        entries.iter().for_each(|entry| terminal.line(row(terminal, entry)));
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Verifies every chain that was asked for; one that does not hold makes it fail.
async fn verify(args: &ConnectionArgs, audit: &Audit, which: &VerifyAuditArgs) -> anyhow::Result<ExitCode> {
    let own = tenant(which.tenant.as_deref());
    let mut tenants = if which.tenant.is_some() { Vec::new() } else { audit.tenants().await? };
    if !tenants.contains(&own) {
        tenants.insert(0, own.clone());
    }
    let mut checks = Vec::new();
    for tenant in tenants {
        let expected = which.expect.as_ref().filter(|_| tenant == own);
        let check = AuditCheck::from(audit.verify(&tenant, expected).await?);
        checks.push((tenant, check));
    }
    let shown: Vec<Value> = checks.iter().map(shown).collect();
    print(args, &shown, |terminal, _| checks.iter().for_each(|it| terminal.line(verdict(terminal, it))))?;
    let holds = checks.iter().all(|(_, check)| check.holds);
    Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn export(audit: &Audit, tenant: &TenantId) -> anyhow::Result<ExitCode> {
    let (terminal, mut last) = (Terminal::detect(), 0);
    loop {
        let entries = audit.after(tenant, last).await?;
        // A row whose number nobody gave it must not be read for ever.
        let Some(next) = entries.last().map(|entry| entry.seq).filter(|seq| *seq > last) else {
            return Ok(ExitCode::SUCCESS);
        };
        last = next;
        for entry in entries {
            terminal.line(serde_json::to_string(&AuditEntryView::from(entry))?);
        }
    }
}

fn shown((tenant, check): &(TenantId, AuditCheck)) -> Value {
    json!({
        "tenant": tenant.as_str(), "holds": check.holds, "n_entries": check.n_entries, "head": check.head,
        "fault": check.fault,
    })
}

fn verdict(terminal: Terminal, (tenant, check): &(TenantId, AuditCheck)) -> String {
    let name = harmless(tenant.as_str());
    match (&check.fault, &check.head) {
        (Some(fault), _) => format!("{name}: {}: {fault}", terminal.paint("does not hold", bad())),
        (None, Some(head)) => {
            let n = check.n_entries.unwrap_or_default();
            format!("{name}: {}: {n} entries, the end is {head}", terminal.paint("holds", good()))
        }
        (None, None) => format!("{name}: nothing was written yet"),
    }
}

/// An entry as a line of a table.
fn row(terminal: Terminal, entry: &Entry) -> String {
    let at = terminal.paint(entry.at.format("%Y-%m-%d %H:%M:%S"), faint());
    let who = if entry.user.is_empty() { entry.means.clone() } else { format!("{} ({})", entry.user, entry.means) };
    let details = if entry.details == "{}" { String::new() } else { format!("  {}", entry.details) };
    let (details, outcome) = (terminal.paint(harmless(&details), faint()), harmless(&entry.outcome));
    let (who, action, subject) = (harmless(&who), harmless(&entry.action), harmless(&entry.subject));
    format!("{:>6}  {at}  {who}  {action}  {subject}  {outcome}{details}", entry.seq)
}
