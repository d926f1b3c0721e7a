//! An agent loop with sandboxes of its own. Nothing else of AstraForge runs: no server, no database.

use std::{error::Error, fs, path::PathBuf, sync::Arc, time::Duration};

use astraforge_core::{id::SandboxId, ports::machines::Machines as _, session::SandboxSpec};
use astraforge_sandbox::{
    native::{NativeConfig, NativeDriver},
    sandboxes::Sandboxes,
};
use tower::ServiceBuilder;

use crate::{tools::Tools, transcript::Transcript};

mod agent;
mod tools;
mod transcript;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let state = std::env::temp_dir().join(format!("agent-loop-{}", std::process::id()));
    let sandboxes = Sandboxes::new(Arc::new(NativeDriver::new(NativeConfig::new(&state, guest()?))?));
    // Two agents at the same time, each in a sandbox of its own.
    let (one, two) = tokio::join!(one_agent(&sandboxes), one_agent(&sandboxes));
    let transcript = one?;
    assert_eq!(transcript, two?, "they do the same, and see nothing of each other");
    transcript.iter().for_each(|line| println!("{line}"));
    assert_eq!(transcript.iter().filter(|line| line.ends_with("failed")).count(), 1, "one test failed, and was mended");
    assert!(sandboxes.ids().await?.is_empty());
    Ok(fs::remove_dir_all(state)?)
}

async fn one_agent(sandboxes: &Sandboxes) -> Result<Vec<String>, Box<dyn Error + Send + Sync>> {
    let id = SandboxId::random();
    let machine = sandboxes.make(id, SandboxSpec::default()).await?.machine;
    let transcript = Transcript::default();
    // Read top to bottom in the order that a call meets them.
    let tools = ServiceBuilder::new()
        .layer(transcript.clone()) // outermost: what was refused below is written down too
        .concurrency_limit(1) // the agent uses one tool at a time, however it is asked
        .timeout(Duration::from_secs(60)) // dropping a command that takes longer ends its whole tree
        .service(Tools::new(machine));
    let answer = agent::work(tools, 10).await;
    // Whatever came of it, the sandbox goes.
    sandboxes.remove(id).await?;
    assert_eq!(answer?.text, "all passed\n");
    Ok(transcript.lines())
}

/// The guest program: named, or below the target folder where `cargo xtask guest` puts it.
fn guest() -> Result<PathBuf, Box<dyn Error + Send + Sync>> {
    if let Some(named) = std::env::var_os("ASTRAFORGE_GUEST") {
        return Ok(named.into());
    }
    let program = std::env::current_exe()?;
    let below = program.ancestors().map(|folder| folder.join("guest/astraforge-guest")).find(|path| path.is_file());
    below.ok_or_else(|| "build the guest first: cargo xtask guest".into())
}
