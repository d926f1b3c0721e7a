//! What an image has to have running: an X server, for instance.

use astraforge_core::{
    ports::{machines::Machine, sessions::SessionError},
    session::Command,
};

/// The program that an image may have.
const PROGRAM: &str = "/etc/astraforge/start";

/// Starts the image's start program, as the agent and in the background. An image without one is fine.
pub(super) async fn program(machine: &dyn Machine) {
    let started = async {
        let look = Command::new(["test", "-x", PROGRAM]).with_cwd("/");
        if machine.exec(look).await?.collect(0).await?.exit.success() {
            machine.spawn(Command::new([PROGRAM]), "start".parse().ok()).await?;
        }
        Ok(())
    };
    match started.await {
        // An image without even `test` has no such program either, and a sandbox that is gone needs none.
        Ok(()) | Err(SessionError::Spawn { .. } | SessionError::Lost) => {}
        Err(error) => {
            tracing::warn!(sandbox.id = %machine.id(), %error, "the image's start program does not start");
        }
    }
}
