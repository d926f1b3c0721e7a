//! `run`: lets the agent work on a repository, and decides on its change.

use std::{
    io::{IsTerminal, Read, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use astraforge_core::{
    id::{RepositoryLinkId, RequestId},
    policy::Decision,
    request::Prompt,
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
    render::{Terminal, attention, faint, good, progress::Progress, strong},
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
    let repository = find_repository(args, &run.repo)?;
    let connection = Connection::open(args).await?;
    let terminal = Terminal::detect();
    let outcome = async {
        let link = link(&connection.client, run, &repository).await?;
        let request = connection.client.submit(&NewRequest::new(link, prompt)).await?.id;
        if !args.json {
            terminal.line(terminal.paint(format!("request {request}"), faint()));
        }
        anyhow::Ok((request, carry_on(&connection.client, args, run, request).await?))
    };
    let outcome = outcome.await;
    connection.close().await;
    let (request, outcome) = outcome?;
    conclude(args, terminal, request, &outcome);
    Ok(())
}

fn read_prompt(text: &str) -> anyhow::Result<Prompt> {
    let mut piped = String::new();
    if text == "-" {
        std::io::stdin().read_to_string(&mut piped).context("cannot read the prompt from standard input")?;
    }
    let prompt = if text == "-" { &piped } else { text };
    prompt.parse().map_err(|error| anyhow::anyhow!("the prompt cannot be used: {error}"))
}

/// The repository in the `local` provider's terms: a registered clone, or a name that the server knows.
fn find_repository(args: &ConnectionArgs, repository: &str) -> anyhow::Result<String> {
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
        return Ok(repository.to_owned());
    }
    if !Connection::is_local(args) {
        bail!(
            "--repo {repository} is a folder of this machine, which a server elsewhere can't read; give the name of a repository that it has"
        );
    }
    let clone = top_of_clone(path)?;
    data_folder::register_clone(&args.node.data_folder()?, &clone)?;
    clone.into_os_string().into_string().map_err(|path| anyhow::anyhow!("{} is not UTF-8", path.display()))
}

fn top_of_clone(path: &Path) -> anyhow::Result<PathBuf> {
    let absolute = path.canonicalize().with_context(|| format!("cannot find {}", path.display()))?;
    let is_repository = |folder: &&Path| {
        folder.join(".git").exists() || (folder.join("HEAD").is_file() && folder.join("objects").is_dir())
    };
    let top = absolute.ancestors().find(is_repository);
    let top =
        top.with_context(|| format!("{} is not in a git repository; `git init` and commit first", path.display()))?;
    Ok(top.to_owned())
}

/// Finds or makes the link to the repository, set up as the arguments say.
async fn link(client: &Client, run: &RunArgs, repository: &str) -> anyhow::Result<RepositoryLinkId> {
    let links = client.repository_links().await?;
    let known = links.into_iter().find(|link| link.provider == "local" && link.repository == repository);
    let Some(known) = known else {
        let environment = with_arguments(EnvironmentBody::default(), run);
        let mut new = NewRepositoryLink::new("local", repository);
        new.environment = Some(environment);
        return Ok(client.link_repository(&new).await?.id);
    };
    let wanted = with_arguments(known.environment.clone(), run);
    if wanted != known.environment {
        let patch = RepositoryLinkPatch { environment: Some(wanted), ..RepositoryLinkPatch::default() };
        client.change_repository_link(known.id, &patch).await?;
    }
    Ok(known.id)
}

fn with_arguments(mut environment: EnvironmentBody, run: &RunArgs) -> EnvironmentBody {
    let given = [
        (&mut environment.base_branch, &run.branch),
        (&mut environment.setup, &run.setup),
        (&mut environment.test, &run.test),
    ];
    for (setting, argument) in given {
        if argument.is_some() {
            setting.clone_from(argument);
        }
    }
    environment
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
    if !approved_by_person(run, &change)? {
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
fn approved_by_person(run: &RunArgs, change: &ChangeSetView) -> anyhow::Result<bool> {
    if change.verdict.decision == Decision::Deny || run.yes {
        return Ok(run.yes);
    }
    if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        return Ok(false);
    }
    write!(std::io::stdout(), "\nApprove this change? [y/N] ")?;
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
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
    use super::*;

    #[test]
    fn a_blank_prompt_is_refused() {
        assert!(read_prompt(" \n").unwrap_err().to_string().contains("may not be blank"));
    }

    #[test]
    fn the_top_of_a_clone_is_found_from_within() {
        let scratch = tempfile::tempdir().unwrap();
        let top = scratch.path().canonicalize().unwrap();
        std::fs::create_dir_all(top.join(".git")).unwrap();
        std::fs::create_dir_all(top.join("src/deep")).unwrap();
        assert_eq!(top_of_clone(&top.join("src/deep")).unwrap(), top);
    }
}
