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

use crate::{
    containers::Engine,
    samples::{Failure, Section, runs, time},
};

const N_ROUNDS: usize = 60;
/// A container takes half a second, so there are fewer.
const N_CONTAINERS: usize = 10;

/// What bubblewrap is asked for: the same namespaces, the same file system, no network.
const BWRAP: &str = "bwrap --unshare-all --die-with-parent --new-session --ro-bind /usr /usr --symlink usr/bin /bin \
    --symlink usr/lib /lib --symlink usr/lib64 /lib64 --proc /proc --dev /dev --tmpfs /tmp --tmpfs /workspace \
    --chdir /workspace true";

pub(crate) const CREATE: Section = Section { name: "create", what: "create, then run `true` to its end" };
pub(crate) const DESTROY: Section = Section { name: "destroy", what: "remove it, processes first" };

pub(crate) async fn measure(
    sandboxes: &Sandboxes,
    driver: Arc<NativeDriver>,
    engine: Option<&Engine>,
) -> Result<(), Failure> {
    let has_bwrap = runs("bwrap --version").await;
    let (mut ours, mut removal, mut bwrap) = (Vec::new(), Vec::new(), Vec::new());
    let (pooled, mut prepared) = (Sandboxes::new(Arc::clone(&driver) as DynSandboxDriver), Vec::new());
    for round in 0..=N_ROUNDS {
        // Until the pool is full again: what fills it is not to run beside what is timed.
        driver.prepare(&SandboxSpec::default()).await?;
        let (created, removed) = one_sandbox(sandboxes).await?;
        let baseline = if has_bwrap { time(BWRAP).await? } else { Duration::ZERO };
        let (taken, _) = one_sandbox(&pooled).await?;
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
    match engine {
        Some(engine) => containers(engine).await?,
        None => CREATE.leave_out("docker run", "no Docker engine: `apt-get install docker.io`"),
    }
    DESTROY.print("native", "Sandboxes::destroy", &removal);
    Ok(())
}

/// Makes and removes one, and returns how long both took.
pub(crate) async fn one_sandbox(sandboxes: &Sandboxes) -> Result<(Duration, Duration), Failure> {
    let id = SandboxId::random();
    let start = Instant::now();
    let session = sandboxes.create(id, SandboxSpec::default(), Vec::new()).await?;
    run_true(&*session).await?;
    let created = start.elapsed();
    let start = Instant::now();
    sandboxes.destroy(id).await?;
    Ok((created, start.elapsed()))
}

/// Times sandboxes in containers beside bare containers.
async fn containers(engine: &Engine) -> Result<(), Failure> {
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for round in 0..=N_CONTAINERS {
        let (created, _) = one_sandbox(&engine.sandboxes).await?;
        let baseline = time(&engine.run()).await?;
        if round > 0 {
            ours.push(created);
            bare.push(baseline);
        }
    }
    CREATE.print("docker run", &engine.run(), &bare);
    CREATE.print("docker", "Sandboxes::create + exec true + collect", &ours);
    Ok(())
}

/// Runs `true` to its end.
pub(crate) async fn run_true(session: &dyn Session) -> Result<(), Failure> {
    let output = session.exec(Command::new(["true"])).await?.collect(1024).await?;
    if !output.stderr.is_empty() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    Ok(())
}
