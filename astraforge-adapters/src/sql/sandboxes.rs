//! Durable sandboxes, their snapshots and artifacts.

use std::{cmp::Reverse, collections::BTreeMap};

use astraforge_core::{
    id::{ArtifactId, SandboxId, SnapshotId, TenantId},
    node::Node,
    page::{Listed, Page, Paged},
    ports::{sandbox_store::SandboxStore, store::StoreError},
    sandbox::{Artifact, Kept, Sandbox, Snapshot},
};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;

use super::{
    Dialect, SqlStore,
    error::{failed, taken},
    pages::{self, End, last_added_first, newest_first},
    row::{Cells, Columns as _, SqlResult, json, micros, number},
    statement::{Statements, Value, values},
    transaction::in_transaction,
};

/// What the sealed records of sandboxes are bound to.
const SEALED: &str = "sandbox";

/// Reads what is kept of sandboxes. `$wanted` is the condition on a row's `sandbox`, with the placeholder for a list in
/// JSON. Artifacts are counted, and have no id.
macro_rules! keeping {
    ($wanted:literal) => {
        concat!(
            "SELECT sandbox, id, 1 AS n, position FROM snapshots WHERE ",
            $wanted,
            " UNION ALL SELECT sandbox, NULL, count(*), 0 FROM sandbox_artifacts WHERE ",
            $wanted,
            " GROUP BY sandbox"
        )
    };
}

pub(crate) use keeping;

impl<D: Dialect> SqlStore<D> {
    fn seal(&self, sandbox: &Sandbox) -> SqlResult<Vec<u8>> {
        let record = json(sandbox)?;
        self.key.seal(record.as_bytes(), SEALED).map_err(|error| sqlx::Error::Encode(error.into()))
    }

    fn sandbox_from(&self, row: &impl Cells) -> SqlResult<Sandbox> {
        let unreadable = |source| sqlx::Error::ColumnDecode { index: "record".to_owned(), source };
        let record = self.key.open(row.bytes("record")?, SEALED).map_err(|error| unreadable(error.into()))?;
        let sandbox: Sandbox = serde_json::from_slice(&record).map_err(|error| unreadable(error.into()))?;
        Ok(Sandbox {
            version: row.number("version")?,
            last_activity_at: row.time("last_activity_at")?,
            last_heartbeat_at: row.time("last_heartbeat_at")?,
            ..sandbox
        })
    }

    async fn add(&self, sandbox: &Sandbox) -> SqlResult<bool> {
        let statement = "INSERT INTO sandboxes (id, tenant, status, version, created_at, last_activity_at, \
                         last_heartbeat_at, record) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
                         ON CONFLICT (id) DO NOTHING";
        let values = values![
            sandbox.id.to_string(),
            sandbox.tenant.as_str(),
            sandbox.status.as_str(),
            number(sandbox.version)?,
            micros(sandbox.created_at),
            micros(sandbox.last_activity_at),
            micros(sandbox.last_heartbeat_at),
            self.seal(sandbox)?,
        ];
        Ok(self.warm.or(self.writer.acquire()).await?.execute(statement, values).await? > 0)
    }

    async fn update(&self, sandbox: &Sandbox) -> SqlResult<bool> {
        let statement = "UPDATE sandboxes SET status = $1, version = version + 1, record = $2, \
                         last_activity_at = CASE WHEN last_activity_at < $3 THEN $3 ELSE last_activity_at END, \
                         last_heartbeat_at = CASE WHEN last_heartbeat_at < $4 THEN $4 ELSE last_heartbeat_at END \
                         WHERE id = $5 AND version = $6";
        let values = values![
            sandbox.status.as_str(),
            self.seal(sandbox)?,
            micros(sandbox.last_activity_at),
            micros(sandbox.last_heartbeat_at),
            sandbox.id.to_string(),
            number(sandbox.version)?,
        ];
        Ok(self.warm.or(self.writer.acquire()).await?.execute(statement, values).await? > 0)
    }

    async fn note(&self, statement: &'static str, id: SandboxId, at: DateTime<Utc>) -> SqlResult<()> {
        self.warm
            .or(self.writer.acquire())
            .await?
            .execute(statement, values![micros(at), id.to_string()])
            .await
            .map(drop)
    }

    async fn many(&self, statement: &'static str, values: Vec<Value>) -> SqlResult<Vec<Sandbox>> {
        let rows = self.warm.or(self.readers.acquire()).await?.rows(statement, values).await?;
        rows.iter().map(|row| self.sandbox_from(row)).collect()
    }

    /// Removes a snapshot that no sandbox of its tenant comes back from. What they come back from is sealed, so it is
    /// read here, in a transaction in which nobody else writes.
    async fn remove_unused(&self, connection: &mut D::Connection, id: SnapshotId) -> SqlResult<bool> {
        let rows = connection.rows(D::SANDBOXES_BESIDE_SNAPSHOT, values![id.to_string()]).await?;
        for row in rows {
            let sandbox = self.sandbox_from(&row)?;
            if sandbox.latest_snapshot == Some(id) && !sandbox.is_deleted() {
                return Ok(false);
            }
        }
        Ok(connection.execute("DELETE FROM snapshots WHERE id = $1", values![id.to_string()]).await? > 0)
    }

