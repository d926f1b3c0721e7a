//! The file verbs: exact, confined to their roots, and never waiting.

use astraforge_core::files::{
    DownloadRequest, EntryKind, Existing, FileErrorKind, FileReply, FileRequest, FileVerb, GrepOutput, Occurrences,
    Pattern, Roots, UploadRequest,
};
use futures::{TryStreamExt, stream};

use super::*;

impl Fixture {
    /// The folder of [`path`](Fixture::path), as the only root.
    fn roots(&self) -> Roots {
        Roots(vec![self.path("")])
    }

    async fn verb(&self, verb: FileVerb) -> Result<FileReply, SessionError> {
        let request = FileRequest { roots: self.roots(), verb };
        timeout(PATIENCE, self.machine().await.file(request)).await.expect("a verb ends")
    }

    async fn put(&self, path: &str, text: &str, existing: Existing) -> Result<u64, SessionError> {
        let request = UploadRequest { roots: self.roots(), path: self.path(path), mode: 0o640, existing };
        let contents = stream::iter([Ok(Bytes::from(text.to_owned()))]).boxed();
        self.machine().await.upload(request, contents).await
    }

    async fn get(&self, path: &str) -> Result<Vec<u8>, SessionError> {
        let request = DownloadRequest { roots: self.roots(), path: self.path(path), offset: 0, limit: None };
        Ok(self.machine().await.download(request).await?.try_collect::<Vec<Bytes>>().await?.concat())
    }

    async fn edit(&self, old: &str, new: &str, occurrences: Occurrences) -> Result<u64, SessionError> {
        let verb = FileVerb::Edit { path: self.path("f"), old: old.into(), new: new.into(), occurrences };
        match self.verb(verb).await? {
            FileReply::Edited { n_replaced } => Ok(n_replaced),
            other => panic!("{other:?}"),
        }
    }
}

fn kind<T: std::fmt::Debug>(result: Result<T, SessionError>) -> FileErrorKind {
    match result.unwrap_err() {
        SessionError::File { kind, .. } => kind,
        SessionError::FileNotFound { .. } => FileErrorKind::NotFound,
        other => panic!("{other}"),
    }
}

/// What is at a path is told, and folders are listed in order.
pub async fn what_is_where_is_told(driver: DynSandboxDriver) {
    let sandbox = Fixture::new(driver).await;
    sandbox.make_folder().await;
    let line = format!("cd {} && mkdir -p b/c && echo hi > a && ln -s a l && echo x > b/c/d", sandbox.path(""));
    assert!(sandbox.shell(&line).await.exit.success());
    let stat = async |name: &str| match sandbox.verb(FileVerb::Stat { path: sandbox.path(name) }).await {
        Ok(FileReply::Entry(entry)) => Ok((entry.kind, entry.size, entry.target)),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error),
    };
    assert_eq!(stat("a").await.unwrap(), (EntryKind::File, 3, None));
    assert_eq!(stat("l").await.unwrap().2.as_deref(), Some("a"));
    assert_eq!(stat("b").await.unwrap().0, EntryKind::Directory);
    assert_eq!(stat("").await.unwrap().0, EntryKind::Directory);
    assert_eq!(kind(stat("none").await), FileErrorKind::NotFound);
    assert_eq!(kind(stat("a/x").await), FileErrorKind::NotADirectory);
    let list =
        async |depth, limit| match sandbox.verb(FileVerb::List { path: sandbox.path(""), depth, limit }).await.unwrap()
        {
            FileReply::Entries { entries, truncated } => {
                let names: Vec<_> = entries.iter().map(|it| it.path.rsplit('/').next().unwrap().to_owned()).collect();
                (names.join(" "), truncated)
            }
            other => panic!("{other:?}"),
        };
    assert_eq!(list(1, 10).await, ("a b l".to_owned(), false));
    assert_eq!(list(9, 10).await, ("a b c d l".to_owned(), false));
    assert_eq!(list(9, 2).await, ("a b".to_owned(), true));
    sandbox.end().await;
}

