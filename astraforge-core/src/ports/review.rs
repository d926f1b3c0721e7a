//! The port for reviewers of merge requests.

use std::fmt;

use async_trait::async_trait;

use crate::{BoxError, request::change_set::Change, review::Finding};

/// Reads a change and says what is wrong with it.
#[async_trait]
pub trait Reviewer: fmt::Debug + Send + Sync + 'static {
    /// Names the reviewer in its findings.
    fn name(&self) -> &str;

    /// Reviews a change.
    async fn review(&self, change: &Change) -> Result<Vec<Finding>, ReviewError>;
}

/// A review did not come about.
#[derive(Debug, thiserror::Error)]
#[error("reviewer `{reviewer}` failed")]
pub struct ReviewError {
    /// The reviewer's name.
    pub reviewer: String,
    /// Why.
    #[source]
    pub source: BoxError,
}
