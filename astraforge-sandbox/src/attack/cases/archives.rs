//! Archives that are not what they seem, put in place by a restore.

use std::io::Write;

use astraforge_core::{
    archive::{ArchiveSummary, Compression, PackRequest, UnpackRequest},
    ports::sessions::SessionError,
    session::{ByteSize, SandboxSpec, Workspace},
};
use bytes::Bytes;
use flate2::write::GzEncoder;
use futures::{StreamExt, TryStreamExt};
use tar::{Builder, EntryType, Header};
use tokio::time::timeout;

use crate::attack::{
    Target,
    case::{Judged, Stop, hold, table},
    target::Subject,
    transcript::PATIENCE,
};

table! { Files:
    "archive-dot-dot" "members named with .. are not written" target => refused(target, dot_dot());
    "archive-absolute" "members with absolute names stay below the workspace" target => contained(target, absolute());
    "archive-through-link" "no member is written through a link of the same archive" target => contained(target, through_link());
    "archive-hard-link" "no hard link leads out" target => contained(target, hard_link());
    "archive-devices" "devices, pipes and sockets are not made" target => contained(target, special());
    "archive-setuid" "setuid bits of an archive do nothing" target => setuid(target);
    "archive-duplicates" "members of the same name end as the last" target => duplicates(target);
    "archive-count" "too many members are refused" target => count(target);
    "archive-bomb" "an archive that unpacks to more than its limit is refused" target => bomb(target);
    "archive-broken" "truncated, lying and trailing archives change nothing" target => broken(target);
    "archive-honest" "a workspace as people have them comes back whole" target => honest(target);
    "pack-while-writing" "packing while files change ends, and yields an archive that is whole" target => busy(target);
}

const MEMBERS: u64 = 5000;

/// A tar archive of members as the attacker names them; the library itself would refuse some of the names.
struct Forged(Builder<Vec<u8>>);

impl Forged {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn member(mut self, kind: EntryType, name: &[u8], link: &[u8], contents: &[u8], mode: u32) -> Self {
        let mut header = Header::new_gnu();
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name);
        old.linkname[..link.len()].copy_from_slice(link);
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(contents.len() as u64);
        header.set_cksum();
        // Writing to memory does not fail.
        let _ = self.0.append(&header, contents);
        self
    }

    fn file(self, name: &str, contents: &str) -> Self {
        self.member(EntryType::Regular, name.as_bytes(), b"", contents.as_bytes(), 0o644)
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.member(EntryType::Symlink, name.as_bytes(), target.as_bytes(), b"", 0o777)
    }

    fn done(self) -> Vec<u8> {
        self.0.into_inner().unwrap_or_default()
    }
}

fn dot_dot() -> Vec<u8> {
    Forged::new()
        .file("workspace/good", "good")
        .file("workspace/../dev/shm/escaped", "x")
        .file("../dev/shm/escaped", "x")
        .file("workspace/a/../../../dev/shm/escaped", "x")
        .done()
}

fn absolute() -> Vec<u8> {
    Forged::new().file("/dev/shm/escaped", "x").file("//dev/shm/escaped", "x").file("dev/shm/escaped", "x").done()
}

fn through_link() -> Vec<u8> {
    Forged::new()
        .link("workspace/out", "/dev/shm")
        .file("workspace/out/escaped", "x")
        .link("workspace/up", "../dev/shm")
        .file("workspace/up/escaped", "x")
        .link("workspace/swap", "/dev/shm")
        .member(EntryType::Directory, b"workspace/swap/", b"", b"", 0o777)
        .file("workspace/swap/escaped", "x")
        .link("workspace/file", "/dev/shm/canary")
        .file("workspace/file", "overwritten")
        .done()
}

fn hard_link() -> Vec<u8> {
    Forged::new()
        .member(EntryType::Link, b"workspace/hard", b"/dev/shm/canary", b"", 0o644)
        .file("workspace/hard", "overwritten")
        .member(EntryType::Link, b"workspace/passwd", b"../etc/passwd", b"", 0o644)
        .link("workspace/way", "/dev/shm")
        .member(EntryType::Link, b"workspace/through", b"workspace/way/canary", b"", 0o644)
        .file("workspace/through", "overwritten")
        .done()
}

