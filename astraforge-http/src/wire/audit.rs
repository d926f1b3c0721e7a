//! The audit: what was done, by whom and with which outcome.

use astraforge_core::audit::{
    Entry,
    chain::{Fault, Mark, Verified},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::timestamp;

/// Something that was done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AuditEntryView {
    /// Its place in the tenant's chain, counted from 1.
    pub seq: u64,
    /// When it was written.
    #[serde(with = "timestamp::row")]
    pub created_at: DateTime<Utc>,
    /// The tenant.
    pub tenant: String,
    /// Who did it; empty for nobody who is known.
    pub user: String,
    /// What showed that it was them: `key:` and the key's id, `login`, `token`, `command`, `command_line`, `server` or `nothing`.
    #[schema(example = "login")]
    pub means: String,
    /// What was done: `api.` and the operation's id for a call of this API, else a name such as `policy.decided`.
    #[schema(example = "api.approve_request")]
    pub action: String,
    /// What it was done to: an id or a name.
    pub subject: String,
    /// What came of it: a status of HTTP, a verdict, `done`.
    #[schema(example = "202")]
    pub outcome: String,
    /// More of it.
    #[schema(value_type = Object)]
    pub details: Value,
    /// The id of the call, as its answer had it in `X-Request-Id`.
    pub call_id: Option<String>,
    /// What binds it to the entry before it.
    pub hash: String,
}

impl From<Entry> for AuditEntryView {
    fn from(entry: Entry) -> Self {
        Self {
            seq: entry.seq,
            created_at: entry.at,
            tenant: entry.tenant.to_string(),
            user: entry.user,
            means: entry.means,
            action: entry.action,
            subject: entry.subject,
            outcome: entry.outcome,
            // A row that somebody changed may hold anything.
            details: serde_json::from_str(&entry.details).unwrap_or(Value::String(entry.details)),
            call_id: Some(entry.call).filter(|call| !call.is_empty()),
            hash: entry.hash,
        }
    }
}

/// A part of the audit, the newest entry first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AuditPage {
    /// The entries.
    pub items: Vec<AuditEntryView>,
    /// What `cursor` has to be for the next part; null when there is none.
    pub next_cursor: Option<String>,
}

/// Whether the audit is as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditCheck {
    /// Whether every entry is as it was written, and none is missing.
    pub holds: bool,
    /// How many entries there are, when it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub n_entries: Option<u64>,
    /// The last entry's number and hash, `SEQ:HASH`, when it holds: kept elsewhere, it tells later whether that entry is
    /// still there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub head: Option<String>,
    /// What is wrong, when it does not hold: the first thing that was found.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "entry 7 is not as it was written: it was changed, moved, or put in")]
    pub fault: Option<String>,
}

impl From<Result<Verified, Fault>> for AuditCheck {
    fn from(verified: Result<Verified, Fault>) -> Self {
        match verified {
            Ok(Verified { n_entries, head }) => {
                let head = head.as_ref().map(Mark::to_string);
                Self { holds: true, n_entries: Some(n_entries), head, fault: None }
            }
            Err(fault) => Self { holds: false, n_entries: None, head: None, fault: Some(fault.to_string()) },
        }
    }
}
