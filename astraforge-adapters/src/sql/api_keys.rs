//! API keys, as hashes.

use astraforge_core::{
    access::{ApiKey, Scopes},
    id::{ApiKeyId, TenantId, UserId},
    page::{Page, Paged},
};
use chrono::{DateTime, DurationRound as _, TimeDelta, Utc};

use super::{
    pages::{self, End, newest_first},
    row::{Cells, Columns as _, SqlResult, micros},
    statement::{Statements, values},
};

pub(super) async fn add(connection: &mut impl Statements, key: &ApiKey) -> SqlResult<()> {
    let statement = r#"INSERT INTO api_keys (id, tenant, "user", name, prefix, hash, role, scopes, is_active, created_at,
                                             expires_at, last_used_at)
                       VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"#;
    let values = values![
        key.id.to_string(),
        key.tenant.as_str(),
        key.user.as_str(),
        &key.name,
        &key.prefix,
        &key.hash,
        key.role.as_str(),
        listed(&key.scopes),
        key.is_active,
        micros(key.created_at),
        key.expires_at.map(micros),
        key.last_used_at.map(micros),
    ];
    connection.execute(statement, values).await.map(drop)
}

pub(super) async fn active_by_hash(connection: &mut impl Statements, hash: &str) -> SqlResult<Option<ApiKey>> {
    let statement = "SELECT * FROM api_keys WHERE hash = $1 AND is_active";
    connection.row(statement, values![hash]).await?.as_ref().map(from_row).transpose()
}

pub(super) async fn list(connection: &mut impl Statements, tenant: &TenantId) -> SqlResult<Vec<ApiKey>> {
    let statement = "SELECT * FROM api_keys WHERE tenant = $1 ORDER BY created_at, position";
    connection.rows(statement, values![tenant.as_str()]).await?.iter().map(from_row).collect()
}

pub(super) async fn page(connection: &mut impl Statements, tenant: &TenantId, page: Page) -> SqlResult<Paged<ApiKey>> {
    const OF_TENANT: &str = newest_first!("api_keys", "tenant = $4");
    pages::read(connection, OF_TENANT, End::Newest, page, values![tenant.as_str()], from_row).await
}

pub(super) async fn count(connection: &mut impl Statements) -> SqlResult<u64> {
    connection.row("SELECT count(*) AS n FROM api_keys", []).await?.map_or(Ok(0), |row| row.number("n"))
}

pub(super) async fn revoke(connection: &mut impl Statements, tenant: &TenantId, id: ApiKeyId) -> SqlResult<bool> {
    let statement = "UPDATE api_keys SET is_active = FALSE WHERE id = $1 AND tenant = $2";
    Ok(connection.execute(statement, values![id.to_string(), tenant.as_str()]).await? > 0)
}

/// The minute in which a key is used, when it is not noted yet: each call of the API comes through here.
pub(super) async fn new_minute(
    connection: &mut impl Statements,
    id: ApiKeyId,
    now: DateTime<Utc>,
) -> SqlResult<Option<DateTime<Utc>>> {
    let minute = now.duration_trunc(TimeDelta::minutes(1)).unwrap_or(now);
    let row = connection.row("SELECT last_used_at FROM api_keys WHERE id = $1", values![id.to_string()]).await?;
    let noted = row.map(|row| row.maybe_time("last_used_at")).transpose()?;
    Ok(noted.filter(|noted| *noted != Some(minute)).map(|_| minute))
}

pub(super) async fn touch(connection: &mut impl Statements, id: ApiKeyId, minute: DateTime<Utc>) -> SqlResult<bool> {
    let statement = "UPDATE api_keys SET last_used_at = $1 \
                     WHERE id = $2 AND (last_used_at IS NULL OR last_used_at <> $1)";
    Ok(connection.execute(statement, values![micros(minute), id.to_string()]).await? > 0)
}

fn from_row(row: &impl Cells) -> SqlResult<ApiKey> {
    Ok(ApiKey {
        id: row.parsed("id")?,
        tenant: row.wrapped("tenant", TenantId::new)?,
        user: row.wrapped("user", UserId::new)?,
        name: row.string("name")?,
        prefix: row.string("prefix")?,
        hash: row.string("hash")?,
        role: row.parsed("role")?,
        scopes: row.maybe_parsed("scopes")?.unwrap_or(Scopes::All),
        is_active: row.flag("is_active")?,
        created_at: row.time("created_at")?,
        expires_at: row.maybe_time("expires_at")?,
        last_used_at: row.maybe_time("last_used_at")?,
    })
}

/// What a key is for, by name; nothing for all that its role allows.
fn listed(scopes: &Scopes) -> Option<String> {
    (*scopes != Scopes::All).then(|| scopes.to_string())
}
