//! Starts one program in a sandbox without a guest, and reads what it writes.

use std::sync::Arc;

use astraforge_core::{BoxError, id::SandboxId, ports::sessions::SessionError};
use bytes::Bytes;
use futures::StreamExt;
use tokio::{io::AsyncWriteExt, runtime::Handle};

use super::super::session_error;
use crate::{
    driver::{DriverError, DynSandboxDriver},
    plain::{PlainOutput, PlainProcess},
};

/// The most that a program may say about its failure.
const MAX_WORDS: usize = 2000;

/// Starts programs in one sandbox.
#[derive(Debug)]
pub(super) struct Starter {
    id: SandboxId,
    driver: DynSandboxDriver,
}

/// What a program that was run to its end has written.
#[derive(Debug, Default)]
pub(super) struct Ended {
    pub(super) code: i32,
    pub(super) stdout: Vec<u8>,
    pub(super) words: String,
}

impl Starter {
    pub(super) fn new(id: SandboxId, driver: DynSandboxDriver) -> Self {
        Self { id, driver }
    }

    /// Starts a program.
    pub(super) async fn start(&self, argv: Vec<String>) -> Result<PlainProcess, SessionError> {
        let Some(plain) = self.driver.plain_exec() else {
            let source = BoxError::from("the driver has neither a guest nor a way to start programs");
            return Err(SessionError::Backend { operation: "start a program", source });
        };
        plain.start(self.id, argv).await.map_err(|error: DriverError| session_error(error))
    }

    /// Starts a script of `sh` with arguments.
    pub(super) async fn script(&self, script: &str, arguments: &[&str]) -> Result<PlainProcess, SessionError> {
        let mut argv: Vec<String> = ["sh", "-c", script, "sh"].map(str::to_owned).into();
        argv.extend(arguments.iter().map(|it| (*it).to_owned()));
        self.start(argv).await
    }

    /// Runs a script of `sh` to its end, without input.
    pub(super) async fn run(&self, script: &str, arguments: &[&str]) -> Result<Ended, SessionError> {
        let mut process = self.script(script, arguments).await?;
        drop(process.stdin.shutdown().await);
        finish(process, 1 << 20).await
    }
}

/// Something unfinished in the sandbox; dropped, it is removed.
pub(super) struct Litter {
    starter: Option<Arc<Starter>>,
    path: String,
}

impl Litter {
    pub(super) fn new(starter: &Arc<Starter>, path: String) -> Self {
        Self { starter: Some(Arc::clone(starter)), path }
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Nothing is left to be removed.
    pub(super) fn clear(mut self) {
        self.starter = None;
    }
}

impl Drop for Litter {
    fn drop(&mut self) {
        if let (Some(starter), Ok(runtime)) = (self.starter.take(), Handle::try_current()) {
            let path = std::mem::take(&mut self.path);
            runtime.spawn(async move { starter.run(r#"exec rm -rf -- "$1""#, &[&path]).await.map(drop) });
        }
    }
}

/// Reads a program to its end, keeping at most `max_bytes` of its output.
pub(super) async fn finish(process: PlainProcess, max_bytes: usize) -> Result<Ended, SessionError> {
    let PlainProcess { stdin, mut output } = process;
    // A pipe ends only when nobody holds it any more.
    drop(stdin);
    let mut ended = Ended::default();
    let mut words = Vec::new();
    while let Some(next) = output.next().await {
        match next.map_err(broken)? {
            PlainOutput::Stdout(bytes) => keep(&mut ended.stdout, &bytes, max_bytes),
            PlainOutput::Stderr(bytes) => keep(&mut words, &bytes, MAX_WORDS),
            PlainOutput::Exited(code) => {
                ended.code = code;
                ended.words = String::from_utf8_lossy(&words).trim().replace(char::is_control, " ");
                return Ok(ended);
            }
        }
    }
    Err(SessionError::Lost)
}

fn keep(buffer: &mut Vec<u8>, bytes: &Bytes, max: usize) {
    let room = max.saturating_sub(buffer.len()).min(bytes.len());
    buffer.extend_from_slice(&bytes[..room]);
}

/// A stream of the backend that broke.
pub(super) fn broken(source: BoxError) -> SessionError {
    SessionError::Backend { operation: "hear from a program", source }
}
