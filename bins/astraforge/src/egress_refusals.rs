//! Refused connections of sandboxes, on their way into the audit: a few of each sandbox, and the others counted.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use astraforge_core::{
    audit::{Actor, Audit, NewEntry},
    egress::{EgressEvent, EgressOutcome},
    id::{SandboxId, TenantId},
    ports::{egress_audit::EgressAudit, sandbox_store::SandboxStore},
};
use tokio::sync::mpsc;

/// How many refusals may wait to be written; connections do not wait for that.
const WAITING: usize = 256;
/// Of how many sandboxes it is remembered whose they are.
const REMEMBERED: usize = 1000;

/// Tells the audit of connections that were refused. Clones tell the same one.
#[derive(Debug, Clone)]
pub(crate) struct EgressRefusals {
    sender: mpsc::Sender<(SandboxId, EgressEvent)>,
    /// How many found no place to wait.
    n_passed_over: Arc<AtomicU64>,
    /// Who else is told of every connection.
    other: Option<Arc<dyn EgressAudit>>,
}

impl EgressRefusals {
    /// Tells `audit`, as long as a clone of this lives; whose a sandbox is, is asked of `sandboxes`. What concerns one that
    /// is not there, such as that of a run, goes to the audit's home.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub(crate) fn told_to(audit: Audit, sandboxes: Arc<dyn SandboxStore>) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        let n_passed_over = Arc::<AtomicU64>::default();
        let owners = Owners { sandboxes, known: BTreeMap::new(), home: audit.home().clone() };
        tokio::spawn(write(audit, owners, receiver, n_passed_over.clone()));
        Self { sender, n_passed_over, other: None }
    }

    /// The same, beside another who is told of every connection.
    pub(crate) fn beside(mut self, other: Arc<dyn EgressAudit>) -> Self {
        self.other = Some(other);
        self
    }
}

impl EgressAudit for EgressRefusals {
    fn note(&self, sandbox: SandboxId, event: &EgressEvent) {
        if let Some(other) = &self.other {
            other.note(sandbox, event);
        }
        let is_refused = matches!(event.outcome, EgressOutcome::Refused { .. });
        if is_refused && self.sender.try_send((sandbox, event.clone())).is_err() {
            self.n_passed_over.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn write(
    audit: Audit,
    mut owners: Owners,
    mut refusals: mpsc::Receiver<(SandboxId, EgressEvent)>,
    n_passed_over: Arc<AtomicU64>,
) {
    while let Some((sandbox, event)) = refusals.recv().await {
        let EgressOutcome::Refused { reason } = event.outcome else { continue };
        let tenant = owners.of(sandbox).await;
        let entry = || {
            let host: String = event.host.chars().take(255).collect();
            let entry = NewEntry::new(tenant, Actor::nobody(), "", sandbox.to_string(), "refused");
            let entry = entry.with("host", host).with("port", event.port).with("reason", reason);
            match n_passed_over.swap(0, Ordering::Relaxed) {
                0 => entry,
                n => entry.with("passed_over", n),
            }
        };
        audit.note_some(&sandbox.to_string(), "egress.refused", entry).await;
    }
}

/// Whose sandboxes are.
struct Owners {
    sandboxes: Arc<dyn SandboxStore>,
    known: BTreeMap<SandboxId, TenantId>,
    home: TenantId,
}

impl Owners {
    async fn of(&mut self, id: SandboxId) -> TenantId {
        if let Some(tenant) = self.known.get(&id) {
            return tenant.clone();
        }
        let tenant = match self.sandboxes.sandbox(id).await {
            Ok(Some(sandbox)) => sandbox.tenant,
            Ok(None) => self.home.clone(),
            // It may be known the next time.
            Err(_) => return self.home.clone(),
        };
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        self.known.insert(id, tenant.clone());
        tenant
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use astraforge_core::{
        audit::chain::AuditKey,
        sandbox::Sandbox,
        testing::{MemoryAuditLog, MemorySandboxStore, TestClock, samples},
    };

    use super::*;

    fn refused(port: u16) -> EgressEvent {
        let outcome = EgressOutcome::Refused { reason: "not on the list".to_owned() };
        EgressEvent { at: samples::at(0), host: "evil.example".to_owned(), port, outcome }
    }

    #[tokio::test]
    async fn a_few_refusals_of_each_sandbox_are_written_to_its_tenant() {
        let (log, store, home) =
            (Arc::new(MemoryAuditLog::default()), MemorySandboxStore::default(), TenantId::new("home"));
        let sandbox = Sandbox { tenant: TenantId::new("theirs"), ..samples::sandbox() };
        store.add_sandbox(&sandbox).await.unwrap();
        let audit = Audit::new(log.clone(), AuditKey::new([7; 32]), Arc::new(TestClock::new()), home.clone());
        let refusals = EgressRefusals::told_to(audit, Arc::new(store));
        let run = SandboxId::random();
        for port in 1..=50 {
            refusals.note(sandbox.id, &refused(port));
        }
        let allowed = EgressOutcome::Failed { reason: "nobody answers".to_owned() };
        refusals.note(run, &EgressEvent { outcome: allowed, ..refused(1) });
        refusals.note(run, &refused(443));
        let written = async {
            while log.entries(&home).is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), written).await.unwrap();
        let theirs = log.entries(&sandbox.tenant);
        assert_eq!((theirs.len(), theirs[0].subject.as_str()), (5, sandbox.id.to_string().as_str()));
        assert_eq!(theirs[0].details, r#"{"host":"evil.example","port":1,"reason":"not on the list"}"#);
        assert_eq!(
            log.entries(&home)[0].details,
            r#"{"host":"evil.example","left_out":45,"port":443,"reason":"not on the list"}"#
        );
    }

    #[tokio::test]
    async fn no_connection_waits_for_the_audit() {
        let log = Arc::new(MemoryAuditLog::default());
        let audit = Audit::new(log.clone(), AuditKey::new([7; 32]), Arc::new(TestClock::new()), TenantId::new("home"));
        let refusals = EgressRefusals::told_to(audit, Arc::new(MemorySandboxStore::default()));
        for port in 0..1000 {
            refusals.note(SandboxId::random(), &refused(port));
        }
        assert_eq!(refusals.n_passed_over.load(Ordering::Relaxed), 1000 - WAITING as u64);
    }
}
