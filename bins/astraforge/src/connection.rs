//! How a command reaches a server: the one it is told, the one that runs on the data folder, or its own.

use std::time::Duration;

use anyhow::{Context, bail};
use astraforge_http::Client;
use tokio::net::TcpListener;

use crate::{
    cli::ConnectionArgs,
    data_folder,
    database::Database,
    node::{Node, Queue},
    programs,
    signals::{Interrupted, StopSignals},
};

/// A connection to a server, and the server itself when the command had to start one.
pub(crate) struct Connection {
    client: Client,
    own: Option<Node>,
}

impl Connection {
    /// Does `work` with a server, and ends a server of its own afterwards, also when it is told to stop before: then
    /// the error is [`Interrupted`]. Such a server works through the queue only for commands that wait for that.
    pub(crate) async fn with<T>(
        args: &ConnectionArgs,
        queue: Queue,
        work: impl AsyncFnOnce(&Client) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        Self::with_last_call(args, queue, work, async |_| {}).await
    }

    /// As [`with`](Self::with); when it is told to stop, a server of its own hears `last_call` before it ends.
    pub(crate) async fn with_last_call<T>(
        args: &ConnectionArgs,
        queue: Queue,
        work: impl AsyncFnOnce(&Client) -> anyhow::Result<T>,
        last_call: impl AsyncFnOnce(&Client),
    ) -> anyhow::Result<T> {
        let mut stop = StopSignals::listen().context("cannot listen for signals")?;
        let connection = Self::open(args, queue).await?;
        let outcome = tokio::select! {
            outcome = work(&connection.client) => outcome,
            () = stop.told() => Err(Interrupted { server_stopped: connection.own.is_some(), then: String::new() }.into()),
        };
        if let Some(node) = connection.own {
            let is_told = outcome.as_ref().is_err_and(|error| error.is::<Interrupted>());
            let end = async {
                if is_told {
                    last_call(&connection.client).await;
                }
                node.stop().await;
            };
            tokio::select! {
                () = end => {}
                () = stop.told() => {} // told twice: what is left is settled at the next start
            }
        }
        outcome
    }

    async fn open(args: &ConnectionArgs, queue: Queue) -> anyhow::Result<Self> {
        if let Some(url) = &args.server {
            return Ok(Self { client: Client::new(url, key(args)?)?, own: None });
        }
        let data = args.node.data_folder()?;
        if let Some(server) = data_folder::announced(&data) {
            let client = Client::new(&server.url, &server.api_key)?;
            if answers(&client).await {
                return Ok(Self { client, own: None });
            }
        }
        if queue == Queue::Work {
            programs::look_around()?;
        }
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("cannot listen on 127.0.0.1")?;
        let (node, door) = Node::serve(&args.node, listener, queue).await?;
        if queue == Queue::Work {
            node.notes.iter().for_each(|note| tracing::warn!("{note}"));
        }
        let client = Client::new(&door.url, door.owner_key.reveal())?;
        Ok(Self { client, own: Some(node) })
    }

    /// Tells whether the server is on this machine and uses the same data folder.
    pub(crate) fn is_local(args: &ConnectionArgs) -> bool {
        args.server.is_none()
    }
}

/// The key for the server that the command line names.
pub(crate) fn key(args: &ConnectionArgs) -> anyhow::Result<&str> {
    args.api_key.as_deref().context("--server needs a key: pass --api-key or set ASTRAFORGE_API_KEY")
}

async fn answers(client: &Client) -> bool {
    matches!(tokio::time::timeout(Duration::from_secs(2), client.health()).await, Ok(Ok(_)))
}

/// Opens the database of the configuration, beside a server that may run on it.
pub(crate) async fn open_database(args: &ConnectionArgs) -> anyhow::Result<Database> {
    if let Some(server) = &args.server {
        bail!("this works on the database itself, not through the server at {server}: run it where the server runs");
    }
    let folder = args.node.data_folder()?;
    data_folder::make_private(&folder)?;
    args.node.open_database(&folder).await
}

/// Reads an id, or says what it should look like, and which command lists those that there are.
pub(crate) fn parse_id<T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>>(
    text: &str,
    listed_by: &str,
) -> anyhow::Result<T> {
    match text.parse() {
        Ok(id) => Ok(id),
        Err(error) => bail!("{error}; `{listed_by}` lists the ids"),
    }
}
