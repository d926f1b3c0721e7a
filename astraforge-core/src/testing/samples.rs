//! Plain examples of the domain's values, for tests to start from.

use chrono::{DateTime, TimeDelta, TimeZone, Utc};

use crate::{
    access::{ApiKey, Caller, Role, Scopes},
    event::{EventKind, NewEvent},
    id::{
        ApiKeyId, ApprovalId, AttachmentId, MergeRequestId, MessageId, RepositoryLinkId, RequestId, SandboxId,
        SnapshotId, TenantId, UserId,
    },
    job::{Job, JobKind},
    merge_request::{MergeRequest, MergeRequestStatus, Proposal},
    policy::{Decision, Verdict},
    ports::store::{Changes, Expected, RequestChange},
    repository::{RepositoryEnvironment, RepositoryLink, Secret},
    request::{
        Attachment, Message, MessageRole, Request, RequestState,
        approval::{Approval, Binding},
        change_set::{Change, ChangeKind, ChangeSet, FileChange},
    },
    run::Run,
    run_log::LogArchive,
    sandbox::{Lifetime, Sandbox, SandboxStatus, Snapshot},
    session::SandboxSpec,
};

/// The time of samples: `seconds` after noon of 1 March 2026.
#[must_use]
pub fn at(seconds: i64) -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 3, 1, 12, 0, 0).unwrap() + TimeDelta::seconds(seconds)
}

/// The tenant of samples.
#[must_use]
pub fn tenant() -> TenantId {
    TenantId::new("acme")
}

/// A request that was just received.
#[must_use]
pub fn request() -> Request {
    Request {
        id: RequestId::random(),
        tenant: tenant(),
        requester: UserId::new("ada"),
        source: "direct_user".to_owned(),
        sender: String::new(),
        title: "Cache the loader".to_owned(),
        prompt: "Cache the loader results".parse().unwrap(),
        repository: RepositoryLinkId::random(),
        state: RequestState::Received,
        plan: None,
        version: 0,
        created_at: at(0),
        updated_at: at(0),
    }
}

/// The commit that adds a request.
#[must_use]
pub fn submitted(request: &Request) -> Changes {
    let change = RequestChange { request: request.clone(), expected: Expected::Absent };
    Changes { request: Some(change), ..Changes::default() }
}

/// A run that waits.
#[must_use]
pub fn run(request: &Request) -> Run {
    Run::queued(request.id, request.tenant.clone(), request.prompt.as_str().to_owned(), at(1))
}

/// The job that does a run.
#[must_use]
pub fn execute(run: &Run) -> Job {
    Job::new(run.tenant.clone(), run.request, JobKind::Execute { run: run.id }, run.created_at)
}

/// What tells of an archive of these events; nothing is stored there.
#[must_use]
pub fn archive(request: RequestId, first: u64, last: u64) -> LogArchive {
    LogArchive {
        request,
        first,
        last,
        key: format!("run-logs/{request}/{first}-{last}.jsonl.gz"),
        sha256: "0".repeat(64),
        size: 120,
        created_at: at(7),
    }
}

/// A line of output.
#[must_use]
pub fn log(request: RequestId, line: impl Into<String>) -> NewEvent {
    NewEvent { request, run: None, kind: EventKind::log(line), at: at(2) }
}

/// A person's message.
#[must_use]
pub fn message(request: RequestId) -> Message {
    Message {
        id: MessageId::random(),
        request,
        role: MessageRole::User,
        text: "Keep the tests green".to_owned(),
        run: None,
        created_at: at(2),
    }
}

/// A file that came with a request.
#[must_use]
pub fn attachment(request: RequestId) -> Attachment {
    Attachment {
        id: AttachmentId::random(),
        request,
        name: "trace.txt".to_owned(),
        content_type: "text/plain".to_owned(),
        size: 12,
        artifact: format!("attachments/{request}/trace.txt"),
    }
}

