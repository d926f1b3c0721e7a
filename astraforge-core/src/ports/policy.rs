//! The port for policies on changes.

use std::fmt;

use async_trait::async_trait;

use crate::{BoxError, policy::Verdict, request::change_set::Change};

/// Judges changes.
#[async_trait]
pub trait PolicyEngine: fmt::Debug + Send + Sync + 'static {
    /// Evaluates the policy on a change.
    ///
    /// # Errors
    /// [`PolicyError`] when the policy itself is broken; a change is never let through because of that.
    async fn evaluate(&self, change: &Change) -> Result<Verdict, PolicyError>;
}

/// The policy could not be evaluated.
#[derive(Debug, thiserror::Error)]
#[error("the policy could not be evaluated")]
pub struct PolicyError(#[source] pub BoxError);
