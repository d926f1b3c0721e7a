//! Commands that end with whoever started them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// A command that runs for as long as somebody follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = SandboxExecution)] // runs come to an execution too
pub struct ExecutionView {
    /// What it is steered, followed and ended by.
    pub id: Uuid,
}
