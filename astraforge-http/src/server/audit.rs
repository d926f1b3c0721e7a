//! `/api/audit/`: what was done, by whom and with which outcome, for administrators.

use astraforge_core::{
    audit::{Audit, chain::Mark},
    error::chain,
    id::TenantId,
    ports::store::StoreError,
};
use axum::{
    Json,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderName, header::CONTENT_TYPE},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use futures::Stream;
use serde::Deserialize;

use super::{
    AppState,
    caller::Authenticated,
    error::ApiError,
    query::QueryOf,
    refusals::{Invalid, Missing, Refused},
};
use crate::wire::audit::{AuditCheck, AuditEntryView, AuditPage};

mod about;
pub(super) mod calls;
pub(super) mod doors;

pub(super) use self::about::About;

/// How many entries a part has, unless the caller says.
const USUAL: u32 = 100;
/// How many entries it has at most.
const MOST: u32 = 1000;

/// Which part of the audit is asked for.
#[derive(Debug, Deserialize)]
pub(super) struct PageQuery {
    limit: Option<u32>,
    cursor: Option<String>,
}

/// List what was done, the newest first.
#[utoipa::path(
    get, path = "/api/audit/", tag = "audit", operation_id = "list_audit",
    params(
        ("limit" = Option<u32>, Query, description = "How many entries to show, 1 to 1000; 100 unless set."),
        ("cursor" = Option<String>, Query, description = "Where to go on: `next_cursor` of the part before."),
    ),
    responses((status = 200, description = "A part of the audit.", body = AuditPage), Invalid, Refused, Missing),
)]
pub(super) async fn list(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
    QueryOf(query): QueryOf<PageQuery>,
) -> Result<Json<AuditPage>, ApiError> {
    let audit = kept(&state)?;
    let limit = query.limit.unwrap_or(USUAL);
    if !(1..=MOST).contains(&limit) {
        return Err(ApiError::field("limit", format!("Ask for 1 to {MOST} entries.")));
    }
    let before = query.cursor.as_deref().map(read_cursor).transpose()?;
    let entries = audit.newest(&caller.tenant, before, limit).await?;
    let is_full = u32::try_from(entries.len()).is_ok_and(|n| n == limit);
    let next_cursor = entries.last().filter(|last| is_full && last.seq > 1).map(|last| cursor(last.seq));
    Ok(Json(AuditPage { items: entries.into_iter().map(AuditEntryView::from).collect(), next_cursor }))
}

/// Export all that was done as JSON Lines, the oldest first.
#[utoipa::path(
    get, path = "/api/audit/export/", tag = "audit", operation_id = "export_audit",
    responses(
        (status = 200, description = "One entry a line.", body = AuditEntryView, content_type = "application/jsonl"),
        Refused, Missing,
    ),
)]
pub(super) async fn export(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
) -> Result<([(HeaderName, &'static str); 1], Body), ApiError> {
    let audit = kept(&state)?.clone();
    Ok(([(CONTENT_TYPE, "application/jsonl")], Body::from_stream(lines(audit, caller.tenant))))
}

/// What is to be among the entries.
#[derive(Debug, Deserialize)]
pub(super) struct CheckQuery {
    expect: Option<String>,
}

/// Tell whether the audit is as it was written: all entries are read for that.
#[utoipa::path(
    get, path = "/api/audit/verify/", tag = "audit", operation_id = "verify_audit",
    params(("expect" = Option<String>, Query, description = "A `head` that was told before, which has to be there still.")),
    responses((status = 200, description = "Whether it holds.", body = AuditCheck), Invalid, Refused, Missing),
)]
pub(super) async fn verify(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
    QueryOf(query): QueryOf<CheckQuery>,
) -> Result<Json<AuditCheck>, ApiError> {
    let audit = kept(&state)?;
    let expected = query.expect.map(|text| text.parse::<Mark>()).transpose();
    let expected = expected.map_err(|error| ApiError::field("expect", error.to_string()))?;
    Ok(Json(audit.verify(&caller.tenant, expected.as_ref()).await?.into()))
}

/// The audit, where one is kept.
fn kept(state: &AppState) -> Result<&Audit, ApiError> {
    state.forge().journal().audit().ok_or_else(|| ApiError::not_found("This server keeps no audit."))
}

/// All entries of a tenant as lines, read as fast as the client takes them.
fn lines(audit: Audit, tenant: TenantId) -> impl Stream<Item = Result<Bytes, StoreError>> {
    async_stream::try_stream! {
        let mut last = 0;
        loop {
            let entries = audit.after(&tenant, last).await.inspect_err(|error| {
                tracing::error!(error = chain(error), "an export of the audit broke off");
            })?;
            // A row whose number nobody gave it must not be read for ever.
            let Some(next) = entries.last().map(|entry| entry.seq).filter(|seq| *seq > last) else { break };
            last = next;
            yield entries.into_iter().map(line).collect::<String>().into();
        }
    }
}

fn line(entry: astraforge_core::audit::Entry) -> String {
    let line = serde_json::to_string(&AuditEntryView::from(entry)).unwrap_or_default();
    format!("{line}\n")
}

fn cursor(seq: u64) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(format!("before {seq}"))
}

fn read_cursor(text: &str) -> Result<u64, ApiError> {
    let read = || {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
        std::str::from_utf8(&bytes).ok()?.strip_prefix("before ")?.parse().ok()
    };
    read().ok_or_else(|| ApiError::field("cursor", "Not a cursor of this list; take `next_cursor` as it was told."))
}
