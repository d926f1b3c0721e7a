//! Archives: what a snapshot is made of comes back, or nothing changes.

use astraforge_core::{
    archive::{CompareRequest, Compression, PackRequest, TreeChangeKind, UnpackRequest},
    ports::{machines::ByteStream, sessions::SessionError},
};
use futures::{TryStreamExt, stream};

use super::*;

impl Fixture {
    fn pack_request(&self) -> PackRequest {
        PackRequest::of([self.path("tree")]).without(["*.log"])
    }

    async fn pack(&self) -> Vec<Bytes> {
        self.machine().await.pack(self.pack_request()).await.unwrap().try_collect().await.unwrap()
    }

    fn unpack_request(&self) -> UnpackRequest {
        UnpackRequest {
            compression: Compression::Zstd,
            replace: vec![self.path("tree")],
            max_bytes: 100_000_000,
            max_entries: 10_000,
        }
    }

    async fn unpack(&self, archive: ByteStream) -> Result<u64, SessionError> {
        self.machine().await.unpack(self.unpack_request(), archive).await.map(|summary| summary.n_entries)
    }

    /// Makes a tree with something of everything that belongs into an archive.
    async fn make_tree(&self) {
        self.make_folder().await;
        let line = format!(
            "mkdir -p {tree}/src/.git {tree}/empty && cd {tree} && echo one > src/one && ln -s src/one link && \
             ln -s /nowhere dangling && head -c 3000000 /dev/urandom > big && ln big same && chmod 750 src && \
             echo hush > drop.log && echo x > 'sp ace' && : > .hidden && mkfifo fifo",
            tree = self.path("tree")
        );
        assert!(self.shell(&line).await.exit.success());
    }

    /// All that can be said about the tree, fifo and log left out.
    async fn tree(&self) -> String {
        let line = format!(
            "cd {} && find . ! -name fifo ! -name '*.log' ! -name tree -exec ls -dnl {{}} + | awk '{{ if (/^d/) $5=\"\"; $3=$4=$6=$7=$8=\"\"; print }}' | \
             sort && find . -type f ! -name '*.log' -exec cksum {{}} + | sort",
            self.path("tree")
        );
        let output = self.shell(&line).await;
        assert!(output.exit.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

fn bytes(pieces: Vec<Bytes>) -> ByteStream {
    stream::iter(pieces.into_iter().map(Ok)).boxed()
}

/// What went into an archive is what comes out of it; what came since is gone.
pub async fn an_archive_brings_the_files_back(driver: DynSandboxDriver) {
    let sandbox = Fixture::new(driver).await;
    sandbox.make_tree().await;
    let before = sandbox.tree().await;
    let archive = sandbox.pack().await;
    let spoil = format!("cd {} && rm -r src link && echo since > since && echo more >> big", sandbox.path("tree"));
    assert!(sandbox.shell(&spoil).await.exit.success());
    assert_ne!(sandbox.tree().await, before);
    sandbox.unpack(bytes(archive)).await.unwrap();
    assert_eq!(sandbox.tree().await, before);
    sandbox.end().await;
}

/// What is handed from one sandbox to another need not be compressed; where it breaks off it changes nothing either.
pub async fn an_archive_need_not_be_compressed(driver: DynSandboxDriver) {
    let sandbox = Fixture::new(driver).await;
    sandbox.make_tree().await;
    let before = sandbox.tree().await;
    let machine = sandbox.machine().await;
    let pack = PackRequest { compression: Compression::None, ..sandbox.pack_request() };
    let archive: Vec<Bytes> = machine.pack(pack).await.unwrap().try_collect().await.unwrap();
    assert!(sandbox.shell(&format!("rm -r {}/*", sandbox.path("tree"))).await.exit.success());
    let unpack = |archive| {
        let request = UnpackRequest { compression: Compression::None, ..sandbox.unpack_request() };
        machine.unpack(request, bytes(vec![archive]))
    };
    let archive = Bytes::from(archive.concat());
    unpack(archive.slice(..archive.len() / 2)).await.unwrap_err();
    assert_ne!(sandbox.tree().await, before);
    unpack(archive).await.unwrap();
    assert_eq!(sandbox.tree().await, before);
    sandbox.end().await;
}

/// An archive that is damaged, cut or never ends well leaves the files as they are.
pub async fn a_broken_archive_changes_nothing(driver: DynSandboxDriver) {
    let sandbox = Fixture::new(driver).await;
    sandbox.make_tree().await;
    let (before, archive) = (sandbox.tree().await, sandbox.pack().await.concat());
    let half = Bytes::copy_from_slice(&archive[..archive.len() / 2]);
    assert!(sandbox.unpack(bytes(vec![half.clone()])).await.is_err());
    let mut flipped = archive.clone();
    flipped[archive.len() / 2] ^= 1;
    assert!(sandbox.unpack(bytes(vec![flipped.into()])).await.is_err());
    let lost = stream::iter([Ok(half), Err(SessionError::Lost)]).boxed();
    assert!(matches!(sandbox.unpack(lost).await, Err(SessionError::Lost)));
    let never = stream::iter([Ok(Bytes::from(archive))]).chain(stream::pending()).boxed();
    assert!(timeout(Duration::from_millis(300), sandbox.unpack(never)).await.is_err());
    // What was unpacked is removed behind the caller's back.
    let cleaned = async {
        while sandbox.tree().await != before {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, cleaned).await.expect("the files are as they were");
    sandbox.end().await;
}

/// What cannot be packed says so, and no stream ends as if it were whole.
pub async fn what_is_not_there_is_not_packed(driver: DynSandboxDriver) {
    let sandbox = Fixture::new(driver).await;
    for path in ["/nowhere/at/all", "relative", "/", "/tmp/../etc"] {
        let request = PackRequest::of([path]);
        let packed = sandbox.machine().await.pack(request).await;
        assert!(packed.is_err(), "{path}");
    }
    sandbox.end().await;
}

/// A comparison names what was added, changed and removed since an archive was made.
pub async fn an_archive_is_compared_with_the_files(driver: DynSandboxDriver) {
    let sandbox = Fixture::new(driver).await;
    sandbox.make_tree().await;
    let archive = sandbox.pack().await;
    let compare = async |limit| {
        let pack = sandbox.pack_request();
        let request = CompareRequest { pack, limit };
        sandbox.machine().await.compare(request, bytes(archive.clone())).await.unwrap()
    };
    assert_eq!(compare(10).await.changes, []);
    let change = format!("cd {} && echo new > new && echo two > src/one && rm link", sandbox.path("tree"));
    assert!(sandbox.shell(&change).await.exit.success());
    let found: Vec<_> = compare(10).await.changes.into_iter().map(|it| (it.path, it.change)).collect();
    let at = |name| sandbox.path(&format!("tree/{name}"));
    let expected = [
        (at("link"), TreeChangeKind::Removed),
        (at("new"), TreeChangeKind::Added),
        (at("src/one"), TreeChangeKind::Modified),
    ];
    assert_eq!(found, expected);
    let first = compare(1).await;
    assert!(first.truncated && first.changes.len() == 1);
    sandbox.end().await;
}

/// Long work on files holds up no command.
pub async fn packing_holds_up_nothing(driver: DynSandboxDriver) {
    let sandbox = Fixture::new(driver).await;
    sandbox.make_tree().await;
    let mut unread = sandbox.machine().await.pack(sandbox.pack_request()).await.unwrap();
    assert_eq!(sandbox.shell("echo here").await.stdout, b"here\n");
    while unread.try_next().await.unwrap().is_some() {}
    sandbox.end().await;
}
