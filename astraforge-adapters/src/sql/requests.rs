//! Requests, their messages and attachments.

use astraforge_core::{
    id::{RequestId, TenantId, UserId},
    page::{Page, Paged},
    ports::store::{Expected, RequestChange, StoreError},
    request::{Attachment, Message, Request, RequestState},
};

use super::{
    error::{failed, taken},
    pages::{self, End, newest_first},
    row::{Cells, Columns as _, SqlResult, maybe_json, micros, name, number},
    statement::{Statements, Value, values},
};

pub(super) async fn write(connection: &mut impl Statements, change: &RequestChange) -> Result<(), StoreError> {
    const OPERATION: &str = "write a request";
    let RequestChange { request, expected } = change;
    match *expected {
        Expected::Absent => insert(connection, request).await.map_err(taken(OPERATION, "request", request.id)),
        Expected::Version(version) => match update(connection, request, version).await.map_err(failed(OPERATION))? {
            0 => Err(StoreError::Conflict { id: request.id }),
            _ => Ok(()),
        },
    }
}

async fn insert(connection: &mut impl Statements, request: &Request) -> SqlResult<()> {
    let statement = "INSERT INTO requests (requester, source, sender, title, prompt, repository, state, plan, \
                     created_at, updated_at, id, tenant, version) \
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, 1)";
    connection.execute(statement, columns(request)?).await.map(drop)
}

async fn update(connection: &mut impl Statements, request: &Request, version: u64) -> SqlResult<u64> {
    let statement = "UPDATE requests SET requester = $1, source = $2, sender = $3, title = $4, prompt = $5, \
                     repository = $6, state = $7, plan = $8, created_at = $9, updated_at = $10, version = version + 1 \
                     WHERE id = $11 AND tenant = $12 AND version = $13";
    let version = Value::from(number(version)?);
    connection.execute(statement, columns(request)?.into_iter().chain([version])).await
}

/// What a request's statements begin with.
fn columns(request: &Request) -> SqlResult<[Value; 12]> {
    Ok(values![
        request.requester.as_str(),
        &request.source,
        &request.sender,
        &request.title,
        request.prompt.as_str(),
        request.repository.to_string(),
        request.state.as_str(),
        maybe_json(request.plan.as_ref())?,
        micros(request.created_at),
        micros(request.updated_at),
        request.id.to_string(),
        request.tenant.as_str(),
    ])
}

pub(super) async fn find(
    connection: &mut impl Statements,
    tenant: &TenantId,
    id: RequestId,
) -> SqlResult<Option<Request>> {
    let statement = "SELECT * FROM requests WHERE id = $1 AND tenant = $2";
    connection.row(statement, values![id.to_string(), tenant.as_str()]).await?.as_ref().map(from_row).transpose()
}

pub(super) async fn list(connection: &mut impl Statements, tenant: &TenantId) -> SqlResult<Vec<Request>> {
    let statement = "SELECT * FROM requests WHERE tenant = $1 ORDER BY created_at DESC, position DESC";
    connection.rows(statement, values![tenant.as_str()]).await?.iter().map(from_row).collect()
}

pub(super) async fn page(
    connection: &mut impl Statements,
    tenant: &TenantId,
    state: Option<RequestState>,
    page: Page,
) -> SqlResult<Paged<Request>> {
    const OF_TENANT: &str = newest_first!("requests", "tenant = $4");
    const OF_STATE: &str = newest_first!("requests", "tenant = $4 AND state = $5");
    let filters = [Some(tenant.as_str()), state.map(RequestState::as_str)].into_iter().flatten().map(Value::from);
    let statement = if state.is_some() { OF_STATE } else { OF_TENANT };
    pages::read(connection, statement, End::Newest, page, filters, from_row).await
}

fn from_row(row: &impl Cells) -> SqlResult<Request> {
    Ok(Request {
        id: row.parsed("id")?,
        tenant: row.wrapped("tenant", TenantId::new)?,
        requester: row.wrapped("requester", UserId::new)?,
        source: row.string("source")?,
        sender: row.string("sender")?,
        title: row.string("title")?,
        prompt: row.parsed("prompt")?,
        repository: row.parsed("repository")?,
        state: row.parsed("state")?,
        plan: row.maybe_json("plan")?,
        version: row.number("version")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
    })
}

pub(super) async fn add_message(connection: &mut impl Statements, message: &Message) -> SqlResult<()> {
    let statement = "INSERT INTO messages (id, request, role, text, run, created_at) VALUES ($1, $2, $3, $4, $5, $6)";
    let values = values![
        message.id.to_string(),
        message.request.to_string(),
        name(message.role)?,
        &message.text,
        message.run.map(|run| run.to_string()),
        micros(message.created_at),
    ];
    connection.execute(statement, values).await.map(drop)
}

pub(super) async fn messages(connection: &mut impl Statements, request: RequestId) -> SqlResult<Vec<Message>> {
    let statement = "SELECT * FROM messages WHERE request = $1 ORDER BY created_at, position";
    connection.rows(statement, values![request.to_string()]).await?.iter().map(message_from_row).collect()
}

fn message_from_row(row: &impl Cells) -> SqlResult<Message> {
    Ok(Message {
        id: row.parsed("id")?,
        request: row.parsed("request")?,
        role: row.named("role")?,
        text: row.string("text")?,
        run: row.maybe_parsed("run")?,
        created_at: row.time("created_at")?,
    })
}

pub(super) async fn add_attachment(connection: &mut impl Statements, attachment: &Attachment) -> SqlResult<()> {
    let statement = "INSERT INTO attachments (id, request, name, content_type, size, artifact) \
                     VALUES ($1, $2, $3, $4, $5, $6)";
    let values = values![
        attachment.id.to_string(),
        attachment.request.to_string(),
        &attachment.name,
        &attachment.content_type,
        number(attachment.size)?,
        &attachment.artifact,
    ];
    connection.execute(statement, values).await.map(drop)
}

pub(super) async fn attachments(connection: &mut impl Statements, request: RequestId) -> SqlResult<Vec<Attachment>> {
    let statement = "SELECT * FROM attachments WHERE request = $1 ORDER BY position";
    connection.rows(statement, values![request.to_string()]).await?.iter().map(attachment_from_row).collect()
}

fn attachment_from_row(row: &impl Cells) -> SqlResult<Attachment> {
    Ok(Attachment {
        id: row.parsed("id")?,
        request: row.parsed("request")?,
        name: row.string("name")?,
        content_type: row.string("content_type")?,
        size: row.number("size")?,
        artifact: row.string("artifact")?,
    })
}
