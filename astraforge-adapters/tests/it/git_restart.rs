//! A server that restarts, and one that starts on another machine with the bundle only.

#![expect(clippy::unwrap_used, reason = "a failing test is what these are for")]

use astraforge_core::{
    ports::git::{GitBroker as _, GitError},
    request::change_set::Change,
};

use crate::git_world::{WORK, World};

async fn pushed() -> (World, Change) {
    let world = World::new().await;
    world.published().await;
    let (base, _server) = world.workspace().await;
    world.write("work/x", "x\n");
    let change = world.pushed_change(&base).await;
    (world, change)
}

fn lose_the_quarantine(world: &mut World) {
    std::fs::remove_dir_all(world.path("quarantine")).unwrap();
    world.restart(|config| config);
}

#[tokio::test]
async fn a_restarted_server_finds_the_work() {
    let (mut world, change) = pushed().await;
    world.restart(|config| config);
    assert_eq!(world.mirror_after(&change).await.work_head, Some(change.head_commit));
}

#[tokio::test]
async fn the_work_is_brought_back_from_its_bundle() {
    let (mut world, change) = pushed().await;
    let head = change.head_commit.clone();
    lose_the_quarantine(&mut world);
    let base = world.mirror_after(&change).await;
    assert_eq!(base.work_head.as_ref(), Some(&head));
    let server = world.serve().await;
    world.git(".", &["clone", "-q", "-b", WORK, &server.url(), "again"]).await;
    assert_eq!(world.git("again", &["rev-parse", "HEAD"]).await, head);
    assert_eq!(world.change(&base).await.unwrap().unwrap().head_commit, head);
    let left = std::fs::read_dir(world.path("quarantine")).unwrap().count();
    assert_eq!(left, 1, "no temporary file stays");
}

#[tokio::test]
async fn the_work_is_brought_back_when_the_base_was_rewound() {
    let (mut world, change) = pushed().await;
    lose_the_quarantine(&mut world);
    world.git("source", &["commit", "-q", "--amend", "-m", "another start"]).await;
    let base = world.mirror_after(&change).await;
    assert_eq!(base.work_head, Some(change.head_commit), "the old base is still an object there");
}

