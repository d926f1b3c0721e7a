//! The rules that all machines keep, in memory or real, one function a rule.

#![expect(missing_docs, reason = "the name of a rule says what it is")]

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use crate::{
    archive::{CompareRequest, Compression, PackRequest, TreeChangeKind, UnpackRequest},
    egress::Egress,
    files::{FileReply, FileRequest, FileVerb, Roots},
    id::SandboxId,
    ports::{
        machines::{Machine, Machines, WorkspaceOrigin},
        sessions::SessionError,
    },
    session::SandboxSpec,
};

/// Makes one test of each rule that [`Machines`] keep. The argument is a future that connects to them, with what must
/// live as long, and the path of a folder inside a machine that may be written: `(guard, machines, "/workspace")`. An
/// option of that may be `None`, where there are none to test. The tests run on Tokio.
///
/// ```
/// astraforge_core::machines_conformance!(async {
///     ((), astraforge_core::testing::PlayedMachines::default(), "/workspace")
/// });
/// ```
#[macro_export]
macro_rules! machines_conformance {
    ($connect:expr) => {
        $crate::machines_conformance!(@ $connect;
            what_was_made_is_found_and_listed
            an_id_is_made_once
            what_is_not_there_is_lost
            whoever_finds_a_machine_says_what_it_may_reach
            removing_nothing_is_fine
            files_are_read_as_they_were_written
            a_file_that_is_not_there_is_told_so
            what_is_removed_takes_its_files_with_it
            a_machine_that_was_removed_is_lost_to_who_held_it
            machines_do_not_see_each_others_files
            what_was_packed_comes_back_and_what_came_since_is_gone
            an_archive_that_breaks_off_changes_no_file
            what_came_since_an_archive_is_told
            files_are_listed
        );
    };
    (@ $connect:expr; $($rule:ident)*) => { $(
        #[tokio::test]
        async fn $rule() {
            let offered: Option<(_, _, _)> = $connect.await.into();
            let Some((_guard, machines, folder)) = offered else { return };
            $crate::testing::machines_conformance::$rule(&machines, &folder).await;
        }
    )* };
}

/// One machine, and a folder in it that no other has.
struct Fixture {
    id: SandboxId,
    machine: Arc<dyn Machine>,
    folder: String,
}

impl Fixture {
    async fn new(machines: &impl Machines, folder: &str) -> Self {
        let id = SandboxId::random();
        let made = machines.make(id, SandboxSpec::default()).await.unwrap();
        assert_eq!(made.workspace, WorkspaceOrigin::Fresh);
        Self { id, machine: made.machine, folder: format!("{folder}/{id}") }
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.folder)
    }

    async fn write(&self, name: &str, text: &'static str) {
        self.machine.write_file(&self.path(name), Bytes::from_static(text.as_bytes()), 0o644).await.unwrap();
    }

    async fn read(&self, name: &str) -> Option<Bytes> {
        match self.machine.read_file(&self.path(name), 1024).await {
            Ok(bytes) => Some(bytes),
            Err(SessionError::FileNotFound { .. }) => None,
            Err(error) => panic!("{error}"),
        }
    }

    fn pack_request(&self) -> PackRequest {
        PackRequest::of([self.folder.clone()])
    }

    async fn pack(&self) -> Vec<Bytes> {
        self.machine.pack(self.pack_request()).await.unwrap().try_collect().await.unwrap()
    }

    fn unpack_request(&self) -> UnpackRequest {
        let replace = vec![self.folder.clone()];
        UnpackRequest { compression: Compression::Zstd, replace, max_bytes: 1 << 20, max_entries: 100 }
    }

    async fn end(self, machines: &impl Machines) {
        machines.remove(self.id).await.unwrap();
    }
}

pub async fn what_was_made_is_found_and_listed(machines: &impl Machines, folder: &str) {
    let one = Fixture::new(machines, folder).await;
    assert_eq!(one.machine.id(), one.id);
    assert!(machines.ids().await.unwrap().contains(&one.id));
    one.write("file", "1").await;
    let found = machines.find(one.id, Egress::Off).await.unwrap();
    assert_eq!(found.read_file(&one.path("file"), 10).await.unwrap(), "1");
    let id = one.id;
    one.end(machines).await;
    assert!(!machines.ids().await.unwrap().contains(&id));
}

pub async fn an_id_is_made_once(machines: &impl Machines, folder: &str) {
    let one = Fixture::new(machines, folder).await;
    one.write("file", "1").await;
    let again = machines.make(one.id, SandboxSpec::default()).await;
    assert!(matches!(again, Err(SessionError::AlreadyExists { id }) if id == one.id), "{again:?}");
    assert_eq!(one.read("file").await.unwrap(), "1", "the first lives on");
    one.end(machines).await;
}

pub async fn what_is_not_there_is_lost(machines: &impl Machines, _: &str) {
    let found = machines.find(SandboxId::random(), Egress::Off).await;
    assert!(matches!(found, Err(SessionError::Lost)), "{found:?}");
    assert!(machines.known(SandboxId::random()).is_none());
}

pub async fn whoever_finds_a_machine_says_what_it_may_reach(machines: &impl Machines, folder: &str) {
    let one = Fixture::new(machines, folder).await;
    for egress in ["public", "allow:example.com", "off"] {
        let egress: Egress = egress.parse().unwrap();
        match machines.find(one.id, egress.clone()).await {
            Ok(_) => assert_eq!(machines.known_egress(one.id).unwrap_or_default(), egress),
            // Those without a way out have none to be found with.
            Err(SessionError::Unsupported { .. }) => assert_ne!(egress, Egress::Off),
            Err(error) => panic!("{error}"),
        }
    }
    one.end(machines).await;
}

