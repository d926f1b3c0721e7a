//! Snapshots, forks and files that are taken out: what outlives a sandbox's machine.

use futures::StreamExt;

use super::{
    ControlPlane, Created, NewSandbox,
    transfer::{checked, for_machine, keep},
};
use crate::{
    access::{Action, Caller},
    archive::{CompareRequest, Comparison, Compression, PackRequest, UnpackRequest},
    error::ForgeError,
    files::DownloadRequest,
    id::{ArtifactId, SandboxId, SnapshotId},
    ports::{
        artifacts::{ArtifactError, ArtifactStream},
        machines::{ByteStream, Machine},
    },
    sandbox::{Artifact, Sandbox, Snapshot},
};

/// The most that a snapshot may hold when unpacked, in bytes.
const MAX_BYTES: u64 = 64 * 1024 * 1024 * 1024;
/// The most files that a snapshot may hold.
const MAX_ENTRIES: u64 = 5_000_000;

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

impl ControlPlane {
    /// Keeps the files of a sandbox. Only once they are stored and read back they are what it comes back from.
    ///
    /// # Errors
    /// [`ForgeError::NotFound`], [`ForgeError::Session`] when they cannot be packed, [`ForgeError::Artifact`] when they
    /// cannot be stored.
    pub async fn snapshot(&self, caller: &Caller, id: SandboxId, new: NewSnapshot) -> Result<Snapshot, ForgeError> {
        caller.may(Action::UseSandboxes)?;
        let turn = self.turns.of(id);
        let _turn = turn.lock().await;
        let (sandbox, machine) = self.ready(caller, id).await?;
        self.take(&sandbox, machine.as_ref(), new).await
    }

    /// Lists a sandbox's snapshots, the newest first.
    ///
    /// # Errors
    /// [`ForgeError::NotFound`].
    pub async fn snapshots(&self, caller: &Caller, id: SandboxId) -> Result<Vec<Snapshot>, ForgeError> {
        self.get(caller, id).await?;
        Ok(self.store.snapshots(id).await?)
    }

    /// Replaces the files of a sandbox by those of a snapshot, of this sandbox or another of the tenant.
    ///
    /// # Errors
    /// [`ForgeError::NotFound`]; [`ForgeError::Session`] or [`ForgeError::Artifact`] when it cannot be done: then the
    /// files are as they were.
    pub async fn restore(&self, caller: &Caller, id: SandboxId, snapshot: SnapshotId) -> Result<(), ForgeError> {
        caller.may(Action::UseSandboxes)?;
        self.snapshot_of(caller, snapshot).await?;
        let turn = self.turns.of(id);
        let _turn = turn.lock().await;
        let (sandbox, _) = self.ready(caller, id).await?;
        self.put_back(&sandbox, snapshot).await
    }

