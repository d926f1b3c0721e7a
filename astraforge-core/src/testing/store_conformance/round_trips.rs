//! Rules of what is written: it reads back as it was, every variant and every text.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};

use super::{commit, submit};
use crate::{
    access::Role,
    event::{EventKind, NewEvent},
    id::{ApiKeyId, ChangeSetId, MergeRequestId, RunId},
    job::{Job, JobKind, Limits},
    merge_request::MergeRequestStatus,
    policy::{Decision, Reason, Verdict},
    ports::store::{Changes, Store},
    repository::{RepositoryEnvironment, Secret},
    request::{
        MessageRole, Plan, PlanStep, Prompt, Request, RequestState,
        approval::Binding,
        change_set::{ChangeKind, ChangeSet},
    },
    review::{Finding, Review, Severity},
    run::{Attempt, FailureCause, Run, RunFailure, RunStatus, TestReport, Usage},
    testing::samples::{self, at},
};

/// Texts that stores have been known to bend: quotes, line ends, NUL, right-to-left, combining, beyond the BMP.
const ODD_TEXTS: [&str; 8] = [
    "",
    " white space kept \r\n\t",
    "'; DROP TABLE requests; -- \" \\ %s ?1 :x @y $1",
    "a\0b",
    "שלום e\u{301} Å",
    "🦀 \u{1F468}\u{200D}\u{1F4BB} \u{10FFFF}",
    "\u{FEFF}\u{FFFD}\u{2028}\u{1}\u{1b}[31m",
    "{\"json\": [1, null]}",
];

pub async fn every_state_of_a_request_survives(store: &impl Store) {
    for state in RequestState::ALL {
        check_request(store, Request { state, ..samples::request() }).await;
    }
}

pub async fn a_plan_survives(store: &impl Store) {
    let step = |risk: Option<&str>, completed| PlanStep {
        description: "Look".to_owned(),
        completed,
        risk: risk.map(str::to_owned),
    };
    let steps = vec![step(None, true), step(Some("may break"), false)];
    check_request(store, Request { plan: Some(Plan { steps, summary: "s".to_owned() }), ..samples::request() }).await;
    check_request(store, Request { plan: Some(Plan { steps: vec![], summary: String::new() }), ..samples::request() })
        .await;
}

pub async fn long_and_odd_texts_survive(store: &impl Store) {
    let longest: Prompt = "ä".repeat(Prompt::MAX_BYTES / 2).parse().unwrap();
    check_request(store, Request { prompt: longest, ..samples::request() }).await;
    let request = submit(store).await;
    for text in ODD_TEXTS {
        let text = || text.to_owned();
        check_request(store, Request { title: text(), sender: text(), source: text(), ..samples::request() }).await;
        check_run(store, Run { prompt: text(), final_message: Some(text()), ..samples::run(&request) }).await;
        let mut message = samples::message(request.id);
        message.text = text();
        commit(store, Changes { messages: vec![message.clone()], ..Changes::default() }).await;
        assert_eq!(store.messages(request.id).await.unwrap().pop(), Some(message));
        check_event(store, &request, EventKind::log(text())).await;
    }
    check_event(store, &request, EventKind::log("x".repeat(1 << 20))).await;
}

pub async fn every_form_of_a_message_survives(store: &impl Store) {
    let request = submit(store).await;
    for (role, run) in [(MessageRole::User, None), (MessageRole::Assistant, Some(RunId::random()))] {
        let mut message = samples::message(request.id);
        (message.role, message.run) = (role, run);
        commit(store, Changes { messages: vec![message.clone()], ..Changes::default() }).await;
        assert_eq!(store.messages(request.id).await.unwrap().pop(), Some(message));
    }
}

pub async fn an_attachment_survives(store: &impl Store) {
    let request = submit(store).await;
    let mut attachment = samples::attachment(request.id);
    (attachment.size, attachment.name) = (1 << 40, "Übersicht 🦀.pdf".to_owned());
    commit(store, Changes { attachments: vec![attachment.clone()], ..Changes::default() }).await;
    assert_eq!(store.attachments(request.id).await.unwrap(), [attachment]);
}

pub async fn every_status_and_failure_of_a_run_survives(store: &impl Store) {
    use FailureCause::*;
    let request = submit(store).await;
    for status in RunStatus::ALL {
        check_run(store, Run { status, ..samples::run(&request) }).await;
    }
    for cause in [
        Repository,
        Sandbox,
        MissingProgram,
        Setup,
        Agent,
        NoAnswer,
        Model,
        TimedOut,
        Push,
        SecretInChange,
        Interrupted,
        Cancelled,
        Internal,
    ] {
        let failure = Some(RunFailure::new(cause, "why, and what to do"));
        check_run(store, Run { failure, ..samples::run(&request) }).await;
    }
}

