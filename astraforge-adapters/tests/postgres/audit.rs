//! The audit in a database that somebody else may write too, and that many servers write.

use std::{sync::Arc, time::Duration};

use astraforge_adapters::{postgres::PostgresStore, secret_box::SecretKey};
use astraforge_core::{
    audit::{
        NewEntry,
        chain::{AuditKey, verify},
    },
    id::TenantId,
    ports::audit_log::AuditLog as _,
    testing::{audit_log_conformance::entry, samples},
};
use futures::future::{join_all, try_join_all};
use sqlx::{Connection as _, Executor as _};
use tokio::time::timeout;

use crate::{
    Database, PATIENCE,
    audit_story::{TAMPERING, is_found},
};

const KEY: AuditKey = AuditKey::new([7; 32]);

const DROP_TRIGGERS: &str = "DROP TRIGGER audit_entries_stay ON audit_entries; \
                             DROP TRIGGER audit_entries_remain ON audit_entries; \
                             DROP TRIGGER audit_heads_advance ON audit_heads; \
                             DROP TRIGGER audit_heads_remain ON audit_heads";

#[tokio::test]
async fn whatever_is_done_to_rows_is_refused_and_found() {
    for tampering in TAMPERING {
        let database = Database::new().await;
        let store = database.open(&SecretKey::random().unwrap()).await;
        let run =
            async |statement: &'static str| sqlx::raw_sql(statement).execute(&mut database.raw().await).await.is_ok();
        is_found(Arc::new(store), tampering, run, DROP_TRIGGERS).await;
    }
}

#[tokio::test]
async fn the_tables_cannot_be_emptied() {
    let database = Database::new().await;
    let store = database.open(&SecretKey::random().unwrap()).await;
    store.add_entry(&KEY, &entry("x"), samples::now()).await.unwrap();
    for statement in ["TRUNCATE audit_entries", "TRUNCATE audit_heads"] {
        assert!(database.raw().await.execute(statement).await.is_err(), "{statement}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_servers_write_one_chain_a_tenant() {
    let (database, key) = (Database::new().await, SecretKey::random().unwrap());
    let servers: Vec<PostgresStore> = join_all((0..4).map(|_| database.open(&key))).await;
    let tenants = ["a", "b"].map(TenantId::new);
    let new: Vec<_> = (0..80).map(|n| NewEntry { tenant: tenants[n % 2].clone(), ..entry("x") }).collect();
    let written = new.iter().enumerate().map(|(n, new)| servers[n / 2 % 4].add_entry(&KEY, new, samples::now()));
    try_join_all(written).await.unwrap();
    for tenant in &tenants {
        let entries = servers[0].entries_after(tenant, 0, 100).await.unwrap();
        let head = servers[1].audit_head(tenant).await.unwrap();
        assert_eq!(verify(&KEY, tenant, &entries, head.as_ref(), None).unwrap().n_entries, 40);
    }
}

#[tokio::test]
async fn an_entry_waits_for_others_of_its_tenant_and_for_nobody_else() {
    let database = Database::new().await;
    let store = database.open(&SecretKey::random().unwrap()).await;
    let other = NewEntry { tenant: TenantId::new("other"), ..entry("x") };
    store.add_entry(&KEY, &entry("x"), samples::now()).await.unwrap();
    store.add_entry(&KEY, &other, samples::now()).await.unwrap();
    let mut raw = database.raw().await;
    let mut transaction = raw.begin().await.unwrap();
    transaction.execute("SELECT * FROM audit_heads WHERE tenant = 'acme' FOR UPDATE").await.unwrap();
    timeout(PATIENCE, store.add_entry(&KEY, &other, samples::now())).await.expect("it does not wait").unwrap();
    let new = entry("x");
    let mut waits = std::pin::pin!(store.add_entry(&KEY, &new, samples::now()));
    assert!(timeout(Duration::from_millis(300), &mut waits).await.is_err(), "it goes by whoever is writing");
    transaction.rollback().await.unwrap();
    assert_eq!(timeout(PATIENCE, waits).await.unwrap().unwrap().seq, 2);
}
