//! The `local` VCS provider: repositories in folders of this machine.

use std::{
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use astraforge_core::{
    merge_request::Proposal,
    ports::git::{GitError, Remote, VcsProvider},
    repository::RepositoryLink,
    review::Finding,
    session::ByteSize,
};
use async_trait::async_trait;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::git::{
    argv::Call,
    failure::refused,
    parse,
    quarantine::private_folder,
    refname::{check_branch, check_commit},
    run::{Git, backend},
};

/// Says what a repository may be called today.
const WHAT_WORKS: &str = "today the provider `local` takes a name such as `demo` or `team/demo`, for the bare \
                          repository `<repositories>/demo.git`, or the path of a registered clone";

/// How a [`LocalProvider`] finds repositories.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LocalConfig {
    /// The folder that holds bare repositories, `<name>.git` each.
    pub repositories: PathBuf,
    /// Clones of people that may be linked by their path. They are read and never written.
    pub registered: Vec<PathBuf>,
    /// A file that lists more of them, one absolute path a line. It is read at each use, so that whoever may write it
    /// can register a clone while the server runs. A file that is not there lists none.
    pub registry: Option<PathBuf>,
    /// The folder where branches for registered clones are published, one bare repository each.
    pub published: PathBuf,
    /// The git program; `git` is looked for in `/usr/local/bin`, `/usr/bin` and `/bin`.
    pub git: PathBuf,
}

impl LocalConfig {
    /// A configuration without registered clones.
    pub fn new(repositories: impl Into<PathBuf>, published: impl Into<PathBuf>) -> Self {
        Self {
            repositories: repositories.into(),
            registered: Vec::new(),
            registry: None,
            published: published.into(),
            git: PathBuf::from("git"),
        }
    }

    /// Lets the clone at an absolute path be linked.
    #[must_use]
    pub fn with_registered(mut self, path: impl Into<PathBuf>) -> Self {
        self.registered.push(path.into());
        self
    }

    /// Sets the file that lists registered clones.
    #[must_use]
    pub fn with_registry(mut self, file: impl Into<PathBuf>) -> Self {
        self.registry = Some(file.into());
        self
    }

    /// Sets the git program.
    #[must_use]
    pub fn with_git(mut self, git: impl Into<PathBuf>) -> Self {
        self.git = git.into();
        self
    }
}

/// Repositories in folders of this machine.
///
/// A link names a bare repository below `repositories` (`demo`, `team/demo`), or the path of a registered clone.
/// A registered clone is never written to: what is published for it goes to a bare repository of ours
/// ([`published_repository`](Self::published_repository)), from which its owner fetches.
///
/// There is no server that could hold a merge request or a comment. The address of a merge request is
/// `file://<bare repository>#<branch>`, and its two halves are what `git fetch` takes:
/// `git fetch file://<bare repository> <branch>`. Findings stay in AstraForge's own rows; nothing else is stored.
///
/// ```
/// use astraforge_adapters::local::{LocalConfig, LocalProvider};
///
/// let provider = LocalProvider::new(LocalConfig::new("/srv/git", "/srv/published").with_registered("/home/ada/demo"));
/// let published = provider.published_repository("/home/ada/demo".as_ref());
/// assert!(published.starts_with("/srv/published") && published.to_string_lossy().ends_with(".git"));
/// ```
#[derive(Debug, Clone)]
pub struct LocalProvider {
    config: LocalConfig,
    git: Git,
}

impl LocalProvider {
    /// The provider's name in the registry and in repository links.
    pub const NAME: &str = "local";

    /// A provider over the folders of `config`.
    #[must_use]
    pub fn new(config: LocalConfig) -> Self {
        let (timeout, max_memory) = (Duration::from_secs(60), ByteSize::gib(1).as_bytes());
        let git = Git { program: config.git.clone(), timeout, max_memory };
        Self { config, git }
    }

    /// Returns where the branches for a registered clone are published, whether anything is there yet or not.
    #[must_use]
    pub fn published_repository(&self, clone: &Path) -> PathBuf {
        let clone = clone.canonicalize().unwrap_or_else(|_| clone.to_path_buf());
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        let name: String =
            clone.file_name().unwrap_or_default().to_string_lossy().chars().map(plain).take(40).collect();
        let hash = format!("{:x}", Sha256::digest(clone.as_os_str().as_bytes()));
        self.config.published.join(format!("{name}-{}.git", &hash[..12]))
    }

    /// Finds the folders of a link: where it is read, and where it is published when that differs.
    fn locate(&self, repository: &str) -> Result<Located, GitError> {
        if let Some(error) = refuse_hosted(repository) {
            return Err(error);
        }
        let found = if repository.starts_with('/') { self.registered(repository) } else { self.named(repository) };
        found.map_err(|reason| no_repository(repository, reason))
    }

