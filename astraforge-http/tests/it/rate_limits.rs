//! Limits on how many calls are taken, and from whom.

use std::{net::SocketAddr, num::NonZeroU32, sync::Arc};

use astraforge_core::{access::Role, id::TenantId, testing::account_store::MemoryAccountStore};
use astraforge_http::server::{Accounts, Rate, RateLimits, TrustedProxies};
use axum::{
    body::Body,
    extract::connect_info::ConnectInfo,
    http::{Method, Request},
};
use serde_json::json;

use crate::house::{Answer, House, Who};

/// So many calls at once; another one is earned in a minute only.
fn rate(burst: u32) -> Option<Rate> {
    let number = |n| NonZeroU32::new(n).unwrap();
    Some(Rate { per_minute: number(1), burst: number(burst) })
}

async fn house(limits: RateLimits) -> House {
    let accounts = Accounts::new(Arc::new(MemoryAccountStore::default()));
    let accounts = accounts.with_registration(TenantId::new("acme"), Role::Maintainer);
    House::with(|state| state.with_rate_limits(limits).with_accounts(accounts)).await
}

/// A call from an address, with what it says about where it came from.
fn from(address: &str, forwarded: &str, key: &str, method: Method, path: &str, body: &str) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    if !forwarded.is_empty() {
        request = request.header("x-forwarded-for", forwarded);
    }
    if !key.is_empty() {
        request = request.header("x-api-key", key);
    }
    let mut request = request.body(Body::from(body.to_owned())).unwrap();
    let peer: SocketAddr = format!("{address}:4711").parse().unwrap();
    request.extensions_mut().insert(ConnectInfo(peer));
    request
}

async fn guess(house: &House, address: &str, forwarded: &str) -> Answer {
    house.send(from(address, forwarded, "afk_wrong", Method::GET, "/api/runs/", "")).await
}

/// How many of ten calls are taken.
async fn n_taken(call: impl AsyncFn() -> Answer) -> usize {
    let mut n_taken = 0;
    for _ in 0..10 {
        n_taken += usize::from(call().await.status != 429);
    }
    n_taken
}

#[tokio::test]
async fn without_limits_all_is_taken_and_nothing_is_told_of_any() {
    let house = House::new().await;
    for _ in 0..200 {
        let answer = guess(&house, "192.0.2.1", "").await;
        answer.has_status(401);
        assert!(!answer.headers.contains_key("ratelimit-policy"));
    }
}

#[tokio::test]
async fn each_key_has_its_limit_and_is_told_what_is_left() {
    let house = house(RateLimits { callers: rate(3), ..RateLimits::default() }).await;
    let mut left = Vec::new();
    for _ in 0..3 {
        let answer = house.get(Who::Observer, "/api/runs/").await;
        answer.has_status(200);
        assert_eq!(answer.header("ratelimit-policy"), "\"calls\";q=3;w=180");
        left.push(answer.header("ratelimit").to_owned());
    }
    assert_eq!(left, ["\"calls\";r=2;t=60", "\"calls\";r=1;t=120", "\"calls\";r=0;t=180"]);
    let refused = house.get(Who::Observer, "/api/runs/").await;
    assert_eq!(refused.has_status(429)["code"], "rate_limited");
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((55..=60).contains(&wait), "{wait}");
    let detail = format!("This API key or login makes too many calls; try again in {wait} s.");
    assert_eq!(refused.body["detail"], detail);
    assert_eq!(refused.header("ratelimit"), format!("\"calls\";r=0;t={wait}"));
    assert_eq!(refused.header("x-content-type-options"), "nosniff", "it is an answer like others");
    house.get(Who::Reviewer, "/api/runs/").await.has_status(200);
    house.get(Who::Observer, "/api/schema/").await.has_status(200);
}

#[tokio::test]
async fn credentials_are_not_guessed_at_speed() {
    let house = house(RateLimits { strangers: rate(3), ..RateLimits::default() }).await;
    // A key that is in use is taken whatever others do from the same address.
    let admin = house.key(Who::Admin).to_owned();
    let known = async |key: &str| house.send(from("192.0.2.1", "", key, Method::GET, "/api/runs/", "")).await;
    known(&admin).await.has_status(200);
    assert_eq!(n_taken(async || guess(&house, "192.0.2.1", "").await).await, 3);
    known(&admin).await.has_status(200);
    // Whether another one is right is not told there.
    let refused = known(house.key(Who::Observer)).await;
    assert_eq!(refused.has_status(429)["code"], "rate_limited");
    assert_eq!(refused.header("ratelimit-policy"), "\"strangers\";q=3;w=180");
    let elsewhere = from("192.0.2.2", "", house.key(Who::Observer), Method::GET, "/api/runs/", "");
    house.send(elsewhere).await.has_status(200);
}