pub async fn a_full_run_survives(store: &impl Store) {
    let request = submit(store).await;
    let failure = RunFailure::new(FailureCause::Interrupted, "the server stopped");
    let begun = Attempt { number: 2, started_at: at(4), finished_at: None, failure: None };
    let lost = Attempt { number: 1, started_at: at(2), finished_at: Some(at(3)), failure: Some(failure.clone()) };
    let run = Run {
        status: RunStatus::Completed,
        attempts: vec![lost, begun],
        cancel_requested: true,
        failure: Some(failure),
        final_message: Some("done".to_owned()),
        thread: Some("thread-1".to_owned()),
        rollout: Some("rollouts/1.jsonl".to_owned()),
        change_set: Some(ChangeSetId::random()),
        exit_code: Some(-9),
        tests: Some(TestReport { command: "make test".to_owned(), exit_code: 2, output_tail: "1 failed".to_owned() }),
        usage: Usage { calls: 1, input_tokens: 1 << 40, cached_input_tokens: 3, output_tokens: 4, reasoning_tokens: 5 },
        started_at: Some(at(2)),
        finished_at: Some(at(5)),
        ..samples::run(&request)
    };
    check_run(store, run).await;
}

pub async fn every_form_of_a_change_survives(store: &impl Store) {
    let request = submit(store).await;
    let sample = samples::change_set(&samples::run(&request));
    for decision in [Decision::Allow, Decision::NeedsMaintainer, Decision::Deny] {
        let mut change = sample.change.clone();
        let file = change.files[0].clone();
        for kind in
            [ChangeKind::Added, ChangeKind::Deleted, ChangeKind::Renamed, ChangeKind::TypeChanged, ChangeKind::Modified]
        {
            let mut file = file.clone();
            (file.kind, file.old_path, file.added, file.removed) = (kind, Some("öld\tname".to_owned()), None, None);
            change.files.push(file);
        }
        change.diff = ODD_TEXTS.concat().repeat(1000);
        let reason = |path: Option<&str>| Reason {
            rule: "size".to_owned(),
            path: path.map(str::to_owned),
            message: "too big".to_owned(),
        };
        let verdict =
            Verdict { policy_version: "v2".to_owned(), decision, reasons: vec![reason(None), reason(Some("a/b"))] };
        let change_set = ChangeSet::new(request.id, sample.run, change, verdict, at(3));
        commit(store, Changes { change_set: Some(change_set.clone()), ..Changes::default() }).await;
        let read = store.change_set(change_set.id).await.unwrap().unwrap();
        assert_eq!(read, change_set);
        assert_eq!(ChangeSet::new(read.request, read.run, read.change, read.verdict, at(3)).digest, read.digest);
    }
}

pub async fn every_form_of_an_approval_survives(store: &impl Store) {
    let request = submit(store).await;
    for binding in [Binding::Explicit, Binding::Implicit] {
        let mut approval = samples::approval(&samples::change_set(&samples::run(&request)));
        approval.binding = binding;
        commit(store, Changes { approval: Some(approval.clone()), ..Changes::default() }).await;
        assert_eq!(store.approvals(request.id).await.unwrap().pop(), Some(approval));
    }
}

pub async fn every_form_of_a_merge_request_survives(store: &impl Store) {
    let request = submit(store).await;
    let finding = |severity, line| Finding::new("a.py", line, severity, "todo", "say when", "evidence");
    let findings =
        vec![finding(Severity::Info, None), finding(Severity::Warning, Some(1)), finding(Severity::Error, Some(2))];
    let reviewed = Some(Review { reviewers: vec!["rules".to_owned()], findings, summary: "3".to_owned() });
    for (status, review) in [
        (MergeRequestStatus::Open, None),
        (MergeRequestStatus::Merged, reviewed),
        (MergeRequestStatus::Closed, Some(Review::new(vec![], vec![]))),
    ] {
        let mut merge_request = samples::merge_request(&samples::change_set(&samples::run(&request)));
        (merge_request.status, merge_request.review) = (status, review);
        commit(store, Changes { merge_request: Some(merge_request.clone()), ..Changes::default() }).await;
        let read = store.merge_request(&merge_request.tenant, merge_request.id).await.unwrap();
        assert_eq!(read, Some(merge_request));
    }
}

