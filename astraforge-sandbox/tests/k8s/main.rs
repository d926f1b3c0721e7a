//! The Kubernetes driver on a real cluster: whatever `KUBECONFIG` names. `cargo xtask test --only k8s` starts one.
//!
//! Unless a test says otherwise, it runs as the account that `deploy/k8s` gives to a server.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a failing test is what these are for")]

mod account;
mod network;
mod pods;

use std::sync::Arc;

use astraforge_core::{
    id::SandboxId,
    ports::sessions::{Session, Sessions},
    session::{Command, SandboxSpec},
};
use astraforge_sandbox::{
    driver::DynSandboxDriver,
    driver_conformance,
    kubernetes::{K8sConfig, KubernetesDriver},
    sandboxes::Sandboxes,
};

use self::account::{NAMESPACE, server_account};

driver_conformance!(async { driver().await });

mod machines {
    use super::*;

    astraforge_core::machines_conformance!(async { ((), Sandboxes::new(driver().await), "/workspace") });
}

/// What sandboxes of the tests see: a busybox with a bash.
fn image() -> String {
    std::env::var("ASTRAFORGE_TEST_K8S_IMAGE").unwrap_or_else(|_| "astraforge/test-sandbox:1".to_owned())
}

/// Settings of a server of its own, whose cluster need not keep network policies.
async fn config() -> K8sConfig {
    K8sConfig::new(server_account().await, NAMESPACE, image().parse().unwrap())
        .with_owner(SandboxId::random().to_string(), "tests")
        .accepting_unenforced_egress()
}

async fn driver() -> DynSandboxDriver {
    Arc::new(KubernetesDriver::connect(config().await).await.unwrap())
}

/// A sandbox, removed at the end of each test.
struct Fixture {
    sandboxes: Sandboxes,
    session: Arc<dyn Session>,
}

impl Fixture {
    async fn new(config: K8sConfig, spec: SandboxSpec) -> Self {
        let sandboxes = Sandboxes::new(Arc::new(KubernetesDriver::connect(config).await.unwrap()));
        let session = sandboxes.create(SandboxId::random(), spec, Vec::new()).await.unwrap();
        Self { sandboxes, session }
    }

    /// Runs a line that must succeed, and returns what it wrote.
    async fn shell(&self, line: &str) -> String {
        let output = self.session.exec(Command::shell(line)).await.unwrap().collect(1 << 20).await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        assert!(output.exit.success(), "{line}: {} {text} {}", output.exit, String::from_utf8_lossy(&output.stderr));
        text
    }

    async fn end(self) {
        self.sandboxes.destroy(self.session.id()).await.unwrap();
        assert_eq!(self.sandboxes.list().await.unwrap(), []);
    }
}

/// An error with its sources, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
