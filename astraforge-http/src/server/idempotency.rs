//! Calls with an `Idempotency-Key`: carried out once, however often they come.
//!
//! What is remembered is in the database that all servers share. A call that is passed on to another server is remembered
//! by that one alone.

use std::{
    collections::HashMap,
    convert::Infallible,
    panic::{AssertUnwindSafe, resume_unwind},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use astraforge_core::{
    access::Caller,
    error::chain,
    id::{TenantId, UserId},
    idempotency::{Answer, Attempt, Begun, CallName, Fingerprint, IdempotencyKey, Outcome},
};
use axum::{
    body::Body,
    extract::{FromRequestParts, Request, State},
    http::{
        HeaderName, StatusCode,
        header::{CONTENT_LENGTH, DATE},
        request::Parts,
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use futures::{FutureExt, StreamExt, stream};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};
use tracing::{Instrument, Span, error, warn};
use uuid::Uuid;

use super::{
    AppState,
    audit::About,
    body::read_bytes,
    caller::Identity,
    error::ApiError,
    rate_limits::{RATE_LIMIT, RATE_LIMIT_POLICY},
};

mod answers;

/// Where callers put the key of a call.
pub(super) const KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Says of an answer that the call was carried out earlier.
pub(super) const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// The longest answer that is kept, in bytes.
pub(super) const MOST_KEPT: usize = 1024 * 1024;
/// How many calls with a key may be at work in one server: they go on when their callers are gone.
const AT_ONCE: usize = 1024;
/// The name among kept headers of what the audit says that the call was about; it is not sent.
const ABOUT: &str = "x-astraforge-about";
/// How many of them may be one caller's, so that nobody has all places.
const AT_ONCE_EACH: usize = 128;
/// How long a server that was killed holds up the calls that it was at.
const LEASE: TimeDelta = TimeDelta::seconds(30);
/// How often a call that takes long is said to go on.
const RENEWAL: Duration = Duration::from_secs(10);
/// Headers that belong to one answer's way and not to the call.
const OF_THE_WAY: [HeaderName; 5] =
    [CONTENT_LENGTH, DATE, HeaderName::from_static("x-request-id"), RATE_LIMIT, RATE_LIMIT_POLICY];

/// Places for calls with a key. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Places {
    all: Arc<Semaphore>,
    taken: Arc<Mutex<HashMap<Owner, usize>>>,
}

/// Whose call it is.
type Owner = (TenantId, UserId);

/// A place for one call, until this is dropped.
struct Place {
    _one_of_all: OwnedSemaphorePermit,
    owner: Owner,
    taken: Arc<Mutex<HashMap<Owner, usize>>>,
}

impl Default for Places {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(AT_ONCE)), taken: Arc::default() }
    }
}

impl Places {
    /// Takes a place for a call of that caller, if there is one for them.
    fn take(&self, caller: &Caller) -> Option<Place> {
        let one_of_all = Arc::clone(&self.all).try_acquire_owned().ok()?;
        let owner = (caller.tenant.clone(), caller.user.clone());
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let n = taken.entry(owner.clone()).or_default();
        if *n >= AT_ONCE_EACH {
            return None;
        }
        *n += 1;
        Some(Place { _one_of_all: one_of_all, owner, taken: Arc::clone(&self.taken) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        match taken.get_mut(&self.owner) {
            Some(n) if *n > 1 => *n -= 1,
            _ => _ = taken.remove(&self.owner),
        }
    }
}

/// The id of what a call with a key makes, where its caller gives none: however often it is attempted, it makes one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Makes(pub(super) Option<Uuid>);

impl<S: Sync> FromRequestParts<S> for Makes {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get().copied().unwrap_or(Self(None)))
    }
}

/// Carries out a call of a known caller that has a key once, and gives the same answer again to those that follow.
pub(super) async fn once(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    match name_of(&parts) {
        Ok(None) => next.run(Request::from_parts(parts, body)).await,
        Ok(Some(name)) => remembered(state, name, parts, body, next).await.unwrap_or_else(IntoResponse::into_response),
        Err(refusal) => refusal.into_response(),
    }
}

/// What names a call; `None` for one that changes nothing, has no key, or whose caller is not known.
fn name_of(parts: &Parts) -> Result<Option<CallName>, ApiError> {
    let mut keys = parts.headers.get_all(KEY).iter();
    let (Some(key), false, Ok(identity)) = (keys.next(), parts.method.is_safe(), Identity::of(parts)) else {
        return Ok(None);
    };
    if keys.next().is_some() {
        return Err(answers::malformed("Send one `Idempotency-Key`, not several.".to_owned()));
    }
    // What is no text is no key either; the empty one is refused with the right words.
    let key = key.to_str().unwrap_or_default().parse::<IdempotencyKey>();
    let key = key.map_err(|error| answers::malformed(format!("`Idempotency-Key` cannot be taken: {error}.")))?;
    Ok(Some(CallName { caller: identity.caller, key }))
}

