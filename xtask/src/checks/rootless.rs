//! Runs the sandbox tests again as an ordinary user, when the first time was as root.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use serde::Deserialize;

use super::tally::Tally;
use super::{Context, Verdict, attack};
use crate::{guest, process};

/// The crate whose tests depend on who runs them.
const CRATE: &str = "astraforge-sandbox";
/// `nobody` and `nogroup` on every Linux distribution.
const NOBODY: u32 = 65_534;

/// Whether we are root.
pub(crate) fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let user = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    user.is_some_and(|ids| ids.split_whitespace().nth(1) == Some("0"))
}

/// Copies the test programs and the guest to where `nobody` can read them, and runs them there.
pub(crate) fn check(context: &Context<'_>, tally: &mut Tally) -> anyhow::Result<Verdict> {
    if !is_root() {
        return Ok(Verdict::PassedWith("the tests above already ran as an ordinary user".into()));
    }
    if !process::is_installed("setpriv") {
        return Ok(Verdict::Skipped("setpriv is missing: `apt-get install util-linux`".into()));
    }
    let programs = test_programs(context)?;
    ensure!(!programs.is_empty(), "{CRATE} has no test programs");
    let home = Home::create(context)?;
    let mut failed = Vec::new();
    for program in &programs {
        let mut command = home.command(program)?;
        println!("{}", process::line(&command));
        let (status, output) = process::run_and_read(&mut command)?;
        *tally += Tally::of_libtest(&output);
        if !status.success() {
            failed.push(format!("{} ({status})", program.display()));
        }
    }
    ensure!(failed.is_empty(), "failed as an ordinary user: {}", failed.join(", "));
    Ok(Verdict::Passed)
}

/// The crate's test programs, built with the very flags of the `tests` stage, so nothing is compiled again.
fn test_programs(context: &Context<'_>) -> anyhow::Result<Vec<PathBuf>> {
    #[derive(Deserialize)]
    struct Message {
        executable: Option<PathBuf>,
        manifest_path: Option<PathBuf>,
    }
    let arguments = ["test", "--workspace", "--locked", "--tests", "--no-run", "--quiet", "--message-format", "json"];
    let output = process::read(&mut context.workspace.cargo(arguments))?;
    let manifest = context.workspace.root.join(CRATE).join("Cargo.toml");
    let messages = output.lines().filter_map(|line| serde_json::from_str::<Message>(line).ok());
    Ok(messages
        .filter(|message| message.manifest_path.as_ref() == Some(&manifest))
        .filter_map(|message| message.executable)
        .collect())
}

/// A scratch folder that looks like the target folder and belongs to `nobody`; dropped, it is gone.
#[derive(Debug)]
pub(super) struct Home {
    root: PathBuf,
}

impl Home {
    pub(super) fn create(context: &Context<'_>) -> anyhow::Result<Self> {
        let root = std::env::temp_dir().join(format!("astraforge-rootless-{}", std::process::id()));
        let home = Self { root };
        for folder in ["", "debug", "debug/deps", "guest", "tmp"] {
            let path = home.root.join(folder);
            fs::create_dir(&path).with_context(|| format!("could not create {}", path.display()))?;
            chown(&path, Some(NOBODY), Some(NOBODY))?;
        }
        fs::set_permissions(&home.root, fs::Permissions::from_mode(0o755))?;
        fs::copy(context.workspace.guest(), home.guest()).context("the guest is not built")?;
        let attacker = |guest: PathBuf| guest.with_file_name("astraforge-attacker");
        fs::copy(attacker(context.workspace.guest()), attacker(home.guest())).context("the attacker is not built")?;
        // What tests read at run time. The checkout itself may be in a folder that only root may enter.
        for part in [CRATE, "fuzz/corpus"] {
            let copy = home.sources().join(part);
            fs::create_dir_all(&copy)?;
            process::run(Command::new("cp").arg("-r").arg(context.workspace.root.join(part).join(".")).arg(&copy))?;
        }
        Ok(home)
    }

    fn sources(&self) -> PathBuf {
        self.root.join("sources")
    }

    fn guest(&self) -> PathBuf {
        self.root.join("guest/astraforge-guest")
    }

    /// The command that runs a copy of `program` as `nobody`, with nothing of root's environment.
    pub(super) fn command(&self, program: &Path) -> anyhow::Result<Command> {
        let name = program.file_name().context("a test program has no name")?;
        let copy = self.root.join("debug/deps").join(name);
        fs::copy(program, &copy).with_context(|| format!("could not copy {}", program.display()))?;
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]).arg(copy);
        // As under cargo.
        let folder = self.sources().join(CRATE);
        command.current_dir(&folder).env_clear().env("CARGO_MANIFEST_DIR", &folder);
        command.env("INSTA_WORKSPACE_ROOT", self.sources()).env("INSTA_UPDATE", "no");
        command.env("HOME", &self.root).env("TMPDIR", self.root.join("tmp")).env("USER", "nobody");
        command.env(attack::VARIABLE, self.guest().with_file_name("astraforge-attacker"));
        command.env(guest::VARIABLE, self.guest()).env("PATH", std::env::var_os("PATH").unwrap_or_default());
        Ok(command)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.root) {
            println!("could not remove {}: {error}", self.root.display());
        }
    }
}
