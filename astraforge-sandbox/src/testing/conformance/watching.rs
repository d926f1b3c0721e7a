//! Watches: every change is told, in order, or that some were not.

use std::collections::BTreeSet;

use astraforge_core::files::{
    Existing, FileChange, FileErrorKind, FileEvent, FileReply, FileRequest, FileVerb, Roots, WatchRequest,
};
use futures::stream::BoxStream;

use super::*;

struct Watch {
    events: BoxStream<'static, Result<FileEvent, SessionError>>,
    folder: String,
}

impl Fixture {
    /// Watches the folder of [`path`](Fixture::path), or what is below it.
    async fn watch(&self, below: &str) -> Watch {
        let request = WatchRequest { roots: Roots(vec!["/tmp".to_owned()]), path: self.path(below), recursive: true };
        let events = self.machine().await.watch(request).await.unwrap();
        let mut watch = Watch { events, folder: self.path("") };
        assert_eq!(watch.next().await.1, FileChange::Watching);
        watch
    }
}

impl Watch {
    /// The next event, by its path below the folder.
    async fn next(&mut self) -> (String, FileChange) {
        let event = timeout(PATIENCE, self.events.next()).await.expect("something is told").expect("it lasts").unwrap();
        let path = format!("{}/", event.path);
        let below = path.strip_prefix(&self.folder).unwrap_or(&path);
        (below.trim_end_matches('/').to_owned(), event.change)
    }

    /// What is told until `path` has changed in that way; nothing is told twice as new.
    async fn until(&mut self, path: &str, change: FileChange) -> Vec<(String, FileChange)> {
        let mut told = Vec::new();
        loop {
            told.push(self.next().await);
            if told.last() == Some(&(path.to_owned(), change)) {
                return told;
            }
        }
    }
}

/// What is made, changed, moved and removed is told in that order.
pub async fn changes_are_told_as_they_happen(driver: DynSandboxDriver) {
    use FileChange::{Created, Modified, Removed};
    let sandbox = Fixture::new(driver).await;
    sandbox.make_folder().await;
    let mut watch = sandbox.watch("").await;
    let mut told = Vec::new();
    // One after the other: what is gone by the time that it is looked at was not merely changed.
    for (line, path, change) in [
        ("echo a > f && mv f g", "g", Created),
        ("chmod 600 g", "g", Modified),
        ("rm g && mkdir d && touch end", "end", Created),
    ] {
        assert!(sandbox.shell(&format!("cd {} && {line}", sandbox.path(""))).await.exit.success());
        told.extend(watch.until(path, change).await);
    }
    let told: Vec<_> = told.iter().map(|(path, change)| (path.as_str(), *change)).collect();
    let expected = [("f", Created), ("f", Removed), ("g", Created), ("g", Removed), ("d", Created), ("end", Created)];
    let mut without_changes = told.clone();
    without_changes.retain(|(_, change)| *change != Modified);
    assert_eq!(without_changes, expected, "{told:?}");
    // A single file, through all that editors do to it.
    let mut file = sandbox.watch("end").await;
    let line = format!("cd {} && touch other && echo b > new && mv new end && rm end", sandbox.path(""));
    assert!(sandbox.shell(&line).await.exit.success());
    assert_eq!(file.next().await, ("end".to_owned(), Created));
    assert_eq!(file.until("end", Removed).await.len(), 1, "nothing else is told");
    // The end of what is watched is the end of the watch.
    assert!(sandbox.shell(&format!("rm -r {}", sandbox.path("d"))).await.exit.success());
    let mut gone = sandbox.watch("").await;
    assert!(sandbox.shell(&format!("rm -r {}", sandbox.path(""))).await.exit.success());
    while let Some(event) = timeout(PATIENCE, gone.events.next()).await.expect("it ends") {
        event.unwrap();
    }
    sandbox.end().await;
}

/// Whatever is made in a new folder is told once, however soon after the folder it was made.
pub async fn a_new_folder_is_watched_with_all_that_is_in_it(driver: DynSandboxDriver) {
    let sandbox = Fixture::new(driver).await;
    sandbox.make_folder().await;
    let mut watch = sandbox.watch("").await;
    let line = format!(
        "cd {} && for d in 1 2 3 4 5 6 7 8; do mkdir -p $d/a/b && echo > $d/f && echo > $d/a/f && echo > $d/a/b/f; done; \
         mv 1/a moved && echo > moved/b/late && touch end",
        sandbox.path("")
    );
    assert!(sandbox.shell(&line).await.exit.success());
    let told = watch.until("end", FileChange::Created).await;
    let created: Vec<&str> =
        told.iter().filter(|(_, change)| *change == FileChange::Created).map(|(path, _)| path.as_str()).collect();
    let mut expected: BTreeSet<String> =
        ["end", "moved", "moved/b", "moved/f", "moved/b/f", "moved/b/late"].map(str::to_owned).into();
    for folder in 1..=8 {
        expected.extend(["", "/f", "/a", "/a/f", "/a/b", "/a/b/f"].map(|below| format!("{folder}{below}")));
    }
    let seen: BTreeSet<String> = created.iter().map(|&path| path.to_owned()).collect();
    // The folder that was moved away may have been gone before it was looked into.
    let missing: Vec<_> = expected.difference(&seen).filter(|path| !path.starts_with("1/a")).collect();
    assert!(missing.is_empty() && seen.is_subset(&expected), "missing {missing:?} in {told:?}");
    assert_eq!(created.len(), seen.len(), "each is new once: {told:?}");
    // What happens in it later is told under its new name.
    assert!(sandbox.shell(&format!("rm {}", sandbox.path("moved/b/late"))).await.exit.success());
    watch.until("moved/b/late", FileChange::Removed).await;
    sandbox.end().await;
}

