//! A server that dies or stops: after a restart its run begins anew, and its sandbox is gone.

use std::{collections::BTreeSet, path::Path, time::Duration};

use astraforge_core::{event::EventKind, id::RequestId, request::RequestState, run::RunStatus};
use astraforge_http::{
    Client,
    wire::{repository_link::NewRepositoryLink, request::NewRequest},
};

use crate::world::{World, git, last_run, one_command, say, shell, step, text};

#[tokio::test]
async fn a_run_begins_anew_when_the_server_is_back_that_was_killed_in_its_middle() {
    check_begins_anew(World::kill, "its worker is gone").await;
}

#[tokio::test]
async fn a_run_begins_anew_when_the_server_is_back_that_was_told_to_stop_in_its_middle() {
    check_begins_anew(World::stop, "The server was stopped").await;
}

/// Has a server end in the middle of a run, and looks what another one makes of that.
async fn check_begins_anew(end: fn(&mut World), told: &str) {
    let mut world = World::new(one_command("echo $$ >> made; sleep 3"));
    let request = world.submit("Take your time").await;
    while !text(&world.events_so_far(request).await).contains("sleep 3") {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    end(&mut world);
    world.start();
    let found = world.finished(request).await;
    assert_eq!((found.state, last_run(&found).status), (RequestState::PatchReady, RunStatus::Completed));
    let log = text(&world.log(request).await);
    assert!(log.contains(told), "{log}");
    assert_eq!(log.matches("Starting Codex CLI session").count(), 2, "{log}");
    let diff = world.client().diff(request).await.unwrap();
    assert_eq!(diff.files[0].added, Some(1), "the first attempt left nothing: {}", diff.diff);
    world.assert_no_sandbox();
}

#[tokio::test]
async fn what_waited_for_approval_can_be_approved_after_a_crash() {
    let mut world = World::new(one_command("echo made > made"));
    let request = world.patch_ready("Make it").await.id;
    world.kill();
    world.start();
    let digest = world.client().diff(request).await.unwrap().digest;
    world.client().approve(request, Some(digest)).await.unwrap();
    world.reviewed(request).await;
}

#[tokio::test]
async fn nothing_is_lost_or_left_by_a_server_that_is_killed_again_and_again() {
    play_crashes(3).await;
}

#[tokio::test]
#[ignore = "takes several minutes; run by hand, with -- --ignored soak"]
async fn soak_nothing_is_lost_or_left_by_a_server_that_is_killed_sixty_times() {
    play_crashes(60).await;
}

/// Uses a server, and kills it at a moment of chance; so many times. What was accepted must hold in the end.
async fn play_crashes(n_rounds: u64) {
    let mut world = World::new(vec![
        step(0, shell("echo $$ >> made; sleep 0.3; echo more >> made")),
        step(1, say("Done.")),
        step(2, say("Done again.")),
    ]);
    let link = world.client().link_repository(&NewRepositoryLink::new("local", "demo")).await.unwrap().id;
    let mut chance = Chance::new();
    let mut accepted = BTreeSet::new();
    for round in 0..n_rounds {
        let (client, roll) = (world.client(), chance.next());
        let mut used = Vec::new();
        let using = async {
            for n in 0.. {
                let prompt = format!("Round {round}, request {n}").parse().unwrap();
                let Ok(request) = client.submit(&NewRequest::new(link, prompt)).await else { break };
                used.push(request.id);
                move_on(&client, roll.wrapping_add(n)).await;
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        };
        _ = tokio::time::timeout(Duration::from_millis(chance.next() % 3_000), using).await;
        world.kill();
        accepted.extend(used);
        if chance.next().is_multiple_of(3) {
            world.start_and_kill(Duration::from_millis(chance.next() % 400));
        }
        world.start();
    }
    settle(&world, accepted.len()).await;
    check_requests(&world, &accepted).await;
    check_published(&world).await;
    check_nothing_left(&world, &accepted).await;
}

/// Does to every request what a person could do next.
pub(crate) async fn move_on(client: &Client, roll: u64) {
    for (request, roll) in client.requests().await.unwrap_or_default().into_iter().zip(roll..) {
        // What is refused, or not answered any more, was not accepted either.
        match (request.state, roll % 4) {
            (RequestState::PatchReady, 0 | 1) => _ = client.approve(request.id, None).await,
            (RequestState::Reviewed | RequestState::Failed, 0) => {
                _ = client.chat(request.id, "Go on".parse().unwrap()).await;
            }
            (RequestState::Executing | RequestState::PatchReady, 2) => _ = client.cancel_request(request.id).await,
            _ => {}
        }
    }
}

/// Waits until nothing is at work.
pub(crate) async fn settle(world: &World, n_requests: usize) {
    let open = |state| matches!(state, RequestState::Received | RequestState::Executing | RequestState::MrOpened);
    let mut left = Vec::new();
    for _ in 0..(200 + 40 * n_requests) {
        let requests = world.client().requests().await.unwrap();
        let runs = world.client().runs().await.unwrap();
        left = requests.into_iter().filter(|request| open(request.state)).map(|request| request.id).collect();
        if left.is_empty() && runs.iter().all(|run| run.status.is_over()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("stuck: {left:?}\n{}", world.server_log());
}

pub(crate) async fn check_requests(world: &World, accepted: &BTreeSet<RequestId>) {
    let listed: BTreeSet<_> = world.client().requests().await.unwrap().iter().map(|request| request.id).collect();
    assert!(accepted.is_subset(&listed), "lost: {:?}", accepted.difference(&listed));
    for id in &listed {
        let log = world.log(*id).await;
        assert!(log.iter().zip(1..).all(|(event, seq)| event.seq == seq), "{id}: a gap in {log:?}");
        let request = world.client().request(*id).await.unwrap();
        for run in request.metadata.runs.unwrap() {
            let ends = log.iter().filter(|event| event.run_id == Some(run.id) && event.kind.ends_run()).count();
            assert_eq!((ends, run.status.is_over()), (1, true), "{id}, run {}: {log:?}", run.id);
        }
    }
}

/// What is published is what somebody approved, and what is opened is published.
pub(crate) async fn check_published(world: &World) {
    let refs = git(&world.bare("demo"), &["for-each-ref", "--format=%(refname:lstrip=2) %(objectname)"]);
    let opened = world.client().merge_requests().await.unwrap();
    for (branch, commit) in refs.lines().filter_map(|line| line.split_once(' ')) {
        let Some(id) = branch.strip_prefix("astraforge/") else { continue };
        let log = world.log(id.parse().unwrap()).await;
        let told = |words: &str| {
            log.iter().any(|e| matches!(&e.kind, EventKind::Status { message, .. } if message.contains(words)))
        };
        assert!(told(" approved sha256:") && told(&format!("Publishing {commit}")), "{branch} {commit}: {log:?}");
        let n_opened = opened.iter().filter(|mr| mr.source_branch == branch).count();
        assert_eq!(n_opened, 1, "{branch}: {log:?}");
    }
    for merge_request in opened {
        assert!(refs.contains(&format!("{} ", merge_request.source_branch)), "{}", merge_request.source_branch);
    }
}

async fn check_nothing_left(world: &World, accepted: &BTreeSet<RequestId>) {
    world.assert_no_sandbox();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(world.scratch.path().to_str().unwrap()), "{mounts}");
    let mut sandboxes = Vec::new();
    for id in accepted {
        let text = text(&world.log(*id).await);
        let made = text.lines().filter_map(|line| line.strip_prefix("Provisioned workspace ")).map(str::to_owned);
        sandboxes.extend(made);
    }
    let left: Vec<_> = files_below(Path::new("/sys/fs/cgroup"), &|name| sandboxes.iter().any(|id| name.contains(id)));
    assert!(left.is_empty(), "{left:?}");
    let unfinished = |name: &str| [".tmp-", "tmp-", "tmp_"].iter().any(|begin| name.starts_with(begin));
    let left = files_below(&world.path("data"), &unfinished);
    assert!(left.is_empty(), "{left:?}");
}

/// The files and folders below a folder whose name is one of these.
pub(crate) fn files_below(folder: &Path, wanted: &dyn Fn(&str) -> bool) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if wanted(&entry.file_name().to_string_lossy()) {
            found.push(entry.path());
        } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(files_below(&entry.path(), wanted));
        }
    }
    found
}

/// Numbers of chance.
pub(crate) struct Chance(u64);

impl Chance {
    fn new() -> Self {
        let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
        Self::of(u64::try_from(seed % u128::from(u64::MAX)).unwrap())
    }

    /// The numbers of a seed.
    pub(crate) fn of(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number (xorshift).
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }
}
