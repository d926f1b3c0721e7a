//! Who calls: found once for each call, by an API key, by a browser's login or by an identity provider's token, and counted.

use astraforge_core::{
    access::{ApiKey, Caller},
    error::chain,
    id::ApiKeyId,
};
use axum::{
    extract::{FromRequestParts, Request, State},
    http::{
        HeaderMap, StatusCode,
        header::{AUTHORIZATION, RETRY_AFTER},
        request::Parts,
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use chrono::{DateTime, TimeDelta, Utc};
use tracing::{Span, warn};

use super::{
    AppState, accounts,
    audit::doors,
    auth::hash_api_key,
    error::ApiError,
    rate_limits::{Standing, TooOften},
};

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
    /// From when on it shows nothing any more, where it is a key that ends by itself.
    pub(super) expires_at: Option<DateTime<Utc>>,
}

impl FromRequestParts<AppState> for Identity {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, ApiError> {
        Self::of(parts)
    }
}

/// What shows who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// An API key.
    Key(ApiKeyId),
    /// A browser that is logged in.
    Login,
    /// A token of an identity provider.
    Token,
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
        Err(too_often) => return too_often.into_response(),
    };
    if let Ok(identity) = &found {
        Span::current().record("user", identity.caller.user.as_str());
        if let Proof::Key(id) = identity.proof {
            Span::current().record("key", id.to_string());
        }
    }
    parts.extensions.insert(Identified(found));
    let mut response = next.run(Request::from_parts(parts, body)).await;
    // A server that a call was passed on to, and that refused it for its own limit, has told of that.
    let is_told = response.status() == StatusCode::TOO_MANY_REQUESTS && response.headers().contains_key(RETRY_AFTER);
    if let Some(standing) = standing.filter(|_| !is_told) {
        standing.tell(response.headers_mut());
    }
    response
}

/// Finds out who calls, and counts the call.
async fn counted(parts: &Parts, state: &AppState) -> Result<(Result<Identity, ApiError>, Option<Standing>), TooOften> {
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
    let shown = presented(&parts.headers).map(|(Presented::Key(shown) | Presented::Token(shown))| shown);
    shown.or_else(login).map(hash_api_key)
}

async fn find(parts: &Parts, state: &AppState) -> Result<Identity, ApiError> {
    let Some(presented) = presented(&parts.headers) else {
        let accounts = state.accounts.as_ref().ok_or_else(missing)?;
        let account = accounts.logged_in(state, parts).await?.ok_or_else(missing)?;
        return Ok(Identity { caller: account.caller(), proof: Proof::Login, expires_at: None });
    };
    if let (Presented::Token(token), Some(accounts)) = (presented, &state.accounts) {
        match accounts.bearer(state, token).await {
            Ok(Some(caller)) => return Ok(Identity { caller, proof: Proof::Token, expires_at: None }),
            // Such tokens are not taken here, so that it may be whatever else.
            Ok(None) => {}
            Err(refusal) => {
                doors::token_was_refused(state, parts).await;
                return Err(refusal);
            }
        }
    }
    let (Presented::Key(presented) | Presented::Token(presented)) = presented;
    let key = state.store().api_key_by_hash(&hash_api_key(presented)).await?;
    let Some(key) = key else {
        doors::key_was_refused(state, parts).await;
        return Err(ApiError::unauthorized("Invalid API key"));
    };
    if let Some(end) = key.expires_at.filter(|_| key.is_expired(state.forge().journal().clock().now())) {
        doors::key_was_refused(state, parts).await;
        let detail = format!("This API key expired at {}; ask for another one.", end.format("%Y-%m-%d %H:%M:%S UTC"));
        return Err(ApiError::unauthorized(&detail).with_code("key_expired"));
    }
    note_use(state, &key, parts).await;
    Ok(Identity { caller: key.caller(), proof: Proof::Key(key.id), expires_at: key.expires_at })
}

fn missing() -> ApiError {
    ApiError::unauthorized("Authentication credentials were not provided.")
}

/// What a request brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presented<'a> {
    /// An API key.
    Key(&'a str),
    /// What has the form of a token; no key has.
    Token(&'a str),
}

/// What a request brings. `X-Api-Key` decides alone when it is there.
fn presented(headers: &HeaderMap) -> Option<Presented<'_>> {
    if let Some(key) = headers.get("x-api-key") {
        // A key that is not ASCII is no key; the empty text is unknown like any other wrong one.
        return Some(Presented::Key(key.to_str().unwrap_or_default()));
    }
    let (scheme, bearer) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let bearer = bearer.trim();
    let is_token = bearer.bytes().filter(|c| *c == b'.').count() == 2;
    Some(if is_token { Presented::Token(bearer) } else { Presented::Key(bearer) })
}

/// Notes that a key was used. Not being able to is no reason to turn its bearer away.
async fn note_use(state: &AppState, key: &ApiKey, parts: &Parts) {
    let now = state.forge().journal().clock().now();
    if !is_due(key.last_used_at, now) {
        return;
    }
    match state.store().touch_api_key(key.id, now).await {
        Ok(true) => doors::key_was_used(state, key, parts).await,
        Ok(false) => {}
        Err(error) => warn!(key.id = %key.id, error = chain(&error), "cannot note that an API key was used"),
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
    fn check(headers: &[(&'static str, &'static str)], expected: Option<Presented<'_>>) {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        assert_eq!(presented(&headers), expected);
    }

    #[test]
    fn a_key_comes_in_either_of_two_headers_and_a_token_in_one() {
        use Presented::{Key, Token};
        check(&[], None);
        check(&[("x-api-key", "k")], Some(Key("k")));
        check(&[("authorization", "Bearer k")], Some(Key("k")));
        check(&[("authorization", "bearer  k")], Some(Key("k")));
        check(&[("authorization", "Basic k")], None);
        check(&[("authorization", "Bearer a.b.c")], Some(Token("a.b.c")));
        check(&[("authorization", "Bearer a.b.c.d.e")], Some(Key("a.b.c.d.e")));
        check(&[("x-api-key", "a.b.c")], Some(Key("a.b.c")));
        check(&[("authorization", "Bearer b"), ("x-api-key", "k")], Some(Key("k")));
        check(&[("authorization", "Bearer b"), ("x-api-key", "")], Some(Key("")));
    }

    #[test]
    fn uses_are_noted_once_a_minute() {
        let now = Utc::now();
        assert!(is_due(None, now));
        assert!(!is_due(Some(now - TimeDelta::seconds(59)), now));
        assert!(is_due(Some(now - TimeDelta::seconds(60)), now));
    }
}
