//! Counting the calls of each of many, and telling them what is left.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    http::{HeaderMap, HeaderValue, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use governor::{
    Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
    middleware::StateInformationMiddleware,
    state::keyed::HashMapStateStore,
};

use super::{super::error::ApiError, RATE_LIMIT, RATE_LIMIT_POLICY, Rate, TOLD_APART};

/// How often what is idle is forgotten.
const CLEANING: Duration = Duration::from_secs(60);

/// What is left of a limit, as it is told with an answer.
#[derive(Debug, Clone)]
pub(in crate::server) struct Standing {
    policy: String,
    name: &'static str,
    remaining: u32,
    /// In how many seconds there is more.
    reset: u64,
}

impl Standing {
    /// Tells it in headers, as drafted by the IETF (`draft-ietf-httpapi-ratelimit-headers`).
    pub(in crate::server) fn tell(&self, headers: &mut HeaderMap) {
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

/// Says to somebody who calls too often when to come back.
#[derive(Debug)]
pub(in crate::server) struct TooOften {
    detail: String,
    standing: Standing,
    /// In seconds.
    wait: u64,
}

impl IntoResponse for TooOften {
    fn into_response(self) -> Response {
        let refusal = ApiError::new(StatusCode::TOO_MANY_REQUESTS, self.detail).with_code("rate_limited");
        let mut response = refusal.into_response();
        self.standing.tell(response.headers_mut());
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(self.wait));
        response
    }
}

/// Counts calls of each of many.
pub(super) struct Limiter<K: Hash + Eq + Clone> {
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
    pub(super) fn new(name: &'static str, rate: Rate, refusal: &'static str) -> Self {
        let quota = Quota::per_minute(rate.per_minute).allow_burst(rate.burst);
        let clock = DefaultClock::default();
        let buckets = RateLimiter::new(quota, HashMapStateStore::default(), clock.clone());
        let (waiting, cleaned) = (Mutex::default(), Mutex::new(Instant::now()));
        Self { name, rate, refusal, clock, buckets, waiting, cleaned }
    }

    /// Answers a call of somebody who was refused and has not waited; counts nothing.
    pub(super) fn check(&self, key: K) -> Result<(), TooOften> {
        let until = self.waiting().get(&key).copied();
        let left = until.and_then(|until| until.checked_duration_since(Instant::now()));
        left.map_or(Ok(()), |left| Err(self.refuse(left)))
    }

    /// Counts a call, or answers it.
    pub(super) fn count(&self, key: K) -> Result<Standing, TooOften> {
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

    fn refuse(&self, wait: Duration) -> TooOften {
        let wait = wait.as_secs() + 1;
        let detail = format!("{}; try again in {wait} s.", self.refusal);
        TooOften { detail, standing: self.standing(0, wait), wait }
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
    use std::num::NonZeroU32;

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
        let refused = limiter.count(1).unwrap_err().into_response();
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
