//! Registers the driver by name, and runs a command in a sandbox on it.

use std::{error::Error, sync::Arc};

use astraforge_core::{
    id::SandboxId,
    ports::sessions::Sessions as _,
    registry::Registry,
    session::{Command, SandboxSpec},
};
use astraforge_sandbox::{driver::SandboxDriver, sandboxes::Sandboxes};
use own_driver::ProcessDriver;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, role, config] = arguments.as_slice()
        && role == "guest"
    {
        // Before any thread is started: the daemon is a process of one thread.
        return Ok(own_driver::serve(config)?);
    }
    tokio::runtime::Runtime::new()?.block_on(run())
}

async fn run() -> Result<(), Box<dyn Error>> {
    let folder = std::env::temp_dir().join(format!("own-driver-{}", std::process::id()));
    let mut drivers: Registry<dyn SandboxDriver> = Registry::new("sandbox driver");
    let at = folder.clone();
    // This program is its own guest.
    drivers.register("process", move || Ok(Arc::new(ProcessDriver::new(&at, std::env::current_exe()?)?)))?;

    let sandboxes = Sandboxes::new(drivers.resolve("process")?);
    let session = sandboxes.create(SandboxId::random(), SandboxSpec::default(), Vec::new()).await?;
    let command = Command::shell("echo hello from a driver of our own").with_cwd("/tmp");
    let output = session.exec(command).await?.collect(1024).await?;
    assert_eq!(output.stdout, b"hello from a driver of our own\n");
    print!("{}", String::from_utf8_lossy(&output.stdout));
    sandboxes.destroy(session.id()).await?;
    assert!(sandboxes.list().await?.is_empty());
    Ok(std::fs::remove_dir(folder)?)
}
