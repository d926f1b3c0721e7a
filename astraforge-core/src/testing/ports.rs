//! The ports of the request spine, played: an agent, a broker, a host, a policy and a reviewer that do what a test says.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use async_trait::async_trait;
use futures::future::{BoxFuture, FutureExt};

use super::{MemoryArtifacts, MemoryAuditLog, MemoryStore, MemoryWakeups, TestClock, samples};
use crate::{
    access::{Caller, Role},
    audit::{Audit, chain::AuditKey},
    cancel::Cancellation,
    forge::{Ports, Settings},
    id::RequestId,
    journal::{Journal, Reporter},
    merge_request::Proposal,
    policy::{Decision, Verdict},
    ports::{
        executor::{AgentExecutor, AgentOutcome, Assignment, Thread},
        git::{Base, GitBroker, GitError, Remote, VcsProvider},
        guest_service::{GuestService, GuestStream},
        policy::{PolicyEngine, PolicyError},
        review::{ReviewError, Reviewer},
        store::Store,
    },
    redact::Redactor,
    registry::Registry,
    repository::{RepositoryEnvironment, RepositoryLink},
    request::{Plan, PlanStep, change_set::Change},
    review::Finding,
    run::RunFailure,
    run_log::RunLogs,
};

/// Everything a forge needs, in memory, with handles to make its parts misbehave.
#[derive(Debug, Clone)]
pub struct Spine {
    /// The rows.
    pub store: Arc<MemoryStore>,
    /// What was done, and by whom.
    pub audit: Arc<MemoryAuditLog>,
    /// The large objects.
    pub artifacts: Arc<MemoryArtifacts>,
    /// The time.
    pub clock: TestClock,
    /// What is secret.
    pub redactor: Redactor,
    /// The agent.
    pub agent: Arc<PlayedAgent>,
    /// The quarantine.
    pub broker: Arc<PlayedBroker>,
    /// The host of repositories, registered as `local`.
    pub host: Arc<PlayedHost>,
    /// What judges changes.
    pub policy: Arc<PlayedPolicy>,
    /// Who reviews.
    pub reviewer: Arc<PlayedReviewer>,
    /// A linked repository of the sample tenant.
    pub link: RepositoryLink,
}

impl Spine {
    /// A spine with one linked repository, whose agent makes a change.
    pub async fn new() -> Self {
        let link = RepositoryLink { provider: "local".to_owned(), ..samples::link() };
        let store = Arc::new(MemoryStore::default());
        store.add_link(link.clone()).await.unwrap();
        Self {
            store,
            audit: Arc::default(),
            artifacts: Arc::default(),
            clock: TestClock::new(),
            redactor: Redactor::default(),
            agent: Arc::default(),
            broker: Arc::default(),
            host: Arc::default(),
            policy: Arc::default(),
            reviewer: Arc::default(),
            link,
        }
    }

    /// The ports, for a forge of one's own.
    #[must_use]
    pub fn ports(&self, settings: Settings) -> Ports {
        let journal = Journal::new(
            RunLogs::from(self.store.clone()).with_archives(self.artifacts.clone()),
            Arc::new(MemoryWakeups::default()),
            Arc::new(self.clock.clone()),
            self.redactor.clone(),
        );
        let clock = Arc::new(self.clock.clone());
        let audit = Audit::new(self.audit.clone(), AuditKey::new([7; 32]), clock, samples::tenant());
        let journal = journal.with_audit(audit);
        let mut providers: Registry<dyn VcsProvider> = Registry::new("VCS provider");
        let host = self.host.clone();
        providers.register("local", move || Ok(host.clone())).unwrap();
        Ports {
            journal,
            executor: self.agent.clone(),
            broker: self.broker.clone(),
            providers,
            policy: self.policy.clone(),
            reviewers: vec![self.reviewer.clone()],
            artifacts: self.artifacts.clone(),
            settings,
        }
    }

