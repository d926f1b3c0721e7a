//! `sandbox cp`: files and folders, in both directions.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use astraforge_core::{
    files::{DownloadRequest, Entry, EntryKind, Existing, FileReply, FileVerb, UploadRequest},
    id::SandboxId,
    ports::sessions::SessionError,
};
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio_util::io::ReaderStream;

use super::Desk;
use crate::cli::CopyArgs;

impl Desk<'_> {
    pub(super) async fn copy(&self, args: &CopyArgs) -> anyhow::Result<()> {
        match (place(&args.from), place(&args.to)) {
            (Place::Here(from), Place::There(id, to)) => self.upload(&from, id, &to, args.replace).await,
            (Place::There(id, from), Place::Here(to)) => self.download(id, &from, &to, args.replace).await,
            _ => bail!("one of the two is a path here, the other SANDBOX:PATH, such as 0190…:/workspace/report.txt"),
        }
    }

    async fn upload(&self, from: &Path, id: SandboxId, to: &str, replace: bool) -> anyhow::Result<()> {
        let meta = std::fs::metadata(from).with_context(|| format!("cannot read {}", from.display()))?;
        let there = self.entry(id, to).await?;
        let is_folder = there.is_some_and(|entry| entry.kind == EntryKind::Directory);
        // As `cp` does: what is copied to a folder goes into it.
        let to = match name_of(from) {
            Some(name) if (is_folder && !(meta.is_dir() && replace)) || to.ends_with('/') => {
                format!("{}/{name}", to.trim_end_matches('/'))
            }
            _ => to.trim_end_matches('/').to_owned(),
        };
        if meta.is_dir() {
            return self.upload_folder(from, id, &to, replace).await;
        }
        let machine = self.machine(id).await?;
        let file = tokio::fs::File::open(from).await.with_context(|| format!("cannot read {}", from.display()))?;
        let bar = bar(Some(meta.len()));
        let seen = bar.clone();
        let contents = ReaderStream::with_capacity(file, 256 * 1024)
            .inspect_ok(move |bytes| seen.inc(bytes.len() as u64))
            .map_err(|error| SessionError::Backend { operation: "read the file", source: error.into() });
        let mode = std::os::unix::fs::MetadataExt::mode(&meta);
        let roots = self.roots(id).await?;
        let request = UploadRequest { roots, path: to.clone(), mode, existing: Existing::Replace };
        let n_bytes = machine.upload(request, contents.boxed()).await?;
        bar.finish_and_clear();
        self.say(&json!({ "path": to, "bytes": n_bytes }), &format!("{n_bytes} bytes to {to}"))
    }

    async fn download(&self, id: SandboxId, from: &str, to: &Path, replace: bool) -> anyhow::Result<()> {
        let there = self.entry(id, from).await?;
        let name = from.rsplit('/').find(|part| !part.is_empty()).unwrap_or("download");
        let is_folder = there.as_ref().is_some_and(|entry| entry.kind == EntryKind::Directory);
        let to = if to.is_dir() && !(is_folder && replace) { to.join(name) } else { to.to_owned() };
        if is_folder {
            return self.download_folder(id, from, &to, replace).await;
        }
        let request = DownloadRequest { roots: self.roots(id).await?, path: from.to_owned(), offset: 0, limit: None };
        let contents = self.machine(id).await?.download(request).await?;
        let size = there.filter(|entry| entry.kind == EntryKind::File).map(|entry| entry.size);
        let n_bytes = write_file(&to, size, contents.map_err(anyhow::Error::from)).await?;
        let text = format!("{n_bytes} bytes to {}", to.display());
        self.say(&json!({ "path": to.display().to_string(), "bytes": n_bytes }), &text)
    }

    /// What is at a path of a sandbox.
    pub(super) async fn entry(&self, id: SandboxId, path: &str) -> anyhow::Result<Option<Entry>> {
        match self.file(id, FileVerb::Stat { path: path.to_owned() }).await {
            Ok(FileReply::Entry(entry)) => Ok(Some(entry)),
            Ok(_) => Ok(None),
            Err(error) => match error.downcast_ref::<SessionError>() {
                Some(SessionError::FileNotFound { .. }) => Ok(None),
                _ => Err(error),
            },
        }
    }
}

/// One side of a copy.
enum Place {
    Here(PathBuf),
    There(SandboxId, String),
}

fn place(text: &str) -> Place {
    match text.split_once(':').and_then(|(id, path)| Some((id.parse().ok()?, path))) {
        Some((id, path)) => Place::There(id, path.to_owned()),
        None => Place::Here(text.into()),
    }
}

/// The last part of a path here, as it is named there.
pub(super) fn name_of(path: &Path) -> Option<String> {
    let whole = std::fs::canonicalize(path).ok()?;
    whole.file_name().and_then(|name| name.to_str()).map(str::to_owned)
}

/// Writes a file here, whole or not at all; returns its size in bytes.
pub(super) async fn write_file(
    to: &Path,
    size: Option<u64>,
    contents: impl Stream<Item = anyhow::Result<Bytes>>,
) -> anyhow::Result<u64> {
    let folder = to.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let draft = folder.join(format!(".{}.part", std::process::id()));
    let bar = bar(size);
    let write = async {
        let mut contents = std::pin::pin!(contents);
        let mut file =
            std::fs::File::create(&draft).with_context(|| format!("cannot write into {}", folder.display()))?;
        let mut n_bytes = 0;
        while let Some(bytes) = contents.try_next().await? {
            file.write_all(&bytes)?;
            n_bytes += bytes.len() as u64;
            bar.inc(bytes.len() as u64);
        }
        std::fs::rename(&draft, to).with_context(|| format!("cannot write {}", to.display()))?;
        anyhow::Ok(n_bytes)
    };
    let written = write.await;
    bar.finish_and_clear();
    if written.is_err() {
        _ = std::fs::remove_file(&draft);
    }
    written
}

/// Shows how far a transfer is, where there are people to see it.
pub(super) fn bar(n_bytes: Option<u64>) -> ProgressBar {
    let (bar, template) = match n_bytes {
        Some(n_bytes) => (ProgressBar::new(n_bytes), "{bar:24} {bytes} of {total_bytes}, {bytes_per_sec}"),
        None => (ProgressBar::new_spinner(), "{spinner} {bytes}, {bytes_per_sec}"),
    };
    bar.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()))
}
