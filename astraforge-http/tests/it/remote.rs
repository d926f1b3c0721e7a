//! Sandboxes of another server behind the ports of local ones, over a real socket, on played machines; on real ones they
//! are tried with the whole program.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use astraforge_core::{
    archive::PackRequest,
    control_plane::ControlPlane,
    egress::Egress,
    files::{DownloadRequest, FileChange, FileErrorKind, FileRequest, FileVerb, Roots, WatchRequest},
    id::SandboxId,
    ports::{
        machines::{Machine, Machines, Made, WorkspaceOrigin, read_whole},
        sessions::SessionError,
    },
    sandbox::SandboxStatus,
    session::{Command, SandboxSpec, Signal},
    testing::{MemoryArtifacts, MemorySandboxStore, PlayedMachines, TestClock},
};
use astraforge_http::{Client, ClientError, server::Server, wire::sandbox::NewSession};
use async_trait::async_trait;
use axum::{
    Json, Router,
    http::StatusCode,
    routing::{delete, get, post},
};
use futures::StreamExt;
use serde_json::json;
use tokio::net::TcpListener;

use crate::house::{House, Who};

/// The machines of a server, as whoever calls it sees them.
#[derive(Debug)]
struct Served(Client);

impl Served {
    async fn new() -> Self {
        let machines = Arc::new(PlayedMachines::default());
        let (store, files) = (Arc::new(MemorySandboxStore::default()), Arc::new(MemoryArtifacts::default()));
        let plane = ControlPlane::new(store, files, Arc::new(TestClock::new()), vec![machines]);
        let house = House::with(|state| state.with_sandboxes(plane)).await;
        let url = house.open().await;
        // The second test of this process finds it installed.
        _ = rustls::crypto::ring::default_provider().install_default();
        Self(Client::new(&url, house.key(Who::Maintainer)).unwrap())
    }
}

#[async_trait]
impl Machines for Served {
    fn mode(&self) -> &'static str {
        "served"
    }

    async fn make(&self, id: SandboxId, spec: SandboxSpec) -> Result<Made, SessionError> {
        // To a server the same id is the same sandbox.
        if self.0.sandbox(id).await.is_ok() {
            return Err(SessionError::AlreadyExists { id });
        }
        let new = NewSession { id: Some(id), egress: Some(spec.egress), ..NewSession::default() };
        self.0.create_sandbox(&new).await.map_err(ClientError::into_session_error)?;
        Ok(Made { machine: self.find(id, Egress::Off).await?, workspace: WorkspaceOrigin::Fresh })
    }

    async fn find(&self, id: SandboxId, _: Egress) -> Result<Arc<dyn Machine>, SessionError> {
        Ok(Arc::new(self.0.open_sandbox(id).await.map_err(ClientError::into_session_error)?))
    }

    fn known(&self, _: SandboxId) -> Option<Arc<dyn Machine>> {
        None
    }

    fn known_egress(&self, _: SandboxId) -> Option<Egress> {
        None
    }

    async fn remove(&self, id: SandboxId) -> Result<(), SessionError> {
        match self.0.delete_sandbox(id).await.map_err(ClientError::into_session_error) {
            Err(SessionError::Lost) => Ok(()),
            removed => removed,
        }
    }

    async fn ids(&self) -> Result<Vec<SandboxId>, SessionError> {
        let sandboxes = self.0.sandboxes().await.map_err(ClientError::into_session_error)?;
        Ok(sandboxes.iter().filter(|it| it.status == SandboxStatus::Ready).map(|it| it.id).collect())
    }

    async fn left(&self) -> Result<Vec<SandboxId>, SessionError> {
        Ok(Vec::new())
    }
}

mod machines {
    use super::Served;

    // All but those of an id that comes again after it was removed, which is for good on a server, and of a machine that is
    // found with another egress, which is a call of its own there.
    astraforge_core::machines_conformance!(@ async { ((), Served::new().await, "/workspace") };
        what_was_made_is_found_and_listed
        an_id_is_made_once
        what_is_not_there_is_lost
        removing_nothing_is_fine
        files_are_read_as_they_were_written
        a_file_that_is_not_there_is_told_so
        a_machine_that_was_removed_is_lost_to_who_held_it
        machines_do_not_see_each_others_files
        what_was_packed_comes_back_and_what_came_since_is_gone
        an_archive_that_breaks_off_changes_no_file
        what_came_since_an_archive_is_told
        files_are_listed
    );
}

async fn sandbox() -> (Client, Arc<dyn Machine>) {
    let served = Served::new().await;
    let made = served.make(SandboxId::random(), SandboxSpec::default()).await.unwrap();
    (served.0, made.machine)
}

