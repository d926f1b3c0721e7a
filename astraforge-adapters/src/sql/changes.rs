//! Change sets, approvals and merge requests.

use astraforge_core::{
    id::{ChangeSetId, MergeRequestId, RequestId, TenantId, UserId},
    merge_request::MergeRequest,
    page::{Page, Paged},
    ports::store::StoreError,
    request::{approval::Approval, change_set::ChangeSet},
};

use super::{
    error::{already_exists, failed},
    pages::{self, End, newest_first},
    row::{Cells, Columns as _, SqlResult, json, maybe_json, micros, name},
    statement::{Statements, Value, values},
};

pub(super) async fn add_change_set(connection: &mut impl Statements, change_set: &ChangeSet) -> SqlResult<()> {
    let statement = "INSERT INTO change_sets (id, request, run, change, verdict, digest, created_at) \
                     VALUES ($1, $2, $3, $4, $5, $6, $7)";
    let values = values![
        change_set.id.to_string(),
        change_set.request.to_string(),
        change_set.run.to_string(),
        json(&change_set.change)?,
        json(&change_set.verdict)?,
        change_set.digest.as_str(),
        micros(change_set.created_at),
    ];
    connection.execute(statement, values).await.map(drop)
}

pub(super) async fn change_set(connection: &mut impl Statements, id: ChangeSetId) -> SqlResult<Option<ChangeSet>> {
    let row = connection.row("SELECT * FROM change_sets WHERE id = $1", values![id.to_string()]).await?;
    row.as_ref().map(change_set_from_row).transpose()
}

/// The newest is the one added last, whatever the clock said: an approval binds to it.
pub(super) async fn latest_change_set(
    connection: &mut impl Statements,
    request: RequestId,
) -> SqlResult<Option<ChangeSet>> {
    let statement = "SELECT * FROM change_sets WHERE request = $1 ORDER BY position DESC LIMIT 1";
    connection.row(statement, values![request.to_string()]).await?.as_ref().map(change_set_from_row).transpose()
}

fn change_set_from_row(row: &impl Cells) -> SqlResult<ChangeSet> {
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

pub(super) async fn add_approval(connection: &mut impl Statements, approval: &Approval) -> SqlResult<()> {
    let statement = "INSERT INTO approvals (id, request, change_set, digest, approver, binding, created_at) \
                     VALUES ($1, $2, $3, $4, $5, $6, $7)";
    let values = values![
        approval.id.to_string(),
        approval.request.to_string(),
        approval.change_set.to_string(),
        approval.digest.as_str(),
        approval.approver.as_str(),
        name(approval.binding)?,
        micros(approval.created_at),
    ];
    connection.execute(statement, values).await.map(drop)
}

pub(super) async fn approvals(connection: &mut impl Statements, request: RequestId) -> SqlResult<Vec<Approval>> {
    let statement = "SELECT * FROM approvals WHERE request = $1 ORDER BY created_at, position";
    connection.rows(statement, values![request.to_string()]).await?.iter().map(approval_from_row).collect()
}

fn approval_from_row(row: &impl Cells) -> SqlResult<Approval> {
    Ok(Approval {
        id: row.parsed("id")?,
        request: row.parsed("request")?,
        change_set: row.parsed("change_set")?,
        digest: row.parsed("digest")?,
        approver: row.wrapped("approver", UserId::new)?,
        binding: row.named("binding")?,
        created_at: row.time("created_at")?,
    })
}

pub(super) async fn write_merge_request(
    connection: &mut impl Statements,
    merge_request: &MergeRequest,
) -> Result<(), StoreError> {
    match upsert(connection, merge_request).await.map_err(failed("write a merge request"))? {
        0 => Err(already_exists("merge request", merge_request.id)),
        _ => Ok(()),
    }
}

async fn upsert(connection: &mut impl Statements, merge_request: &MergeRequest) -> SqlResult<u64> {
    let statement = "INSERT INTO merge_requests (id, request, tenant, change_set, proposal, url, status, review, \
                     created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
                     ON CONFLICT (id) DO UPDATE SET change_set = excluded.change_set, proposal = excluded.proposal, \
                     url = excluded.url, status = excluded.status, review = excluded.review, \
                     created_at = excluded.created_at \
                     WHERE merge_requests.tenant = excluded.tenant AND merge_requests.request = excluded.request";
    let values = values![
        merge_request.id.to_string(),
        merge_request.request.to_string(),
        merge_request.tenant.as_str(),
        merge_request.change_set.to_string(),
        json(&merge_request.proposal)?,
        &merge_request.url,
        name(merge_request.status)?,
        maybe_json(merge_request.review.as_ref())?,
        micros(merge_request.created_at),
    ];
    connection.execute(statement, values).await
}

pub(super) async fn merge_request(
    connection: &mut impl Statements,
    tenant: &TenantId,
    id: MergeRequestId,
) -> SqlResult<Option<MergeRequest>> {
    let statement = "SELECT * FROM merge_requests WHERE id = $1 AND tenant = $2";
    let row = connection.row(statement, values![id.to_string(), tenant.as_str()]).await?;
    row.as_ref().map(merge_request_from_row).transpose()
}

pub(super) async fn merge_requests(
    connection: &mut impl Statements,
    tenant: &TenantId,
) -> SqlResult<Vec<MergeRequest>> {
    let statement = "SELECT * FROM merge_requests WHERE tenant = $1 ORDER BY created_at DESC, position DESC";
    connection.rows(statement, values![tenant.as_str()]).await?.iter().map(merge_request_from_row).collect()
}

pub(super) async fn merge_requests_page(
    connection: &mut impl Statements,
    tenant: &TenantId,
    request: Option<RequestId>,
    page: Page,
) -> SqlResult<Paged<MergeRequest>> {
    const OF_TENANT: &str = newest_first!("merge_requests", "tenant = $4");
    const OF_REQUEST: &str =
        newest_first!("merge_requests", "request = (SELECT id FROM requests WHERE tenant = $4 AND id = $5)");
    let request = request.map(|id| id.to_string());
    let statement = if request.is_some() { OF_REQUEST } else { OF_TENANT };
    let filters = [Some(tenant.to_string()), request].into_iter().flatten().map(Value::from);
    pages::read(connection, statement, End::Newest, page, filters, merge_request_from_row).await
}

pub(super) async fn merge_request_of(
    connection: &mut impl Statements,
    request: RequestId,
) -> SqlResult<Option<MergeRequest>> {
    let statement = "SELECT * FROM merge_requests WHERE request = $1 ORDER BY created_at DESC, position DESC LIMIT 1";
    connection.row(statement, values![request.to_string()]).await?.as_ref().map(merge_request_from_row).transpose()
}

fn merge_request_from_row(row: &impl Cells) -> SqlResult<MergeRequest> {
    Ok(MergeRequest {
        id: row.parsed("id")?,
        request: row.parsed("request")?,
        tenant: row.wrapped("tenant", TenantId::new)?,
        change_set: row.parsed("change_set")?,
        proposal: row.json("proposal")?,
        url: row.string("url")?,
        status: row.named("status")?,
        review: row.maybe_json("review")?,
        created_at: row.time("created_at")?,
    })
}
