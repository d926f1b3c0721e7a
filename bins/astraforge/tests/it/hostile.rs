//! Workspaces that are hard to collect: each becomes an honest change or a failure in words, and none hangs (reading a
//! log has its own limit).

use astraforge_core::{event::RunEvent, request::RequestState};
use astraforge_http::wire::{change_set::ChangeSetView, repository_link::EnvironmentBody};

use crate::world::{World, git, last_run, one_command, text};

/// What a run on `line` came to: the paths that change, or why it failed.
struct Outcome {
    world: World,
    change: Result<ChangeSetView, String>,
    log: Vec<RunEvent>,
}

impl Outcome {
    async fn of(line: &str) -> Self {
        Self::in_repository(line, |clone| std::fs::write(clone.join("README.md"), "# demo\n").unwrap()).await
    }

    async fn in_repository(line: &str, fill: impl FnOnce(&std::path::Path)) -> Self {
        let mut world = World::without_server(one_command(line));
        world.make_repository("demo", fill);
        world.start();
        let request = world.submit_for("demo", "Do your worst", EnvironmentBody::default()).await;
        let found = world.finished(request).await;
        let log = world.log(request).await;
        let change = match found.state {
            RequestState::PatchReady => Ok(world.client().diff(request).await.unwrap()),
            _ => Err(last_run(&found).error.clone().unwrap()),
        };
        world.assert_no_sandbox();
        Self { world, change, log }
    }

    #[track_caller]
    fn paths(&self) -> Vec<&str> {
        let change = self.change.as_ref().unwrap_or_else(|failure| panic!("{failure}\n{}", text(&self.log)));
        let mut paths: Vec<_> = change.files.iter().map(|file| file.path.as_str()).collect();
        paths.sort_unstable();
        paths
    }

    #[track_caller]
    fn failed_with(&self, words: &str) {
        let failure = self.change.as_ref().err().unwrap_or_else(|| panic!("a change: {:?}", self.paths()));
        assert!(failure.contains(words), "{failure}");
    }

    /// What a file of the change holds, byte for byte.
    fn contents(&self, path: &str) -> Vec<u8> {
        let change = self.change.as_ref().unwrap();
        let bare = std::fs::read_dir(self.world.path("data/quarantine")).unwrap().next().unwrap().unwrap().path();
        let object = format!("{}:{path}", change.head_commit);
        let shown = std::process::Command::new("git").arg("-C").arg(bare).args(["cat-file", "blob", &object]).output();
        shown.unwrap().stdout
    }
}

#[tokio::test]
async fn names_that_no_one_would_choose_are_kept() {
    let line = r#"printf x > ':(top)x'; printf x > 'new
line'; printf x > "$(printf 'caf\351')"; printf x > '-rf'; printf x > ' '; printf x > 'a"b\c'; mkdir -p '*' && printf x > '*/[a]?'"#;
    let outcome = Outcome::of(line).await;
    let n_files = outcome.paths().len();
    assert_eq!(n_files, 7, "{:?}", outcome.paths());
    assert!(outcome.paths().contains(&":(top)x"), "{:?}", outcome.paths());
}

#[tokio::test]
async fn what_is_no_file_is_left_out() {
    let line = "mkfifo pipe; node -e \"require('net').createServer().listen('socket')\" & sleep 1; \
                ln -s / root; rm -r folder; ln -s / folder; truncate -s 100M sparse; unlink sparse; echo x > made";
    let outcome = Outcome::in_repository(line, |clone| {
        std::fs::create_dir(clone.join("folder")).unwrap();
        std::fs::write(clone.join("folder/file"), "x").unwrap();
    })
    .await;
    assert_eq!(outcome.paths(), ["folder", "folder/file", "made", "root"]);
    let modes: Vec<_> = outcome.change.as_ref().unwrap().files.iter().map(|f| (f.path.as_str(), &*f.mode)).collect();
    assert!(modes.contains(&("root", "120000")) && modes.contains(&("folder", "120000")), "{modes:?}");
}

