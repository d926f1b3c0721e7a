//! Programs started by the engine itself, for engines whose machines cannot run the guest.

use std::io;

use astraforge_core::id::SandboxId;
use async_stream::stream;
use async_trait::async_trait;
use bollard::{
    container::LogOutput,
    exec::{CreateExecOptions, StartExecOptions, StartExecResults},
};
use futures::StreamExt;

use super::{
    DockerDriver,
    engine::{failed, is_conflict, is_status},
    names,
};
use crate::{
    driver::DriverError,
    plain::{PlainExec, PlainOutput, PlainProcess},
};

#[async_trait]
impl PlainExec for DockerDriver {
    async fn start(&self, id: SandboxId, argv: Vec<String>) -> Result<PlainProcess, DriverError> {
        let user = self.config.user.to_string();
        let command = CreateExecOptions {
            cmd: Some(argv),
            user: Some(user),
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            ..Default::default()
        };
        let gone = |error| match error {
            error if is_status(&error, 404) || is_conflict(&error) => DriverError::NotFound { id },
            error => failed("start a program in", id, error),
        };
        let exec = self.engine.0.create_exec(&names::container(id), command).await.map_err(gone)?;
        let options = StartExecOptions { output_capacity: Some(64 * 1024), ..Default::default() };
        let started = self.engine.0.start_exec(&exec.id, Some(options)).await.map_err(gone)?;
        let StartExecResults::Attached { output: mut chunks, input } = started else {
            return Err(failed("start a program in", id, io::Error::other("the engine has detached it")));
        };
        let engine = self.engine.0.clone();
        let output = stream! {
            while let Some(chunk) = chunks.next().await {
                match chunk {
                    Ok(LogOutput::StdErr { message }) => yield Ok(PlainOutput::Stderr(message)),
                    Ok(LogOutput::StdOut { message } | LogOutput::Console { message }) => {
                        yield Ok(PlainOutput::Stdout(message));
                    }
                    Ok(LogOutput::StdIn { .. }) => {}
                    Err(error) => {
                        yield Err(error.into());
                        return;
                    }
                }
            }
            // The stream ends with the program, or with the container; only the engine knows which.
            match engine.inspect_exec(&exec.id).await.map(|it| it.exit_code) {
                Ok(Some(code)) => yield Ok(PlainOutput::Exited(i32::try_from(code).unwrap_or(-1))),
                Ok(None) => yield Err("the engine does not say how the program ended".into()),
                Err(error) => yield Err(error.into()),
            }
        };
        Ok(PlainProcess { stdin: input, output: output.boxed() })
    }
}
