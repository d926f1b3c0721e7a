//! The ports of one actor, over the world that all share: each call may fail, hang, or be the last.

use std::sync::Arc;

use astraforge_core::{
    access::ApiKey,
    cancel::Cancellation,
    event::{EventKind, NewEvent, RunEvent},
    id::{ApiKeyId, ChangeSetId, JobId, MergeRequestId, RepositoryLinkId, RequestId, RunId, TenantId},
    idempotency::{Attempt, Begun, CallName, Fingerprint, Outcome},
    job::{Claim, Job, JobState, Limits, QueuedJob},
    journal::Reporter,
    merge_request::{MergeRequest, Proposal},
    page::{Page, Paged},
    ports::{
        call_store::CallStore,
        executor::{AgentExecutor, AgentOutcome, Assignment},
        git::{Base, GitBroker, GitError, Remote, VcsProvider},
        guest_service::{GuestService, GuestStream},
        store::{Changes, LogEnd, LogState, RestingLog, Store, StoreError},
    },
    repository::{RepositoryEnvironment, RepositoryLink},
    request::{
        Attachment, Message, Plan, Request, RequestState,
        approval::Approval,
        change_set::{Change, ChangeSet},
    },
    review::Finding,
    run::{FailureCause, Run, RunFailure, Usage},
    run_log::LogArchive,
    schedule::Turn,
    testing::samples,
};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures::future::{Either, select};

use super::{
    story::Store as Kind,
    world::{Trouble, Who, World},
};

/// The outside, as one actor sees it.
#[derive(Debug, Clone)]
pub(super) struct Outside {
    pub(super) world: Arc<World>,
    pub(super) who: Who,
}

impl Outside {
    /// A call of the store.
    async fn stored<T: Send>(
        &self,
        call: &'static str,
        done: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        self.world.before(self.who, call).await.map_err(store_trouble)?;
        let answer = done.await;
        self.world.after(self.who, call).await.map_err(store_trouble)?;
        answer
    }

    async fn written(&self, mut changes: Changes) -> Result<u64, StoreError> {
        let claim = changes.claim;
        if self.world.kind == Kind::IgnoresClaims {
            changes.claim = None;
        }
        let answer = self.world.store.commit(changes).await;
        match (&answer, claim) {
            (Ok(_), Some(claim)) => self.world.note_write(claim),
            (Err(error), _) => {
                let why = if matches!(error, StoreError::ClaimLost { .. }) { "the job is lost" } else { "a conflict" };
                self.world.note(|| format!("{:?}: {why}", self.who));
            }
            _ => {}
        }
        answer
    }

    async fn got(
        &self,
        job: impl Future<Output = Result<Option<Job>, StoreError>> + Send,
    ) -> Result<Option<Job>, StoreError> {
        let job = job.await?;
        job.iter().for_each(|job| self.world.note_attempt(self.who, job));
        Ok(job)
    }

    /// A call of a git host.
    async fn hosted<T>(&self, call: &'static str, done: impl FnOnce() -> Result<T, GitError>) -> Result<T, GitError> {
        self.world.before(self.who, call).await.map_err(git_trouble)?;
        let answer = done();
        self.world.after(self.who, call).await.map_err(git_trouble)?;
        answer
    }
}

fn store_trouble(trouble: Trouble) -> StoreError {
    StoreError::Backend { operation: "answer", source: trouble.into() }
}

fn git_trouble(trouble: Trouble) -> GitError {
    GitError::Backend { operation: "reach the host", source: trouble.into() }
}