#[tokio::test]
async fn files_that_cannot_be_read_fail_the_run_and_do_not_vanish() {
    let outcome = Outcome::of("echo x > made; echo secret > locked; chmod 000 locked").await;
    outcome.failed_with("locked");
}

#[tokio::test]
async fn folders_that_cannot_be_read_are_opened() {
    let line = "echo x > made; echo more >> folder/file; chmod 000 folder; mkdir new; echo x > new/x; chmod 000 new";
    let outcome = Outcome::in_repository(line, |clone| {
        std::fs::create_dir(clone.join("folder")).unwrap();
        std::fs::write(clone.join("folder/file"), "x").unwrap();
    })
    .await;
    assert_eq!(outcome.paths(), ["folder/file", "made", "new/x"]);
}

#[tokio::test]
async fn modes_and_line_breaks_are_kept_and_shown() {
    let outcome = Outcome::in_repository("chmod +x run.sh; printf 'a\\r\\nb\\r\\n' > dos.txt", |clone| {
        std::fs::write(clone.join("run.sh"), "#!/bin/sh\n").unwrap();
    })
    .await;
    assert_eq!(outcome.paths(), ["dos.txt", "run.sh"]);
    let change = outcome.change.as_ref().unwrap();
    assert!(change.diff.contains("new mode 100755"), "{}", change.diff);
    assert_eq!(outcome.contents("dos.txt"), b"a\r\nb\r\n");
}

#[tokio::test]
async fn attributes_of_an_agent_run_nothing_and_hide_nothing() {
    let line = "printf '* filter=x diff=x merge=x\\n*.bin -diff\\n*.id ident\\n' > .gitattributes; \
                git config filter.x.clean 'echo hacked'; git config filter.x.required true; \
                echo plain > plain; echo shown > shown.bin; echo '$Id: x $' > a.id";
    let outcome = Outcome::of(line).await;
    assert_eq!(outcome.paths(), [".gitattributes", "a.id", "plain", "shown.bin"]);
    assert!(outcome.change.as_ref().unwrap().diff.contains("+shown\n"));
    assert_eq!(outcome.contents("plain"), b"plain\n");
}

#[tokio::test]
async fn entries_that_look_like_submodules_are_told() {
    let line = "mkdir -p sub/deep; git init -q sub/deep; (cd sub/deep; git config user.name a; git config user.email a@b; \
                echo x > inner; git add -A; git commit -qm x); \
                printf '[submodule \"s\"]\\n\\tpath = s\\n\\turl = ../s\\n' > .gitmodules; \
                git update-index --add --cacheinfo 160000,$(git rev-parse HEAD),s; echo x > made";
    let outcome = Outcome::of(line).await;
    assert_eq!(outcome.paths(), [".gitmodules", "made"]);
    assert!(text(&outcome.log).contains("`sub/deep`"), "{}", text(&outcome.log));
}

#[tokio::test]
async fn names_that_are_git_in_disguise_fail_in_words() {
    let outcome = Outcome::of("mkdir .GIT; echo x > .GIT/config; echo x > made").await;
    match &outcome.change {
        Ok(_) => assert_eq!(outcome.paths(), ["made"]),
        Err(failure) => assert!(failure.contains(".GIT"), "{failure}"),
    }
}

#[tokio::test]
async fn ignored_files_are_left_out() {
    let outcome = Outcome::of("echo 'build/' > .gitignore; mkdir build; echo x > build/x; echo y > y").await;
    assert_eq!(outcome.paths(), [".gitignore", "y"]);
}

#[tokio::test]
async fn deep_folders_are_kept() {
    let line = "d=$(printf 'd/%.0s' $(seq 1 400)); mkdir -p \"$d\"; echo x > \"$d/x\"";
    let outcome = Outcome::of(line).await;
    assert_eq!(outcome.paths().len(), 1);
}

