//! Calls that are sent again: until the server answers, and until it has had fewer of them.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderName, StatusCode};
use reqwest::RequestBuilder;
use tokio::time::sleep;
use uuid::Uuid;

use super::{ClientError, TRIES};

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// What the server says of a call whose earlier try it is still at.
const AT_WORK: &str = "idempotency_call_at_work";
/// How long is waited before another try.
const PAUSE: Duration = Duration::from_millis(200);
/// How long is waited before the answer of an earlier try is asked for again, at first and at most.
const LOOK: Duration = Duration::from_secs(1);
const LONGEST_LOOK: Duration = Duration::from_secs(5);
/// How long is waited when the server has had too many calls: at least, at most, and unless it says how long.
const SHORTEST_HOLD: Duration = Duration::from_secs(1);
const LONGEST_HOLD: Duration = Duration::from_secs(60);
const USUAL_HOLD: Duration = Duration::from_secs(5);
/// How long one call is held up so in all.
const ALL_HOLDS: Duration = Duration::from_secs(120);

/// Sends a call that changes something under a key of its own, and reads the body of its answer.
///
/// A try that was not answered, or by a proxy with 502, 503 or 504, or with the word that nothing was begun, is followed by
/// another, by which the server knows that it is the same call; a failure that the server tells of itself is not, since
/// something may have been done. An earlier try that is still at work is waited for, for as long as `patience`. Too many
/// calls are waited out for two minutes at most, and count as no try.
///
/// A call whose body comes as a stream is sent once, and without a key, for which the server would read it into memory.
pub(super) async fn once(call: RequestBuilder, patience: Duration) -> Result<Bytes, ClientError> {
    if call.try_clone().is_none() {
        return sent(call).await;
    }
    let call = call.header(KEY, Uuid::new_v4().to_string());
    let (began, mut tries) = (Instant::now(), Tries::new(patience));
    while let Some(again) = call.try_clone() {
        match sent(again).await {
            Err(error) => match tries.pause_after(&error, began.elapsed()) {
                Some(pause) => sleep(pause).await,
                None => return Err(error),
            },
            answered => return answered,
        }
    }
    sent(call).await
}

async fn sent(call: RequestBuilder) -> Result<Bytes, ClientError> {
    let response = call.send().await.map_err(ClientError::transport("reach"))?;
    if !response.status().is_success() {
        return Err(ClientError::refused(response).await);
    }
    response.bytes().await.map_err(ClientError::transport("read the answer of"))
}

/// What was tried of one call so far.
#[derive(Debug)]
struct Tries {
    patience: Duration,
    n_tries: u32,
    pause: Duration,
    look: Duration,
    held_up: HeldUp,
}

impl Tries {
    fn new(patience: Duration) -> Self {
        Self { patience, n_tries: 1, pause: PAUSE, look: LOOK, held_up: HeldUp::for_at_most(patience) }
    }

    /// How long to wait before the call is sent again, so long after it was sent first; `None` when it is not.
    fn pause_after(&mut self, error: &ClientError, elapsed: Duration) -> Option<Duration> {
        if error.code() == Some(AT_WORK) {
            let look = self.look;
            self.look = (look * 2).min(LONGEST_LOOK);
            return (elapsed < self.patience).then_some(look);
        }
        if let Some(pause) = self.held_up.pause_after(error) {
            return Some(pause);
        }
        if !error.has_begun_nothing() || self.n_tries >= TRIES {
            return None;
        }
        self.n_tries += 1;
        let pause = jittered(self.pause);
        self.pause *= 2;
        // A proxy may ask for more than anybody wants to wait.
        Some(error.retry_after().map_or(pause, |asked| pause.max(asked.min(LONGEST_LOOK))))
    }
}

/// How long somebody was held up by a server that had too many calls.
#[derive(Debug)]
pub(super) struct HeldUp {
    so_far: Duration,
    at_most: Duration,
}

