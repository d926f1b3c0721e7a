//! `sandbox`: isolated machines that keep their files, from the command line.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use astraforge_core::{
    access::Caller,
    archive::{TreeChange, TreeChangeKind},
    control_plane::{ControlPlane, NewSandbox, NewSnapshot},
    files::{DownloadRequest, Existing, UploadRequest},
    id::{SandboxId, SnapshotId},
    ports::sessions::SessionError,
    sandbox::{Lifetime, Sandbox, SandboxStatus, Snapshot},
    session::{ByteSize, Command, ExecEvent, Limit, Limits, SandboxSpec, Workspace},
};
use futures::{StreamExt, TryStreamExt};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;

use crate::{
    cli::{ConnectionArgs, SandboxCommand},
    commands::print,
    connection::parse_id,
    data_folder,
    render::{Terminal, attention, bad, faint, good, harmless},
    sandbox_plane,
};

/// How often a command that runs says that somebody is there.
const HEARTBEAT: Duration = Duration::from_secs(20);

/// Carries out one of the subcommands; the exit code of `exec` is its command's.
pub(crate) async fn sandbox(args: &ConnectionArgs, command: &SandboxCommand) -> anyhow::Result<ExitCode> {
    if args.server.is_some() {
        bail!("sandboxes of another server cannot be reached yet; leave --server out to use those of --data");
    }
    let root = args.node.data_folder()?;
    data_folder::make_private(&root)?;
    let plane = sandbox_plane::open(&args.node, &root).await?;
    let desk = Desk { plane, caller: sandbox_plane::owner(), args };
    desk.plane.reap().await?;
    desk.carry_out(command).await
}

/// What every subcommand works with.
struct Desk<'a> {
    plane: ControlPlane,
    caller: Caller,
    args: &'a ConnectionArgs,
}