#[tokio::test]
async fn right_credentials_count_for_no_address() {
    let house = house(RateLimits { strangers: rate(1), ..RateLimits::default() }).await;
    for who in [Who::Observer, Who::Reviewer, Who::Maintainer, Who::Admin] {
        house.send(from("192.0.2.1", "", house.key(who), Method::GET, "/api/runs/", "")).await.has_status(200);
    }
    guess(&house, "192.0.2.1", "").await.has_status(401);
}

#[tokio::test]
async fn calls_without_credentials_count_and_what_is_for_everybody_does_not() {
    let house = house(RateLimits { strangers: rate(3), ..RateLimits::default() }).await;
    let nobody = async |path: &str| house.send(from("192.0.2.1", "", "", Method::GET, path, "")).await;
    assert_eq!(n_taken(async || nobody("/api/runs/").await).await, 3);
    for path in
        ["/api/schema/", "/api/docs/", "/api/auth/csrf/", "/healthz", "/readyz", "/api/docs", "/api/schema.json"]
    {
        assert_ne!(nobody(path).await.status, 429, "{path}");
    }
    let link = nobody("/api/sandbox/artifacts/0d5d5f0a-2f0e-4c55-9b43-5b6b6f7f2a10/download/").await;
    assert_ne!(link.status, 429, "a link proves itself");
}

#[tokio::test]
async fn a_key_that_was_revoked_counts_again() {
    let house = house(RateLimits { strangers: rate(1), ..RateLimits::default() }).await;
    let call =
        async || house.send(from("192.0.2.1", "", house.key(Who::Observer), Method::GET, "/api/runs/", "")).await;
    call().await.has_status(200);
    let keys = house.get(Who::Admin, "/api/api-keys/").await;
    let row = keys.body.as_array().unwrap().iter().find(|key| key["user"] == "Observer").unwrap();
    let path = format!("/api/api-keys/{}/", row["id"].as_str().unwrap());
    house.call(Who::Admin, "DELETE", &path, None).await.has_status(204);
    call().await.has_status(401);
    call().await.has_status(429);
}

#[tokio::test]
async fn an_address_is_that_of_the_connection_unless_a_trusted_proxy_says_otherwise() {
    let limits = RateLimits { strangers: rate(1), ..RateLimits::default() };
    let alone = house(limits.clone()).await;
    assert_eq!(n_taken(async || guess(&alone, "192.0.2.1", "").await).await, 1);
    for n in 0..9 {
        // Whoever writes the header themselves is not believed.
        guess(&alone, "192.0.2.1", &format!("198.51.100.{n}")).await.has_status(429);
    }
    let proxies = TrustedProxies::parse(["10.0.0.0/8"]).unwrap();
    let behind = house(RateLimits { proxies, ..limits }).await;
    for n in 0..9 {
        guess(&behind, "10.0.0.1", &format!("1.1.1.1, 198.51.100.{n}")).await.has_status(401);
        guess(&behind, "10.0.0.2", &format!("2.2.2.2, 198.51.100.{n}")).await.has_status(429);
    }
    guess(&behind, "192.0.2.1", "203.0.113.1").await.has_status(401);
    guess(&behind, "192.0.2.1", "203.0.113.2").await.has_status(429);
}

#[tokio::test]
async fn passwords_of_many_names_are_not_guessed_from_one_address() {
    let house = house(RateLimits { logins: rate(4), ..RateLimits::default() }).await;
    let log_in = async |address: &str, path: &str, n: usize| {
        let body = json!({"username": format!("mira-{n}"), "password": "correct horse"}).to_string();
        house.send(from(address, "", "", Method::POST, path, &body)).await
    };
    log_in("192.0.2.1", "/api/auth/register/", 0).await.has_status(201);
    for n in 1..4 {
        log_in("192.0.2.1", "/api/auth/login/", n).await.has_status(401);
    }
    for path in ["/api/auth/login/", "/api/auth/login", "/api/auth/register/"] {
        let refused = log_in("192.0.2.1", path, 0).await;
        assert_eq!(refused.has_status(429)["code"], "rate_limited");
        assert!(refused.body["detail"].as_str().unwrap().starts_with("Too many logins"), "{}", refused.text);
    }
    log_in("192.0.2.2", "/api/auth/login/", 0).await.has_status(200);
}

#[tokio::test]
async fn a_server_of_ours_tells_where_a_call_comes_from() {
    let house = house(RateLimits { strangers: rate(2), ..RateLimits::default() }).await;
    let url = house.open().await;
    _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().tls_certs_only([]).build().unwrap();
    for status in [401, 401, 429] {
        let answer = client.get(format!("{url}/api/runs/")).send().await.unwrap();
        assert_eq!(answer.status(), status);
    }
    // Others are counted apart from it, so it was told apart from calls without an address.
    house.get(Who::Nobody, "/api/runs/").await.has_status(401);
}
