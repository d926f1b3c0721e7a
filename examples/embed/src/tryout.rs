//! Tries the app out: what a test of the embedder would do.

use std::{
    error::Error,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use astraforge_core::{
    access::{Caller, Role},
    command::{ApproveChange, Start, SubmitRequest},
    forge::Forge,
    id::{RepositoryLinkId, TenantId, UserId},
    repository::{RepositoryEnvironment, RepositoryLink},
    request::RequestState,
    worker::Worker,
};
use astraforge_http::server::Server;
use axum::Router;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// A folder that goes away with this value.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> io::Result<Self> {
        let folder = std::env::temp_dir().join(format!("astraforge-embed-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left lies below the system's own temporary folder.
        _ = fs::remove_dir_all(&self.0);
    }
}

/// The guest program: named, or below the target folder where `cargo xtask guest` puts it.
pub fn guest() -> Result<PathBuf, Box<dyn Error>> {
    if let Some(named) = std::env::var_os("ASTRAFORGE_GUEST") {
        return Ok(named.into());
    }
    let program = std::env::current_exe()?;
    let below = program.ancestors().map(|folder| folder.join("guest/astraforge-guest")).find(|path| path.is_file());
    below.ok_or_else(|| "build the guest first: cargo xtask guest".into())
}

/// Serves the app, and asks each of its three parts.
pub async fn serve_and_ask(app: Router) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let serving = tokio::spawn(async move { Server::new(listener, app).run().await });
    for (path, expected) in [("/", "our own page"), ("/llm/healthz", "200 OK"), ("/api/requests/", "401 Unauthorized")]
    {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        assert!(answer.contains(expected), "{path}: {answer}");
        println!("GET {path}: {expected}");
    }
    serving.abort();
    Ok(())
}

/// Takes one request from prompt to merge request, through the facade.
pub async fn one_request(data: &Path, forge: &Forge, worker: &Worker) -> Result<(), Box<dyn Error>> {
    make_repository(data)?;
    let caller = Caller::new(TenantId::new("us"), UserId::new("ada"), Role::Maintainer);
    let link = link(&caller);
    forge.store().add_link(link.clone()).await?;
    let submission = SubmitRequest {
        caller: caller.clone(),
        id: None,
        prompt: "Add a line".parse()?,
        repository: link.id,
        source: "direct_user".to_owned(),
        sender: String::new(),
        attachments: Vec::new(),
        start: Start::Now,
    };
    let request = forge.submit(submission).await?.id;
    worker.drain().await?;
    let change = forge.store().latest_change_set(request).await?.ok_or("the agent changed nothing")?;
    print!("{}", change.change.diff);
    forge.approve(ApproveChange { caller: caller.clone(), request, digest: Some(change.digest) }).await?;
    worker.drain().await?;
    let state = forge.store().request(&caller.tenant, request).await?.ok_or("the request is gone")?.state;
    assert_eq!(state, RequestState::Reviewed);
    println!("request {request} is {state}");
    Ok(())
}

fn make_repository(data: &Path) -> Result<(), Box<dyn Error>> {
    let bare = data.join("repositories/demo.git");
    fs::create_dir_all(&bare)?;
    let git = |words: &[&str]| {
        let status = Command::new("git").arg("-C").arg(&bare).args(words).status()?;
        if status.success() { Ok(()) } else { Err(io::Error::other(format!("git {words:?} failed"))) }
    };
    git(&["init", "--quiet", "--bare", "--initial-branch=main"])?;
    let tree = Command::new("git").arg("-C").arg(&bare).args(["mktree"]).stdin(std::process::Stdio::null()).output()?;
    let tree = String::from_utf8(tree.stdout)?;
    let who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.com"];
    let commit = Command::new("git")
        .arg("-C")
        .arg(&bare)
        .args(who)
        .args(["commit-tree", tree.trim(), "-m", "first"])
        .output()?;
    git(&["update-ref", "refs/heads/main", String::from_utf8(commit.stdout)?.trim()])?;
    Ok(())
}

fn link(caller: &Caller) -> RepositoryLink {
    let now = std::time::SystemTime::now().into();
    RepositoryLink {
        id: RepositoryLinkId::random(),
        tenant: caller.tenant.clone(),
        owner: caller.user.clone(),
        provider: "local".to_owned(),
        repository: "demo".to_owned(),
        base_url: String::new(),
        access_token: None,
        environment: RepositoryEnvironment::default(),
        created_at: now,
        updated_at: now,
    }
}
