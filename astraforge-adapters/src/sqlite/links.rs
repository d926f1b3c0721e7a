//! Repository links, with their secrets sealed.

use astraforge_core::{
    id::{RepositoryLinkId, TenantId, UserId},
    repository::{RepositoryLink, Secret},
};
use sqlx::{Row as _, SqlitePool, sqlite::SqliteRow};

use super::row::{Columns as _, SqlResult, json, micros};
use crate::secret_box::SecretKey;

pub(super) async fn add(pool: &SqlitePool, key: &SecretKey, link: &RepositoryLink) -> SqlResult<()> {
    let statement = "INSERT INTO links (owner, provider, repository, base_url, access_token, environment, created_at, \
                     updated_at, id, tenant) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    write(pool, key, link, statement).await.map(drop)
}

pub(super) async fn update(pool: &SqlitePool, key: &SecretKey, link: &RepositoryLink) -> SqlResult<bool> {
    let statement = "UPDATE links SET owner = ?, provider = ?, repository = ?, base_url = ?, access_token = ?, \
                     environment = ?, created_at = ?, updated_at = ? WHERE id = ? AND tenant = ?";
    Ok(write(pool, key, link, statement).await? > 0)
}

/// Runs a statement whose parameters are the columns of a link, `id` and `tenant` last, and counts the rows it wrote.
async fn write(pool: &SqlitePool, key: &SecretKey, link: &RepositoryLink, statement: &'static str) -> SqlResult<u64> {
    let secrets = Sealed::of(link, key)?;
    let done = sqlx::query(statement)
        .bind(link.owner.as_str())
        .bind(&link.provider)
        .bind(&link.repository)
        .bind(&link.base_url)
        .bind(secrets.access_token)
        .bind(secrets.environment)
        .bind(micros(link.created_at))
        .bind(micros(link.updated_at))
        .bind(link.id.to_string())
        .bind(link.tenant.as_str())
        .execute(pool)
        .await?;
    Ok(done.rows_affected())
}

pub(super) async fn remove(pool: &SqlitePool, tenant: &TenantId, id: RepositoryLinkId) -> SqlResult<bool> {
    let query = sqlx::query("DELETE FROM links WHERE id = ? AND tenant = ?");
    let done = query.bind(id.to_string()).bind(tenant.as_str()).execute(pool).await?;
    Ok(done.rows_affected() > 0)
}

pub(super) async fn find(
    pool: &SqlitePool,
    key: &SecretKey,
    tenant: &TenantId,
    id: RepositoryLinkId,
) -> SqlResult<Option<RepositoryLink>> {
    let query = sqlx::query("SELECT * FROM links WHERE id = ? AND tenant = ?");
    let row = query.bind(id.to_string()).bind(tenant.as_str()).fetch_optional(pool).await?;
    row.map(|row| from_row(&row, key)).transpose()
}

pub(super) async fn list(pool: &SqlitePool, key: &SecretKey, tenant: &TenantId) -> SqlResult<Vec<RepositoryLink>> {
    let query = sqlx::query("SELECT * FROM links WHERE tenant = ? ORDER BY created_at, position");
    query.bind(tenant.as_str()).fetch_all(pool).await?.iter().map(|row| from_row(row, key)).collect()
}

/// The columns that hold secrets, each sealed for its place.
struct Sealed {
    access_token: Option<Vec<u8>>,
    environment: Vec<u8>,
}

impl Sealed {
    fn of(link: &RepositoryLink, key: &SecretKey) -> SqlResult<Self> {
        let seal = |text: &str, column: &str| {
            key.seal(text.as_bytes(), &place(link.id, column)).map_err(|error| sqlx::Error::Encode(error.into()))
        };
        let access_token = link.access_token.as_ref().map(|token| seal(token.reveal(), "access_token"));
        Ok(Self {
            access_token: access_token.transpose()?,
            environment: seal(&json(&link.environment)?, "environment")?,
        })
    }
}

/// Binds a sealed text to its row and column, so that it cannot be moved to another.
fn place(id: RepositoryLinkId, column: &str) -> String {
    format!("link {id} {column}")
}

fn from_row(row: &SqliteRow, key: &SecretKey) -> SqlResult<RepositoryLink> {
    let id: RepositoryLinkId = row.parsed("id")?;
    let unreadable = |column: &str, source| sqlx::Error::ColumnDecode { index: column.to_owned(), source };
    let open = |sealed: &[u8], column: &str| {
        let plain = key.open(sealed, &place(id, column)).map_err(|error| unreadable(column, error.into()))?;
        String::from_utf8(plain).map_err(|error| unreadable(column, error.utf8_error().into()))
    };
    let token: Option<&[u8]> = row.try_get("access_token")?;
    let environment = open(row.try_get("environment")?, "environment")?;
    Ok(RepositoryLink {
        id,
        tenant: row.wrapped("tenant", TenantId::new)?,
        owner: row.wrapped("owner", UserId::new)?,
        provider: row.try_get("provider")?,
        repository: row.try_get("repository")?,
        base_url: row.try_get("base_url")?,
        access_token: token.map(|sealed| open(sealed, "access_token").map(Secret::new)).transpose()?,
        environment: serde_json::from_str(&environment).map_err(|error| unreadable("environment", error.into()))?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
    })
}
