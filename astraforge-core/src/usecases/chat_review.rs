//! Adds a person's message to the conversation, and queues a run that goes on from it.

use crate::{
    access::Action,
    command::ChatReview,
    error::ForgeError,
    event::EventKind,
    id::MessageId,
    ports::store::Changes,
    request::{Message, MessageRole},
    run::Run,
    usecases::{check_executable, find_request, queue_run},
    wiring::Ports,
};

/// Carries out [`ChatReview`].
pub(crate) async fn chat_review(ports: &Ports, command: ChatReview) -> Result<Run, ForgeError> {
    command.caller.may(Action::Chat)?;
    let request = find_request(ports, &command.caller.tenant, command.request).await?;
    check_executable(&request)?;
    let text = command.message.as_str().to_owned();
    let mut changes = Changes {
        messages: vec![Message {
            id: MessageId::random(),
            request: request.id,
            role: MessageRole::User,
            text: text.clone(),
            run: None,
            created_at: ports.journal.clock().now(),
        }],
        events: vec![ports.journal.event(request.id, None, EventKind::UserMessage { message: text.clone() })],
        ..Changes::default()
    };
    let run = queue_run(ports, &request, text, &mut changes);
    ports.journal.commit(changes).await?;
    Ok(run)
}