/// The store's methods, each a call that may go wrong, and those that are more than that.
macro_rules! store {
    (
        $(fn $name:ident($($argument:ident: $type:ty),*) -> $answer:ty;)*
    ) => {
        #[async_trait]
        impl Store for Outside {
            $(async fn $name(&self, $($argument: $type),*) -> Result<$answer, StoreError> {
                self.stored(stringify!($name), self.world.store.$name($($argument),*)).await
            })*

            async fn commit(&self, changes: Changes) -> Result<u64, StoreError> {
                self.stored("commit", self.written(changes)).await
            }

            async fn append(&self, events: Vec<NewEvent>) -> Result<u64, StoreError> {
                self.stored("append", self.world.store.append(events)).await
            }

            async fn claim_job(
                &self,
                now: DateTime<Utc>,
                until: DateTime<Utc>,
                limits: Limits,
            ) -> Result<Option<Job>, StoreError> {
                let claimed = self.world.store.claim_job(now, until, limits);
                self.stored("claim_job", self.got(claimed)).await
            }

            async fn take_over_job(&self, now: DateTime<Utc>, until: DateTime<Utc>) -> Result<Option<Job>, StoreError> {
                self.stored("take_over_job", self.got(self.world.store.take_over_job(now, until))).await
            }

            async fn renew_lease(&self, claim: Claim, until: DateTime<Utc>) -> Result<bool, StoreError> {
                if self.world.kind == Kind::RenewsNothing {
                    return self.stored("renew_lease", async { Ok(true) }).await;
                }
                self.stored("renew_lease", self.world.store.renew_lease(claim, until)).await
            }
        }
    };
}

store! {
    fn request(tenant: &TenantId, id: RequestId) -> Option<Request>;
    fn requests(tenant: &TenantId) -> Vec<Request>;
    fn requests_page(tenant: &TenantId, state: Option<RequestState>, page: Page) -> Paged<Request>;
    fn messages(request: RequestId) -> Vec<Message>;
    fn attachments(request: RequestId) -> Vec<Attachment>;
    fn run(tenant: &TenantId, id: RunId) -> Option<Run>;
    fn runs_of(request: RequestId) -> Vec<Run>;
    fn runs(tenant: &TenantId) -> Vec<Run>;
    fn runs_page(tenant: &TenantId, request: Option<RequestId>, page: Page) -> Paged<Run>;
    fn cancel_requested(run: RunId) -> bool;
    fn add_usage(run: RunId, usage: Usage) -> ();
    fn change_set(id: ChangeSetId) -> Option<ChangeSet>;
    fn latest_change_set(request: RequestId) -> Option<ChangeSet>;
    fn approvals(request: RequestId) -> Vec<Approval>;
    fn merge_request(tenant: &TenantId, id: MergeRequestId) -> Option<MergeRequest>;
    fn merge_requests(tenant: &TenantId) -> Vec<MergeRequest>;
    fn merge_requests_page(tenant: &TenantId, request: Option<RequestId>, page: Page) -> Paged<MergeRequest>;
    fn merge_request_of(request: RequestId) -> Option<MergeRequest>;
    fn events(request: RequestId, after: u64, limit: u32) -> Vec<RunEvent>;
    fn events_of_run(run: RunId) -> Vec<RunEvent>;
    fn last_event(request: RequestId) -> u64;
    fn recent_logs(since: DateTime<Utc>, limit: u32) -> Vec<LogEnd>;
    fn log_states(requests: &[RequestId]) -> Vec<LogState>;
    fn logs_size() -> u64;
    fn resting_logs(limit: u32) -> Vec<RestingLog>;
    fn archives(request: RequestId) -> Vec<LogArchive>;
    fn archive(archive: &LogArchive) -> bool;
    fn running_jobs() -> Vec<Job>;
    fn waiting_jobs(request: RequestId) -> Vec<Job>;
    fn dead_jobs(request: RequestId) -> Vec<Job>;
    fn job(id: JobId) -> Option<QueuedJob>;
    fn jobs(state: JobState, limit: u32) -> Vec<QueuedJob>;
    fn take_turn(schedule: &str, now: DateTime<Utc>, until: DateTime<Utc>) -> Option<Turn>;
    fn renew_turn(turn: &Turn, until: DateTime<Utc>) -> bool;
    fn end_turn(turn: &Turn, due_at: DateTime<Utc>) -> bool;
    fn add_link(link: RepositoryLink) -> ();
    fn link(tenant: &TenantId, id: RepositoryLinkId) -> Option<RepositoryLink>;
    fn links(tenant: &TenantId) -> Vec<RepositoryLink>;
    fn links_page(tenant: &TenantId, page: Page) -> Paged<RepositoryLink>;
    fn update_link(link: RepositoryLink) -> bool;
    fn remove_link(tenant: &TenantId, id: RepositoryLinkId) -> bool;
    fn add_api_key(key: ApiKey) -> ();
    fn api_key_by_hash(hash: &str) -> Option<ApiKey>;
    fn api_keys(tenant: &TenantId) -> Vec<ApiKey>;
    fn api_keys_page(tenant: &TenantId, page: Page) -> Paged<ApiKey>;
    fn count_api_keys() -> u64;
    fn revoke_api_key(tenant: &TenantId, id: ApiKeyId) -> bool;
    fn touch_api_key(id: ApiKeyId, now: DateTime<Utc>) -> bool;
}

