//! From nothing to the end of the first command, and what it takes to remove all of it again.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use astraforge_core::{
    id::SandboxId,
    ports::sessions::{Session, Sessions},
    session::{Command, SandboxSpec},
};
use astraforge_sandbox::{driver::DynSandboxDriver, native::NativeDriver, sandboxes::Sandboxes};

use crate::samples::{Failure, Section, runs, time};

const N_ROUNDS: usize = 60;
/// A container takes half a second, so there are fewer.
const N_CONTAINERS: usize = 10;

/// What bubblewrap is asked for: the same namespaces, the same file system, no network.
const BWRAP: &str = "bwrap --unshare-all --die-with-parent --new-session --ro-bind /usr /usr --symlink usr/bin /bin \
    --symlink usr/lib /lib --symlink usr/lib64 /lib64 --proc /proc --dev /dev --tmpfs /tmp --tmpfs /workspace \
    --chdir /workspace true";

const CREATE: Section = Section { name: "create", what: "create, then run `true` to its end" };
const DESTROY: Section = Section { name: "destroy", what: "remove it, processes first" };

pub(crate) async fn measure(sandboxes: &Sandboxes, driver: Arc<NativeDriver>) -> Result<(), Failure> {
    let has_bwrap = runs("bwrap --version").await;
    let (mut ours, mut removal, mut bwrap) = (Vec::new(), Vec::new(), Vec::new());
    let (pooled, mut prepared) = (Sandboxes::new(Arc::clone(&driver) as DynSandboxDriver), Vec::new());
    for round in 0..=N_ROUNDS {
        let (created, removed) = one_sandbox(sandboxes).await?;
        // Until the pool is full again.
        driver.prepare(&SandboxSpec::default()).await?;
        let (taken, _) = one_sandbox(&pooled).await?;
        let baseline = if has_bwrap { time(BWRAP).await? } else { Duration::ZERO };
        if round > 0 {
            ours.push(created);
            prepared.push(taken);
            removal.push(removed);
            bwrap.push(baseline);
        }
    }
    CREATE.print("native, cold", "Sandboxes::create + exec true + collect", &ours);
    CREATE.print("native, pooled", "the same, with one prepared at hand", &prepared);
    if has_bwrap {
        CREATE.print("bwrap", BWRAP, &bwrap);
    } else {
        CREATE.leave_out("bwrap", "bwrap does not run here: `apt-get install bubblewrap`");
    }
    containers().await?;
    DESTROY.print("native", "Sandboxes::destroy", &removal);
    Ok(())
}

async fn one_sandbox(sandboxes: &Sandboxes) -> Result<(Duration, Duration), Failure> {
    let id = SandboxId::random();
    let start = Instant::now();
    let session = sandboxes.create(id, SandboxSpec::default(), Vec::new()).await?;
    run_true(&*session).await?;
    let created = start.elapsed();
    let start = Instant::now();
    sandboxes.destroy(id).await?;
    Ok((created, start.elapsed()))
}

/// Times a container engine, if one answers and has an image at hand.
async fn containers() -> Result<(), Failure> {
    let Some(image) = image().await else {
        CREATE.leave_out("docker run", "no Docker engine with an image answers here");
        return Ok(());
    };
    let command = format!("docker run --rm --network none {image} true");
    let mut samples = Vec::new();
    for _ in 0..N_CONTAINERS {
        samples.push(time(&command).await?);
    }
    CREATE.print("docker run", &command, &samples);
    Ok(())
}

/// The first image of the Docker engine, if one answers.
pub(crate) async fn image() -> Option<String> {
    let images = tokio::process::Command::new("docker").args(["image", "ls", "--quiet"]).output().await.ok()?;
    String::from_utf8_lossy(&images.stdout).lines().next().map(str::to_owned)
}

/// Runs `true` to its end.
pub(crate) async fn run_true(session: &dyn Session) -> Result<(), Failure> {
    let output = session.exec(Command::new(["true"])).await?.collect(1024).await?;
    if !output.stderr.is_empty() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    Ok(())
}