/// A change of one file that the policy allows.
#[must_use]
pub fn change_set(run: &Run) -> ChangeSet {
    let file = FileChange {
        path: "src/loader.py".to_owned(),
        old_path: None,
        kind: ChangeKind::Modified,
        added: Some(3),
        removed: Some(1),
        mode: "100644".to_owned(),
        size: 300,
    };
    let change = Change {
        target_branch: "main".to_owned(),
        branch: format!("astraforge/{}", run.request),
        base_commit: "a".repeat(40),
        head_commit: "b".repeat(40),
        head_tree: "c".repeat(40),
        diff: "diff --git a/src/loader.py b/src/loader.py\n".to_owned(),
        files: vec![file],
    };
    let verdict = Verdict { policy_version: "v1".to_owned(), decision: Decision::Allow, reasons: vec![] };
    ChangeSet::new(run.request, run.id, change, verdict, at(3))
}

/// An approval of a change set.
#[must_use]
pub fn approval(change_set: &ChangeSet) -> Approval {
    Approval {
        id: ApprovalId::random(),
        request: change_set.request,
        change_set: change_set.id,
        digest: change_set.digest.clone(),
        approver: UserId::new("grace"),
        binding: Binding::Explicit,
        created_at: at(4),
    }
}

/// An open merge request for a change set.
#[must_use]
pub fn merge_request(change_set: &ChangeSet) -> MergeRequest {
    MergeRequest {
        id: MergeRequestId::random(),
        request: change_set.request,
        tenant: tenant(),
        change_set: change_set.id,
        proposal: Proposal {
            title: "Cache the loader".to_owned(),
            description: "Closes nothing.".to_owned(),
            source_branch: change_set.change.branch.clone(),
            target_branch: change_set.change.target_branch.clone(),
            commit: change_set.change.head_commit.clone(),
        },
        url: "https://git.example/mr/1".to_owned(),
        status: MergeRequestStatus::Open,
        review: None,
        created_at: at(5),
    }
}

/// A link to a repository of the `local` provider, with a token.
#[must_use]
pub fn link() -> RepositoryLink {
    RepositoryLink {
        id: RepositoryLinkId::random(),
        tenant: tenant(),
        owner: UserId::new("ada"),
        provider: "local".to_owned(),
        repository: "acme/loader".to_owned(),
        base_url: String::new(),
        access_token: Some(Secret::new("token-of-the-sample-link")),
        environment: RepositoryEnvironment::default(),
        created_at: at(0),
        updated_at: at(0),
    }
}

/// An active key of a maintainer.
#[must_use]
pub fn api_key() -> ApiKey {
    let id = ApiKeyId::random();
    ApiKey {
        id,
        tenant: tenant(),
        user: UserId::new("ada"),
        name: "laptop".to_owned(),
        prefix: "afk_sample".to_owned(),
        hash: format!("{:0>64}", id.as_uuid().as_simple()),
        role: Role::Maintainer,
        scopes: Scopes::All,
        is_active: true,
        expires_at: None,
        created_at: at(0),
        last_used_at: None,
    }
}

/// The time at which samples are made.
pub fn now() -> DateTime<Utc> {
    at(0)
}

/// A caller of the sample tenant.
pub fn caller(user: &str, role: Role) -> Caller {
    Caller::new(tenant(), UserId::new(user), role)
}

/// A snapshot of [`sandbox`].
pub fn snapshot() -> Snapshot {
    Snapshot {
        id: SnapshotId::random(),
        sandbox: sandbox().id,
        tenant: sandbox().tenant,
        label: String::new(),
        key: "snapshots/a/b.tar.zst".to_owned(),
        size: 1 << 40,
        sha256: "ab".repeat(32),
        include: vec!["/workspace".to_owned()],
        exclude: Vec::new(),
        created_at: now(),
    }
}

/// A sandbox that is ready.
pub fn sandbox() -> Sandbox {
    Sandbox {
        node: None,
        id: SandboxId::random(),
        tenant: tenant(),
        owner: UserId::new("ada"),
        mode: "native".to_owned(),
        spec: SandboxSpec::default(),
        status: SandboxStatus::Ready,
        lifetime: Lifetime::default(),
        created_at: now(),
        started_at: now(),
        last_activity_at: now(),
        last_heartbeat_at: now(),
        error_message: String::new(),
        termination: None,
        restored_from: None,
        latest_snapshot: None,
        was_ready: true,
        version: 1,
    }
}
