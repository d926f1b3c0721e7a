//! Requests.

use astraforge_core::{
    command::Start,
    id::{MergeRequestId, RepositoryLinkId, RequestId, RunId},
    merge_request::{MergeRequest, MergeRequestStatus},
    repository::RepositoryLink,
    request::{Attachment, Message, MessageRole, Prompt, Request, RequestState, change_set::ChangeSet},
    run::{Run, RunStatus},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize, Serializer};
use utoipa::ToSchema;

use super::{
    plan::PlanView,
    run::{ReportsView, RunArtifacts, RunRecord},
    schema, text, timestamp,
};

/// A request to submit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct NewRequest {
    /// What is asked, word for word; not blank.
    #[schema(value_type = String, example = "Cache the loader results")]
    pub prompt: Prompt,
    /// The repository link to work on.
    #[schema(value_type = uuid::Uuid)]
    pub project_id: RepositoryLinkId,
    /// The id, when the caller chooses one: the same id with the same content is the same request.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<uuid::Uuid>, nullable = false)]
    pub id: Option<RequestId>,
    /// The caller's own tenant; may be left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub tenant_id: Option<String>,
    /// The door it comes through; `direct_user` unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, max_length = 100)]
    pub source: Option<String>,
    /// The e-mail address it comes from; empty unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, max_length = 254)]
    pub sender: Option<String>,
    /// Files to put beside the workspace; additive.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub attachments: Vec<NewAttachmentBody>,
    /// When work begins; additive, at once unless set.
    #[serde(serialize_with = "start_name")]
    #[schema(schema_with = schema::start, required = false)]
    pub start: Start,
}

impl NewRequest {
    /// A request that is worked on at once.
    #[must_use]
    pub fn new(project_id: RepositoryLinkId, prompt: Prompt) -> Self {
        Self {
            prompt,
            project_id,
            id: None,
            tenant_id: None,
            source: None,
            sender: None,
            attachments: Vec::new(),
            start: Start::Now,
        }
    }
}

fn start_name<S: Serializer>(start: &Start, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(match start {
        Start::Now => "now",
        Start::AfterPlan => "after_plan",
    })
}

/// A file that comes with a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct NewAttachmentBody {
    /// Its file name, without folders.
    #[schema(example = "trace.txt", max_length = 255)]
    pub name: String,
    /// Its media type; `application/octet-stream` unless set.
    #[schema(example = "text/plain", required = false)]
    pub content_type: String,
    /// Its bytes, in base64.
    #[serde(serialize_with = "base64_text")]
    #[schema(schema_with = schema::base64)]
    pub content: Bytes,
}

fn base64_text<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&BASE64_STANDARD.encode(bytes))
}

/// What to do, as a specification; all of it becomes the agent's instruction.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct SpecBody {
    /// The title; not blank.
    pub title: String,
    /// What is wanted; not blank.
    pub summary: String,
    /// What must hold.
    #[serde(default)]
    #[schema(required = false)]
    pub requirements: Vec<String>,
    /// How to go about it.
    #[serde(default)]
    #[schema(required = false)]
    pub implementation_steps: Vec<String>,
    /// What could go wrong.
    #[serde(default)]
    #[schema(required = false)]
    pub risks: Vec<String>,
    /// When it is done.
    #[serde(default)]
    #[schema(required = false)]
    pub acceptance_criteria: Vec<String>,
}

impl SpecBody {
    /// Writes the specification as one text.
    #[must_use]
    pub fn to_prompt(&self) -> String {
        let lists = [
            ("Requirements", &self.requirements),
            ("Implementation steps", &self.implementation_steps),
            ("Risks", &self.risks),
            ("Acceptance criteria", &self.acceptance_criteria),
        ];
        let mut prompt = format!("{}\n\n{}\n", self.title, self.summary);
        for (heading, items) in lists.into_iter().filter(|(_, items)| !items.is_empty()) {
            prompt.push_str(&format!("\n{heading}:\n"));
            items.iter().for_each(|item| prompt.push_str(&format!("- {item}\n")));
        }
        prompt
    }
}

