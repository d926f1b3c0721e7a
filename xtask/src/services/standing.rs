//! Services that stay up after the command that started them, until they are taken down.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail};

use crate::workspace::Workspace;

/// Where the process that holds them notes itself, and what it printed.
struct Note {
    pid: PathBuf,
    log: PathBuf,
}

impl Note {
    fn of(workspace: &Workspace) -> anyhow::Result<Self> {
        let folder = workspace.target.join("services");
        fs::create_dir_all(&folder)?;
        Ok(Self { pid: folder.join("pid"), log: folder.join("log") })
    }

    /// The process, if it still runs and is what it was.
    fn holder(&self) -> Option<u32> {
        let pid = fs::read_to_string(&self.pid).ok()?.trim().parse().ok()?;
        let line = fs::read(Path::new("/proc").join(format!("{pid}/cmdline"))).ok()?;
        let mut words = line.split(|byte| *byte == 0);
        words.any(|word| word == b"services").then_some(pid)
    }

    /// The line that has the variables, once they are up.
    fn variables(&self) -> Option<String> {
        let log = fs::read_to_string(&self.log).ok()?;
        log.lines().find(|line| line.starts_with("export ")).map(str::to_owned)
    }
}

/// Starts the services, unless they are up, and prints how to reach them.
pub(super) fn up(workspace: &Workspace) -> anyhow::Result<()> {
    let note = Note::of(workspace)?;
    if note.holder().is_none() {
        let log = File::create(&note.log)?;
        let mut holder = Command::new("setsid");
        holder.arg(std::env::current_exe()?).arg("services").current_dir(&workspace.root);
        holder.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut holder = holder.spawn().context("cannot start setsid")?;
        fs::write(&note.pid, holder.id().to_string())?;
        while note.variables().is_none() {
            if holder.try_wait()?.is_some() {
                bail!("they did not start:\n{}", fs::read_to_string(&note.log)?);
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
    println!("{}", note.variables().context("they are starting; ask again in a moment")?);
    Ok(())
}

/// Ends the services that [`up`] started.
pub(super) fn down(workspace: &Workspace) -> anyhow::Result<()> {
    let note = Note::of(workspace)?;
    let Some(pid) = note.holder() else {
        println!("no services are up");
        return Ok(());
    };
    crate::process::run(Command::new("kill").args(["-TERM", &pid.to_string()]))?;
    for _ in 0..600 {
        if note.holder().is_none() {
            fs::remove_file(&note.pid)?;
            println!("the services are down");
            return Ok(());
        }
        thread::sleep(Duration::from_millis(100));
    }
    bail!("process {pid}, which holds the services, did not end within a minute");
}