/// Folders are made, things are moved and removed, and what is there is not overwritten unasked.
pub async fn folders_are_made_moved_and_removed(driver: DynSandboxDriver) {
    let sandbox = Fixture::new(driver).await;
    sandbox.make_folder().await;
    let path = |name: &str| sandbox.path(name);
    sandbox.verb(FileVerb::MakeDir { path: path("x/y/z") }).await.unwrap();
    sandbox.verb(FileVerb::MakeDir { path: path("x/y/z") }).await.unwrap();
    sandbox.put("x/y/f", "one", Existing::Keep).await.unwrap();
    assert_eq!(kind(sandbox.put("x/y/f", "two", Existing::Keep).await), FileErrorKind::AlreadyExists);
    let rename =
        async |from, to, existing| sandbox.verb(FileVerb::Move { from: path(from), to: path(to), existing }).await;
    sandbox.put("g", "three", Existing::Replace).await.unwrap();
    assert_eq!(kind(rename("x/y/f", "g", Existing::Keep).await), FileErrorKind::AlreadyExists);
    rename("x/y/f", "g", Existing::Replace).await.unwrap();
    assert_eq!(sandbox.get("g").await.unwrap(), b"one");
    rename("x", "new/place", Existing::Keep).await.unwrap();
    assert_eq!(kind(rename("x", "y", Existing::Keep).await), FileErrorKind::NotFound);
    let remove = async |name, recursive| sandbox.verb(FileVerb::Remove { path: path(name), recursive }).await;
    assert_eq!(kind(remove("new", false).await), FileErrorKind::IsDirectory);
    remove("new", true).await.unwrap();
    remove("g", false).await.unwrap();
    assert_eq!(kind(remove("g", true).await), FileErrorKind::NotFound);
    assert_eq!(kind(remove("", true).await), FileErrorKind::InvalidArgument);
    assert_eq!(sandbox.shell(&format!("ls -A {}", path(""))).await.stdout, b"");
    sandbox.end().await;
}

/// Text is read by lines and edited exactly; the file keeps its mode, and is whole at every moment.
pub async fn text_is_read_and_edited_exactly(driver: DynSandboxDriver) {
    let sandbox = Fixture::new(driver).await;
    sandbox.make_folder().await;
    sandbox.put("f", "one\r\ntwo\r\ntwo\r\n", Existing::Replace).await.unwrap();
    assert_eq!(kind(sandbox.edit("two", "2", Occurrences::Unique).await), FileErrorKind::ManyMatches);
    assert_eq!(kind(sandbox.edit("four", "4", Occurrences::All).await), FileErrorKind::NoMatch);
    assert_eq!(sandbox.edit("one\ntwo\n", "1\n2\n", Occurrences::Unique).await.unwrap(), 1);
    assert_eq!(sandbox.get("f").await.unwrap(), b"1\r\n2\r\ntwo\r\n");
    assert_eq!(sandbox.shell(&format!("stat -c %a {}", sandbox.path("f"))).await.stdout, b"640\n");
    let read = FileVerb::ReadText { path: sandbox.path("f"), offset: 1, limit: 1, max_bytes: 100 };
    match sandbox.verb(read).await.unwrap() {
        FileReply::Text(window) => {
            assert_eq!((window.text.as_str(), window.first_line, window.total_lines), ("2\r\n", 2, 3));
        }
        other => panic!("{other:?}"),
    }
    let large = "line of a large file\n".repeat(100_000) + "last\n";
    sandbox.put("f", &large, Existing::Replace).await.unwrap();
    assert_eq!(sandbox.edit("last", "first", Occurrences::Unique).await.unwrap(), 1);
    assert_eq!(sandbox.get("f").await.unwrap(), large.replace("last", "first").into_bytes());
    sandbox.end().await;
}