/// How to execute a request. May be empty: the agent is then told the last thing a person said.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, ToSchema)]
pub struct ExecuteBody {
    /// What to do instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub spec: Option<SpecBody>,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RequestView {
    /// Its id.
    #[schema(value_type = uuid::Uuid)]
    pub id: RequestId,
    /// The tenant that owns it.
    pub tenant_id: String,
    /// The door it came through.
    pub source: String,
    /// The e-mail address it came from, or empty.
    pub sender: String,
    /// The repository it works on.
    pub project: ProjectView,
    /// Where it stands.
    #[serde(with = "text")]
    #[schema(schema_with = schema::request_state)]
    pub state: RequestState,
    /// What was asked.
    pub payload: PayloadView,
    /// Always empty.
    pub artifacts: Empty,
    /// Everything that came of it.
    pub metadata: MetadataView,
    /// When it was made; additive.
    #[serde(with = "timestamp::row")]
    pub created_at: DateTime<Utc>,
    /// When it last changed; additive.
    #[serde(with = "timestamp::row")]
    pub updated_at: DateTime<Utc>,
}

/// An object without fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Empty {}

/// The repository that a request works on. All but the id is null once the link was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProjectView {
    /// The repository link.
    #[schema(value_type = uuid::Uuid)]
    pub id: RepositoryLinkId,
    /// The provider.
    pub provider: Option<String>,
    /// The repository in the provider's own terms.
    pub repository: Option<String>,
    /// The provider's address, where it has several.
    pub base_url: Option<String>,
}

impl ProjectView {
    fn new(id: RepositoryLinkId, link: Option<&RepositoryLink>) -> Self {
        Self {
            id,
            provider: link.map(|link| link.provider.clone()),
            repository: link.map(|link| link.repository.clone()),
            base_url: link.map(|link| link.base_url.clone()).filter(|url| !url.is_empty()),
        }
    }
}

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PayloadView {
    /// A short title, derived from the prompt.
    pub title: String,
    /// The prompt, word for word.
    pub description: String,
    /// Always empty.
    pub context: Empty,
    /// Files that came with it.
    pub attachments: Vec<AttachmentView>,
}

/// A file that came with a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AttachmentView {
    /// Names it within the server.
    pub uri: String,
    /// Its file name.
    pub name: String,
    /// Its media type.
    pub content_type: String,
    /// Its size in bytes; additive.
    pub size: u64,
}

impl From<Attachment> for AttachmentView {
    fn from(attachment: Attachment) -> Self {
        Self {
            uri: format!("artifact://{}", attachment.artifact),
            name: attachment.name,
            content_type: attachment.content_type,
            size: attachment.size,
        }
    }
}

/// Everything that came of a request. Lists leave out what is marked so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MetadataView {
    /// The repository it works on.
    pub project: ProjectView,
    /// The prompt, word for word.
    pub prompt: String,
    /// The conversation, the oldest message first.
    pub chat_messages: Vec<ChatMessageView>,
    /// What the latest run was told, as a specification; not in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub spec: Option<SpecView>,
    /// The plan, once one was made; additive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub plan: Option<PlanView>,
    /// The runs, the oldest first; not in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub runs: Option<Vec<RunRecord>>,
    /// What the latest successful run came to; not in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub execution: Option<ExecutionView>,
    /// The last commit of the latest change, in full; not in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub last_commit: Option<String>,
    /// The merge request, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub mr: Option<MrView>,
}

/// One message of the conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChatMessageView {
    /// Who speaks.
    #[schema(schema_with = schema::message_role)]
    pub role: MessageRole,
    /// The words.
    pub message: String,
    /// When it was said.
    #[serde(with = "timestamp::offset")]
    pub created_at: DateTime<Utc>,
    /// The run that answered, for an assistant's message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<uuid::Uuid>, nullable = false)]
    pub run_id: Option<RunId>,
}

impl From<Message> for ChatMessageView {
    fn from(message: Message) -> Self {
        Self { role: message.role, message: message.text, created_at: message.created_at, run_id: message.run }
    }
}

/// What a run was told, as a specification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SpecView {
    /// The specification.
    #[serde(flatten)]
    pub spec: SpecBody,
    /// The words it was derived from.
    pub raw_prompt: String,
}

impl SpecView {
    /// A specification around the words that a run was told.
    fn of(run: &Run) -> Self {
        let title = run.prompt.parse::<Prompt>().map(|prompt| prompt.title()).unwrap_or_default();
        let summary = run.prompt.trim().to_owned();
        let spec =
            SpecBody { title, summary: summary.clone(), implementation_steps: vec![summary], ..SpecBody::default() };
        Self { spec, raw_prompt: run.prompt.clone() }
    }
}

