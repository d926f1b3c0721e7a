//! `run`: lets the agent work on a repository, and decides on its change.

use std::{
    cell::Cell,
    io::{IsTerminal, Read, Write},
    path::Path,
};

use anyhow::{Context, bail};
use astraforge_core::{
    id::{RepositoryLinkId, RequestId},
    policy::Decision,
    request::{Prompt, RequestState},
};
use astraforge_http::{
    Client,
    wire::{
        change_set::ChangeSetView,
        merge_request::MergeRequestView,
        repository_link::{EnvironmentBody, NewRepositoryLink, RepositoryLinkPatch},
        request::NewRequest,
    },
};
use futures::StreamExt;
use serde_json::json;

use crate::{
    cli::{ConnectionArgs, RunArgs},
    commands::{
        diff,
        logs::print_event,
        merge_requests::{self, last_event, wait_for},
    },
    connection::Connection,
    data_folder,
    node::Queue,
    render::{Terminal, attention, faint, good, progress::Progress, strong},
    signals::Interrupted,
    user_clone::UserClone,
};

/// What a run came to.
enum Outcome {
    Nothing,
    Waiting(Box<ChangeSetView>),
    Published(Box<MergeRequestView>),
}

/// Runs a prompt on a repository.
pub(crate) async fn run(args: &ConnectionArgs, run: &RunArgs) -> anyhow::Result<()> {
    let prompt = read_prompt(&run.prompt)?;
    let repository = find_repository(args, run)?;
    let terminal = Terminal::detect();
    let submitted = Cell::new(None);
    let work = async |client: &Client| {
        let link = link(client, run, &repository).await?;
        let request = client.submit(&NewRequest::new(link, prompt)).await?.id;
        submitted.set(Some(request));
        if !args.json {
            terminal.line(terminal.paint(format!("request {request}"), faint()));
        }
        Ok((request, carry_on(client, args, run, request).await?))
    };
    let give_up = async |client: &Client| cancel_run(client, submitted.get()).await;
    let outcome = Connection::with_last_call(args, Queue::Work, work, give_up).await;
    let (request, outcome) = outcome.map_err(|mut error| {
        if let (Some(request), Some(interrupted)) = (submitted.get(), error.downcast_mut::<Interrupted>()) {
            interrupted.then = after_interruption(interrupted.server_stopped, request);
        }
        error
    })?;
    conclude(args, terminal, request, &outcome);
    Ok(())
}

/// Cancels the run of a request whose command is interrupted; a change that waits goes on waiting.
async fn cancel_run(client: &Client, request: Option<RequestId>) {
    let Some(id) = request else { return };
    let found = client.request(id).await;
    if found.is_ok_and(|request| matches!(request.state, RequestState::Received | RequestState::Executing)) {
        // If that fails, the run waits for the next server, and is listed.
        _ = client.cancel_request(id).await;
    }
}

/// What became of a request whose command was interrupted.
fn after_interruption(server_stopped: bool, request: RequestId) -> String {
    if server_stopped {
        format!(
            "a run at work ends with this command, a change that waits goes on waiting\n\
             where it stands: astraforge requests {request}"
        )
    } else {
        format!(
            "the request goes on at the server\n\
             watch it: astraforge logs -f {request}\nstop it:  astraforge cancel {request}"
        )
    }
}

fn read_prompt(text: &str) -> anyhow::Result<Prompt> {
    let mut piped = String::new();
    if text == "-" {
        std::io::stdin().read_to_string(&mut piped).context("cannot read the prompt from standard input")?;
    }
    let prompt = if text == "-" { &piped } else { text };
    prompt.parse().map_err(|error| anyhow::anyhow!("the prompt cannot be used: {error}"))
}

/// A repository to work on.
#[derive(Debug)]
struct Repository {
    /// In the `local` provider's terms: the path of a registered clone, or a name that the server knows.
    name: String,
    /// The branch that the change is for; none leaves it to the server.
    branch: Option<String>,
}

/// Finds the repository. Of a clone the branch is the one that is checked out, unless another is given.
fn find_repository(args: &ConnectionArgs, run: &RunArgs) -> anyhow::Result<Repository> {
    let repository = run.repo.as_str();
    let path = Path::new(repository);
    if repository.contains("://") || repository.starts_with("git@") {
        bail!(
            "`{repository}` is on a Git host, and there is no provider for it yet: GitHub and GitLab are coming. \
             Today: clone it, and pass the clone with --repo PATH"
        );
    }
    if !path.is_dir() {
        if path.is_absolute() || repository.starts_with('.') {
            bail!("--repo {repository}: there is no such folder");
        }
        return Ok(Repository { name: repository.to_owned(), branch: run.branch.clone() });
    }
    if !Connection::is_local(args) {
        bail!(
            "--repo {repository} is a folder of this machine, which a server elsewhere can't read; give the name of a repository that it has"
        );
    }
    let clone = UserClone::find(path)?;
    let branch = match &run.branch {
        Some(branch) => branch.clone(),
        None => clone.branch()?,
    };
    if let Some(note) = clone.uncommitted() {
        let terminal = Terminal::detect();
        terminal.note(format!("{} {note}", terminal.paint("note:", attention())));
    }
    data_folder::register_clone(&args.node.data_folder()?, clone.top())?;
    Ok(Repository { name: clone.into_name()?, branch: Some(branch) })
}

