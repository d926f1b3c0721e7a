//! The sandbox of one run: made at its begin, gone at its end, whatever happens in between.

use std::{sync::Arc, time::Duration};

use astraforge_core::{id::SandboxId, ports::sessions::Sessions};

/// How long the end of a run waits for its sandbox to go.
const PATIENCE: Duration = Duration::from_secs(60);

/// Destroys a sandbox. Dropping it does so in the background: on a panic, or when the run's future is dropped.
#[derive(Debug)]
pub(super) struct Teardown {
    sessions: Arc<dyn Sessions>,
    id: SandboxId,
    done: bool,
}

impl Teardown {
    /// Promises that `id` will be gone; to be made before the sandbox is.
    pub(super) fn of(sessions: Arc<dyn Sessions>, id: SandboxId) -> Self {
        Self { sessions, id, done: false }
    }

    /// Destroys the sandbox now.
    pub(super) async fn now(mut self) {
        let gone = tokio::time::timeout(PATIENCE, destroy(self.sessions.clone(), self.id)).await;
        self.done = gone.is_ok();
    }
}

impl Drop for Teardown {
    fn drop(&mut self) {
        if !self.done
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(destroy(self.sessions.clone(), self.id));
        }
    }
}

async fn destroy(sessions: Arc<dyn Sessions>, id: SandboxId) {
    if let Err(error) = sessions.destroy(id).await {
        tracing::error!(sandbox.id = %id, error = &error as &dyn std::error::Error, "the sandbox of a run was not destroyed");
    }
}
