//! People who log in with a browser.

use std::sync::Arc;

use astraforge_core::{
    access::Role,
    account::Account,
    id::{TenantId, UserId},
    ports::account_store::AccountStore,
    repository::Secret,
    testing::{account_store::MemoryAccountStore, samples},
};
use astraforge_http::server::{Accounts, hash_password};
use serde_json::{Value, json};

use crate::{
    browser::Browser,
    house::{House, Who},
};

const PASSWORD: &str = " correct horse ";

/// A server that people can register at, and the store of its accounts.
async fn open_house() -> (House, Arc<MemoryAccountStore>) {
    let store = Arc::new(MemoryAccountStore::default());
    let accounts = Accounts::new(store.clone())
        .with_registration(TenantId::new("acme"), Role::Maintainer)
        .with_trusted_origin("https://trusted.example");
    (House::with(|state| state.with_accounts(accounts)).await, store)
}

fn credentials(name: &str, password: &str) -> Option<Value> {
    Some(json!({"username": name, "password": password}))
}

#[tokio::test]
async fn somebody_registers_works_logs_out_and_comes_back() {
    let (house, store) = open_house().await;
    let mut browser = Browser::default();
    let body = json!({"username": " mira ", "password": PASSWORD, "email": "mira@example.org"});
    let registered = browser.call(&house, "POST", "/api/auth/register/", Some(body)).await;
    let mira = json!({"username": "mira", "email": "mira@example.org"});
    registered.is(201, mira.clone());
    let cookies: Vec<_> = registered.headers.get_all("set-cookie").iter().map(|it| it.to_str().unwrap()).collect();
    assert!(cookies[0].ends_with("; HttpOnly; Max-Age=1209600; Path=/; SameSite=Lax"), "{cookies:?}");
    assert!(cookies[1].ends_with("; Max-Age=31449600; Path=/; SameSite=Lax"), "{cookies:?}");
    let stored = store.account(&UserId::new("mira")).await.unwrap().unwrap();
    assert!(stored.password_hash.starts_with("$argon2id$") && !format!("{stored:?}").contains("argon"), "{stored:?}");

    browser.call(&house, "GET", "/api/auth/me/", None).await.is(200, mira.clone());
    browser.brings_its_token();
    let submit = json!({"prompt": "Cache it", "project_id": house.spine.link.id});
    let submitted = browser.call(&house, "POST", "/api/requests/", Some(submit)).await;
    submitted.has_status(201);
    assert_eq!(browser.call(&house, "GET", "/api/requests/", None).await.body.as_array().unwrap().len(), 1);

    let before = browser.cookie("sessionid").unwrap().to_owned();
    browser.call(&house, "POST", "/api/auth/logout/", None).await.has_status(204);
    assert_eq!(browser.cookie("sessionid"), None);
    browser.call(&house, "GET", "/api/auth/me/", None).await.has_status(401);
    browser.cookies.push(("sessionid".to_owned(), before));
    browser.call(&house, "GET", "/api/auth/me/", None).await.has_status(401);

    let mut other = Browser::default();
    other.call(&house, "POST", "/api/auth/login", credentials("mira", PASSWORD)).await.is(200, mira);
    other.call(&house, "GET", "/api/requests/", None).await.has_status(200);
    let id = other.cookie("sessionid").unwrap().to_owned();
    assert!(!format!("{:?}", store).contains(&id), "what a browser has is kept as a hash only");
}

#[tokio::test]
async fn another_page_cannot_use_a_browsers_login() {
    let (house, _) = open_house().await;
    let mut browser = Browser::default();
    browser.call(&house, "POST", "/api/auth/register/", credentials("mira", PASSWORD)).await.has_status(201);
    let body = json!({"provider": "local", "repository": "a/b"});
    let link =
        async |browser: &mut Browser| browser.call(&house, "POST", "/api/repository-links/", Some(body.clone())).await;
    let refused = |reason: &str| json!({"detail": format!("CSRF Failed: {reason}")});
    link(&mut browser).await.is(403, refused("CSRF token missing."));
    browser.headers = vec![("x-csrftoken", "short".to_owned())];
    link(&mut browser).await.is(403, refused("CSRF token from the 'X-Csrftoken' HTTP header has incorrect length."));
    browser.headers = vec![("x-csrftoken", "a".repeat(32))];
    link(&mut browser).await.is(403, refused("CSRF token from the 'X-Csrftoken' HTTP header incorrect."));
    browser.brings_its_token();
    browser.headers.push(("origin", "https://evil.example".to_owned()));
    let evil = "Origin checking failed - https://evil.example does not match any trusted origins.";
    link(&mut browser).await.is(403, refused(evil));
    browser.call(&house, "POST", "/api/auth/login/", credentials("mira", PASSWORD)).await.is(403, refused(evil));
    browser.call(&house, "GET", "/api/requests/", None).await.has_status(200);
    for origin in ["http://forge.test", "https://trusted.example"] {
        browser.headers.pop();
        browser.headers.push(("origin", origin.to_owned()));
        assert_ne!(link(&mut browser).await.status, 403, "{origin}");
    }
    browser.cookies.retain(|(name, _)| name != "csrftoken");
    link(&mut browser).await.is(403, refused("CSRF cookie not set."));
    // A key decides alone when it is there, and needs no token.
    browser.headers = vec![("x-api-key", house.key(Who::Maintainer).to_owned())];
    assert_ne!(link(&mut browser).await.status, 403);
    browser.headers = vec![("x-api-key", "wrong".to_owned())];
    browser.call(&house, "GET", "/api/requests/", None).await.has_status(401);
}

