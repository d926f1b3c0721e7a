//! The port that keeps what runs used of models.

use std::{fmt, sync::Arc};

use async_trait::async_trait;

use crate::{BoxError, id::RunId, ports::store::Store, run::Usage};

/// Adds up what the model calls of runs used. Every [`Store`] behind an `Arc` is one.
///
/// # Contract
/// Records of the same run may come at the same time, and each counts once.
#[async_trait]
pub trait UsageLog: fmt::Debug + Send + Sync + 'static {
    /// Adds to what a run used.
    async fn record(&self, run: RunId, usage: Usage) -> Result<(), BoxError>;
}

#[async_trait]
impl UsageLog for Arc<dyn Store> {
    async fn record(&self, run: RunId, usage: Usage) -> Result<(), BoxError> {
        Ok(self.add_usage(run, usage).await?)
    }
}