    async fn add_record(&self, statement: &'static str, row: [String; 4]) -> SqlResult<()> {
        self.warm.or(self.writer.acquire()).await?.execute(statement, row.map(Value::from)).await.map(drop)
    }

    async fn read_kept(&self, sandboxes: &[SandboxId]) -> SqlResult<BTreeMap<SandboxId, Kept>> {
        let rows = self.warm.or(self.readers.acquire()).await?.rows(D::KEPT, values![json(&sandboxes)?]).await?;
        let mut placed =
            rows.iter().map(|row| Ok((row.number::<u64>("position")?, row))).collect::<SqlResult<Vec<_>>>()?;
        placed.sort_unstable_by_key(|(position, _)| Reverse(*position));
        let mut kept = BTreeMap::<_, Kept>::new();
        for (_, row) in placed {
            let kept = kept.entry(row.parsed("sandbox")?).or_default();
            match row.maybe_parsed("id")? {
                Some(snapshot) => kept.snapshots.push(snapshot),
                None => kept.n_artifacts = row.number("n")?,
            }
        }
        Ok(kept)
    }

    async fn read_nodes(&self) -> SqlResult<Vec<Node>> {
        let rows = self.warm.or(self.readers.acquire()).await?.rows("SELECT * FROM nodes", values![]).await?;
        let node = |row: &<D::Connection as Statements>::Row| {
            Ok(Node {
                id: row.parsed("id")?,
                url: row.maybe_string("url")?,
                seen_at: row.time("seen_at")?,
                has_stopped: row.flag("has_stopped")?,
            })
        };
        rows.iter().map(node).collect()
    }

    async fn read_page(&self, tenant: &TenantId, page: Page) -> SqlResult<Paged<Sandbox>> {
        const OF_TENANT: &str = newest_first!("sandboxes", "tenant = $4");
        let mut reader = self.warm.or(self.readers.acquire()).await?;
        let filters = values![tenant.as_str()];
        pages::read(&mut *reader, OF_TENANT, End::Newest, page, filters, |row| self.sandbox_from(row)).await
    }

    /// Reads the page of a statement of [`last_added_first`].
    async fn page_of_records<T: DeserializeOwned + Listed>(
        &self,
        statement: &'static str,
        sandbox: SandboxId,
        page: Page,
    ) -> SqlResult<Paged<T>> {
        let values = values![pages::id(page), pages::n_rows(page), sandbox.to_string()];
        let rows = self.warm.or(self.readers.acquire()).await?.rows(statement, values).await?;
        let records = rows.iter().map(|row| row.json("record"));
        Ok(Paged::cut(records.collect::<SqlResult<_>>()?, page.limit))
    }

    async fn records<T: DeserializeOwned>(&self, statement: &'static str, values: &[&str]) -> SqlResult<Vec<T>> {
        let values: Vec<Value> = values.iter().map(|value| Value::from(*value)).collect();
        let rows = self.warm.or(self.readers.acquire()).await?.rows(statement, values).await?;
        rows.iter().map(|row| row.json("record")).collect()
    }
}

#[async_trait]
impl<D: Dialect> SandboxStore for SqlStore<D> {
    async fn add_sandbox(&self, sandbox: &Sandbox) -> Result<bool, StoreError> {
        self.add(sandbox).await.map_err(failed("add a sandbox"))
    }

    async fn sandbox(&self, id: SandboxId) -> Result<Option<Sandbox>, StoreError> {
        let statement = "SELECT * FROM sandboxes WHERE id = $1";
        let found = self.many(statement, vec![id.to_string().into()]).await.map_err(failed("read a sandbox"))?;
        Ok(found.into_iter().next())
    }

    async fn sandboxes(&self, tenant: &TenantId) -> Result<Vec<Sandbox>, StoreError> {
        let statement = "SELECT * FROM sandboxes WHERE tenant = $1 ORDER BY created_at DESC, position DESC";
        self.many(statement, vec![tenant.as_str().into()]).await.map_err(failed("list sandboxes"))
    }

    async fn sandboxes_page(&self, tenant: &TenantId, page: Page) -> Result<Paged<Sandbox>, StoreError> {
        self.read_page(tenant, page).await.map_err(failed("list sandboxes"))
    }

    async fn live_sandboxes(&self) -> Result<Vec<Sandbox>, StoreError> {
        let statement = "SELECT * FROM sandboxes WHERE status IN ('starting', 'ready') ORDER BY position";
        self.many(statement, Vec::new()).await.map_err(failed("list live sandboxes"))
    }

    async fn update_sandbox(&self, sandbox: &Sandbox) -> Result<bool, StoreError> {
        self.update(sandbox).await.map_err(failed("change a sandbox"))
    }

    async fn note_activity(&self, id: SandboxId, at: DateTime<Utc>) -> Result<(), StoreError> {
        let statement = "UPDATE sandboxes SET last_activity_at = $1 WHERE id = $2 AND last_activity_at < $1";
        self.note(statement, id, at).await.map_err(failed("note the use of a sandbox"))
    }

