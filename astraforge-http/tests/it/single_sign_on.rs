//! People who log in at an identity provider, and programs that bring its tokens.

use std::sync::Arc;

use astraforge_core::{
    access::Role,
    account::Account,
    id::{TenantId, UserId},
    identity::Identity,
    ports::account_store::AccountStore,
    repository::Secret,
    testing::{PlayedIdentities, account_store::MemoryAccountStore, samples},
};
use astraforge_http::server::{Accounts, hash_password};
use axum::{body::Body, http::Request};
use serde_json::json;

use crate::{
    browser::Browser,
    house::{Answer, House, Who},
};

const CALLBACK: &str = "/api/auth/oidc/callback/?state=the+state&code=";

/// A server with a provider, the provider, and the accounts.
struct Office {
    house: House,
    provider: Arc<PlayedIdentities>,
    store: Arc<MemoryAccountStore>,
}

impl Office {
    async fn open() -> Self {
        let (provider, store) = (Arc::<PlayedIdentities>::default(), Arc::<MemoryAccountStore>::default());
        let accounts = Accounts::new(store.clone()).with_registration(samples::tenant(), Role::Observer).with_provider(
            provider.clone(),
            "The office",
            None,
        );
        let house = House::with(|state| state.with_accounts(accounts)).await;
        Self { house, provider, store }
    }

    /// Calls with a bearer token.
    async fn bearer(&self, token: &str, path: &str) -> Answer {
        let request = Request::get(path).header("authorization", format!("Bearer {token}"));
        self.house.send(request.body(Body::empty()).unwrap()).await
    }

    /// Logs in with a code, as a browser does.
    async fn log_in(&self, browser: &mut Browser, code: &str) -> Answer {
        browser.call(&self.house, "GET", "/api/auth/oidc/login/?next=/requests", None).await.has_status(303);
        browser.call(&self.house, "GET", &format!("{CALLBACK}{code}"), None).await
    }

    async fn add_account(&self, name: &str) -> Account {
        let account = Account {
            user: UserId::new(name),
            tenant: samples::tenant(),
            email: String::new(),
            password_hash: hash_password(&Secret::new("correct horse")).unwrap(),
            role: Role::Admin,
            is_active: true,
            created_at: samples::now(),
        };
        assert!(self.store.add_account(&account).await.unwrap());
        account
    }

    async fn account(&self, name: &str) -> Account {
        self.store.account(&UserId::new(name)).await.unwrap().unwrap()
    }
}

#[tokio::test]
async fn somebody_logs_in_works_and_logs_out() {
    let office = Office::open().await;
    office.provider.put("code", PlayedIdentities::somebody("mira", Role::Maintainer));
    let mut browser = Browser::default();
    let begun = browser.call(&office.house, "GET", "/api/auth/oidc/login/?next=/requests%3Fa=1", None).await;
    begun.has_status(303);
    let callback = "redirect_uri=http://forge.test/api/auth/oidc/callback/";
    assert!(begun.header("location").ends_with(callback), "{}", begun.header("location"));
    let cookie = begun.header("set-cookie");
    assert!(cookie.ends_with("; HttpOnly; Max-Age=600; Path=/; SameSite=Lax"), "{cookie}");
    let before = browser.cookies.clone();

    let came = browser.call(&office.house, "GET", &format!("{CALLBACK}code"), None).await;
    came.has_status(303);
    assert_eq!(came.header("location"), "/requests?a=1");
    assert!(browser.cookie("sessionid").is_some() && browser.cookie("csrftoken").is_some());
    assert_eq!(browser.cookie("oidclogin"), None, "it is used up");
    let mira = json!({"username": "mira", "email": "mira@example.org"});
    browser.call(&office.house, "GET", "/api/auth/me/", None).await.is(200, mira);
    browser.brings_its_token();
    let submit = json!({"prompt": "Cache it", "project_id": office.house.spine.link.id});
    browser.call(&office.house, "POST", "/api/requests/", Some(submit)).await.has_status(201);
    let session = browser.cookie("sessionid").unwrap().to_owned();
    browser.call(&office.house, "POST", "/api/auth/logout/", None).await.has_status(204);
    browser.cookies.push(("sessionid".to_owned(), session));
    browser.call(&office.house, "GET", "/api/auth/me/", None).await.has_status(401);

    // The same browser cannot come back by the same way, and no other one by it.
    browser.call(&office.house, "GET", &format!("{CALLBACK}code"), None).await.has_status(400);
    Browser::default().call(&office.house, "GET", &format!("{CALLBACK}code"), None).await.has_status(400);
    let mut other = Browser { cookies: before, ..Browser::default() };
    let foreign = other.call(&office.house, "GET", "/api/auth/oidc/callback/?state=another&code=code", None).await;
    assert!(foreign.has_status(400)["detail"].as_str().unwrap().starts_with("This login was not begun"));
}