#[tokio::test]
async fn errors_are_those_of_the_sandbox() {
    let (client, sandbox) = sandbox().await;
    let refused = sandbox.exec(Command::new(["true"])).await.unwrap_err();
    assert!(matches!(&refused, SessionError::Unsupported { what, .. } if what == "a command"), "{refused:?}");
    let nobody = sandbox.signal("nobody".parse().unwrap(), Signal::Kill).await.unwrap_err();
    assert!(matches!(&nobody, SessionError::NoSuchProcess { name } if name.to_string() == "nobody"), "{nobody:?}");
    let nobody = sandbox.attach("7".parse().unwrap(), 0).await.unwrap_err();
    assert!(matches!(nobody, SessionError::NoSuchProcess { .. }), "{nobody:?}");
    let outside = sandbox.pack(PackRequest::of(["/etc"])).await.err().unwrap();
    assert!(
        matches!(&outside, SessionError::File { operation: "pack", path, kind: FileErrorKind::OutsideRoots, .. } if path == "/etc"),
        "{outside:?}"
    );
    sandbox.write_file("/workspace/a", "0123456789".into(), 0o644).await.unwrap();
    let large = sandbox.read_file("/workspace/a", 9).await.unwrap_err();
    assert!(matches!(large, SessionError::TooLarge { max_bytes: 9, .. }), "{large:?}");
    let stranger = Client::new("http://127.0.0.1:1", "k").unwrap().sandbox(sandbox.id()).await.unwrap_err();
    let unreachable = stranger.into_session_error();
    assert_eq!(unreachable.to_string(), "the sandbox driver failed to reach its server");
    client.delete_sandbox(sandbox.id()).await.unwrap();
    let gone = sandbox.processes().await.unwrap_err();
    assert!(matches!(gone, SessionError::Lost), "{gone:?}");
}

#[tokio::test]
async fn a_part_of_a_file_is_read_and_a_verb_stays_in_its_folders() {
    let (_, sandbox) = sandbox().await;
    sandbox.write_file("/workspace/a", "0123456789".into(), 0o644).await.unwrap();
    let part = |roots, offset, limit| DownloadRequest { roots, path: "/workspace/a".to_owned(), offset, limit };
    for (offset, limit, expected) in [(0, None, "0123456789"), (3, Some(4), "3456"), (8, Some(9), "89"), (20, None, "")]
    {
        let bytes = sandbox.download(part(Roots::default(), offset, limit)).await.unwrap();
        assert_eq!(read_whole(bytes, "a", 100).await.unwrap(), expected, "{offset} {limit:?}");
    }
    let narrow = Roots(vec!["/workspace/sub".to_owned()]);
    let refused = sandbox.download(part(narrow.clone(), 0, None)).await.err().unwrap();
    assert!(matches!(refused, SessionError::Unsupported { .. }), "nothing wider runs in its place: {refused:?}");
    let verb = FileVerb::Stat { path: "/workspace/a".to_owned() };
    let refused = sandbox.file(FileRequest { roots: narrow, verb }).await.unwrap_err();
    assert!(matches!(refused, SessionError::Unsupported { .. }), "{refused:?}");
}

/// A sandbox of a server that answers as it is told.
async fn sandbox_of(app: Router, id: SandboxId) -> Arc<dyn Machine> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { Server::new(listener, app).run().await });
    Arc::new(Client::new(&url, "k").unwrap().open_sandbox(id).await.unwrap())
}

#[tokio::test]
async fn a_watch_ends_with_its_sandbox_and_does_not_wake_it() {
    let (client, sandbox) = sandbox().await;
    client.stop_sandbox(sandbox.id()).await.unwrap();
    let stopped = client.sandbox(sandbox.id()).await.unwrap();
    assert_eq!(stopped.status, SandboxStatus::Terminated);
    let n_watches = Arc::new(AtomicUsize::new(0));
    let counter = n_watches.clone();
    // Its stream ends as it does when its sandbox is stopped.
    let watch = get(move || async move {
        counter.fetch_add(1, Ordering::SeqCst);
        let event = "data: {\"path\":\"/workspace\",\"change\":\"watching\"}\n\n";
        ([("content-type", "text/event-stream")], event)
    });
    let app = Router::new()
        .route("/api/sandbox/sessions/{id}/", get(move || async move { Json(stopped) }))
        .route("/api/sandbox/sessions/{id}/files/watch/", watch);
    let watched = sandbox_of(app, sandbox.id()).await;
    let request = WatchRequest { roots: Roots::default(), path: "/workspace".to_owned(), recursive: true };
    let events: Vec<_> = watched.watch(request).await.unwrap().collect().await;
    assert!(
        matches!(&events[..], [Ok(event), Err(SessionError::Lost)] if event.change == FileChange::Watching),
        "{events:?}"
    );
    assert_eq!(n_watches.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_command_whose_first_input_cannot_be_given_is_ended() {
    let (client, sandbox) = sandbox().await;
    let view = client.sandbox(sandbox.id()).await.unwrap();
    let n_ended = Arc::new(AtomicUsize::new(0));
    let counter = n_ended.clone();
    let end = delete(move || async move {
        counter.fetch_add(1, Ordering::SeqCst);
        StatusCode::NO_CONTENT
    });
    let started = post(|| async { Json(json!({"id": SandboxId::random()})) });
    let refused = post(|| async { (StatusCode::BAD_GATEWAY, Json(json!({"detail": "The guest is silent."}))) });
    let app = Router::new()
        .route("/api/sandbox/sessions/{id}/", get(move || async move { Json(view) }))
        .route("/api/sandbox/sessions/{id}/executions/", started)
        .route("/api/sandbox/sessions/{id}/executions/{execution}/", end)
        .route("/api/sandbox/sessions/{id}/executions/{execution}/input/", refused)
        .route("/api/sandbox/sessions/{id}/executions/{execution}/output/", get(std::future::pending::<StatusCode>));
    let opened = sandbox_of(app, sandbox.id()).await;
    let mut execution = opened.exec(Command::new(["cat"]).with_stdin("x")).await.unwrap();
    let error = execution.events.next().await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "the sandbox driver failed to give the command its input");
    assert!(execution.events.next().await.is_none());
    let ended = async {
        while n_ended.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), ended).await.expect("it is ended");
}
