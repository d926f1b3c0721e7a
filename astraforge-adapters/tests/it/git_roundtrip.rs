//! The whole way of a change: mirror, clone, push, compare, publish, discard.

use astraforge_core::{ports::git::GitBroker as _, request::change_set::ChangeKind};

use crate::git_world::{WORK, World, file};

#[tokio::test]
async fn a_change_goes_from_the_real_repository_to_a_published_branch() {
    let world = World::new().await;
    world.published().await;
    let (base, _server) = world.workspace().await;
    assert_eq!((base.branch.as_str(), &base.work_head), ("main", &None));
    assert_eq!(base.commit, world.git("source", &["rev-parse", "main"]).await);
    assert_eq!(world.change(&base).await.unwrap(), None, "nothing is pushed yet");

    world.write("work/README.md", "one\n2\nthree\n");
    world.write("work/new.txt", "new\n");
    let head = world.push().await;
    let change = world.change(&base).await.unwrap().unwrap();
    assert_eq!((change.target_branch.as_str(), change.branch.as_str()), ("main", WORK));
    assert_eq!((&change.base_commit, &change.head_commit), (&base.commit, &head));
    assert_eq!(change.head_tree, world.git("work", &["rev-parse", "HEAD^{tree}"]).await);
    assert!(change.diff.contains("-two\n+2\n") && change.diff.contains("+new\n"), "{}", change.diff);
    let readme = file(&change, "README.md");
    assert_eq!((readme.kind, readme.added, readme.removed, readme.size), (ChangeKind::Modified, Some(1), Some(1), 12));
    assert_eq!(file(&change, "new.txt").kind, ChangeKind::Added);

    world.publish(&change.head_commit).await.unwrap();
    assert_eq!(world.git("published.git", &["rev-parse", WORK]).await, head);
    assert_eq!(world.git("source", &["branch", "--list", "astraforge/*"]).await, "", "the source is only read");

    world.broker.discard(world.request).await.unwrap();
    assert!(!world.quarantine().exists());
    world.broker.discard(world.request).await.expect("one that does not exist is Ok");
}
