//! A transaction that writes: all of it, or nothing.

use astraforge_core::ports::store::StoreError;
use sqlx::{Connection as _, Pool};

use super::{Dialect, error::failed, warm::Warm};

/// Does `work` in one transaction, which ends with it. One that is dropped on the way, by an error or with its future, is
/// rolled back; a connection on which the database failed is not used again.
///
/// # Errors
/// Those of `work`; [`StoreError::Backend`] with `operation` when the transaction cannot begin or end.
pub(super) async fn in_transaction<D: Dialect, T>(
    warm: &Warm<D>,
    writer: &Pool<D>,
    operation: &'static str,
    work: impl AsyncFnOnce(&mut D::Connection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let mut connection = warm.or(D::sound_connection(writer)).await.map_err(failed(operation))?;
    let result = transact::<D, T>(&mut connection, operation, work).await;
    match result {
        Ok(_) => warm.keep(connection),
        Err(StoreError::Backend { .. }) => connection.close_on_drop(),
        // Its rollback is to come.
        Err(_) => drop(connection),
    }
    result
}

async fn transact<D: Dialect, T>(
    connection: &mut D::Connection,
    operation: &'static str,
    work: impl AsyncFnOnce(&mut D::Connection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let mut transaction = connection.begin_with(D::BEGIN).await.map_err(failed(operation))?;
    let done = work(&mut transaction).await?;
    transaction.commit().await.map_err(failed(operation))?;
    Ok(done)
}
