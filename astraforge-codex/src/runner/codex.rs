//! The Codex CLI as the agent of a run.

use astraforge_core::{
    ports::{
        executor::{Assignment, Thread},
        guest_service::ServiceBinding,
    },
    run::{FailureCause, RunFailure},
    session::{Command, Exit, SandboxSpec},
};
use async_trait::async_trait;
use bytes::Bytes;

use super::{
    Agent, Answer, HOME, WORKSPACE,
    bench::{Bench, Output},
    config::{Catalogue, Config, PROXY_PORT, PROXY_URL, TOKEN_VARIABLE},
    events::{Transcript, is_thread_id},
    program::{self, CodexProgram, FOLDER},
};
use crate::proxy::LlmProxy;

/// The largest conversation that is kept, in bytes.
const LARGEST_ROLLOUT: u64 = 64 * 1024 * 1024;
/// The longest answer that is kept, in bytes.
const LONGEST_ANSWER: u64 = 1024 * 1024;

/// Codex, with what it needs to think.
#[derive(Debug)]
pub(super) struct Codex {
    pub(super) proxy: LlmProxy,
    pub(super) program: CodexProgram,
    pub(super) model: String,
    pub(super) instructions: String,
}

#[async_trait]
impl Agent for Codex {
    fn outfit(&self, assignment: &Assignment, spec: SandboxSpec) -> (SandboxSpec, Vec<ServiceBinding>) {
        let proxy = ServiceBinding { port: PROXY_PORT, service: self.proxy.guest_service(assignment.run) };
        let spec = match self.program.shown() {
            Some(folder) => spec.with_folder(folder, FOLDER),
            None => spec,
        };
        (spec, vec![proxy])
    }

    async fn check(&self, bench: &Bench) -> Result<(), RunFailure> {
        let printed = bench.run(Command::new([self.path().as_str(), "--version"]).with_cwd("/"), Output::Kept).await?;
        if !printed.exit.success() {
            let message = format!("The Codex CLI does not start in the sandbox ({}): {}", printed.exit, printed.tail);
            return Err(RunFailure::new(FailureCause::MissingProgram, message));
        }
        if let Some(doubt) = program::doubt(program::version(&printed.text())) {
            bench.log.status("codex", doubt).await;
        }
        Ok(())
    }

    async fn work(&self, bench: &Bench, assignment: &Assignment, prompt: &str) -> Result<Answer, RunFailure> {
        let home = Home::default();
        self.configure(bench, assignment, &home).await?;
        let resumed = restore(bench, assignment, &home).await?;
        let token = self.proxy.tokens().mint(assignment.run, assignment.tenant.clone());
        let token = token.map_err(|error| RunFailure::new(FailureCause::Internal, error.to_string()))?;
        let _known = bench.log.redactor().learn(token.secret().clone());

        bench.log.status("proxy", format!("LLM proxy available at {PROXY_URL}")).await;
        bench.log.status("codex", "Starting Codex CLI session").await;
        let command = command(&self.path(), &home, resumed, prompt, token.secret().reveal(), assignment);
        let mut transcript = Transcript::new();
        let exit = bench.drive(command, &mut transcript).await?;
        bench.log.status("codex", spent(token.usage())).await;

        let said = bench.read(&home.answer, LONGEST_ANSWER).await?;
        let answer = judge(exit, &transcript, said)?;
        bench.log.status("codex", "Captured final Codex response").await;
        let thread = conversation(bench, &transcript, &home).await?;
        Ok(Answer { final_message: Some(answer), thread, exit_code: Some(exit.code()) })
    }
}

/// Where Codex keeps its own files: outside of the workspace, so that none ends in the change.
struct Home {
    folder: String,
    answer: String,
}

impl Default for Home {
    fn default() -> Self {
        let folder = format!("{HOME}/.codex");
        Self { answer: format!("{folder}/last-message.txt"), folder }
    }
}

impl Codex {
    /// The program, as a workspace sees it.
    fn path(&self) -> String {
        format!("{FOLDER}/{}", self.program.program())
    }

    async fn configure(&self, bench: &Bench, assignment: &Assignment, home: &Home) -> Result<(), RunFailure> {
        let unwritable =
            |error: String| RunFailure::new(FailureCause::Internal, format!("Codex could not be configured: {error}"));
        let catalogue = format!("{}/models.json", home.folder);
        let config = Config::new(&self.model, PROXY_URL, &catalogue, &assignment.environment.env);
        let config = config.to_toml().map_err(|error| unwritable(error.to_string()))?;
        let models =
            Catalogue::of(&self.model, &self.instructions).to_json().map_err(|error| unwritable(error.to_string()))?;
        bench.write(&format!("{}/config.toml", home.folder), config, 0o600).await?;
        bench.write(&catalogue, models, 0o600).await
    }
}

