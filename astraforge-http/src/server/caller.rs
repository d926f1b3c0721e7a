//! Who calls: found once for each call, by an API key or by a browser's login, and counted.

use astraforge_core::{
    access::{ApiKey, Caller},
    error::chain,
    id::ApiKeyId,
};
use axum::{
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, header::AUTHORIZATION, request::Parts},
    middleware::Next,
    response::Response,
};
use chrono::{DateTime, TimeDelta, Utc};
use tracing::{Span, warn};

use super::{AppState, accounts, auth::hash_api_key, error::ApiError, rate_limits::Standing};

/// A caller who is known. The first argument of every handler that needs one, so that nothing is told to others.
#[derive(Debug, Clone)]
pub(super) struct Authenticated(pub(super) Caller);

impl FromRequestParts<AppState> for Authenticated {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, ApiError> {
        Identity::of(parts).map(|identity| Self(identity.caller))
    }
}

/// Who calls, and what shows it.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) caller: Caller,
    pub(super) proof: Proof,
}

/// What shows who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// An API key.
    Key(ApiKeyId),
    /// A browser that is logged in.
    Login,
}

/// What [`identify`] found, for all that stands further in.
#[derive(Debug, Clone)]
struct Identified(Result<Identity, ApiError>);

impl Identity {
    /// Who makes a call; else the refusal that tells why that is not known.
    pub(super) fn of(parts: &Parts) -> Result<Self, ApiError> {
        let identified = parts.extensions.get::<Identified>().cloned();
        identified.map_or_else(|| Err(missing()), |Identified(found)| found)
    }
}

/// Finds out who calls. Only those are refused here who call too often: some routes are for everybody.
pub(super) async fn identify(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let (found, standing) = match counted(&parts, &state).await {
        Ok(counted) => counted,
        Err(too_often) => return too_often,
    };
    if let Ok(identity) = &found {
        Span::current().record("user", identity.caller.user.as_str());
        if let Proof::Key(id) = identity.proof {
            Span::current().record("key", id.to_string());
        }
    }
    parts.extensions.insert(Identified(found));
    let mut response = next.run(Request::from_parts(parts, body)).await;
    if let Some(standing) = standing {
        standing.tell(response.headers_mut());
    }
    response
}

/// Finds out who calls, and counts the call.
async fn counted(parts: &Parts, state: &AppState) -> Result<(Result<Identity, ApiError>, Option<Standing>), Response> {
    let credentials = credentials(parts, state);
    let credentials = credentials.as_deref();
    state.rates.admit(parts, credentials)?;
    let found = find(parts, state).await;
    let standing = state.rates.count(parts, credentials, &found)?;
    Ok((found, standing))
}

/// A hash of what a call brings to show who makes it.
fn credentials(parts: &Parts, state: &AppState) -> Option<String> {
    let login = || state.accounts.as_ref().and_then(|_| accounts::login_of(parts));
    presented_key(&parts.headers).or_else(login).map(hash_api_key)
}

async fn find(parts: &Parts, state: &AppState) -> Result<Identity, ApiError> {
    let Some(presented) = presented_key(&parts.headers) else {
        let accounts = state.accounts.as_ref().ok_or_else(missing)?;
        let account = accounts.logged_in(state, parts).await?.ok_or_else(missing)?;
        return Ok(Identity { caller: account.caller(), proof: Proof::Login });
    };
    let key = state.store().api_key_by_hash(&hash_api_key(presented)).await?;
    let key = key.ok_or_else(|| ApiError::unauthorized("Invalid API key"))?;
    note_use(state, &key).await;
    let proof = Proof::Key(key.id);
    Ok(Identity { caller: Caller { tenant: key.tenant, user: key.user, role: key.role }, proof })
}

fn missing() -> ApiError {
    ApiError::unauthorized("Authentication credentials were not provided.")
}

/// The key that a request brings. `X-Api-Key` decides alone when it is there.
fn presented_key(headers: &HeaderMap) -> Option<&str> {
    if let Some(key) = headers.get("x-api-key") {
        // A key that is not ASCII is no key; the empty text is unknown like any other wrong one.
        return Some(key.to_str().unwrap_or_default());
    }
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Notes that a key was used. Not being able to is no reason to turn its bearer away.
async fn note_use(state: &AppState, key: &ApiKey) {
    let now = state.forge().journal().clock().now();
    if !is_due(key.last_used_at, now) {
        return;
    }
    if let Err(error) = state.store().touch_api_key(key.id, now).await {
        warn!(key.id = %key.id, error = chain(&error), "cannot note that an API key was used");
    }
}

/// The time of the last use is written at most once a minute.
fn is_due(last_used_at: Option<DateTime<Utc>>, now: DateTime<Utc>) -> bool {
    last_used_at.is_none_or(|last| now - last >= TimeDelta::minutes(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(headers: &[(&'static str, &'static str)], key: Option<&str>) {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        assert_eq!(presented_key(&headers), key);
    }

    #[test]
    fn a_key_comes_in_either_of_two_headers() {
        check(&[], None);
        check(&[("x-api-key", "k")], Some("k"));
        check(&[("authorization", "Bearer k")], Some("k"));
        check(&[("authorization", "bearer  k")], Some("k"));
        check(&[("authorization", "Basic k")], None);
        check(&[("authorization", "Bearer b"), ("x-api-key", "k")], Some("k"));
        check(&[("authorization", "Bearer b"), ("x-api-key", "")], Some(""));
    }

    #[test]
    fn uses_are_noted_once_a_minute() {
        let now = Utc::now();
        assert!(is_due(None, now));
        assert!(!is_due(Some(now - TimeDelta::seconds(59)), now));
        assert!(is_due(Some(now - TimeDelta::seconds(60)), now));
    }
}
