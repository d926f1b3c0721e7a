//! The commands: everything that can be asked of the request spine, as plain values.

use bytes::Bytes;

use crate::{
    access::Caller,
    id::{ChangeSetId, MergeRequestId, RepositoryLinkId, RequestId, RunId, TenantId},
    job::Claim,
    merge_request::MergeRequest,
    request::{Plan, Prompt, Request, approval::Approval, change_set::Digest},
    review::Review,
    run::Run,
};

/// A command: what carries it out is a [`tower::Service`] of it.
pub trait Command: Send + 'static {
    /// What comes back.
    type Answer: Send + 'static;
    /// Its name, for logs and metrics.
    const NAME: &'static str;
}

macro_rules! commands {
    ($($(#[$doc:meta])* $name:ident -> $answer:ty { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })*) => { $(
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }

        impl $crate::command::Command for $name {
            type Answer = $answer;
            const NAME: &'static str = stringify!($name);
        }
    )* };
}

pub(crate) use commands;

commands! {
    /// Accepts a request and, unless told otherwise, queues its first run.
    SubmitRequest -> Request {
        /// Who asks.
        caller: Caller,
        /// The id, when the caller chose one: the same id with the same content is the same request.
        id: Option<RequestId>,
        /// What is asked.
        prompt: Prompt,
        /// The repository to work on.
        repository: RepositoryLinkId,
        /// The door it came through.
        source: String,
        /// The e-mail address it came from, or empty.
        sender: String,
        /// Files to put beside the workspace.
        attachments: Vec<NewAttachment>,
        /// When work begins.
        start: Start,
    }

    /// Adds a person's message to the conversation and queues a run that goes on from it.
    ChatReview -> Run {
        /// Who speaks.
        caller: Caller,
        /// The request.
        request: RequestId,
        /// What they say.
        message: Prompt,
    }

    /// Makes a plan for a request that has not begun, or has failed.
    GeneratePlan -> Plan {
        /// Who asks.
        caller: Caller,
        /// The request.
        request: RequestId,
    }

    /// Queues a run that follows the plan.
    ExecutePlan -> Run {
        /// Who asks.
        caller: Caller,
        /// The request.
        request: RequestId,
    }

    /// Queues a run. While another one is at work it waits behind it.
    ExecuteRequest -> Run {
        /// Who asks.
        caller: Caller,
        /// The request.
        request: RequestId,
        /// What the agent is told; the last thing a person said, if `None`.
        prompt: Option<Prompt>,
    }

    /// Stops what is at work, drops what is queued, and settles the request as cancelled.
    CancelRun -> Request {
        /// Who asks.
        caller: Caller,
        /// What is to stop.
        target: CancelTarget,
    }

    /// Approves a change, by its digest, and queues its publication.
    ApproveChange -> Approval {
        /// Who approves.
        caller: Caller,
        /// The request.
        request: RequestId,
        /// The digest of what they saw; the one current now, if `None`.
        digest: Option<Digest>,
    }

    /// Publishes an approved change and opens a merge request. Doing it twice is the same as once.
    OpenMergeRequest -> MergeRequest {
        /// The tenant it is done for.
        tenant: TenantId,
        /// The request.
        request: RequestId,
        /// The change set that was approved.
        change_set: ChangeSetId,
        /// The job that does it, if one does: without its claim nothing is written.
        claim: Option<Claim>,
    }

    /// Reviews a merge request and posts what was found.
    ReviewMergeRequest -> Review {
        /// The tenant it is done for.
        tenant: TenantId,
        /// The merge request.
        merge_request: MergeRequestId,
        /// The job that does it, if one does: without its claim nothing is written.
        claim: Option<Claim>,
    }
}

/// When work on a request begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Start {
    /// At once.
    #[default]
    Now,
    /// When a person asks for a plan and executes it.
    AfterPlan,
}

/// What is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelTarget {
    /// One run.
    Run(RunId),
    /// All runs of a request.
    Request(RequestId),
}

/// A file that comes with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAttachment {
    /// Its file name, without folders.
    pub name: String,
    /// Its media type.
    pub content_type: String,
    /// Its bytes.
    pub bytes: Bytes,
}
