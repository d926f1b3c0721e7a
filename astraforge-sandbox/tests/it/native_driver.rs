//! The native driver keeps the rules of every driver.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, OnceLock},
};

use astraforge_core::{id::SandboxId, ports::guest_service::GuestStream, session::SandboxSpec};
use astraforge_sandbox::{
    driver::{Capabilities, DriverError, DynSandboxDriver, SandboxDriver},
    driver_conformance,
    native::{NativeConfig, NativeDriver},
};
use async_trait::async_trait;
use tempfile::TempDir;

/// The guest program that `cargo xtask test` has built for all tests, else one built now: what is tested is never an old
/// one.
fn guest() -> &'static Path {
    static GUEST: OnceLock<PathBuf> = OnceLock::new();
    GUEST.get_or_init(|| {
        if let Some(built) = std::env::var_os("ASTRAFORGE_GUEST") {
            return built.into();
        }
        let build = Command::new(env!("CARGO"))
            .args(["xtask", "guest"])
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
            .output()
            .unwrap();
        assert!(build.status.success(), "{}", String::from_utf8_lossy(&build.stderr));
        String::from_utf8(build.stdout).unwrap().lines().last().unwrap().into()
    })
}

/// A native driver with a state folder of its own.
#[derive(Debug)]
struct Scratch {
    driver: NativeDriver,
    _folder: TempDir,
}

pub(crate) fn native() -> DynSandboxDriver {
    let folder = tempfile::tempdir().unwrap();
    let driver = NativeDriver::new(NativeConfig::new(folder.path(), guest())).unwrap();
    Arc::new(Scratch { driver, _folder: folder })
}

#[async_trait]
impl SandboxDriver for Scratch {
    fn capabilities(&self) -> Capabilities {
        self.driver.capabilities()
    }

    async fn create(
        &self,
        id: SandboxId,
        spec: &SandboxSpec,
        service_ports: &[u16],
    ) -> Result<(), DriverError> {
        self.driver.create(id, spec, service_ports).await
    }

    async fn connect(
        &self,
        id: SandboxId,
    ) -> Result<GuestStream, DriverError> {
        self.driver.connect(id).await
    }

    async fn list(&self) -> Result<Vec<SandboxId>, DriverError> {
        self.driver.list().await
    }

    async fn destroy(&self, id: SandboxId) -> Result<(), DriverError> {
        self.driver.destroy(id).await
    }
}

driver_conformance!(async { native() });
