//! What a workspace can push, and what it cannot.

use std::time::Duration;

use astraforge_core::{ports::git::GitBroker as _, session::ByteSize};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::git_world::{Server, WORK, World};

/// Pushes and checks that git says no, and that no ref of the quarantine moves.
async fn check_push_refused(world: &World, args: &[&str], told: &str) {
    let before = refs(world).await;
    let (success, said) = world.try_git("work", &[&["push"], args].concat()).await;
    assert!(!success && said.contains(told), "git push {args:?}: {said}");
    assert_eq!(refs(world).await, before, "git push {args:?}");
}

async fn refs(world: &World) -> String {
    let dir = world.quarantine().display().to_string();
    world
        .git(
            ".",
            &[
                "--git-dir",
                &dir,
                "for-each-ref",
                "--format=%(objectname) %(refname)",
                "refs/heads",
                "refs/base",
                "refs/tags",
            ],
        )
        .await
}

#[tokio::test]
async fn only_the_work_branch_can_be_pushed() {
    let world = World::new().await;
    let (_, _server) = world.workspace().await;
    world.write("work/x", "x");
    world.push().await;
    world.write("work/y", "y");
    world.commit("work", "more").await;
    for to in ["main", "other", "astraforge/work-2", "astraforge/work-1/below"] {
        let told = if to.contains("below") { "" } else { "deny updating a hidden ref" };
        check_push_refused(&world, &["-f", "origin", &format!("HEAD:refs/heads/{to}")], told).await;
    }
    check_push_refused(&world, &["-f", "origin", "HEAD:refs/base/main"], "hidden ref").await;
    check_push_refused(&world, &["-f", "origin", "HEAD:refs/tags/v1"], "hidden ref").await;
    check_push_refused(&world, &["-f", "origin", "HEAD:refs/astraforge/work"], "hidden ref").await;
    check_push_refused(&world, &["origin", ":main"], "").await;
    check_push_refused(&world, &["origin", &format!(":{WORK}")], "deletion prohibited").await;
    check_push_refused(&world, &["-o", "x", "origin", WORK], "push options").await;
}

#[tokio::test]
async fn no_branch_below_the_work_branch_can_be_made_before_it() {
    let world = World::new().await;
    let (base, _server) = world.workspace().await;
    world.write("work/x", "x");
    world.commit("work", "x").await;
    let below = format!("HEAD:refs/heads/{WORK}/below");
    let (success, said) = world.try_git("work", &["push", "origin", &below]).await;
    assert!(!success, "{said}");
    assert_eq!(world.change(&base).await.unwrap(), None);
    world.git("work", &["push", "-q", "origin", WORK]).await;
    assert!(world.change(&base).await.unwrap().is_some());
}

#[tokio::test]
async fn an_agent_may_rewrite_its_own_history() {
    let world = World::new().await;
    let (base, _server) = world.workspace().await;
    world.write("work/x", "first");
    world.push().await;
    world.write("work/x", "second");
    world.git("work", &["commit", "-q", "-a", "--amend", "-m", "again"]).await;
    world.git("work", &["push", "-q", "--force", "origin", WORK]).await;
    let change = world.change(&base).await.unwrap().unwrap();
    assert!(change.diff.contains("+second") && !change.diff.contains("+first"));
    assert_eq!(change.base_commit, base.commit);
}

#[tokio::test]
async fn a_push_that_is_too_large_is_refused_and_a_request_cannot_fill_the_disk() {
    let mut world = World::new().await;
    world.restart(|config| config.with_max_push(ByteSize::mib(1)).with_max_growth(ByteSize::mib(2)));
    let (base, _server) = world.workspace().await;
    world.write("work/huge", noise(3 << 20));
    world.commit("work", "huge").await;
    check_push_refused_now(&world, "maximum allowed size").await;
    assert_eq!(world.change(&base).await.unwrap(), None);
    world.git("work", &["reset", "-q", "--hard", "origin/main"]).await;
    let mut said = String::new();
    for n in 0..6_usize {
        world.write(&format!("work/part-{n}"), noise((700 << 10) + n));
        world.commit("work", "part").await;
        let (success, text) = world.try_git("work", &["push", "-q", "origin", WORK]).await;
        if !success {
            said = text;
            break;
        }
    }
    assert!(said.contains("maximum allowed size") || said.contains("nothing more is taken"), "{said}");
    // A new run of the request starts to count anew, from what is there.
    let standing = world.change(&base).await.unwrap().unwrap();
    world.mirror_after(&standing).await;
    world.git("work", &["push", "-q", "origin", WORK]).await;
}