#[tokio::test]
async fn each_login_brings_the_account_up_to_date() {
    let office = Office::open().await;
    let mira = PlayedIdentities::somebody("mira", Role::Admin);
    office.provider.put("first", mira.clone());
    office.log_in(&mut Browser::default(), "first").await.has_status(303);
    assert_eq!(office.account("mira").await.role, Role::Admin);
    // Married, moved to another department, and called otherwise at the provider.
    let later = Identity { user: UserId::new("m"), role: Role::Observer, email: "m@example.org".to_owned(), ..mira };
    office.provider.put("later", later.clone());
    let mut browser = Browser::default();
    office.log_in(&mut browser, "later").await.has_status(303);
    let account = office.account("mira").await;
    assert_eq!((account.role, account.email.as_str()), (Role::Observer, "m@example.org"));
    assert_eq!(office.store.account(&later.user).await.unwrap(), None, "whom a name belongs to does not change");
    browser.call(&office.house, "GET", "/api/api-keys/", None).await.has_status(403);
}

#[tokio::test]
async fn nobody_gets_the_name_of_somebody_else() {
    let office = Office::open().await;
    let local = office.add_account("ada").await;
    let taken = "is somebody else's here";
    for name in ["ada", "Admin"] {
        office.provider.put(name, PlayedIdentities::somebody(name, Role::Admin));
        office.provider.put("a.b.c", PlayedIdentities::somebody(name, Role::Admin));
        let refused = office.log_in(&mut Browser::default(), name).await;
        assert!(refused.has_status(403)["detail"].as_str().unwrap().contains(taken), "{name}");
        let refused = office.bearer("a.b.c", "/api/auth/me/").await;
        assert!(refused.has_status(403)["detail"].as_str().unwrap().contains(taken), "{name}");
    }
    assert_eq!(office.account("ada").await, local);
    // Whoever comes first has the name: another one of the provider's does not get it, and nobody registers with it.
    office.provider.put("code", PlayedIdentities::somebody("mira", Role::Admin));
    office.log_in(&mut Browser::default(), "code").await.has_status(303);
    let mut other = PlayedIdentities::somebody("mira", Role::Admin);
    other.subject.id = "another".to_owned();
    office.provider.put("other", other);
    office.log_in(&mut Browser::default(), "other").await.has_status(403);
    let body = json!({"username": "mira", "password": "correct horse"});
    Browser::default().call(&office.house, "POST", "/api/auth/register/", Some(body)).await.has_status(400);
}

#[tokio::test]
async fn whoever_comes_from_the_provider_has_no_password() {
    let office = Office::open().await;
    office.provider.put("code", PlayedIdentities::somebody("mira", Role::Admin));
    office.log_in(&mut Browser::default(), "code").await.has_status(303);
    for password in [" ", "correct horse"] {
        let body = json!({"username": "mira", "password": password});
        let refused = Browser::default().call(&office.house, "POST", "/api/auth/login/", Some(body)).await;
        assert!([400, 401].contains(&refused.status.as_u16()), "{}", refused.text);
    }
}

