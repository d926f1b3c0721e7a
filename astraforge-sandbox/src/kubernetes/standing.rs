//! What a pod's status means to whoever waits for it. Pure.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod, PodStatus};

/// Where a pod stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// All its containers run.
    Ready,
    /// It is on its way; what for.
    Waiting(String),
    /// No node has room for it now.
    Unschedulable(String),
    /// It will never run, whatever is waited for; why, and what to do.
    Hopeless(String),
    /// It ran and has ended, or is being removed; how.
    Ended(String),
}

/// Reasons of waiting that do not go away by themselves, and what to do about each.
const HOPELESS: [(&str, &str); 8] = [
    ("ImagePullBackOff", "check the image's name, and that its registry lets the nodes in"),
    ("ErrImageNeverPull", "load the image onto the node, or let it be pulled"),
    ("InvalidImageName", "check the image's name"),
    ("ImageInspectError", "the node cannot read the image; pull or load it anew"),
    ("CreateContainerConfigError", "the image or the pod asks for something the node refuses"),
    ("CreateContainerError", "the node cannot make the container"),
    ("RunContainerError", "the image lacks what a sandbox starts with, or the node cannot run it"),
    ("CrashLoopBackOff", "look at the container's log"),
];

impl Standing {
    /// Reads it from the pod.
    pub(super) fn of(pod: &Pod) -> Self {
        if pod.metadata.deletion_timestamp.is_some() {
            return Self::Ended("it is being removed".to_owned());
        }
        let status = pod.status.clone().unwrap_or_default();
        match status.phase.as_deref() {
            Some("Succeeded" | "Failed") => Self::Ended(ending(&status)),
            Some("Running") if all_run(&status) => Self::Ready,
            Some("Unknown") => Self::Waiting("the pod's node does not answer".to_owned()),
            _ => hopeless(&status).or_else(|| unschedulable(&status)).unwrap_or_else(|| Self::Waiting(stage(&status))),
        }
    }
}

fn statuses(status: &PodStatus) -> impl Iterator<Item = &ContainerStatus> {
    status.init_container_statuses.iter().chain(&status.container_statuses).flatten()
}

fn all_run(status: &PodStatus) -> bool {
    let containers = status.container_statuses.as_deref().unwrap_or_default();
    !containers.is_empty() && containers.iter().all(|it| it.state.as_ref().is_some_and(|state| state.running.is_some()))
}

fn hopeless(status: &PodStatus) -> Option<Standing> {
    statuses(status).find_map(|container| {
        let state = container.state.as_ref()?;
        if let Some(waiting) = &state.waiting {
            let reason = waiting.reason.as_deref()?;
            let (_, remedy) = HOPELESS.iter().find(|(name, _)| *name == reason)?;
            let said = waiting.message.as_deref().unwrap_or("no more is said");
            return Some(Standing::Hopeless(format!("container `{}`: {reason}: {said}; {remedy}", container.name)));
        }
        exit_of(state).filter(|(code, _)| *code != 0).map(|(code, said)| {
            Standing::Hopeless(format!("container `{}` ended with exit code {code}{said}", container.name))
        })
    })
}

fn unschedulable(status: &PodStatus) -> Option<Standing> {
    let conditions = status.conditions.iter().flatten();
    let scheduled = conditions.into_iter().find(|it| it.type_ == "PodScheduled" && it.status == "False")?;
    (scheduled.reason.as_deref() == Some("Unschedulable"))
        .then(|| Standing::Unschedulable(scheduled.message.clone().unwrap_or_default()))
}

/// What it waits for, in the words of the first container that says something.
fn stage(status: &PodStatus) -> String {
    let waiting = statuses(status).find_map(|container| {
        let reason = container.state.as_ref()?.waiting.as_ref()?.reason.as_deref()?;
        Some(format!("container `{}`: {reason}", container.name))
    });
    waiting.unwrap_or_else(|| "no node has taken it up yet".to_owned())
}

fn ending(status: &PodStatus) -> String {
    let whole = [&status.reason, &status.message].into_iter().flatten().cloned().collect::<Vec<_>>().join(": ");
    if !whole.is_empty() {
        return whole;
    }
    let container = statuses(status).filter_map(|it| Some((&it.name, exit_of(it.state.as_ref()?)?))).last();
    container.map_or_else(
        || "it ended".to_owned(),
        |(name, (code, said))| format!("container `{name}` ended with exit code {code}{said}"),
    )
}

/// The exit code of a container that has ended, and what is known besides.
fn exit_of(state: &ContainerState) -> Option<(i32, String)> {
    let ended = state.terminated.as_ref()?;
    let said = [&ended.reason, &ended.message].into_iter().flatten().map(|it| format!(": {}", it.trim()));
    Some((ended.exit_code, said.collect()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn standing(status: Value) -> Standing {
        Standing::of(&serde_json::from_value(json!({ "metadata": {}, "status": status })).unwrap())
    }

    #[track_caller]
    fn check_hopeless(status: Value, expected: &str) {
        match standing(status) {
            Standing::Hopeless(reason) => assert!(reason.contains(expected), "{reason}"),
            other => panic!("expected no hope, not {other:?}"),
        }
    }

    fn waiting(reason: &str) -> Value {
        json!({ "phase": "Pending", "containerStatuses": [{
            "name": "codex", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": { "waiting": { "reason": reason, "message": "said so" } } }] })
    }

    #[test]
    fn what_never_goes_away_is_not_waited_for() {
        check_hopeless(waiting("ImagePullBackOff"), "ImagePullBackOff: said so; check the image's name");
        check_hopeless(waiting("CreateContainerConfigError"), "said so");
        let ended = json!({ "terminated": { "exitCode": 3, "message": "no space\n" } });
        let init =
            json!({ "name": "guest", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": ended });
        check_hopeless(json!({ "phase": "Pending", "initContainerStatuses": [init] }), "exit code 3: no space");
    }

    #[test]
    fn what_may_go_away_is_waited_for() {
        assert_eq!(
            standing(waiting("ContainerCreating")),
            Standing::Waiting("container `codex`: ContainerCreating".into())
        );
        assert_eq!(standing(waiting("ErrImagePull")), Standing::Waiting("container `codex`: ErrImagePull".into()));
        assert!(matches!(standing(json!({})), Standing::Waiting(_)));
        assert!(matches!(standing(json!({ "phase": "Running" })), Standing::Waiting(_)), "no container runs yet");
    }

    #[test]
    fn a_full_cluster_is_told_from_a_slow_one() {
        let condition =
            json!({ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes" });
        let status = json!({ "phase": "Pending", "conditions": [condition] });
        assert_eq!(standing(status), Standing::Unschedulable("0/1 nodes".into()));
    }

    #[test]
    fn a_pod_that_ended_says_how() {
        let evicted = json!({ "phase": "Failed", "reason": "Evicted", "message": "disk" });
        assert_eq!(standing(evicted), Standing::Ended("Evicted: disk".into()));
        let state = json!({ "terminated": { "exitCode": 137, "reason": "OOMKilled" } });
        let main =
            json!({ "name": "codex", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state });
        let oom = json!({ "phase": "Failed", "containerStatuses": [main] });
        assert_eq!(standing(oom), Standing::Ended("container `codex` ended with exit code 137: OOMKilled".into()));
    }
}
