//! Real repositories of every condition, and those that try to run something.

#![expect(clippy::unwrap_used, reason = "a failing test is what these are for")]

use std::os::unix::fs::{PermissionsExt as _, symlink};

use astraforge_core::ports::git::{GitBroker as _, GitError, Remote};

use crate::git_world::World;

/// Mirrors a repository of the world and checks what the error tells.
async fn check_refused(world: &World, name: &str, branch: Option<&str>, told: &[&str]) -> GitError {
    let error = world.broker.mirror(world.request, &world.remote_at(name), branch, None).await.unwrap_err();
    let mut text = error.to_string();
    if let Some(source) = std::error::Error::source(&error) {
        text = format!("{text}: {source}");
    }
    for part in told {
        assert!(text.contains(part), "{text:?} does not tell {part:?}");
    }
    assert!(!world.quarantine().exists(), "nothing stays of a mirror that failed");
    error
}

#[tokio::test]
async fn what_is_no_usable_repository_is_told_in_plain_words() {
    let world = World::new().await;
    let error = check_refused(&world, "nowhere", None, &["no such folder"]).await;
    assert!(matches!(error, GitError::NoRepository { .. }));
    check_refused(&world, "source/README.md", None, &["a file, not a folder"]).await;
    std::fs::create_dir(world.path("plain")).unwrap();
    let error = check_refused(&world, "plain", None, &["git init"]).await;
    assert!(matches!(error, GitError::NoRepository { .. }));
    let error = check_refused(&world, "source", Some("-x"), &["no branch `-x`", "main"]).await;
    assert!(matches!(error, GitError::NoBranch { .. }));
}

#[tokio::test]
async fn an_empty_repository_says_push_first() {
    let world = World::empty().await;
    let error = check_refused(&world, "source", None, &["no commit yet"]).await;
    assert!(matches!(error, GitError::Empty { .. }));
}

#[tokio::test]
async fn a_missing_branch_lists_those_that_are_there() {
    let world = World::new().await;
    world.git("source", &["branch", "-m", "main", "trunk"]).await;
    world.git("source", &["branch", "dev"]).await;
    match check_refused(&world, "source", Some("main"), &["no branch `main`"]).await {
        GitError::NoBranch { known, .. } => assert_eq!(known, ["dev", "trunk"]),
        other => panic!("{other:?}"),
    }
    assert_eq!(world.mirror().await.branch, "trunk", "the default branch has any name");
    world.git("source", &["checkout", "-q", "--detach"]).await;
    check_refused_keeping(&world, "no branch `HEAD`").await;
}

/// Like `check_refused`, for a request that has a quarantine already.
async fn check_refused_keeping(world: &World, told: &str) {
    let error = world.broker.mirror(world.request, &world.remote(), None, None).await.unwrap_err();
    assert!(error.to_string().contains(told), "{error}");
    assert!(world.quarantine().exists(), "an earlier quarantine stays");
}

#[tokio::test]
async fn a_shallow_clone_says_how_to_complete_it() {
    let world = World::new().await;
    world.write("source/more", "x");
    world.commit("source", "second").await;
    let url = format!("file://{}", world.path("source").display());
    world.git(".", &["clone", "-q", "--depth=1", &url, "shallow"]).await;
    check_refused(&world, "shallow", None, &["git fetch --unshallow"]).await;
}

#[tokio::test]
async fn other_object_names_are_told() {
    let world = World::new().await;
    world.git(".", &["init", "-q", "-b", "main", "--object-format=sha256", "wide"]).await;
    world.write("wide/x", "x");
    world.commit("wide", "start").await;
    check_refused(&world, "wide", None, &["SHA-256"]).await;
}

#[tokio::test]
async fn a_repository_of_another_user_is_told_unless_we_cannot_make_one() {
    let world = World::new().await;
    // Only the superuser can give a folder away; others have no way to make this case.
    if std::os::unix::fs::chown(world.path("source/.git"), Some(12345), None).is_ok() {
        std::os::unix::fs::chown(world.path("source"), Some(12345), None).unwrap();
        check_refused(&world, "source", None, &["another user", "chown"]).await;
    }
}

#[tokio::test]
async fn missing_and_broken_objects_are_refused() {
    let world = World::new().await;
    let blob = world.git("source", &["rev-parse", "HEAD:README.md"]).await;
    let path = world.path("source/.git/objects").join(&blob[..2]).join(&blob[2..]);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&path, "garbage").unwrap();
    assert!(matches!(check_refused(&world, "source", None, &[]).await, GitError::Refused { .. }));
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(check_refused(&world, "source", None, &[]).await, GitError::Refused { .. }));
}

#[tokio::test]
async fn an_object_that_fsck_rejects_is_refused() {
    let world = World::new().await;
    let tree = world.git("source", &["rev-parse", "HEAD^{tree}"]).await;
    world.write("commit", format!("tree {tree}\nauthor no address 1 +0000\ncommitter no address 1 +0000\n\nx\n"));
    let path = world.path("commit").display().to_string();
    let commit = world.git("source", &["hash-object", "-t", "commit", "-w", "--literally", &path]).await;
    world.write("source/.git/refs/heads/main", format!("{commit}\n"));
    let error = check_refused(&world, "source", None, &["missingEmail"]).await;
    assert!(matches!(error, GitError::Refused { .. }));
}

