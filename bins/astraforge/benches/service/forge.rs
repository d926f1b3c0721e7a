//! A database of its own for each measurement, and what works on it.

use std::{net::SocketAddr, sync::Arc};

use astraforge_adapters::{
    clock::SystemClock,
    postgres::{PostgresConfig, PostgresStore, PostgresWakeups},
    secret_box::SecretKey,
};
use astraforge_core::{
    access::{ApiKey, Role},
    event::EventKind,
    forge::{Forge, Settings},
    id::{ApiKeyId, RepositoryLinkId, RequestId, RunId},
    job::Job,
    journal::Journal,
    ports::store::{Changes, Store as _},
    redact::Redactor,
    request::Request,
    run::Run,
    testing::{Spine, ports::PlayedAgent, samples},
};
use chrono::Utc;
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use crate::samples::Failure;

/// A fresh database on the server at `url`.
pub(crate) async fn fresh(url: &str) -> Result<String, Failure> {
    let name = format!("bench_{}", Uuid::new_v4().simple());
    let mut server = PgConnection::connect(url).await?;
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut server).await?;
    let (base, _) = url.rsplit_once('/').ok_or("the address names no database")?;
    Ok(format!("{base}/{name}"))
}

/// One process's share of an installation: its connections, and an agent that is played.
pub(crate) struct Node {
    /// The repository that requests are about.
    link: RepositoryLinkId,
    pub(crate) store: Arc<PostgresStore>,
    pub(crate) journal: Journal,
    pub(crate) forge: Forge,
    pub(crate) agent: Arc<PlayedAgent>,
}

impl Node {
    pub(crate) async fn open(database: &str) -> Result<Self, Failure> {
        let config = PostgresConfig::new(database)?;
        // The same for every process, so that each can read what the others sealed.
        let key = SecretKey::new(&[7; 32]);
        let store = Arc::new(PostgresStore::open(&config, key).await?);
        let wakeups = Arc::new(PostgresWakeups::start(&config));
        let journal = Journal::new(store.clone(), wakeups, Arc::new(SystemClock), Redactor::default());
        let spine = Spine::new().await;
        let link = match store.links(&spine.link.tenant).await?.pop() {
            Some(link) => link.id,
            None => {
                store.add_link(spine.link.clone()).await?;
                spine.link.id
            }
        };
        let mut ports = spine.ports(Settings::default());
        ports.journal = journal.clone();
        Ok(Self { link, store, journal, forge: Forge::new(ports), agent: spine.agent })
    }

    /// A request with a run that waits for nobody, so that its log may grow.
    pub(crate) async fn add_request(&self) -> Result<(RequestId, RunId), Failure> {
        let request = Request { id: RequestId::random(), repository: self.link, ..samples::request() };
        let run = Run { id: RunId::random(), ..samples::run(&request) };
        let changes = Changes { runs: vec![run.clone()], ..samples::submitted(&request) };
        self.journal.commit(changes).await?;
        Ok((request.id, run.id))
    }

    /// A request whose run waits in the queue.
    pub(crate) async fn queue_request(&self) -> Result<(RequestId, RunId), Failure> {
        let request = Request { id: RequestId::random(), repository: self.link, ..samples::request() };
        let run = Run { id: RunId::random(), ..samples::run(&request) };
        let job = Job { created_at: Utc::now(), ..samples::execute(&run) };
        let found = (request.id, run.id);
        let changes = Changes { runs: vec![run], new_jobs: vec![job], ..samples::submitted(&request) };
        self.journal.commit(changes).await?;
        Ok(found)
    }

    /// Writes a line to a log.
    pub(crate) async fn tell(&self, request: RequestId, run: RunId) -> Result<(), Failure> {
        const LINE: &str = "A line of output as long as such lines are: 128 bytes with its date, the name of a file, \
                            the number of a line, and words.";
        Ok(self.journal.reporter(request, run).emit(EventKind::log(LINE)).await?)
    }

    /// A key that may read everything.
    pub(crate) async fn add_key(&self) -> Result<String, Failure> {
        let (key, hash) = astraforge_http::mint_api_key()?;
        let row = ApiKey { id: ApiKeyId::random(), hash, role: Role::Observer, ..samples::api_key() };
        self.store.add_api_key(row).await?;
        Ok(key.reveal().to_owned())
    }
}

/// A free port of this machine.
pub(crate) async fn listen() -> Result<(tokio::net::TcpListener, SocketAddr), Failure> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}
