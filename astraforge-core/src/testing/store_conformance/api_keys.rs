//! Rules of API keys.

use chrono::TimeDelta;
use futures::future::try_join_all;

use super::assert_taken;
use crate::{
    access::{Action, ApiKey, Scopes},
    id::{ApiKeyId, TenantId},
    ports::store::Store,
    testing::samples::{self, at},
};

pub async fn an_active_key_is_found_by_its_hash(store: &impl Store) {
    let key = add(store, samples::api_key()).await;
    add(store, samples::api_key()).await;
    assert_eq!(store.api_key_by_hash(&key.hash).await.unwrap(), Some(key.clone()));
    assert_eq!(store.api_key_by_hash(&key.hash.to_uppercase().replace('0', "F")).await.unwrap(), None);
}

pub async fn a_key_keeps_what_it_is_for_and_when_it_ends(store: &impl Store) {
    let scopes = Scopes::Only([Action::Read, Action::UseSandboxes].into());
    let key = ApiKey { scopes, expires_at: Some(at(100)), prefix: "afk_3xYz0Q1b".to_owned(), ..samples::api_key() };
    let key = add(store, key).await;
    assert_eq!(store.api_key_by_hash(&key.hash).await.unwrap(), Some(key.clone()));
    assert_eq!(store.api_keys(&key.tenant).await.unwrap(), [key]);
}

pub async fn a_revoked_key_is_not_found_by_its_hash_and_still_listed(store: &impl Store) {
    let key = add(store, samples::api_key()).await;
    assert!(store.revoke_api_key(&key.tenant, key.id).await.unwrap());
    assert_eq!(store.api_key_by_hash(&key.hash).await.unwrap(), None);
    assert_eq!(store.api_keys(&key.tenant).await.unwrap(), [ApiKey { is_active: false, ..key }]);
    let born_revoked = add(store, ApiKey { is_active: false, ..samples::api_key() }).await;
    assert_eq!(store.api_key_by_hash(&born_revoked.hash).await.unwrap(), None);
}

pub async fn another_tenant_neither_lists_nor_revokes_a_key(store: &impl Store) {
    let key = add(store, samples::api_key()).await;
    let other = TenantId::new("globex");
    assert_eq!(store.api_keys(&other).await.unwrap(), []);
    assert!(!store.revoke_api_key(&other, key.id).await.unwrap());
    assert!(!store.revoke_api_key(&key.tenant, ApiKeyId::random()).await.unwrap());
    assert_eq!(store.api_key_by_hash(&key.hash).await.unwrap(), Some(key));
}

pub async fn keys_are_listed_the_oldest_first(store: &impl Store) {
    let late = add(store, ApiKey { created_at: at(20), ..samples::api_key() }).await;
    let one = add(store, ApiKey { created_at: at(10), ..samples::api_key() }).await;
    let two = add(store, ApiKey { created_at: at(10), ..samples::api_key() }).await;
    assert_eq!(store.api_keys(&late.tenant).await.unwrap(), [one, two, late]);
}

pub async fn all_keys_of_all_tenants_are_counted(store: &impl Store) {
    assert_eq!(store.count_api_keys().await.unwrap(), 0);
    let key = add(store, samples::api_key()).await;
    add(store, ApiKey { tenant: TenantId::new("globex"), ..samples::api_key() }).await;
    store.revoke_api_key(&key.tenant, key.id).await.unwrap();
    assert_eq!(store.count_api_keys().await.unwrap(), 2);
}

pub async fn a_key_id_and_a_hash_are_taken_once(store: &impl Store) {
    let key = add(store, samples::api_key()).await;
    assert_taken(store.add_api_key(ApiKey { hash: "0".repeat(64), ..key.clone() }).await);
    assert_taken(store.add_api_key(ApiKey { id: ApiKeyId::random(), ..key.clone() }).await);
    assert_eq!(store.api_keys(&key.tenant).await.unwrap(), [key]);
}

pub async fn the_last_use_is_noted_to_the_minute(store: &impl Store) {
    let mut key = add(store, samples::api_key()).await;
    for (now, noted) in [(at(5), at(0)), (at(59) + TimeDelta::milliseconds(999), at(0)), (at(61), at(60))] {
        let at_once = try_join_all((0..8).map(|_| store.touch_api_key(key.id, now))).await.unwrap();
        let is_new = key.last_used_at != Some(noted);
        assert_eq!(at_once.iter().filter(|it| **it).count(), usize::from(is_new), "it is noted once, however many ask");
        let read = store.api_key_by_hash(&key.hash).await.unwrap().unwrap();
        key.last_used_at = Some(noted);
        assert_eq!(read, key);
    }
}

pub async fn the_use_of_an_unknown_key_is_passed_over(store: &impl Store) {
    assert!(!store.touch_api_key(ApiKeyId::random(), at(0)).await.unwrap());
    assert_eq!(store.count_api_keys().await.unwrap(), 0);
}

async fn add(store: &impl Store, key: ApiKey) -> ApiKey {
    store.add_api_key(key.clone()).await.unwrap();
    key
}