impl Desk<'_> {
    async fn carry_out(&self, command: &SandboxCommand) -> anyhow::Result<ExitCode> {
        match command {
            SandboxCommand::Create { size, memory, idle, lifetime, restore } => {
                let lifetime = Lifetime::new(Duration::from_secs(*idle), Duration::from_secs(*lifetime))?;
                let restore = restore.as_deref().map(snapshot_id).transpose()?;
                self.create(*size, *memory, lifetime, restore).await?;
            }
            SandboxCommand::Ls => self.list().await?,
            SandboxCommand::Exec { id, cwd, timeout, command } => {
                return self.exec(sandbox_id(id)?, cwd, *timeout, command).await;
            }
            SandboxCommand::Cp { from, to } => self.copy(from, to).await?,
            SandboxCommand::Snapshot { id, label, exclude } => {
                let new = NewSnapshot {
                    label: label.clone().unwrap_or_default(),
                    exclude: exclude.clone(),
                    ..NewSnapshot::default()
                };
                let snapshot = self.plane.snapshot(&self.caller, sandbox_id(id)?, new).await?;
                print(self.args, &shown_snapshot(&snapshot), |terminal, _| {
                    terminal.line(snapshot_row(terminal, &snapshot))
                })?;
            }
            SandboxCommand::Snapshots { id } => {
                let snapshots = self.plane.snapshots(&self.caller, sandbox_id(id)?).await?;
                let values: Vec<_> = snapshots.iter().map(shown_snapshot).collect();
                print(self.args, &values, |terminal, _| {
                    snapshots.iter().for_each(|it| terminal.line(snapshot_row(terminal, it)));
                })?;
            }
            SandboxCommand::Restore { id, snapshot } => {
                let (id, snapshot) = (sandbox_id(id)?, snapshot_id(snapshot)?);
                self.plane.restore(&self.caller, id, snapshot).await?;
                self.say(&json!({ "restored": snapshot }), "The files are those of the snapshot.")?;
            }
            SandboxCommand::Fork { id } => {
                let fork = self.plane.fork(&self.caller, sandbox_id(id)?).await?;
                self.show(&fork)?;
            }
            SandboxCommand::Diff { id, snapshot } => self.diff(sandbox_id(id)?, snapshot.as_deref()).await?,
            SandboxCommand::Stop { id } => {
                let id = sandbox_id(id)?;
                self.plane.stop(&self.caller, id).await?;
                self.say(&json!({ "stopped": id }), "Stopped. It comes back with its files when it is used.")?;
            }
            SandboxCommand::Rm { id } => {
                let id = sandbox_id(id)?;
                self.plane.delete(&self.caller, id).await?;
                self.say(&json!({ "deleted": id }), "Deleted.")?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    fn say(&self, value: &serde_json::Value, text: &str) -> anyhow::Result<()> {
        print(self.args, value, |terminal, _| terminal.line(text))
    }

    fn show(&self, sandbox: &Sandbox) -> anyhow::Result<()> {
        print(self.args, &shown(sandbox), |terminal, _| {
            terminal.line(sandbox.id);
            terminal.note(
                terminal.paint(format!("next: astraforge sandbox exec {} -- sh -c 'uname -a'", sandbox.id), faint()),
            );
        })
    }

    async fn create(
        &self,
        size: ByteSize,
        memory: ByteSize,
        lifetime: Lifetime,
        restore: Option<SnapshotId>,
    ) -> anyhow::Result<()> {
        let limits = Limits { memory: Limit::best_effort(memory), ..Limits::default() };
        let spec = SandboxSpec::default()
            .with_workspace(Workspace::Disk { size: Limit::best_effort(size) })
            .with_limits(limits)
            // No server need be there all the time: the reaper ends it, and this only if nobody ever comes back.
            .with_orphan_timeout(lifetime.max());
        let new = NewSandbox { spec, lifetime, restore, ..NewSandbox::default() };
        self.show(&self.plane.create(&self.caller, new).await?.sandbox)
    }

    async fn list(&self) -> anyhow::Result<()> {
        let sandboxes = self.plane.list(&self.caller).await?;
        let values: Vec<_> = sandboxes.iter().map(shown).collect();
        print(self.args, &values, |terminal, _| {
            if sandboxes.is_empty() {
                terminal.line("No sandboxes yet. Make one with: astraforge sandbox create");
            }
            sandboxes.iter().for_each(|it| terminal.line(row(terminal, it)));
        })
    }

    async fn exec(&self, id: SandboxId, cwd: &str, timeout: Option<u64>, argv: &[String]) -> anyhow::Result<ExitCode> {
        let machine = self.plane.machine(&self.caller, id).await?;
        let mut command = Command::new(argv.iter().cloned()).with_cwd(cwd).with_open_stdin();
        if let Some(seconds) = timeout {
            command = command.with_timeout(Duration::from_secs(seconds));
        }
        let mut execution = machine.exec(command).await?;
        let control = execution.control.clone();
        let feed = tokio::spawn(async move {
            let (mut stdin, mut buffer) = (tokio::io::stdin(), vec![0; 64 * 1024]);
            while let Ok(n_bytes @ 1..) = stdin.read(&mut buffer).await {
                if control.write_stdin(buffer[..n_bytes].to_vec().into()).await.is_err() {
                    return;
                }
            }
            drop(control.close_stdin().await);
        });
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        let exit = loop {
            tokio::select! {
                event = execution.events.next() => match event.context("the sandbox is gone")?? {
                    ExecEvent::Stdout(bytes) => pass(&mut std::io::stdout(), &bytes)?,
                    ExecEvent::Stderr(bytes) => pass(&mut std::io::stderr(), &bytes)?,
                    ExecEvent::Lost(_) => {}
                    ExecEvent::Exited(exit) => break exit,
                },
                _ = heartbeat.tick() => drop(self.plane.heartbeat(&self.caller, id).await?),
            }
        };
        feed.abort();
        // A thread may still wait for standard input, which nobody can take from it.
        std::process::exit(exit.code())
    }

    async fn copy(&self, from: &str, to: &str) -> anyhow::Result<()> {
        match (place(from), place(to)) {
            (Place::Here(from), Place::There(id, to)) => self.upload(&from, id, &to).await,
            (Place::There(id, from), Place::Here(to)) => self.download(id, &from, &to).await,
            _ => bail!("one of the two is a path here, the other SANDBOX:PATH, such as 0190…:/workspace/report.txt"),
        }
    }

    async fn upload(&self, from: &Path, id: SandboxId, to: &str) -> anyhow::Result<()> {
        let meta = std::fs::metadata(from).with_context(|| format!("cannot read {}", from.display()))?;
        if !meta.is_file() {
            bail!(
                "{} is not a file; pack a folder first: tar -cf - FOLDER | astraforge sandbox exec ID -- tar -x",
                from.display()
            );
        }
        let machine = self.plane.machine(&self.caller, id).await?;
        let file = tokio::fs::File::open(from).await?;
        let bar = bar(meta.len());
        let seen = bar.clone();
        let contents = ReaderStream::with_capacity(file, 256 * 1024)
            .inspect_ok(move |bytes| seen.inc(bytes.len() as u64))
            .map_err(|error| SessionError::Backend { operation: "read the file", source: error.into() });
        let mode = std::os::unix::fs::MetadataExt::mode(&meta);
        let roots = self.plane.get(&self.caller, id).await?.spec.roots;
        let request = UploadRequest { roots, path: to.to_owned(), mode, existing: Existing::Replace };
        let n_bytes = machine.upload(request, contents.boxed()).await?;
        bar.finish_and_clear();
        self.say(&json!({ "path": to, "bytes": n_bytes }), &format!("{n_bytes} bytes to {to}"))
    }

    async fn download(&self, id: SandboxId, from: &str, to: &Path) -> anyhow::Result<()> {
        let machine = self.plane.machine(&self.caller, id).await?;
        let roots = self.plane.get(&self.caller, id).await?.spec.roots;
        let request = DownloadRequest { roots, path: from.to_owned(), offset: 0, limit: None };
        let mut contents = machine.download(request).await?;
        let to = if to.is_dir() { to.join(from.rsplit('/').next().unwrap_or("download")) } else { to.to_owned() };
        let folder = to.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let draft = folder.join(format!(".{}.part", std::process::id()));
        let bar = bar(0);
        let write = async {
            let mut file =
                std::fs::File::create(&draft).with_context(|| format!("cannot write into {}", folder.display()))?;
            let mut n_bytes = 0;
            while let Some(bytes) = contents.try_next().await? {
                file.write_all(&bytes)?;
                n_bytes += bytes.len();
                bar.inc(bytes.len() as u64);
            }
            std::fs::rename(&draft, &to)?;
            anyhow::Ok(n_bytes)
        };
        let written = write.await;
        bar.finish_and_clear();
        if written.is_err() {
            _ = std::fs::remove_file(&draft);
        }
        let n_bytes = written?;
        let text = format!("{n_bytes} bytes to {}", to.display());
        self.say(&json!({ "path": to.display().to_string(), "bytes": n_bytes }), &text)
    }

    async fn diff(&self, id: SandboxId, snapshot: Option<&str>) -> anyhow::Result<()> {
        let snapshot = match snapshot {
            Some(snapshot) => snapshot_id(snapshot)?,
            None => {
                let latest = self.plane.get(&self.caller, id).await?.latest_snapshot;
                latest.context("this sandbox has no snapshot yet; make one with: astraforge sandbox snapshot")?
            }
        };
        let comparison = self.plane.diff(&self.caller, id, snapshot, 10_000).await?;
        print(self.args, &comparison, |terminal, comparison| {
            comparison.changes.iter().for_each(|change| terminal.line(changed(terminal, change)));
            if comparison.truncated {
                terminal.note("and more");
            }
        })
    }
}

fn sandbox_id(text: &str) -> anyhow::Result<SandboxId> {
    parse_id(text, "astraforge sandbox ls")
}

fn snapshot_id(text: &str) -> anyhow::Result<SnapshotId> {
    parse_id(text, "astraforge sandbox snapshots SANDBOX")
}

fn pass(to: &mut impl Write, bytes: &[u8]) -> anyhow::Result<()> {
    to.write_all(bytes)?;
    Ok(to.flush()?)
}

/// One side of a copy.
enum Place {
    Here(PathBuf),
    There(SandboxId, String),
}

fn place(text: &str) -> Place {
    match text.split_once(':').and_then(|(id, path)| Some((id.parse().ok()?, path))) {
        Some((id, path)) => Place::There(id, path.to_owned()),
        None => Place::Here(text.into()),
    }
}

fn bar(n_bytes: u64) -> ProgressBar {
    let bar = if n_bytes > 0 { ProgressBar::new(n_bytes) } else { ProgressBar::new_spinner() };
    let style = ProgressStyle::with_template("{spinner} {bytes} of {total_bytes}, {bytes_per_sec}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn shown(sandbox: &Sandbox) -> serde_json::Value {
    json!({
        "id": sandbox.id, "mode": sandbox.mode, "status": sandbox.status.as_str(), "ref": sandbox.reference(),
        "created_at": sandbox.created_at, "expires_at": sandbox.expires_at(), "error_message": sandbox.error_message,
        "terminated_reason": sandbox.termination.map(astraforge_core::sandbox::Termination::as_str),
        "latest_snapshot_id": sandbox.latest_snapshot,
        "idle_timeout_sec": sandbox.lifetime.idle().as_secs(), "max_lifetime_sec": sandbox.lifetime.max().as_secs(),
    })
}

fn row(terminal: Terminal, sandbox: &Sandbox) -> String {
    let style = match sandbox.status {
        SandboxStatus::Ready => good(),
        SandboxStatus::Failed => bad(),
        SandboxStatus::Starting | SandboxStatus::Terminated => attention(),
    };
    let why = sandbox.termination.map_or("", astraforge_core::sandbox::Termination::as_str);
    let status = terminal.paint(format!("{:<10}", sandbox.status.as_str()), style);
    let made = terminal.paint(sandbox.created_at.format("%Y-%m-%d %H:%M"), faint());
    format!("{}  {status}  {made}  {:<6}  {why}  {}", sandbox.id, sandbox.mode, harmless(&sandbox.error_message))
        .trim_end()
        .to_owned()
}

fn shown_snapshot(snapshot: &Snapshot) -> serde_json::Value {
    json!({
        "id": snapshot.id, "sandbox": snapshot.sandbox, "label": snapshot.label, "size_bytes": snapshot.size,
        "sha256": snapshot.sha256, "include_paths": snapshot.include, "exclude_paths": snapshot.exclude,
        "created_at": snapshot.created_at,
    })
}

fn snapshot_row(terminal: Terminal, snapshot: &Snapshot) -> String {
    let made = terminal.paint(snapshot.created_at.format("%Y-%m-%d %H:%M"), faint());
    format!("{}  {made}  {:>12}  {}", snapshot.id, format!("{} B", snapshot.size), harmless(&snapshot.label))
        .trim_end()
        .to_owned()
}

fn changed(terminal: Terminal, change: &TreeChange) -> String {
    let (mark, style) = match change.change {
        TreeChangeKind::Added => ("A", good()),
        TreeChangeKind::Modified => ("M", attention()),
        TreeChangeKind::Removed => ("D", bad()),
    };
    format!("{}  {}", terminal.paint(mark, style), harmless(&change.path))
}
