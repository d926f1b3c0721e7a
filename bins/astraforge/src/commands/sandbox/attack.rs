//! `sandbox attack`: hostile programs against a driver, and what came of each.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::Context;
use astraforge_adapters::{artifacts::FolderArtifacts, secret_box::SecretKey, sqlite::SqliteStore};
use astraforge_core::{
    BoxError,
    ports::{artifacts::ArtifactStore, sandbox_store::SandboxStore},
};
use astraforge_sandbox::attack::{self, Attacker, CaseReport, MakePlane, Options, Outcome, Progress, Scale, Target};
use async_trait::async_trait;
use clap::Args;

use crate::{
    cli::ConnectionArgs,
    config::Provisioner,
    data_folder, drivers,
    drivers::Purpose,
    render::{Terminal, attention, bad, good},
};

/// Arguments of `sandbox attack`.
#[derive(Debug, Args)]
pub(crate) struct AttackArgs {
    /// The driver whose sandboxes are attacked [default: where sandboxes run anyway]
    #[arg(long, value_enum)]
    driver: Option<Provisioner>,
    /// Run these cases or groups only; may be given more than once
    #[arg(long, value_name = "CASE")]
    only: Vec<String>,
    /// Take on as much as a case can: gigabytes, thousands of sandboxes; takes a quarter of an hour or more
    #[arg(long)]
    full: bool,
    /// Print a Markdown table
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
    /// The hostile program [default: beside this program]
    #[arg(long, env = "ASTRAFORGE_ATTACKER", value_name = "FILE")]
    attacker: Option<PathBuf>,
}

/// Attacks sandboxes of a driver, which are made in a folder of their own.
pub(crate) async fn attack(args: &ConnectionArgs, options: &AttackArgs) -> anyhow::Result<ExitCode> {
    let attacker = Attacker::find(options.attacker.as_deref())?;
    let kind = options.driver.unwrap_or(args.node.provisioner);
    let scratch = Scratch::new()?;
    let driver = drivers::driver(&args.node, &scratch.0, Purpose::Sessions, kind, 0).await?;
    let host = drivers::host(&scratch.0, Purpose::Sessions, kind);
    let plane = Arc::new(Stores { root: scratch.0.clone(), n_made: 0.into() });
    let target = Arc::new(Target::new(driver, host, attacker).with_plane(plane));
    let scale = if options.full { Scale::Full } else { Scale::Quick };
    let wanted = Options { scale, only: options.only.clone() };

    let terminal = Terminal::detect();
    let as_it_comes = !args.json && !options.markdown;
    let report = attack::run(&target, &wanted, |progress| match progress {
        Progress::Judged(case) if as_it_comes => terminal.line(row(terminal, case)),
        Progress::Judged(case) => terminal.note(row(terminal, case)),
        running => terminal.note(running),
    })
    .await;
    anyhow::ensure!(!report.cases.is_empty(), "no case and no group is named {}", options.only.join(", "));
    if args.json {
        terminal.line(serde_json::to_string(&report)?);
    } else if options.markdown {
        terminal.line(report.to_markdown().trim_end());
    } else {
        terminal.line(report.summary());
    }
    std::io::stdout().flush()?;
    Ok(if report.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn row(terminal: Terminal, case: &CaseReport) -> String {
    let style = match case.result {
        Outcome::Pass => good(),
        Outcome::Fail => bad(),
        Outcome::NotApplicable => attention(),
    };
    let text = case.to_string();
    let (head, rest) = text.split_at(4);
    format!("{}{rest}", terminal.paint(head, style))
}

/// A folder for the sandboxes that are attacked; dropped, it is gone.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> anyhow::Result<Self> {
        let folder = std::env::temp_dir().join(format!("astraforge-attack-{}", std::process::id()));
        data_folder::make_private(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(folder = %self.0.display(), %error, "cannot remove what the attacks left");
        }
    }
}

/// Databases and folders for control planes, a new one each time.
#[derive(Debug)]
struct Stores {
    root: PathBuf,
    n_made: std::sync::atomic::AtomicU32,
}

#[async_trait]
impl MakePlane for Stores {
    async fn stores(&self) -> Result<(Arc<dyn SandboxStore>, Arc<dyn ArtifactStore>), BoxError> {
        let n_made = self.n_made.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let folder = self.root.join(format!("plane-{n_made}"));
        open(&folder).await.map_err(BoxError::from)
    }
}

async fn open(folder: &Path) -> anyhow::Result<(Arc<dyn SandboxStore>, Arc<dyn ArtifactStore>)> {
    data_folder::make_private(folder)?;
    let key = SecretKey::load_or_create(folder.join("secret.key"))?;
    let store = SqliteStore::open(folder.join("astraforge.db"), key).await?;
    Ok((Arc::new(store), Arc::new(FolderArtifacts::new(folder.join("files")))))
}
