//! One server at a time works through the queue of a database.

use std::time::{Duration, Instant};

use sqlx::{Connection as _, PgConnection};

use super::open::{OpenError, PostgresConfig, connect};
use crate::sql::{
    row::{Cells as _, SqlResult},
    statement::Statements as _,
};

/// Held by whoever works: "AsFo" and one more.
const LOCK: i64 = 0x4173_4670;

/// How long a server that was killed may take to be forgotten: its connection has to be found closed.
const PATIENCE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(50);

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
        let began = Instant::now();
        loop {
            if taken(&mut connection).await.map_err(|error| config.explain(error))? {
                return Ok(Self { _connection: connection });
            }
            if began.elapsed() > PATIENCE {
                // It says goodbye as well as it can.
                let _ = connection.close().await;
                return Err(OpenError::InUse { database: config.name() });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn taken(connection: &mut PgConnection) -> SqlResult<bool> {
    let row = connection.row("SELECT pg_try_advisory_lock($1) AS taken", [LOCK.into()]).await?;
    row.map_or(Ok(false), |row| row.flag("taken"))
}
