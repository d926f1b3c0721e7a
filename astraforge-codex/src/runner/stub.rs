//! An agent that asks no model: it appends a line to a file. For trying everything around an agent.

use astraforge_core::{
    ports::{executor::Assignment, guest_service::ServiceBinding},
    run::{FailureCause, RunFailure},
    session::{Command, SandboxSpec},
};
use async_trait::async_trait;

use super::{Agent, Answer, WORKSPACE, bench::Bench};

/// The file that it appends to.
pub(super) const FILE: &str = "astraforge-stub.txt";

/// The agent without a model.
#[derive(Debug)]
pub(super) struct Stub;

#[async_trait]
impl Agent for Stub {
    fn outfit(&self, _: &Assignment, spec: SandboxSpec) -> (SandboxSpec, Vec<ServiceBinding>) {
        (spec, Vec::new())
    }

    async fn check(&self, bench: &Bench) -> Result<(), RunFailure> {
        bench.log.status("stub", "stub agent: no model was asked").await;
        Ok(())
    }

    async fn work(&self, bench: &Bench, assignment: &Assignment, prompt: &str) -> Result<Answer, RunFailure> {
        let line = format!(
            "Run {} was asked for {} bytes of work; the stub agent asked no model.",
            assignment.run,
            prompt.len()
        );
        let append =
            Command::new(["/bin/sh", "-c", "printf '%s\\n' \"$1\" >> \"$2\"", "sh", &line, FILE]).with_cwd(WORKSPACE);
        bench.must(append, FailureCause::Agent, "The stub agent could not write its file").await?;
        let message = format!("stub agent: no model was asked; a line was appended to {FILE}.");
        bench.log.status("stub", &message).await;
        Ok(Answer { final_message: Some(message), thread: None, exit_code: Some(0) })
    }
}
