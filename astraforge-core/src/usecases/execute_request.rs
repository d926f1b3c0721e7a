//! Queues a run; while another one is at work it waits behind it.

use crate::{
    access::Action,
    command::ExecuteRequest,
    error::ForgeError,
    ports::store::Changes,
    request::{MessageRole, Request},
    run::Run,
    usecases::{check_executable, find_request, queue_run},
    wiring::Ports,
};

/// Carries out [`ExecuteRequest`].
pub(crate) async fn execute_request(ports: &Ports, command: ExecuteRequest) -> Result<Run, ForgeError> {
    command.caller.may(Action::Submit)?;
    let request = find_request(ports, &command.caller.tenant, command.request).await?;
    check_executable(&request)?;
    let prompt = match command.prompt {
        Some(prompt) => prompt.as_str().to_owned(),
        None => last_words(ports, &request).await?,
    };
    let mut changes = Changes::default();
    let run = queue_run(ports, &request, prompt, &mut changes);
    ports.journal.commit(changes).await?;
    Ok(run)
}

/// The last thing that a person said.
async fn last_words(ports: &Ports, request: &Request) -> Result<String, ForgeError> {
    let messages = ports.journal.store().messages(request.id).await?;
    let last = messages.into_iter().rev().find(|message| message.role == MessageRole::User);
    Ok(last.map_or_else(|| request.prompt.as_str().to_owned(), |message| message.text))
}
