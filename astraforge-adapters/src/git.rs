//! The git broker: workspaces clone from and push to a quarantine of their request, never to a real repository.

use std::{path::PathBuf, sync::Arc, time::Duration};

use astraforge_core::{
    id::RequestId,
    ports::{
        artifacts::ArtifactStore,
        git::{Base, GitBroker, GitError, Remote},
        guest_service::GuestService,
    },
    request::change_set::Change,
    session::ByteSize,
};
use async_trait::async_trait;

mod bundle;
mod change;
mod daemon;
pub(crate) mod failure;
mod mirror;
mod publish;
pub(crate) mod quarantine;
pub(crate) mod run;

use self::{argv::Call, daemon::Daemon, quarantine::Bare, run::Git};
pub(crate) use astraforge_core::git::{argv, parse, refname};

/// The oldest git whose serving side does not fetch missing objects on its own.
const OLDEST_GIT: (u32, u32) = (2, 39);

/// How a [`Quarantine`] works.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct QuarantineConfig {
    /// The absolute folder of the quarantines. It is made if it is missing, readable by this user only.
    pub dir: PathBuf,
    /// Where changes are kept as bundles, so that another server can go on from them. All servers share it.
    pub artifacts: Arc<dyn ArtifactStore>,
    /// The git program; `git` is looked for in `/usr/local/bin`, `/usr/bin` and `/bin`.
    pub git: PathBuf,
    /// The largest pack that a workspace may push at once; 512 MiB unless set.
    pub max_push: ByteSize,
    /// How much all pushes of one request may add to its quarantine; 2 GiB unless set.
    pub max_growth: ByteSize,
    /// The largest diff of a change; 20 MiB unless set.
    pub max_diff: ByteSize,
    /// How long one git call or connection may take; an hour unless set.
    pub timeout: Duration,
    /// How much memory one git process may allocate, on Linux; 2 GiB unless set.
    pub max_memory: ByteSize,
}

impl QuarantineConfig {
    /// A configuration with the defaults.
    pub fn new(dir: impl Into<PathBuf>, artifacts: Arc<dyn ArtifactStore>) -> Self {
        Self {
            dir: dir.into(),
            artifacts,
            git: PathBuf::from("git"),
            max_push: ByteSize::mib(512),
            max_growth: ByteSize::gib(2),
            max_diff: ByteSize::mib(20),
            timeout: Duration::from_secs(3600),
            max_memory: ByteSize::gib(2),
        }
    }

    /// Sets the git program.
    #[must_use]
    pub fn with_git(mut self, git: impl Into<PathBuf>) -> Self {
        self.git = git.into();
        self
    }

    /// Sets the largest pack that a workspace may push at once.
    #[must_use]
    pub fn with_max_push(mut self, size: ByteSize) -> Self {
        self.max_push = size;
        self
    }

    /// Sets how much all pushes of one request may add to its quarantine.
    #[must_use]
    pub fn with_max_growth(mut self, size: ByteSize) -> Self {
        self.max_growth = size;
        self
    }

    /// Sets the largest diff of a change.
    #[must_use]
    pub fn with_max_diff(mut self, size: ByteSize) -> Self {
        self.max_diff = size;
        self
    }

    /// Sets how long one git call or connection may take.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets how much memory one git process may allocate.
    #[must_use]
    pub fn with_max_memory(mut self, size: ByteSize) -> Self {
        self.max_memory = size;
        self
    }
}

/// Keeps one bare repository a request, `<dir>/<request id>.git`, between its workspaces and the real repository.
///
/// Its refs are `refs/base/<branch>` (as fetched; no workspace can see or move it), `refs/heads/<branch>` (the same,
/// for workspaces to clone) and `refs/heads/<work branch>` (the only ref that a workspace can push).
///
/// # What is believed
/// Nothing of what git reads from a repository that it did not make. Every call names its repository, clears the
/// environment, turns off system and user configuration, hooks, file system monitors, credential helpers, replace
/// refs and lazy fetching, and allows one transport or none. A real repository in a local folder is served by a git
/// with the same settings: its hooks, `core.sshCommand`, `core.fsmonitor`, `core.alternateRefsCommand`,
/// `uploadpack.packObjectsHook`, promisor remotes and `url.*.insteadOf` do nothing, which the tests show with the
/// real program. Its alternates are read as data, so a clone made with `git clone --shared` works. Objects are
/// checked (`transfer.fsckObjects`) whichever side they come from.
///
/// ```
/// use std::sync::Arc;
/// use astraforge_adapters::{artifacts::FolderArtifacts, git::{Quarantine, QuarantineConfig}};
/// use astraforge_core::{id::RequestId, ports::git::GitBroker as _};
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let dir = tempfile::tempdir().unwrap();
/// let artifacts = Arc::new(FolderArtifacts::new(dir.path().join("artifacts")));
/// let broker = Quarantine::new(QuarantineConfig::new(dir.path().join("quarantine"), artifacts));
/// broker.discard(RequestId::random()).await.unwrap();
/// # });
/// ```
#[derive(Debug, Clone)]
pub struct Quarantine {
    config: Arc<QuarantineConfig>,
    git: Git,
}

