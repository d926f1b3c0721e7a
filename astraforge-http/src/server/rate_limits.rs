//! How many calls are taken from whom: from each who is known, and from each address for those who are not.
//!
//! Each server counts by itself, in memory. What was not heard of for as long as its limit remembers is forgotten.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use astraforge_core::id::{ApiKeyId, UserId};
use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header::RETRY_AFTER, request::Parts},
    response::{IntoResponse, Response},
};
use governor::{
    Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
    middleware::StateInformationMiddleware,
    state::keyed::HashMapStateStore,
};

use super::{
    caller::{Identity, Proof},
    error::ApiError,
};

mod address;

use self::address::Network;
pub use self::address::{NotANetwork, TrustedProxies};

/// How much of its limit a caller has left.
pub(super) const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
/// What its limit is.
pub(super) const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// How many callers or addresses are told apart; those beyond share a limit.
const TOLD_APART: usize = 100_000;
/// How often what is idle is forgotten.
const CLEANING: Duration = Duration::from_secs(60);
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
    pub(super) fn admit(&self, parts: &Parts, credentials: Option<&str>) -> Result<(), Response> {
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
    ) -> Result<Option<Standing>, Response> {
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

/// What is left of a limit, as it is told with an answer.
#[derive(Debug, Clone)]
pub(super) struct Standing {
    policy: String,
    name: &'static str,
    remaining: u32,
    /// In how many seconds there is more.
    reset: u64,
}

impl Standing {
    /// Tells it in headers, as drafted by the IETF (`draft-ietf-httpapi-ratelimit-headers`).
    pub(super) fn tell(&self, headers: &mut HeaderMap) {
        let Self { policy, name, remaining, reset } = self;
        for (header, value) in
            [(RATE_LIMIT_POLICY, policy.clone()), (RATE_LIMIT, format!("\"{name}\";r={remaining};t={reset}"))]
        {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(header, value);
            }
        }
    }
}

/// Counts calls of each of many.
struct Limiter<K: Hash + Eq + Clone> {
    name: &'static str,
    rate: Rate,
    refusal: &'static str,
    clock: DefaultClock,
    /// `None` stands for all who are too many to be told apart.
    buckets: RateLimiter<Option<K>, HashMapStateStore<Option<K>>, DefaultClock, StateInformationMiddleware>,
    /// Until when those wait who were refused.
    waiting: Mutex<HashMap<K, Instant>>,
    cleaned: Mutex<Instant>,
}

impl<K: Hash + Eq + Clone> Limiter<K> {
    fn new(name: &'static str, rate: Rate, refusal: &'static str) -> Self {
        let quota = Quota::per_minute(rate.per_minute).allow_burst(rate.burst);
        let clock = DefaultClock::default();
        let buckets = RateLimiter::new(quota, HashMapStateStore::default(), clock.clone());
        let (waiting, cleaned) = (Mutex::default(), Mutex::new(Instant::now()));
        Self { name, rate, refusal, clock, buckets, waiting, cleaned }
    }

    /// Answers a call of somebody who was refused and has not waited; counts nothing.
    fn check(&self, key: K) -> Result<(), Response> {
        let until = self.waiting().get(&key).copied();
        let left = until.and_then(|until| until.checked_duration_since(Instant::now()));
        left.map_or(Ok(()), |left| Err(self.refuse(left)))
    }

    /// Counts a call, or answers it.
    fn count(&self, key: K) -> Result<Standing, Response> {
        self.forget_idle();
        let told_apart = Some(key).filter(|_| self.buckets.len() < TOLD_APART);
        match self.buckets.check_key(&told_apart) {
            Ok(state) => {
                let remaining = state.remaining_burst_capacity();
                let missing = self.rate.burst.get().saturating_sub(remaining);
                Ok(self.standing(remaining, self.seconds_for(missing)))
            }
            Err(refused) => {
                let wait = refused.wait_time_from(self.clock.now());
                if let Some(key) = told_apart {
                    self.waiting().insert(key, Instant::now() + wait);
                }
                Err(self.refuse(wait))
            }
        }
    }

    fn standing(&self, remaining: u32, reset: u64) -> Standing {
        let burst = self.rate.burst.get();
        let policy = format!("\"{}\";q={burst};w={}", self.name, self.seconds_for(burst));
        Standing { policy, name: self.name, remaining, reset }
    }

    /// How long it takes until so many more calls are taken.
    fn seconds_for(&self, n_calls: u32) -> u64 {
        (u64::from(n_calls) * 60).div_ceil(u64::from(self.rate.per_minute.get()))
    }

    fn refuse(&self, wait: Duration) -> Response {
        let wait = wait.as_secs() + 1;
        let detail = format!("{}; try again in {wait} s.", self.refusal);
        let refusal = ApiError::new(StatusCode::TOO_MANY_REQUESTS, detail).with_code("rate_limited");
        let mut response = refusal.into_response();
        self.standing(0, wait).tell(response.headers_mut());
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(wait));
        response
    }

    /// Forgets those who have all of their limit again, once in a while, or when there are too many.
    fn forget_idle(&self) {
        let mut cleaned = self.cleaned.lock().unwrap_or_else(PoisonError::into_inner);
        let since = cleaned.elapsed();
        let is_full = self.buckets.len() >= TOLD_APART && since > Duration::from_secs(1);
        if since >= CLEANING || is_full {
            *cleaned = Instant::now();
            drop(cleaned);
            self.buckets.retain_recent();
            self.buckets.shrink_to_fit();
            self.waiting().retain(|_, until| *until > Instant::now());
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<K, Instant>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq + Clone> fmt::Debug for Limiter<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiter").field("name", &self.name).field("rate", &self.rate).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(per_minute: u32, burst: u32) -> Limiter<u32> {
        let number = |n| NonZeroU32::new(n).unwrap();
        Limiter::new("calls", Rate { per_minute: number(per_minute), burst: number(burst) }, "Too many")
    }

    #[test]
    fn each_has_its_own_limit_and_is_told_what_is_left() {
        let limiter = limiter(6, 3);
        let left: Vec<u32> = (0..3).map(|_| limiter.count(1).unwrap().remaining).collect();
        assert_eq!(left, [2, 1, 0]);
        assert_eq!(limiter.count(2).unwrap().remaining, 2);
        let refused = limiter.count(1).unwrap_err();
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
        let header = |name: &str| refused.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("ratelimit-policy"), "\"calls\";q=3;w=30");
        let wait: u64 = header("retry-after").parse().unwrap();
        assert!((9..=10).contains(&wait), "{wait}");
        assert_eq!(header("ratelimit"), format!("\"calls\";r=0;t={wait}"));
    }

    #[test]
    fn those_who_are_idle_are_forgotten() {
        // A call is earned anew in a millisecond.
        let limiter = limiter(60_000, 1);
        for n in 0..50 {
            limiter.count(n).unwrap();
        }
        assert!(limiter.buckets.len() >= 50);
        std::thread::sleep(Duration::from_millis(20));
        *limiter.cleaned.lock().unwrap() = Instant::now() - CLEANING;
        limiter.count(99).unwrap();
        assert_eq!(limiter.buckets.len(), 1);
    }

    #[test]
    fn too_many_to_be_told_apart_share_a_limit() {
        let limiter = limiter(1, 2);
        for n in 0..TOLD_APART as u32 {
            limiter.count(n).unwrap();
        }
        let taken = (0..10).filter(|n| limiter.count(1_000_000 + n).is_ok()).count();
        assert_eq!(taken, 2);
        assert_eq!(limiter.buckets.len(), TOLD_APART + 1);
    }
}