#[async_trait]
impl CallStore for Outside {
    async fn begin_call(
        &self,
        call: &CallName,
        fingerprint: Fingerprint,
        now: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> Result<Begun, StoreError> {
        self.stored("begin_call", self.world.store.begin_call(call, fingerprint, now, until)).await
    }

    async fn renew_attempt(&self, attempt: &Attempt, until: DateTime<Utc>) -> Result<bool, StoreError> {
        self.stored("renew_attempt", self.world.store.renew_attempt(attempt, until)).await
    }

    async fn end_call(&self, attempt: &Attempt, outcome: &Outcome, now: DateTime<Utc>) -> Result<bool, StoreError> {
        self.stored("end_call", self.world.store.end_call(attempt, outcome, now)).await
    }

    async fn give_up_attempt(&self, attempt: &Attempt) -> Result<bool, StoreError> {
        self.stored("give_up_attempt", self.world.store.give_up_attempt(attempt)).await
    }

    async fn forget_calls(&self, now: DateTime<Utc>, limit: u32) -> Result<u64, StoreError> {
        self.stored("forget_calls", self.world.store.forget_calls(now, limit)).await
    }
}

#[async_trait]
impl AgentExecutor for Outside {
    async fn execute(
        &self,
        assignment: Assignment,
        reporter: Reporter,
        cancel: Cancellation,
    ) -> Result<AgentOutcome, RunFailure> {
        let Assignment { request, run, .. } = assignment;
        let (world, who) = (&self.world, self.who);
        let (job, attempt) = {
            let book = &mut world.state().book;
            *book.executions.entry(run).or_default() += 1;
            let job = book.jobs_of_runs[&run];
            (job, book.attempts[&job].0)
        };
        let n_steps = if world.chance.happens(3500) { world.chance.number(10, 25) } else { world.chance.number(0, 5) };
        // An agent that thinks says nothing for a while, so no refused write stops it.
        let thinks = world.chance.happens(5000);
        for step in 0..n_steps {
            let work = async {
                world.wait(100, 8000).await;
                world.before(who, "agent").await
            };
            match select(std::pin::pin!(work), std::pin::pin!(cancel.cancelled())).await {
                Either::Left((done, _)) => {
                    done.map_err(|trouble| RunFailure::new(FailureCause::Sandbox, trouble.0))?;
                }
                Either::Right(_) => {
                    world.wait(0, 2000).await;
                    return Err(RunFailure::new(FailureCause::Cancelled, "Run cancelled"));
                }
            }
            world.note_agent(who, job, attempt);
            if thinks {
                continue;
            }
            let told = reporter.emit(EventKind::log(format!("step {step}"))).await;
            told.map_err(|error| RunFailure::new(FailureCause::Internal, error.to_string()))?;
        }
        if world.chance.happens(1000) {
            return Err(RunFailure::new(FailureCause::Agent, "The agent gave up."));
        }
        let mut outcome = AgentOutcome { final_message: Some("Done.".to_owned()), ..AgentOutcome::default() };
        if world.chance.happens(8500) {
            let book = &mut world.state().book;
            let commits = book.quarantines.entry(request).or_default();
            let head = format!("{:0>40}", format!("{:x}{:0>4x}", world.chance.number(1, u64::MAX), commits.len()));
            commits.push(head.clone());
            book.heads.insert(request, Some(head.clone()));
            outcome.head_commit = Some(head);
        }
        Ok(outcome)
    }

