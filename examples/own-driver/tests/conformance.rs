//! The suite for drivers, run by somebody who has nothing but the published crates.

use std::sync::Arc;

use astraforge_core::{id::SandboxId, image::Image, session::SandboxSpec};
use astraforge_sandbox::{
    driver::{DriverError, DynSandboxDriver, SandboxDriver as _},
    driver_conformance,
};
use own_driver::ProcessDriver;

fn driver() -> ProcessDriver {
    // It goes with the machine's temporary files: sandboxes may outlive a test that fails.
    ProcessDriver::new(tempfile::tempdir().unwrap().keep(), env!("CARGO_BIN_EXE_own-driver")).unwrap()
}

driver_conformance!(async { Arc::new(driver()) as DynSandboxDriver });

#[tokio::test]
async fn what_it_cannot_give_is_refused() {
    let spec = SandboxSpec::default().with_image("debian:12".parse::<Image>().unwrap());
    let refused = driver().create(SandboxId::random(), &spec, &[]).await;
    assert!(matches!(refused, Err(DriverError::Unsupported { .. })), "{refused:?}");
}
