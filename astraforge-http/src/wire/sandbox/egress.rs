//! What a sandbox may reach, and what it tried to.

use astraforge_core::egress::EgressEvent;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a sandbox may reach, and what it tried to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EgressView {
    /// What it may reach.
    #[schema(example = "public")]
    pub egress: String,
    /// The last connections that it tried to make, oldest first: each with `at`, `host`, `port`, and an `outcome`.
    #[schema(value_type = Vec<Object>)]
    pub events: Vec<EgressEvent>,
}
