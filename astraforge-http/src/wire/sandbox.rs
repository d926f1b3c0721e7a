//! Sandboxes, which the contract calls sessions.

use std::collections::BTreeMap;

use astraforge_core::{
    egress::Egress,
    files::Roots,
    id::{ArtifactId, SandboxId, SnapshotId},
    image::Image,
    ports::{artifacts::Place, machines::Usage},
    sandbox::{Artifact, Kept, Sandbox, SandboxStatus, Snapshot, Termination},
    session::{ByteSize, Cpus, Strictness, Workspace},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{schema, text, timestamp};

pub mod archive;
pub mod egress;
pub mod exec;
pub mod execution;
pub mod failure;
pub mod files;
pub mod process;
pub mod screen;

/// A sandbox to make, or to find again by its id. Everything may be left out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, ToSchema)]
pub struct NewSession {
    /// Its id: the same id is the same sandbox, and then nothing else of this counts but `restore_snapshot_id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<uuid::Uuid>)]
    pub id: Option<SandboxId>,
    /// The driver; the server's own choice unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "native")]
    pub mode: Option<String>,
    /// What it sees as its system; the driver's own choice unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, example = "python:3.11-slim")]
    pub image: Option<Image>,
    /// The processors that it may use.
    #[serde(serialize_with = "text::serialize_optional", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, example = "1.5")]
    pub cpu: Option<Cpus>,
    /// The most memory of all its processes; 4Gi unless set.
    #[serde(serialize_with = "text::serialize_optional", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, example = "2Gi")]
    pub memory: Option<ByteSize>,
    /// The largest size of its files; 10Gi unless set.
    #[serde(serialize_with = "text::serialize_optional", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, example = "10Gi")]
    pub ephemeral_storage: Option<ByteSize>,
    /// The snapshot whose files it begins with. A sandbox that is there already is put back to them only if somebody kept
    /// another state of it since.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<uuid::Uuid>)]
    pub restore_snapshot_id: Option<SnapshotId>,
    /// Seconds without use after which it is stopped; 300 unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 60)]
    pub idle_timeout_sec: Option<u64>,
    /// Seconds after which it is stopped in any case; 3,600 unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 300)]
    pub max_lifetime_sec: Option<u64>,
    /// What it may reach; additive, `public` unless set.
    #[serde(serialize_with = "text::serialize_optional", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, example = "allow:example.com,*.example.org:8443")]
    pub egress: Option<Egress>,
    /// Environment of every command; additive.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(required = false)]
    pub env: BTreeMap<String, String>,
    /// The most processes and threads; 512 unless set; additive.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 1)]
    pub processes: Option<u32>,
    /// Where its files are; on disk unless set; additive.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub files_on: Option<FilesOn>,
    /// Whether it is refused where the limits on files, memory and processors cannot be enforced; additive.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    pub enforced: bool,
}

/// Where the files of a sandbox are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FilesOn {
    /// In a folder on disk.
    #[default]
    Disk,
    /// In memory; a snapshot keeps them when the sandbox stops.
    Memory,
}

impl FilesOn {
    /// The place of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "disk" => Some(Self::Disk),
            "memory" => Some(Self::Memory),
            _ => None,
        }
    }
}

