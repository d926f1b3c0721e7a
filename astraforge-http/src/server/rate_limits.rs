//! How many calls are taken from whom: from each who is known, and from each address for those who are not.
//!
//! Each server counts by itself, in memory. What was not heard of for as long as its limit remembers is forgotten.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use astraforge_core::id::{ApiKeyId, UserId};
use axum::http::{HeaderName, Method, StatusCode, request::Parts};

use super::{
    caller::{Identity, Proof},
    error::ApiError,
};

mod address;
mod limiter;

pub use self::address::{NotANetwork, TrustedProxies};
pub(super) use self::limiter::{Standing, TooOften};
use self::{address::Network, limiter::Limiter};

/// How much of its limit a caller has left.
pub(super) const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
/// What its limit is.
pub(super) const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// How many callers or addresses are told apart; those beyond share a limit.
const TOLD_APART: usize = 100_000;
/// How long credentials that nobody used are known to be right.
const PROVEN: Duration = Duration::from_secs(3600);

/// A limit: so many calls a minute, and so many at once before that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Calls a minute, in the long run.
    pub per_minute: NonZeroU32,
    /// Calls at once.
    pub burst: NonZeroU32,
}

/// How many calls are taken from whom. Unset, all are.
///
/// ```
/// use std::num::NonZeroU32;
/// use astraforge_http::server::{Rate, RateLimits, TrustedProxies};
///
/// let rate = |n| NonZeroU32::new(n).map(|n| Rate { per_minute: n, burst: n });
/// let limits = RateLimits {
///     strangers: rate(60),
///     proxies: TrustedProxies::parse(["10.0.0.0/8"])?,
///     ..RateLimits::default()
/// };
/// # Ok::<(), astraforge_http::server::NotANetwork>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct RateLimits {
    /// Of each API key, and of each person who is logged in.
    pub callers: Option<Rate>,
    /// Of each address, for calls whose credentials are missing or wrong. Where there were too many, others that were not
    /// seen to be right lately have to wait too.
    pub strangers: Option<Rate>,
    /// Of each address, for attempts to log in or to register.
    pub logins: Option<Rate>,
    /// Who is believed from where a call came.
    pub proxies: TrustedProxies,
}

/// The limits at work. Clones share what was counted.
#[derive(Debug, Clone, Default)]
pub(super) struct Limiters(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    callers: Option<Limiter<Who>>,
    strangers: Option<Limiter<Network>>,
    logins: Option<Limiter<Network>>,
    proxies: TrustedProxies,
    proven: Mutex<HashMap<String, Instant>>,
}

/// Who is counted by itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Who {
    Key(ApiKeyId),
    Person(UserId),
}

impl Who {
    fn of(identity: &Identity) -> Self {
        match identity.proof {
            Proof::Key(id) => Self::Key(id),
            Proof::Login | Proof::Token => Self::Person(identity.caller.user.clone()),
        }
    }
}

impl From<RateLimits> for Limiters {
    fn from(limits: RateLimits) -> Self {
        let RateLimits { callers, strangers, logins, proxies } = limits;
        Self(Arc::new(Shared {
            callers: callers.map(|rate| Limiter::new("calls", rate, "This API key or login makes too many calls")),
            strangers: strangers.map(|rate| {
                Limiter::new("strangers", rate, "Too many calls without right credentials came from this address")
            }),
            logins: logins.map(|rate| Limiter::new("logins", rate, "Too many logins were tried from this address")),
            proxies,
            proven: Mutex::default(),
        }))
    }
}

impl Limiters {
    /// Lets a call in, or answers it before anybody looks who makes it. `credentials` is a hash of what it brings.
    ///
    /// Whoever was recognised lately gets in, whatever others do from the same address: behind a proxy that is not
    /// trusted, all have one.
    pub(super) fn admit(&self, parts: &Parts, credentials: Option<&str>) -> Result<(), TooOften> {
        let Shared { strangers, logins, proxies, .. } = &*self.0;
        if let (Some(logins), true) = (logins, is_login(parts)) {
            logins.count(proxies.client_of(parts))?;
        }
        match strangers {
            Some(strangers) if !is_for_everybody(parts.uri.path()) && !self.is_proven(credentials) => {
                strangers.check(proxies.client_of(parts))
            }
            _ => Ok(()),
        }
    }

    /// Counts a call, or answers it: for whoever makes it, or for its address when that is not known.
    pub(super) fn count(
        &self,
        parts: &Parts,
        credentials: Option<&str>,
        found: &Result<Identity, ApiError>,
    ) -> Result<Option<Standing>, TooOften> {
        let is_free = is_for_everybody(parts.uri.path());
        match (found, &self.0.callers, &self.0.strangers) {
            (Ok(identity), callers, strangers) => {
                if strangers.is_some() {
                    self.note_proven(credentials);
                }
                let counted = callers.as_ref().filter(|_| !is_free).map(|callers| callers.count(Who::of(identity)));
                counted.transpose()
            }
            (Err(refusal), _, Some(strangers)) if refusal.status() == StatusCode::UNAUTHORIZED => {
                // Such as a key that was revoked.
                credentials.and_then(|it| self.proven().remove(it));
                if is_free { Ok(None) } else { strangers.count(self.0.proxies.client_of(parts)).map(Some) }
            }
            (Err(_), ..) => Ok(None),
        }
    }

    fn is_proven(&self, credentials: Option<&str>) -> bool {
        credentials.is_some_and(|it| self.proven().get(it).is_some_and(|since| since.elapsed() < PROVEN))
    }

    fn note_proven(&self, credentials: Option<&str>) {
        let Some(credentials) = credentials else { return };
        let mut proven = self.proven();
        if proven.len() >= TOLD_APART {
            proven.retain(|_, since| since.elapsed() < PROVEN);
        }
        if proven.len() < TOLD_APART {
            proven.insert(credentials.to_owned(), Instant::now());
        }
    }

    fn proven(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.0.proven.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What anybody may ask for as often as they like: it shows nothing, or proves itself as links to files do.
pub(super) fn is_for_everybody(path: &str) -> bool {
    let is_link = path.starts_with("/api/sandbox/artifacts/") && path.ends_with("/download/");
    is_link || matches!(path, "/api/schema/" | "/api/docs/" | "/api/auth/csrf/" | "/api/auth/methods/")
}

fn is_login(parts: &Parts) -> bool {
    parts.method == Method::POST && matches!(parts.uri.path(), "/api/auth/login/" | "/api/auth/register/")
}