#[tokio::test]
async fn each_field_of_an_account_is_judged() {
    let (house, _) = open_house().await;
    let register = async |body: Value| Browser::default().call(&house, "POST", "/api/auth/register/", Some(body)).await;
    let required = "This field is required.";
    register(json!({})).await.is(400, json!({"username": [required], "password": [required]}));
    let short = json!({"username": "mira", "password": "seven77", "email": "x"});
    let mistakes = json!({"password": ["Ensure this field has at least 8 characters."], "email": ["Enter a valid email address."]});
    register(short).await.is(400, mistakes);
    register(json!({"username": "mira", "password": "12345678", "email": ""})).await.has_status(201);
    let taken = json!({"username": ["Username already exists"]});
    register(json!({"username": "mira", "password": "12345678"})).await.is(400, taken);
    let key = json!({"username": "Maintainer", "password": "12345678"});
    register(key).await.is(400, json!({"username": ["Username already exists"]}));
    let long = json!({"username": "m".repeat(151), "password": "12345678"});
    register(long).await.is(400, json!({"username": ["Ensure this field has no more than 150 characters."]}));
}

#[tokio::test]
async fn wrong_passwords_are_refused_and_soon_cost_time() {
    let (house, _) = open_house().await;
    let log_in = async |name: &str, password: &str| {
        Browser::default().call(&house, "POST", "/api/auth/login/", credentials(name, password)).await
    };
    Browser::default().call(&house, "POST", "/api/auth/register/", credentials("mira", PASSWORD)).await.has_status(201);
    let wrong = json!({"detail": "Invalid credentials"});
    log_in("nobody", PASSWORD).await.is(401, wrong.clone());
    let many = futures::future::join_all((0..20).map(|_| log_in("mira", PASSWORD.trim()))).await;
    let count = |status: u16| many.iter().filter(|answer| answer.status == status).count();
    assert_eq!((count(401), count(429)), (5, 15), "however many come at once");
    let refused = log_in("mira", PASSWORD).await;
    refused.has_status(429);
    assert!(refused.header("retry-after").parse::<u64>().unwrap() > 0);
    log_in("nobody", PASSWORD).await.is(401, wrong);
}

#[tokio::test]
async fn who_is_disabled_is_out_at_once() {
    let (house, store) = open_house().await;
    let mut browser = Browser::default();
    browser.call(&house, "POST", "/api/auth/register/", credentials("mira", PASSWORD)).await.has_status(201);
    let account = store.account(&UserId::new("mira")).await.unwrap().unwrap();
    store.change_account(&Account { is_active: false, ..account }).await.unwrap();
    browser.call(&house, "GET", "/api/auth/me/", None).await.has_status(401);
    let again = Browser::default().call(&house, "POST", "/api/auth/login/", credentials("mira", PASSWORD)).await;
    again.has_status(401);
}

#[tokio::test]
async fn a_role_binds_whoever_logs_in() {
    let (house, store) = open_house().await;
    let ada = Account {
        user: UserId::new("ada"),
        tenant: samples::tenant(),
        email: String::new(),
        password_hash: hash_password(&Secret::new(PASSWORD)).unwrap(),
        role: Role::Observer,
        is_active: true,
        created_at: samples::now(),
    };
    store.add_account(&ada).await.unwrap();
    let mut browser = Browser::default();
    browser.call(&house, "POST", "/api/auth/login/", credentials("ada", PASSWORD)).await.has_status(200);
    browser.brings_its_token();
    let body = json!({"provider": "local", "repository": "a/b"});
    browser.call(&house, "POST", "/api/repository-links/", Some(body)).await.has_status(403);
    browser.call(&house, "GET", "/api/repository-links/", None).await.has_status(200);
}

#[tokio::test]
async fn nobody_adds_themselves_unless_the_server_lets_them() {
    let accounts = Accounts::new(Arc::new(MemoryAccountStore::default()));
    let house = House::with(|state| state.with_accounts(accounts)).await;
    let mut browser = Browser::default();
    let refused = browser.call(&house, "POST", "/api/auth/register/", credentials("mira", PASSWORD)).await;
    assert!(refused.has_status(403)["detail"].as_str().unwrap().contains("astraforge users add"));
    browser.call(&house, "GET", "/api/auth/csrf/", None).await.has_status(204);
    let token = browser.cookie("csrftoken").unwrap().to_owned();
    browser.call(&house, "GET", "/api/auth/csrf/", None).await.has_status(204);
    assert_eq!((token.len(), browser.cookie("csrftoken")), (32, Some(token.as_str())), "one that it has stays");
    let me = house.get(Who::Reviewer, "/api/auth/me/").await;
    me.is(200, json!({"username": "Reviewer", "email": ""}));
}

#[tokio::test]
async fn cookies_of_a_server_behind_https_go_over_nothing_else() {
    let (house, _) = open_house().await;
    let mut browser = Browser { headers: vec![("x-forwarded-proto", "https".to_owned())], ..Browser::default() };
    let registered = browser.call(&house, "POST", "/api/auth/register/", credentials("mira", PASSWORD)).await;
    registered.has_status(201);
    browser.brings_its_token();
    let left = browser.call(&house, "POST", "/api/auth/logout/", None).await;
    let cookies: Vec<_> = [&registered, &left].iter().flat_map(|it| it.headers.get_all("set-cookie")).collect();
    assert_eq!(cookies.len(), 3);
    assert!(cookies.iter().all(|cookie| cookie.to_str().unwrap().ends_with("; Secure")), "{cookies:?}");
}