impl Quarantine {
    /// A broker over `config.dir`; nothing is touched before the first call.
    #[must_use]
    pub fn new(config: QuarantineConfig) -> Self {
        let max_memory = config.max_memory.as_bytes();
        let git = Git { program: config.git.clone(), timeout: config.timeout, max_memory };
        Self { config: Arc::new(config), git }
    }

    /// Checks that git is there and new enough, and returns its version.
    ///
    /// # Errors
    /// [`GitError::Backend`] says how to install it; [`GitError::Refused`] says which version is needed.
    pub async fn check_git(&self) -> Result<String, GitError> {
        let call = Call::bare_verb(self.git.path(), "version");
        let text = self.git.ask(call, "ask git for its version").await?.line("ask git for its version")?;
        match parse::version(text.as_bytes()) {
            Some(version) if version >= OLDEST_GIT => Ok(text),
            _ => Err(failure::refused(format!("git 2.39 or later is needed, and this is `{text}`; update git"))),
        }
    }

    /// Removes what a server that was killed left half done: temporary files and folders older than any call may be.
    ///
    /// # Errors
    /// [`GitError::Backend`] when the folder cannot be read.
    pub async fn sweep(&self) -> Result<(), GitError> {
        self.sweep_older_than(self.config.timeout).await
    }

    /// The same for temporary files and folders that nothing has touched for `age`. At the start of the only server
    /// that uses the folder, that may be no time at all.
    ///
    /// # Errors
    /// [`GitError::Backend`] when the folder cannot be read.
    pub async fn sweep_older_than(&self, age: Duration) -> Result<(), GitError> {
        let dir = self.config.dir.clone();
        let swept = tokio::task::spawn_blocking(move || quarantine::sweep(&dir, age)).await;
        let swept = swept.map_err(|error| run::backend("sweep the quarantines", error))?;
        swept.map_err(|error| run::backend("sweep the quarantines", error))
    }

    fn bare(&self, request: RequestId) -> Bare {
        Bare::new(&self.config, request)
    }
}

#[async_trait]
impl GitBroker for Quarantine {
    async fn mirror(
        &self,
        request: RequestId,
        remote: &Remote,
        branch: Option<&str>,
        standing: Option<&Change>,
    ) -> Result<Base, GitError> {
        self.mirror_into(&self.bare(request), remote, branch, standing).await
    }

    fn service(&self, request: RequestId, work_branch: &str) -> Arc<dyn GuestService> {
        Daemon::new(self.git.clone(), self.bare(request), work_branch)
    }

    async fn change(&self, request: RequestId, base: &Base, work_branch: &str) -> Result<Option<Change>, GitError> {
        self.change_in(&self.bare(request), base, work_branch).await
    }

    async fn keep(&self, request: RequestId, change: &Change) -> Result<(), GitError> {
        self.keep_bundle(&self.bare(request), change).await
    }

    async fn publish(&self, request: RequestId, remote: &Remote, commit: &str, branch: &str) -> Result<(), GitError> {
        self.publish_from(&self.bare(request), remote, commit, branch).await
    }

    async fn withdraw(
        &self,
        request: RequestId,
        remote: &Remote,
        commit: &str,
        branch: &str,
        before: Option<&str>,
    ) -> Result<bool, GitError> {
        self.withdraw_from(&self.bare(request), remote, commit, branch, before).await
    }

    async fn discard(&self, request: RequestId) -> Result<(), GitError> {
        self.bare(request).remove().await
    }
}