    /// Somebody of the sample tenant.
    #[must_use]
    pub fn caller(&self, user: &str, role: Role) -> Caller {
        samples::caller(user, role)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Play =
    dyn Fn(Assignment, Reporter, Cancellation) -> BoxFuture<'static, Result<AgentOutcome, RunFailure>> + Send + Sync;

/// An agent that does what a test says; unless told otherwise it changes something and says so.
pub struct PlayedAgent {
    play: Mutex<Arc<Play>>,
    assignments: Mutex<Vec<Assignment>>,
}

impl PlayedAgent {
    /// Sets what the agent does from now on.
    pub fn play(
        &self,
        play: impl Fn(Assignment, Reporter, Cancellation) -> BoxFuture<'static, Result<AgentOutcome, RunFailure>>
        + Send
        + Sync
        + 'static,
    ) {
        *lock(&self.play) = Arc::new(play);
    }

    /// What the agent was given, in order.
    #[must_use]
    pub fn assignments(&self) -> Vec<Assignment> {
        lock(&self.assignments).clone()
    }
}

impl Default for PlayedAgent {
    fn default() -> Self {
        let play: Arc<Play> = Arc::new(|_, _, _| {
            futures::future::ready(Ok(AgentOutcome {
                final_message: Some("Fixed it.".to_owned()),
                thread: Some(Thread { id: "thread-1".to_owned(), rollout: "{}\n".into() }),
                head_commit: Some("b".repeat(40)),
                exit_code: Some(0),
                tests: None,
            }))
            .boxed()
        });
        Self { play: Mutex::new(play), assignments: Mutex::default() }
    }
}

impl fmt::Debug for PlayedAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlayedAgent").finish_non_exhaustive()
    }
}

#[async_trait]
impl AgentExecutor for PlayedAgent {
    async fn execute(
        &self,
        assignment: Assignment,
        reporter: Reporter,
        cancel: Cancellation,
    ) -> Result<AgentOutcome, RunFailure> {
        lock(&self.assignments).push(assignment.clone());
        let play = lock(&self.play).clone();
        play(assignment, reporter, cancel).await
    }

    async fn plan(&self, prompt: &str, _environment: &RepositoryEnvironment) -> Result<Plan, RunFailure> {
        let step = PlanStep { description: format!("Do: {prompt}"), completed: false, risk: None };
        Ok(Plan { steps: vec![step], summary: "A played plan".to_owned() })
    }
}

/// A broker that holds no repository: it tells of one change, and notes what is published.
#[derive(Debug)]
pub struct PlayedBroker {
    change: Mutex<Option<Change>>,
    mirror_error: Mutex<Option<GitError>>,
    stalls: AtomicBool,
    kept: Mutex<Vec<String>>,
    published: Mutex<Vec<(String, String)>>,
    discarded: AtomicBool,
}

impl Default for PlayedBroker {
    fn default() -> Self {
        Self {
            change: Mutex::new(Some(samples::change_set(&samples::run(&samples::request())).change)),
            mirror_error: Mutex::default(),
            stalls: AtomicBool::new(false),
            kept: Mutex::default(),
            published: Mutex::default(),
            discarded: AtomicBool::new(false),
        }
    }
}

impl PlayedBroker {
    /// Sets the change that the quarantine holds.
    pub fn holds(&self, change: Option<Change>) {
        *lock(&self.change) = change;
    }

    /// Lets the next mirroring fail.
    pub fn fails_to_mirror(&self, error: GitError) {
        *lock(&self.mirror_error) = Some(error);
    }

    /// Lets every mirroring from now on wait for a host that does not answer.
    pub fn stalls(&self) {
        self.stalls.store(true, Ordering::SeqCst);
    }

    /// The commits whose changes were kept.
    #[must_use]
    pub fn kept(&self) -> Vec<String> {
        lock(&self.kept).clone()
    }

    /// What was published: commit and branch.
    #[must_use]
    pub fn published(&self) -> Vec<(String, String)> {
        lock(&self.published).clone()
    }

