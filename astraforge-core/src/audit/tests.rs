//! Writing and reading of the audit as a whole.

use super::*;
use crate::{
    repository::Secret,
    testing::{MemoryAuditLog, TestClock, samples},
};

fn audit() -> (Audit, Arc<MemoryAuditLog>, TestClock) {
    let (log, clock) = (Arc::new(MemoryAuditLog::default()), TestClock::new());
    let audit = Audit::new(log.clone(), AuditKey::new([7; 32]), Arc::new(clock.clone()), samples::tenant());
    (audit, log, clock)
}

fn entry(subject: &str) -> NewEntry {
    NewEntry::new(samples::tenant(), Actor::nobody(), "test.done", subject, "done")
}

#[tokio::test]
async fn a_long_chain_is_verified_in_pages_and_its_end_is_told() {
    let (audit, log, clock) = audit();
    for n in 0..u64::from(AT_A_TIME) + 1 {
        audit.note(entry(&n.to_string())).await;
    }
    let verified = audit.verify(&samples::tenant(), None).await.unwrap().unwrap();
    assert_eq!(verified.n_entries, 1001);
    assert!(audit.verify(&samples::tenant(), verified.head.as_ref()).await.unwrap().is_ok());
    assert_eq!(log.entries(&samples::tenant())[0].at, clock.now());
    log.tamper(&samples::tenant(), |chain| chain.entries[1000].user = "eve".to_owned());
    assert_eq!(audit.verify(&samples::tenant(), None).await.unwrap(), Err(Fault::Changed { seq: 1001 }));
}

#[tokio::test]
async fn rows_behind_the_stored_end_are_not_taken_over() {
    let (audit, log, _) = audit();
    for n in 0..3 {
        audit.note(entry(&n.to_string())).await;
    }
    log.tamper(&samples::tenant(), |chain| chain.head = None);
    audit.note(entry("next")).await;
    assert_eq!(audit.verify(&samples::tenant(), None).await.unwrap(), Err(Fault::BrokenBefore { seq: 4 }));
}

#[tokio::test]
async fn what_cannot_be_written_is_counted() {
    let (audit, log, _) = audit();
    log.is_full(true);
    audit.note(entry("lost")).await;
    assert!(audit.write(entry("lost")).await.is_err());
    log.is_full(false);
    audit.note(entry("kept")).await;
    assert_eq!((audit.n_lost(), log.entries(&samples::tenant()).len()), (1, 1));
}

#[tokio::test]
async fn what_anybody_can_cause_is_written_in_part_and_counted() {
    let (audit, log, clock) = audit();
    for _ in 0..50 {
        audit.note_some("mira", "login.refused", || entry("mira")).await;
    }
    audit.note_some("mira", "key.refused", || entry("another action has its own")).await;
    clock.advance(std::time::Duration::from_secs(60));
    audit.note_some("mira", "login.refused", || entry("mira")).await;
    let entries = log.entries(&samples::tenant());
    assert_eq!(entries.len(), 7);
    assert!(entries[..5].iter().all(|entry| entry.details == "{}" && entry.action == "login.refused"));
    assert_eq!(entries[6].details, r#"{"left_out":45}"#);
}

#[tokio::test]
async fn entries_are_small_and_hold_no_known_secret() {
    let log = Arc::new(MemoryAuditLog::default());
    let redactor = Redactor::default();
    let _known = redactor.learn(Secret::new("hunter2-\"hunter2"));
    let key = AuditKey::new([7; 32]);
    let audit = Audit::with_redactor(log.clone(), key, Arc::new(TestClock::new()), samples::tenant(), redactor);
    audit.note(entry("hunter2-\"hunter2").with("path", "/hunter2-\"hunter2")).await;
    audit.note(entry(&"\u{fc}".repeat(1000)).with("long", "x".repeat(10_000))).await;
    let entries = log.entries(&samples::tenant());
    assert_eq!((entries[0].subject.as_str(), entries[0].details.as_str()), ("[redacted]", r#"{"path":"/[redacted]"}"#));
    assert_eq!((entries[1].subject.len(), entries[1].details.as_str()), (300, r#"{"bytes_left_out":10011}"#));
}
