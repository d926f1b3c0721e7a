//! People who log in.

use astraforge_core::{
    access::Role,
    account::{Account, Login},
    id::{TenantId, UserId},
    identity::Subject,
    ports::{account_store::AccountStore, store::StoreError},
};
use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::{
    Dialect, SqlStore,
    error::failed,
    row::{Cells, Columns as _, SqlResult, micros},
    statement::{Statements, Value, values},
    transaction::in_transaction,
};

impl<D: Dialect> SqlStore<D> {
    async fn account_rows(&self, statement: &'static str, values: Vec<Value>) -> SqlResult<Vec<Account>> {
        let rows = self.warm.or(self.readers.acquire()).await?.rows(statement, values).await?;
        rows.iter().map(account_from).collect()
    }

    async fn account_write(&self, statement: &'static str, values: Vec<Value>) -> SqlResult<bool> {
        Ok(self.warm.or(self.writer.acquire()).await?.execute(statement, values).await? > 0)
    }
}

#[async_trait]
impl<D: Dialect> AccountStore for SqlStore<D> {
    async fn add_account(&self, account: &Account) -> Result<bool, StoreError> {
        self.account_write(ADD, as_values(account).into()).await.map_err(failed("add an account"))
    }

    async fn account(&self, user: &UserId) -> Result<Option<Account>, StoreError> {
        let query = r#"SELECT * FROM accounts WHERE "user" = $1"#;
        let found = self.account_rows(query, vec![user.as_str().into()]).await;
        found.map(|found| found.into_iter().next()).map_err(failed("read an account"))
    }

    async fn accounts(&self, tenant: &TenantId) -> Result<Vec<Account>, StoreError> {
        let query = r#"SELECT * FROM accounts WHERE tenant = $1 ORDER BY "user""#;
        self.account_rows(query, vec![tenant.as_str().into()]).await.map_err(failed("list accounts"))
    }

    async fn change_account(&self, account: &Account) -> Result<bool, StoreError> {
        const OPERATION: &str = "change an account";
        in_transaction::<D, _>(&self.warm, &self.writer, OPERATION, async |connection| {
            let changed = change::<D>(connection, account).await;
            changed.map_err(failed(OPERATION))
        })
        .await
    }

    async fn add_account_of(&self, subject: &Subject, account: &Account) -> Result<bool, StoreError> {
        const OPERATION: &str = "add an account of an identity provider";
        in_transaction::<D, _>(&self.warm, &self.writer, OPERATION, async |connection| {
            let added = add_of::<D>(connection, subject, account).await;
            added.map_err(failed(OPERATION))
        })
        .await
    }

    async fn account_of(&self, subject: &Subject) -> Result<Option<Account>, StoreError> {
        let query = r#"SELECT accounts.* FROM identities JOIN accounts ON accounts."user" = identities."user"
                       WHERE issuer = $1 AND subject = $2"#;
        let values = vec![subject.issuer.as_str().into(), subject.id.as_str().into()];
        let found = self.account_rows(query, values).await;
        found.map(|found| found.into_iter().next()).map_err(failed("read the account of an identity provider's"))
    }

    async fn refresh_account(&self, user: &UserId, email: &str, role: Role) -> Result<(), StoreError> {
        let update = r#"UPDATE accounts SET email = $1, role = $2 WHERE "user" = $3"#;
        let values = values![email, role.as_str(), user.as_str()];
        self.account_write(update, values.into()).await.map(drop).map_err(failed("refresh an account"))
    }

    async fn add_login(&self, login: &Login, account: &Account) -> Result<bool, StoreError> {
        let expired = "DELETE FROM logins WHERE expires_at <= $1";
        self.account_write(expired, vec![micros(login.created_at).into()]).await.map_err(failed("forget logins"))?;
        let values = values![
            &login.hash,
            login.user.as_str(),
            micros(login.created_at),
            micros(login.expires_at),
            &account.password_hash,
        ];
        self.account_write(D::ADD_LOGIN, values.into()).await.map_err(failed("note a login"))
    }

    async fn logged_in(&self, hash: &str, now: DateTime<Utc>) -> Result<Option<Account>, StoreError> {
        let query = r#"SELECT accounts.* FROM logins JOIN accounts ON accounts."user" = logins."user"
                       WHERE hash = $1 AND expires_at > $2 AND is_active"#;
        let found = self.account_rows(query, vec![hash.into(), micros(now).into()]).await;
        found.map(|found| found.into_iter().next()).map_err(failed("read who is logged in"))
    }

    async fn remove_login(&self, hash: &str) -> Result<(), StoreError> {
        let delete = "DELETE FROM logins WHERE hash = $1";
        self.account_write(delete, vec![hash.into()]).await.map(drop).map_err(failed("forget a login"))
    }
}

const ADD: &str = r#"INSERT INTO accounts ("user", tenant, email, password_hash, role, is_active, created_at)
                     VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT ("user") DO NOTHING"#;

/// What [`ADD`] adds.
fn as_values(account: &Account) -> [Value; 7] {
    values![
        account.user.as_str(),
        account.tenant.as_str(),
        &account.email,
        &account.password_hash,
        account.role.as_str(),
        account.is_active,
        micros(account.created_at),
    ]
}

/// Adds an account and whose it is, or neither.
async fn add_of<D: Dialect>(connection: &mut D::Connection, subject: &Subject, account: &Account) -> SqlResult<bool> {
    if connection.execute(ADD, as_values(account)).await? == 0 {
        return Ok(false);
    }
    let identity = r#"INSERT INTO identities (issuer, subject, "user") VALUES ($1, $2, $3)
                      ON CONFLICT (issuer, subject) DO NOTHING"#;
    let values = values![&subject.issuer, &subject.id, account.user.as_str()];
    let was_free = connection.execute(identity, values).await? > 0;
    if !was_free {
        // They have one by another name, perhaps since a moment ago.
        connection.execute(r#"DELETE FROM accounts WHERE "user" = $1"#, values![account.user.as_str()]).await?;
    }
    Ok(was_free)
}

/// Changes an account, and ends its logins where they were proved by another password, or it may not log in any more.
async fn change<D: Dialect>(connection: &mut D::Connection, account: &Account) -> SqlResult<bool> {
    let update = r#"UPDATE accounts SET email = $1, password_hash = $2, role = $3, is_active = $4 WHERE "user" = $5"#;
    let before = r#"SELECT password_hash FROM accounts WHERE "user" = $1"#;
    let before = connection.row(before, values![account.user.as_str()]).await?;
    let Some(before) = before.map(|row| row.string("password_hash")).transpose()? else { return Ok(false) };
    let values = values![
        &account.email,
        &account.password_hash,
        account.role.as_str(),
        account.is_active,
        account.user.as_str(),
    ];
    connection.execute(update, values).await?;
    if before != account.password_hash || !account.is_active {
        let logins = r#"DELETE FROM logins WHERE "user" = $1"#;
        connection.execute(logins, values![account.user.as_str()]).await?;
    }
    Ok(true)
}

fn account_from(row: &impl Cells) -> SqlResult<Account> {
    Ok(Account {
        user: row.wrapped("user", UserId::new)?,
        tenant: row.wrapped("tenant", TenantId::new)?,
        email: row.string("email")?,
        password_hash: row.string("password_hash")?,
        role: row.parsed("role")?,
        is_active: row.flag("is_active")?,
        created_at: row.time("created_at")?,
    })
}
