//! Archives of a sandbox's files: what snapshots are made of.

use serde::{Deserialize, Serialize};

/// How an archive is compressed. A tar archive stands beneath.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// Zstandard: what is kept.
    Zstd,
    /// Gzip: what the contract's archives are; read only.
    Gzip,
    /// Not at all: what is unpacked as it is packed.
    None,
}

/// Files are asked for, as an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackRequest {
    /// Absolute paths of what goes in, with all below; members are named by their path without the first `/`.
    pub include: Vec<String>,
    /// Patterns of what stays out, as `tar --exclude` takes them.
    pub exclude: Vec<String>,
    /// How it is compressed.
    pub compression: Compression,
}

impl PackRequest {
    /// Asks for all of `include`, compressed to be kept.
    ///
    /// ```
    /// let pack = astraforge_core::archive::PackRequest::of(["/workspace"]);
    /// assert!(pack.exclude.is_empty());
    /// ```
    pub fn of(include: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            include: include.into_iter().map(Into::into).collect(),
            exclude: Vec::new(),
            compression: Compression::Zstd,
        }
    }

    /// Leaves out what one of `exclude` matches.
    #[must_use]
    pub fn without(self, exclude: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { exclude: exclude.into_iter().map(Into::into).collect(), ..self }
    }
}

/// An archive is to be put in place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnpackRequest {
    /// How it is compressed.
    pub compression: Compression,
    /// Absolute paths whose content is *replaced*: what is there and not in the archive is gone afterwards. Nothing is
    /// written outside them.
    pub replace: Vec<String>,
    /// The most that the archive may hold when unpacked, in bytes.
    pub max_bytes: u64,
    /// The most members it may have.
    pub max_entries: u64,
}

/// What went through an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ArchiveSummary {
    /// Members.
    pub n_entries: u64,
    /// Bytes of files, unpacked.
    pub n_bytes: u64,
    /// Things that have no place in an archive and were left out: sockets, devices, what vanished meanwhile.
    pub n_skipped: u64,
}

/// An archive is to be compared with the files as they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompareRequest {
    /// What went into it, and how it is compressed.
    pub pack: PackRequest,
    /// At most so many differences.
    pub limit: usize,
}

/// How files differ from an archive.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Comparison {
    /// In order of path.
    pub changes: Vec<TreeChange>,
    /// Whether there are more.
    pub truncated: bool,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeChange {
    /// The absolute path.
    pub path: String,
    /// How it differs.
    pub change: TreeChangeKind,
    /// Its size in the archive, in bytes.
    pub old_size: Option<u64>,
    /// Its size now, in bytes.
    pub new_size: Option<u64>,
}

/// How something differs from an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TreeChangeKind {
    /// It was not there.
    Added,
    /// Its content, kind, link target or permissions are others.
    Modified,
    /// It is not there any more.
    Removed,
}
