//! Archives of a tree: packing, putting in place, comparing. Synchronous, and run inside the sandbox.
//!
//! An archive that is unpacked is hostile: it may come from anywhere. Nothing of it is written but beneath the folders
//! that it is to replace, and no link is followed on the way.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
};

use astraforge_core::{archive::Compression, files::FileErrorKind};

use crate::tree;

mod compare;
#[cfg(feature = "testing")]
pub(crate) mod fuzz;
pub(crate) mod members;
mod pack;
mod swap;
mod unpack;
mod walk;

pub(crate) use self::{compare::compare, pack::pack, unpack::unpack};

/// Why an archive could not be made, read or put in place.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArchiveError {
    /// The kernel said no about a file.
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    /// The stream broke, or is no archive.
    #[error("the archive is damaged: {0}")]
    Damaged(io::Error),
    /// The stream of the archive cannot be written.
    #[error("the archive cannot be sent: {0}")]
    Sending(io::Error),
    /// The archive holds what no archive of ours holds.
    #[error("the archive is refused: {0}")]
    Refused(String),
    /// The archive holds more than it may.
    #[error("the archive holds more than {max} {what}")]
    TooLarge { what: &'static str, max: u64 },
    /// What was asked for makes no sense.
    #[error("{0}")]
    Argument(String),
}

impl ArchiveError {
    pub(crate) fn kind(&self) -> FileErrorKind {
        match self {
            Self::File { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => FileErrorKind::NotFound,
                io::ErrorKind::PermissionDenied => FileErrorKind::PermissionDenied,
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FileErrorKind::NoSpace,
                _ => FileErrorKind::Other,
            },
            Self::TooLarge { .. } => FileErrorKind::TooLarge,
            Self::Argument(_) | Self::Refused(_) | Self::Damaged(_) => FileErrorKind::InvalidArgument,
            Self::Sending(_) => FileErrorKind::Other,
        }
    }
}

impl From<tree::WalkError> for ArchiveError {
    fn from(tree::WalkError { path, errno }: tree::WalkError) -> Self {
        at(&path)(errno)
    }
}

fn at(path: &Path) -> impl FnOnce(rustix::io::Errno) -> ArchiveError {
    |errno| ArchiveError::File { path: path.to_owned(), source: errno.into() }
}

/// Opens a compressed stream.
fn decompress<'a>(compression: Compression, input: impl Read + 'a) -> Result<Box<dyn Read + 'a>, ArchiveError> {
    match compression {
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::new(input).map_err(ArchiveError::Damaged)?;
            // A hostile frame may ask for a window of gigabytes.
            decoder.window_log_max(27).map_err(ArchiveError::Damaged)?;
            Ok(Box::new(decoder))
        }
        Compression::Gzip => Ok(Box::new(flate2::read::MultiGzDecoder::new(input))),
        Compression::None => Ok(Box::new(input)),
    }
}

/// Checks the absolute path of a root: `/workspace`, never `/` itself.
fn root(path: &str) -> Result<PathBuf, ArchiveError> {
    use std::path::Component;
    let path = Path::new(path);
    let plain = path.components().skip(1).all(|part| matches!(part, Component::Normal(_)));
    if path.is_absolute() && plain && path.components().count() > 1 && !path.as_os_str().as_encoded_bytes().contains(&0)
    {
        Ok(path.components().collect())
    } else {
        Err(ArchiveError::Argument(format!("`{}` is not the absolute path of a folder in the sandbox", path.display())))
    }
}

#[cfg(test)]
mod tests;
