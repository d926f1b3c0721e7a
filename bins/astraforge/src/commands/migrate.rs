//! `migrate`: brings the database to the version of this program.

use serde_json::json;

use crate::{cli::ConnectionArgs, commands::print, connection::open_database};

/// Opens the database, which updates its schema, and says from which version to which.
pub(crate) async fn migrate(args: &ConnectionArgs) -> anyhow::Result<()> {
    let database = open_database(args).await?;
    let migration = database.migration();
    database.close().await;
    print(args, &json!({ "from": migration.from, "to": migration.to }), |terminal, _| {
        terminal.line(match migration.from {
            from if from == migration.to => format!("nothing to do: the database has version {from}"),
            0 => format!("made the database, at version {}", migration.to),
            from => format!("brought the database from version {from} to {}", migration.to),
        });
    })
}