/// A sandbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SessionView {
    /// Its id.
    #[schema(value_type = uuid::Uuid)]
    pub id: SandboxId,
    /// The driver that it runs on.
    #[schema(example = "native")]
    pub mode: String,
    /// What it sees as its system; empty for the driver's own choice.
    pub image: String,
    /// The processors that it may use; empty without a limit.
    #[schema(example = "500m")]
    pub cpu: String,
    /// The most memory of all its processes.
    #[schema(example = "4Gi")]
    pub memory: String,
    /// The largest size of its files.
    #[schema(example = "10Gi")]
    pub ephemeral_storage: String,
    /// The snapshot that it was made with.
    #[schema(value_type = Option<uuid::Uuid>)]
    pub restore_snapshot_id: Option<SnapshotId>,
    /// How it stands. One that is not ready becomes so when it is used.
    #[schema(schema_with = schema::sandbox_status)]
    pub status: SandboxStatus,
    /// What names it across drivers.
    #[serde(rename = "ref")]
    #[schema(example = "native://sandbox-0190f3c4-6d0e-7a3c-8f52-2f6c1f0e9d77")]
    pub reference: String,
    /// The same.
    pub control_endpoint: String,
    /// Where its files are.
    #[schema(example = "/workspace")]
    pub workspace_path: String,
    /// Always empty: links to exported files come with them.
    pub artifact_base_url: String,
    /// Seconds without use after which it is stopped.
    pub idle_timeout_sec: u64,
    /// Seconds after which it is stopped in any case.
    pub max_lifetime_sec: u64,
    /// When something was last done in it.
    #[serde(with = "timestamp::row")]
    pub last_activity_at: DateTime<Utc>,
    /// When its user last said that they are there.
    #[serde(with = "timestamp::row")]
    pub last_heartbeat_at: DateTime<Utc>,
    /// When it is stopped in any case; later again when it comes back.
    #[serde(with = "timestamp::row")]
    pub expires_at: DateTime<Utc>,
    /// Why it last failed; empty after a success.
    pub error_message: String,
    /// What else there is to say.
    pub metadata: SessionMetadata,
    /// Its snapshots, the newest first.
    #[schema(value_type = Vec<uuid::Uuid>)]
    pub snapshot_ids: Vec<SnapshotId>,
    /// How many files were taken out of it.
    pub artifacts_count: u64,
    /// When it was asked for.
    #[serde(with = "timestamp::row")]
    pub created_at: DateTime<Utc>,
    /// When it was last used or came back.
    #[serde(with = "timestamp::row")]
    pub updated_at: DateTime<Utc>,
    /// What it may reach; additive.
    #[schema(example = "public")]
    pub egress: String,
    /// What it used when that was last measured, once a minute; null before, and while it has no machine; additive.
    #[serde(default)]
    pub usage: Option<UsageView>,
    /// The most processes and threads; additive.
    #[serde(default)]
    pub processes: u32,
    /// Where its files are; additive.
    #[serde(default)]
    pub files_on: FilesOn,
    /// Whether the limit on its files is one that the kernel enforces; additive.
    #[serde(default)]
    pub enforced: bool,
    /// The folders in which callers may use files; additive.
    #[serde(default = "usual_roots")]
    pub roots: Vec<String>,
}

fn usual_roots() -> Vec<String> {
    Roots::default().0
}

/// What else there is to say about a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SessionMetadata {
    /// The snapshot that it comes back from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = uuid::Uuid, required = false)]
    pub latest_snapshot_id: Option<SnapshotId>,
    /// Why it was last ended: `idle_timeout`, `max_lifetime`, `stopped`, `restore_failed`, `lost`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    pub terminated_reason: Option<Termination>,
}

