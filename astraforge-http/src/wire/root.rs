//! Where the lists of the API are.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The addresses of the API's lists, absolute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Resources {
    /// Requests.
    #[schema(example = "http://127.0.0.1:8001/api/requests/")]
    pub requests: String,
    /// Where messages are posted; they are read with their request.
    #[schema(example = "http://127.0.0.1:8001/api/chat/")]
    pub chat: String,
    /// API keys.
    #[schema(example = "http://127.0.0.1:8001/api/api-keys/")]
    pub api_keys: String,
    /// Repository links.
    #[schema(example = "http://127.0.0.1:8001/api/repository-links/")]
    pub repository_links: String,
    /// Runs.
    #[schema(example = "http://127.0.0.1:8001/api/runs/")]
    pub runs: String,
    /// Merge requests.
    #[schema(example = "http://127.0.0.1:8001/api/merge-requests/")]
    pub merge_requests: String,
    /// Sandboxes.
    #[serde(rename = "sandbox/sessions")]
    #[schema(example = "http://127.0.0.1:8001/api/sandbox/sessions/")]
    pub sandbox_sessions: String,
}
