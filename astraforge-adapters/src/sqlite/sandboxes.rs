//! Durable sandboxes, their snapshots and artifacts.

use astraforge_core::{
    id::{ArtifactId, SandboxId, SnapshotId, TenantId},
    ports::{sandbox_store::SandboxStore, store::StoreError},
    sandbox::{Artifact, Sandbox, Snapshot},
};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use sqlx::{Row as _, SqlitePool, sqlite::SqliteRow};

use super::{
    SqliteStore,
    error::{failed, taken},
    row::{Columns as _, SqlResult, json, micros, number},
};

/// What the sealed records of sandboxes are bound to.
const SEALED: &str = "sandbox";

impl SqliteStore {
    fn seal(&self, sandbox: &Sandbox) -> SqlResult<Vec<u8>> {
        let record = json(sandbox)?;
        self.key.seal(record.as_bytes(), SEALED).map_err(|error| sqlx::Error::Encode(error.into()))
    }

    fn sandbox_from(&self, row: &SqliteRow) -> SqlResult<Sandbox> {
        let unreadable = |source| sqlx::Error::ColumnDecode { index: "record".to_owned(), source };
        let record = self.key.open(row.try_get("record")?, SEALED).map_err(|error| unreadable(error.into()))?;
        let sandbox: Sandbox = serde_json::from_slice(&record).map_err(|error| unreadable(error.into()))?;
        Ok(Sandbox {
            version: row.number("version")?,
            last_activity_at: row.time("last_activity_at")?,
            last_heartbeat_at: row.time("last_heartbeat_at")?,
            ..sandbox
        })
    }

    async fn add(&self, sandbox: &Sandbox) -> SqlResult<bool> {
        let insert = sqlx::query(
            "INSERT INTO sandboxes (id, tenant, status, version, created_at, last_activity_at, last_heartbeat_at, record) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
        );
        let insert = insert
            .bind(sandbox.id.to_string())
            .bind(sandbox.tenant.as_str())
            .bind(sandbox.status.as_str())
            .bind(number(sandbox.version)?)
            .bind(micros(sandbox.created_at))
            .bind(micros(sandbox.last_activity_at))
            .bind(micros(sandbox.last_heartbeat_at))
            .bind(self.seal(sandbox)?);
        Ok(insert.execute(&self.pools.writer).await?.rows_affected() > 0)
    }

    async fn update(&self, sandbox: &Sandbox) -> SqlResult<bool> {
        let update = sqlx::query(
            "UPDATE sandboxes SET status = ?, version = version + 1, record = ?, \
             last_activity_at = max(last_activity_at, ?), last_heartbeat_at = max(last_heartbeat_at, ?) \
             WHERE id = ? AND version = ?",
        );
        let update = update
            .bind(sandbox.status.as_str())
            .bind(self.seal(sandbox)?)
            .bind(micros(sandbox.last_activity_at))
            .bind(micros(sandbox.last_heartbeat_at))
            .bind(sandbox.id.to_string())
            .bind(number(sandbox.version)?);
        Ok(update.execute(&self.pools.writer).await?.rows_affected() > 0)
    }

    /// Removes a snapshot that no sandbox of its tenant comes back from. What they come back from is sealed, so it is
    /// read here, while nobody else writes.
    async fn remove_unused(&self, id: SnapshotId) -> SqlResult<bool> {
        let mut transaction = self.pools.writer.begin_with("BEGIN IMMEDIATE").await?;
        let rows = sqlx::query("SELECT * FROM sandboxes WHERE tenant = (SELECT tenant FROM snapshots WHERE id = ?)");
        for row in rows.bind(id.to_string()).fetch_all(&mut *transaction).await? {
            let sandbox = self.sandbox_from(&row)?;
            if sandbox.latest_snapshot == Some(id) && !sandbox.is_deleted() {
                return Ok(false);
            }
        }
        let delete = sqlx::query("DELETE FROM snapshots WHERE id = ?").bind(id.to_string());
        let removed = delete.execute(&mut *transaction).await?.rows_affected() > 0;
        transaction.commit().await?;
        Ok(removed)
    }
}

#[async_trait]
impl SandboxStore for SqliteStore {
    async fn add_sandbox(&self, sandbox: &Sandbox) -> Result<bool, StoreError> {
        self.add(sandbox).await.map_err(failed("add a sandbox"))
    }

    async fn sandbox(&self, id: SandboxId) -> Result<Option<Sandbox>, StoreError> {
        let query = sqlx::query("SELECT * FROM sandboxes WHERE id = ?").bind(id.to_string());
        let row = query.fetch_optional(&self.pools.readers).await.map_err(failed("read a sandbox"))?;
        row.map(|row| self.sandbox_from(&row)).transpose().map_err(failed("read a sandbox"))
    }

    async fn sandboxes(&self, tenant: &TenantId) -> Result<Vec<Sandbox>, StoreError> {
        let query = sqlx::query("SELECT * FROM sandboxes WHERE tenant = ? ORDER BY created_at DESC, position DESC");
        let rows =
            query.bind(tenant.as_str()).fetch_all(&self.pools.readers).await.map_err(failed("list sandboxes"))?;
        rows.iter().map(|row| self.sandbox_from(row)).collect::<SqlResult<_>>().map_err(failed("list sandboxes"))
    }

