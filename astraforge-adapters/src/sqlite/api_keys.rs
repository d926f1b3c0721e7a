//! API keys, as hashes.

use astraforge_core::{
    access::ApiKey,
    id::{ApiKeyId, TenantId, UserId},
};
use chrono::{DateTime, DurationRound as _, TimeDelta, Utc};
use sqlx::{Row as _, SqlitePool, sqlite::SqliteRow};

use super::row::{Columns as _, SqlResult, micros};

pub(super) async fn add(pool: &SqlitePool, key: &ApiKey) -> SqlResult<()> {
    sqlx::query(
        "INSERT INTO api_keys (id, tenant, user, name, hash, role, is_active, created_at, last_used_at) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(key.id.to_string())
    .bind(key.tenant.as_str())
    .bind(key.user.as_str())
    .bind(&key.name)
    .bind(&key.hash)
    .bind(key.role.as_str())
    .bind(key.is_active)
    .bind(micros(key.created_at))
    .bind(key.last_used_at.map(micros))
    .execute(pool)
    .await?;
    Ok(())
}

pub(super) async fn active_by_hash(pool: &SqlitePool, hash: &str) -> SqlResult<Option<ApiKey>> {
    let query = sqlx::query("SELECT * FROM api_keys WHERE hash = ? AND is_active").bind(hash);
    query.fetch_optional(pool).await?.as_ref().map(from_row).transpose()
}

pub(super) async fn list(pool: &SqlitePool, tenant: &TenantId) -> SqlResult<Vec<ApiKey>> {
    let query = sqlx::query("SELECT * FROM api_keys WHERE tenant = ? ORDER BY created_at, position");
    query.bind(tenant.as_str()).fetch_all(pool).await?.iter().map(from_row).collect()
}

pub(super) async fn count(pool: &SqlitePool) -> SqlResult<u64> {
    sqlx::query("SELECT count(*) AS n FROM api_keys").fetch_one(pool).await?.number("n")
}

pub(super) async fn revoke(pool: &SqlitePool, tenant: &TenantId, id: ApiKeyId) -> SqlResult<bool> {
    let query = sqlx::query("UPDATE api_keys SET is_active = 0 WHERE id = ? AND tenant = ?");
    let done = query.bind(id.to_string()).bind(tenant.as_str()).execute(pool).await?;
    Ok(done.rows_affected() > 0)
}

/// Writes only when the minute is another one: each call of the API comes through here.
pub(super) async fn touch(
    readers: &SqlitePool,
    writer: &SqlitePool,
    id: ApiKeyId,
    now: DateTime<Utc>,
) -> SqlResult<()> {
    let minute = now.duration_trunc(TimeDelta::minutes(1)).unwrap_or(now);
    let query = sqlx::query("SELECT last_used_at FROM api_keys WHERE id = ?").bind(id.to_string());
    let Some(row) = query.fetch_optional(readers).await? else { return Ok(()) };
    if row.maybe_time("last_used_at")? != Some(minute) {
        let update = sqlx::query("UPDATE api_keys SET last_used_at = ? WHERE id = ?");
        update.bind(micros(minute)).bind(id.to_string()).execute(writer).await?;
    }
    Ok(())
}

fn from_row(row: &SqliteRow) -> SqlResult<ApiKey> {
    Ok(ApiKey {
        id: row.parsed("id")?,
        tenant: row.wrapped("tenant", TenantId::new)?,
        user: row.wrapped("user", UserId::new)?,
        name: row.try_get("name")?,
        hash: row.try_get("hash")?,
        role: row.parsed("role")?,
        is_active: row.try_get("is_active")?,
        created_at: row.time("created_at")?,
        last_used_at: row.maybe_time("last_used_at")?,
    })
}
