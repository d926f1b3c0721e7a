//! Times sandboxes beside their baselines, and prints samples for `cargo xtask bench`.
//!
//! Subject and baseline take turns, so that whatever else the machine does weighs on both.
#![expect(clippy::print_stdout, reason = "the samples are its output")]

use std::{path::Path, sync::Arc};

use astraforge_sandbox::{
    native::{NativeConfig, NativeDriver},
    sandboxes::Sandboxes,
};

use self::samples::Failure;

mod commands;
mod creation;
mod crowd;
mod files;
mod samples;
mod snapshots;

/// How many sandboxes are prepared where some are.
const POOL: usize = 4;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip_while(|it| it != "--guest").skip(1);
    let Some(guest) = arguments.next() else {
        return Err("run it as `cargo xtask bench sandbox`".into());
    };
    let state = tempfile::tempdir()?;
    let driver = NativeDriver::new(NativeConfig::new(state.path(), Path::new(&guest)))?;
    let sandboxes = Sandboxes::new(Arc::new(driver));
    let stock = tempfile::tempdir()?;
    let pooled = NativeDriver::new(NativeConfig::new(stock.path(), Path::new(&guest)).with_pool(POOL))?;
    creation::measure(&sandboxes, Arc::new(pooled)).await?;
    commands::measure(&sandboxes).await?;
    files::measure(&sandboxes).await?;
    snapshots::measure(&sandboxes).await?;
    crowd::measure(&sandboxes, state.path()).await
}
