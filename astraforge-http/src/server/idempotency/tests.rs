//! What a key does for a call, tried on handlers that wait, fail and answer as a test says.

use std::sync::atomic::{AtomicUsize, Ordering};

use astraforge_core::{
    access::{ApiKey, Role},
    forge::{Forge, Settings},
    id::{ApiKeyId, UserId},
    ports::{call_store::CallStore as _, store::Store as _},
    testing::{Spine, samples},
};
use axum::{
    Router,
    extract::Path,
    http::{HeaderValue, Method},
    middleware::{from_fn, from_fn_with_state},
    routing::{any, get},
};
use futures::future::join_all;
use http_body_util::BodyExt as _;
use tokio::sync::Notify;
use tower::ServiceExt as _;
use tower_http::catch_panic::CatchPanicLayer;

use super::{
    super::{
        auth::mint_api_key,
        caller::{self, Authenticated},
        layers,
    },
    *,
};

/// A server whose handlers do as a test says.
#[derive(Clone)]
struct Stage {
    spine: Spine,
    state: AppState,
    app: Router,
    played: Arc<Played>,
}

#[derive(Default)]
struct Played {
    n_calls: AtomicUsize,
    began: Notify,
    goes_on: Notify,
}

impl Stage {
    async fn new() -> Self {
        let spine = Spine::new().await;
        let forge = Forge::new(spine.ports(Settings::default()));
        let state = AppState::builder(forge).with_body_limit(1000).build();
        let played = Arc::<Played>::default();
        let waits = {
            let played = played.clone();
            move |_: Authenticated| async move {
                played.n_calls.fetch_add(1, Ordering::SeqCst);
                played.began.notify_one();
                played.goes_on.notified().await;
                "it went on"
            }
        };
        let (counted, seen) = (played.clone(), played.clone());
        let app = Router::new()
            .route("/answers/{status}/{length}", any(move |_: Authenticated, path| answer(counted, path)))
            .route("/waits", any(waits))
            .route("/counts", get(move || async move { seen.n_calls.fetch_add(1, Ordering::SeqCst).to_string() }))
            .layer(from_fn_with_state(state.clone(), once))
            .layer(from_fn_with_state(state.clone(), caller::identify))
            .layer(CatchPanicLayer::custom(layers::panicked))
            .layer(from_fn(layers::observe))
            .with_state(state.clone());
        Self { spine, state, app, played }
    }

    async fn key_of(&self, user: &str, role: Role) -> String {
        let (key, hash) = mint_api_key().unwrap();
        let row = ApiKey { id: ApiKeyId::random(), user: UserId::new(user), hash, role, ..samples::api_key() };
        self.spine.store.add_api_key(row).await.unwrap();
        key.reveal().to_owned()
    }

    fn n_calls(&self) -> usize {
        self.played.n_calls.load(Ordering::SeqCst)
    }

    async fn send(&self, request: Request) -> Answered {
        let (parts, body) = self.app.clone().oneshot(request).await.unwrap().into_parts();
        Answered { parts, body: body.collect().await.unwrap().to_bytes() }
    }

    /// Calls as a maintainer with a key of their call.
    async fn post(&self, secret: &str, key: &str, path: &str, body: &str) -> Answered {
        self.send(call(Method::POST, secret, key, path, body)).await
    }
}

/// Answers with a status and a body of so many bytes; 999 is a panic.
async fn answer(played: Arc<Played>, Path((status, length)): Path<(u16, usize)>) -> Response {
    let n = played.n_calls.fetch_add(1, Ordering::SeqCst) + 1;
    assert_ne!(status, 999, "as the test says");
    let pieces = (0..length).step_by(1000).map(move |at| Ok::<_, Infallible>("x".repeat((length - at).min(1000))));
    let headers = [("location", format!("/{n}")), ("content-type", "text/x".to_owned())];
    (StatusCode::from_u16(status).unwrap(), headers, Body::from_stream(stream::iter(pieces))).into_response()
}

fn call(method: Method, secret: &str, key: &str, path: &str, body: &str) -> Request {
    let request = Request::builder().method(method).uri(path).header("x-api-key", secret);
    let request = request.header(KEY, HeaderValue::from_bytes(key.as_bytes()).unwrap());
    request.body(Body::from(body.to_owned())).unwrap()
}

struct Answered {
    parts: axum::http::response::Parts,
    body: Bytes,
}

impl Answered {
    #[track_caller]
    fn is(&self, status: u16, is_replayed: bool) -> &Self {
        let replayed = self.parts.headers.get(REPLAYED).map(HeaderValue::as_bytes);
        let text = String::from_utf8_lossy(&self.body[..self.body.len().min(300)]);
        assert_eq!((self.parts.status.as_u16(), replayed), (status, is_replayed.then_some(&b"true"[..])), "{text}");
        self
    }

    #[track_caller]
    fn is_refused(&self, status: u16, code: &str) -> &Self {
        self.is(status, false);
        let body: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(body["code"], code, "{body}");
        assert!(body["detail"].as_str().is_some_and(|text| text.contains("`Idempotency-Key`")), "{body}");
        self
    }