    async fn plan(&self, _prompt: &str, _environment: &RepositoryEnvironment) -> Result<Plan, RunFailure> {
        Err(RunFailure::new(FailureCause::Agent, "nobody plans here"))
    }
}

#[async_trait]
impl GitBroker for Outside {
    async fn mirror(
        &self,
        request: RequestId,
        _remote: &Remote,
        _branch: Option<&str>,
        standing: Option<&Change>,
    ) -> Result<Base, GitError> {
        self.hosted("mirror", || {
            let work_head = standing.map(|change| change.head_commit.clone());
            self.world.state().book.heads.insert(request, work_head.clone());
            Ok(Base { branch: "main".to_owned(), commit: "a".repeat(40), work_head })
        })
        .await
    }

    fn service(&self, _request: RequestId, _work_branch: &str) -> Arc<dyn GuestService> {
        Arc::new(NoService)
    }

    async fn change(&self, request: RequestId, base: &Base, branch: &str) -> Result<Option<Change>, GitError> {
        self.hosted("change", || {
            let head = self.world.state().book.heads.get(&request).cloned().flatten();
            let sample = samples::change_set(&samples::run(&samples::request())).change;
            Ok(head.map(|head| Change {
                branch: branch.to_owned(),
                base_commit: base.commit.clone(),
                head_commit: head.clone(),
                head_tree: head,
                ..sample
            }))
        })
        .await
    }

    async fn keep(&self, _request: RequestId, _change: &Change) -> Result<(), GitError> {
        self.hosted("keep", || Ok(())).await
    }

    /// Without force, as the real one: to a commit that is there, or that follows what is there.
    async fn publish(&self, request: RequestId, _remote: &Remote, commit: &str, branch: &str) -> Result<(), GitError> {
        self.hosted("publish", || {
            let book = &mut self.world.state().book;
            let quarantine = book.quarantines.get(&request).map_or(&[][..], Vec::as_slice);
            let position = |commit: &str| quarantine.iter().position(|known| known == commit);
            let held = book.branches.entry(branch.to_owned()).or_default();
            match held.last() {
                Some(there) if there == commit => return Ok(()),
                Some(there) if position(there) > position(commit) => {
                    return Err(GitError::Diverged { branch: branch.to_owned() });
                }
                _ => held.push(commit.to_owned()),
            }
            Ok(())
        })
        .await?;
        self.world.note(|| format!("{:?} published {branch}", self.who));
        Ok(())
    }

    async fn withdraw(
        &self,
        _request: RequestId,
        _remote: &Remote,
        commit: &str,
        branch: &str,
        before: Option<&str>,
    ) -> Result<bool, GitError> {
        self.hosted("withdraw", || {
            let book = &mut self.world.state().book;
            let held = book.branches.entry(branch.to_owned()).or_default();
            if before == Some(commit) || held.last().map(String::as_str) != Some(commit) {
                return Ok(false);
            }
            held.pop();
            if before.is_none() {
                // A host closes what is open for a branch that goes.
                held.clear();
                book.opened.remove(branch);
            }
            Ok(true)
        })
        .await
    }

    async fn discard(&self, request: RequestId) -> Result<(), GitError> {
        self.world.state().book.quarantines.remove(&request);
        Ok(())
    }
}

#[async_trait]
impl VcsProvider for Outside {
    async fn remote(&self, link: &RepositoryLink) -> Result<Remote, GitError> {
        let remote = Remote { url: format!("/simulated/{}", link.repository), publish_url: None, token: None };
        self.hosted("remote", || Ok(remote)).await
    }

    /// One merge request a branch, as hosts have it.
    async fn open_merge_request(&self, _link: &RepositoryLink, proposal: &Proposal) -> Result<String, GitError> {
        let branch = &proposal.source_branch;
        self.hosted("open_merge_request", || {
            let book = &mut self.world.state().book;
            let there = book.branches.get(branch).and_then(|commits| commits.last());
            if there != Some(&proposal.commit) {
                return Err(GitError::Diverged { branch: branch.clone() });
            }
            book.opened.insert(branch.clone());
            Ok(format!("simulated://{branch}"))
        })
        .await
    }

    async fn post_findings(&self, _link: &RepositoryLink, _url: &str, _findings: &[Finding]) -> Result<(), GitError> {
        self.hosted("post_findings", || Ok(())).await
    }
}

/// A service that hangs up.
#[derive(Debug)]
struct NoService;

#[async_trait]
impl GuestService for NoService {
    async fn serve(&self, _stream: GuestStream) {}
}