#[tokio::test]
async fn who_is_disabled_or_of_another_tenant_stays_out() {
    let office = Office::open().await;
    let mira = PlayedIdentities::somebody("mira", Role::Maintainer);
    for token in ["code", "a.b.c"] {
        office.provider.put(token, mira.clone());
    }
    let mut browser = Browser::default();
    office.log_in(&mut browser, "code").await.has_status(303);
    let elsewhere = Identity { tenant: TenantId::new("umbrella"), ..mira };
    office.provider.put("moved", elsewhere.clone());
    office.provider.put("m.o.v", elsewhere);
    office.log_in(&mut Browser::default(), "moved").await.has_status(403);
    office.bearer("m.o.v", "/api/requests/").await.has_status(403);
    office.bearer("a.b.c", "/api/requests/").await.has_status(200);
    let account = office.account("mira").await;
    office.store.change_account(&Account { is_active: false, ..account }).await.unwrap();
    browser.call(&office.house, "GET", "/api/auth/me/", None).await.has_status(401);
    let refused = office.log_in(&mut Browser::default(), "code").await;
    assert!(refused.has_status(403)["detail"].as_str().unwrap().contains("disabled"));
    office.bearer("a.b.c", "/api/requests/").await.has_status(403);
    assert!(!office.account("mira").await.is_active, "coming changes nothing about that");
}

#[tokio::test]
async fn a_program_comes_with_a_token() {
    let office = Office::open().await;
    office.provider.put("a.b.c", PlayedIdentities::somebody("robot", Role::Observer));
    let me = json!({"username": "robot", "email": "robot@example.org"});
    office.bearer("a.b.c", "/api/auth/me/").await.is(200, me);
    office.bearer("a.b.c", "/api/api-keys/").await.has_status(403);
    // Its role is what the token says, not what another one did.
    office.provider.put("d.e.f", PlayedIdentities::somebody("robot", Role::Admin));
    office.bearer("d.e.f", "/api/api-keys/").await.has_status(200);
    assert_eq!(office.account("robot").await.role, Role::Observer);
    // A token changes things without what only browsers need.
    let body = json!({"prompt": "Cache it", "project_id": office.house.spine.link.id}).to_string();
    let call = Request::post("/api/requests/").header("authorization", "Bearer d.e.f");
    let call = call.header("content-type", "application/json").body(Body::from(body)).unwrap();
    office.house.send(call).await.has_status(201);
    let keyed = office.house.key(Who::Maintainer).to_owned();
    office.bearer(&keyed, "/api/requests/").await.has_status(200);
}

#[tokio::test]
async fn a_token_that_proves_nothing_is_refused_with_the_reason() {
    let office = Office::open().await;
    let refused = office.bearer("x.y.z", "/api/requests/").await;
    refused.is(401, json!({"detail": "The token has a wrong signature."}));
    let challenge =
        "Bearer realm=\"astraforge\", error=\"invalid_token\", error_description=\"the token has a wrong signature\"";
    assert_eq!(refused.header("www-authenticate"), challenge);
    let key = office.bearer("no-token", "/api/requests/").await;
    key.is(401, json!({"detail": "Invalid API key"}));
    assert_eq!(key.header("www-authenticate"), "Bearer realm=\"astraforge\"");
    office.provider.put("n.o.b", PlayedIdentities::somebody("nobody", Role::Observer));
    let unknown = office.bearer("n.o.b", "/api/requests/").await;
    assert!(unknown.has_status(403)["detail"].as_str().unwrap().starts_with("No role of the token"));
    office.provider.is_away(true);
    let away = office.bearer("x.y.z", "/api/requests/").await;
    away.is(503, json!({"detail": "The identity provider cannot be used now: it does not answer"}));
    let mut browser = Browser::default();
    office.log_in(&mut browser, "code").await.has_status(503);
    assert_eq!(browser.cookie("oidclogin"), None);
    // Whatever is wrong with a token, what needs none is there.
    office.bearer("x.y.z", "/api/schema/").await.has_status(200);
    let plain = House::with(|state| state.with_accounts(Accounts::new(Arc::<MemoryAccountStore>::default()))).await;
    let request = Request::get("/api/requests/").header("authorization", "Bearer x.y.z").body(Body::empty()).unwrap();
    plain.send(request).await.is(401, json!({"detail": "Invalid API key"}));
}