    fn header(&self, name: &str) -> &str {
        self.parts.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

#[tokio::test]
async fn the_same_call_is_carried_out_once_and_answered_the_same_again() {
    let stage = Stage::new().await;
    let ada = stage.key_of("ada", Role::Maintainer).await;
    let first = stage.post(&ada, "k", "/answers/201/2500", "{}").await;
    first.is(201, false);
    for _ in 0..3 {
        let again = stage.post(&ada, "k", "/answers/201/2500", "{}").await;
        again.is(201, true);
        assert_eq!(again.body, first.body);
        for name in ["location", "content-type"] {
            assert_eq!(again.header(name), first.header(name));
        }
        assert_eq!(again.parts.headers.get_all("x-request-id").iter().count(), 1);
        assert_ne!(again.header("x-request-id"), first.header("x-request-id"));
    }
    assert_eq!(stage.n_calls(), 1);
    stage.post(&ada, "another", "/answers/201/2500", "{}").await.is(201, false);
}

#[tokio::test]
async fn a_key_of_another_call_is_refused() {
    let stage = Stage::new().await;
    let ada = stage.key_of("ada", Role::Maintainer).await;
    stage.post(&ada, "k", "/answers/200/1", "{}").await.is(200, false);
    let calls = [
        call(Method::PUT, &ada, "k", "/answers/200/1", "{}"),
        call(Method::POST, &ada, "k", "/answers/200/2", "{}"),
        call(Method::POST, &ada, "k", "/answers/200/1?x=1", "{}"),
        call(Method::POST, &ada, "k", "/answers/200/1", "{ }"),
    ];
    for call in calls {
        stage.send(call).await.is_refused(409, "idempotency_key_reused");
    }
    assert_eq!(stage.n_calls(), 1);
}

#[tokio::test]
async fn keys_are_their_callers_own_and_those_of_the_role_they_had() {
    let stage = Stage::new().await;
    for (user, role) in [("ada", Role::Maintainer), ("bob", Role::Maintainer), ("ada", Role::Observer)] {
        let secret = stage.key_of(user, role).await;
        stage.post(&secret, "k", "/answers/200/1", "{}").await.is(200, false);
    }
    assert_eq!(stage.n_calls(), 3);
    let other_key_of_ada = stage.key_of("ada", Role::Maintainer).await;
    stage.post(&other_key_of_ada, "k", "/answers/200/1", "{}").await.is(200, true);
}

#[tokio::test]
async fn a_call_at_work_is_told_and_its_answer_waits_for_those_that_went_away() {
    let stage = Stage::new().await;
    let ada = stage.key_of("ada", Role::Maintainer).await;
    let first = tokio::spawn({
        let (stage, ada) = (stage.clone(), ada.clone());
        async move { stage.post(&ada, "k", "/waits", "").await }
    });
    stage.played.began.notified().await;
    let refused = stage.post(&ada, "k", "/waits", "").await;
    assert_eq!(refused.is_refused(409, "idempotency_call_at_work").header("retry-after"), "1");
    first.abort();
    assert!(first.await.is_err_and(|error| error.is_cancelled()), "its caller went away");
    stage.post(&ada, "k", "/waits", "").await.is_refused(409, "idempotency_call_at_work");
    stage.played.goes_on.notify_one();
    let answer = loop {
        let answer = stage.post(&ada, "k", "/waits", "").await;
        if answer.parts.status != StatusCode::CONFLICT {
            break answer;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(answer.is(200, true).body, "it went on");
    assert_eq!(stage.n_calls(), 1);
}

#[tokio::test]
async fn of_many_that_come_at_once_one_is_carried_out() {
    let stage = Stage::new().await;
    let ada = stage.key_of("ada", Role::Maintainer).await;
    let answers = join_all((0..20).map(|_| stage.post(&ada, "k", "/answers/200/1", "{}"))).await;
    assert_eq!(stage.n_calls(), 1);
    let carried_out = answers.iter().filter(|it| it.parts.status == 200 && !it.parts.headers.contains_key(REPLAYED));
    assert_eq!(carried_out.count(), 1);
}

#[tokio::test]
async fn an_answer_that_another_try_may_better_is_not_kept() {
    let stage = Stage::new().await;
    let ada = stage.key_of("ada", Role::Maintainer).await;
    for (status, is_kept) in
        [(200, true), (400, true), (404, true), (409, true), (421, false), (429, false), (500, false), (503, false)]
    {
        let (key, path, before) = (format!("k-{status}"), format!("/answers/{status}/3"), stage.n_calls());
        for is_second in [false, true] {
            stage.post(&ada, &key, &path, "").await.is(status, is_second && is_kept);
        }
        assert_eq!(stage.n_calls() - before, if is_kept { 1 } else { 2 }, "{status}");
    }
}

#[tokio::test]
async fn a_panic_is_answered_and_the_call_can_be_tried_again() {
    let stage = Stage::new().await;
    let ada = stage.key_of("ada", Role::Maintainer).await;
    for _ in 0..2 {
        stage.post(&ada, "k", "/answers/999/0", "").await.is(500, false);
    }
    assert_eq!(stage.n_calls(), 2);
}

#[tokio::test]
async fn an_answer_too_long_to_be_kept_goes_to_its_caller_whole_and_is_told_to_those_that_follow() {
    let stage = Stage::new().await;
    let ada = stage.key_of("ada", Role::Maintainer).await;
    for (length, is_kept) in [(MOST_KEPT, true), (MOST_KEPT + 1, false), (3 * MOST_KEPT, false)] {
        let (key, path, before) = (format!("k-{length}"), format!("/answers/200/{length}"), stage.n_calls());
        assert_eq!(stage.post(&ada, &key, &path, "").await.is(200, false).body.len(), length);
        let again = stage.post(&ada, &key, &path, "").await;
        if is_kept {
            assert_eq!(again.is(200, true).body.len(), length);
        } else {
            again.is_refused(409, "idempotency_answer_too_long");
        }
        assert_eq!(stage.n_calls() - before, 1);
    }
}

#[tokio::test]
async fn a_body_too_long_to_be_compared_is_refused_before_anything_is_done() {
    let stage = Stage::new().await;
    let ada = stage.key_of("ada", Role::Maintainer).await;
    stage.post(&ada, "k", "/answers/200/1", &"x".repeat(1000)).await.is(200, false);
    stage.post(&ada, "l", "/answers/200/1", &"x".repeat(1001)).await.is_refused(413, "idempotency_body_too_long");
    assert_eq!(stage.n_calls(), 1);
}

#[tokio::test]
async fn a_malformed_key_is_refused_where_it_would_count() {
    let stage = Stage::new().await;
    let ada = stage.key_of("ada", Role::Maintainer).await;
    for key in ["", "two words", "\u{fc}", &"k".repeat(256)] {
        let refused = stage.post(&ada, key, "/answers/200/1", "").await;
        refused.is_refused(400, "idempotency_key_malformed");
        stage.post("wrong", key, "/answers/200/1", "").await.is(401, false);
        stage.send(call(Method::GET, &ada, key, "/answers/200/1", "")).await.is(200, false);
    }
    let mut twice = call(Method::POST, &ada, "k", "/answers/200/1", "");
    twice.headers_mut().append(KEY, HeaderValue::from_static("l"));
    stage.send(twice).await.is_refused(400, "idempotency_key_malformed");
    assert_eq!(stage.n_calls(), 4, "reading calls have no use for a key");
}

#[tokio::test]
async fn a_reading_call_is_carried_out_each_time() {
    let stage = Stage::new().await;
    let ada = stage.key_of("ada", Role::Maintainer).await;
    for n in ["0", "1"] {
        assert_eq!(stage.send(call(Method::GET, &ada, "k", "/counts", "")).await.is(200, false).body, n);
    }
}

#[tokio::test]
async fn what_a_killed_server_was_at_is_begun_anew_when_its_lease_has_ended() {
    let stage = Stage::new().await;
    let ada = stage.key_of("ada", Role::Maintainer).await;
    let name = CallName { caller: samples::caller("ada", Role::Maintainer), key: "k".parse().unwrap() };
    let print = Fingerprint::of("POST", "/answers/200/1", b"{}");
    let lost = stage.spine.store.begin_call(&name, print, now(&stage.state), now(&stage.state) + LEASE).await.unwrap();
    assert!(matches!(lost, Begun::Attempt(_)));
    stage.post(&ada, "k", "/answers/200/1", "{}").await.is_refused(409, "idempotency_call_at_work");
    stage.spine.clock.advance(Duration::from_secs(31));
    stage.post(&ada, "k", "/answers/200/1", "{}").await.is(200, false);
    stage.post(&ada, "k", "/answers/200/1", "{}").await.is(200, true);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_takes_long_stays_its_servers() {
    let stage = Stage::new().await;
    let ada = stage.key_of("ada", Role::Maintainer).await;
    let first = tokio::spawn({
        let (stage, ada) = (stage.clone(), ada.clone());
        async move { stage.post(&ada, "k", "/waits", "").await }
    });
    stage.played.began.notified().await;
    for _ in 0..10 {
        stage.spine.clock.advance(RENEWAL);
        sleep(RENEWAL + Duration::from_millis(1)).await;
        stage.post(&ada, "k", "/waits", "").await.is_refused(409, "idempotency_call_at_work");
    }
    stage.played.goes_on.notify_one();
    first.await.unwrap().is(200, false);
    assert_eq!(stage.n_calls(), 1);
}

#[tokio::test]
async fn no_more_calls_with_a_key_are_at_work_than_there_is_room_for() {
    let stage = Stage::new().await;
    let ada = stage.key_of("ada", Role::Maintainer).await;
    let taken = stage.state.keyed_calls.all.clone().acquire_many_owned(AT_ONCE as u32).await.unwrap();
    let refused = stage.post(&ada, "k", "/answers/200/1", "").await;
    assert_eq!(refused.is(503, false).header("retry-after"), "1");
    drop(taken);
    stage.post(&ada, "k", "/answers/200/1", "").await.is(200, false);
}