    async fn live_sandboxes(&self) -> Result<Vec<Sandbox>, StoreError> {
        let query = sqlx::query("SELECT * FROM sandboxes WHERE status IN ('starting', 'ready') ORDER BY position");
        let rows = query.fetch_all(&self.pools.readers).await.map_err(failed("list live sandboxes"))?;
        rows.iter().map(|row| self.sandbox_from(row)).collect::<SqlResult<_>>().map_err(failed("list live sandboxes"))
    }

    async fn update_sandbox(&self, sandbox: &Sandbox) -> Result<bool, StoreError> {
        self.update(sandbox).await.map_err(failed("change a sandbox"))
    }

    async fn note_activity(&self, id: SandboxId, at: DateTime<Utc>) -> Result<(), StoreError> {
        let update = sqlx::query("UPDATE sandboxes SET last_activity_at = max(last_activity_at, ?) WHERE id = ?");
        let update = update.bind(micros(at)).bind(id.to_string()).execute(&self.pools.writer);
        update.await.map(drop).map_err(failed("note the use of a sandbox"))
    }

    async fn note_heartbeat(&self, id: SandboxId, at: DateTime<Utc>) -> Result<(), StoreError> {
        let update = sqlx::query("UPDATE sandboxes SET last_heartbeat_at = max(last_heartbeat_at, ?) WHERE id = ?");
        let update = update.bind(micros(at)).bind(id.to_string()).execute(&self.pools.writer);
        update.await.map(drop).map_err(failed("note a heartbeat"))
    }

    async fn add_snapshot(&self, snapshot: &Snapshot) -> Result<(), StoreError> {
        let insert = "INSERT INTO snapshots (id, sandbox, tenant, record) VALUES (?, ?, ?, ?)";
        let record = json(snapshot).map_err(failed("add a snapshot"))?;
        let row = [snapshot.id.to_string(), snapshot.sandbox.to_string(), snapshot.tenant.to_string(), record];
        add_row(&self.pools.writer, insert, row).await.map_err(taken("add a snapshot", "snapshot", snapshot.id))
    }

    async fn snapshot(&self, tenant: &TenantId, id: SnapshotId) -> Result<Option<Snapshot>, StoreError> {
        let query = "SELECT record FROM snapshots WHERE tenant = ? AND id = ?";
        let found = records(&self.pools.readers, query, &[tenant.as_str(), &id.to_string()]).await;
        found.map(|found| found.into_iter().next()).map_err(failed("read a snapshot"))
    }

    async fn snapshots(&self, sandbox: SandboxId) -> Result<Vec<Snapshot>, StoreError> {
        let query = "SELECT record FROM snapshots WHERE sandbox = ? ORDER BY position DESC";
        records(&self.pools.readers, query, &[&sandbox.to_string()]).await.map_err(failed("list snapshots"))
    }

    async fn remove_snapshot(&self, id: SnapshotId) -> Result<bool, StoreError> {
        self.remove_unused(id).await.map_err(failed("remove a snapshot"))
    }

    async fn add_artifact(&self, artifact: &Artifact) -> Result<(), StoreError> {
        let insert = "INSERT INTO sandbox_artifacts (id, sandbox, tenant, record) VALUES (?, ?, ?, ?)";
        let record = json(artifact).map_err(failed("add an artifact"))?;
        let row = [artifact.id.to_string(), artifact.sandbox.to_string(), artifact.tenant.to_string(), record];
        add_row(&self.pools.writer, insert, row).await.map_err(taken("add an artifact", "artifact", artifact.id))
    }

    async fn artifact(&self, tenant: &TenantId, id: ArtifactId) -> Result<Option<Artifact>, StoreError> {
        let query = "SELECT record FROM sandbox_artifacts WHERE tenant = ? AND id = ?";
        let found = records(&self.pools.readers, query, &[tenant.as_str(), &id.to_string()]).await;
        found.map(|found| found.into_iter().next()).map_err(failed("read an artifact"))
    }

    async fn artifacts(&self, sandbox: SandboxId) -> Result<Vec<Artifact>, StoreError> {
        let query = "SELECT record FROM sandbox_artifacts WHERE sandbox = ? ORDER BY position DESC";
        records(&self.pools.readers, query, &[&sandbox.to_string()]).await.map_err(failed("list artifacts"))
    }
}

async fn add_row(pool: &SqlitePool, insert: &'static str, values: [String; 4]) -> SqlResult<()> {
    let query = values.into_iter().fold(sqlx::query(insert), |query, value| query.bind(value));
    query.execute(pool).await.map(drop)
}

async fn records<T: DeserializeOwned>(pool: &SqlitePool, query: &'static str, values: &[&str]) -> SqlResult<Vec<T>> {
    let query = values.iter().fold(sqlx::query(query), |query, value| query.bind((*value).to_owned()));
    query.fetch_all(pool).await?.iter().map(|row| row.json("record")).collect()
}
