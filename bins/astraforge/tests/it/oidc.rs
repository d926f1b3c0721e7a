//! A real OpenID provider (the certified `oidc-provider`) lets people and programs in at a real server.

use std::time::Duration;

use reqwest::{Response, StatusCode, Url};
use serde_json::{Value, json};

use self::{browser::Browser, provider::Provider};
use crate::world::{World, one_command};

mod browser;
mod provider;

/// What tokens for this server are made for.
const AUDIENCE: &str = "https://forge.example/api";

/// A server that lets in whom the provider knows.
fn world(provider: &Provider) -> World {
    let mut world = World::without_server(one_command("true"));
    let options = [
        ("issuer", provider.issuer()),
        ("client-id", "forge"),
        ("client-secret", "a secret: with a colon"),
        ("public-url", "https://forge.example"),
        ("audience", AUDIENCE),
        ("role-claim", "groups"),
        ("roles", "admins=admin,devs=maintainer"),
    ];
    world.options.extend(options.map(|(name, value)| format!("--oidc-{name}={value}")));
    world.start();
    world
}

async fn call(world: &World, path: &str, token: &str) -> (StatusCode, Value, String) {
    let call = reqwest::Client::new().get(format!("{}{path}", world.url())).bearer_auth(token);
    read(call.send().await.unwrap()).await
}

/// The status of an answer, its body, and how callers have to show who they are.
async fn read(answer: Response) -> (StatusCode, Value, String) {
    let challenge = answer.headers().get("www-authenticate").map(|it| it.to_str().unwrap().to_owned());
    let status = answer.status();
    let body = answer.text().await.unwrap();
    (status, serde_json::from_str(&body).unwrap_or(Value::Null), challenge.unwrap_or_default())
}

#[tokio::test]
#[ignore = "needs the npm package oidc-provider: cargo xtask test --only oidc"]
async fn somebody_logs_in_by_way_of_a_real_provider() {
    let provider = Provider::start(0, 0).await;
    let world = world(&provider);
    let mut browser = Browser::new(&world);
    let (_, methods, _) = read(browser.get(&format!("{}/api/auth/methods/", world.url())).await).await;
    let login = methods["oidc"]["login_url"].as_str().unwrap().to_owned();
    let begin = format!("{}{login}?next=/requests%3Fmine", world.url());

    let callback = browser.log_in(&begin, "mira").await;
    let came = browser.get(&callback).await;
    assert_eq!(
        (came.status(), came.headers()["location"].to_str().unwrap()),
        (StatusCode::SEE_OTHER, "/requests?mine")
    );
    let me = format!("{}/api/auth/me/", world.url());
    let (status, body, _) = read(browser.get(&me).await).await;
    // What they are called and their address come from the provider's user info: its token has only `sub`.
    assert_eq!((status, body), (StatusCode::OK, json!({"username": "mira.name", "email": "mira@example.org"})));
    let (status, ..) = read(browser.get(&format!("{}/api/api-keys/", world.url())).await).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "a maintainer makes no keys");
    assert_eq!(browser.get(&callback).await.status(), StatusCode::BAD_REQUEST, "a login ends once");

    // Somebody who kept everything that the browser had.
    let mut thief = Browser::new(&world);
    let (callback, cookies) = (thief.log_in(&begin, "mira").await, thief.cookies());
    assert_eq!(thief.get(&callback).await.status(), StatusCode::SEE_OTHER);
    thief.has_cookies(cookies);
    assert_eq!(thief.get(&callback).await.status(), StatusCode::BAD_REQUEST, "the provider takes a code once");

    let mut other = Browser::new(&world);
    let callback = other.log_in(&begin, "stranger").await;
    let (status, body, _) = read(other.get(&callback).await).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(body["detail"].as_str().unwrap().contains("claim `groups`"), "{body}");
    let callback = Browser::new(&world).log_in(&begin, "mira").await;
    assert_eq!(Browser::new(&world).get(&callback).await.status(), StatusCode::BAD_REQUEST, "another browser's");
    let mut reluctant = Browser::new(&world);
    let callback = reluctant.give_up(&begin).await;
    let (status, body, _) = read(reluctant.get(&callback).await).await;
    assert_eq!(
        (status, body["detail"].as_str().unwrap()),
        (StatusCode::FORBIDDEN, "The identity provider let nobody in: access_denied")
    );
}

