//! The audit in a file that somebody else may write too.

use std::sync::Arc;

use astraforge_core::{
    audit::chain::AuditKey,
    ports::audit_log::AuditLog as _,
    testing::{audit_log_conformance::entry, samples},
};
use futures::future::try_join_all;
use sqlx::Executor as _;

use super::{fresh, open, raw};
use crate::audit_story::{TAMPERING, is_found};

const DROP_TRIGGERS: &str = "DROP TRIGGER audit_entries_stay; DROP TRIGGER audit_entries_remain; \
                             DROP TRIGGER audit_heads_advance; DROP TRIGGER audit_heads_remain";

#[tokio::test]
async fn whatever_is_done_to_rows_is_refused_and_found() {
    for tampering in TAMPERING {
        let (folder, store) = fresh().await;
        let run = async |statement: &'static str| raw(folder.path()).await.execute(statement).await.is_ok();
        is_found(Arc::new(store), tampering, run, DROP_TRIGGERS).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_share_a_file_write_one_chain() {
    let (folder, first) = fresh().await;
    let stores = [first, open(folder.path()).await, open(folder.path()).await];
    let (key, new) = (AuditKey::new([7; 32]), entry("x"));
    let written = (0..60).map(|n| stores[n % 3].add_entry(&key, &new, samples::now()));
    let mut numbers: Vec<_> = try_join_all(written).await.unwrap().into_iter().map(|entry| entry.seq).collect();
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(1..=60));
}