    /// The clones that the registry file lists.
    fn listed(&self) -> Result<Vec<PathBuf>, String> {
        let Some(file) = &self.config.registry else { return Ok(Vec::new()) };
        match std::fs::read_to_string(file) {
            Ok(text) => Ok(text.lines().filter(|line| line.starts_with('/')).map(PathBuf::from).collect()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(format!("the list of registered clones, {}, cannot be read: {error}", file.display())),
        }
    }

    fn registered(&self, repository: &str) -> Result<Located, String> {
        let asked = Path::new(repository);
        let real = asked.canonicalize().map_err(|error| format!("its folder cannot be found: {error}"))?;
        let same = |path: &Path| path.canonicalize().is_ok_and(|path| path == real);
        let listed = self.listed()?;
        if !self.config.registered.iter().chain(&listed).any(|path| same(path)) {
            return Err(format!("this path is not registered; {WHAT_WORKS}"));
        }
        Ok(Located { published: Some(self.published_repository(&real)), source: real })
    }

    fn named(&self, repository: &str) -> Result<Located, String> {
        let name = repository.strip_suffix(".git").unwrap_or(repository);
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let sound = |part: &str| {
            !part.is_empty() && !part.starts_with(['.', '-']) && !part.ends_with(".git") && part.chars().all(plain)
        };
        if name.len() > 200 || !name.split('/').all(sound) {
            return Err(format!("this is not a name; {WHAT_WORKS}"));
        }
        let path = self.config.repositories.join(format!("{name}.git"));
        let (Ok(folder), Ok(real)) = (self.config.repositories.canonicalize(), path.canonicalize()) else {
            return Err(format!(
                "there is no `{0}`; make it with `git init --bare {0}` and push to it",
                path.display()
            ));
        };
        if !real.starts_with(&folder) {
            return Err(format!("it is a link that leads out of `{}`; {WHAT_WORKS}", folder.display()));
        }
        Ok(Located { source: real, published: None })
    }

    async fn ensure_published(&self, path: &Path) -> Result<(), GitError> {
        const MAKE: &str = "make the repository for published branches";
        if path.join("HEAD").is_file() {
            return Ok(());
        }
        private_folder(&self.config.published).map_err(|error| backend(MAKE, error))?;
        let fresh = self.config.published.join(format!("tmp-{}", Uuid::new_v4()));
        self.git.ask(Call::init(&self.git.program, &fresh), MAKE).await?.printed(MAKE)?;
        if let Err(error) = std::fs::rename(&fresh, path) {
            // Another call may have made it at the same moment.
            let _ = std::fs::remove_dir_all(&fresh);
            if !path.join("HEAD").is_file() {
                return Err(backend(MAKE, error));
            }
        }
        Ok(())
    }

    async fn branch_commit(&self, bare: &Path, branch: &str) -> Result<Option<String>, GitError> {
        const LOOK: &str = "look up the published branch";
        let name = format!("refs/heads/{branch}");
        let call =
            Call::on(&self.git.program, bare, ["for-each-ref", "--format=%(objectname) %(refname)", "--", &name]);
        let refs = self.git.ask(call, LOOK).await?.printed(LOOK)?;
        let refs = parse::for_each_ref(&refs).map_err(|error| backend(LOOK, error))?;
        Ok(refs.into_iter().find(|(found, _)| *found == name).map(|(_, commit)| commit))
    }
}

#[async_trait]
impl VcsProvider for LocalProvider {
    async fn remote(&self, link: &RepositoryLink) -> Result<Remote, GitError> {
        let located = self.locate(&link.repository)?;
        if let Some(published) = &located.published {
            self.ensure_published(published).await?;
        }
        let text = |path: &Path| {
            let text = path.to_str().map(str::to_owned);
            text.ok_or_else(|| no_repository(&link.repository, "its path is not UTF-8; move it".into()))
        };
        let publish_url = located.published.as_deref().map(text).transpose()?;
        Ok(Remote { url: text(&located.source)?, publish_url, token: None })
    }

    /// Checks that the branch was published and returns its address, the same each time.
    async fn open_merge_request(&self, link: &RepositoryLink, proposal: &Proposal) -> Result<String, GitError> {
        check_branch(&proposal.source_branch).map_err(refused)?;
        check_commit(&proposal.commit).map_err(refused)?;
        let located = self.locate(&link.repository)?;
        let bare = located.published.unwrap_or(located.source);
        match self.branch_commit(&bare, &proposal.source_branch).await? {
            Some(commit) if commit == proposal.commit => Ok(address(&bare, &proposal.source_branch)),
            Some(_) => Err(GitError::Diverged { branch: proposal.source_branch.clone() }),
            None => Err(refused(format!("branch `{}` was not published yet", proposal.source_branch))),
        }
    }

    /// Does nothing: the review is kept in AstraForge's own rows, and a folder has no place for comments.
    async fn post_findings(&self, _: &RepositoryLink, _: &str, _: &[Finding]) -> Result<(), GitError> {
        Ok(())
    }
}

/// Where a linked repository is.
struct Located {
    source: PathBuf,
    published: Option<PathBuf>,
}

/// Returns the error for a repository that is an address on a host, and `None` for anything else.
///
/// ```
/// use astraforge_adapters::local::refuse_hosted;
///
/// let error = refuse_hosted("https://github.com/team/demo").unwrap();
/// assert!(error.to_string().contains("no provider for `github.com` yet"));
/// assert!(refuse_hosted("team/demo").is_none());
/// ```
#[must_use]
pub fn refuse_hosted(repository: &str) -> Option<GitError> {
    let host = match repository.split_once("://") {
        Some((_, rest)) => rest.split('/').next().unwrap_or_default(),
        // What scp and git take for a host: a colon before any slash.
        None => repository.split_once(':').map(|(host, _)| host).filter(|host| !host.contains('/'))?,
    };
    // A user part may be a credential.
    let host = host.rsplit('@').next().unwrap_or_default();
    let shown = repository.split('@').next_back().unwrap_or_default();
    Some(no_repository(
        shown,
        format!("there is no provider for `{host}` yet; GitHub and GitLab are coming. {WHAT_WORKS}"),
    ))
}

fn no_repository(repository: &str, reason: String) -> GitError {
    GitError::NoRepository { repository: repository.to_owned(), reason }
}

/// The address of a branch: a `file` URL whose fragment is the branch.
fn address(bare: &Path, branch: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte);
    let encoded = |bytes: &[u8]| -> String {
        let one = |&byte: &u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
        bytes.iter().map(one).collect()
    };
    format!("file://{}#{}", encoded(bare.as_os_str().as_bytes()), encoded(branch.as_bytes()))
}
