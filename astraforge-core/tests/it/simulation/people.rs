//! What people do at random moments: ask, follow up, approve, cancel.

use astraforge_core::{
    access::Role,
    command::{ApproveChange, CancelRun, CancelTarget, ChatReview, ExecuteRequest, Start, SubmitRequest},
    error::ForgeError,
    forge::Forge,
    id::RequestId,
    testing::samples,
};

use super::{outside::Outside, story::Follow};

/// Submits a request, again until it is accepted, and then meddles with it.
pub(super) async fn meddle(forge: Forge, outside: Outside, id: RequestId, follow: Follow) {
    let (world, who) = (&outside.world, outside.who);
    world.wait(0, 10_000).await;
    while let Err(error) = submit(&forge, &outside, id).await {
        assert!(error.is_retryable(), "{error}");
        world.wait(100, 3000).await;
    }
    for _ in 0..follow.n_acts {
        world.wait(0, 20_000).await;
        let (what, result) = act(&forge, &outside, id).await;
        world.note(|| format!("{who:?} {what}: {}", if result.is_ok() { "done" } else { "refused" }));
    }
}

async fn submit(forge: &Forge, outside: &Outside, id: RequestId) -> Result<(), ForgeError> {
    let submission = SubmitRequest {
        caller: samples::caller("ada", Role::Maintainer),
        id: Some(id),
        prompt: "Cache the loader results".parse().unwrap(),
        repository: outside.world.link.id,
        source: "direct_user".to_owned(),
        sender: String::new(),
        attachments: Vec::new(),
        start: Start::Now,
    };
    forge.submit(submission).await.map(drop)
}

/// Does one thing, whether or not it fits; what does not is refused.
async fn act(forge: &Forge, outside: &Outside, request: RequestId) -> (&'static str, Result<(), ForgeError>) {
    let caller = samples::caller("ada", Role::Maintainer);
    match outside.world.chance.number(0, 99) {
        0..45 => {
            for _ in 0..40 {
                if outside.world.is_patch_ready(request).await {
                    break;
                }
                outside.world.wait(500, 3000).await;
            }
            let command = ApproveChange { caller, request, digest: None };
            ("approves", forge.approve(command).await.map(drop))
        }
        45..70 => {
            let message = "And one more thing".parse().unwrap();
            ("follows up", forge.chat(ChatReview { caller, request, message }).await.map(drop))
        }
        70..80 => ("executes", forge.execute(ExecuteRequest { caller, request, prompt: None }).await.map(drop)),
        80..92 => {
            let target = CancelTarget::Request(request);
            ("cancels the request", forge.cancel(CancelRun { caller, target }).await.map(drop))
        }
        _ => {
            let runs = outside.world.runs_of(request).await;
            let Some(run) = runs.last() else { return ("waits", Ok(())) };
            let target = CancelTarget::Run(run.id);
            ("cancels a run", forge.cancel(CancelRun { caller, target }).await.map(drop))
        }
    }
}
