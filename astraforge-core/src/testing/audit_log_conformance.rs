//! The rules that all logs of the audit keep, one function a rule.

#![expect(missing_docs, reason = "the name of a rule says what it is")]

use chrono::TimeDelta;
use futures::future::{join_all, try_join_all};

use super::samples;
use crate::{
    audit::{
        Actor, Entry, Means, NewEntry,
        chain::{AuditKey, verify},
    },
    id::{ApiKeyId, TenantId},
    ports::audit_log::AuditLog,
};

/// Makes one test of each rule that an [`AuditLog`] keeps. The argument is a future that makes a fresh log, with what must
/// live as long as it: `(guard, log)`. The tests run on Tokio.
#[macro_export]
macro_rules! audit_log_conformance {
    ($fresh:expr) => {
        $crate::audit_log_conformance! { @ $fresh;
            an_entry_comes_back_as_it_was_written
            an_empty_chain_holds_and_has_no_end
            entries_that_many_append_at_once_are_one_chain_without_gaps
            each_tenant_has_a_chain_of_its_own
            pages_are_read_from_either_end
            the_end_of_a_chain_is_its_last_entry
        }
    };
    (@ $fresh:expr; $($rule:ident)*) => { $(
        #[tokio::test(flavor = "multi_thread")]
        async fn $rule() {
            let (_guard, log) = $fresh.await;
            $crate::testing::audit_log_conformance::$rule(&log).await;
        }
    )* };
}

const KEY: AuditKey = AuditKey::new([7; 32]);

/// An entry that somebody of the sample tenant causes.
#[must_use]
pub fn entry(subject: &str) -> NewEntry {
    let actor = Actor::new("ada", Means::Login);
    NewEntry::new(samples::tenant(), actor, "api.approve_request", subject, "202").with("role", "reviewer")
}

pub async fn an_entry_comes_back_as_it_was_written(log: &impl AuditLog) {
    let actor = Actor::new("Ada \"\u{fc}\" \0", Means::Key(ApiKeyId::random()));
    let new = NewEntry { actor, ..entry("a\nb\0") }.with("\u{10fffe}", vec!["x", "\u{1f980}"]).in_call("trace-7");
    let at = samples::now() + TimeDelta::nanoseconds(1_234_567);
    let written = log.add_entry(&KEY, &new, at).await.unwrap();
    let read = log.entries_after(&new.tenant, 0, 10).await.unwrap();
    assert_eq!(read.as_slice(), std::slice::from_ref(&written));
    let expected = Entry {
        tenant: new.tenant.clone(),
        seq: 1,
        at: samples::now() + TimeDelta::microseconds(1234),
        user: new.actor.user.clone(),
        means: new.actor.means.to_string(),
        action: new.action.clone(),
        subject: new.subject.clone(),
        outcome: new.outcome.clone(),
        details: new.details_text(),
        call: new.call.clone(),
        hash: written.hash.clone(),
    };
    assert_eq!(written, expected);
    holds(log, &new.tenant, 1).await;
}

pub async fn an_empty_chain_holds_and_has_no_end(log: &impl AuditLog) {
    assert_eq!(log.audit_head(&samples::tenant()).await.unwrap(), None);
    assert_eq!(log.audited_tenants().await.unwrap(), []);
    holds(log, &samples::tenant(), 0).await;
}

pub async fn entries_that_many_append_at_once_are_one_chain_without_gaps(log: &impl AuditLog) {
    let new: Vec<_> = (0..64).map(|n| entry(&n.to_string())).collect();
    let written = try_join_all(new.iter().map(|new| log.add_entry(&KEY, new, samples::now()))).await.unwrap();
    let mut numbers: Vec<_> = written.iter().map(|entry| entry.seq).collect();
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(1..=64));
    holds(log, &samples::tenant(), 64).await;
}

pub async fn each_tenant_has_a_chain_of_its_own(log: &impl AuditLog) {
    let tenants = ["b", "a", "c"].map(TenantId::new);
    let new: Vec<_> = (0..30).map(|n| NewEntry { tenant: tenants[n % 3].clone(), ..entry("x") }).collect();
    for written in join_all(new.iter().map(|new| log.add_entry(&KEY, new, samples::now()))).await {
        written.unwrap();
    }
    for tenant in &tenants {
        holds(log, tenant, 10).await;
    }
    assert_eq!(log.audited_tenants().await.unwrap(), ["a", "b", "c"].map(TenantId::new));
}

pub async fn pages_are_read_from_either_end(log: &impl AuditLog) {
    for n in 1..=5 {
        log.add_entry(&KEY, &entry(&n.to_string()), samples::now()).await.unwrap();
    }
    let tenant = samples::tenant();
    let after = async |after, limit| numbers(log.entries_after(&tenant, after, limit).await.unwrap());
    let before = async |before, limit| numbers(log.entries_before(&tenant, before, limit).await.unwrap());
    assert_eq!((after(0, 2).await, after(2, 9).await), (vec![1, 2], vec![3, 4, 5]));
    assert_eq!((after(5, 9).await, after(u64::MAX, 9).await), (vec![], vec![]));
    assert_eq!((before(u64::MAX, 2).await, before(4, 9).await), (vec![5, 4], vec![3, 2, 1]));
    assert_eq!((before(1, 9).await, before(0, 9).await), (vec![], vec![]));
    assert!(log.entries_after(&TenantId::new("other"), 0, 9).await.unwrap().is_empty());
}

pub async fn the_end_of_a_chain_is_its_last_entry(log: &impl AuditLog) {
    for n in 1..=3 {
        let written = log.add_entry(&KEY, &entry("x"), samples::now()).await.unwrap();
        let head = log.audit_head(&written.tenant).await.unwrap().unwrap();
        assert_eq!((head.seq, head.mark().hash), (n, written.hash));
    }
}

fn numbers(entries: Vec<Entry>) -> Vec<u64> {
    entries.into_iter().map(|entry| entry.seq).collect()
}

/// A chain of so many entries is there, and nothing is wrong with it.
async fn holds(log: &impl AuditLog, tenant: &TenantId, n: u64) {
    let entries = log.entries_after(tenant, 0, 1000).await.unwrap();
    let head = log.audit_head(tenant).await.unwrap();
    assert_eq!(verify(&KEY, tenant, &entries, head.as_ref(), None).unwrap().n_entries, n);
}
