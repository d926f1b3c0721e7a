//! Accepts a request, and queues its first run.

use crate::{
    access::Action,
    command::{NewAttachment, Start, SubmitRequest},
    error::ForgeError,
    event::EventKind,
    id::{AttachmentId, MessageId, RequestId},
    ports::store::{Changes, Expected, RequestChange, StoreError},
    request::{Attachment, Message, MessageRole, Request, RequestState},
    usecases::queue_run,
    wiring::Ports,
};

/// The largest total of all attachments of one request, in bytes.
const MAX_ATTACHMENT_BYTES: usize = 10 * 1024 * 1024;

/// Carries out [`SubmitRequest`].
pub(crate) async fn submit_request(ports: &Ports, command: SubmitRequest) -> Result<Request, ForgeError> {
    command.caller.may(Action::Submit)?;
    check_attachments(&command.attachments)?;
    let link = ports.journal.store().link(&command.caller.tenant, command.repository).await?;
    let link = link.ok_or_else(|| ForgeError::Invalid {
        field: "project_id",
        message: "Select a project linked to your account.".to_owned(),
    })?;
    ports.providers.resolve(&link.provider)?;

    let request = new_request(ports, &command);
    if let Some(earlier) = earlier_with_same_id(ports, &command).await? {
        return same_or_conflict(earlier, &request);
    }
    let attachments = store_attachments(ports, request.id, &command.attachments).await?;
    let changes = changes(ports, &request, command.start, attachments);
    match ports.journal.commit(changes).await {
        Ok(()) => Ok(request),
        // The same id was submitted at the same moment, or it is another tenant's.
        Err(StoreError::AlreadyExists { .. } | StoreError::Conflict { .. }) => {
            match earlier_with_same_id(ports, &command).await? {
                Some(earlier) => same_or_conflict(earlier, &request),
                None => Err(id_taken(request.id)),
            }
        }
        Err(error) => Err(error.into()),
    }
}

fn new_request(ports: &Ports, command: &SubmitRequest) -> Request {
    let now = ports.journal.clock().now();
    Request {
        id: command.id.unwrap_or_else(RequestId::random),
        tenant: command.caller.tenant.clone(),
        requester: command.caller.user.clone(),
        source: command.source.clone(),
        sender: command.sender.clone(),
        title: command.prompt.title(),
        prompt: command.prompt.clone(),
        repository: command.repository,
        state: RequestState::Received,
        plan: None,
        version: 1,
        created_at: now,
        updated_at: now,
    }
}

async fn earlier_with_same_id(ports: &Ports, command: &SubmitRequest) -> Result<Option<Request>, ForgeError> {
    match command.id {
        Some(id) => Ok(ports.journal.store().request(&command.caller.tenant, id).await?),
        None => Ok(None),
    }
}

/// A client that did not hear the first answer sends the same again; anything else is a mistake.
fn same_or_conflict(earlier: Request, wanted: &Request) -> Result<Request, ForgeError> {
    let content = |r: &Request| (r.prompt.clone(), r.repository, r.requester.clone());
    if content(&earlier) == content(wanted) { Ok(earlier) } else { Err(id_taken(wanted.id)) }
}

fn id_taken(id: RequestId) -> ForgeError {
    ForgeError::conflict(format!("request id {id} is taken by another request; leave `id` out to get a fresh one"))
}

fn check_attachments(attachments: &[NewAttachment]) -> Result<(), ForgeError> {
    let invalid = |message: String| Err(ForgeError::Invalid { field: "attachments", message });
    for attachment in attachments {
        let name = &attachment.name;
        if name.is_empty() || name.len() > 255 || name == "." || name == ".." || name.contains(['/', '\\', '\0', '\n'])
        {
            return invalid(format!("`{name}` is not a file name: give one without folders"));
        }
    }
    let total: usize = attachments.iter().map(|attachment| attachment.bytes.len()).sum();
    if total > MAX_ATTACHMENT_BYTES {
        return invalid(format!("{total} bytes are more than the {MAX_ATTACHMENT_BYTES} that a request may bring"));
    }
    Ok(())
}

async fn store_attachments(
    ports: &Ports,
    request: RequestId,
    attachments: &[NewAttachment],
) -> Result<Vec<Attachment>, ForgeError> {
    let mut stored = Vec::with_capacity(attachments.len());
    for attachment in attachments {
        let id = AttachmentId::random();
        let artifact = format!("attachments/{request}/{id}");
        ports.artifacts.put(&artifact, attachment.bytes.clone()).await?;
        stored.push(Attachment {
            id,
            request,
            name: attachment.name.clone(),
            content_type: attachment.content_type.clone(),
            size: attachment.bytes.len() as u64,
            artifact,
        });
    }
    Ok(stored)
}

fn changes(ports: &Ports, request: &Request, start: Start, attachments: Vec<Attachment>) -> Changes {
    let prompt = request.prompt.as_str().to_owned();
    let mut changes = Changes {
        request: Some(RequestChange { request: request.clone(), expected: Expected::Absent }),
        messages: vec![Message {
            id: MessageId::random(),
            request: request.id,
            role: MessageRole::User,
            text: prompt.clone(),
            run: None,
            created_at: request.created_at,
        }],
        attachments,
        events: vec![ports.journal.event(request.id, None, EventKind::UserPrompt { message: prompt.clone() })],
        ..Changes::default()
    };
    if start == Start::Now {
        queue_run(ports, request, prompt, &mut changes);
    }
    changes
}
