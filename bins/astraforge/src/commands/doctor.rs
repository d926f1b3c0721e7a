//! `doctor`: says what this machine can do, and what would change what it can't.

use std::process::{Command, ExitCode};

use astraforge_sandbox::{
    docker,
    doctor::{Check, Status, examine},
    native::{NativeConfig, guest_binary::GuestBinary},
};
use serde_json::json;

use crate::{
    cli::ConnectionArgs,
    config::Provisioner,
    drivers::{self, Purpose},
    model::ModelConfig,
    render::{Terminal, attention, bad, good, strong},
};

/// Examines the machine; fails when a run could not work here.
pub(crate) async fn doctor(args: &ConnectionArgs) -> anyhow::Result<ExitCode> {
    let is_used = |driver| args.node.provisioner == driver || args.node.drivers.contains(&driver);
    let mut checks = if is_used(Provisioner::Native) { sandbox_checks(args)? } else { Vec::new() };
    if is_used(Provisioner::Docker) {
        checks.push(docker_check(args).await);
    }
    if is_used(Provisioner::K8s) {
        checks.extend(args.node.k8s.examine(&args.node.image, &args.node.data_folder()?).await);
    }
    checks.push(git_check());
    checks.push(codex_check(args));
    checks.push(model_check(args));
    let terminal = Terminal::detect();
    if args.json {
        let rows: Vec<_> = checks
            .iter()
            .map(|it| {
                json!({ "name": it.name, "status": format!("{:?}", it.status).to_lowercase(), "detail": it.detail,
                        "remedy": it.remedy })
            })
            .collect();
        terminal.line(serde_json::to_string(&rows)?);
    } else {
        let width = checks.iter().map(|check| check.name.len()).max().unwrap_or_default();
        checks.iter().for_each(|check| write(terminal, width, check));
    }
    let failed = checks.iter().any(|check| check.status == Status::Fail);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn write(terminal: Terminal, width: usize, check: &Check) {
    let (mark, style) = match check.status {
        Status::Ok => ("ok  ", good()),
        Status::Warn => ("warn", attention()),
        Status::Fail => ("FAIL", bad()),
    };
    terminal.line(format!("{}  {:<width$}  {}", terminal.paint(mark, style), check.name, check.detail));
    if let Some(remedy) = &check.remedy {
        terminal.line(format!("      {:<width$}  {}", "", terminal.paint(remedy, strong())));
    }
}

fn sandbox_checks(args: &ConnectionArgs) -> anyhow::Result<Vec<Check>> {
    let state = args.node.data_folder()?.join("sandboxes");
    let guest = match GuestBinary::find(args.node.guest.as_deref(), &state) {
        Ok(guest) => guest.path().to_owned(),
        Err(error) => {
            let build = "cargo xtask guest, then pass its path with --guest or ASTRAFORGE_GUEST";
            return Ok(vec![Check::new("guest program", Status::Fail, error.to_string(), Some(build.to_owned()))]);
        }
    };
    let mut config = NativeConfig::new(state, guest);
    for toolchain in &args.node.toolchains {
        config = config.with_toolchain(toolchain);
    }
    Ok(examine(&config))
}

async fn docker_check(args: &ConnectionArgs) -> Check {
    let found = async {
        let config = drivers::docker(&args.node, &args.node.data_folder()?, Purpose::Sessions)?;
        Ok::<_, anyhow::Error>(docker::examine(&config).await?)
    };
    match found.await {
        Ok(engine) => Check::new("docker", Status::Ok, engine, None),
        Err(error) => {
            let remedy = "systemctl start docker, or set DOCKER_HOST".to_owned();
            Check::new("docker", Status::Fail, format!("{error:#}"), Some(remedy))
        }
    }
}

fn git_check() -> Check {
    match Command::new("git").arg("--version").output() {
        Ok(output) if output.status.success() => {
            let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            Check::new("git", Status::Ok, version, None)
        }
        _ => {
            let install = "apt-get install git".to_owned();
            Check::new("git", Status::Fail, "not found on PATH".to_owned(), Some(install))
        }
    }
}

fn codex_check(args: &ConnectionArgs) -> Check {
    match crate::agent::codex_program(&args.node) {
        Ok(program) if args.node.provisioner == Provisioner::K8s => {
            Check::new("codex", Status::Ok, format!("expected in the image, in {}", program.folder().display()), None)
        }
        Ok(program) => Check::new("codex", Status::Ok, program.folder().display().to_string(), None),
        Err(error) => {
            let install = "npm install -g @openai/codex@0.169.0".to_owned();
            Check::new("codex", Status::Fail, error.to_string(), Some(install))
        }
    }
}

fn model_check(args: &ConnectionArgs) -> Check {
    let missing =
        |detail: String| Check::new("model", Status::Warn, detail, Some("export OPENAI_API_KEY=…".to_owned()));
    match args.node.model.config() {
        Ok(ModelConfig::OpenAi { base_url, .. }) => Check::new("model", Status::Ok, base_url, None),
        Ok(ModelConfig::Proxy { base_url, .. }) => {
            Check::new("model", Status::Ok, format!("whatever the proxy at {base_url} uses"), None)
        }
        Ok(ModelConfig::Scripted { scenario }) => {
            Check::new("model", Status::Ok, format!("scripted: {}", scenario.display()), None)
        }
        Ok(ModelConfig::Missing) => missing("no model is configured".to_owned()),
        Err(error) => missing(error.to_string()),
    }
}
