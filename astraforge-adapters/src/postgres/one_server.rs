//! One server at a time works through the queue of a database.

use sqlx::{Connection as _, PgConnection};

use super::open::{OpenError, PostgresConfig, connect};
use crate::sql::{row::Cells as _, statement::Statements as _};

/// Held by whoever works: "AsFo" and one more.
const LOCK: i64 = 0x4173_4670;

/// Holds a database for one server, as long as this value and its connection live.
///
/// What a server finds at work when it starts was left by an earlier one, and is settled. That holds only while there is
/// no other.
#[derive(Debug)]
pub struct OneServer {
    _connection: PgConnection,
}

impl OneServer {
    /// Takes the database, if nobody has it.
    ///
    /// # Errors
    /// [`OpenError::InUse`], or those of connecting.
    pub async fn of(config: &PostgresConfig) -> Result<Self, OpenError> {
        let mut connection = connect(config).await?;
        let taken = connection.row("SELECT pg_try_advisory_lock($1) AS taken", [LOCK.into()]).await;
        let taken = taken.and_then(|row| row.map_or(Ok(false), |row| row.flag("taken")));
        match taken.map_err(|error| config.explain(error))? {
            true => Ok(Self { _connection: connection }),
            false => {
                // It says goodbye as well as it can.
                let _ = connection.close().await;
                Err(OpenError::InUse { database: config.name() })
            }
        }
    }
}
