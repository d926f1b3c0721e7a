//! Times sandboxes beside their baselines, and prints samples for `cargo xtask bench`.
//!
//! Subject and baseline take turns, so that whatever else the machine does weighs on both.
#![expect(clippy::print_stdout, reason = "the samples are its output")]

use std::{path::Path, sync::Arc};

use astraforge_sandbox::{
    native::{NativeConfig, NativeDriver},
    sandboxes::Sandboxes,
};

use self::{containers::Engine, samples::Failure};

mod commands;
mod containers;
mod creation;
mod crowd;
mod files;
mod pods;
mod samples;
mod snapshots;

/// How many sandboxes are prepared where some are.
const POOL: usize = 4;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let Some(guest) = argument("--guest") else {
        return Err("run it as `cargo xtask bench sandbox`".into());
    };
    let guest = Path::new(&guest);
    let state = tempfile::tempdir()?;
    let driver = NativeDriver::new(NativeConfig::new(state.path(), guest))?;
    let sandboxes = Sandboxes::new(Arc::new(driver));
    if let Some(image) = argument("--kubernetes") {
        return pods::measure(&sandboxes, &image).await;
    }
    let engine = match argument("--docker") {
        Some(image) => Some(Engine::connect(guest, image).await?),
        None => None,
    };
    let stock = tempfile::tempdir()?;
    let pooled = NativeDriver::new(NativeConfig::new(stock.path(), guest).with_pool(POOL))?;
    creation::measure(&sandboxes, Arc::new(pooled), engine.as_ref()).await?;
    commands::measure(&sandboxes, engine.as_ref()).await?;
    files::measure(&sandboxes).await?;
    snapshots::measure(&sandboxes).await?;
    crowd::measure(&sandboxes, state.path()).await
}

/// The word after `name`.
fn argument(name: &str) -> Option<String> {
    std::env::args().skip_while(|it| it != name).nth(1)
}
