//! `cargo xtask demo`: an agent fixes a bug in a sandbox, from prompt to merge request, before your eyes.

use std::{
    fs,
    io::{BufRead, BufReader, IsTerminal},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use self::backend::Backend;
pub(crate) use self::interruption::Interruption;
use crate::{codex, guest, process, workspace::Workspace};

mod backend;
mod fresh_sandbox;
mod interruption;
mod timings;

/// What the agent is asked.
const PROMPT: &str = "A test of this repository fails. Find the bug and fix it, so that all tests pass.";
/// How its tests are run.
const TEST: &str = "node --test";

/// How the demonstration is to go.
#[derive(Debug, Args)]
pub(crate) struct DemoArguments {
    /// Approve the change without asking
    #[arg(long, short)]
    yes: bool,
    /// Print a summary as one JSON object on the last line
    #[arg(long)]
    json: bool,
    /// Leave the server running, and say where
    #[arg(long)]
    keep: bool,
}

/// Shows everything once. Succeeds only if every step was seen to work.
pub(crate) fn run(workspace: &Workspace, arguments: &DemoArguments) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    check_programs()?;
    step("Building AstraForge");
    let guest = guest::build(workspace)?;
    process::run(&mut workspace.cargo(["build", "--locked", "--package", "astraforge"]))?;
    step("Installing the Codex CLI below the target folder");
    let codex = codex::install(workspace)?;
    let prepared = began.elapsed();

    let interruption = Interruption::listen()?;
    let mut scratch = Scratch::new(workspace)?;
    let backend = Backend::prepare(workspace, &scratch.folder, &guest, &codex)?;
    let repository = make_repository(workspace, &scratch)?;
    step("Starting the server: astraforge up");
    // Declared after `scratch` and the backend: it ends first.
    let server = Server::start(workspace, &scratch, &guest, &codex, &backend)?;
    println!("{} (data in {})", server.url, scratch.folder.display());

    step("Asking the agent: astraforge run");
    server.ask(workspace, arguments, &interruption)?;

    step("Testing the published branch in a fresh sandbox");
    let outcome = Outcome::read(&server)?;
    outcome.check(&repository)?;
    let tested = Instant::now();
    let test_passed = fresh_sandbox::passes(&scratch, &guest, &repository.bare, &outcome.commit(), TEST)?;
    ensure!(test_passed, "the tests do not pass on the published branch");
    interruption.check()?;
    println!("`{TEST}` passes on branch {} at {}", outcome.branch(), outcome.commit());

    let timings = timings::of(&outcome.request, prepared, tested.elapsed());
    if arguments.keep {
        keep(&mut scratch, server, &repository);
    }
    if arguments.json {
        println!("{}", outcome.summary(test_passed, &timings));
    } else {
        timings::print(&timings);
    }
    Ok(ExitCode::SUCCESS)
}

fn step(text: &str) {
    let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    if colours { println!("\n\x1b[1;36m▶ {text}\x1b[0m") } else { println!("\n▶ {text}") }
}

/// Looks for what the demonstration may not install by itself.
fn check_programs() -> anyhow::Result<()> {
    for (program, remedy) in
        [("git", "apt-get install git"), ("npm", "apt-get install npm"), ("node", "apt-get install nodejs")]
    {
        ensure!(process::is_installed(program), "the demonstration needs {program}; install it with: {remedy}");
    }
    Ok(())
}

/// A folder for one demonstration.
pub(crate) struct Scratch {
    folder: PathBuf,
    keep: bool,
}

