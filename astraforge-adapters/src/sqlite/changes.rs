//! Change sets, approvals and merge requests.

use astraforge_core::{
    id::{ChangeSetId, MergeRequestId, RequestId, TenantId, UserId},
    merge_request::MergeRequest,
    ports::store::StoreError,
    request::{approval::Approval, change_set::ChangeSet},
};
use sqlx::{Row as _, SqliteConnection, SqlitePool, sqlite::SqliteRow};

use super::{
    error::{already_exists, failed},
    row::{Columns as _, SqlResult, json, maybe_json, micros, name},
};

pub(super) async fn add_change_set(connection: &mut SqliteConnection, change_set: &ChangeSet) -> SqlResult<()> {
    sqlx::query(
        "INSERT INTO change_sets (id, request, run, change, verdict, digest, created_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(change_set.id.to_string())
    .bind(change_set.request.to_string())
    .bind(change_set.run.to_string())
    .bind(json(&change_set.change)?)
    .bind(json(&change_set.verdict)?)
    .bind(change_set.digest.as_str())
    .bind(micros(change_set.created_at))
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) async fn change_set(pool: &SqlitePool, id: ChangeSetId) -> SqlResult<Option<ChangeSet>> {
    let query = sqlx::query("SELECT * FROM change_sets WHERE id = ?").bind(id.to_string());
    query.fetch_optional(pool).await?.as_ref().map(change_set_from_row).transpose()
}

/// The newest is the one added last, whatever the clock said: an approval binds to it.
pub(super) async fn latest_change_set(pool: &SqlitePool, request: RequestId) -> SqlResult<Option<ChangeSet>> {
    let query = sqlx::query("SELECT * FROM change_sets WHERE request = ? ORDER BY position DESC LIMIT 1");
    let row = query.bind(request.to_string()).fetch_optional(pool).await?;
    row.as_ref().map(change_set_from_row).transpose()
}

fn change_set_from_row(row: &SqliteRow) -> SqlResult<ChangeSet> {
    Ok(ChangeSet {
        id: row.parsed("id")?,
        request: row.parsed("request")?,
        run: row.parsed("run")?,
        change: row.json("change")?,
        verdict: row.json("verdict")?,
        digest: row.parsed("digest")?,
        created_at: row.time("created_at")?,
    })
}

pub(super) async fn add_approval(connection: &mut SqliteConnection, approval: &Approval) -> SqlResult<()> {
    sqlx::query(
        "INSERT INTO approvals (id, request, change_set, digest, approver, binding, created_at) \
         VALUES (?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(approval.id.to_string())
    .bind(approval.request.to_string())
    .bind(approval.change_set.to_string())
    .bind(approval.digest.as_str())
    .bind(approval.approver.as_str())
    .bind(name(approval.binding)?)
    .bind(micros(approval.created_at))
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) async fn approvals(pool: &SqlitePool, request: RequestId) -> SqlResult<Vec<Approval>> {
    let query = sqlx::query("SELECT * FROM approvals WHERE request = ? ORDER BY created_at, position");
    let rows = query.bind(request.to_string()).fetch_all(pool).await?;
    let approval = |row: &SqliteRow| {
        Ok(Approval {
            id: row.parsed("id")?,
            request: row.parsed("request")?,
            change_set: row.parsed("change_set")?,
            digest: row.parsed("digest")?,
            approver: row.wrapped("approver", UserId::new)?,
            binding: row.named("binding")?,
            created_at: row.time("created_at")?,
        })
    };
    rows.iter().map(approval).collect()
}

pub(super) async fn write_merge_request(
    connection: &mut SqliteConnection,
    merge_request: &MergeRequest,
) -> Result<(), StoreError> {
    match upsert(connection, merge_request).await.map_err(failed("write a merge request"))? {
        0 => Err(already_exists("merge request", merge_request.id)),
        _ => Ok(()),
    }
}

async fn upsert(connection: &mut SqliteConnection, merge_request: &MergeRequest) -> SqlResult<u64> {
    let done = sqlx::query(
        "INSERT INTO merge_requests (id, request, tenant, change_set, proposal, url, status, review, created_at) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) \
         ON CONFLICT (id) DO UPDATE SET change_set = excluded.change_set, proposal = excluded.proposal, \
         url = excluded.url, status = excluded.status, review = excluded.review, created_at = excluded.created_at \
         WHERE merge_requests.tenant = excluded.tenant AND merge_requests.request = excluded.request",
    )
    .bind(merge_request.id.to_string())
    .bind(merge_request.request.to_string())
    .bind(merge_request.tenant.as_str())
    .bind(merge_request.change_set.to_string())
    .bind(json(&merge_request.proposal)?)
    .bind(&merge_request.url)
    .bind(name(merge_request.status)?)
    .bind(maybe_json(merge_request.review.as_ref())?)
    .bind(micros(merge_request.created_at))
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

pub(super) async fn merge_request(
    pool: &SqlitePool,
    tenant: &TenantId,
    id: MergeRequestId,
) -> SqlResult<Option<MergeRequest>> {
    let query = sqlx::query("SELECT * FROM merge_requests WHERE id = ? AND tenant = ?");
    let row = query.bind(id.to_string()).bind(tenant.as_str()).fetch_optional(pool).await?;
    row.as_ref().map(merge_request_from_row).transpose()
}

pub(super) async fn merge_requests(pool: &SqlitePool, tenant: &TenantId) -> SqlResult<Vec<MergeRequest>> {
    let query = sqlx::query("SELECT * FROM merge_requests WHERE tenant = ? ORDER BY created_at DESC, position DESC");
    query.bind(tenant.as_str()).fetch_all(pool).await?.iter().map(merge_request_from_row).collect()
}

fn merge_request_from_row(row: &SqliteRow) -> SqlResult<MergeRequest> {
    Ok(MergeRequest {
        id: row.parsed("id")?,
        request: row.parsed("request")?,
        tenant: row.wrapped("tenant", TenantId::new)?,
        change_set: row.parsed("change_set")?,
        proposal: row.json("proposal")?,
        url: row.try_get("url")?,
        status: row.named("status")?,
        review: row.maybe_json("review")?,
        created_at: row.time("created_at")?,
    })
}
