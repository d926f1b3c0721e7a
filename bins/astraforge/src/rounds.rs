//! What is done again and again: by each node on its own machine, and once for the whole installation.

use std::{error::Error, sync::Arc, time::Duration};

use astraforge_adapters::{artifacts::FolderArtifacts, clock::SystemClock, git::Quarantine};
use astraforge_core::{
    cancel::Cancellation,
    control_plane::ControlPlane,
    error::ForgeError,
    node::SIGN_OF_LIFE,
    ports::{artifacts::ArtifactError, clock::Clock as _, store::Store},
    retention::{Archived, Retention},
    schedule::{Schedule, Turned},
    sweep::Swept,
};
use futures::{FutureExt, future::BoxFuture};

/// How often a node looks whether something is to be done.
const EVERY: Duration = Duration::from_secs(60);

/// How often all that is stored is listed.
const SWEEP: Duration = Duration::from_secs(6 * 3600);

/// Clears the quarantine of what broken transfers left, at the start and every hour: it is a folder of this node alone.
pub(crate) async fn clear_quarantine(quarantine: Quarantine, stopped: Cancellation) {
    while !stopped.is_cancelled() {
        if let Err(error) = quarantine.sweep().await {
            tracing::warn!(%error, "cannot clear the quarantine");
        }
        pause(Duration::from_secs(3600), &stopped).await;
    }
}

/// Takes over the sandboxes that other processes left on this machine when they were killed, ends those whose time has
/// come, and measures the others; clears this node's own `folders` of half written files.
pub(crate) async fn look_after_machines(plane: ControlPlane, folders: Vec<FolderArtifacts>, stopped: Cancellation) {
    while !stopped.is_cancelled() {
        // The folder of these machines is theirs alone.
        if let Err(error) = plane.adopt(&|_| false).await {
            tracing::error!(error = &error as &dyn Error, "cannot take over what other processes left");
        }
        for folder in &folders {
            if let Err(error) = folder.sweep().await {
                tracing::error!(%error, "cannot clear a folder of half written files");
            }
        }
        reap(&plane).await;
        if let Err(error) = plane.sample_usage().await {
            tracing::warn!(error = &error as &dyn Error, "cannot measure what sandboxes use");
        }
        pause(EVERY, &stopped).await;
    }
}

/// Says again and again that this node is there, and where other servers reach it.
pub(crate) async fn stay_known(plane: ControlPlane, url: Option<String>, stopped: Cancellation) {
    while !stopped.is_cancelled() {
        if let Err(error) = plane.announce(url.as_deref()).await {
            tracing::warn!(error = &error as &dyn Error, "cannot tell the other servers that this one is there");
        }
        pause(SIGN_OF_LIFE, &stopped).await;
    }
}

/// Takes turns at the rounds of the installation, with all its other nodes.
#[derive(Debug, Clone)]
pub(crate) struct Turns {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) stopped: Cancellation,
}

impl Turns {
    /// Clears a folder of half written files that all nodes write to.
    pub(crate) async fn clear_shared(self, folder: FolderArtifacts) {
        let schedule = Schedule::new("half-written-files", Duration::from_secs(3600));
        let round = || {
            let folder = folder.clone();
            async move {
                let failed = |error: std::io::Error| ArtifactError {
                    operation: "clear away",
                    key: "what is half written".to_owned(),
                    source: error.into(),
                };
                Ok(folder.sweep().await.map_err(failed)?)
            }
            .boxed()
        };
        self.at(schedule, "clear the shared folder of half written files", round).await;
    }

    /// Forgets calls whose keys are free again, and their answers.
    pub(crate) async fn forget_calls(self) {
        /// How many are forgotten in one transaction, so that no other waits long.
        const AT_ONCE: u32 = 500;
        let schedule = Schedule::new("answers-of-calls", Duration::from_secs(3600));
        let store = self.store.clone();
        let round = || {
            let store = store.clone();
            async move {
                while store.forget_calls(SystemClock.now(), AT_ONCE).await? == u64::from(AT_ONCE) {}
                Ok(())
            }
            .boxed()
        };
        self.at(schedule, "forget how old calls were answered", round).await;
    }

