//! Runs the tests of the Kubernetes driver on a real cluster, and attacks its sandboxes there.

use super::tally::Tally;
use super::{Context, Verdict, attack, stages};
use crate::cluster::{self, Cluster};

/// Runs the tests: on the cluster that `KUBECONFIG` names if the variable of the tests says so, else on one started for
/// them.
pub(crate) fn check(context: &Context<'_>, tally: &mut Tally) -> anyhow::Result<Verdict> {
    if std::env::var_os(cluster::VARIABLE).is_some() {
        stages::some(context, &["--test", "k8s"], &|_| (), tally)?;
        return Ok(Verdict::PassedWith("on the cluster that KUBECONFIG names".into()));
    }
    on_cluster(context, |cluster| {
        stages::some(context, &["--test", "k8s"], &|command| _ = cluster.tell(command), tally)
    })
}

/// Attacks pods of a cluster that is started for it.
pub(crate) fn attack(context: &Context<'_>, _: &mut Tally) -> anyhow::Result<Verdict> {
    on_cluster(context, |cluster| {
        attack::on(context, "k8s", |program| {
            cluster.tell(program.env("SANDBOX_IMAGE", cluster::TEST_IMAGE).env("ACCEPT_UNENFORCED_EGRESS", "true"));
        })
    })
}

fn on_cluster(context: &Context<'_>, check: impl FnOnce(&Cluster) -> anyhow::Result<()>) -> anyhow::Result<Verdict> {
    if let Some(obstacle) = cluster::obstacle() {
        return Ok(Verdict::Skipped(format!("no cluster can be started here: {obstacle}")));
    }
    if !context.all && !cluster::is_installed() {
        return Ok(Verdict::Skipped(
            "the cluster's programs are not on this machine; `--all`, or `cargo xtask cluster`, installs and builds \
             them"
                .into(),
        ));
    }
    let cluster = Cluster::start(context.workspace, &context.workspace.guest())?;
    check(&cluster)?;
    Ok(Verdict::Passed)
}
