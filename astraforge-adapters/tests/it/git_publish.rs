//! Publishing: once, twice, forward, and never over something else.

use astraforge_core::ports::git::{GitBroker as _, GitError};

use crate::git_world::{WORK, World};

async fn pushed() -> (World, String, crate::git_world::Server) {
    let world = World::new().await;
    world.published().await;
    let (base, server) = world.workspace().await;
    world.write("work/x", "x\n");
    let change = world.pushed_change(&base).await;
    (world, change.head_commit, server)
}

#[tokio::test]
async fn publishing_twice_is_the_same_as_once() {
    let (world, head, _server) = pushed().await;
    world.publish(&head).await.unwrap();
    world.publish(&head).await.unwrap();
    assert_eq!(
        world.git("published.git", &["for-each-ref", "--format=%(objectname) %(refname)"]).await,
        format!("{head} refs/heads/{WORK}")
    );
}

#[tokio::test]
async fn a_later_commit_moves_the_branch_forward() {
    let (world, head, _server) = pushed().await;
    world.publish(&head).await.unwrap();
    world.write("work/y", "y\n");
    let next = world.push().await;
    world.publish(&next).await.unwrap();
    assert_eq!(world.git("published.git", &["rev-parse", WORK]).await, next);
    let error = world.publish(&head).await.unwrap_err();
    assert!(matches!(error, GitError::Diverged { .. }), "never backwards: {error}");
}

#[tokio::test]
async fn a_rewritten_history_is_not_forced_over_what_was_published() {
    let (world, head, _server) = pushed().await;
    world.publish(&head).await.unwrap();
    world.git("work", &["commit", "-q", "--amend", "-m", "rewritten"]).await;
    world.git("work", &["push", "-q", "--force", "origin", WORK]).await;
    let rewritten = world.git("work", &["rev-parse", "HEAD"]).await;
    assert!(matches!(world.publish(&rewritten).await, Err(GitError::Diverged { .. })));
    assert_eq!(world.git("published.git", &["rev-parse", WORK]).await, head);
}

#[tokio::test]
async fn somebody_elses_branch_is_left_alone() {
    let (world, head, _server) = pushed().await;
    world.write("source/theirs", "theirs");
    let theirs = world.commit("source", "theirs").await;
    let published = world.path("published.git").display().to_string();
    world.git("source", &["push", "-q", &published, &format!("HEAD:refs/heads/{WORK}")]).await;
    assert!(matches!(world.publish(&head).await, Err(GitError::Diverged { .. })));
    assert_eq!(world.git("published.git", &["rev-parse", WORK]).await, theirs);
}

#[tokio::test]
async fn only_the_approved_commit_leaves_the_quarantine() {
    let (world, head, _server) = pushed().await;
    world.write("work/later", "unapproved\n");
    let later = world.push().await;
    world.publish(&head).await.unwrap();
    assert_eq!(world.git("published.git", &["rev-parse", WORK]).await, head);
    let (there, _) = world.try_git("published.git", &["cat-file", "-e", &later]).await;
    assert!(!there, "the later commit's objects are not there either");
}

#[tokio::test]
async fn what_is_no_commit_of_the_quarantine_is_refused() {
    let (world, _, _server) = pushed().await;
    for commit in ["HEAD", "--mirror", "", &"a".repeat(40), &"A".repeat(40)] {
        assert!(matches!(world.publish(commit).await, Err(GitError::Refused { .. })), "{commit}");
    }
    let head = world.git("work", &["rev-parse", "HEAD"]).await;
    for branch in ["-f", "a b", "x:refs/heads/main", "HEAD", ""] {
        let result = world.broker.publish(world.request, &world.remote(), &head, branch).await;
        assert!(matches!(result, Err(GitError::Refused { .. })), "{branch}: {result:?}");
    }
    assert!(!world.git("published.git", &["for-each-ref"]).await.contains("main"));
}

#[tokio::test]
async fn a_repository_that_is_gone_is_told() {
    let (world, head, _server) = pushed().await;
    std::fs::remove_dir_all(world.path("published.git")).unwrap();
    assert!(matches!(world.publish(&head).await, Err(GitError::NoRepository { .. })));
}

#[tokio::test]
async fn what_was_published_is_taken_back_once() {
    let (world, head, _server) = pushed().await;
    assert!(!world.withdraw(&head, None).await.unwrap(), "nothing is there");
    world.publish(&head).await.unwrap();
    assert!(world.withdraw(&head, None).await.unwrap());
    assert_eq!(world.git("published.git", &["for-each-ref"]).await, "");
    assert!(!world.withdraw(&head, None).await.unwrap());
    world.publish(&head).await.unwrap();
    assert_eq!(world.git("published.git", &["rev-parse", WORK]).await, head, "it can be published again");
}

#[tokio::test]
async fn a_follow_up_that_is_taken_back_leaves_what_was_there_before() {
    let (world, head, _server) = pushed().await;
    world.publish(&head).await.unwrap();
    world.write("work/y", "y\n");
    let next = world.push().await;
    world.publish(&next).await.unwrap();
    assert!(world.withdraw(&next, Some(&head)).await.unwrap());
    assert_eq!(world.git("published.git", &["rev-parse", WORK]).await, head);
    assert!(!world.withdraw(&next, Some(&head)).await.unwrap());
}

#[tokio::test]
async fn what_somebody_put_there_since_is_not_taken_back() {
    let (world, head, _server) = pushed().await;
    world.publish(&head).await.unwrap();
    world.write("source/theirs", "theirs");
    let theirs = world.commit("source", "theirs").await;
    let published = world.path("published.git").display().to_string();
    world.git("source", &["push", "-q", "--force", &published, &format!("HEAD:refs/heads/{WORK}")]).await;
    assert!(!world.withdraw(&head, None).await.unwrap());
    assert_eq!(world.git("published.git", &["rev-parse", WORK]).await, theirs);
}