/// What a successful run came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExecutionView {
    /// The unified diff; empty when nothing changed.
    pub diff: String,
    /// How it went.
    pub reports: ReportsView,
    /// What it left.
    pub artifacts: RunArtifacts,
}

/// A merge request, as the `metadata` of its request shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MrView {
    /// Its id.
    #[schema(value_type = uuid::Uuid)]
    pub id: MergeRequestId,
    /// The title.
    pub title: String,
    /// The description, in Markdown.
    pub description: String,
    /// The branch it is for.
    pub target_branch: String,
    /// The branch with the change.
    pub source_branch: String,
    /// Where people find it.
    #[serde(rename = "ref")]
    pub reference: String,
    /// Where it stands.
    #[schema(schema_with = schema::merge_request_status)]
    pub status: MergeRequestStatus,
}

impl From<&MergeRequest> for MrView {
    fn from(mr: &MergeRequest) -> Self {
        Self {
            id: mr.id,
            title: mr.proposal.title.clone(),
            description: mr.proposal.description.clone(),
            target_branch: mr.proposal.target_branch.clone(),
            source_branch: mr.proposal.source_branch.clone(),
            reference: mr.url.clone(),
            status: mr.status,
        }
    }
}

/// The rows that a request is shown from.
#[derive(Debug)]
pub struct RequestRows {
    /// The request.
    pub request: Request,
    /// Its repository link, unless that was removed.
    pub link: Option<RepositoryLink>,
    /// Its conversation, the oldest message first.
    pub messages: Vec<Message>,
    /// Its attachments.
    pub attachments: Vec<Attachment>,
    /// Its merge request.
    pub merge_request: Option<MergeRequest>,
}

impl RequestView {
    /// A request as lists show it.
    #[must_use]
    pub fn summary(rows: RequestRows) -> Self {
        let RequestRows { request, link, messages, attachments, merge_request } = rows;
        let project = ProjectView::new(request.repository, link.as_ref());
        let prompt = request.prompt.as_str().to_owned();
        Self {
            id: request.id,
            tenant_id: request.tenant.to_string(),
            source: request.source,
            sender: request.sender,
            project: project.clone(),
            state: request.state,
            payload: PayloadView {
                title: request.title,
                description: prompt.clone(),
                context: Empty {},
                attachments: attachments.into_iter().map(AttachmentView::from).collect(),
            },
            artifacts: Empty {},
            metadata: MetadataView {
                project,
                prompt,
                chat_messages: messages.into_iter().map(ChatMessageView::from).collect(),
                spec: None,
                plan: request.plan.map(PlanView::from),
                runs: None,
                execution: None,
                last_commit: None,
                mr: merge_request.as_ref().map(MrView::from),
            },
            created_at: request.created_at,
            updated_at: request.updated_at,
        }
    }

    /// A request with everything about it; `runs` are the oldest first, each with its record and its change.
    #[must_use]
    pub fn detail(rows: RequestRows, runs: Vec<(Run, RunRecord, Option<ChangeSet>)>) -> Self {
        let mut view = Self::summary(rows);
        let metadata = &mut view.metadata;
        metadata.spec = runs.last().map(|(run, ..)| SpecView::of(run));
        let last_change = runs.iter().rev().find_map(|(.., set)| set.as_ref());
        metadata.last_commit = last_change.map(|set| set.change.head_commit.clone());
        let last_success = runs.iter().rev().find(|(run, ..)| run.status == RunStatus::Completed);
        metadata.execution = last_success.map(|(_, record, _)| ExecutionView {
            diff: record.diff.clone().unwrap_or_default(),
            reports: record.reports.clone(),
            artifacts: record.artifacts.clone(),
        });
        metadata.runs = Some(runs.into_iter().map(|(_, record, _)| record).collect());
        view
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_specification_becomes_one_text() {
        let spec = SpecBody {
            title: "Cache".into(),
            summary: "Cache the loader".into(),
            requirements: vec!["stay small".into()],
            ..SpecBody::default()
        };
        assert_eq!(spec.to_prompt(), "Cache\n\nCache the loader\n\nRequirements:\n- stay small\n");
    }

    #[test]
    fn the_contents_of_an_attachment_are_base64() {
        let body = NewAttachmentBody { name: "a".into(), content_type: "text/plain".into(), content: "hi".into() };
        assert_eq!(serde_json::to_value(body).unwrap()["content"], "aGk=");
    }
}
