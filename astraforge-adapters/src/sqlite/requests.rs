//! Requests, their messages and attachments.

use astraforge_core::{
    id::{RequestId, TenantId, UserId},
    ports::store::{Expected, RequestChange, StoreError},
    request::{Attachment, Message, Request},
};
use sqlx::{Row as _, SqliteConnection, SqlitePool, sqlite::SqliteRow};

use super::{
    error::{failed, taken},
    row::{Columns as _, SqlResult, maybe_json, micros, name, number},
};

pub(super) async fn write(connection: &mut SqliteConnection, change: &RequestChange) -> Result<(), StoreError> {
    const OPERATION: &str = "write a request";
    let RequestChange { request, expected } = change;
    match *expected {
        Expected::Absent => {
            insert(connection, request).await.map_err(taken(OPERATION, "request", request.id))?;
            Ok(())
        }
        Expected::Version(version) => match update(connection, request, version).await.map_err(failed(OPERATION))? {
            0 => Err(StoreError::Conflict { id: request.id }),
            _ => Ok(()),
        },
    }
}

async fn insert(connection: &mut SqliteConnection, request: &Request) -> SqlResult<()> {
    sqlx::query(
        "INSERT INTO requests (requester, source, sender, title, prompt, repository, state, plan, created_at, \
         updated_at, id, tenant, version) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1)",
    )
    .bind(request.requester.as_str())
    .bind(&request.source)
    .bind(&request.sender)
    .bind(&request.title)
    .bind(request.prompt.as_str())
    .bind(request.repository.to_string())
    .bind(request.state.as_str())
    .bind(maybe_json(request.plan.as_ref())?)
    .bind(micros(request.created_at))
    .bind(micros(request.updated_at))
    .bind(request.id.to_string())
    .bind(request.tenant.as_str())
    .execute(connection)
    .await?;
    Ok(())
}

async fn update(connection: &mut SqliteConnection, request: &Request, version: u64) -> SqlResult<u64> {
    let done = sqlx::query(
        "UPDATE requests SET requester = ?, source = ?, sender = ?, title = ?, prompt = ?, repository = ?, \
         state = ?, plan = ?, created_at = ?, updated_at = ?, version = version + 1 \
         WHERE id = ? AND tenant = ? AND version = ?",
    )
    .bind(request.requester.as_str())
    .bind(&request.source)
    .bind(&request.sender)
    .bind(&request.title)
    .bind(request.prompt.as_str())
    .bind(request.repository.to_string())
    .bind(request.state.as_str())
    .bind(maybe_json(request.plan.as_ref())?)
    .bind(micros(request.created_at))
    .bind(micros(request.updated_at))
    .bind(request.id.to_string())
    .bind(request.tenant.as_str())
    .bind(number(version)?)
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

pub(super) async fn find(pool: &SqlitePool, tenant: &TenantId, id: RequestId) -> SqlResult<Option<Request>> {
    let query = sqlx::query("SELECT * FROM requests WHERE id = ? AND tenant = ?");
    let row = query.bind(id.to_string()).bind(tenant.as_str()).fetch_optional(pool).await?;
    row.as_ref().map(from_row).transpose()
}

pub(super) async fn list(pool: &SqlitePool, tenant: &TenantId) -> SqlResult<Vec<Request>> {
    let query = sqlx::query("SELECT * FROM requests WHERE tenant = ? ORDER BY created_at DESC, position DESC");
    query.bind(tenant.as_str()).fetch_all(pool).await?.iter().map(from_row).collect()
}

fn from_row(row: &SqliteRow) -> SqlResult<Request> {
    Ok(Request {
        id: row.parsed("id")?,
        tenant: row.wrapped("tenant", TenantId::new)?,
        requester: row.wrapped("requester", UserId::new)?,
        source: row.try_get("source")?,
        sender: row.try_get("sender")?,
        title: row.try_get("title")?,
        prompt: row.parsed("prompt")?,
        repository: row.parsed("repository")?,
        state: row.parsed("state")?,
        plan: row.maybe_json("plan")?,
        version: row.number("version")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
    })
}

pub(super) async fn add_message(connection: &mut SqliteConnection, message: &Message) -> SqlResult<()> {
    sqlx::query("INSERT INTO messages (id, request, role, text, run, created_at) VALUES (?, ?, ?, ?, ?, ?)")
        .bind(message.id.to_string())
        .bind(message.request.to_string())
        .bind(name(message.role)?)
        .bind(&message.text)
        .bind(message.run.map(|run| run.to_string()))
        .bind(micros(message.created_at))
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn messages(pool: &SqlitePool, request: RequestId) -> SqlResult<Vec<Message>> {
    let query = sqlx::query("SELECT * FROM messages WHERE request = ? ORDER BY created_at, position");
    let rows = query.bind(request.to_string()).fetch_all(pool).await?;
    let message = |row: &SqliteRow| {
        Ok(Message {
            id: row.parsed("id")?,
            request: row.parsed("request")?,
            role: row.named("role")?,
            text: row.try_get("text")?,
            run: row.maybe_parsed("run")?,
            created_at: row.time("created_at")?,
        })
    };
    rows.iter().map(message).collect()
}

pub(super) async fn add_attachment(connection: &mut SqliteConnection, attachment: &Attachment) -> SqlResult<()> {
    sqlx::query("INSERT INTO attachments (id, request, name, content_type, size, artifact) VALUES (?, ?, ?, ?, ?, ?)")
        .bind(attachment.id.to_string())
        .bind(attachment.request.to_string())
        .bind(&attachment.name)
        .bind(&attachment.content_type)
        .bind(number(attachment.size)?)
        .bind(&attachment.artifact)
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn attachments(pool: &SqlitePool, request: RequestId) -> SqlResult<Vec<Attachment>> {
    let query = sqlx::query("SELECT * FROM attachments WHERE request = ? ORDER BY position");
    let rows = query.bind(request.to_string()).fetch_all(pool).await?;
    let attachment = |row: &SqliteRow| {
        Ok(Attachment {
            id: row.parsed("id")?,
            request: row.parsed("request")?,
            name: row.try_get("name")?,
            content_type: row.try_get("content_type")?,
            size: row.number("size")?,
            artifact: row.try_get("artifact")?,
        })
    };
    rows.iter().map(attachment).collect()
}