async fn remembered(
    state: AppState,
    name: CallName,
    mut parts: Parts,
    body: Body,
    next: Next,
) -> Result<Response, ApiError> {
    let Some(place) = state.keyed_calls.take(&name.caller) else { return Ok(answers::full()) };
    let limit = state.limits.body_bytes;
    let body = read_bytes(body, limit).await.map_err(|refusal| answers::explained(refusal, limit))?;
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let fingerprint = Fingerprint::of(parts.method.as_str(), path, &body);
    let now = now(&state);
    match state.store().begin_call(&name, fingerprint, now, now + LEASE).await? {
        Begun::Attempt(attempt) => {
            parts.extensions.insert(Makes(Some(attempt.makes)));
            let request = Request::from_parts(parts, Body::from(body));
            let work = async move {
                let answer = carry_out(&state, &attempt, request, next).await;
                drop(place);
                answer
            };
            // It is seen through though the caller goes away: they will come back for the answer.
            match tokio::spawn(work.instrument(Span::current())).await {
                Ok(answer) => Ok(answer),
                Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
                Err(_stopped) => Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "The server stops; try again.")),
            }
        }
        Begun::AtWork => Ok(answers::at_work()),
        Begun::Over(Outcome::Answer(answer)) => Ok(answers::replayed(answer)),
        Begun::Over(Outcome::TooLong) => Err(answers::too_long()),
        Begun::OtherCall => Err(answers::other_call()),
    }
}

/// Carries out a call, and keeps what came of it. Meanwhile nobody else begins it.
async fn carry_out(state: &AppState, attempt: &Attempt, request: Request, next: Next) -> Response {
    let work = async { settled(state, attempt, next.run(request).await).await };
    let done = tokio::select! {
        done = AssertUnwindSafe(work).catch_unwind() => done,
        never = go_on(state, attempt) => match never {},
    };
    match done {
        Ok(answer) => answer,
        Err(panic) => {
            give_up(state, attempt).await;
            resume_unwind(panic)
        }
    }
}

/// Says again and again that a call is at work.
async fn go_on(state: &AppState, attempt: &Attempt) -> Infallible {
    loop {
        sleep(RENEWAL).await;
        match state.store().renew_attempt(attempt, now(state) + LEASE).await {
            Ok(true) => {}
            Ok(false) => {
                warn!("a call took so long to say that it goes on that another attempt may have begun");
                return std::future::pending().await;
            }
            Err(error) => warn!(error = chain(&error), "cannot say that a call goes on"),
        }
    }
}

/// Keeps an answer, and passes it through. One that another try may better is not kept.
async fn settled(state: &AppState, attempt: &Attempt, answer: Response) -> Response {
    if !is_final(answer.status()) {
        give_up(state, attempt).await;
        return answer;
    }
    let (parts, body) = answer.into_parts();
    match beginning(body).await {
        Beginning::All(body) => {
            let of_the_call = parts.headers.iter().filter(|(name, _)| !OF_THE_WAY.contains(name));
            let headers = of_the_call.map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()));
            let about = parts.extensions.get::<About>().map(|About(id)| (ABOUT.to_owned(), id.clone().into_bytes()));
            let headers = headers.chain(about).collect();
            let kept = Answer { status: parts.status.as_u16(), headers, body: body.clone() };
            keep(state, attempt, &Outcome::Answer(kept)).await;
            Response::from_parts(parts, Body::from(body))
        }
        Beginning::OfMore(body) => {
            keep(state, attempt, &Outcome::TooLong).await;
            Response::from_parts(parts, body)
        }
        Beginning::OfWhatBroke(body) => {
            give_up(state, attempt).await;
            Response::from_parts(parts, body)
        }
    }
}

/// Whether the same call would be answered so again.
fn is_final(status: StatusCode) -> bool {
    let passes = [
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::MISDIRECTED_REQUEST,
        StatusCode::TOO_EARLY,
        StatusCode::TOO_MANY_REQUESTS,
    ];
    !status.is_server_error() && !passes.contains(&status)
}

/// What was read of a body.
enum Beginning {
    All(Bytes),
    /// It is longer than what is kept; all of it, to be read on.
    OfMore(Body),
    /// It broke off; as far as it came, and the error.
    OfWhatBroke(Body),
}

async fn beginning(body: Body) -> Beginning {
    let (mut rest, mut read, mut n_bytes) = (body.into_data_stream(), Vec::new(), 0);
    while let Some(piece) = rest.next().await {
        let is_broken = piece.is_err();
        n_bytes += piece.as_ref().map_or(0, Bytes::len);
        read.push(piece);
        if is_broken || n_bytes > MOST_KEPT {
            let body = Body::from_stream(stream::iter(read).chain(rest));
            return if is_broken { Beginning::OfWhatBroke(body) } else { Beginning::OfMore(body) };
        }
    }
    let read: Vec<Bytes> = read.into_iter().flatten().collect();
    Beginning::All(read.concat().into())
}

/// Keeps what came of a call. Whoever made it has its answer in any case.
async fn keep(state: &AppState, attempt: &Attempt, outcome: &Outcome) {
    let mut pauses = [100, 1000].map(Duration::from_millis).into_iter();
    loop {
        match state.store().end_call(attempt, outcome, now(state)).await {
            Ok(true) => return,
            Ok(false) => return warn!("another attempt took a call over before its answer was kept"),
            Err(error) => match pauses.next() {
                Some(pause) => sleep(pause).await,
                None => {
                    return error!(
                        error = chain(&error),
                        "an answer cannot be kept: the call may be carried out again"
                    );
                }
            },
        }
    }
}

async fn give_up(state: &AppState, attempt: &Attempt) {
    match state.store().give_up_attempt(attempt).await {
        Ok(_) => {}
        Err(error) => {
            warn!(error = chain(&error), "a call that came to nothing cannot be tried again for half a minute")
        }
    }
}

fn now(state: &AppState) -> DateTime<Utc> {
    state.forge().journal().clock().now()
}

#[cfg(test)]
mod tests;
