//! A server in memory, with a key for each role, and a stranger's key of another tenant.

use std::{sync::Arc, time::Duration};

use astraforge_core::{
    access::{ApiKey, Role},
    cancel::Cancellation,
    forge::{Forge, Settings},
    id::{ApiKeyId, TenantId, UserId},
    ports::store::Store,
    retention::{Kept, Retention},
    session::ByteSize,
    testing::{Spine, samples},
    worker::Worker,
};
use astraforge_http::{
    AppState, mint_api_key, router,
    server::{AppStateBuilder, Server, auth::hash_api_key},
};
use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Request, StatusCode},
};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

/// The server and all behind it.
pub(crate) struct House {
    pub(crate) spine: Spine,
    pub(crate) forge: Forge,
    pub(crate) app: Router,
    pub(crate) keys: Vec<(Who, String)>,
}

/// Who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    Observer,
    Reviewer,
    Maintainer,
    Admin,
    /// An admin of another tenant.
    Stranger,
    Nobody,
}

/// What the server answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
    pub(crate) text: String,
}

impl House {
    pub(crate) async fn new() -> Self {
        Self::with(|state| state).await
    }

    pub(crate) async fn with(setup: impl FnOnce(AppStateBuilder) -> AppStateBuilder) -> Self {
        let spine = Spine::new().await;
        let forge = Forge::new(spine.ports(Settings::default()));
        let app = router(setup(AppState::builder(forge.clone())).build());
        let mut house = Self { spine, forge, app, keys: Vec::new() };
        house.add_key(Who::Observer, "acme", Role::Observer).await;
        house.add_key(Who::Reviewer, "acme", Role::Reviewer).await;
        house.add_key(Who::Maintainer, "acme", Role::Maintainer).await;
        house.add_key(Who::Admin, "acme", Role::Admin).await;
        house.add_key(Who::Stranger, "umbrella", Role::Admin).await;
        house
    }

    async fn add_key(&mut self, who: Who, tenant: &str, role: Role) {
        let (key, hash) = mint_api_key().unwrap();
        let row = ApiKey {
            id: ApiKeyId::random(),
            tenant: TenantId::new(tenant),
            user: UserId::new(format!("{who:?}")),
            hash,
            role,
            ..samples::api_key()
        };
        self.spine.store.add_api_key(row).await.unwrap();
        self.keys.push((who, key.reveal().to_owned()));
    }

    /// Takes the keys of another server for its own.
    pub(crate) async fn knows_keys_of(&mut self, other: &Self) {
        self.keys.clear();
        for (who, key) in &other.keys {
            let row = other.spine.store.api_key_by_hash(&hash_api_key(key)).await.unwrap().unwrap();
            self.spine.store.add_api_key(row).await.unwrap();
            self.keys.push((*who, key.clone()));
        }
    }

    pub(crate) fn key(&self, who: Who) -> &str {
        self.keys.iter().find(|(known, _)| *known == who).map_or("", |(_, key)| key)
    }

    pub(crate) async fn get(&self, who: Who, path: &str) -> Answer {
        self.call(who, "GET", path, None).await
    }

    pub(crate) async fn post(&self, who: Who, path: &str, body: Value) -> Answer {
        self.call(who, "POST", path, Some(body)).await
    }

    pub(crate) async fn call(&self, who: Who, method: &str, path: &str, body: Option<Value>) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if who != Who::Nobody {
            request = request.header("x-api-key", self.key(who));
        }
        let request = match body {
            Some(body) => request.header("content-type", "application/json").body(Body::from(body.to_string())),
            None => request.body(Body::empty()),
        };
        self.send(request.unwrap()).await
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.app.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = tokio::time::timeout(Duration::from_secs(10), body.collect());
        let bytes = bytes.await.expect("the answer ends").unwrap().to_bytes();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Answer { status: parts.status, headers: parts.headers, body, text }
    }

    /// Archives the logs of all requests that are at rest.
    pub(crate) async fn archive_logs(&self) {
        let Spine { store, artifacts, clock, .. } = self.spine.clone();
        let nothing = Kept { age: None, size: Some(ByteSize::bytes(0)) };
        let archived = Retention::new(store, artifacts, Arc::new(clock), nothing).archive().await.unwrap();
        assert!(archived.n_events > 0 && archived.failed.is_empty(), "{archived:?}");
    }

    /// Submits a request and returns its id.
    pub(crate) async fn submit(&self, extra: Value) -> String {
        let mut body = json!({"prompt": "Cache the loader results\n", "project_id": self.spine.link.id});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let answer = self.post(Who::Maintainer, "/api/requests/", body).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        answer.body["id"].as_str().unwrap().to_owned()
    }

    /// Does all that is queued.
    pub(crate) async fn work(&self) {
        Worker::new(self.forge.clone()).drain().await.unwrap();
    }

    /// Serves on a port of its own, with a worker, and returns the address.
    pub(crate) async fn open(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = self.app.clone();
        tokio::spawn(async move { Server::new(listener, app).run().await });
        self.hire();
        format!("http://{address}")
    }

    /// Lets a worker do what comes.
    pub(crate) fn hire(&self) {
        let worker = Worker::new(self.forge.clone());
        tokio::spawn(async move { worker.run(Cancellation::never()).await });
    }
}

impl Answer {
    #[track_caller]
    pub(crate) fn is(&self, status: u16, body: Value) {
        assert_eq!((self.status.as_u16(), &self.body), (status, &body), "{}", self.text);
    }

    #[track_caller]
    pub(crate) fn has_status(&self, status: u16) -> &Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        &self.body
    }

    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no header {name}")).to_str().unwrap()
    }
}