#[tokio::test]
async fn a_program_in_the_agents_path_is_not_the_git_that_collects() {
    let line = "mkdir -p $HOME/bin $HOME/.local/bin; for d in $HOME/bin $HOME/.local/bin /usr/local/bin /usr/bin; do \
                printf '#!/bin/sh\\necho hacked\\n' > $d/git; chmod +x $d/git; done 2>/dev/null; \
                printf 'export PATH=$HOME/bin:$PATH\\n' | tee $HOME/.profile $HOME/.bashrc >/dev/null; echo x > made";
    assert_eq!(Outcome::of(line).await.paths(), ["made"]);
}

#[tokio::test]
async fn a_full_home_is_a_failure_in_words_or_an_honest_change() {
    let outcome = Outcome::of("echo x > made; head -c 8000000000 /dev/zero > $HOME/full 2>&1; true").await;
    match &outcome.change {
        Ok(_) => assert_eq!(outcome.paths(), ["made"]),
        Err(failure) => assert!(failure.contains("space") || failure.contains("full"), "{failure}"),
    }
}

#[tokio::test]
async fn files_that_change_while_they_are_collected_end_in_a_change_or_in_words() {
    let line = "for i in 1 2 3; do (setsid sh -c 'while :; do date > busy$0; mkdir -p d$0; mv d$0 e$0 2>/dev/null; \
                rm -rf e$0; ln -sf / l$0; rm l$0; done' $i >/dev/null 2>&1 &) ; done; sleep 0.2; echo x > made";
    let outcome = Outcome::of(line).await;
    match &outcome.change {
        Ok(_) => assert!(outcome.paths().contains(&"made"), "{:?}", outcome.paths()),
        Err(failure) => assert!(failure.contains("could not be collected"), "{failure}"),
    }
}

#[tokio::test]
async fn commits_pushed_behind_the_runners_back_are_not_the_change() {
    let line = "git config user.email evil@b; git config user.name 'evil\u{1b}[2J'; echo x > made; git add -A; \
                git commit -qm 'Signed-off-by: owner'; git push -qf origin HEAD:$(git branch --show-current) 2>&1; true";
    let outcome = Outcome::of(line).await;
    assert_eq!(outcome.paths(), ["made"]);
    let bare = std::fs::read_dir(outcome.world.path("data/quarantine")).unwrap().next().unwrap().unwrap().path();
    let head = &outcome.change.as_ref().unwrap().head_commit;
    let who =
        git(&bare, &["log", "--format=%an %ae", &format!("{}..{head}", outcome.change.as_ref().unwrap().base_commit)]);
    assert_eq!(who, "AstraForge Bot bot@astraforge.local");
}

#[tokio::test]
async fn a_hundred_thousand_files_end_in_bounded_time() {
    let outcome = Outcome::of("seq 1 100000 | split -l 1 -a 5 - f").await;
    if let Err(failure) = &outcome.change {
        assert!(failure.contains("larger than") || failure.contains("could not"), "{failure}");
    }
}

#[tokio::test]
#[ignore = "takes a minute or more; run by hand, with -- --ignored soak"]
async fn soak_a_file_of_half_a_gigabyte_ends_in_bounded_time() {
    let outcome = Outcome::of("head -c 524288000 /dev/urandom > big").await;
    match &outcome.change {
        Ok(_) => assert_eq!(outcome.paths(), ["big"]),
        Err(failure) => assert!(failure.contains("could not"), "{failure}"),
    }
}

#[tokio::test]
async fn a_file_that_claims_a_terabyte_ends_in_bounded_time() {
    let outcome = Outcome::of("truncate -s 1T sparse; echo x > made").await;
    assert_eq!(outcome.paths(), ["made"]);
    assert!(text(&outcome.log).contains("files of more than 1 GiB: `sparse`"), "{}", text(&outcome.log));
}