pub async fn every_kind_of_event_survives(store: &impl Store) {
    let request = submit(store).await;
    let message = || "m".to_owned();
    for kind in [
        EventKind::UserPrompt { message: message() },
        EventKind::UserMessage { message: message() },
        EventKind::status("clone", "cloned"),
        EventKind::Command { command: message(), cwd: None },
        EventKind::Command { command: message(), cwd: Some("/workspace".to_owned()) },
        EventKind::log("line"),
        EventKind::failed("no"),
        EventKind::Error { stage: None, message: message(), output: Some("out".to_owned()), exit_code: Some(-1) },
        EventKind::assistant_message("answer"),
        EventKind::Completed { message: message() },
        EventKind::Cancelled { message: message() },
    ] {
        check_event(store, &request, kind).await;
    }
}

pub async fn every_kind_of_job_survives(store: &impl Store) {
    for kind in [
        JobKind::Execute { run: RunId::random() },
        JobKind::OpenMergeRequest { change_set: ChangeSetId::random() },
        JobKind::Review { merge_request: MergeRequestId::random() },
    ] {
        let request = submit(store).await;
        let job = Job { attempts: 3, ..Job::new(request.tenant, request.id, kind, at(1)) };
        commit(store, Changes { new_jobs: vec![job.clone()], ..Changes::default() }).await;
        assert_eq!(store.waiting_jobs(request.id).await.unwrap(), std::slice::from_ref(&job));
        assert_eq!(store.claim_job(at(2), at(2 + 60), Limits::NONE).await.unwrap(), Some(Job { attempts: 4, ..job }));
    }
}

pub async fn a_full_link_survives(store: &impl Store) {
    for (n, text) in ODD_TEXTS.into_iter().enumerate() {
        let mut link = samples::link();
        link.repository = format!("{n} {text}");
        link.base_url = text.to_owned();
        link.access_token = Some(Secret::new(text));
        link.environment = RepositoryEnvironment {
            base_branch: Some("main".to_owned()),
            setup: Some(text.to_owned()),
            test: Some("make test".to_owned()),
            env: BTreeMap::from([("KEY".to_owned(), text.to_owned())]),
            timeout_seconds: Some(u64::MAX),
            egress: vec!["*.example.com:8443".parse().unwrap()],
        };
        store.add_link(link.clone()).await.unwrap();
        assert_eq!(store.link(&link.tenant, link.id).await.unwrap(), Some(link));
    }
    let mut bare = samples::link();
    bare.access_token = None;
    store.add_link(bare.clone()).await.unwrap();
    assert_eq!(store.link(&bare.tenant, bare.id).await.unwrap(), Some(bare));
}

pub async fn every_role_of_an_api_key_survives(store: &impl Store) {
    for role in Role::ALL {
        let mut key = samples::api_key();
        (key.id, key.role, key.name) = (ApiKeyId::random(), role, ODD_TEXTS.concat());
        store.add_api_key(key.clone()).await.unwrap();
        assert_eq!(store.api_key_by_hash(&key.hash).await.unwrap(), Some(key));
    }
}

pub async fn times_survive_to_the_microsecond(store: &impl Store) {
    let before_1970 = DateTime::<Utc>::UNIX_EPOCH - TimeDelta::microseconds(1);
    for created_at in [at(0) + TimeDelta::microseconds(123_457), before_1970] {
        let request = Request { created_at, updated_at: created_at, ..samples::request() };
        check_request(store, request.clone()).await;
        let event = NewEvent { request: request.id, run: None, kind: EventKind::log("x"), at: created_at };
        store.append(vec![event]).await.unwrap();
        assert_eq!(store.events(request.id, 0, 1).await.unwrap()[0].created_at, created_at);
    }
}

async fn check_request(store: &impl Store, request: Request) {
    commit(store, samples::submitted(&request)).await;
    let read = store.request(&request.tenant, request.id).await.unwrap().unwrap();
    let expected = Request { version: 1, ..request };
    // Not `assert_eq`: a failure would print two texts of megabytes.
    assert!(read == expected, "a request came back changed: {:.300}", format!("{read:?}"));
}

async fn check_run(store: &impl Store, run: Run) {
    commit(store, Changes { runs: vec![run.clone()], ..Changes::default() }).await;
    assert_eq!(store.run(&run.tenant, run.id).await.unwrap(), Some(run));
}

async fn check_event(store: &impl Store, request: &Request, kind: EventKind) {
    let run = Some(RunId::random());
    let event = NewEvent { request: request.id, run, kind: kind.clone(), at: at(2) };
    let seq = store.append(vec![event]).await.unwrap();
    let read = store.events(request.id, seq - 1, 10).await.unwrap();
    assert_eq!((read.len(), read[0].seq, read[0].run_id, read[0].created_at), (1, seq, run, at(2)));
    assert!(read[0].kind == kind, "an event came back changed: {:.300}", format!("{:?}", read[0].kind));
}
