//! What an image has to have running: an X server, for instance.

use std::time::Duration;

use astraforge_core::{
    ports::{machines::Machine, sessions::SessionError},
    session::Command,
};
use tokio::time::timeout;

/// The program that an image may have.
const PROGRAM: &str = "/etc/astraforge/start";

/// How long a sandbox may take to say whether its image has that program, and to start it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Starts the image's start program, as the agent and in the background. An image without one is fine.
pub(super) async fn program(machine: &dyn Machine) {
    let started = async {
        let look = Command::new(["test", "-x", PROGRAM]).with_cwd("/");
        if machine.exec(look).await?.collect(0).await?.exit.success() {
            machine.spawn(Command::new([PROGRAM]), "start".parse().ok()).await?;
        }
        Ok(())
    };
    // Counted here, because a sandbox that hangs does not end its commands in time either.
    match timeout(PATIENCE, started).await {
        // An image without even `test` has no such program either, and a sandbox that is gone needs none.
        Ok(Ok(()) | Err(SessionError::Spawn { .. } | SessionError::Lost)) => {}
        Ok(Err(error)) => {
            tracing::warn!(sandbox.id = %machine.id(), %error, "the image's start program does not start");
        }
        Err(_) => {
            tracing::warn!(sandbox.id = %machine.id(), "the image's start program does not start: the sandbox hangs");
        }
    }
}