async fn check_push_refused_now(world: &World, told: &str) {
    let (success, said) = world.try_git("work", &["push", "origin", WORK]).await;
    assert!(!success && said.contains(told), "{said}");
}

/// Bytes that do not compress.
fn noise(size: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64 + size as u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..size).map(|_| next()).collect()
}

#[tokio::test]
async fn objects_that_fsck_rejects_are_not_taken() {
    let world = World::new().await;
    let (_, _server) = world.workspace().await;
    let blob = world.git("work", &["rev-parse", "HEAD:README.md"]).await;
    world.write("entry", format!("100644 blob {blob}\t.git\n"));
    let made = std::process::Command::new("sh")
        .args([
            "-c",
            &format!(
                "git -C '{}' mktree --literally 2>/dev/null < '{}' || git -C '{0}' mktree < '{1}'",
                world.path("work").display(),
                world.path("entry").display()
            ),
        ])
        .output()
        .unwrap();
    let tree = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    assert_eq!(tree.len(), 40, "the test made its tree");
    let commit = world.git("work", &["commit-tree", "-p", "HEAD", "-m", "evil", &tree]).await;
    let (success, said) = world.try_git("work", &["push", "origin", &format!("{commit}:refs/heads/{WORK}")]).await;
    assert!(!success && said.contains("hasDotgit"), "{said}");
}

#[tokio::test]
async fn a_submodule_with_an_address_that_runs_something_is_not_taken() {
    let world = World::new().await;
    let (_, _server) = world.workspace().await;
    world.write("work/.gitmodules", "[submodule \"x\"]\n\tpath = x\n\turl = --upload-pack=touch /tmp/x\n");
    world.commit("work", "evil").await;
    check_push_refused_now(&world, "gitmodulesUrl").await;
}

#[tokio::test]
async fn a_name_that_is_no_work_branch_is_refused() {
    let world = World::new().await;
    let (_, _server) = world.workspace().await;
    for (name, told) in
        [("main", "name of the base branch"), ("-x", "not a branch name"), ("a..b", "not a branch name")]
    {
        let server = Server::start(world.broker.service(world.request, name)).await;
        let (success, said) = world.try_git("work", &["push", &server.url(), "HEAD:refs/heads/main"]).await;
        assert!(!success && said.contains(told), "{said}");
    }
}

#[tokio::test]
async fn other_paths_and_unknown_requests_are_turned_away() {
    let world = World::new().await;
    let server = world.serve().await;
    let (success, said) = world.try_git(".", &["clone", &server.url(), "early"]).await;
    assert!(!success && said.contains("nothing to clone yet"), "{said}");
    world.mirror().await;
    for path in ["/", "/other", "/repository/../x", "/repository.git"] {
        let url = format!("git://127.0.0.1:{}{path}", server.port());
        let (success, said) = world.try_git(".", &["clone", &url, "other"]).await;
        assert!(!success && said.contains("only /repository is served"), "{path}: {said}");
    }
}