    /// Whether a quarantine was thrown away.
    #[must_use]
    pub fn discarded(&self) -> bool {
        self.discarded.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl GitBroker for PlayedBroker {
    async fn mirror(
        &self,
        _request: RequestId,
        _remote: &Remote,
        branch: Option<&str>,
        standing: Option<&Change>,
    ) -> Result<Base, GitError> {
        if let Some(error) = lock(&self.mirror_error).take() {
            return Err(error);
        }
        if self.stalls.load(Ordering::SeqCst) {
            futures::future::pending::<()>().await;
        }
        Ok(Base {
            branch: branch.unwrap_or("main").to_owned(),
            commit: "a".repeat(40),
            work_head: standing.map(|change| change.head_commit.clone()),
        })
    }

    fn service(&self, _request: RequestId, _work_branch: &str) -> Arc<dyn GuestService> {
        Arc::new(NoService)
    }

    async fn change(&self, _request: RequestId, _base: &Base, _branch: &str) -> Result<Option<Change>, GitError> {
        Ok(lock(&self.change).clone())
    }

    async fn keep(&self, _request: RequestId, change: &Change) -> Result<(), GitError> {
        lock(&self.kept).push(change.head_commit.clone());
        Ok(())
    }

    async fn publish(&self, _request: RequestId, _remote: &Remote, commit: &str, branch: &str) -> Result<(), GitError> {
        lock(&self.published).push((commit.to_owned(), branch.to_owned()));
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
        if before == Some(commit) {
            return Ok(false);
        }
        let mut published = lock(&self.published);
        let n_published = published.len();
        published.retain(|(there, name)| (there.as_str(), name.as_str()) != (commit, branch));
        let took = published.len() < n_published;
        published.extend(before.filter(|_| took).map(|before| (before.to_owned(), branch.to_owned())));
        Ok(took)
    }

    async fn discard(&self, _request: RequestId) -> Result<(), GitError> {
        self.discarded.store(true, Ordering::SeqCst);
        Ok(())
    }
}

/// A service that hangs up.
#[derive(Debug)]
struct NoService;

#[async_trait]
impl GuestService for NoService {
    async fn serve(&self, _stream: GuestStream) {}
}

/// A host of repositories that opens merge requests without any repository.
#[derive(Debug, Default)]
pub struct PlayedHost {
    opened: AtomicU32,
    open_error: Mutex<Option<GitError>>,
    findings: Mutex<Vec<Finding>>,
}

impl PlayedHost {
    /// How many merge requests were opened.
    #[must_use]
    pub fn n_opened(&self) -> u32 {
        self.opened.load(Ordering::SeqCst)
    }

    /// Lets the next opening fail.
    pub fn fails_to_open(&self, error: GitError) {
        *lock(&self.open_error) = Some(error);
    }

    /// The findings that were posted.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        lock(&self.findings).clone()
    }
}

#[async_trait]
impl VcsProvider for PlayedHost {
    async fn remote(&self, link: &RepositoryLink) -> Result<Remote, GitError> {
        Ok(Remote { url: format!("/played/{}", link.repository), publish_url: None, token: link.access_token.clone() })
    }

    async fn open_merge_request(&self, link: &RepositoryLink, proposal: &Proposal) -> Result<String, GitError> {
        if let Some(error) = lock(&self.open_error).take() {
            return Err(error);
        }
        self.opened.fetch_add(1, Ordering::SeqCst);
        Ok(format!("played://{}/{}", link.repository, proposal.source_branch))
    }

    async fn post_findings(&self, _link: &RepositoryLink, _url: &str, findings: &[Finding]) -> Result<(), GitError> {
        lock(&self.findings).extend_from_slice(findings);
        Ok(())
    }
}

/// A policy whose verdict a test sets.
#[derive(Debug)]
pub struct PlayedPolicy(Mutex<Verdict>);

impl Default for PlayedPolicy {
    fn default() -> Self {
        let verdict = Verdict { policy_version: "played-1".to_owned(), decision: Decision::Allow, reasons: Vec::new() };
        Self(Mutex::new(verdict))
    }
}

impl PlayedPolicy {
    /// Sets the verdict from now on.
    pub fn decides(&self, verdict: Verdict) {
        *lock(&self.0) = verdict;
    }
}

#[async_trait]
impl PolicyEngine for PlayedPolicy {
    async fn evaluate(&self, _change: &Change) -> Result<Verdict, PolicyError> {
        Ok(lock(&self.0).clone())
    }
}

/// A reviewer whose findings a test sets.
#[derive(Debug, Default)]
pub struct PlayedReviewer {
    outcome: Mutex<Option<Result<Vec<Finding>, String>>>,
    is_broken: AtomicBool,
}

impl PlayedReviewer {
    /// Sets what it finds, or why it fails, from now on.
    pub fn finds(&self, outcome: Result<Vec<Finding>, String>) {
        *lock(&self.outcome) = Some(outcome);
    }

    /// Lets it panic from now on.
    pub fn breaks(&self) {
        self.is_broken.store(true, Ordering::SeqCst);
    }
}

#[async_trait]
impl Reviewer for PlayedReviewer {
    fn name(&self) -> &str {
        "played"
    }

    async fn review(&self, _change: &Change) -> Result<Vec<Finding>, ReviewError> {
        assert!(!self.is_broken.load(Ordering::SeqCst), "this reviewer is broken");
        match lock(&self.outcome).clone().unwrap_or_else(|| Ok(Vec::new())) {
            Ok(findings) => Ok(findings),
            Err(reason) => Err(ReviewError { reviewer: "played".to_owned(), source: reason.into() }),
        }
    }
}