#[tokio::test]
async fn what_the_provider_refuses_is_told_and_nothing_else_is_repeated() {
    let office = Office::open().await;
    let come = async |query: &str| {
        let mut browser = Browser::default();
        browser.call(&office.house, "GET", "/api/auth/oidc/login/", None).await.has_status(303);
        browser.call(&office.house, "GET", &format!("/api/auth/oidc/callback/?{query}"), None).await
    };
    let denied = come("state=the+state&error=access_denied&error_description=Call+0900").await;
    denied.is(403, json!({"detail": "The identity provider let nobody in: access_denied"}));
    let odd = come("state=the+state&error=%3Cscript%3E").await;
    odd.is(403, json!({"detail": "The identity provider let nobody in: it gives no reason that is known"}));
    come("state=x&error=access_denied").await.has_status(400);
    come("state=the+state").await.has_status(400);
    come("").await.has_status(400);
    come("state=the+state&code=forged").await.has_status(401);
}

#[tokio::test]
async fn a_login_ends_on_this_server_and_nowhere_else() {
    let office = Office::open().await;
    office.provider.put("code", PlayedIdentities::somebody("mira", Role::Admin));
    for elsewhere in
        ["//evil.example", "https://evil.example/", "/%5Cevil.example", "/%09/evil.example", "%0d%0ax:%20y"]
    {
        let path = format!("/api/auth/oidc/login/?next={elsewhere}");
        let refused = Browser::default().call(&office.house, "GET", &path, None).await;
        assert!(refused.has_status(400)["next"].is_array(), "{elsewhere}");
        assert!(refused.headers.get("location").is_none());
    }
    // What a browser keeps is not believed either: this fake seals nothing.
    let mut browser = Browser::default();
    let sealed = "//evil.example".bytes().map(|byte| format!("{byte:02x}")).collect();
    browser.cookies.push(("oidclogin".to_owned(), sealed));
    let refused = browser.call(&office.house, "GET", &format!("{CALLBACK}code"), None).await;
    refused.has_status(400);
    assert_eq!(browser.cookie("sessionid"), None);
}

#[tokio::test]
async fn pages_learn_which_ways_there_are() {
    let office = Office::open().await;
    let all = json!({"password": true, "registration": true, "oidc": {"login_url": "/api/auth/oidc/login/", "name": "The office"}});
    office.house.get(Who::Nobody, "/api/auth/methods/").await.is(200, all);
    let plain = House::with(|state| state.with_accounts(Accounts::new(Arc::<MemoryAccountStore>::default()))).await;
    let some = json!({"password": true, "registration": false, "oidc": null});
    plain.get(Who::Nobody, "/api/auth/methods/").await.is(200, some);
    let none = json!({"password": false, "registration": false, "oidc": null});
    House::new().await.get(Who::Nobody, "/api/auth/methods/").await.is(200, none);
    for path in ["/api/auth/oidc/login/", "/api/auth/oidc/callback/?state=x&code=y"] {
        plain.get(Who::Nobody, path).await.has_status(404);
        House::new().await.get(Who::Nobody, path).await.has_status(404);
    }
}

#[tokio::test]
async fn browsers_come_back_to_the_servers_own_address() {
    let provider = Arc::<PlayedIdentities>::default();
    let accounts = Accounts::new(Arc::<MemoryAccountStore>::default());
    let accounts = accounts.with_provider(provider, "x", Some("https://forge.example".to_owned()));
    let house = House::with(|state| state.with_accounts(accounts)).await;
    let mut browser = Browser { headers: vec![("x-forwarded-proto", "https".to_owned())], ..Browser::default() };
    let begun = browser.call(&house, "GET", "/api/auth/oidc/login/", None).await;
    assert!(begun.header("location").contains("=https://forge.example/api/auth/oidc/callback/"));
    assert!(begun.header("set-cookie").ends_with("; Secure"));
}