impl SessionView {
    /// A sandbox as it is shown.
    #[must_use]
    pub fn new(sandbox: Sandbox, kept: Kept, usage: Option<Usage>) -> Self {
        let expires_at = sandbox.expires_at();
        let reference = sandbox.reference();
        let updated_at = sandbox.started_at.max(sandbox.last_activity_at).max(sandbox.last_heartbeat_at);
        let limits = &sandbox.spec.limits;
        let (storage, files_on, enforced) = match sandbox.spec.workspace {
            Workspace::Tmpfs { size } => (size, FilesOn::Memory, true),
            Workspace::Disk { size } => (size.max, FilesOn::Disk, size.strictness == Strictness::Required),
        };
        Self {
            id: sandbox.id,
            mode: sandbox.mode,
            image: sandbox.spec.image.map(String::from).unwrap_or_default(),
            cpu: limits.cpu_millis.map(|cpu| Cpus::millis(cpu.max).to_string()).unwrap_or_default(),
            memory: limits.memory.max.to_string(),
            ephemeral_storage: storage.to_string(),
            restore_snapshot_id: sandbox.restored_from,
            status: sandbox.status,
            control_endpoint: reference.clone(),
            reference,
            workspace_path: "/workspace".to_owned(),
            artifact_base_url: String::new(),
            idle_timeout_sec: sandbox.lifetime.idle().as_secs(),
            max_lifetime_sec: sandbox.lifetime.max().as_secs(),
            last_activity_at: sandbox.last_activity_at,
            last_heartbeat_at: sandbox.last_heartbeat_at,
            expires_at,
            error_message: sandbox.error_message,
            metadata: SessionMetadata {
                latest_snapshot_id: sandbox.latest_snapshot,
                terminated_reason: sandbox.termination,
            },
            snapshot_ids: kept.snapshots,
            artifacts_count: kept.n_artifacts,
            created_at: sandbox.created_at,
            updated_at,
            egress: sandbox.spec.egress.to_string(),
            usage: usage.map(UsageView::from),
            processes: limits.processes.max,
            files_on,
            enforced,
            roots: sandbox.spec.roots.0,
        }
    }
}

/// What a sandbox uses, and has used since its machine was made. What its driver cannot tell is null.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = SandboxUsage)] // runs have a usage too
pub struct UsageView {
    /// Processor time of all its processes, in seconds.
    pub cpu_seconds: Option<f64>,
    /// Memory now.
    pub memory_bytes: Option<u64>,
    /// The most memory so far.
    pub memory_peak_bytes: Option<u64>,
    /// Files in its workspace.
    pub disk_bytes: Option<u64>,
    /// Processes now.
    pub processes: Option<u32>,
}

impl From<Usage> for UsageView {
    fn from(usage: Usage) -> Self {
        Self {
            cpu_seconds: usage.cpu.map(|cpu| cpu.as_secs_f64()),
            memory_bytes: usage.memory.map(ByteSize::as_bytes),
            memory_peak_bytes: usage.memory_peak.map(ByteSize::as_bytes),
            disk_bytes: usage.disk.map(ByteSize::as_bytes),
            processes: usage.processes,
        }
    }
}

/// What is to change about a sandbox. What is left out stays.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, ToSchema)]
pub struct SessionPatch {
    /// What it may reach from now on. Connections that are no longer allowed are cut.
    #[serde(serialize_with = "text::serialize_optional", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, example = "off")]
    pub egress: Option<Egress>,
}

/// That somebody is there was noted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HeartbeatView {
    /// How the sandbox stands.
    #[schema(schema_with = schema::sandbox_status)]
    pub status: SandboxStatus,
    /// When it was noted.
    #[serde(with = "timestamp::row")]
    pub last_heartbeat_at: DateTime<Utc>,
}

/// Files to keep.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, ToSchema)]
pub struct NewSnapshotBody {
    /// What its maker calls it; at most 255 characters.
    #[schema(required = false, max_length = 255)]
    pub label: String,
    /// Absolute paths; `/workspace` unless set.
    #[schema(required = false)]
    pub include_paths: Vec<String>,
    /// Patterns of what stays out, as `tar --exclude` takes them.
    #[schema(required = false)]
    pub exclude_paths: Vec<String>,
}

/// Files of a sandbox, kept outside of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SnapshotView {
    /// Its id.
    #[schema(value_type = uuid::Uuid)]
    pub id: SnapshotId,
    /// What its maker calls it, or empty.
    pub label: String,
    /// Its key in the bucket; empty where it lies in a folder.
    pub s3_key: String,
    /// Its file on the server; empty where it lies in a bucket.
    pub archive_path: String,
    /// How many bytes.
    pub size_bytes: u64,
    /// What went into it.
    pub include_paths: Vec<String>,
    /// What was left out.
    pub exclude_paths: Vec<String>,
    /// When it was made.
    #[serde(with = "timestamp::row")]
    pub created_at: DateTime<Utc>,
    /// The SHA-256 of its bytes, in hex; additive.
    pub sha256: String,
}

