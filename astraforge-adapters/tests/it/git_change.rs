//! What a change tells: all of it, whatever the tree says of itself.

use std::os::unix::{
    ffi::OsStrExt as _,
    fs::{PermissionsExt as _, symlink},
};

use astraforge_core::{ports::git::GitError, request::change_set::ChangeKind, session::ByteSize};

use crate::git_world::{WORK, World, file};

#[tokio::test]
async fn every_kind_of_change_is_told() {
    let world = World::new().await;
    world.write("source/old.txt", "a\nb\nc\nd\ne\nf\ng\n");
    world.write("source/gone.txt", "gone\n");
    world.write("source/run.sh", "echo\n");
    world.write("source/becomes-link", "text\n");
    world.commit("source", "more").await;
    let (base, _server) = world.workspace().await;
    world.git("work", &["mv", "old.txt", "moved.txt"]).await;
    world.write("work/moved.txt", "a\nb\nc\nd\ne\nf\nG\n");
    world.git("work", &["rm", "-q", "gone.txt"]).await;
    std::fs::set_permissions(world.path("work/run.sh"), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::remove_file(world.path("work/becomes-link")).unwrap();
    symlink("README.md", world.path("work/becomes-link")).unwrap();
    symlink("../../../../etc/passwd", world.path("work/outward")).unwrap();
    symlink("/etc/shadow", world.path("work/absolute")).unwrap();
    world.write("work/image.bin", b"\x89PNG\0\0\0data");
    world.write("work/.codex/config.toml", "model = \"evil\"\n");
    world.write("work/-rf", "dash\n");
    world.write("work/two\nlines \"quoted\"", "name\n");
    world.write("work/caf\u{e9}", "utf8\n");
    std::fs::write(world.path("work").join(std::ffi::OsStr::from_bytes(b"caf\xe9")), "latin\n").unwrap();
    let change = world.pushed_change(&base).await;

    let moved = file(&change, "moved.txt");
    assert_eq!((moved.kind, moved.old_path.as_deref()), (ChangeKind::Renamed, Some("old.txt")));
    assert_eq!((moved.added, moved.removed, moved.size), (Some(1), Some(1), 14));
    let gone = file(&change, "gone.txt");
    assert_eq!((gone.kind, gone.size, gone.mode.as_str()), (ChangeKind::Deleted, 0, "000000"));
    let script = file(&change, "run.sh");
    assert_eq!((script.kind, script.mode.as_str()), (ChangeKind::TypeChanged, "100755"));
    let link = file(&change, "becomes-link");
    assert_eq!((link.kind, link.mode.as_str()), (ChangeKind::TypeChanged, "120000"));
    assert_eq!(file(&change, "outward").mode, "120000");
    let image = file(&change, "image.bin");
    assert_eq!((image.kind, image.added, image.removed, image.size), (ChangeKind::Added, None, None, 11));
    for path in ["absolute", ".codex/config.toml", "-rf", "two\nlines \"quoted\"", "caf\u{e9}", r#""caf\351""#] {
        assert_eq!(file(&change, path).kind, ChangeKind::Added);
    }
    assert_eq!(change.files.len(), 12);

    let blob = world.git("work", &["rev-parse", "HEAD:image.bin"]).await;
    for told in [
        "rename from old.txt\nrename to moved.txt",
        "-g\n+G",
        "deleted file mode 100644",
        "old mode 100644\nnew mode 100755",
        "+../../../../etc/passwd",
        "+model = \"evil\"",
        "diff --git a/-rf b/-rf",
        r#"b/two\nlines \"quoted\""#,
        r"caf\351",
        "Binary files /dev/null and b/image.bin differ",
        &format!("index 0000000000000000000000000000000000000000..{blob}"),
    ] {
        assert!(change.diff.contains(told), "{told:?} is not in\n{}", change.diff);
    }
}

#[tokio::test]
async fn attributes_of_the_tree_hide_nothing() {
    let world = World::new().await;
    let (base, _server) = world.workspace().await;
    let hide = "* -diff\n*.js -diff binary\n*.md diff=hidden\n* -text filter=x working-tree-encoding=UTF-16\n";
    world.write("work/.gitattributes", hide);
    world.write("work/src/.gitattributes", hide);
    // The agent itself commits it plainly.
    world.write("work/.git/info/attributes", "* !diff !working-tree-encoding !filter !text\n");
    world.write("work/src/app.js", "let a = 1;\nlet b = 2;\nevil();\nlet d = 4;\nlet e = 5;\n");
    let change = world.pushed_change(&base).await;
    let app = file(&change, "src/app.js");
    assert_eq!((app.added, app.removed), (Some(1), Some(1)));
    assert!(change.diff.contains("-let c = 3;\n+evil();"), "{}", change.diff);
    assert!(change.diff.contains("+* -diff"), "the attempt itself shows");
}

#[tokio::test]
async fn a_submodule_is_told_even_when_it_asks_to_be_ignored() {
    let world = World::new().await;
    let (base, _server) = world.workspace().await;
    let commit = base.commit.clone();
    world.write(
        "work/.gitmodules",
        "[submodule \"dep\"]\n\tpath = dep\n\turl = https://example.test/dep\n\tignore = all\n",
    );
    world.git("work", &["update-index", "--add", "--cacheinfo", &format!("160000,{commit},dep")]).await;
    world.git("work", &["add", ".gitmodules"]).await;
    world.git("work", &["commit", "-q", "-m", "dep"]).await;
    world.git("work", &["push", "-q", "origin", WORK]).await;
    let change = world.change(&base).await.unwrap().unwrap();
    let dep = file(&change, "dep");
    assert_eq!((dep.kind, dep.mode.as_str(), dep.size), (ChangeKind::Added, "160000", 0));
    assert!(change.diff.contains(&format!("+Subproject commit {commit}")), "{}", change.diff);
}

#[tokio::test]
async fn no_change_of_the_tree_is_no_change() {
    let world = World::new().await;
    let (base, _server) = world.workspace().await;
    world.push().await; // an empty commit
    assert_eq!(world.change(&base).await.unwrap(), None);
    world.write("work/x", "x");
    let change = world.pushed_change(&base).await;
    assert!(world.bundle(&change).exists());
    std::fs::remove_file(world.path("work/x")).unwrap();
    world.push().await;
    assert_eq!(world.change(&base).await.unwrap(), None, "done and undone");
}

#[tokio::test]
async fn all_commits_of_an_agent_are_one_change() {
    let world = World::new().await;
    let (base, _server) = world.workspace().await;
    for n in 0..3 {
        world.write(&format!("work/file-{n}"), "x\n");
        world.commit("work", "an agent's own commit").await;
    }
    let change = world.pushed_change(&base).await;
    assert_eq!(change.files.len(), 3);
}

#[tokio::test]
async fn a_base_that_moved_on_is_not_part_of_the_change() {
    let world = World::new().await;
    let (base, server) = world.workspace().await;
    world.write("work/mine", "mine\n");
    let mine = world.pushed_change(&base).await;
    world.write("source/theirs", "theirs\n");
    let moved = world.commit("source", "theirs").await;
    let again = world.mirror_after(&mine).await;
    assert_eq!(again.commit, moved);
    assert_eq!(again.work_head, Some(mine.head_commit));
    let change = world.change(&again).await.unwrap().unwrap();
    assert_eq!(change.base_commit, base.commit, "the merge base");
    assert_eq!(change.files.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(), ["mine"]);

    world.git("work", &["pull", "-q", "--no-rebase", "--no-edit", &server.url(), "main"]).await;
    world.git("work", &["push", "-q", "origin", WORK]).await;
    let change = world.change(&again).await.unwrap().unwrap();
    assert_eq!((change.base_commit, change.files.len()), (moved, 1), "merged: measured from the newer base");
}

#[tokio::test]
async fn a_history_that_shares_nothing_with_the_base_is_refused() {
    let world = World::new().await;
    let (base, _server) = world.workspace().await;
    world.git("work", &["checkout", "-q", "--orphan", "fresh"]).await;
    world.write("work/x", "x");
    world.commit("work", "from nothing").await;
    world.git("work", &["push", "-q", "--force", "origin", &format!("HEAD:{WORK}")]).await;
    match world.change(&base).await {
        Err(GitError::Refused { reason }) => assert!(reason.contains("shares no history"), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_diff_beyond_the_limit_is_refused_in_words() {
    let mut world = World::new().await;
    world.restart(|config| config.with_max_diff(ByteSize::bytes(10_000)));
    let (base, _server) = world.workspace().await;
    world.write("work/long", "line\n".repeat(10_000));
    world.push().await;
    match world.change(&base).await {
        Err(GitError::Refused { reason }) => assert!(reason.contains("larger than 10000 bytes"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert!(!world.path("artifacts").exists());
}

#[tokio::test]
async fn a_huge_file_costs_no_memory_and_is_told_by_its_size() {
    let world = World::new().await;
    let (base, _server) = world.workspace().await;
    world.write("work/long", "a line of a file that is text\n".repeat(2 << 20));
    let change = world.pushed_change(&base).await;
    let long = file(&change, "long");
    assert_eq!((long.size, long.added), (30 * (2 << 20), None));
    assert!(change.diff.len() < 1000 && change.diff.contains("b/long differ"));
}

/// Ten trees of ten entries each, every one the same: a file list of ten thousand million names in a few objects.
#[tokio::test]
async fn a_tree_without_end_is_refused_soon() {
    let world = World::new().await;
    let (base, _server) = world.workspace().await;
    world.write("work/leaf", "x");
    world.git("work", &["add", "leaf"]).await;
    let mut tree = world.git("work", &["write-tree"]).await;
    for _ in 0..10 {
        world.git("work", &["read-tree", "--empty"]).await;
        let entries: String = (0..10).map(|n| format!("040000 tree {tree}\tt{n}\n")).collect();
        world.write("entries", entries);
        let line = format!("git mktree < '{}'", world.path("entries").display());
        tree = world.git("work", &["-c", &format!("alias.make=!{line}"), "make"]).await;
    }
    let commit = world.git("work", &["commit-tree", "-p", &base.commit, "-m", "bomb", &tree]).await;
    world.git("work", &["push", "-q", "origin", &format!("{commit}:refs/heads/{WORK}")]).await;
    let started = std::time::Instant::now();
    match world.change(&base).await {
        Err(GitError::Refused { reason }) => assert!(reason.contains("list of files is larger"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert!(started.elapsed() < std::time::Duration::from_secs(60), "{:?}", started.elapsed());
}
