//! Snapshots and forks: files that outlive their machine.

use bytes::BytesMut;
use futures::{StreamExt, stream};

use super::{
    Created, NewSandbox,
    engine::Engine,
    transfer::{checked, for_machine, keep},
};
use crate::{
    access::{Action, Caller},
    archive::{CompareRequest, Comparison, Compression, PackRequest, UnpackRequest},
    error::ForgeError,
    id::{SandboxId, SnapshotId},
    ports::{
        artifacts::{ArtifactError, ArtifactStream},
        machines::{ByteStream, Machine},
    },
    sandbox::{Sandbox, Snapshot},
};

/// The most that a snapshot may hold when unpacked, in bytes.
const MAX_BYTES: u64 = 64 * 1024 * 1024 * 1024;
/// The most files that a snapshot may hold.
const MAX_ENTRIES: u64 = 5_000_000;

/// How the labels of snapshots begin that are taken before an end.
pub(super) const AUTOMATIC: &str = "auto-";

/// What a new snapshot is to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSnapshot {
    /// What its maker calls it, or empty.
    pub label: String,
    /// Absolute paths; `/workspace` unless set.
    pub include: Vec<String>,
    /// Patterns of what stays out, as `tar --exclude` takes them.
    pub exclude: Vec<String>,
}

impl Default for NewSnapshot {
    fn default() -> Self {
        Self { label: String::new(), include: vec!["/workspace".to_owned()], exclude: Vec::new() }
    }
}

impl Engine {
    /// Keeps the files of a sandbox. Only once they are stored and read back they are what it comes back from.
    pub(super) async fn snapshot(
        &self,
        caller: &Caller,
        id: SandboxId,
        new: NewSnapshot,
    ) -> Result<Snapshot, ForgeError> {
        caller.may(Action::UseSandboxes)?;
        if new.label.starts_with(AUTOMATIC) {
            let message =
                format!("labels that begin with `{AUTOMATIC}` are those of snapshots that are taken by themselves");
            return Err(ForgeError::Invalid { field: "label", message });
        }
        let turn = self.turns.of(id);
        let _turn = turn.lock().await;
        let (sandbox, machine) = self.ready(caller, id).await?;
        self.take(&sandbox, machine.as_ref(), new).await
    }

    /// Lists a sandbox's snapshots, the newest first.
    pub(super) async fn snapshots(&self, caller: &Caller, id: SandboxId) -> Result<Vec<Snapshot>, ForgeError> {
        self.get(caller, id).await?;
        Ok(self.store.snapshots(id).await?)
    }

    /// Replaces the files of a sandbox by those of a snapshot, of this sandbox or another of the tenant.
    pub(super) async fn restore(&self, caller: &Caller, id: SandboxId, snapshot: SnapshotId) -> Result<(), ForgeError> {
        caller.may(Action::UseSandboxes)?;
        self.snapshot_of(caller, snapshot).await?;
        let turn = self.turns.of(id);
        let _turn = turn.lock().await;
        let (sandbox, _) = self.ready(caller, id).await?;
        self.put_back(&sandbox, snapshot).await
    }

    /// Makes a new sandbox with the files that another has now.
    pub(super) async fn fork(&self, caller: &Caller, id: SandboxId) -> Result<Sandbox, ForgeError> {
        let machine = self.machine(caller, id).await?;
        let origin = self.find(caller, id).await?;
        let new = NewSandbox {
            mode: Some(origin.mode),
            spec: origin.spec,
            lifetime: origin.lifetime,
            ..NewSandbox::default()
        };
        let Created { sandbox, .. } = self.create(caller, new).await?;
        let copied = async {
            let pack =
                PackRequest { compression: Compression::None, ..PackRequest::of(NewSnapshot::default().include) };
            let unpack = UnpackRequest { compression: pack.compression, ..unpack_request(pack.include.clone()) };
            let archive = machine.pack(pack).await?;
            let fork = self.machine(caller, sandbox.id).await?;
            fork.unpack(unpack, archive).await?;
            Ok::<_, ForgeError>(())
        };
        if let Err(error) = copied.await {
            self.delete(caller, sandbox.id).await?;
            return Err(error);
        }
        Ok(sandbox)
    }

    /// Tells how the files of a sandbox differ from a snapshot.
    pub(super) async fn diff(
        &self,
        caller: &Caller,
        id: SandboxId,
        snapshot: SnapshotId,
        limit: usize,
    ) -> Result<Comparison, ForgeError> {
        caller.may(Action::UseSandboxes)?;
        let snapshot = self.snapshot_of(caller, snapshot).await?;
        let machine = self.machine(caller, id).await?;
        let archive = self.bytes_of(&snapshot.key, &snapshot.sha256).await?;
        let request = CompareRequest { pack: PackRequest::of(snapshot.include).without(snapshot.exclude), limit };
        Ok(machine.compare(request, for_machine(archive)).await?)
    }