impl Scratch {
    fn new(workspace: &Workspace) -> anyhow::Result<Self> {
        let folder = workspace.target.join("demo").join(std::process::id().to_string());
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self { folder, keep: false })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.keep {
            // What cannot be removed lies below the target folder.
            _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// The repository that the agent works on.
struct Repository {
    bare: PathBuf,
    base: String,
}

/// Makes a repository with a failing test, as a person would: commit, and push to a bare one.
fn make_repository(workspace: &Workspace, scratch: &Scratch) -> anyhow::Result<Repository> {
    step("Making a repository with a failing test");
    let clone = scratch.folder.join("clone");
    copy(&workspace.root.join("xtask/demo/repository"), &clone)?;
    let bare = scratch.folder.join("repositories/demo.git");
    let at = |folder: &Path, words: &[&str]| {
        let mut git = git();
        git.arg("-C").arg(folder).args(words);
        process::read(&mut git)
    };
    fs::create_dir_all(&bare)?;
    at(&bare, &["init", "--quiet", "--bare", "--initial-branch=main"])?;
    at(&clone, &["init", "--quiet", "--initial-branch=main"])?;
    at(&clone, &["add", "--all"])?;
    at(&clone, &["commit", "--quiet", "--message", "Read and write durations"])?;
    at(&clone, &["push", "--quiet", &bare.to_string_lossy(), "main"])?;
    let base = at(&bare, &["rev-parse", "main"])?.trim().to_owned();
    println!("{} (main is {base})", bare.display());
    Ok(Repository { bare, base })
}

/// Git as on a machine where nobody has set it up.
fn git() -> Command {
    let mut git = Command::new("git");
    git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    for (who, name) in [("AUTHOR", "Ada"), ("COMMITTER", "Ada")] {
        git.env(format!("GIT_{who}_NAME"), name).env(format!("GIT_{who}_EMAIL"), "ada@example.com");
    }
    git
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?
        } else {
            fs::copy(entry.path(), target).map(drop)?
        }
    }
    Ok(())
}

/// The server of the demonstration; it ends with this value unless it is kept.
struct Server {
    child: Child,
    keep: bool,
    url: String,
    api_key: String,
    program: PathBuf,
    data: PathBuf,
}

impl Server {
    fn start(
        workspace: &Workspace,
        scratch: &Scratch,
        guest: &Path,
        codex: &Path,
        backend: &Backend,
    ) -> anyhow::Result<Self> {
        #[derive(Deserialize)]
        struct Greeting {
            url: String,
            api_key: String,
        }
        let program = workspace.target.join("debug/astraforge");
        let data = scratch.folder.join("data");
        let mut command = Command::new(&program);
        command.args(["up", "--json", "--listen", "127.0.0.1:0"]);
        command.arg("--data").arg(&data).arg("--repositories").arg(scratch.folder.join("repositories"));
        command.arg("--guest").arg(guest).arg("--codex").arg(codex);
        command.arg("--scenario").arg(workspace.root.join("xtask/demo/scenario.json"));
        // Settings of the person who looks on must not change what is shown.
        for variable in
            ["DATABASE_URL", "OPENAI_API_KEY", "MODEL_UPSTREAM", "EXECUTOR", "ASTRAFORGE_SERVER", "ASTRAFORGE_POLICIES"]
        {
            command.env_remove(variable);
        }
        backend.configure(&mut command);
        let log = fs::File::create(scratch.folder.join("server.log"))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        let mut line = String::new();
        let output = child.stdout.take().context("the server has no output")?;
        BufReader::new(output).read_line(&mut line)?;
        let Ok(Greeting { url, api_key }) = serde_json::from_str(&line) else {
            _ = child.kill();
            _ = child.wait();
            let log = fs::read_to_string(scratch.folder.join("server.log")).unwrap_or_default();
            bail!("the server did not start:\n{log}");
        };
        Ok(Self { child, keep: false, url, api_key, program, data })
    }

    /// The command line, talking to this server.
    fn astraforge(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--data").arg(&self.data);
        command.env("ASTRAFORGE_SERVER", &self.url).env("ASTRAFORGE_API_KEY", &self.api_key);
        command
    }

    /// Lets the agent work, live on the terminal.
    fn ask(&self, workspace: &Workspace, arguments: &DemoArguments, interruption: &Interruption) -> anyhow::Result<()> {
        let mut command = self.astraforge();
        command.args(["run", "--repo", "demo", "--test", TEST]).current_dir(&workspace.root);
        if arguments.yes {
            command.arg("--yes");
        }
        command.args(["--", PROMPT]);
        let status = interruption.run(&mut command)?;
        process::ensure_success(&command, status)
    }

