//! Unpacks an image, in a process of its own that may write nowhere else.
//!
//! The image may have been made by anybody, and what reads it has its faults. So the process gives up all rights but
//! that to read the image and to write one folder, before it looks at the first byte.

use std::{
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus,
};
use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    process::{DumpableBehavior, Resource, Rlimit, Signal},
    thread::{CapabilitySet, CapabilitySets},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    ROOT, SETTINGS,
    layers::RootFs,
    manifest::{Blob, Digest},
    source::{Source, decompressed, refused},
};
use crate::{archive::members::Bounds, native::seccomp};

/// Memory that this may take: a window of zstd, the names of a layer's members, and some room.
const MAX_MEMORY: u64 = 2 << 30;
/// Processor time that this may take, in seconds.
const MAX_SECONDS: u64 = 3600;

/// What is to be unpacked.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    /// A layout's folder or an archive.
    pub(super) source: PathBuf,
    /// An empty folder.
    pub(super) target: PathBuf,
    pub(super) max_bytes: u64,
    pub(super) max_entries: u64,
}

/// What came of it: JSON on standard output.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Report {
    /// The image with this digest is unpacked.
    Unpacked(Digest),
    /// It is not, and this is why.
    Failed(String),
}

/// Unpacks the image that the order on standard input names, and says how it went.
///
/// # Errors
/// When the answer can't be given.
pub fn unpack() -> io::Result<()> {
    // Nobody else wants what it makes; the thread that started it waits for it.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let done = serde_json::from_reader(io::stdin().lock()).map_err(io::Error::from).and_then(|order| {
        close_in(&order)?;
        carry_out(&order)
    });
    let report = done.map_or_else(|error| Report::Failed(error.to_string()), Report::Unpacked);
    io::stdout().lock().write_all(&serde_json::to_vec(&report)?)
}

fn carry_out(order: &Order) -> io::Result<Digest> {
    let source = Source::open(&order.source, &order.target, order.max_bytes)?;
    let (manifest, config) = source.describe()?;
    let root = order.target.join(ROOT);
    fs::DirBuilder::new().create(&root)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = openat(CWD, &root, flags, Mode::empty())?;
    let mut root = RootFs::new(opened, Bounds { max_bytes: order.max_bytes, max_entries: order.max_entries });
    for (layer, digest) in manifest.layers.iter().zip(&config.layers) {
        add(&mut root, &source, layer, digest)?;
    }
    fs::write(order.target.join(SETTINGS), serde_json::to_vec(&config.settings)?)?;
    // Its new name is to survive a crash only with all that it stands for.
    rustix::fs::syncfs(openat(CWD, &order.target, flags, Mode::empty())?)?;
    Ok(config.id)
}

/// Puts a layer over the others, and verifies both its digests: as it is stored, and as it is.
fn add(root: &mut RootFs, source: &Source, layer: &Blob, digest: &Digest) -> io::Result<()> {
    let mut stored = Hashed::new(source.contents(&layer.name)?);
    let mut plain = Hashed::new(decompressed(&mut stored)?);
    let failed = |error: crate::archive::ArchiveError| refused(format!("layer `{}`: {error}", layer.name));
    root.add(&mut plain).map_err(failed)?;
    let found = plain.digest();
    io::copy(&mut stored, &mut io::sink())?;
    if found != *digest || layer.digest.as_ref().is_some_and(|wanted| *wanted != stored.digest()) {
        return Err(refused(format!("layer `{}` has another digest than it is said to have", layer.name)));
    }
    Ok(())
}

/// A stream whose bytes are hashed as they are read.
struct Hashed<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Hashed<R> {
    fn new(inner: R) -> Self {
        Self { inner, hash: Sha256::new() }
    }

    fn digest(self) -> Digest {
        Digest::from_hash(self.hash)
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n_bytes = self.inner.read(buffer)?;
        self.hash.update(&buffer[..n_bytes]);
        Ok(n_bytes)
    }
}

/// Gives up what the rest does not need.
fn close_in(order: &Order) -> io::Result<()> {
    rustix::process::umask(Mode::WGRP | Mode::WOTH);
    for (resource, max) in [
        (Resource::Data, MAX_MEMORY),
        (Resource::Cpu, MAX_SECONDS),
        (Resource::Core, 0),
        (Resource::Fsize, order.max_bytes),
    ] {
        let known = rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
        let max = Some(max.min(known));
        rustix::process::setrlimit(resource, Rlimit { current: max, maximum: max })?;
    }
    // An image may lie where only root may read.
    let held = rustix::thread::capabilities(None)?.permitted;
    let kept = held & CapabilitySet::DAC_READ_SEARCH;
    let none = CapabilitySet::empty();
    rustix::thread::set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: none })?;
    rustix::thread::set_no_new_privs(true)?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    landlock(order).map_err(|error| io::Error::other(format!("cannot restrict its own file access: {error}")))?;
    let filters = seccomp::filters().map_err(io::Error::other)?;
    seccomp::load(&filters).map_err(io::Error::other)
}

fn landlock(order: &Order) -> Result<(), Box<dyn std::error::Error>> {
    const INTERFACE: ABI = ABI::V7;
    let all = AccessFs::from_all(INTERFACE);
    let read: BitFlags<AccessFs> =
        if order.source.is_dir() { AccessFs::ReadFile | AccessFs::ReadDir } else { AccessFs::ReadFile.into() };
    let beneath = |path: &Path, access| PathFd::new(path).map(|fd| PathBeneath::new(fd, access));
    let rules = Ruleset::default().set_compatibility(CompatLevel::BestEffort).handle_access(all)?.create()?;
    let rules = rules.add_rule(beneath(&order.source, read)?)?.add_rule(beneath(&order.target, all)?)?;
    if rules.restrict_self()?.ruleset == RulesetStatus::NotEnforced {
        return Err("this kernel has no Landlock".into());
    }
    Ok(())
}
