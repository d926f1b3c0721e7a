//! A real repository, a broker, and a workspace that reaches the broker over TCP.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a failing test is what these are for")]

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use astraforge_adapters::{
    artifacts::FolderArtifacts,
    git::{Quarantine, QuarantineConfig},
};
use astraforge_core::{
    id::RequestId,
    ports::{
        git::{Base, GitBroker as _, GitError, Remote},
        guest_service::GuestService,
    },
    request::change_set::{Change, FileChange},
};
use tempfile::TempDir;
use tokio::{net::TcpListener, process::Command, task::JoinHandle};
use tokio_util::compat::TokioAsyncReadCompatExt as _;

pub(crate) const WORK: &str = "astraforge/work-1";

/// Everything one test needs, in one folder that goes away with it.
pub(crate) struct World {
    pub(crate) dir: TempDir,
    pub(crate) request: RequestId,
    pub(crate) broker: Quarantine,
}

impl World {
    /// A source repository with one commit on `main`.
    pub(crate) async fn new() -> Self {
        let world = Self::empty().await;
        world.write("source/README.md", "one\ntwo\nthree\n");
        world.write("source/src/app.js", "let a = 1;\nlet b = 2;\nlet c = 3;\nlet d = 4;\nlet e = 5;\n");
        world.commit("source", "start").await;
        world
    }

    /// A source repository without a commit.
    pub(crate) async fn empty() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let world = Self { broker: broker(dir.path(), |config| config), dir, request: RequestId::random() };
        world.git(".", &["init", "-q", "-b", "main", "source"]).await;
        world
    }

    /// Puts another broker in place, as a restarted or reconfigured server would have.
    pub(crate) fn restart(&mut self, configure: impl FnOnce(QuarantineConfig) -> QuarantineConfig) {
        self.broker = broker(self.dir.path(), configure);
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn quarantine(&self) -> PathBuf {
        self.path("quarantine").join(format!("{}.git", self.request))
    }

    pub(crate) fn bundle(&self, change: &Change) -> PathBuf {
        self.path("artifacts/quarantine").join(format!("{}/{}.bundle", self.request, change.head_commit))
    }

    pub(crate) fn remote(&self) -> Remote {
        self.remote_at("source")
    }

    pub(crate) fn remote_at(&self, name: &str) -> Remote {
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        Remote { url: text(self.path(name)), publish_url: Some(text(self.path("published.git"))), token: None }
    }

    pub(crate) fn write(&self, name: &str, contents: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, contents).unwrap();
    }

    /// Runs git as a person or an agent would; it must succeed.
    #[track_caller]
    pub(crate) fn git(&self, cwd: &str, args: &[&str]) -> impl Future<Output = String> {
        let shown = format!("git {args:?} in {cwd}");
        let running = self.try_git(cwd, args);
        async move {
            let (success, text) = running.await;
            assert!(success, "{shown}: {text}");
            text
        }
    }

    /// Runs git and tells whether it succeeded and all that it printed.
    pub(crate) fn try_git(&self, cwd: &str, args: &[&str]) -> impl Future<Output = (bool, String)> + use<> {
        let mut command = Command::new("git");
        command.args(args).current_dir(self.path(cwd)).kill_on_drop(true);
        for (name, value) in [
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_AUTHOR_NAME", "Ada"),
            ("GIT_AUTHOR_EMAIL", "ada@example.test"),
            ("GIT_COMMITTER_NAME", "Ada"),
            ("GIT_COMMITTER_EMAIL", "ada@example.test"),
            ("LC_ALL", "C"),
        ] {
            command.env(name, value);
        }
        async move {
            let output = command.output().await.unwrap();
            let text = [output.stdout, output.stderr].concat();
            (output.status.success(), String::from_utf8_lossy(&text).trim().to_owned())
        }
    }

    /// Commits everything in a working tree and returns the commit.
    pub(crate) async fn commit(&self, cwd: &str, subject: &str) -> String {
        self.git(cwd, &["add", "--all"]).await;
        self.git(cwd, &["commit", "-q", "--allow-empty", "-m", subject]).await;
        self.git(cwd, &["rev-parse", "HEAD"]).await
    }

    pub(crate) async fn mirror(&self) -> Base {
        self.broker.mirror(self.request, &self.remote(), None, None).await.unwrap()
    }

    /// Mirrors for a run that goes on from an earlier one's change.
    pub(crate) async fn mirror_after(&self, standing: &Change) -> Base {
        self.broker.mirror(self.request, &self.remote(), None, Some(standing)).await.unwrap()
    }

    /// Serves the quarantine on a free port.
    pub(crate) async fn serve(&self) -> Server {
        Server::start(self.broker.service(self.request, WORK)).await
    }

    /// Mirrors, serves, and clones into `work`, on the work branch.
    pub(crate) async fn workspace(&self) -> (Base, Server) {
        let base = self.mirror().await;
        let server = self.serve().await;
        self.git(".", &["clone", "-q", &server.url(), "work"]).await;
        self.git("work", &["checkout", "-q", "-b", WORK]).await;
        (base, server)
    }

    /// Commits what is in `work` and pushes it.
    pub(crate) async fn push(&self) -> String {
        let commit = self.commit("work", "change").await;
        self.git("work", &["push", "-q", "origin", WORK]).await;
        commit
    }

    pub(crate) async fn change(&self, base: &Base) -> Result<Option<Change>, GitError> {
        self.broker.change(self.request, base, WORK).await
    }

    /// Commits, pushes, and returns the change, which is kept.
    pub(crate) async fn pushed_change(&self, base: &Base) -> Change {
        self.push().await;
        let change = self.change(base).await.unwrap().expect("there is a change");
        self.broker.keep(self.request, &change).await.unwrap();
        change
    }

    pub(crate) async fn publish(&self, commit: &str) -> Result<(), GitError> {
        self.broker.publish(self.request, &self.remote(), commit, WORK).await
    }

    pub(crate) async fn withdraw(&self, commit: &str, before: Option<&str>) -> Result<bool, GitError> {
        self.broker.withdraw(self.request, &self.remote(), commit, WORK, before).await
    }

    /// Makes the bare repository that branches are published to.
    pub(crate) async fn published(&self) {
        self.git(".", &["init", "-q", "--bare", "published.git"]).await;
    }
}

fn broker(dir: &Path, configure: impl FnOnce(QuarantineConfig) -> QuarantineConfig) -> Quarantine {
    let artifacts = Arc::new(FolderArtifacts::new(dir.join("artifacts")));
    Quarantine::new(configure(QuarantineConfig::new(dir.join("quarantine"), artifacts)))
}

/// A guest service on a TCP port of this machine.
pub(crate) struct Server {
    port: u16,
    accepting: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(service: Arc<dyn GuestService>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = Arc::clone(&service);
                tokio::spawn(async move { service.serve(Box::pin(stream.compat())).await });
            }
        });
        Self { port, accepting }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        format!("git://127.0.0.1:{}/repository", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

#[track_caller]
pub(crate) fn file<'a>(change: &'a Change, path: &str) -> &'a FileChange {
    change.files.iter().find(|file| file.path == path).unwrap_or_else(|| panic!("no {path} in {:?}", change.files))
}