/// No link leads a watch out of its roots or its folder, and what is not there is not watched.
pub async fn a_watch_stays_where_it_is_allowed(driver: DynSandboxDriver) {
    let sandbox = Fixture::new(driver).await;
    sandbox.make_folder().await;
    let line = format!("cd {} && mkdir in out && ln -s ../out in/link && ln -s /etc in/etc", sandbox.path(""));
    assert!(sandbox.shell(&line).await.exit.success());
    let mut watch = sandbox.watch("in").await;
    let line = format!("cd {} && echo > out/unseen && echo > in/link/unseen && touch in/end", sandbox.path(""));
    assert!(sandbox.shell(&line).await.exit.success());
    assert_eq!(watch.next().await, ("in/end".to_owned(), FileChange::Created));
    let refused = async |path: String| {
        let request = WatchRequest { roots: Roots(vec![sandbox.path("in")]), path, recursive: true };
        match sandbox.machine().await.watch(request).await.err().expect("it is refused") {
            SessionError::File { kind, .. } => kind,
            SessionError::FileNotFound { .. } => FileErrorKind::NotFound,
            other => panic!("{other}"),
        }
    };
    assert_eq!(refused("/etc".to_owned()).await, FileErrorKind::OutsideRoots);
    assert_eq!(refused(sandbox.path("in/etc")).await, FileErrorKind::OutsideRoots);
    assert_eq!(refused(sandbox.path("in/none")).await, FileErrorKind::NotFound);
    let mut open = Vec::new();
    let full = loop {
        let request =
            WatchRequest { roots: Roots(vec!["/tmp".to_owned()]), path: sandbox.path("in"), recursive: false };
        match sandbox.machine().await.watch(request).await {
            Ok(watch) if open.len() < 1000 => open.push(watch),
            Ok(_) => panic!("there is no end to watches"),
            Err(error) => break error,
        }
    };
    assert!(full.to_string().contains("end one first"), "{full}");
    sandbox.end().await;
}

/// A watch whose host does not keep up holds no memory, and says that something was not told.
pub async fn a_watch_that_falls_behind_says_so(driver: DynSandboxDriver) {
    let sandbox = Fixture::new(driver).await;
    sandbox.make_folder().await;
    let mut watch = sandbox.watch("").await;
    let line =
        format!("cd {} && i=0; while [ $i -lt 30000 ]; do echo >> a; echo >> b; i=$((i+1)); done", sandbox.path(""));
    assert!(sandbox.shell(&line).await.exit.success());
    watch.until("", FileChange::Overflowed).await;
    assert!(sandbox.shell(&format!("mkdir {0}late && echo > {0}late/f", sandbox.path(""))).await.exit.success());
    watch.until("late/f", FileChange::Created).await;
    sandbox.end().await;
}

/// A move between filesystems is a copy that is whole before anything is removed.
pub async fn what_is_moved_to_another_filesystem_arrives_whole(driver: DynSandboxDriver) {
    let sandbox = Fixture::new(driver).await;
    if !sandbox.shell("test \"$(stat -c %d /workspace)\" != \"$(stat -c %d /tmp)\"").await.exit.success() {
        eprintln!("skipped: this driver's /workspace and /tmp are one filesystem");
        return sandbox.end().await;
    }
    let name = format!("/workspace/{}", sandbox.session.id());
    let line =
        format!("mkdir -p {name}/d && cd {name} && echo x > d/f && chmod 750 d/f && ln -s f d/l && touch -d @1000 d");
    assert!(sandbox.shell(&line).await.exit.success());
    sandbox.make_folder().await;
    let go = async |from: String, to: String, existing: Existing| {
        let verb = FileVerb::Move { from, to, existing };
        let request = FileRequest { roots: Roots::default(), verb };
        timeout(PATIENCE, sandbox.machine().await.file(request)).await.expect("a move ends")
    };
    assert_eq!(go(format!("{name}/d"), sandbox.path("d"), Existing::Keep).await.unwrap(), FileReply::Done);
    let line = format!("cd {} && stat -c '%Y %a' d && stat -c %a d/f && readlink d/l && ls -A", sandbox.path(""));
    let output = sandbox.shell(&line).await;
    assert!(output.stdout.ends_with(b"750\nf\nd\n") && output.stdout.starts_with(b"1000 "), "{output:?}");
    assert!(!sandbox.shell(&format!("test -e {name}/d")).await.exit.success(), "it is not there any more");
    assert!(go(sandbox.path("d/f"), name.clone(), Existing::Keep).await.is_err(), "what is there is kept");
    assert!(go(sandbox.path("d/f"), name, Existing::Replace).await.is_err(), "a file replaces no folder");
    assert!(sandbox.shell(&format!("test -f {}", sandbox.path("d/f"))).await.exit.success(), "it stays on failure");
    sandbox.end().await;
}