fn special() -> Vec<u8> {
    Forged::new()
        .member(EntryType::Char, b"workspace/memory", b"", b"", 0o666)
        .member(EntryType::Block, b"workspace/disk", b"", b"", 0o666)
        .member(EntryType::Fifo, b"workspace/pipe", b"", b"", 0o666)
        .member(EntryType::new(b'Z'), b"workspace/strange", b"", b"", 0o666)
        .done()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    // Writing to memory does not fail.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

async fn unpack(subject: &Subject, archive: Vec<u8>) -> Result<Result<ArchiveSummary, SessionError>, Stop> {
    let request = UnpackRequest {
        compression: Compression::Gzip,
        replace: vec!["/workspace".to_owned()],
        max_bytes: 32 << 20,
        max_entries: MEMBERS,
    };
    let archive = Bytes::from(archive);
    let pieces: Vec<_> = archive.chunks(1 << 16).map(|it| Ok(archive.slice_ref(it))).collect();
    let unpacked = subject.machine.unpack(request, futures::stream::iter(pieces).boxed());
    match timeout(PATIENCE, unpacked).await {
        Ok(Err(SessionError::Unsupported { what, reason })) => Err(Stop::Excused(format!("{what}: {reason}"))),
        Ok(unpacked) => Ok(unpacked),
        Err(_) => Err(Stop::breach("a restore hangs")),
    }
}

/// A sandbox with a file that a restore would replace, and one outside that it must not touch.
async fn prepared(target: &Target) -> Result<std::sync::Arc<Subject>, Stop> {
    let spec = SandboxSpec::default().with_workspace(Workspace::Tmpfs { size: ByteSize::mib(128) });
    let subject = target.sandbox(spec).await?;
    subject.shell("echo canary > /dev/shm/canary; echo mine > /workspace/mine").await?;
    Ok(subject)
}

/// Fails when anything outside the workspace has changed.
async fn outside_is_whole(subject: &Subject) -> Result<(), Stop> {
    let outside = subject.shell("cd /dev/shm && ls -A && cat canary").await?;
    hold!(outside.stdout == b"canary\ncanary\n", "outside has changed: {}", String::from_utf8_lossy(&outside.stdout));
    Ok(())
}

async fn unchanged(subject: &Subject) -> Result<(), Stop> {
    outside_is_whole(subject).await?;
    let inside = subject.shell("cat /workspace/mine").await?;
    hold!(inside.stdout == b"mine\n", "a restore that failed has changed the files: {inside:?}");
    Ok(())
}

async fn refused(target: &Target, archive: Vec<u8>) -> Judged {
    let subject = prepared(target).await?;
    let unpacked = unpack(&subject, gzip(&archive)).await?;
    hold!(unpacked.is_err(), "it is put in place: {unpacked:?}");
    unchanged(&subject).await?;
    Ok("refused, and everything is as it was".to_owned())
}

/// Refused, or put in place without what leads out.
async fn contained(target: &Target, archive: Vec<u8>) -> Judged {
    let subject = prepared(target).await?;
    let unpacked = unpack(&subject, gzip(&archive)).await?;
    outside_is_whole(&subject).await?;
    let strange = subject
        .shell(
            "find /workspace ! -type f ! -type d ! -type l | head; cat /workspace/passwd 2>/dev/null | head -1; true",
        )
        .await?;
    hold!(strange.stdout.is_empty(), "the workspace holds {}", String::from_utf8_lossy(&strange.stdout));
    match unpacked {
        Ok(summary) => Ok(format!("contained: {} members", summary.n_entries)),
        Err(_) => {
            unchanged(&subject).await?;
            Ok("refused, and everything is as it was".to_owned())
        }
    }
}

async fn setuid(target: &Target) -> Judged {
    let subject = prepared(target).await?;
    let program = subject.machine.read_file("/bin/true", 16 << 20).await.unwrap_or_else(|_| Bytes::from_static(b"x"));
    let archive = Forged::new().member(EntryType::Regular, b"workspace/setuid", b"", &program, 0o6755).done();
    let unpacked = unpack(&subject, gzip(&archive)).await?;
    let mode = subject.shell("stat -c '%a %u' /workspace/setuid 2>/dev/null; true").await?;
    let text = String::from_utf8_lossy(&mode.stdout).trim().to_owned();
    let has_bits = text.split(' ').next().is_some_and(|it| it.len() > 3);
    hold!(!has_bits, "the bits are kept: {text}");
    Ok(format!("{}: {text}", if unpacked.is_ok() { "put in place without them" } else { "refused" }))
}

async fn duplicates(target: &Target) -> Judged {
    let subject = prepared(target).await?;
    let archive = Forged::new()
        .file("workspace/it", "first")
        .link("workspace/it", "/dev/shm/canary")
        .file("workspace/it", "second")
        .member(EntryType::Directory, b"workspace/it/", b"", b"", 0o755)
        .file("workspace/it", "last")
        .done();
    let unpacked = unpack(&subject, gzip(&archive)).await?;
    outside_is_whole(&subject).await?;
    Ok(if unpacked.is_ok() { "put in place, and nothing outside is touched" } else { "refused" }.to_owned())
}

async fn count(target: &Target) -> Judged {
    let mut archive = Forged::new();
    for it in 0..=MEMBERS {
        archive = archive.file(&format!("workspace/{it}"), "");
    }
    refused(target, archive.done()).await
}

async fn bomb(target: &Target) -> Judged {
    let zeros = vec![0; 64 << 20];
    let archive = Forged::new().member(EntryType::Regular, b"workspace/bomb", b"", &zeros, 0o644).done();
    let packed = gzip(&archive);
    let ratio = archive.len() / packed.len();
    drop((archive, zeros));
    let subject = prepared(target).await?;
    let before = crate::attack::host::resident();
    let unpacked = unpack(&subject, packed).await?;
    hold!(unpacked.is_err(), "64 MiB are put in place under a limit of 32: {unpacked:?}");
    unchanged(&subject).await?;
    let grown = crate::attack::host::resident().saturating_sub(before);
    hold!(grown < 64 << 20, "the server grew by {grown} bytes");
    Ok(format!("{ratio}:1 refused, and everything is as it was"))
}

async fn broken(target: &Target) -> Judged {
    let subject = prepared(target).await?;
    let whole = Forged::new().file("workspace/new", &"new ".repeat(10_000)).file("workspace/second", "x").done();
    let packed = gzip(&whole);
    let mut negative = whole.clone();
    negative[124..136].copy_from_slice(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00");
    let mut huge = whole.clone();
    huge[124..136].copy_from_slice(b"777777777777");
    for forged in [&mut negative, &mut huge] {
        let sum: u32 = forged[..512]
            .iter()
            .enumerate()
            .map(|(at, it)| u32::from(if (148..156).contains(&at) { b' ' } else { *it }))
            .sum();
        forged[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    let cases = [
        ("empty", Vec::new()),
        ("no archive at all", b"this is no archive".to_vec()),
        ("cut in the compressed stream", packed[..packed.len() / 2].to_vec()),
        ("cut between the two layers", gzip(&whole[..700])),
        ("a size below zero", gzip(&negative)),
        ("a size beyond all", gzip(&huge)),
        ("noise behind the first block", gzip(&[&whole[..512], &[0xa5; 5000]].concat())),
    ];
    let n_cases = cases.len();
    for (name, archive) in cases {
        let unpacked = unpack(&subject, archive).await?;
        hold!(unpacked.is_err(), "{name}: put in place: {unpacked:?}");
        unchanged(&subject).await?;
    }
    let trailing = [packed, b"trailing garbage".to_vec()].concat();
    let unpacked = unpack(&subject, trailing).await?;
    outside_is_whole(&subject).await?;
    let left = subject.shell("ls -A /workspace | grep -v -e mine -e new -e second -e attacker; true").await?;
    hold!(left.stdout.is_empty(), "parts are left: {}", String::from_utf8_lossy(&left.stdout));
    Ok(format!("{n_cases} refused; trailing garbage is {}", if unpacked.is_ok() { "left out" } else { "refused" }))
}

async fn honest(target: &Target) -> Judged {
    let subject = prepared(target).await?;
    let made = subject.attack(&["awkward-tree", "/workspace"]).await?;
    hold!(made.note("made") == Some("Ok(())"), "the tree was not made: {}", made.text);
    let look = "cd /workspace && find tree | sort | while read -r it; do stat -c '%n %F %a %s %N' \"$it\"; done; \
                cat 'tree/a file' tree/relative && tree/node_modules/.bin/run; cat tree/same";
    let before = subject.shell(look).await?;
    let pack = PackRequest::of(["/workspace"]).without([".attacker"]);
    let packed: Vec<Bytes> = subject.machine.pack(pack).await?.try_collect().await?;
    subject.shell("rm -rf /workspace/tree; echo other > /workspace/other").await?;
    let request = UnpackRequest {
        compression: Compression::Zstd,
        replace: vec!["/workspace".into()],
        max_bytes: 32 << 20,
        max_entries: MEMBERS,
    };
    subject.machine.unpack(request, futures::stream::iter(packed.into_iter().map(Ok)).boxed()).await?;
    let after = subject.shell(look).await?;
    hold!(
        before.stdout == after.stdout && !before.stdout.is_empty(),
        "it came back as {}",
        String::from_utf8_lossy(&after.stdout)
    );
    let other = subject.shell("ls /workspace").await?;
    hold!(!other.stdout.windows(5).any(|it| it == b"other"), "what was made since is still there");
    Ok("links, modes and names are as they were".to_owned())
}

async fn busy(target: &Target) -> Judged {
    let subject = prepared(target).await?;
    let (running, _) = subject.ready(&["churn", "/workspace"]).await?;
    let n_rounds = target.scaled(5, 100);
    for _ in 0..n_rounds {
        let pack = PackRequest::of(["/workspace"]);
        let packed = async { subject.machine.pack(pack).await?.try_collect::<Vec<Bytes>>().await };
        let packed = timeout(PATIENCE, packed).await.map_err(|_| Stop::breach("packing hangs"))??;
        let tar = zstd::decode_all(&*packed.concat()).map_err(|it| Stop::Breach(format!("not whole: {it}")))?;
        let mut archive = tar::Archive::new(&*tar);
        for entry in archive.entries().map_err(Stop::breach)? {
            let mut entry = entry.map_err(|it| Stop::Breach(format!("not whole: {it}")))?;
            std::io::copy(&mut entry, &mut std::io::sink()).map_err(|it| Stop::Breach(format!("not whole: {it}")))?;
        }
    }
    drop(running);
    subject.is_well().await?;
    Ok(format!("{n_rounds} archives, each whole"))
}