#[tokio::test]
async fn addresses_of_other_kinds_are_refused_before_git_sees_them() {
    let world = World::new().await;
    let canary = world.path("canary");
    for url in [
        format!("ext::sh -c 'touch {}'", canary.display()),
        "--upload-pack=touch /tmp/x".to_owned(),
        "ssh://-oProxyCommand=touch/x".to_owned(),
        "git@example.test:team/demo".to_owned(),
    ] {
        let remote = Remote { url: url.clone(), publish_url: None, token: None };
        let error = world.broker.mirror(world.request, &remote, None, None).await.unwrap_err();
        assert!(matches!(error, GitError::NoRepository { .. }), "{url}: {error}");
    }
    assert!(!canary.exists());
}

#[tokio::test]
async fn a_source_runs_nothing_of_its_own() {
    let world = World::new().await;
    world.published().await;
    let canary = world.path("canary");
    let script = format!("#!/bin/sh\ntouch '{}'\nexit 1\n", canary.display());
    world.write("evil.sh", &script);
    let evil = world.path("evil.sh");
    std::fs::set_permissions(&evil, std::fs::Permissions::from_mode(0o755)).unwrap();
    let evil = evil.display().to_string();
    for repository in ["source/.git", "published.git"] {
        for hook in [
            "post-upload-pack",
            "pre-receive",
            "update",
            "post-receive",
            "post-update",
            "reference-transaction",
            "post-checkout",
            "pre-push",
            "proc-receive",
            "fsmonitor-watchman",
        ] {
            for folder in ["hooks", "evil-hooks"] {
                let path = format!("{repository}/{folder}/{hook}");
                world.write(&path, &script);
                std::fs::set_permissions(world.path(&path), std::fs::Permissions::from_mode(0o755)).unwrap();
            }
        }
        let hooks = world.path(repository).join("evil-hooks").display().to_string();
        let settings = [
            ("core.hooksPath", hooks.as_str()),
            ("core.fsmonitor", &evil),
            ("core.sshCommand", &evil),
            ("core.gitProxy", &evil),
            ("core.pager", &evil),
            ("core.editor", &evil),
            ("core.askPass", &evil),
            ("core.alternateRefsCommand", &evil),
            ("credential.helper", &evil),
            ("diff.external", &evil),
            ("uploadpack.packObjectsHook", &evil),
            ("gc.recentObjectsHook", &evil),
            ("protocol.allow", "always"),
            ("protocol.ext.allow", "always"),
            ("url.ext::sh -c evil.insteadOf", "/"),
            ("filter.x.clean", &evil),
            ("alias.upload-pack", "!evil"),
            ("include.path", "/dev/null"),
        ];
        for (name, value) in settings {
            world.git(repository, &["config", name, value]).await;
        }
    }
    world.write("source/.git/objects/info/alternates", format!("{}/objects\n", world.path("published.git").display()));
    let (base, _server) = world.workspace().await;
    world.write("work/x", "x");
    let change = world.pushed_change(&base).await;
    world.publish(&change.head_commit).await.unwrap();
    assert!(!canary.exists(), "something of the repository ran");
    let (_, found) =
        world.try_git("published.git", &["-c", "core.hooksPath=/dev/null", "rev-parse", crate::git_world::WORK]).await;
    assert_eq!(found, change.head_commit);
}

/// A partial clone fetches what it lacks from its "promisor", with a program of its configuration's choice.
#[tokio::test]
async fn a_source_that_lacks_objects_fetches_them_from_nowhere() {
    let world = World::new().await;
    let canary = world.path("canary");
    let blob = world.git("source", &["rev-parse", "HEAD:README.md"]).await;
    std::fs::remove_file(world.path("source/.git/objects").join(&blob[..2]).join(&blob[2..])).unwrap();
    let touch = format!("touch '{}';", canary.display());
    for (name, value) in [
        ("core.repositoryFormatVersion", "1"),
        ("extensions.partialClone", "origin"),
        ("remote.origin.promisor", "true"),
        ("remote.origin.url", world.path("elsewhere").to_str().unwrap()),
        ("remote.origin.uploadpack", &touch),
        ("protocol.ext.allow", "always"),
    ] {
        world.git("source", &["config", name, value]).await;
    }
    // The trap works: an ordinary git walks into it.
    world.try_git("source", &["cat-file", "-p", &blob]).await;
    assert!(canary.exists(), "the test itself must be able to fail");
    std::fs::remove_file(&canary).unwrap();
    assert!(matches!(check_refused(&world, "source", None, &[]).await, GitError::Refused { .. }));
    assert!(!canary.exists(), "the source's program ran");
}