impl Default for HeldUp {
    fn default() -> Self {
        Self::for_at_most(ALL_HOLDS)
    }
}

impl HeldUp {
    fn for_at_most(patience: Duration) -> Self {
        Self { so_far: Duration::ZERO, at_most: patience.min(ALL_HOLDS) }
    }

    /// Waits for as long as the server asks that had too many calls. Gives any other error back, and one of a server that
    /// was waited for long enough.
    pub(super) async fn wait_out(&mut self, error: ClientError) -> Result<(), ClientError> {
        let Some(pause) = self.pause_after(&error) else { return Err(error) };
        sleep(pause).await;
        Ok(())
    }

    fn pause_after(&mut self, error: &ClientError) -> Option<Duration> {
        if error.status() != Some(StatusCode::TOO_MANY_REQUESTS) {
            return None;
        }
        let pause = error.retry_after().unwrap_or(USUAL_HOLD).clamp(SHORTEST_HOLD, LONGEST_HOLD);
        self.so_far = self.so_far.saturating_add(pause);
        (self.so_far <= self.at_most).then_some(pause)
    }
}

/// Between half of a pause and all of it, so that those who were cut off together do not come back together.
fn jittered(pause: Duration) -> Duration {
    let [byte, ..] = Uuid::new_v4().into_bytes();
    pause.mul_f64(0.5 + f64::from(byte) / 512.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn refusal(status: StatusCode, retry_after: Option<u64>, body: &str) -> ClientError {
        ClientError::from_body(status, retry_after.map(seconds), body.as_bytes())
    }

    #[test]
    fn pauses_differ_and_are_bounded() {
        let pauses: Vec<_> = (0..100).map(|_| jittered(PAUSE)).collect();
        assert!(pauses.iter().all(|pause| (PAUSE / 2..PAUSE).contains(pause)));
        assert!(pauses.iter().any(|pause| *pause != pauses[0]));
    }

    #[test]
    fn a_call_that_is_at_work_is_asked_for_less_and_less_often() {
        let at_work = refusal(StatusCode::CONFLICT, Some(1), r#"{"detail":"Wait.","code":"idempotency_call_at_work"}"#);
        let mut tries = Tries::new(seconds(60));
        let looks: Vec<_> = (0..5).map(|_| tries.pause_after(&at_work, seconds(59)).unwrap().as_secs()).collect();
        assert_eq!(looks, [1, 2, 4, 5, 5]);
        assert_eq!(tries.pause_after(&at_work, seconds(60)), None);
    }

    #[test]
    fn a_proxy_without_its_server_is_asked_a_few_times() {
        let away = refusal(StatusCode::BAD_GATEWAY, Some(3600), "<html>");
        let mut tries = Tries::new(Duration::MAX);
        for _ in 1..TRIES {
            assert_eq!(tries.pause_after(&away, Duration::ZERO), Some(LONGEST_LOOK));
        }
        assert_eq!(tries.pause_after(&away, Duration::ZERO), None);
    }

    #[test]
    fn too_many_calls_are_waited_out_and_count_as_no_try() {
        let too_many = |retry_after| refusal(StatusCode::TOO_MANY_REQUESTS, retry_after, r#"{"detail":"Slow down."}"#);
        let mut tries = Tries::new(Duration::MAX);
        for (told, pause) in [(Some(0), 1), (Some(7), 7), (None, 5), (Some(3600), 60)] {
            assert_eq!(tries.pause_after(&too_many(told), Duration::ZERO), Some(seconds(pause)));
        }
        assert_eq!(tries.n_tries, 1);
        assert_eq!(tries.pause_after(&too_many(Some(60)), Duration::ZERO), None, "that is more than two minutes");
        let mut hasty = Tries::new(seconds(10));
        assert_eq!(hasty.pause_after(&too_many(Some(11)), Duration::ZERO), None);
    }
}