pub async fn removing_nothing_is_fine(machines: &impl Machines, folder: &str) {
    machines.remove(SandboxId::random()).await.unwrap();
    let one = Fixture::new(machines, folder).await;
    machines.remove(one.id).await.unwrap();
    machines.remove(one.id).await.unwrap();
}

pub async fn files_are_read_as_they_were_written(machines: &impl Machines, folder: &str) {
    let one = Fixture::new(machines, folder).await;
    for text in ["a longer text", "short", ""] {
        one.write("deep/er/file", text).await;
        assert_eq!(one.read("deep/er/file").await.unwrap(), text);
    }
    one.end(machines).await;
}

pub async fn a_file_that_is_not_there_is_told_so(machines: &impl Machines, folder: &str) {
    let one = Fixture::new(machines, folder).await;
    assert_eq!(one.read("none").await, None);
    one.end(machines).await;
}

pub async fn what_is_removed_takes_its_files_with_it(machines: &impl Machines, folder: &str) {
    let one = Fixture::new(machines, folder).await;
    machines.remove(one.id).await.unwrap();
    let again = machines.make(one.id, SandboxSpec::default()).await.unwrap();
    assert_eq!(again.workspace, WorkspaceOrigin::Fresh);
    machines.remove(one.id).await.unwrap();
}

pub async fn a_machine_that_was_removed_is_lost_to_who_held_it(machines: &impl Machines, folder: &str) {
    let one = Fixture::new(machines, folder).await;
    machines.remove(one.id).await.unwrap();
    let read = one.machine.read_file(&one.path("file"), 10).await;
    assert!(matches!(read, Err(SessionError::Lost)), "{read:?}");
    let written = one.machine.write_file(&one.path("file"), Bytes::new(), 0o644).await;
    assert!(matches!(written, Err(SessionError::Lost)), "{written:?}");
}

pub async fn machines_do_not_see_each_others_files(machines: &impl Machines, folder: &str) {
    let (one, other) = (Fixture::new(machines, folder).await, Fixture::new(machines, folder).await);
    one.write("file", "1").await;
    other.write("file", "2").await;
    assert_eq!((one.read("file").await.unwrap(), other.read("file").await.unwrap()), ("1".into(), "2".into()));
    one.end(machines).await;
    assert_eq!(other.read("file").await.unwrap(), "2");
    other.end(machines).await;
}

pub async fn what_was_packed_comes_back_and_what_came_since_is_gone(machines: &impl Machines, folder: &str) {
    let one = Fixture::new(machines, folder).await;
    one.write("kept", "old").await;
    let archive = one.pack().await;
    one.write("kept", "new").await;
    one.write("since", "1").await;
    let pieces = stream::iter(archive.into_iter().map(Ok)).boxed();
    one.machine.unpack(one.unpack_request(), pieces).await.unwrap();
    assert_eq!((one.read("kept").await.unwrap(), one.read("since").await), ("old".into(), None));
    one.end(machines).await;
}

pub async fn an_archive_that_breaks_off_changes_no_file(machines: &impl Machines, folder: &str) {
    let one = Fixture::new(machines, folder).await;
    one.write("file", "old").await;
    let whole = one.pack().await.concat();
    one.write("file", "new").await;
    let half = Bytes::copy_from_slice(&whole[..whole.len() / 2]);
    let ends = one.machine.unpack(one.unpack_request(), stream::iter([Ok(half.clone())]).boxed()).await;
    assert!(ends.is_err(), "{ends:?}");
    let broken = stream::iter([Ok(half), Err(SessionError::Lost)]).boxed();
    let breaks = one.machine.unpack(one.unpack_request(), broken).await;
    assert!(breaks.is_err(), "{breaks:?}");
    assert_eq!(one.read("file").await.unwrap(), "new");
    one.end(machines).await;
}

pub async fn what_came_since_an_archive_is_told(machines: &impl Machines, folder: &str) {
    let one = Fixture::new(machines, folder).await;
    one.write("kept", "1").await;
    one.write("changed", "1").await;
    let first = one.pack().await;
    one.write("changed", "22").await;
    one.write("since", "1").await;
    let second = one.pack().await;
    let compare = async |archive: Vec<Bytes>| {
        let request = CompareRequest { pack: one.pack_request(), limit: 100 };
        let pieces = stream::iter(archive.into_iter().map(Ok)).boxed();
        let changes = one.machine.compare(request, pieces).await.unwrap().changes;
        let name = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
        let mut told: Vec<_> = changes.into_iter().map(|it| (name(&it.path), it.change)).collect();
        told.sort_by(|a, b| a.0.cmp(&b.0));
        told
    };
    let told = compare(first).await;
    assert_eq!(told, [("changed".to_owned(), TreeChangeKind::Modified), ("since".to_owned(), TreeChangeKind::Added)]);
    assert_eq!(compare(second).await, []);
    one.end(machines).await;
}

pub async fn files_are_listed(machines: &impl Machines, folder: &str) {
    let one = Fixture::new(machines, folder).await;
    one.write("a", "1").await;
    one.write("b", "22").await;
    let verb = FileVerb::List { path: one.folder.clone(), depth: 1, limit: 10 };
    let listed = one.machine.file(FileRequest { roots: Roots::everywhere(), verb }).await.unwrap();
    let FileReply::Entries { entries, truncated: false } = listed else { panic!("{listed:?}") };
    let mut sizes: Vec<u64> = entries.iter().map(|entry| entry.size).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [1, 2]);
    one.end(machines).await;
}