    async fn note_heartbeat(&self, id: SandboxId, at: DateTime<Utc>) -> Result<(), StoreError> {
        let statement = "UPDATE sandboxes SET last_heartbeat_at = $1 WHERE id = $2 AND last_heartbeat_at < $1";
        self.note(statement, id, at).await.map_err(failed("note a heartbeat"))
    }

    async fn add_snapshot(&self, snapshot: &Snapshot) -> Result<(), StoreError> {
        let insert = "INSERT INTO snapshots (id, sandbox, tenant, record) VALUES ($1, $2, $3, $4)";
        let record = json(snapshot).map_err(failed("add a snapshot"))?;
        let row = [snapshot.id.to_string(), snapshot.sandbox.to_string(), snapshot.tenant.to_string(), record];
        self.add_record(insert, row).await.map_err(taken("add a snapshot", "snapshot", snapshot.id))
    }

    async fn snapshot(&self, tenant: &TenantId, id: SnapshotId) -> Result<Option<Snapshot>, StoreError> {
        let query = "SELECT record FROM snapshots WHERE tenant = $1 AND id = $2";
        let found = self.records(query, &[tenant.as_str(), &id.to_string()]).await;
        found.map(|found| found.into_iter().next()).map_err(failed("read a snapshot"))
    }

    async fn snapshots(&self, sandbox: SandboxId) -> Result<Vec<Snapshot>, StoreError> {
        let query = "SELECT record FROM snapshots WHERE sandbox = $1 ORDER BY position DESC";
        self.records(query, &[&sandbox.to_string()]).await.map_err(failed("list snapshots"))
    }

    async fn snapshots_page(&self, sandbox: SandboxId, page: Page) -> Result<Paged<Snapshot>, StoreError> {
        let statement = last_added_first!("snapshots");
        self.page_of_records(statement, sandbox, page).await.map_err(failed("list snapshots"))
    }

    async fn remove_snapshot(&self, id: SnapshotId) -> Result<bool, StoreError> {
        in_transaction::<D, _>(&self.warm, &self.writer, "remove a snapshot", async |connection| {
            self.remove_unused(connection, id).await.map_err(failed("remove a snapshot"))
        })
        .await
    }

    async fn add_artifact(&self, artifact: &Artifact) -> Result<(), StoreError> {
        let insert = "INSERT INTO sandbox_artifacts (id, sandbox, tenant, record) VALUES ($1, $2, $3, $4)";
        let record = json(artifact).map_err(failed("add an artifact"))?;
        let row = [artifact.id.to_string(), artifact.sandbox.to_string(), artifact.tenant.to_string(), record];
        self.add_record(insert, row).await.map_err(taken("add an artifact", "artifact", artifact.id))
    }

    async fn artifact(&self, tenant: &TenantId, id: ArtifactId) -> Result<Option<Artifact>, StoreError> {
        let query = "SELECT record FROM sandbox_artifacts WHERE tenant = $1 AND id = $2";
        let found = self.records(query, &[tenant.as_str(), &id.to_string()]).await;
        found.map(|found| found.into_iter().next()).map_err(failed("read an artifact"))
    }

    async fn artifacts(&self, sandbox: SandboxId) -> Result<Vec<Artifact>, StoreError> {
        let query = "SELECT record FROM sandbox_artifacts WHERE sandbox = $1 ORDER BY position DESC";
        self.records(query, &[&sandbox.to_string()]).await.map_err(failed("list artifacts"))
    }

    async fn artifacts_page(&self, sandbox: SandboxId, page: Page) -> Result<Paged<Artifact>, StoreError> {
        let statement = last_added_first!("sandbox_artifacts");
        self.page_of_records(statement, sandbox, page).await.map_err(failed("list artifacts"))
    }

    async fn kept(&self, sandboxes: &[SandboxId]) -> Result<BTreeMap<SandboxId, Kept>, StoreError> {
        self.read_kept(sandboxes).await.map_err(failed("read what is kept of sandboxes"))
    }

    async fn note_node(&self, node: &Node) -> Result<(), StoreError> {
        let upsert = "INSERT INTO nodes (id, url, seen_at, has_stopped) VALUES ($1, $2, $3, $4) \
                      ON CONFLICT (id) DO UPDATE SET url = excluded.url, seen_at = excluded.seen_at, \
                      has_stopped = excluded.has_stopped";
        let values = values![node.id.to_string(), node.url.clone(), micros(node.seen_at), node.has_stopped];
        let noted = async { self.warm.or(self.writer.acquire()).await?.execute(upsert, values).await };
        noted.await.map(drop).map_err(failed("note a node"))
    }

    async fn nodes(&self) -> Result<Vec<Node>, StoreError> {
        self.read_nodes().await.map_err(failed("list nodes"))
    }

    async fn forget_nodes(&self, before: DateTime<Utc>) -> Result<(), StoreError> {
        let delete = "DELETE FROM nodes WHERE seen_at < $1";
        let forgotten =
            async { self.warm.or(self.writer.acquire()).await?.execute(delete, values![micros(before)]).await };
        forgotten.await.map(drop).map_err(failed("forget nodes"))
    }
}