impl SnapshotView {
    /// A snapshot as it is shown, with where its bytes lie.
    #[must_use]
    pub fn new(snapshot: Snapshot, place: Place) -> Self {
        let (s3_key, archive_path) = match place {
            Place::Key(key) => (key, String::new()),
            Place::File(path) => (String::new(), path.to_string_lossy().into_owned()),
        };
        Self {
            id: snapshot.id,
            label: snapshot.label,
            s3_key,
            archive_path,
            size_bytes: snapshot.size,
            include_paths: snapshot.include,
            exclude_paths: snapshot.exclude,
            created_at: snapshot.created_at,
            sha256: snapshot.sha256,
        }
    }
}

/// The snapshots of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SnapshotList {
    /// The sandbox.
    #[schema(value_type = uuid::Uuid)]
    pub session_id: SandboxId,
    /// The newest first.
    pub snapshots: Vec<SnapshotView>,
}

/// The snapshot whose files are to replace those of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct RestoreBody {
    /// The snapshot, of this sandbox or another of the tenant.
    #[schema(value_type = uuid::Uuid)]
    pub snapshot_id: SnapshotId,
}

/// A file to take out of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ExportBody {
    /// The file.
    #[schema(example = "/workspace/report.pdf")]
    pub path: String,
    /// The name it is offered under; its own unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, max_length = 255)]
    pub filename: Option<String>,
    /// What it holds; `application/octet-stream` unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, max_length = 100)]
    pub content_type: Option<String>,
}

impl ExportBody {
    /// The file at `path`, under its own name.
    pub fn new(path: impl Into<String>) -> Self {
        Self { path: path.into(), filename: None, content_type: None }
    }
}

/// A file that was taken out of a sandbox, kept when the sandbox is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ArtifactView {
    /// Its id.
    #[schema(value_type = uuid::Uuid)]
    pub id: ArtifactId,
    /// The name it is offered under.
    pub filename: String,
    /// What it is said to hold.
    pub content_type: String,
    /// How many bytes.
    pub size_bytes: u64,
    /// Where it was in the sandbox.
    pub storage_path: String,
    /// Where whoever has this address can download it for an hour; empty where the server signs no links.
    pub download_url: String,
    /// When it was made.
    #[serde(with = "timestamp::row")]
    pub created_at: DateTime<Utc>,
    /// The SHA-256 of its bytes, in hex; additive.
    pub sha256: String,
}

impl ArtifactView {
    /// An artifact as it is shown, with where it can be downloaded.
    #[must_use]
    pub fn new(artifact: Artifact, download_url: String) -> Self {
        Self {
            id: artifact.id,
            filename: artifact.filename,
            content_type: artifact.content_type,
            size_bytes: artifact.size,
            storage_path: artifact.path,
            download_url,
            created_at: artifact.created_at,
            sha256: artifact.sha256,
        }
    }
}

/// The files that were taken out of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ArtifactList {
    /// The sandbox.
    #[schema(value_type = uuid::Uuid)]
    pub session_id: SandboxId,
    /// The newest first.
    pub artifacts: Vec<ArtifactView>,
}

/// For how long a link is to be of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct LinkBody {
    /// Seconds, at most a week; an hour unless set.
    #[schema(required = false, minimum = 1, maximum = 604_800)]
    pub expires_sec: u32,
}

/// A link with which anybody can download a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LinkView {
    /// Where; a path of this server where it is not told its own address.
    pub url: String,
    /// When it is of no use any more.
    #[serde(with = "timestamp::row")]
    pub expires_at: DateTime<Utc>,
}
