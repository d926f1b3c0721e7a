//! Pods of a cluster as sandboxes, beside native ones.

use std::sync::Arc;

use astraforge_core::{id::SandboxId, ports::sessions::Sessions, session::SandboxSpec};
use astraforge_sandbox::{
    kubernetes::{K8sConfig, KubernetesDriver, find_cluster},
    sandboxes::Sandboxes,
};

use crate::{
    commands::EXEC,
    creation::{CREATE, DESTROY, one_sandbox, run_true},
    samples::{Failure, timed},
};

const N_ROUNDS: usize = 10;
const N_COMMANDS: usize = 100;

/// Measures on the cluster that `KUBECONFIG` names, which has `image`.
pub(crate) async fn measure(native: &Sandboxes, image: &str) -> Result<(), Failure> {
    let config = K8sConfig::new(find_cluster().await?, "default", image.parse()?)
        .with_owner(SandboxId::random().to_string(), "bench")
        .accepting_unenforced_egress();
    let pods = Sandboxes::new(Arc::new(KubernetesDriver::connect(config).await?));
    let (mut created, mut removed, mut beside, mut gone) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..N_ROUNDS {
        let (creation, removal) = one_sandbox(&pods).await?;
        created.push(creation);
        removed.push(removal);
        let (creation, removal) = one_sandbox(native).await?;
        beside.push(creation);
        gone.push(removal);
    }
    CREATE.print("kubernetes", "Sandboxes::create + exec true + collect", &created);
    CREATE.print("native, cold", "the same", &beside);
    DESTROY.print("kubernetes", "Sandboxes::destroy", &removed);
    DESTROY.print("native", "the same", &gone);
    let (pod, here) = (SandboxId::random(), SandboxId::random());
    let in_pod = pods.create(pod, SandboxSpec::default(), Vec::new()).await?;
    let in_native = native.create(here, SandboxSpec::default(), Vec::new()).await?;
    let (mut inside, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..N_COMMANDS {
        inside.push(timed(run_true(&*in_pod)).await?.1);
        beside.push(timed(run_true(&*in_native)).await?.1);
    }
    EXEC.print("kubernetes", "Session::exec true + collect", &inside);
    EXEC.print("native", "the same", &beside);
    pods.destroy(pod).await?;
    Ok(native.destroy(here).await?)
}
