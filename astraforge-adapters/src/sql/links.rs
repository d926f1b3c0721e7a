//! Repository links, with their secrets sealed.

use astraforge_core::{
    id::{RepositoryLinkId, TenantId, UserId},
    page::{Page, Paged},
    repository::{RepositoryLink, Secret},
};

use super::{
    pages::{self, End, oldest_first},
    row::{Cells, Columns as _, SqlResult, json, micros},
    statement::{Statements, values},
};
use crate::secret_box::SecretKey;

pub(super) async fn add(connection: &mut impl Statements, key: &SecretKey, link: &RepositoryLink) -> SqlResult<()> {
    let statement = "INSERT INTO links (owner, provider, repository, base_url, access_token, environment, created_at, \
                     updated_at, id, tenant) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
    write(connection, key, link, statement).await.map(drop)
}

pub(super) async fn update(
    connection: &mut impl Statements,
    key: &SecretKey,
    link: &RepositoryLink,
) -> SqlResult<bool> {
    let statement = "UPDATE links SET owner = $1, provider = $2, repository = $3, base_url = $4, access_token = $5, \
                     environment = $6, created_at = $7, updated_at = $8 WHERE id = $9 AND tenant = $10";
    Ok(write(connection, key, link, statement).await? > 0)
}

/// Runs a statement whose parameters are the columns of a link, `id` and `tenant` last, and counts the rows it wrote.
async fn write(
    connection: &mut impl Statements,
    key: &SecretKey,
    link: &RepositoryLink,
    statement: &'static str,
) -> SqlResult<u64> {
    let secrets = Sealed::of(link, key)?;
    let values = values![
        link.owner.as_str(),
        &link.provider,
        &link.repository,
        &link.base_url,
        secrets.access_token,
        secrets.environment,
        micros(link.created_at),
        micros(link.updated_at),
        link.id.to_string(),
        link.tenant.as_str(),
    ];
    connection.execute(statement, values).await
}

pub(super) async fn remove(
    connection: &mut impl Statements,
    tenant: &TenantId,
    id: RepositoryLinkId,
) -> SqlResult<bool> {
    let statement = "DELETE FROM links WHERE id = $1 AND tenant = $2";
    Ok(connection.execute(statement, values![id.to_string(), tenant.as_str()]).await? > 0)
}

pub(super) async fn find(
    connection: &mut impl Statements,
    key: &SecretKey,
    tenant: &TenantId,
    id: RepositoryLinkId,
) -> SqlResult<Option<RepositoryLink>> {
    let statement = "SELECT * FROM links WHERE id = $1 AND tenant = $2";
    let row = connection.row(statement, values![id.to_string(), tenant.as_str()]).await?;
    row.map(|row| from_row(&row, key)).transpose()
}

pub(super) async fn list(
    connection: &mut impl Statements,
    key: &SecretKey,
    tenant: &TenantId,
) -> SqlResult<Vec<RepositoryLink>> {
    let statement = "SELECT * FROM links WHERE tenant = $1 ORDER BY created_at, position";
    connection.rows(statement, values![tenant.as_str()]).await?.iter().map(|row| from_row(row, key)).collect()
}

pub(super) async fn page(
    connection: &mut impl Statements,
    key: &SecretKey,
    tenant: &TenantId,
    page: Page,
) -> SqlResult<Paged<RepositoryLink>> {
    const OF_TENANT: &str = oldest_first!("links", "tenant = $4");
    let filters = values![tenant.as_str()];
    pages::read(connection, OF_TENANT, End::Oldest, page, filters, |row| from_row(row, key)).await
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

fn from_row(row: &impl Cells, key: &SecretKey) -> SqlResult<RepositoryLink> {
    let id: RepositoryLinkId = row.parsed("id")?;
    let unreadable = |column: &str, source| sqlx::Error::ColumnDecode { index: column.to_owned(), source };
    let open = |sealed: &[u8], column: &str| {
        let plain = key.open(sealed, &place(id, column)).map_err(|error| unreadable(column, error.into()))?;
        String::from_utf8(plain).map_err(|error| unreadable(column, error.utf8_error().into()))
    };
    let token = row.maybe_bytes("access_token")?;
    let environment = open(row.bytes("environment")?, "environment")?;
    Ok(RepositoryLink {
        id,
        tenant: row.wrapped("tenant", TenantId::new)?,
        owner: row.wrapped("owner", UserId::new)?,
        provider: row.string("provider")?,
        repository: row.string("repository")?,
        base_url: row.string("base_url")?,
        access_token: token.map(|sealed| open(sealed, "access_token").map(Secret::new)).transpose()?,
        environment: serde_json::from_str(&environment).map_err(|error| unreadable("environment", error.into()))?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
    })
}