    /// What a subcommand prints as JSON.
    fn json(&self, words: &[&str]) -> anyhow::Result<Value> {
        let text = process::read(self.astraforge().arg("--json").args(words))?;
        serde_json::from_str(&text).with_context(|| format!("`astraforge {}` printed no JSON", words.join(" ")))
    }
}

impl Drop for Server {
    /// Asks the server to stop, as Ctrl-C would.
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        let pid = self.child.id().to_string();
        _ = Command::new("kill").args(["-TERM", &pid]).status();
        let patience = Instant::now() + Duration::from_secs(20);
        while Instant::now() < patience && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        // It has ended, or its patience has; either way nothing more can be done about it here.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// What the server says came of it.
struct Outcome {
    request: Value,
    change: Value,
    merge_request: Value,
}

impl Outcome {
    fn read(server: &Server) -> anyhow::Result<Self> {
        let requests = server.json(&["requests"])?;
        let id = requests[0]["id"].as_str().context("there is no request")?.to_owned();
        let merge_request = server
            .json(&["mr", &id])
            .with_context(|| "the change was not approved; run `cargo xtask demo --yes`, or answer y")?;
        Ok(Self { request: server.json(&["requests", &id])?, change: server.json(&["diff", &id])?, merge_request })
    }

    fn branch(&self) -> String {
        self.merge_request["source_branch"].as_str().unwrap_or_default().to_owned()
    }

    fn commit(&self) -> String {
        self.merge_request["commit"].as_str().unwrap_or_default().to_owned()
    }

    fn run(&self) -> &Value {
        &self.request["metadata"]["runs"][0]
    }

    /// Compares what the server says with what is in the repository.
    fn check(&self, repository: &Repository) -> anyhow::Result<()> {
        let state = &self.request["state"];
        ensure!(state == "REVIEWED", "the request is {state}, not REVIEWED");
        ensure!(!self.merge_request["review"].is_null(), "the merge request has no review");
        let rev_parse = |branch: &str| {
            let mut git = git();
            git.arg("-C").arg(&repository.bare).args(["rev-parse", "--verify", &format!("refs/heads/{branch}")]);
            process::read(&mut git).map(|text| text.trim().to_owned())
        };
        let published = rev_parse(&self.branch())?;
        ensure!(published == self.commit(), "branch {} is {published}, not the approved commit", self.branch());
        ensure!(
            self.change["head_commit"] == self.merge_request["commit"],
            "another commit was published than approved"
        );
        ensure!(rev_parse("main")? == repository.base, "main has moved");
        let files = self.change["files"].as_array().map_or(0, Vec::len);
        ensure!(files > 0, "the change is empty");
        Ok(())
    }

    /// The summary of `--json`.
    fn summary(&self, test_passed: bool, timings: &Value) -> Value {
        let merge_request = &self.merge_request;
        json!({
            "request_id": self.request["id"],
            "run_id": self.run()["id"],
            "state": self.request["state"],
            "digest": self.change["digest"],
            "merge_request": {
                "id": merge_request["id"],
                "url": merge_request["url"],
                "branch": merge_request["source_branch"],
                "commit": merge_request["commit"],
            },
            "review": merge_request["review"],
            "test_passed": test_passed,
            "timings_ms": timings,
        })
    }
}

/// Lets the server go on, and says how to go on with it.
fn keep(scratch: &mut Scratch, mut server: Server, repository: &Repository) {
    server.keep = true;
    scratch.keep = true;
    step("The server goes on");
    println!("address     {}", server.url);
    println!("API key     {}", server.api_key);
    println!("repository  {}", repository.bare.display());
    println!("look        {} --data {} requests", server.program.display(), server.data.display());
    println!("stop it     kill {}", server.child.id());
    println!("data        {} (remove it yourself)", scratch.folder.display());
}
