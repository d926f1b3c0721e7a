//! Sandboxes without a guest: what is left when the guest program cannot run in an image.
//!
//! A driver that says [`Access::PlainExec`](crate::driver::Access) starts one program at a time by its backend's own
//! means. Commands, whole files and archives are made of that, with the image's `sh` and `tar`; all else is refused.

use std::{fmt, pin::Pin};

use astraforge_core::{BoxError, id::SandboxId};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use tokio::io::AsyncWrite;

use crate::driver::DriverError;

/// Starts programs in the sandboxes of a driver, without a guest.
#[async_trait]
pub trait PlainExec: fmt::Debug + Send + Sync {
    /// Starts a program and returns once the backend has taken it.
    ///
    /// # Errors
    /// [`DriverError::NotFound`] or [`DriverError::Backend`]. A program that is not there may end with 126 or 127
    /// instead.
    async fn start(&self, id: SandboxId, argv: Vec<String>) -> Result<PlainProcess, DriverError>;
}

/// A program that was started.
pub struct PlainProcess {
    /// Its standard input. Shutting it down ends the input, where the backend can.
    pub stdin: Pin<Box<dyn AsyncWrite + Send>>,
    /// What it writes, and at last how it ended.
    pub output: BoxStream<'static, Result<PlainOutput, BoxError>>,
}

impl fmt::Debug for PlainProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlainProcess").finish_non_exhaustive()
    }
}

/// What a program does that its starter can see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlainOutput {
    /// Bytes on standard output.
    Stdout(Bytes),
    /// Bytes on standard error.
    Stderr(Bytes),
    /// It ended with that code; the last item.
    Exited(i32),
}