/// Finds or makes the link to the repository, set up as the arguments say.
async fn link(client: &Client, run: &RunArgs, repository: &Repository) -> anyhow::Result<RepositoryLinkId> {
    let links = client.repository_links().await?;
    let known = links.into_iter().find(|link| link.provider == "local" && link.repository == repository.name);
    let Some(known) = known else {
        let environment = with_arguments(EnvironmentBody::default(), run, repository)?;
        let mut new = NewRepositoryLink::new("local", &repository.name);
        new.environment = Some(environment);
        return Ok(client.link_repository(&new).await?.id);
    };
    let wanted = with_arguments(known.environment.clone(), run, repository)?;
    if wanted != known.environment {
        let patch = RepositoryLinkPatch { environment: Some(wanted), ..RepositoryLinkPatch::default() };
        client.change_repository_link(known.id, &patch).await?;
    }
    Ok(known.id)
}

/// What is given replaces what is remembered; an empty line makes it forgotten.
fn with_arguments(
    mut environment: EnvironmentBody,
    run: &RunArgs,
    repository: &Repository,
) -> anyhow::Result<EnvironmentBody> {
    let given = [
        (&mut environment.base_branch, &repository.branch),
        (&mut environment.setup, &run.setup),
        (&mut environment.test, &run.test),
    ];
    for (setting, argument) in given {
        if let Some(argument) = argument {
            *setting = Some(argument.clone()).filter(|line| !line.is_empty());
        }
    }
    if let Some(hosts) = &run.allow {
        let named = hosts.iter().filter(|host| !host.is_empty());
        environment.egress = named.map(|host| host.parse()).collect::<Result<_, _>>()?;
    }
    Ok(environment)
}

/// Shows the run, asks for approval, and shows the merge request.
async fn carry_on(
    client: &Client,
    args: &ConnectionArgs,
    run: &RunArgs,
    request: RequestId,
) -> anyhow::Result<Outcome> {
    let terminal = Terminal::detect();
    watch(client, args, request).await?;
    let record = client.request(request).await?;
    if let Some(error) = record.metadata.runs.iter().flatten().next_back().and_then(|run| run.error.as_deref()) {
        bail!("the run failed: {error}");
    }
    let change = match client.diff(request).await {
        Ok(change) => change,
        Err(error) if error.status().is_some_and(|status| status == 404) => return Ok(Outcome::Nothing),
        Err(error) => return Err(error.into()),
    };
    if !args.json {
        terminal.line("");
        diff::write(terminal, &change);
    }
    if !approved_by_person(run, &change).await? {
        return Ok(Outcome::Waiting(Box::new(change)));
    }
    let show = |event: &_| if args.json { Ok(()) } else { print_event(terminal, false, event) };
    let after = last_event(client, request).await?;
    client.approve(request, Some(change.digest)).await?;
    Ok(Outcome::Published(Box::new(wait_for(client, request, after, show).await?)))
}

/// Shows the log until nothing is at work any more.
async fn watch(client: &Client, args: &ConnectionArgs, request: RequestId) -> anyhow::Result<()> {
    let terminal = Terminal::detect();
    let progress = Progress::start(!args.json);
    let mut events = client.logs(request, 0);
    while let Some(event) = events.next().await {
        let event = event?;
        progress.see(&event);
        if !args.json {
            progress.above(|| print_event(terminal, false, &event))?;
        }
    }
    Ok(())
}

/// Asks, where there is somebody to ask.
async fn approved_by_person(run: &RunArgs, change: &ChangeSetView) -> anyhow::Result<bool> {
    if change.verdict.decision == Decision::Deny || run.yes {
        return Ok(run.yes);
    }
    if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        return Ok(false);
    }
    write!(std::io::stdout(), "\nApprove this change? [y/N] ")?;
    std::io::stdout().flush()?;
    // A thread of its own: Ctrl-C must be heard meanwhile, and must not wait for a line.
    let (answered, answer) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = std::io::stdin().read_line(&mut line).map(|_| line);
        _ = answered.send(read); // nobody waits any more after Ctrl-C
    });
    let answer = answer.await??;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn conclude(args: &ConnectionArgs, terminal: Terminal, request: RequestId, outcome: &Outcome) {
    if args.json {
        let (state, digest, merge_request) = match outcome {
            Outcome::Nothing => ("nothing_to_change", None, None),
            Outcome::Waiting(change) => ("waiting_for_approval", Some(change.digest.as_str()), None),
            Outcome::Published(merge_request) => ("published", None, Some(merge_request)),
        };
        let summary = json!({
            "request_id": request, "state": state, "digest": digest, "merge_request": merge_request
        });
        return terminal.line(summary);
    }
    match outcome {
        Outcome::Nothing => terminal.line(terminal.paint("The agent changed nothing.", attention())),
        Outcome::Waiting(change) => {
            terminal.line(format!(
                "Not approved. To approve it later: {}",
                terminal.paint(format!("astraforge approve {request} --digest {}", change.digest), strong())
            ));
        }
        Outcome::Published(merge_request) => {
            terminal.line("");
            merge_requests::write(terminal, merge_request);
            let apply = format!("astraforge apply {request}");
            terminal.line(format!("{} {}", terminal.paint("Bring it into your clone with:", good()), apply));
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    #[test]
    fn a_blank_prompt_is_refused() {
        assert!(read_prompt(" \n").unwrap_err().to_string().contains("may not be blank"));
    }

    #[test]
    fn an_empty_line_forgets_what_was_remembered() {
        let cli = Cli::try_parse_from(["astraforge", "run", "x", "--test", ""]).unwrap();
        let Command::Run(run) = cli.command else { panic!("not run") };
        let remembered = EnvironmentBody {
            base_branch: Some("old".into()),
            setup: Some("make".into()),
            test: Some("true".into()),
            ..EnvironmentBody::default()
        };
        let repository = Repository { name: "/clone".into(), branch: Some("main".into()) };
        let environment = with_arguments(remembered, &run, &repository).unwrap();
        assert_eq!(environment.base_branch.as_deref(), Some("main"));
        assert_eq!((environment.setup.as_deref(), environment.test), (Some("make"), None));
    }
}
