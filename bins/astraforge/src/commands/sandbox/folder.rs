//! `sandbox cp` of folders: one archive in one stream, put in place whole or not at all.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink},
    path::{Component, Path, PathBuf},
};

use anyhow::{Context, bail};
use astraforge_core::{
    archive::{Compression, PackRequest, UnpackRequest},
    files::FileVerb,
    id::SandboxId,
    ports::sessions::SessionError,
};
use bytes::{Buf, Bytes};
use futures::{StreamExt, TryStreamExt, stream};
use indicatif::ProgressBar;
use serde_json::json;
use tokio::sync::mpsc;

use super::{Desk, copy::bar};

/// The most that a folder may hold when unpacked, in bytes.
const MAX_BYTES: u64 = 64 * 1024 * 1024 * 1024;
/// The most things that a folder may hold.
const MAX_ENTRIES: u64 = 5_000_000;

impl Desk<'_> {
    pub(super) async fn upload_folder(
        &self,
        from: &Path,
        id: SandboxId,
        to: &str,
        replace: bool,
    ) -> anyhow::Result<()> {
        if self.entry(id, to).await?.is_some() && !replace {
            bail!("{to} is there already; pass --replace to replace all that it holds");
        }
        let machine = self.machine(id).await?;
        self.file(id, FileVerb::MakeDir { path: to.to_owned() }).await?;
        let (sender, pieces) = mpsc::channel(4);
        let bar = bar(None);
        let packing = {
            let (from, inside, bar) = (from.to_owned(), PathBuf::from(to.trim_start_matches('/')), bar.clone());
            tokio::task::spawn_blocking(move || pack(&from, &inside, &sender, &bar))
        };
        let archive = stream::unfold(pieces, |mut pieces| async { Some((pieces.recv().await?, pieces)) });
        let request = UnpackRequest {
            compression: Compression::Zstd,
            replace: vec![to.to_owned()],
            max_bytes: MAX_BYTES,
            max_entries: MAX_ENTRIES,
        };
        let unpacked = machine.unpack(request, archive.boxed()).await;
        bar.finish_and_clear();
        let packed = packing.await?;
        let summary = match (unpacked, packed) {
            (Ok(summary), _) => summary,
            // The archive broke off because of what went wrong here.
            (Err(_), Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => {
                return Err(error).with_context(|| format!("cannot read {}", from.display()));
            }
            (Err(error), _) => return Err(error.into()),
        };
        let text = format!("{} things, {} bytes to {to}", summary.n_entries, summary.n_bytes);
        self.say(&json!({ "path": to, "bytes": summary.n_bytes, "entries": summary.n_entries }), &text)
    }

    pub(super) async fn download_folder(
        &self,
        id: SandboxId,
        from: &str,
        to: &Path,
        replace: bool,
    ) -> anyhow::Result<()> {
        if to.exists() && !replace {
            bail!("{} is there already; pass --replace to replace all that it holds", to.display());
        }
        let from = from.trim_end_matches('/');
        let pack = PackRequest::of([from]);
        let archive = self.machine(id).await?.pack(pack).await?;
        let parent = to.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        let draft = parent.join(format!(".{}.part", std::process::id()));
        let bar = bar(None);
        let (sender, pieces) = mpsc::channel(4);
        let unpacking = {
            let reader = Incoming { pieces, left: Bytes::new() };
            let (inside, draft, bar) = (PathBuf::from(from.trim_start_matches('/')), draft.clone(), bar.clone());
            tokio::task::spawn_blocking(move || unpack(reader, &inside, &draft, &bar))
        };
        let mut archive = archive.map_err(io::Error::other);
        // One that takes no more has failed, and says why.
        while let Some(piece) = archive.next().await
            && sender.send(piece).await.is_ok()
        {}
        drop(sender);
        let unpacked = unpacking.await?;
        bar.finish_and_clear();
        let placed = unpacked.and_then(|n_entries| {
            if to.exists() {
                remove(to)?;
            }
            fs::rename(&draft, to).map(|()| n_entries)
        });
        if placed.is_err() {
            _ = fs::remove_dir_all(&draft);
        }
        let n_entries = placed.with_context(|| format!("cannot write {}", to.display()))?;
        let value = json!({ "path": to.display().to_string(), "bytes": bar.position(), "entries": n_entries });
        self.say(&value, &format!("{n_entries} things, {} bytes to {}", bar.position(), to.display()))
    }
}

fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

/// Packs a folder of this machine as `inside`, links as links.
fn pack(
    from: &Path,
    inside: &Path,
    to: &mpsc::Sender<Result<Bytes, SessionError>>,
    bar: &ProgressBar,
) -> io::Result<()> {
    let packed = pack_into(from, inside, bar.wrap_write(Outgoing(to)));
    if let Err(error) = &packed {
        let source = error.to_string().into();
        // One that takes no more has failed, and says why.
        _ = to.blocking_send(Err(SessionError::Backend { operation: "read the folder", source }));
    }
    packed
}

fn pack_into(from: &Path, inside: &Path, writer: impl Write) -> io::Result<()> {
    let writer = io::BufWriter::with_capacity(64 * 1024, writer);
    let mut archive = tar::Builder::new(zstd::stream::write::Encoder::new(writer, 1)?);
    archive.follow_symlinks(false);
    archive.append_dir_all(inside, from)?;
    archive.into_inner()?.finish()?.flush()
}

/// An archive on its way out of a thread that blocks.
struct Outgoing<'a>(&'a mpsc::Sender<Result<Bytes, SessionError>>);

impl Write for Outgoing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map(|()| bytes.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An archive on its way into a thread that blocks.
struct Incoming {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    left: Bytes,
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.left.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.left = piece?,
                None => return Ok(0),
            }
        }
        let n_bytes = self.left.len().min(buffer.len());
        self.left.copy_to_slice(&mut buffer[..n_bytes]);
        Ok(n_bytes)
    }
}

/// Unpacks what is below `inside` into a new folder. The archive is hostile: links are made last, so that nothing is
/// written through one.
fn unpack(reader: impl Read, inside: &Path, folder: &Path, bar: &ProgressBar) -> io::Result<u64> {
    let mut archive = tar::Archive::new(zstd::stream::read::Decoder::new(bar.wrap_read(reader))?);
    fs::create_dir(folder)?;
    let (mut n_entries, mut links, mut modes) = (0, Vec::new(), Vec::new());
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let Some(target) = below(&path, inside, folder) else { continue };
        n_entries += 1;
        let mode = entry.header().mode()? & 0o777;
        match entry.header().entry_type() {
            tar::EntryType::Directory => {
                fs::create_dir_all(&target)?;
                modes.push((target, mode));
            }
            tar::EntryType::Regular => {
                make_parent(&target)?;
                let mut file = File::options().write(true).create_new(true).mode(mode).open(&target)?;
                io::copy(&mut entry, &mut file)?;
            }
            tar::EntryType::Link => {
                let linked = entry.link_name()?.and_then(|linked| below(&linked, inside, folder));
                let linked = linked.ok_or_else(|| io::Error::other("a link leads out of the folder"))?;
                make_parent(&target)?;
                fs::copy(linked, &target)?;
            }
            tar::EntryType::Symlink => {
                if let Some(to) = entry.link_name()? {
                    links.push((target, to.into_owned()));
                }
            }
            _ => n_entries -= 1,
        }
    }
    for (link, to) in links {
        make_parent(&link)?;
        symlink(to, link)?;
    }
    for (folder, mode) in modes.iter().rev() {
        fs::set_permissions(folder, fs::Permissions::from_mode(mode | 0o700))?;
    }
    Ok(n_entries)
}

fn make_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)
}

/// Where a member belongs, if it lies below `inside` and goes nowhere else.
fn below(member: &Path, inside: &Path, folder: &Path) -> Option<PathBuf> {
    let rest = member.strip_prefix(inside).ok()?;
    rest.components().all(|part| matches!(part, Component::Normal(_))).then(|| folder.join(rest))
}