    /// Makes a new sandbox with the files that another has now.
    ///
    /// # Errors
    /// [`ForgeError::NotFound`], [`ForgeError::Session`]; the new sandbox is deleted again when its files cannot be
    /// copied.
    pub async fn fork(&self, caller: &Caller, id: SandboxId) -> Result<Sandbox, ForgeError> {
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
            let pack = PackRequest { include: NewSnapshot::default().include, exclude: Vec::new() };
            let archive = machine.pack(pack.clone()).await?;
            let fork = self.machine(caller, sandbox.id).await?;
            fork.unpack(unpack_request(pack.include), archive).await?;
            Ok::<_, ForgeError>(())
        };
        if let Err(error) = copied.await {
            self.delete(caller, sandbox.id).await?;
            return Err(error);
        }
        Ok(sandbox)
    }

    /// Tells how the files of a sandbox differ from a snapshot.
    ///
    /// # Errors
    /// [`ForgeError::NotFound`], [`ForgeError::Session`], [`ForgeError::Artifact`].
    pub async fn diff(
        &self,
        caller: &Caller,
        id: SandboxId,
        snapshot: SnapshotId,
        limit: usize,
    ) -> Result<Comparison, ForgeError> {
        let snapshot = self.snapshot_of(caller, snapshot).await?;
        let machine = self.machine(caller, id).await?;
        let archive = self.bytes_of(&snapshot.key, &snapshot.sha256).await?;
        let pack = PackRequest { include: snapshot.include, exclude: snapshot.exclude };
        let request = CompareRequest { compression: Compression::Zstd, pack, limit };
        Ok(machine.compare(request, for_machine(archive)).await?)
    }

    /// Takes a file out of a sandbox: its bytes are kept when the sandbox is gone.
    ///
    /// # Errors
    /// [`ForgeError::NotFound`], [`ForgeError::Session`] when it cannot be read, [`ForgeError::Artifact`] when it cannot
    /// be stored.
    pub async fn export(
        &self,
        caller: &Caller,
        id: SandboxId,
        path: &str,
        filename: Option<&str>,
        content_type: &str,
    ) -> Result<Artifact, ForgeError> {
        let machine = self.machine(caller, id).await?;
        let roots = self.find(caller, id).await?.spec.roots;
        let request = DownloadRequest { roots, path: path.to_owned(), offset: 0, limit: None };
        let bytes = machine.download(request).await?;
        let artifact = ArtifactId::random();
        let key = format!("artifacts/{id}/{artifact}");
        let (size, sha256) = keep(self.artifacts.as_ref(), &key, bytes).await?;
        let name = filename.filter(|name| !name.is_empty()).or_else(|| path.rsplit('/').find(|part| !part.is_empty()));
        let artifact = Artifact {
            id: artifact,
            sandbox: id,
            tenant: caller.tenant.clone(),
            filename: name.unwrap_or("download").chars().filter(|c| !c.is_control()).take(255).collect(),
            content_type: content_type.to_owned(),
            path: path.to_owned(),
            key,
            size,
            sha256,
            created_at: self.clock.now(),
        };
        self.store.add_artifact(&artifact).await?;
        Ok(artifact)
    }

    /// Lists the files that were taken out of a sandbox, the newest first.
    ///
    /// # Errors
    /// [`ForgeError::NotFound`].
    pub async fn artifacts(&self, caller: &Caller, id: SandboxId) -> Result<Vec<Artifact>, ForgeError> {
        self.get(caller, id).await?;
        Ok(self.store.artifacts(id).await?)
    }

    /// Reads a file that was taken out of a sandbox, which may be gone by now. The stream ends in an error when the
    /// bytes are not those that were stored.
    ///
    /// # Errors
    /// [`ForgeError::NotFound`], [`ForgeError::Artifact`].
    pub async fn artifact(&self, caller: &Caller, id: ArtifactId) -> Result<(Artifact, ArtifactStream), ForgeError> {
        caller.may(Action::Read)?;
        let found = self.store.artifact(&caller.tenant, id).await?;
        let artifact = found.ok_or_else(|| ForgeError::not_found(format!("Artifact {id}")))?;
        let bytes = self.bytes_of(&artifact.key, &artifact.sha256).await?;
        Ok((artifact, bytes))
    }

    pub(super) async fn snapshot_of(&self, caller: &Caller, id: SnapshotId) -> Result<Snapshot, ForgeError> {
        let found = self.store.snapshot(&caller.tenant, id).await?;
        found.ok_or_else(|| ForgeError::not_found(format!("Snapshot {id}")))
    }

    /// Takes a snapshot of a machine and makes it the latest.
    pub(super) async fn take(
        &self,
        sandbox: &Sandbox,
        machine: &dyn Machine,
        new: NewSnapshot,
    ) -> Result<Snapshot, ForgeError> {
        let pack = PackRequest { include: new.include.clone(), exclude: new.exclude.clone() };
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
        Ok(snapshot)
    }

    /// Restores onto a machine that works, and remembers it.
    pub(super) async fn put_back(&self, sandbox: &Sandbox, snapshot: SnapshotId) -> Result<(), ForgeError> {
        let machine = self.driver(&sandbox.mode)?.find(sandbox.id, sandbox.spec.egress.clone()).await?;
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

    async fn bytes_of(&self, key: &str, sha256: &str) -> Result<ArtifactStream, ForgeError> {
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
