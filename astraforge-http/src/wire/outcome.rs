//! Short answers to commands.

use std::collections::BTreeMap;

use astraforge_core::id::RunId;
use astraforge_core::request::RequestState;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{sandbox::failure::SandboxFailure, schema, text};

/// A run was queued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Queued {
    /// `queued`; `received` for a chat message.
    #[schema(example = "queued")]
    pub status: String,
    /// The run; additive.
    #[schema(value_type = uuid::Uuid)]
    pub run_id: RunId,
}

/// Runs were told to stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Cancelled {
    /// `cancelled` when nothing was at work any more, else `cancelling`: the log tells when it has stopped.
    #[schema(example = "cancelling")]
    pub status: String,
    /// Where the request stands now.
    #[serde(with = "text")]
    #[schema(schema_with = schema::request_state)]
    pub state: RequestState,
}

/// How the server is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `ok`; `degraded` when calls are served without a part that helps; else what is wrong.
    #[schema(example = "ok")]
    pub status: String,
    /// What is wrong with which part: `bus`, `sandboxes`. Left out when nothing is.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(example = json!({ "bus": "it carries no hints" }))]
    pub trouble: BTreeMap<String, String>,
}

/// Why a call was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// What is wrong and what to do about it.
    #[schema(example = "Authentication credentials were not provided.")]
    pub detail: String,
    /// The kind of what is wrong, for programs, where one can act on it: `not_found`, `outside_roots`, `is_directory` and
    /// the like for files, `not_supported`, `lost`; additive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "not_found")]
    pub code: Option<String>,
    /// What went wrong in a sandbox, in parts; additive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub failure: Option<SandboxFailure>,
}
