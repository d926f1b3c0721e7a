//! Files, names and links that the host's side has to handle.

use std::time::Duration;

use astraforge_core::{
    archive::PackRequest,
    files::{
        DownloadRequest, Existing, FileReply, FileRequest, FileVerb, GrepOutput, Occurrences, Pattern, Roots,
        UploadRequest,
    },
    ports::sessions::{Session, SessionError},
    session::{ByteSize, SandboxSpec, Workspace},
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use tokio::time::timeout;

use crate::attack::{
    Target,
    case::{Judged, Stop, hold, table},
    target::Subject,
    transcript::PATIENCE,
};

table! { Files:
    "hostile-paths" "paths that lead out are refused by every verb" target => paths(target);
    "hostile-names" "names of every kind are handled as names" target => names(target);
    "hostile-links" "links lead no verb out of its roots" target => links(target);
    "link-race" "nor do links that change while they are followed" target => race(target);
    "odd-files" "pipes, sockets, devices and endless files hold up no verb" target => odd(target);
    "growing-file" "a file that never stops growing is read to where it ended" target => growing(target);
    "sparse-file" "a sparse terabyte is read in windows and takes no memory" target => sparse(target);
    "full-write" "a write into a full workspace leaves what was there" target => full(target);
    "concurrent-writers" "of many who write one file a reader sees one" target => writers(target);
    "daemon-side-of-proc" "the daemon's own side of /proc is no way out" target => daemon(target);
    "remove-thicket" "a workspace of any shape is removed" target => thicket(target);
}

fn request(verb: FileVerb) -> FileRequest {
    FileRequest { roots: Roots::default(), verb }
}

/// Every verb that takes a path, tried on `path`.
async fn try_all(subject: &Subject, path: &str) -> Result<Vec<(&'static str, Result<String, SessionError>)>, Stop> {
    let owned = || path.to_owned();
    let below = format!("{}/x", path.trim_end_matches('/'));
    let verbs: Vec<(&'static str, FileVerb)> = vec![
        ("stat", FileVerb::Stat { path: below.clone() }),
        ("list", FileVerb::List { path: owned(), depth: 2, limit: 100 }),
        ("read text", FileVerb::ReadText { path: owned(), offset: 0, limit: 10, max_bytes: 4096 }),
        (
            "edit",
            FileVerb::Edit { path: owned(), old: "root".into(), new: "toor".into(), occurrences: Occurrences::All },
        ),
        ("glob", FileVerb::Glob { pattern: "*".into(), path: owned(), limit: 100 }),
        (
            "grep",
            FileVerb::Grep {
                pattern: Pattern::Literal("root".into()),
                path: owned(),
                glob: None,
                output: GrepOutput::Lines,
                limit: 10,
            },
        ),
        ("make folder", FileVerb::MakeDir { path: below.clone() }),
        (
            "move in",
            FileVerb::Move { from: below.clone(), to: "/workspace/stolen".into(), existing: Existing::Replace },
        ),
        ("move out", FileVerb::Move { from: "/workspace/mine".into(), to: below.clone(), existing: Existing::Replace }),
        ("remove", FileVerb::Remove { path: below.clone(), recursive: true }),
    ];
    let mut results = Vec::new();
    for (name, verb) in verbs {
        let answer = timeout(PATIENCE, subject.machine.file(request(verb))).await;
        let answer = answer.map_err(|_| Stop::Breach(format!("{name} of {path} hangs")))?;
        results.push((name, answer.map(|it| format!("{it:?}"))));
    }
    let download = DownloadRequest { roots: Roots::default(), path: owned(), offset: 0, limit: Some(4096) };
    let download = async {
        let bytes: Vec<Bytes> = subject.machine.download(download).await?.try_collect().await?;
        Ok(String::from_utf8_lossy(&bytes.concat()).into_owned())
    };
    let upload = UploadRequest { roots: Roots::default(), path: below, mode: 0o644, existing: Existing::Replace };
    let upload = async {
        let bytes = futures::stream::iter([Ok(Bytes::from_static(b"attack"))]).boxed();
        subject.machine.upload(upload, bytes).await.map(|it| it.to_string())
    };
    let hangs = |name: &str| Stop::Breach(format!("{name} of {path} hangs"));
    results.push(("download", timeout(PATIENCE, download).await.map_err(|_| hangs("download"))?));
    results.push(("upload", timeout(PATIENCE, upload).await.map_err(|_| hangs("upload"))?));
    Ok(results)
}

async fn all_refused(subject: &Subject, path: &str) -> Result<usize, Stop> {
    let results = try_all(subject, path).await?;
    for (name, result) in &results {
        if let Err(SessionError::Unsupported { what, reason }) = result {
            return Err(Stop::Excused(format!("{what}: {reason}")));
        }
        hold!(result.is_err(), "{name} of {path:?} is carried out: {result:?}");
    }
    Ok(results.len())
}

async fn paths(target: &Target) -> Judged {
    let subject = target.sandbox(SandboxSpec::default()).await?;
    subject.upload("/workspace/mine", 0o644, Bytes::from_static(b"mine")).await?;
    let mut n_tried = 0;
    for path in [
        "/etc/passwd",
        "/",
        "//etc",
        "/workspace/../etc/passwd",
        "/workspace/./../../etc",
        "/tmp/../../etc/passwd",
        "/workspacex",
        "/workspace/..",
        "/proc/self/root",
        "/proc/1/root/etc/passwd",
        "/home/agent",
        "/dev/shm",
        "/run",
        "etc/passwd",
        "../etc/passwd",
        "",
        "/workspace/\0/../../etc",
        "/workspace/mine\0",
        "/tmp/a/../../../root",
        "/WORKSPACE",
        "file:///etc/passwd",
        "~",
        "/workspace/%2e%2e/%2e%2e/etc/passwd\0",
    ] {
        n_tried += all_refused(&subject, path).await?;
    }
    subject.is_well().await?;
    Ok(format!("{n_tried} calls refused"))
}

async fn names(target: &Target) -> Judged {
    let subject = target.sandbox(SandboxSpec::default()).await?;
    let made = subject.attack(&["odd-names", "/workspace/.."]).await?.number("made")?;
    hold!(made == 0, "names were made in the root");
    subject.shell("mkdir /workspace/odd").await?;
    let made = subject.attack(&["odd-names", "/workspace/odd"]).await?.number("made")?;
    let list =
        subject.machine.file(request(FileVerb::List { path: "/workspace/odd".into(), depth: 1, limit: 1000 })).await?;
    let FileReply::Entries { entries, .. } = list else { return Err(Stop::trouble("no list")) };
    hold!(entries.len() as u64 == made, "{made} files were made, {} are listed", entries.len());
    let mut n_read = 0;
    for entry in entries.iter().filter(|it| !it.path.contains('\u{fffd}')) {
        let read = subject.machine.read_file(&entry.path, 10).await?;
        hold!(read == "odd", "{:?} reads as {read:?}", entry.path);
        n_read += 1;
    }
    let hacked = subject.shell("ls -d /workspace/hacked /tmp/hacked /workspace/odd/hacked 2>/dev/null; true").await?;
    hold!(hacked.stdout.is_empty(), "a name was run as a command");
    let all = PackRequest::of(["/workspace/odd"]);
    let packed: Vec<Bytes> = subject.machine.pack(all).await?.try_collect().await?;
    hold!(!packed.concat().is_empty(), "nothing was packed");
    subject.machine.file(request(FileVerb::Remove { path: "/workspace/odd".into(), recursive: true })).await?;
    Ok(format!("{made} names, {n_read} of them read by name"))
}

async fn links(target: &Target) -> Judged {
    let subject = target.sandbox(SandboxSpec::default()).await?;
    subject
        .shell(
            "echo secret > /dev/shm/canary; mkdir -p /workspace/l; ln -s /dev/shm /workspace/l/out; \
                   ln -s /dev/shm/canary /workspace/l/file; ln -s ../../../dev/shm /workspace/l/up; \
                   ln -s /proc/self/root/dev/shm /workspace/l/proc; ln -s out /workspace/l/chain",
        )
        .await?;
    let mut n_tried = 0;
    for path in
        ["/workspace/l/out", "/workspace/l/up", "/workspace/l/proc", "/workspace/l/chain", "/workspace/l/out/canary"]
    {
        for (name, result) in try_all(&subject, path).await? {
            n_tried += 1;
            if let Ok(text) = result {
                hold!(!text.contains("secret") && !text.contains("canary"), "{name} of {path} leads out: {text}");
            }
        }
    }
    let read = subject
        .machine
        .file(request(FileVerb::ReadText { path: "/workspace/l/file".into(), offset: 0, limit: 9, max_bytes: 99 }))
        .await;
    hold!(read.is_err(), "a link out of the roots is read: {read:?}");
    let outside = subject.shell("ls /dev/shm; cat /dev/shm/canary").await?;
    hold!(outside.stdout == b"canary\nsecret\n", "outside has changed: {}", String::from_utf8_lossy(&outside.stdout));
    Ok(format!("{n_tried} calls stayed inside"))
}

async fn race(target: &Target) -> Judged {
    let subject = target.sandbox(SandboxSpec::default()).await?;
    subject.shell("mkdir /dev/shm/out && echo secret > /dev/shm/out/canary && mkdir /dev/shm/out/sub").await?;
    let (racer, _) = subject.ready(&["race", "/workspace/race", "/dev/shm/out"]).await?;
    let n_rounds = target.scaled(60, 3000);
    let (mut n_inside, mut n_calls) = (0, 0);
    for _ in 0..n_rounds {
        for (name, result) in try_all(&subject, "/workspace/race/door").await? {
            n_calls += 1;
            if let Ok(text) = result {
                n_inside += 1;
                hold!(!text.contains("secret"), "{name} leads out: {text}");
            }
        }
        let file = "/workspace/race/door/canary";
        let request_file = DownloadRequest { roots: Roots::default(), path: file.into(), offset: 0, limit: None };
        if let Ok(pieces) = subject.machine.download(request_file).await
            && let Ok(contents) = pieces.try_collect::<Vec<Bytes>>().await
        {
            hold!(!contents.concat().starts_with(b"secret"), "a file outside was read");
        }
        let edit = FileVerb::Edit {
            path: file.into(),
            old: "secret".into(),
            new: "stolen".into(),
            occurrences: Occurrences::All,
        };
        let _ = subject.machine.file(request(edit)).await;
        let pack = PackRequest::of(["/workspace/race"]);
        if let Ok(archive) = subject.machine.pack(pack).await
            && let Ok(pieces) = archive.try_collect::<Vec<Bytes>>().await
        {
            let unpacked = zstd::decode_all(&*pieces.concat()).map_err(Stop::trouble)?;
            hold!(!unpacked.windows(6).any(|it| it == b"secret"), "a file outside was packed");
        }
    }
    drop(racer);
    let outside = subject.shell("cd /dev/shm/out && ls -A && cat canary").await?;
    hold!(
        outside.stdout == b"canary\nsub\nsecret\n",
        "outside has changed: {}",
        String::from_utf8_lossy(&outside.stdout)
    );
    hold!(n_inside > 0, "no call got through at all");
    Ok(format!("{n_calls} calls, {n_inside} of them found something, all inside"))
}

async fn odd(target: &Target) -> Judged {
    let subject = target.sandbox(SandboxSpec::default()).await?;
    subject.shell("mkdir /workspace/odd").await?;
    let (running, _) = subject.ready(&["odd-files", "/workspace/odd"]).await?;
    let mut n_tried = 0;
    for name in [
        "fifo",
        "socket",
        "loop",
        "loop-a",
        "dangling",
        "tty",
        "stdin",
        "zero",
        "descriptor",
        "closed",
        "closed-folder",
        "hard",
        "up",
        "root",
        "init-root",
    ] {
        for (verb, result) in try_all(&subject, &format!("/workspace/odd/{name}")).await? {
            n_tried += 1;
            if let Ok(text) = result {
                hold!(!text.contains("root:x:") && !text.contains("daemon:"), "{verb} of {name} leads out: {text}");
            }
        }
    }
    let pack = PackRequest::of(["/workspace/odd"]).without(["sparse"]);
    let packed = timeout(PATIENCE, async { subject.machine.pack(pack).await?.try_collect::<Vec<Bytes>>().await }).await;
    packed.map_err(|_| Stop::breach("packing hangs"))??;
    drop(running);
    subject.is_well().await?;
    Ok(format!("{n_tried} calls ended"))
}

async fn growing(target: &Target) -> Judged {
    let spec = SandboxSpec::default().with_workspace(Workspace::Tmpfs { size: ByteSize::mib(256) });
    let subject = target.sandbox(spec).await?;
    let (running, _) = subject.ready(&["grow", "/workspace/growing"]).await?;
    let request =
        DownloadRequest { roots: Roots::default(), path: "/workspace/growing".into(), offset: 0, limit: None };
    let read = async {
        let mut pieces = subject.machine.download(request).await?;
        let mut n_bytes = 0;
        while let Some(piece) = pieces.next().await {
            // A file that shrinks meanwhile is an error in the stream, and an end too.
            match piece {
                Ok(piece) => n_bytes += piece.len(),
                Err(_) => break,
            }
        }
        Ok::<_, SessionError>(n_bytes)
    };
    let n_bytes = timeout(PATIENCE, read).await.map_err(|_| Stop::breach("a growing file is read for ever"))??;
    let pack = PackRequest::of(["/workspace"]);
    let packed = async {
        let mut pieces = subject.machine.pack(pack).await?;
        while let Some(Ok(_)) = pieces.next().await {}
        Ok::<_, SessionError>(())
    };
    timeout(PATIENCE, packed).await.map_err(|_| Stop::breach("a growing file is packed for ever"))??;
    drop(running);
    subject.is_well().await?;
    Ok(format!("{n_bytes} bytes, and an end"))
}

async fn sparse(target: &Target) -> Judged {
    let subject = target.sandbox(SandboxSpec::default()).await?;
    subject.shell("dd if=/dev/null of=/workspace/sparse bs=1048576 seek=1048576").await?;
    let before = crate::attack::host::resident();
    let request = DownloadRequest {
        roots: Roots::default(),
        path: "/workspace/sparse".into(),
        offset: 1 << 39,
        limit: Some(1 << 20),
    };
    let bytes: Vec<Bytes> = subject.machine.download(request).await?.try_collect().await?;
    hold!(bytes.iter().map(Bytes::len).sum::<usize>() == 1 << 20, "a window of a sparse file is not whole");
    let read = subject.machine.read_file("/workspace/sparse", 1 << 20).await;
    hold!(
        matches!(read, Err(SessionError::TooLarge { .. })),
        "a terabyte is read whole: {:?}",
        read.map(|it| it.len())
    );
    let grown = crate::attack::host::resident().saturating_sub(before);
    hold!(grown < 128 << 20, "the server grew by {grown} bytes");
    subject.is_well().await?;
    Ok(format!("the server grew by {} KiB", grown >> 10))
}

async fn full(target: &Target) -> Judged {
    let spec = SandboxSpec::default().with_workspace(Workspace::Tmpfs { size: ByteSize::mib(16) });
    let subject = target.sandbox(spec).await?;
    subject.upload("/workspace/kept", 0o644, Bytes::from_static(b"kept")).await?;
    subject.shell("head -c 100000000 /dev/zero > /workspace/big 2>/dev/null; true").await?;
    let written = subject.machine.write_file("/workspace/kept", vec![b'x'; 1 << 20].into(), 0o644).await;
    hold!(written.is_err(), "a full disk takes a file");
    let uploaded = subject.upload("/workspace/kept", 0o644, vec![b'x'; 1 << 20].into()).await;
    hold!(uploaded.is_err(), "a full disk takes an upload");
    let read = subject.machine.read_file("/workspace/kept", 100).await?;
    hold!(read == "kept", "what was there has become {} bytes", read.len());
    let left = subject.shell("ls -A /workspace | wc -l").await?;
    hold!(left.stdout == b"3\n", "parts are left: {}", String::from_utf8_lossy(&left.stdout));
    Ok("refused, and the file is as it was".to_owned())
}

async fn writers(target: &Target) -> Judged {
    let subject = target.sandbox(SandboxSpec::default()).await?;
    let whole = |it: u8| Bytes::from(vec![b'a' + it; 300_000]);
    subject.upload("/workspace/one", 0o644, whole(0)).await?;
    let writers = (0..8_u8).map(|it| {
        let subject = &subject;
        async move {
            for _ in 0..10 {
                subject.machine.write_file("/workspace/one", whole(it), 0o644).await?;
            }
            Ok::<_, SessionError>(())
        }
    });
    let reader = async {
        for _ in 0..40 {
            let read = subject.machine.read_file("/workspace/one", 1 << 20).await?;
            let first = read.first().copied();
            hold!(
                read.len() == 300_000 && read.iter().all(|it| Some(*it) == first),
                "a reader sees {} bytes of a mixture",
                read.len()
            );
        }
        Ok(())
    };
    let (written, read) = tokio::join!(futures::future::try_join_all(writers), reader);
    written?;
    read?;
    Ok("80 writes, 40 reads, each of one whole file".to_owned())
}

async fn daemon(target: &Target) -> Judged {
    let subject = target.sandbox(SandboxSpec::default()).await?;
    subject
        .shell("cd /workspace; ln -s /proc/self/root root; ln -s /proc/self/fd fd; ln -s /proc/self/exe exe")
        .await?;
    let session: &dyn Session = &*subject.machine;
    let mut n_tried = 0;
    for path in [
        "/proc/self/exe",
        "/proc/self/root/etc/passwd",
        "/proc/self/cwd/etc/passwd",
        "/proc/1/root/etc/passwd",
        "/proc/thread-self/root/etc/passwd",
        "/proc/self/fd/0",
        "/proc/self/fd/3",
        "/workspace/root/etc/shadow",
        "/workspace/fd/4",
        "/workspace/exe",
        "/dev/stdin",
        "/dev/ptmx",
        "/proc/kmsg",
        "/proc/self/mem",
        "/proc/self/environ",
    ] {
        let read = timeout(Duration::from_secs(20), session.read_file(path, 1 << 24)).await;
        let read = read.map_err(|_| Stop::Breach(format!("{path} is read for ever")))?;
        let told = read.as_ref().is_ok_and(|it| !it.is_empty());
        hold!(!told, "{path} can be read");
        let written =
            timeout(Duration::from_secs(20), session.write_file(&format!("{path}/x"), Bytes::from_static(b"x"), 0o777))
                .await;
        hold!(
            written.map_err(|_| Stop::Breach(format!("{path} is written for ever")))?.is_err(),
            "{path}/x can be written"
        );
        n_tried += 1;
    }
    subject.is_well().await?;
    Ok(format!("{n_tried} paths closed"))
}

async fn thicket(target: &Target) -> Judged {
    let spec = SandboxSpec::default()
        .with_workspace(Workspace::Disk { size: astraforge_core::session::Limit::best_effort(ByteSize::mib(64)) });
    let subject = target.sandbox(spec).await?;
    let depth = subject.attack(&["thicket", "/workspace"]).await?.number("depth")?;
    target.remember(subject.id).await?;
    target.clear().await.map_err(Stop::Breach)?;
    Ok(format!("{depth} levels, closed folders and links, and nothing is left"))
}
