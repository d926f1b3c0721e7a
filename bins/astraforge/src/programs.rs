//! The programs: each reads its configuration, puts its parts together, runs, and shuts down.

use std::{collections::BTreeSet, io::IsTerminal, net::SocketAddr, process::ExitCode};

use anyhow::Context;
use clap::{ArgMatches, Args, Command, CommandFactory};
use tokio::net::TcpListener;
use tracing_subscriber::EnvFilter;

use crate::{
    cli::{Cli, UpArgs},
    environment::Findings,
    node::Node,
    render, settings,
    signals::{Interrupted, StopSignals},
};

pub(crate) mod api;
pub(crate) mod everything;
pub(crate) mod proxy;
pub(crate) mod worker;

/// Where the API takes calls.
#[derive(Debug, Args)]
pub(crate) struct ListenArgs {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, env = "ASTRAFORGE_LISTEN", default_value = "127.0.0.1:8001", value_name = "ADDRESS")]
    listen: SocketAddr,
}

impl ListenArgs {
    /// Takes the address.
    pub(crate) async fn bind(&self) -> anyhow::Result<TcpListener> {
        bind(self.listen, "--listen").await
    }
}

/// Takes an address, or says which option gives another.
async fn bind(address: SocketAddr, option: &str) -> anyhow::Result<TcpListener> {
    let bound = TcpListener::bind(address).await;
    bound.with_context(|| format!("cannot listen on {address}; pass another address with {option}"))
}

/// Runs the node that `start` makes until the process is told to stop, then stops it in order.
pub(crate) async fn until_told(start: impl Future<Output = anyhow::Result<Node>>) -> anyhow::Result<()> {
    // Asked for first, so that no signal is lost in between.
    let mut stop = StopSignals::listen().context("cannot listen for signals")?;
    let node = start.await?;
    stop.told().await;
    tracing::info!("stopping");
    tokio::select! {
        () = node.stop() => {}
        () = stop.told() => tracing::warn!("told twice: what is left is settled at the next start"),
    }
    Ok(())
}

/// The servers that are programs of their own.
pub(crate) fn commands() -> [Command; 3] {
    [api::ApiArgs::command(), worker::WorkerArgs::command(), proxy::ProxyArgs::command()]
}

/// The environment variables that are read by one program or another.
pub(crate) fn variables() -> BTreeSet<String> {
    commands().iter().chain([&Cli::command()]).flat_map(settings::variables).collect()
}

/// The servers with what the environment alone tells them: `up`, worker, proxy.
pub(crate) fn untyped() -> [(Command, ArgMatches); 3] {
    let up = UpArgs::augment_args(Command::new("up"));
    [up, worker::WorkerArgs::command(), proxy::ProxyArgs::command()].map(settings::untyped)
}

/// Warns of variables that are set and read by nobody, and fails if one of them is a mistake for certain: a server that
/// starts without what was meant for it looks well.
pub(crate) fn look_around() -> anyhow::Result<()> {
    Findings::of_process(&variables()).tell()
}

/// What a process has to have before anything else: logs on standard error, from `level` on unless `RUST_LOG` says
/// otherwise, and a provider of cryptography.
fn prepare(level: &str) {
    // There every refusal of a cluster is an error, the expected ones too; those that matter are in our own errors.
    let usual = format!("{level},kube_client::client::builder=off");
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(usual));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        builder.init()
    } else {
        builder.with_ansi(false).init()
    }
    // Another provider can only have been installed by this process, which has done nothing yet.
    _ = rustls::crypto::ring::default_provider().install_default();
}

/// Runs a server's program to its end.
fn run(program: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    prepare("info");
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    match runtime.block_on(program) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

/// Says why a program ends, and with which code.
fn failed(error: &anyhow::Error) -> ExitCode {
    render::report(error);
    if error.is::<Interrupted>() { ExitCode::from(Interrupted::EXIT_CODE) } else { ExitCode::FAILURE }
}