    /// Puts an archive from elsewhere in place. Its first bytes tell how it is compressed.
    pub(super) async fn restore_archive(
        &self,
        caller: &Caller,
        id: SandboxId,
        mut archive: ByteStream,
    ) -> Result<(), ForgeError> {
        caller.may(Action::UseSandboxes)?;
        let mut begin = BytesMut::new();
        while begin.len() < 4
            && let Some(piece) = archive.next().await.transpose()?
        {
            begin.extend_from_slice(&piece);
        }
        let compression = match begin[..] {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            _ => {
                let message = "it is no archive: a tar archive is expected, compressed with gzip or zstd".to_owned();
                return Err(ForgeError::Invalid { field: "archive", message });
            }
        };
        let turn = self.turns.of(id);
        let _turn = turn.lock().await;
        let (_, machine) = self.ready(caller, id).await?;
        let request = UnpackRequest { compression, ..unpack_request(NewSnapshot::default().include) };
        machine.unpack(request, stream::iter([Ok(begin.freeze())]).chain(archive).boxed()).await?;
        Ok(())
    }

    pub(super) async fn snapshot_of(&self, caller: &Caller, id: SnapshotId) -> Result<Snapshot, ForgeError> {
        let found = self.store.snapshot(&caller.tenant, id).await?;
        found.ok_or(ForgeError::NoSnapshot { id })
    }

    /// Takes a snapshot of a machine and makes it the latest.
    pub(super) async fn take(
        &self,
        sandbox: &Sandbox,
        machine: &dyn Machine,
        new: NewSnapshot,
    ) -> Result<Snapshot, ForgeError> {
        let pack = PackRequest::of(new.include.clone()).without(new.exclude.clone());
        let archive: ByteStream = machine.pack(pack).await?;
        let id = SnapshotId::random();
        let key = format!("snapshots/{}/{id}.tar.zst", sandbox.id);
        let (size, sha256) = keep(self.artifacts.as_ref(), &key, archive).await?;
        let snapshot = Snapshot {
            id,
            sandbox: sandbox.id,
            tenant: sandbox.tenant.clone(),
            label: new.label,
            key,
            size,
            sha256,
            include: new.include,
            exclude: new.exclude,
            created_at: self.clock.now(),
        };
        self.store.add_snapshot(&snapshot).await?;
        self.change(sandbox.clone(), &|row| row.latest_snapshot = Some(id)).await?;
        self.thin_out(sandbox.id).await;
        Ok(snapshot)
    }

    /// Removes the oldest of the snapshots that were taken before an end. Rows that stay are tried again with the next
    /// one, bytes that stay are swept.
    async fn thin_out(&self, sandbox: SandboxId) {
        let Ok(mut snapshots) = self.store.snapshots(sandbox).await else { return };
        snapshots.retain(|snapshot| snapshot.label.starts_with(AUTOMATIC));
        for old in snapshots.into_iter().skip(self.settings.kept_automatic.max(1)) {
            // The row goes first, and only if no sandbox comes back from it: a row always has its bytes.
            if matches!(self.store.remove_snapshot(old.id).await, Ok(true)) {
                drop(self.artifacts.delete(&old.key).await);
            }
        }
    }

    /// Restores onto a machine that works, and remembers it.
    pub(super) async fn put_back(&self, sandbox: &Sandbox, snapshot: SnapshotId) -> Result<(), ForgeError> {
        let machine = self.driver_of(sandbox)?.find(sandbox.id, sandbox.spec.egress.clone()).await?;
        self.restore_into(sandbox, machine.as_ref(), snapshot).await?;
        self.change(sandbox.clone(), &|row| row.latest_snapshot = Some(snapshot)).await?;
        Ok(())
    }

    pub(super) async fn restore_into(
        &self,
        sandbox: &Sandbox,
        machine: &dyn Machine,
        id: SnapshotId,
    ) -> Result<(), ForgeError> {
        let found = self.store.snapshot(&sandbox.tenant, id).await?;
        let snapshot = found.ok_or_else(|| ForgeError::not_found(format!("Snapshot {id}")))?;
        let archive = self.bytes_of(&snapshot.key, &snapshot.sha256).await?;
        machine.unpack(unpack_request(snapshot.include), for_machine(archive)).await?;
        Ok(())
    }

    pub(super) async fn bytes_of(&self, key: &str, sha256: &str) -> Result<ArtifactStream, ForgeError> {
        let gone = || ArtifactError {
            operation: "read",
            key: key.to_owned(),
            source: "the store of artifacts does not hold it any more".into(),
        };
        let bytes = self.artifacts.get_stream(key).await?.ok_or_else(gone)?;
        Ok(checked(bytes, sha256.to_owned()).boxed())
    }
}

fn unpack_request(replace: Vec<String>) -> UnpackRequest {
    UnpackRequest { compression: Compression::Zstd, replace, max_bytes: MAX_BYTES, max_entries: MAX_ENTRIES }
}