#[tokio::test]
async fn a_clone_that_shares_objects_can_be_mirrored() {
    let world = World::new().await;
    world.git(".", &["clone", "-q", "--shared", "source", "sharing"]).await;
    let base = world.broker.mirror(world.request, &world.remote_at("sharing"), None, None).await.unwrap();
    assert_eq!(base.commit, world.git("source", &["rev-parse", "main"]).await);
    assert!(!world.quarantine().join("objects/info/alternates").exists(), "the quarantine stands alone");
}

#[tokio::test]
async fn only_the_wanted_branch_is_brought_in() {
    let world = World::new().await;
    world.git("source", &["tag", "v1"]).await;
    world.git("source", &["branch", "private"]).await;
    world.mirror().await;
    let refs = world
        .git("quarantine", &["--git-dir", world.quarantine().to_str().unwrap(), "for-each-ref", "--format=%(refname)"])
        .await;
    assert_eq!(refs, "refs/base/main\nrefs/heads/main");
}

#[tokio::test]
async fn another_base_takes_the_place_of_the_first() {
    let world = World::new().await;
    world.mirror().await;
    world.git("source", &["branch", "release"]).await;
    let base = world.broker.mirror(world.request, &world.remote(), Some("release"), None).await.unwrap();
    assert_eq!(base.branch, "release");
    let server = world.serve().await;
    world.git(".", &["clone", "-q", &server.url(), "work"]).await;
    let seen = world.git("work", &["for-each-ref", "--format=%(refname)", "refs/remotes"]).await;
    assert_eq!(seen, "refs/remotes/origin/HEAD\nrefs/remotes/origin/release");
}

#[tokio::test]
async fn a_missing_git_says_how_to_get_it() {
    let mut world = World::new().await;
    assert!(world.broker.check_git().await.unwrap().starts_with("git version 2."));
    world.restart(|config| config.with_git("/nowhere/git"));
    let error = world.broker.check_git().await.unwrap_err();
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("apt-get install git"));
}

#[tokio::test]
async fn quarantines_are_readable_by_this_user_only() {
    let world = World::new().await;
    symlink(world.path("source"), world.path("linked")).unwrap();
    world.broker.mirror(world.request, &world.remote_at("linked"), None, None).await.unwrap();
    assert_eq!(std::fs::metadata(world.path("quarantine")).unwrap().permissions().mode() & 0o777, 0o700);
    let left: Vec<_> = std::fs::read_dir(world.path("quarantine")).unwrap().collect();
    assert_eq!(left.len(), 1, "no temporary folder stays: {left:?}");
}

#[tokio::test]
async fn a_second_working_tree_can_be_mirrored() {
    let world = World::new().await;
    world.git("source", &["worktree", "add", "-q", "-b", "side", "../tree"]).await;
    let base = world.broker.mirror(world.request, &world.remote_at("tree"), Some("side"), None).await.unwrap();
    assert_eq!(base.branch, "side");
}

/// Answers each connection with one HTTP response, and returns what was asked.
async fn http_server(responses: Vec<String>) -> (u16, tokio::task::JoinHandle<Vec<String>>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = tokio::spawn(async move {
        let mut asked = Vec::new();
        for response in responses {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            asked.push(String::from_utf8(request).unwrap());
            stream.write_all(response.as_bytes()).await.unwrap();
        }
        asked
    });
    (port, serving)
}

async fn mirror_over_http(world: &World, port: u16) -> GitError {
    let token = Some(astraforge_core::repository::Secret::new("hunter2"));
    let remote = Remote { url: format!("http://127.0.0.1:{port}/team/demo.git"), publish_url: None, token };
    world.broker.mirror(world.request, &remote, None, None).await.unwrap_err()
}

#[tokio::test]
async fn a_token_goes_to_the_host_and_a_refusal_is_told() {
    let world = World::new().await;
    let refusal = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let (port, serving) = http_server(vec![refusal.into()]).await;
    let error = mirror_over_http(&world, port).await;
    assert!(
        matches!(error, GitError::NoRepository { .. }) && error.to_string().contains("refused the credential"),
        "{error:?}"
    );
    let asked = serving.await.unwrap().remove(0);
    assert!(asked.starts_with("GET /team/demo.git/info/refs?service=git-upload-pack "), "{asked}");
    // `x-access-token:hunter2`
    assert!(asked.contains("Authorization: Basic eC1hY2Nlc3MtdG9rZW46aHVudGVyMg==\r\n"), "{asked}");
    assert!(!format!("{error:?}").contains("hunter2"));
}

#[tokio::test]
async fn a_token_does_not_follow_a_redirect() {
    let world = World::new().await;
    let (elsewhere, mut thief) = http_server(vec![String::new()]).await;
    let redirect = format!(
        "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{elsewhere}/team/demo.git/info/refs\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    let (port, _serving) = http_server(vec![redirect]).await;
    mirror_over_http(&world, port).await;
    let asked = tokio::time::timeout(std::time::Duration::from_millis(200), &mut thief).await;
    assert!(asked.is_err(), "nobody was asked elsewhere: {asked:?}");
}
