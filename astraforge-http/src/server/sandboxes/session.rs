//! What calls about one sandbox have in common.

use std::{sync::Arc, time::Duration};

use astraforge_core::{
    access::Caller,
    control_plane::ControlPlane,
    error::{ForgeError, chain},
    files::{FileReply, FileRequest, FileVerb, Roots},
    id::SandboxId,
    ports::machines::Machine,
    sandbox::Sandbox,
};
use axum::{
    extract::FromRequestParts,
    http::{StatusCode, request::Parts},
};
use futures::{Stream, StreamExt};

use super::super::{
    AppState,
    caller::Authenticated,
    error::ApiError,
    path::{PathId, segment},
};

/// How often a call that takes long counts as use of its sandbox.
const STILL_THERE: Duration = Duration::from_secs(20);

/// The control plane of a server that has one.
pub(super) fn plane(state: &AppState) -> Result<&ControlPlane, ApiError> {
    let detail = "Sandboxes cannot be used on this server; its log says why.";
    state.sandboxes.as_ref().ok_or_else(|| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, detail))
}

/// A call about one sandbox: who calls, and about which.
#[derive(Clone)]
pub(in crate::server) struct Session {
    pub(super) plane: ControlPlane,
    pub(super) caller: Caller,
    pub(super) id: SandboxId,
}

/// Its machine, and the folders in which the caller may use files.
pub(super) struct Workplace {
    pub(super) machine: Arc<dyn Machine>,
    pub(super) roots: Roots,
}

impl Session {
    /// How the sandbox stands.
    pub(super) async fn row(&self) -> Result<Sandbox, ApiError> {
        Ok(self.plane.get(&self.caller, self.id).await?)
    }

    /// Makes the sandbox ready.
    pub(super) async fn ready(&self) -> Result<Workplace, ApiError> {
        let roots = self.row().await?.spec.roots;
        let machine = self.plane.machine(&self.caller, self.id).await?;
        Ok(Workplace { machine, roots })
    }

    /// Does what may take long; the sandbox is not ended for lying unused meanwhile.
    pub(super) async fn during<T>(&self, work: impl Future<Output = T>) -> Result<T, ApiError> {
        tokio::select! {
            done = work => Ok(done),
            error = self.stay() => Err(error),
        }
    }

    /// Passes a stream through; the sandbox is not ended for lying unused as long as somebody reads it.
    pub(super) fn while_read<T: Send, S: Stream<Item = T> + Send>(
        &self,
        stream: S,
    ) -> impl Stream<Item = T> + Send + use<T, S> {
        let session = self.clone();
        let until = async move { drop(session.stay().await) };
        stream.take_until(until)
    }

    /// Notes again and again that the caller is there. Ends only when there is no such sandbox any more.
    async fn stay(&self) -> ApiError {
        loop {
            tokio::time::sleep(STILL_THERE).await;
            match self.plane.heartbeat(&self.caller, self.id).await {
                Err(error @ ForgeError::NoSandbox { .. }) => return error.into(),
                // What the caller waits for goes on.
                Err(error) => tracing::warn!(error = chain(&error), "cannot note that a sandbox is in use"),
                Ok(_) => {}
            }
        }
    }
}

impl Workplace {
    /// Carries out a file verb.
    pub(super) async fn file(&self, verb: FileVerb) -> Result<FileReply, ApiError> {
        Ok(self.machine.file(FileRequest { roots: self.roots.clone(), verb }).await?)
    }
}

impl FromRequestParts<AppState> for Session {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let Authenticated(caller) = Authenticated::from_request_parts(parts, state).await?;
        let id = PathId::parse(&segment(parts, state, "id").await)?;
        Ok(Self { plane: plane(state)?.clone(), caller, id })
    }
}

/// A path as the contract takes it: one that is not absolute is below `/workspace`.
pub(super) fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/workspace/{path}") }
}

#[cfg(test)]
mod tests {
    use astraforge_core::{
        access::Role,
        control_plane::NewSandbox,
        testing::{MemoryArtifacts, MemorySandboxStore, PlayedMachines, TestClock, samples},
    };
    use futures::stream;

    use super::*;

    async fn session() -> (Session, TestClock) {
        let clock = TestClock::new();
        let plane = ControlPlane::new(
            Arc::new(MemorySandboxStore::default()),
            Arc::new(MemoryArtifacts::default()),
            Arc::new(clock.clone()),
            vec![Arc::new(PlayedMachines::default())],
        );
        let caller = samples::caller("ada", Role::Maintainer);
        let id = plane.create(&caller, NewSandbox::default()).await.unwrap().sandbox.id;
        clock.advance(Duration::from_secs(250));
        (Session { plane, caller, id }, clock)
    }

    async fn seconds_since_heartbeat(session: &Session, clock: &TestClock) -> i64 {
        use astraforge_core::ports::clock::Clock as _;
        (clock.now() - session.row().await.unwrap().last_heartbeat_at).num_seconds()
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_takes_long_counts_as_use() {
        let (session, clock) = session().await;
        session.during(tokio::time::sleep(Duration::from_secs(10))).await.unwrap();
        assert_eq!(seconds_since_heartbeat(&session, &clock).await, 250, "one that takes moments is none");
        session.during(tokio::time::sleep(Duration::from_secs(30))).await.unwrap();
        assert_eq!(seconds_since_heartbeat(&session, &clock).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_is_read_counts_as_use_until_its_sandbox_is_gone() {
        let (session, clock) = session().await;
        let ticks = stream::unfold((), |()| async { Some((tokio::time::sleep(Duration::from_secs(7)).await, ())) });
        let mut read = Box::pin(session.while_read(ticks));
        for _ in 0..4 {
            read.next().await.unwrap();
        }
        assert_eq!(seconds_since_heartbeat(&session, &clock).await, 0);
        session.plane.delete(&session.caller, session.id).await.unwrap();
        assert!(read.count().await < 4, "nothing more can come");
    }
}
