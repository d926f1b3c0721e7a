//! Archives of a sandbox's files.

use astraforge_core::archive::{Compression, PackRequest};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Files to pack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct PackBody {
    /// Paths of what goes in, with all below; members are named by their absolute path without the first `/`.
    pub include: Vec<String>,
    /// Patterns of what stays out, as `tar --exclude` takes them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub exclude: Vec<String>,
    /// How it is compressed: `zstd` unless set, `gzip`, `none`.
    #[schema(value_type = String, required = false, example = "zstd")]
    pub compression: Compression,
}

impl From<PackRequest> for PackBody {
    fn from(request: PackRequest) -> Self {
        let PackRequest { include, exclude, compression } = request;
        Self { include, exclude, compression }
    }
}

/// A compression of that name.
#[cfg(feature = "server")]
#[must_use]
pub(crate) fn compression_named(name: &str) -> Option<Compression> {
    match name {
        "zstd" => Some(Compression::Zstd),
        "gzip" => Some(Compression::Gzip),
        "none" => Some(Compression::None),
        _ => None,
    }
}

/// What was put in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnpackView {
    /// Members.
    pub n_entries: u64,
    /// Bytes of files, unpacked.
    pub n_bytes: u64,
    /// Things that have no place in an archive and were left out.
    pub n_skipped: u64,
}
