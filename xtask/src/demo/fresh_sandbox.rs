//! Runs a repository's tests in a sandbox that nobody has used: what an agent wrote is never run outside one.

use std::{
    path::Path,
    process::{Command as Process, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use astraforge_core::{
    id::SandboxId,
    ports::sessions::{Session, Sessions},
    session::{Command, SandboxSpec},
};
use astraforge_sandbox::{
    native::{NativeConfig, NativeDriver},
    sandboxes::Sandboxes,
};

use super::Scratch;

/// Tells whether `test` passes on `commit` of a bare repository.
pub(super) fn passes(scratch: &Scratch, guest: &Path, bare: &Path, commit: &str, test: &str) -> anyhow::Result<bool> {
    let archive = archive(bare, commit)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let driver = NativeDriver::new(NativeConfig::new(scratch.folder.join("fresh"), guest))?;
        let sandboxes = Sandboxes::new(Arc::new(driver));
        let id = SandboxId::random();
        let session = sandboxes.create(id, SandboxSpec::default(), Vec::new()).await?;
        let passed = test_in(&*session, archive, test).await;
        sandboxes.destroy(id).await?;
        passed
    })
}

/// The tree of a commit as an archive. Reads only objects: no hook, filter or checkout has a part in it.
fn archive(bare: &Path, commit: &str) -> anyhow::Result<Vec<u8>> {
    let mut git = Process::new("git");
    git.arg("-C").arg(bare).args(["archive", "--format=tar", commit]).stdin(Stdio::null());
    let output = git.env("GIT_CONFIG_GLOBAL", "/dev/null").output().context("cannot start git")?;
    ensure!(output.status.success(), "git archive failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

async fn test_in(session: &dyn Session, archive: Vec<u8>, test: &str) -> anyhow::Result<bool> {
    const LONGEST: Duration = Duration::from_secs(120);
    const MOST_OUTPUT: usize = 1 << 20;
    let unpack = Command::new(["tar", "--extract", "--file=-"]).with_stdin(archive).with_timeout(LONGEST);
    let unpacked = session.exec(unpack).await?.collect(MOST_OUTPUT).await?;
    ensure!(unpacked.exit.success(), "cannot unpack the tree: {}", String::from_utf8_lossy(&unpacked.stderr));
    let tested = session.exec(Command::shell(test).with_timeout(LONGEST)).await?.collect(MOST_OUTPUT).await?;
    print!("{}", String::from_utf8_lossy(&tested.stdout));
    Ok(tested.exit.success())
}
