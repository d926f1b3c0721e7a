//! `sandbox create`.

use std::time::Duration;

use anyhow::Context;
use astraforge_core::{
    control_plane::NewSandbox,
    sandbox::Lifetime,
    session::{Limit, Limits, SandboxSpec, Workspace},
};
use astraforge_http::wire::sandbox::SessionView;

use super::{Desk, listing::shown, snapshot_id};
use crate::{cli::CreateArgs, commands::print, render::faint};

impl Desk<'_> {
    pub(super) async fn create(&self, args: &CreateArgs) -> anyhow::Result<()> {
        let id = args.id.as_deref().map(str::parse).transpose();
        let lifetime = Lifetime::new(Duration::from_secs(args.idle), Duration::from_secs(args.lifetime))
            .context("--idle and --lifetime do not go together")?;
        let new = NewSandbox {
            id: id.context("--id takes a UUID, such as 0190f3c4-6d0e-7a3c-8f52-2f6c1f0e9d77")?,
            mode: args.mode.clone(),
            spec: spec(args, lifetime),
            lifetime,
            restore: args.restore.as_deref().map(snapshot_id).transpose()?,
        };
        self.show_new(&self.plane.create(new).await?)
    }

    /// Prints the id of a sandbox that was made.
    pub(super) fn show_new(&self, sandbox: &SessionView) -> anyhow::Result<()> {
        print(self.args, &shown(sandbox), |terminal, _| {
            terminal.line(sandbox.id);
            terminal.note(terminal.paint(format!("next: astraforge sandbox shell {}", sandbox.id), faint()));
        })
    }
}

fn spec(args: &CreateArgs, lifetime: Lifetime) -> SandboxSpec {
    let limits = Limits {
        memory: limit(args.hard, args.memory),
        processes: Limit::required(args.pids),
        cpu_millis: args.cpu.map(|cpu| limit(args.hard, cpu.as_millis())),
        ..Limits::default()
    };
    let workspace = match args.tmpfs {
        Some(size) => Workspace::Tmpfs { size },
        None => Workspace::Disk { size: limit(args.hard, args.size) },
    };
    let spec =
        SandboxSpec::durable(lifetime).with_workspace(workspace).with_limits(limits).with_egress(args.egress.clone());
    let spec = args.env.iter().fold(spec, |spec, (name, value)| spec.with_env(name, value));
    args.image.iter().cloned().fold(spec, SandboxSpec::with_image)
}

fn limit<T>(hard: bool, max: T) -> Limit<T> {
    if hard { Limit::required(max) } else { Limit::best_effort(max) }
}
