//! Calls that change something: sent again until the server answers, and carried out once.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderName;
use reqwest::RequestBuilder;
use tokio::time::sleep;
use uuid::Uuid;

use super::{ClientError, TRIES};

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// What the server says of a call whose earlier try it is still at.
const AT_WORK: &str = "idempotency_call_at_work";
/// How long is waited before another try.
const PAUSE: Duration = Duration::from_millis(200);
/// How long is waited before the answer of an earlier try is asked for again.
const LOOK: Duration = Duration::from_millis(500);

/// Sends a call under a key of its own, and reads the body of its answer. A try that was not answered, or with 502, 503 or
/// 504, is followed by another, by which the server knows that it is the same call; an earlier try that is still at work is
/// waited for, for as long as `patience`.
pub(super) async fn once(call: RequestBuilder, patience: Duration) -> Result<Bytes, ClientError> {
    let call = call.header(KEY, Uuid::new_v4().to_string());
    let (began, mut n_tries, mut pause) = (Instant::now(), 1, PAUSE);
    // One whose body comes as a stream can be sent once only.
    while let Some(again) = call.try_clone() {
        match sent(again).await {
            Err(error) if error.code() == Some(AT_WORK) && began.elapsed() < patience => sleep(jittered(LOOK)).await,
            Err(error) if error.is_retryable() && n_tries < TRIES => {
                n_tries += 1;
                sleep(jittered(pause)).await;
                pause *= 2;
            }
            outcome => return outcome,
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

/// Between half of a pause and all of it, so that those who were cut off together do not come back together.
fn jittered(pause: Duration) -> Duration {
    let [byte, ..] = Uuid::new_v4().into_bytes();
    pause.mul_f64(0.5 + f64::from(byte) / 512.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_differ_and_are_bounded() {
        let pauses: Vec<_> = (0..100).map(|_| jittered(PAUSE)).collect();
        assert!(pauses.iter().all(|pause| (PAUSE / 2..PAUSE).contains(pause)));
        assert!(pauses.iter().any(|pause| *pause != pauses[0]));
    }
}
