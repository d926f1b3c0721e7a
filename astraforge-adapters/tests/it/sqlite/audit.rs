//! The audit in a file that somebody else may write too.

use std::{sync::Arc, time::Instant};

use astraforge_core::{
    audit::chain::AuditKey,
    ports::{audit_log::AuditLog as _, store::Store as _},
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

#[tokio::test]
#[ignore = "prints a measurement"]
async fn entries_a_second() {
    let (_folder, store) = fresh().await;
    let (key, new) = (AuditKey::new([7; 32]), entry("x"));
    let begun = Instant::now();
    for _ in 0..2000 {
        store.add_entry(&key, &new, samples::now()).await.unwrap();
    }
    println!("{:.0} entries/s", 2000.0 / begun.elapsed().as_secs_f64());
    let request = samples::request();
    store.commit(samples::submitted(&request)).await.unwrap();
    let begun = Instant::now();
    for _ in 0..2000 {
        store.append(vec![samples::log(request.id, "x")]).await.unwrap();
    }
    println!("{:.0} events/s, for comparison", 2000.0 / begun.elapsed().as_secs_f64());
}
