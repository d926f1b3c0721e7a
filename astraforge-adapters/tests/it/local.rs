//! The `local` provider: names, registered paths, published branches.

use std::{collections::BTreeMap, os::unix::fs::symlink};

use astraforge_adapters::local::{LocalConfig, LocalProvider};
use astraforge_core::{
    id::{RepositoryLinkId, TenantId, UserId},
    merge_request::Proposal,
    ports::git::{GitBroker as _, GitError, VcsProvider as _},
    repository::{RepositoryEnvironment, RepositoryLink},
};

use crate::git_world::{WORK, World};

fn provider(world: &World) -> LocalProvider {
    LocalProvider::new(
        LocalConfig::new(world.path("repositories"), world.path("published")).with_registered(world.path("source")),
    )
}

fn link(repository: impl Into<String>) -> RepositoryLink {
    let now = chrono::DateTime::UNIX_EPOCH;
    RepositoryLink {
        id: RepositoryLinkId::random(),
        tenant: TenantId::new("t"),
        owner: UserId::new("u"),
        provider: LocalProvider::NAME.into(),
        repository: repository.into(),
        base_url: String::new(),
        access_token: None,
        environment: RepositoryEnvironment { env: BTreeMap::new(), ..RepositoryEnvironment::default() },
        created_at: now,
        updated_at: now,
    }
}

fn proposal(commit: &str) -> Proposal {
    Proposal {
        title: "T".into(),
        description: String::new(),
        source_branch: WORK.into(),
        target_branch: "main".into(),
        commit: commit.into(),
    }
}

#[tokio::test]
async fn a_name_is_a_bare_repository_below_the_folder() {
    let world = World::new().await;
    std::fs::create_dir_all(world.path("repositories/team")).unwrap();
    world.git(".", &["clone", "-q", "--bare", "source", "repositories/team/demo.git"]).await;
    let provider = provider(&world);
    let folder = world.path("repositories/team/demo.git").canonicalize().unwrap();
    for name in ["team/demo", "team/demo.git"] {
        let remote = provider.remote(&link(name)).await.unwrap();
        assert_eq!((remote.url.as_str(), remote.publish_url), (folder.to_str().unwrap(), None));
    }
    let error = provider.remote(&link("nope")).await.unwrap_err();
    assert!(error.to_string().contains("git init --bare"), "{error}");
}

#[tokio::test]
async fn what_is_neither_a_name_nor_registered_is_refused_and_says_what_works() {
    let world = World::new().await;
    std::fs::create_dir_all(world.path("repositories")).unwrap();
    world.git(".", &["clone", "-q", "--bare", "source", "outside.git"]).await;
    symlink(world.path("outside.git"), world.path("repositories/leaving.git")).unwrap();
    symlink(world.path("source"), world.path("registered-by-another-name")).unwrap();
    let provider = provider(&world);
    let outside = world.path("outside.git").display().to_string();
    let climbing = format!("{}/../outside.git", world.path("source").display());
    for (name, told) in [
        ("../outside", "today"),
        ("a/../../outside", "today"),
        ("leaving", "leads out"),
        (&outside, "not registered"),
        (&climbing, "not registered"),
        ("/etc", "not registered"),
        ("", "today"),
        ("-x", "today"),
        (".git", "today"),
        ("a//b", "today"),
        ("a\0b", "today"),
        ("demo.git/hooks", "today"),
        ("https://github.com/team/demo", "no provider for `github.com` yet"),
        ("https://oauth2:secret@gitlab.com/x", "no provider for `gitlab.com` yet"),
        ("git@github.com:team/demo.git", "no provider for `github.com` yet"),
        ("file:///etc", "today"),
        ("ext::sh -c id", "today"),
    ] {
        let error = provider.remote(&link(name)).await.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, GitError::NoRepository { .. }) && text.contains(told), "{name}: {text}");
        assert!(!text.contains("secret"), "{text}");
    }
    let aliased = world.path("registered-by-another-name").display().to_string();
    assert!(provider.remote(&link(aliased)).await.is_ok(), "a link to a registered folder is that folder");
}

#[tokio::test]
async fn a_registered_clone_is_read_and_never_written() {
    let world = World::new().await;
    let provider = provider(&world);
    let clone = world.path("source");
    let link = link(clone.display().to_string());
    let remote = provider.remote(&link).await.unwrap();
    let published = provider.published_repository(&clone);
    assert_eq!(remote.publish_url.as_deref(), published.to_str());
    let before = world.git("source", &["for-each-ref"]).await;

    let base = world.broker.mirror(world.request, &remote, None, None).await.unwrap();
    let _server = world.serve().await;
    world.git(".", &["clone", "-q", &_server.url(), "work"]).await;
    world.git("work", &["checkout", "-q", "-b", WORK]).await;
    world.write("work/x", "x\n");
    let change = world.pushed_change(&base).await;
    let early = provider.open_merge_request(&link, &proposal(&change.head_commit)).await.unwrap_err();
    assert!(early.to_string().contains("was not published yet"), "{early}");
    world.broker.publish(world.request, &remote, &change.head_commit, WORK).await.unwrap();

    let address = provider.open_merge_request(&link, &proposal(&change.head_commit)).await.unwrap();
    assert_eq!(address, provider.open_merge_request(&link, &proposal(&change.head_commit)).await.unwrap());
    let other = provider.open_merge_request(&link, &proposal(&base.commit)).await;
    assert!(matches!(other, Err(GitError::Diverged { .. })));
    provider.post_findings(&link, &address, &[]).await.unwrap();

    assert_eq!(world.git("source", &["for-each-ref"]).await, before);
    let (url, branch) = address.split_once('#').unwrap();
    world.git("source", &["fetch", "-q", url, branch]).await;
    assert_eq!(world.git("source", &["rev-parse", "FETCH_HEAD"]).await, change.head_commit, "as the docs say");
}

#[tokio::test]
async fn a_clone_can_be_registered_while_the_provider_runs() {
    let world = World::new().await;
    let registry = world.path("registered-clones");
    let config = LocalConfig::new(world.path("repositories"), world.path("published")).with_registry(&registry);
    let provider = LocalProvider::new(config);
    let clone = world.path("source");
    let clone = clone.to_str().unwrap();
    assert!(provider.remote(&link(clone)).await.is_err(), "nothing is registered yet");
    std::fs::write(&registry, format!("{clone}\n")).unwrap();
    provider.remote(&link(clone)).await.unwrap();
}