#[tokio::test]
#[ignore = "needs the npm package oidc-provider: cargo xtask test --only oidc"]
async fn programs_bring_tokens_of_a_real_provider_whose_keys_change() {
    let provider = Provider::start(0, 0).await;
    let world = world(&provider);
    let (rsa, elsewhere) = (provider.token(AUDIENCE).await, provider.token("https://other.example/api").await);
    let (status, body, _) = call(&world, "/api/auth/me/", &rsa).await;
    assert_eq!((status, body["username"].as_str()), (StatusCode::OK, Some("robot")), "{}", world.server_log());
    assert_eq!(call(&world, "/api/requests/", &rsa).await.0, StatusCode::OK);
    assert_eq!(call(&world, "/api/api-keys/", &rsa).await.0, StatusCode::FORBIDDEN);
    let (status, body, challenge) = call(&world, "/api/requests/", &elsewhere).await;
    assert_eq!(
        (status, body["detail"].as_str()),
        (StatusCode::UNAUTHORIZED, Some("The token is for another audience."))
    );
    assert!(challenge.contains("error=\"invalid_token\""), "{challenge}");
    assert_eq!(call(&world, "/api/requests/", &provider.opaque_token().await).await.0, StatusCode::UNAUTHORIZED);

    // The same provider, with other keys.
    let port = Url::parse(provider.issuer()).unwrap().port().unwrap();
    drop(provider);
    let provider = Provider::start(port, 0).await;
    let new = provider.token(AUDIENCE).await;
    // Somebody may have asked for its keys a moment ago.
    let accepted = async {
        while call(&world, "/api/requests/", &new).await.0 != StatusCode::OK {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), accepted).await.unwrap_or_else(|_| panic!("{}", world.server_log()));
    let (status, body, _) = call(&world, "/api/requests/", &rsa).await;
    let withdrawn = "The token is signed with a key that the issuer does not publish.";
    assert_eq!((status, body["detail"].as_str()), (StatusCode::UNAUTHORIZED, Some(withdrawn)));

    // One that is away: what is known goes on.
    drop(provider);
    assert_eq!(call(&world, "/api/requests/", &new).await.0, StatusCode::OK);
}

#[tokio::test]
#[ignore = "needs the npm package oidc-provider: cargo xtask test --only oidc"]
async fn tokens_of_a_real_provider_hold_for_their_time_and_its_curves_do_too() {
    // What it gives is good for ten minutes, an hour ago.
    let slow = Provider::start(0, -3600).await;
    let token = slow.token(AUDIENCE).await;
    let (status, body, _) = call(&world(&slow), "/api/requests/", &token).await;
    assert_eq!((status, body["detail"].as_str()), (StatusCode::UNAUTHORIZED, Some("The token has expired.")));
    let fast = Provider::start(0, 3600).await;
    let token = fast.token(AUDIENCE).await;
    let (status, body, _) = call(&world(&fast), "/api/requests/", &token).await;
    assert_eq!((status, body["detail"].as_str()), (StatusCode::UNAUTHORIZED, Some("The token is not valid yet.")));
    // Clocks are never quite the same.
    let near = Provider::start(0, 30).await;
    let mut world = World::without_server(one_command("true"));
    let curve = "https://forge.example/curve";
    let options = [("issuer", near.issuer()), ("audience", curve), ("default-role", "observer"), ("user-claim", "sub")];
    world.options.extend(options.map(|(name, value)| format!("--oidc-{name}={value}")));
    world.start();
    let (status, body, _) = call(&world, "/api/requests/", &near.token(curve).await).await;
    assert_eq!((status, body), (StatusCode::OK, json!([])));
    let login = reqwest::get(format!("{}/api/auth/oidc/login/", world.url())).await.unwrap();
    assert_eq!(login.status(), StatusCode::NOT_FOUND, "without a client nobody logs in there");
}
