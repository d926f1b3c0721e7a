//! What somebody who may write the database does to the audit, and what is found of it.

#![expect(clippy::unwrap_used, reason = "a failing test is what this code is for")]

use std::sync::Arc;

use astraforge_adapters::clock::SystemClock;
use astraforge_core::{
    audit::{
        Audit,
        chain::{AuditKey, Fault, Verified},
    },
    ports::audit_log::AuditLog,
    testing::{audit_log_conformance::entry, samples},
};

/// Statements on a chain of five entries, and the fault that each makes.
pub(crate) const TAMPERING: [(&str, Fault); 24] = [
    ("UPDATE audit_entries SET tenant = 'other' WHERE seq = 3", Fault::Missing { first: 3, last: 3 }),
    ("UPDATE audit_entries SET seq = 9 WHERE seq = 3", Fault::Missing { first: 3, last: 3 }),
    ("UPDATE audit_entries SET seq = -3 WHERE seq = 3", Fault::OutOfOrder { expected: 1, found: 0 }),
    ("UPDATE audit_entries SET created_at = created_at + 1 WHERE seq = 3", Fault::Changed { seq: 3 }),
    ("UPDATE audit_entries SET created_at = 9223372036854775807 WHERE seq = 3", Fault::Changed { seq: 3 }),
    ("UPDATE audit_entries SET actor = 'eve' WHERE seq = 1", Fault::Changed { seq: 1 }),
    ("UPDATE audit_entries SET means = 'server' WHERE seq = 3", Fault::Changed { seq: 3 }),
    ("UPDATE audit_entries SET action = '' WHERE seq = 3", Fault::Changed { seq: 3 }),
    ("UPDATE audit_entries SET subject = subject || ' ' WHERE seq = 5", Fault::Changed { seq: 5 }),
    ("UPDATE audit_entries SET outcome = '409' WHERE seq = 3", Fault::Changed { seq: 3 }),
    ("UPDATE audit_entries SET details = 'no JSON' WHERE seq = 3", Fault::Changed { seq: 3 }),
    ("UPDATE audit_entries SET call = 'x' WHERE seq = 3", Fault::Changed { seq: 3 }),
    ("UPDATE audit_entries SET hash = '' WHERE seq = 3", Fault::Changed { seq: 3 }),
    ("DELETE FROM audit_entries WHERE seq = 1", Fault::Missing { first: 1, last: 1 }),
    ("DELETE FROM audit_entries WHERE seq = 3", Fault::Missing { first: 3, last: 3 }),
    ("DELETE FROM audit_entries WHERE seq = 5", Fault::Missing { first: 5, last: 5 }),
    ("DELETE FROM audit_entries", Fault::Missing { first: 1, last: 5 }),
    (
        "UPDATE audit_entries SET seq = 99 WHERE seq = 2; UPDATE audit_entries SET seq = 2 WHERE seq = 4; \
         UPDATE audit_entries SET seq = 4 WHERE seq = 99",
        Fault::Changed { seq: 2 },
    ),
    (
        "INSERT INTO audit_entries SELECT tenant, 6, created_at, actor, means, action, subject, outcome, details, call, \
         hash FROM audit_entries WHERE seq = 5",
        Fault::Changed { seq: 6 },
    ),
    (
        "INSERT INTO audit_entries SELECT tenant, 0, created_at, actor, means, action, subject, outcome, details, call, \
         hash FROM audit_entries WHERE seq = 5",
        Fault::OutOfOrder { expected: 1, found: 0 },
    ),
    ("DELETE FROM audit_heads", Fault::WrongHead { last: 5 }),
    ("UPDATE audit_heads SET hash = ''", Fault::WrongHead { last: 5 }),
    ("UPDATE audit_heads SET seq = -1", Fault::WrongHead { last: 5 }),
    (
        "DELETE FROM audit_entries WHERE seq > 3; UPDATE audit_heads SET seq = 3, \
         hash = (SELECT hash FROM audit_entries WHERE seq = 3)",
        Fault::WrongHead { last: 3 },
    ),
];

/// Writes five entries, has one statement run that the database refuses, lets it run all the same, and looks what is found;
/// and that entries which are written later do not hide it.
pub(crate) async fn is_found(
    log: Arc<dyn AuditLog>,
    (statement, fault): (&'static str, Fault),
    run: impl AsyncFn(&'static str) -> bool,
    drop_triggers: &'static str,
) {
    let audit = Audit::new(log, AuditKey::new([7; 32]), Arc::new(SystemClock), samples::tenant());
    for n in 1..=5 {
        audit.write(entry(&n.to_string())).await.unwrap();
    }
    // What the server does too.
    let is_usual = ["INSERT", "UPDATE audit_heads SET hash"].iter().any(|usual| statement.starts_with(usual));
    if !is_usual {
        assert!(!run(statement).await, "the database lets it happen: {statement}");
        assert_eq!(verify(&audit).await.unwrap().n_entries, 5);
    }
    assert!(run(drop_triggers).await);
    assert!(run(statement).await, "{statement}");
    assert_eq!(verify(&audit).await, Err(fault.clone()), "{statement}");
    audit.write(entry("later")).await.unwrap();
    let later = match fault {
        Fault::WrongHead { last } => Fault::BrokenBefore { seq: last + 1 },
        fault => fault,
    };
    assert_eq!(verify(&audit).await, Err(later), "{statement}");
}

async fn verify(audit: &Audit) -> Result<Verified, Fault> {
    audit.verify(&samples::tenant(), None).await.unwrap()
}
