//! The ports for repositories: the broker that keeps agents away from them, and the hosts that hold them.

use std::{fmt, sync::Arc};

use async_trait::async_trait;

use crate::{
    BoxError,
    id::RequestId,
    merge_request::Proposal,
    ports::guest_service::GuestService,
    repository::{RepositoryLink, Secret},
    request::change_set::Change,
    review::Finding,
};

/// Stands between workspaces and real repositories: a workspace clones from and pushes to a quarantine of its request.
///
/// # Contract
/// - Runs git only over bare repositories that it made itself, with hooks off; never over a tree that an agent wrote.
/// - A quarantine survives a restart of the server, and is gone after [`discard`](Self::discard). What was
///   [kept](Self::keep) is not: another server, with a quarantine of its own, goes on from there.
#[async_trait]
pub trait GitBroker: fmt::Debug + Send + Sync + 'static {
    /// Fetches `branch` (the repository's default branch if `None`) of the real repository into the request's
    /// quarantine and tells what it found.
    ///
    /// The work branch then stands at `standing`, the change of the newest run that came to its end, and is gone
    /// without one, whatever a run that failed has pushed since.
    ///
    /// # Errors
    /// [`GitError::NoRepository`], [`GitError::NoBranch`], [`GitError::Empty`]; [`GitError::Refused`] also when
    /// `standing` is neither here nor kept.
    async fn mirror(
        &self,
        request: RequestId,
        remote: &Remote,
        branch: Option<&str>,
        standing: Option<&Change>,
    ) -> Result<Base, GitError>;

    /// Returns a git server over the quarantine that takes pushes to `work_branch` only.
    fn service(&self, request: RequestId, work_branch: &str) -> Arc<dyn GuestService>;

    /// Describes what `work_branch` of the quarantine changes against its merge base with `base`; `None` when nothing.
    async fn change(&self, request: RequestId, base: &Base, work_branch: &str) -> Result<Option<Change>, GitError>;

    /// Keeps a change where every server finds it, under its commit: what another run of the request keeps, even one
    /// that should have ended long ago, is kept beside it.
    async fn keep(&self, request: RequestId, change: &Change) -> Result<(), GitError>;

    /// Makes `branch` of the real repository point at `commit`, which is in the quarantine or kept. Doing it twice is
    /// the same as once.
    ///
    /// # Errors
    /// [`GitError::Diverged`] when the branch is there and holds something else.
    async fn publish(&self, request: RequestId, remote: &Remote, commit: &str, branch: &str) -> Result<(), GitError>;

    /// Takes back what [`publish`](Self::publish) did: `branch` of the real repository points at `before` again, or is gone
    /// without one. Tells whether there was anything to take back: a branch that holds something else than `commit` stays
    /// as it is. Doing it twice is the same as once.
    async fn withdraw(
        &self,
        request: RequestId,
        remote: &Remote,
        commit: &str,
        branch: &str,
        before: Option<&str>,
    ) -> Result<bool, GitError>;

    /// Removes the request's quarantine of this server; one that does not exist is `Ok(())`.
    async fn discard(&self, request: RequestId) -> Result<(), GitError>;
}

/// What a run starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// The branch.
    pub branch: String,
    /// Its commit, in full.
    pub commit: String,
    /// The head of the request's work branch, when an earlier run's change stands.
    pub work_head: Option<String>,
}

/// Where the real repository is, and what opens it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// A URL or path, as git takes it, without a credential in it.
    pub url: String,
    /// Where published branches go, when that is not `url`.
    pub publish_url: Option<String>,
    /// The credential.
    pub token: Option<Secret>,
}

/// A host of repositories: it knows where they are, and opens merge requests.
///
/// # Contract
/// `open_merge_request` is looked up before it is repeated: the same source branch and commit yield the same merge request.
#[async_trait]
pub trait VcsProvider: fmt::Debug + Send + Sync + 'static {
    /// Returns where the linked repository is, or why it can't be used.
    async fn remote(&self, link: &RepositoryLink) -> Result<Remote, GitError>;

    /// Opens a merge request and returns its address.
    async fn open_merge_request(&self, link: &RepositoryLink, proposal: &Proposal) -> Result<String, GitError>;

    /// Posts findings on a merge request. Posting a finding twice (same fingerprint) is the same as once.
    async fn post_findings(&self, link: &RepositoryLink, url: &str, findings: &[Finding]) -> Result<(), GitError>;
}

/// Why something about a repository failed, in words that a person understands.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GitError {
    /// The repository is not there, or may not be used.
    #[error("repository `{repository}` cannot be used: {reason}")]
    NoRepository {
        /// The repository, as it was named.
        repository: String,
        /// Why, and what to do about it.
        reason: String,
    },
    /// The repository has no commit.
    #[error("repository `{repository}` has no commit yet; push one first")]
    Empty {
        /// The repository, as it was named.
        repository: String,
    },
    /// The repository has no such branch.
    #[error("repository `{repository}` has no branch `{branch}`; its branches are: {}", known.join(", "))]
    NoBranch {
        /// The repository, as it was named.
        repository: String,
        /// The branch asked for.
        branch: String,
        /// Some branches that it has.
        known: Vec<String>,
    },
    /// The published branch holds something else.
    #[error(
        "branch `{branch}` of the repository holds something else already; remove or rename it there and approve again"
    )]
    Diverged {
        /// The branch.
        branch: String,
    },
    /// Contents that are not taken in, such as broken objects.
    #[error("git refused: {reason}")]
    Refused {
        /// What git said.
        reason: String,
    },
    /// The host of the repository does not answer at the moment.
    #[error("the host of repository `{repository}` cannot be reached from this machine")]
    Unreachable {
        /// The repository, as it was named.
        repository: String,
    },
    /// Git or the host failed.
    #[error("failed to {operation}")]
    Backend {
        /// What was tried.
        operation: &'static str,
        /// What came of it.
        #[source]
        source: BoxError,
    },
}

impl GitError {
    /// Tells whether the same call may succeed later, with nothing changed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Backend { .. })
    }
}
