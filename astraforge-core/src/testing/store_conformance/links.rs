//! Rules of repository links.

use super::{assert_taken, commit};
use crate::{
    id::{RepositoryLinkId, TenantId},
    ports::store::Store,
    repository::{RepositoryLink, Secret},
    testing::samples::{self, at},
};

pub async fn a_link_is_found_by_its_tenant_alone(store: &impl Store) {
    let link = add(store, samples::link()).await;
    assert_eq!(store.link(&TenantId::new("globex"), link.id).await.unwrap(), None);
    assert_eq!(store.link(&link.tenant, link.id).await.unwrap(), Some(link));
}

pub async fn links_are_listed_the_oldest_first(store: &impl Store) {
    let mut links = Vec::new();
    for (name, seconds) in [("c", 20), ("a", 10), ("b", 20)] {
        let link = RepositoryLink { repository: name.to_owned(), created_at: at(seconds), ..samples::link() };
        links.push(add(store, link).await);
    }
    links.sort_by_key(|link| link.created_at);
    assert_eq!(store.links(&samples::tenant()).await.unwrap(), links);
}

pub async fn a_tenant_links_a_repository_once(store: &impl Store) {
    let link = add(store, samples::link()).await;
    assert_taken(store.add_link(samples::link()).await);
    assert_eq!(store.links(&link.tenant).await.unwrap(), [link]);
}

pub async fn another_tenant_or_provider_may_link_the_same_repository(store: &impl Store) {
    add(store, samples::link()).await;
    add(store, RepositoryLink { tenant: TenantId::new("globex"), ..samples::link() }).await;
    add(store, RepositoryLink { provider: "github".to_owned(), ..samples::link() }).await;
    assert_eq!(store.links(&samples::tenant()).await.unwrap().len(), 2);
}

pub async fn a_link_id_is_taken_once(store: &impl Store) {
    let link = add(store, samples::link()).await;
    let of_another = RepositoryLink { tenant: TenantId::new("globex"), ..link.clone() };
    assert_taken(store.add_link(of_another).await);
    assert_taken(store.add_link(RepositoryLink { repository: "other".to_owned(), ..link }).await);
}

pub async fn a_link_is_replaced(store: &impl Store) {
    let mut link = add(store, samples::link()).await;
    link.access_token = Some(Secret::new("another token"));
    link.environment.setup = Some("make".to_owned());
    link.base_url = "https://git.example".to_owned();
    link.updated_at = at(9);
    assert!(store.update_link(link.clone()).await.unwrap());
    assert_eq!(store.links(&link.tenant).await.unwrap(), [link.clone()]);
    link.access_token = None;
    assert!(store.update_link(link.clone()).await.unwrap());
    assert_eq!(store.link(&link.tenant, link.id).await.unwrap(), Some(link));
    assert!(!store.update_link(RepositoryLink { repository: "new".to_owned(), ..samples::link() }).await.unwrap());
}

pub async fn a_link_cannot_be_renamed_to_one_that_exists(store: &impl Store) {
    let one = add(store, samples::link()).await;
    let two = add(store, RepositoryLink { repository: "acme/other".to_owned(), ..samples::link() }).await;
    assert_taken(store.update_link(RepositoryLink { repository: one.repository, ..two.clone() }).await);
    assert_eq!(store.link(&two.tenant, two.id).await.unwrap(), Some(two));
}

pub async fn a_link_of_another_tenant_is_neither_replaced_nor_removed(store: &impl Store) {
    let link = add(store, samples::link()).await;
    let other = TenantId::new("globex");
    assert!(!store.update_link(RepositoryLink { tenant: other.clone(), ..link.clone() }).await.unwrap());
    assert!(!store.remove_link(&other, link.id).await.unwrap());
    assert_eq!(store.link(&link.tenant, link.id).await.unwrap(), Some(link));
}

pub async fn a_removed_link_is_gone_and_can_be_made_again(store: &impl Store) {
    let link = add(store, samples::link()).await;
    assert!(store.remove_link(&link.tenant, link.id).await.unwrap());
    assert!(!store.remove_link(&link.tenant, link.id).await.unwrap());
    assert_eq!(store.link(&link.tenant, link.id).await.unwrap(), None);
    add(store, samples::link()).await;
    assert!(!store.remove_link(&link.tenant, RepositoryLinkId::random()).await.unwrap());
}

pub async fn a_request_outlives_its_link(store: &impl Store) {
    let link = add(store, samples::link()).await;
    let mut request = samples::request();
    request.repository = link.id;
    commit(store, samples::submitted(&request)).await;
    assert!(store.remove_link(&link.tenant, link.id).await.unwrap());
    let read = store.request(&request.tenant, request.id).await.unwrap().unwrap();
    assert_eq!(read.repository, link.id);
}

async fn add(store: &impl Store, link: RepositoryLink) -> RepositoryLink {
    store.add_link(link.clone()).await.unwrap();
    link
}