    /// Archives the run logs that are due.
    pub(crate) async fn archive_logs(self, retention: Retention) {
        let schedule = Schedule::new("archive-run-logs", Duration::from_secs(3600));
        let round = || {
            let retention = retention.clone();
            async move { retention.archive().await.map(tell_archived) }.boxed()
        };
        self.at(schedule, "move run logs from the database to the files", round).await;
    }

    /// Removes archives of run logs that belong to nothing.
    pub(crate) async fn sweep_archives(self, retention: Retention) {
        let schedule = Schedule::new("archives-of-run-logs", SWEEP);
        let round = || {
            let retention = retention.clone();
            async move { retention.sweep().await.map(tell) }.boxed()
        };
        self.at(schedule, "look for archives of run logs that belong to nothing", round).await;
    }

    /// Removes stored files of sandboxes that belong to nothing. All that is stored is listed for it, so nodes with one
    /// `place` of files do it once.
    pub(crate) async fn sweep_sandbox_files(self, plane: ControlPlane, place: String) {
        let schedule = Schedule::new(format!("sandbox-files {place}"), SWEEP);
        let round = || {
            let plane = plane.clone();
            async move { plane.sweep().await.map(tell) }.boxed()
        };
        self.at(schedule, "look for stored files that belong to nothing", round).await;
    }

    /// Does a round whenever it is due and no other node does it; one that is stopped is given up.
    async fn at(
        self,
        schedule: Schedule,
        what: &str,
        round: impl Fn() -> BoxFuture<'static, Result<(), ForgeError>> + Send + Sync,
    ) {
        while !self.stopped.is_cancelled() {
            let turned = tokio::select! {
                turned = schedule.take_turn(&*self.store, &SystemClock, round()) => turned,
                // Another node does it again when the lease has ended.
                () = self.stopped.cancelled() => return,
            };
            match turned {
                Ok(Turned::NotDue | Turned::Done(())) => {}
                Ok(Turned::Lost) => tracing::warn!("another node took this one for dead, and goes on to {what}"),
                Err(error) => tracing::warn!(error = &error as &dyn Error, "cannot {what}; it is tried again"),
            }
            pause(EVERY, &self.stopped).await;
        }
    }
}

/// Waits, unless it is stopped.
async fn pause(wait: Duration, stopped: &Cancellation) {
    tokio::select! {
        () = tokio::time::sleep(wait) => {}
        () = stopped.cancelled() => {}
    }
}

fn tell_archived(archived: Archived) {
    if archived.n_events > 0 {
        let (n_logs, n_events) = (archived.n_logs, archived.n_events);
        tracing::info!(n_logs, n_events, "run logs were moved from the database to the files");
    }
    for (id, error) in archived.failed {
        let error = &error as &dyn Error;
        tracing::warn!(request.id = %id, error, "a run log cannot be moved to the files; it stays in the database");
    }
}

fn tell(swept: Swept) {
    if !swept.removed.is_empty() {
        tracing::info!(n_removed = swept.removed.len(), "stored files that belonged to nothing are removed");
    }
    for (key, error) in swept.failed {
        let error = &error as &dyn Error;
        tracing::warn!(key, error, "a stored file that may belong to nothing stays for now");
    }
}

async fn reap(plane: &ControlPlane) {
    match plane.reap().await {
        Ok(reaped) => {
            for (id, why) in reaped.ended {
                tracing::info!(sandbox.id = %id, reason = why.as_str(), "sandbox stopped");
            }
            for (id, error) in reaped.failed {
                let error = &error as &dyn Error;
                tracing::error!(sandbox.id = %id, error, "a sandbox cannot be stopped or brought up yet");
            }
        }
        Err(error) => tracing::error!(error = &error as &dyn Error, "cannot look for idle sandboxes"),
    }
}