#[tokio::test]
async fn bytes_that_are_no_git_end_the_connection_without_effect() {
    let world = World::new().await;
    let (_, server) = world.workspace().await;
    let before = refs(&world).await;
    let receive = "git-receive-pack /repository\0host=x\0";
    for bytes in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        b"0000".to_vec(),
        b"ffff".to_vec(),
        vec![0xff; 5000],
        format!("{:04x}{receive}garbage after it", receive.len() + 4).into_bytes(),
        format!("{:04x}{receive}0000", receive.len() + 4).into_bytes(),
        b"0031git-upload-archive /repository\0host=127.0.0.1\0".to_vec(),
    ] {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port())).await.unwrap();
        // The server may hang up before it has read everything.
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "the connection ends: {bytes:?}");
    }
    let after = refs(&world).await;
    // Asking to push opens the work branch at the base; that is all.
    let base = world.git("source", &["rev-parse", "main"]).await;
    assert_eq!(
        after,
        format!("{base} refs/base/main\n{base} refs/heads/{WORK}\n{base} refs/heads/main"),
        "before: {before}"
    );
    world.write("work/x", "x");
    world.push().await;
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_no_process() {
    let world = World::new().await;
    let (_, server) = world.workspace().await;
    let dir = world.quarantine().display().to_string();
    let running = || {
        let ps = std::process::Command::new("ps").args(["-eo", "args"]).output().unwrap();
        String::from_utf8_lossy(&ps.stdout).lines().filter(|line| line.contains(&dir)).count()
    };
    let mut streams = Vec::new();
    for verb in ["git-upload-pack", "git-receive-pack"] {
        let hello = format!("{verb} /repository\0host=x\0");
        let mut stream = TcpStream::connect(("127.0.0.1", server.port())).await.unwrap();
        stream.write_all(format!("{:04x}{hello}", hello.len() + 4).as_bytes()).await.unwrap();
        stream.read_u8().await.unwrap();
        streams.push(stream);
    }
    assert!(running() >= 2, "both are being served");
    drop(streams);
    for _ in 0..100 {
        if running() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{} processes are left", running());
}

/// A pack of two objects: a mebibyte, and a delta of ten kilobytes that repeats it two thousand times.
fn delta_bomb() -> Vec<u8> {
    const COPIES: usize = 2048;
    let size_bytes = |mut size: usize| {
        let mut bytes = Vec::new();
        while size >= 0x80 {
            bytes.push((size & 0x7f) as u8 | 0x80);
            size >>= 7;
        }
        bytes.push(size as u8);
        bytes
    };
    let object = |kind: u8, size: usize| {
        let mut head = vec![kind << 4 | (size & 0xf) as u8];
        if size > 0xf {
            head[0] |= 0x80;
            head.extend(size_bytes(size >> 4));
        }
        head
    };
    let mut delta = [size_bytes(1 << 20), size_bytes(COPIES << 20)].concat();
    // Copy from offset 0 the size whose third byte is 0x10.
    delta.extend([0x80 | 0x40, 0x10].repeat(COPIES));
    let base = object(3, 1 << 20);
    let base = [base, stored(&vec![b'x'; 1 << 20])].concat();
    let offset = base.len();
    let mut back = vec![(offset & 0x7f) as u8];
    let mut rest = offset >> 7;
    while rest > 0 {
        rest -= 1;
        back.insert(0, 0x80 | (rest & 0x7f) as u8);
        rest >>= 7;
    }
    [b"PACK\0\0\0\x02\0\0\0\x02".to_vec(), base, object(6, delta.len()), back, stored(&delta)].concat()
}

/// Wraps bytes as zlib does, without compressing them.
fn stored(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0x78, 0x01];
    let chunks: Vec<_> = bytes.chunks(0xffff).collect();
    for (n, chunk) in chunks.iter().enumerate() {
        let length = chunk.len() as u16;
        out.push(u8::from(n + 1 == chunks.len()));
        out.extend(length.to_le_bytes());
        out.extend((!length).to_le_bytes());
        out.extend_from_slice(chunk);
    }
    let (mut a, mut b) = (1_u32, 0_u32);
    for byte in bytes {
        a = (a + u32::from(*byte)) % 65521;
        b = (b + a) % 65521;
    }
    out.extend((b << 16 | a).to_be_bytes());
    out
}

#[tokio::test]
async fn a_pack_that_stands_for_gigabytes_is_refused_before_it_takes_them() {
    let mut world = World::new().await;
    world.restart(|config| config.with_max_memory(ByteSize::mib(256)));
    let (_, server) = world.workspace().await;
    let before = refs(&world).await;
    let packet = |text: String| format!("{:04x}{text}", text.len() + 4).into_bytes();
    let (zero, new) = ("0".repeat(40), "1".repeat(40));
    let head = [
        packet("git-receive-pack /repository\0host=x\0".into()),
        packet(format!("{zero} {new} refs/heads/{WORK}\0report-status")),
        b"0000".to_vec(),
        delta_bomb(),
        vec![0; 20],
    ];
    let mut stream = TcpStream::connect(("127.0.0.1", server.port())).await.unwrap();
    // The server may hang up before it has read everything.
    let _ = stream.write_all(&head.concat()).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answer)).await;
    assert!(ended.is_ok(), "the connection ends");
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.contains("unpack ") && !answer.contains("unpack ok"), "{answer}");
    assert!(!refs(&world).await.contains(&new), "before: {before}");
}
