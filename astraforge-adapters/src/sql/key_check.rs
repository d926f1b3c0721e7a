//! Compares the key with the one that a database was made with, by opening a text that says nothing.

use super::{
    row::{Columns as _, SqlResult},
    statement::{Statements, values},
};
use crate::secret_box::{SecretKey, SecretKeyError};

const NAME: &str = "key_check";

/// Why a key does not fit.
#[derive(Debug)]
pub(crate) enum KeyError {
    /// It is another one.
    Wrong,
    /// The system gave no random bytes to seal with.
    Sealing(SecretKeyError),
    /// The database failed.
    Sql(sqlx::Error),
}

impl From<sqlx::Error> for KeyError {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

/// Checks the key, or notes it in a database that has none.
pub(crate) async fn check(connection: &mut impl Statements, key: &SecretKey) -> Result<(), KeyError> {
    match kept(connection).await? {
        Some(sealed) => key.open(&sealed, NAME).map(drop).map_err(|_| KeyError::Wrong),
        None => {
            let sealed = key.seal(NAME.as_bytes(), NAME).map_err(KeyError::Sealing)?;
            connection.execute("INSERT INTO settings (name, value) VALUES ($1, $2)", values![NAME, sealed]).await?;
            Ok(())
        }
    }
}

async fn kept(connection: &mut impl Statements) -> SqlResult<Option<Vec<u8>>> {
    let row = connection.row("SELECT value FROM settings WHERE name = $1", values![NAME]).await?;
    row.map(|row| row.bytes("value").map(<[u8]>::to_vec)).transpose()
}
