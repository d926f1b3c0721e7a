//! Waiting for a pod to change, by watching it.

use std::time::Duration;

use futures::TryStreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::{WatchEvent, WatchParams},
};
use tokio::time::{Instant, timeout_at};

use super::{
    error::{ClusterError, code},
    standing::Standing,
};

/// How long one watch lasts; a server may end it sooner.
const WATCH_SECONDS: u32 = 120;
/// Between two attempts to watch where the first could not be begun.
const PAUSE: Duration = Duration::from_millis(200);

/// What was waited for in vain.
#[derive(Debug)]
pub(super) enum Failure {
    /// The pod is gone.
    Gone,
    /// It will not become what was waited for; why.
    Hopeless(String),
    /// It took too long; where it stood.
    TooLong(String),
    /// The API server refused.
    Cluster(ClusterError),
}

/// Waits until every container of the pod runs; `pod` is how it was seen last.
pub(super) async fn until_ready(
    pods: &Api<Pod>,
    pod: Pod,
    start: Duration,
    schedule: Duration,
) -> Result<Pod, Failure> {
    let began = Instant::now();
    let mut last = String::new();
    let judge = |pod: &Pod| match Standing::of(pod) {
        Standing::Ready => Verdict::Done,
        Standing::Waiting(what) => Verdict::Wait(what, began + start),
        Standing::Unschedulable(why) => {
            Verdict::Wait(format!("no node has room for it: {why}"), began + start.min(schedule))
        }
        Standing::Hopeless(why) | Standing::Ended(why) => Verdict::Failed(why),
    };
    match Box::pin(until(pods, pod, &mut last, judge)).await {
        Ok(Some(pod)) => Ok(pod),
        Ok(None) => Err(Failure::Gone),
        Err(failure) => Err(failure),
    }
}

/// Waits until the pod has ended, and returns it.
pub(super) async fn until_ended(pods: &Api<Pod>, pod: Pod, patience: Duration) -> Result<Pod, Failure> {
    let deadline = Instant::now() + patience;
    let judge = |pod: &Pod| match Standing::of(pod) {
        Standing::Ended(_) => Verdict::Done,
        Standing::Hopeless(why) => Verdict::Failed(why),
        standing => Verdict::Wait(format!("{standing:?}"), deadline),
    };
    match Box::pin(until(pods, pod, &mut String::new(), judge)).await {
        Ok(Some(pod)) => Ok(pod),
        Ok(None) => Err(Failure::Gone),
        Err(failure) => Err(failure),
    }
}

/// Waits until the pod is no longer there.
pub(super) async fn until_gone(pods: &Api<Pod>, pod: Pod, patience: Duration) -> Result<(), Failure> {
    let deadline = Instant::now() + patience;
    let uid = pod.uid();
    let judge = |pod: &Pod| {
        // Another pod of the same name is not the one that was to go.
        if pod.uid() == uid { Verdict::Wait("its node still ends it".to_owned(), deadline) } else { Verdict::Done }
    };
    Box::pin(until(pods, pod, &mut String::new(), judge)).await.map(drop)
}

enum Verdict {
    Done,
    Failed(String),
    /// What it waits for, and until when it may.
    Wait(String, Instant),
}

/// Follows the pod until `judge` is satisfied; `None` when it is gone.
///
/// A watch ends when the server likes. It is begun again from the last version seen; when the server has forgotten
/// that one, from the pod as it is now.
async fn until(
    pods: &Api<Pod>,
    mut pod: Pod,
    last: &mut String,
    judge: impl Fn(&Pod) -> Verdict,
) -> Result<Option<Pod>, Failure> {
    let name = pod.name_any();
    let params =
        WatchParams::default().fields(&format!("metadata.name={name}")).timeout(WATCH_SECONDS).disable_bookmarks();
    loop {
        let mut deadline = match judge(&pod) {
            Verdict::Done => return Ok(Some(pod)),
            Verdict::Failed(why) => return Err(Failure::Hopeless(why)),
            Verdict::Wait(what, deadline) => {
                *last = what;
                deadline
            }
        };
        let version = pod.resource_version().unwrap_or_default();
        let watch = async {
            let mut events = std::pin::pin!(pods.watch(&params, &version).await?);
            while let Some(event) = events.try_next().await? {
                match event {
                    WatchEvent::Added(next) | WatchEvent::Modified(next) => return Ok(Seen::Changed(Box::new(next))),
                    WatchEvent::Deleted(_) => return Ok(Seen::Gone),
                    WatchEvent::Error(status) if status.code == 410 => return Ok(Seen::Forgotten),
                    WatchEvent::Error(status) => return Err(kube::Error::Api(status)),
                    WatchEvent::Bookmark(_) => {}
                }
            }
            Ok(Seen::Nothing)
        };
        let seen = match timeout_at(deadline, watch).await {
            Ok(Ok(seen)) => seen,
            Ok(Err(error)) if code(&error) == Some(410) => Seen::Forgotten,
            Ok(Err(error)) if is_refusal(&error) => return Err(Failure::Cluster(error.into())),
            // The server is away, or restarts: what was begun may be there when it is back.
            Ok(Err(error)) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "a watch broke off");
                deadline = deadline.min(Instant::now() + PAUSE);
                tokio::time::sleep_until(deadline).await;
                Seen::Forgotten
            }
            Err(_) => return Err(Failure::TooLong(last.clone())),
        };
        match seen {
            Seen::Changed(next) => pod = *next,
            Seen::Gone => return Ok(None),
            Seen::Nothing => {}
            Seen::Forgotten => match timeout_at(deadline.max(Instant::now() + PAUSE), pods.get_opt(&name)).await {
                Ok(Ok(Some(now))) => pod = now,
                Ok(Ok(None)) => return Ok(None),
                Ok(Err(error)) if is_refusal(&error) => return Err(Failure::Cluster(error.into())),
                Ok(Err(_)) | Err(_) => {}
            },
        }
    }
}

enum Seen {
    Changed(Box<Pod>),
    Gone,
    /// The watch ended as watches do.
    Nothing,
    /// The server no longer knows the version.
    Forgotten,
}

/// Whether asking again would be answered alike.
fn is_refusal(error: &kube::Error) -> bool {
    matches!(code(error), Some(code) if (400..500).contains(&code) && code != 429 && code != 410)
}