#[tokio::test]
async fn work_whose_base_is_gone_for_good_is_told_and_not_lost_in_silence() {
    let (mut world, change) = pushed().await;
    lose_the_quarantine(&mut world);
    std::fs::remove_dir_all(world.path("source")).unwrap();
    world.git(".", &["init", "-q", "-b", "main", "source"]).await;
    world.write("source/README.md", "another\n");
    world.commit("source", "another history").await;
    match world.broker.mirror(world.request, &world.remote(), None, Some(&change)).await {
        Err(GitError::Refused { reason }) => assert!(reason.contains("no longer has"), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_approved_commit_is_published_from_its_bundle() {
    let (mut world, change) = pushed().await;
    let head = change.head_commit;
    lose_the_quarantine(&mut world);
    world.publish(&head).await.unwrap();
    assert_eq!(world.git("published.git", &["rev-parse", WORK]).await, head);
}

#[tokio::test]
async fn a_second_run_builds_on_the_first() {
    let (mut world, first) = pushed().await;
    lose_the_quarantine(&mut world);
    let base = world.mirror_after(&first).await;
    let _server = world.serve().await;
    std::fs::remove_dir_all(world.path("work")).unwrap();
    world.git(".", &["clone", "-q", "-b", WORK, &_server.url(), "work"]).await;
    world.write("work/y", "y\n");
    let change = world.pushed_change(&base).await;
    assert_eq!(change.files.len(), 2, "both runs' files, against the base");
    assert_ne!(change.head_commit, first.head_commit);
}

#[tokio::test]
async fn what_is_kept_outlives_its_quarantine() {
    let (world, change) = pushed().await;
    world.broker.discard(world.request).await.unwrap();
    assert!(!world.quarantine().exists() && world.bundle(&change).exists());
    assert_eq!(world.mirror_after(&change).await.work_head, Some(change.head_commit));
}

#[tokio::test]
async fn what_a_failed_run_pushed_is_gone_for_the_next() {
    let (world, change) = pushed().await;
    let server = world.serve().await;
    world.git("work", &["remote", "set-url", "origin", &server.url()]).await;
    world.write("work/failed", "x\n");
    let failed = world.push().await;
    assert_eq!(world.mirror_after(&change).await.work_head, Some(change.head_commit.clone()));
    assert_eq!(
        world.git("work", &["ls-remote", "origin", WORK]).await,
        format!("{}\trefs/heads/{WORK}", change.head_commit)
    );
    assert_eq!(world.mirror().await.work_head, None, "no run came to its end");
    assert_eq!(world.git("work", &["ls-remote", "origin", WORK]).await, "", "{failed}");
}

/// Two servers with quarantines of their own, as the runs of one request may be done by either.
#[tokio::test]
async fn runs_on_two_servers_in_turn_go_on_from_each_other() {
    let (mut world, first) = pushed().await;
    let here = world.path("quarantine");
    let there = world.path("quarantine-there");
    let mut standing = first.clone();
    for n in 1..=3 {
        std::fs::rename(&here, world.path("parked")).unwrap();
        if there.exists() {
            std::fs::rename(&there, &here).unwrap();
        }
        std::fs::rename(world.path("parked"), &there).unwrap();
        world.restart(|config| config);
        let base = world.mirror_after(&standing).await;
        assert_eq!(base.work_head.as_ref(), Some(&standing.head_commit), "run {n}");
        let server = world.serve().await;
        std::fs::remove_dir_all(world.path("work")).unwrap();
        world.git(".", &["clone", "-q", "-b", WORK, &server.url(), "work"]).await;
        world.write(&format!("work/file-{n}"), "x\n");
        standing = world.pushed_change(&base).await;
        assert_eq!(standing.files.len(), n + 1, "the files of all runs");
    }
    world.publish(&first.head_commit).await.unwrap();
    world.publish(&standing.head_commit).await.unwrap();
}

#[tokio::test]
async fn a_commit_that_is_neither_here_nor_kept_is_told() {
    let (mut world, change) = pushed().await;
    lose_the_quarantine(&mut world);
    std::fs::remove_file(world.bundle(&change)).unwrap();
    match world.broker.mirror(world.request, &world.remote(), None, Some(&change)).await {
        Err(GitError::Refused { reason }) => assert!(reason.contains("is lost"), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_approved_commit_is_kept_when_the_agent_rewrites_it_afterwards() {
    let (mut world, change) = pushed().await;
    let head = change.head_commit;
    let _server = world.serve().await;
    world.git("work", &["commit", "-q", "--amend", "-m", "rewritten"]).await;
    world.git("work", &["push", "-q", "--force", &_server.url(), WORK]).await;
    world.publish(&head).await.unwrap();
    std::fs::remove_dir_all(world.path("published.git")).unwrap();
    world.published().await;
    lose_the_quarantine(&mut world);
    world.publish(&head).await.unwrap();
    assert_eq!(world.git("published.git", &["rev-parse", WORK]).await, head);
}

#[tokio::test]
async fn what_a_killed_server_left_half_done_is_swept() {
    let (mut world, change) = pushed().await;
    let bare = format!("quarantine/{}.git", world.request);
    let left = ["quarantine/tmp-bundle-1", "quarantine/tmp-repository-1/HEAD"].map(str::to_owned);
    let left = [
        left.to_vec(),
        vec![format!("{bare}/objects/tmp_objdir-incoming-x/a"), format!("{bare}/objects/pack/tmp_pack_x")],
    ]
    .concat();
    for name in &left {
        world.write(name, "x");
    }
    world.broker.sweep().await.unwrap();
    assert!(left.iter().all(|name| world.path(name).exists()), "what is young may be in use");
    world.restart(|config| config.with_timeout(std::time::Duration::ZERO));
    world.broker.sweep().await.unwrap();
    assert!(!left.iter().any(|name| world.path(name).exists()));
    world.restart(|config| config);
    assert_eq!(world.mirror_after(&change).await.work_head, Some(change.head_commit));
}

#[tokio::test]
async fn the_work_branch_is_never_taken_for_a_base() {
    let (world, change) = pushed().await;
    world.git("source", &["branch", WORK]).await;
    match world.broker.mirror(world.request, &world.remote(), Some(WORK), Some(&change)).await {
        Err(GitError::Refused { reason }) => assert!(reason.contains("holds the work"), "{reason}"),
        other => panic!("{other:?}"),
    }
    let base = world.mirror_after(&change).await;
    assert_eq!(base.work_head, Some(change.head_commit), "the work is untouched");
}