/// Files are found by name, lines by content; links and repositories' own folders are left out.
pub async fn files_are_found_by_name_and_content(driver: DynSandboxDriver) {
    let sandbox = Fixture::new(driver).await;
    sandbox.make_folder().await;
    for (path, text) in [
        ("src/a.rs", "fn main() {\n    a.b();\n}\n"),
        ("src/deep/b.rs", "// axb\n"),
        ("notes.txt", "a.b\na.b\n"),
        (".git/config", "a.b\n"),
        ("bin", "a.b\0"),
    ] {
        sandbox.put(path, text, Existing::Replace).await.unwrap();
    }
    assert!(sandbox.shell(&format!("ln -s . {}", sandbox.path("loop"))).await.exit.success());
    let root = sandbox.path("");
    let glob = async |pattern: &str, limit| {
        let verb = FileVerb::Glob { pattern: pattern.into(), path: root.clone(), limit };
        match sandbox.verb(verb).await.unwrap() {
            FileReply::Paths { paths, truncated } => (paths, truncated),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(glob("*.rs", 9).await, (vec![sandbox.path("src/a.rs"), sandbox.path("src/deep/b.rs")], false));
    assert_eq!(glob("src/*.rs", 9).await.0, [sandbox.path("src/a.rs")]);
    assert_eq!(glob("**", 1).await, (vec![sandbox.path("bin")], true));
    let grep = async |pattern, glob: Option<&str>, output| {
        let verb = FileVerb::Grep { pattern, path: root.clone(), glob: glob.map(str::to_owned), output, limit: 9 };
        sandbox.verb(verb).await
    };
    match grep(Pattern::Literal("a.b".into()), None, GrepOutput::Lines).await.unwrap() {
        FileReply::Matches { matches, truncated: false } => {
            let found: Vec<_> = matches.iter().map(|it| (it.path.clone(), it.line, it.text.as_str())).collect();
            let notes = sandbox.path("notes.txt");
            assert_eq!(
                found,
                [(notes.clone(), 1, "a.b"), (notes, 2, "a.b"), (sandbox.path("src/a.rs"), 2, "    a.b();")]
            );
        }
        other => panic!("{other:?}"),
    }
    match grep(Pattern::Regex("a.b".into()), Some("*.rs"), GrepOutput::Counts).await.unwrap() {
        FileReply::Counts { counts, .. } => assert_eq!(counts.iter().map(|it| it.n_lines).collect::<Vec<_>>(), [1, 1]),
        other => panic!("{other:?}"),
    }
    let wrong = grep(Pattern::Regex("(".into()), None, GrepOutput::Lines).await;
    assert_eq!(kind(wrong), FileErrorKind::InvalidArgument);
    sandbox.end().await;
}

/// No spelling and no link leads out of the roots; a link that stays inside them is fine.
pub async fn file_verbs_stay_in_their_roots(driver: DynSandboxDriver) {
    let sandbox = Fixture::new(driver).await;
    sandbox.make_folder().await;
    let line = format!(
        "cd {root} && mkdir d && echo in > d/f && ln -s d inside && ln -s {root}/d absolute && ln -s /etc out && \
         ln -s /etc/passwd file && ln -s loop loop && ln -s ../../.. up && mkfifo fifo",
        root = sandbox.path("")
    );
    assert!(sandbox.shell(&line).await.exit.success());
    for path in ["d/f", "inside/f", "absolute/f", "d/../d/f", "./d//f"] {
        assert_eq!(sandbox.get(path).await.unwrap(), b"in\n", "{path}");
    }
    for path in ["out/passwd", "file", "up/etc/passwd", "d/../../../etc/passwd", "../x"] {
        assert_eq!(kind(sandbox.get(path).await), FileErrorKind::OutsideRoots, "{path}");
    }
    assert_eq!(kind(sandbox.put("out/x", "x", Existing::Replace).await), FileErrorKind::OutsideRoots);
    let remove = FileVerb::Remove { path: sandbox.path("out/passwd"), recursive: false };
    assert_eq!(kind(sandbox.verb(remove).await), FileErrorKind::OutsideRoots);
    assert_eq!(kind(sandbox.get("fifo").await), FileErrorKind::NotAFile);
    assert!(sandbox.get("loop").await.is_err());
    let elsewhere = FileVerb::Stat { path: "/etc/passwd".to_owned() };
    assert_eq!(kind(sandbox.verb(elsewhere).await), FileErrorKind::OutsideRoots);
    for path in ["", "relative", "/tmp/a\0b"] {
        let verb = FileVerb::Stat { path: path.to_owned() };
        assert_eq!(kind(sandbox.verb(verb).await), FileErrorKind::InvalidArgument, "{path:?}");
    }
    sandbox.end().await;
}

/// A folder that turns into a link out, over and over, never leads a verb out.
pub async fn a_race_of_links_never_leads_out(driver: DynSandboxDriver) {
    let sandbox = Fixture::new(driver).await;
    sandbox.make_folder().await;
    let line = format!(
        "cd {} && mkdir real && echo in > real/passwd && ln -s /etc link && while :; do mv -T real d; mv -T d real; \
         mv -T link d; mv -T d link; done",
        sandbox.path("")
    );
    let racing = sandbox.session.exec(Command::shell(line).with_cwd("/tmp")).await.unwrap();
    let mut n_read = 0;
    for _ in 0..300 {
        match sandbox.get("d/passwd").await {
            Ok(bytes) => {
                assert_eq!(bytes, b"in\n");
                n_read += 1;
            }
            Err(error) => assert!(matches!(error, SessionError::File { .. } | SessionError::FileNotFound { .. })),
        }
    }
    drop(racing);
    assert!(n_read < 300, "the race was run");
    sandbox.end().await;
}

/// Hundreds of megabytes go in and out as they are.
pub async fn large_files_are_streamed_both_ways(driver: DynSandboxDriver) {
    let sandbox = Fixture::new(driver).await;
    sandbox.make_folder().await;
    const PIECES: u64 = 120;
    let piece = |n: u64| Bytes::from(vec![(n % 251) as u8; MIB]);
    let request =
        UploadRequest { roots: sandbox.roots(), path: sandbox.path("large"), mode: 0o600, existing: Existing::Replace };
    let machine = sandbox.machine().await;
    let n_bytes = machine.upload(request, stream::iter(0..PIECES).map(move |n| Ok(piece(n))).boxed()).await.unwrap();
    assert_eq!(n_bytes, PIECES * MIB as u64);
    let download = DownloadRequest { roots: sandbox.roots(), path: sandbox.path("large"), offset: 1, limit: None };
    let mut position = 1;
    let mut pieces = machine.download(download).await.unwrap();
    while let Some(bytes) = pieces.try_next().await.unwrap() {
        for byte in bytes.iter().step_by(4096) {
            assert!(u64::from(*byte) == position / MIB as u64 % 251 || bytes.len() > 4096);
        }
        position += bytes.len() as u64;
    }
    assert_eq!(position, n_bytes);
    let sum = sandbox.shell(&format!("cksum < {}", sandbox.path("large"))).await;
    let line = "i=0; while [ $i -lt 120 ]; do head -c 1048576 /dev/zero | tr '\\000' \"\\\\$(printf %03o $((i % 251)))\"; \
                i=$((i+1)); done | cksum";
    assert_eq!(sum.stdout, sandbox.shell(line).await.stdout);
    sandbox.end().await;
}

/// An upload that breaks off leaves what was there.
pub async fn an_upload_that_breaks_off_changes_nothing(driver: DynSandboxDriver) {
    let sandbox = Fixture::new(driver).await;
    sandbox.make_folder().await;
    sandbox.put("f", "before", Existing::Replace).await.unwrap();
    let request =
        UploadRequest { roots: sandbox.roots(), path: sandbox.path("f"), mode: 0o600, existing: Existing::Replace };
    let machine = sandbox.machine().await;
    let half = || stream::iter([Ok(Bytes::from_static(b"half"))]);
    let broken = half().chain(stream::iter([Err(SessionError::Lost)])).boxed();
    assert!(matches!(machine.upload(request.clone(), broken).await, Err(SessionError::Lost)));
    let never = half().chain(stream::pending()).boxed();
    assert!(timeout(Duration::from_millis(200), machine.upload(request, never)).await.is_err());
    assert_eq!(sandbox.get("f").await.unwrap(), b"before");
    let wait = async {
        while sandbox.shell(&format!("ls -A {} | wc -l", sandbox.path(""))).await.stdout != b"1\n" {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, wait).await.expect("nothing unfinished stays");
    sandbox.end().await;
}