/// Puts the conversation so far where Codex finds it; returns its id.
async fn restore<'a>(bench: &Bench, assignment: &'a Assignment, home: &Home) -> Result<Option<&'a str>, RunFailure> {
    let Some(Thread { id, rollout }) = &assignment.resume else { return Ok(None) };
    if !is_thread_id(id) || rollout.is_empty() {
        bench.log.status("workspace", "The earlier conversation can't be gone on with; a new one begins").await;
        return Ok(None);
    }
    // Codex finds it by the id in its name, whatever the date.
    let path = format!("{}/sessions/1970/01/01/rollout-1970-01-01T00-00-00-{id}.jsonl", home.folder);
    bench.write(&path, rollout.clone(), 0o600).await?;
    bench.log.status("workspace", "Restored Codex history from previous run").await;
    Ok(Some(id))
}

fn command(
    program: &str,
    home: &Home,
    resumed: Option<&str>,
    prompt: &str,
    token: &str,
    assignment: &Assignment,
) -> Command {
    let mut argv = vec![
        program,
        "exec",
        "--json",
        "-C",
        WORKSPACE,
        "--dangerously-bypass-approvals-and-sandbox",
        "--skip-git-repo-check",
        "-o",
        &home.answer,
    ];
    if let Some(id) = resumed {
        argv.extend(["resume", id]);
    }
    // The prompt comes on standard input: it may be longer than an argument, and begin with a hyphen.
    argv.push("-");
    let command = assignment
        .environment
        .env
        .iter()
        .fold(Command::new(argv), |command, (name, value)| command.with_env(name, value));
    command
        .with_env("CODEX_HOME", &home.folder)
        .with_env(TOKEN_VARIABLE, token)
        // A proxy of the environment would be asked for the LLM proxy too.
        .with_env("NO_PROXY", "127.0.0.1,127.0.0.2,localhost")
        .with_env("no_proxy", "127.0.0.1,127.0.0.2,localhost")
        .with_stdin(prompt.to_owned())
}

fn spent(usage: astraforge_core::run::Usage) -> String {
    format!("Used {} model calls, {} tokens read and {} written", usage.calls, usage.input_tokens, usage.output_tokens)
}

/// Decides whether a run of Codex came to something. Exit code 0 alone says little: a turn ended.
fn judge(exit: Exit, transcript: &Transcript, said: Option<Bytes>) -> Result<String, RunFailure> {
    if let Some(failure) = transcript.failure() {
        return Err(failure);
    }
    match exit {
        Exit::Exited { code: 0 } => {}
        Exit::OutOfMemory => {
            return Err(RunFailure::new(
                FailureCause::Agent,
                "The sandbox ran out of memory while Codex was at work; give sandboxes more, or ask for less at once.",
            ));
        }
        exit => {
            let message = format!(
                "Codex ended without a result ({exit}). The end of what it wrote:\n{}",
                transcript.stderr_tail()
            );
            return Err(RunFailure::new(FailureCause::Agent, message));
        }
    }
    let said = said.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()).filter(|text| !text.is_empty());
    match said.or_else(|| transcript.last_message().map(str::to_owned)) {
        Some(answer) => Ok(answer),
        None => {
            let how = if transcript.completed() { "ended its turn" } else { "ended" };
            let message = format!(
                "Codex {how} without an answer: the model said nothing, or refused. Say the request in other words, or try another model."
            );
            Err(RunFailure::new(FailureCause::NoAnswer, message))
        }
    }
}

/// Reads the conversation back, to go on with it later. Without it the run is good all the same.
async fn conversation(bench: &Bench, transcript: &Transcript, home: &Home) -> Result<Option<Thread>, RunFailure> {
    let Some(id) = transcript.thread() else { return Ok(None) };
    let sessions = format!("{}/sessions", home.folder);
    let find = Command::new(["find", &sessions, "-type", "f", "-name", &format!("rollout-*-{id}.jsonl")]).with_cwd("/");
    let found = bench.run(find, Output::Kept).await?.text();
    let rollout = match found.lines().find(|path| path.starts_with(&sessions)) {
        Some(path) => bench.read(path, LARGEST_ROLLOUT).await?,
        None => None,
    };
    if rollout.is_none() {
        bench.log.status("codex", "The conversation could not be kept; a follow-up will begin a new one").await;
    }
    Ok(rollout.map(|rollout| Thread { id: id.to_owned(), rollout }))
}
