//! `astraforge-proxy`: the way of workers to a model. It alone has the provider's key.

use std::{net::SocketAddr, process::ExitCode};

use anyhow::{Context, bail};
use astraforge_codex::{
    LlmProxy,
    proxy::{ProxyConfig, RunTokens, stack_for_workers},
};
use astraforge_core::redact::Redactor;
use astraforge_http::server::Server;
use clap::Parser;

use crate::{
    model::{ModelArgs, ModelConfig},
    settings,
    signals::StopSignals,
};

/// Passes the model calls of an installation's workers on, with the key that only it has.
///
/// Workers find it by LLM_PROXY_URL, and prove by LLM_PROXY_TOKEN that they are of the same installation.
#[derive(Debug, Parser)]
#[command(name = "astraforge-proxy", version, max_term_width = 110)]
pub(super) struct ProxyArgs {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, env = "ASTRAFORGE_PROXY_LISTEN", default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Calls that may be under way at once; one more is answered 503
    #[arg(long, env = "LLM_PROXY_MAX_IN_FLIGHT", value_name = "N", default_value_t = 256,
          value_parser = clap::value_parser!(u32).range(1..))]
    max_in_flight: u32,
    #[command(flatten)]
    model: ModelArgs,
}

/// Passes model calls on until the process is told to stop.
#[must_use]
pub fn proxy() -> ExitCode {
    let (args, _) = settings::read();
    super::run(serve(args))
}

async fn serve(args: ProxyArgs) -> anyhow::Result<()> {
    super::look_around()?;
    let mut stop = StopSignals::listen().context("cannot listen for signals")?;
    let token = args
        .model
        .token()?
        .context("set LLM_PROXY_TOKEN, here and for the workers; make one with: openssl rand -hex 32")?;
    let config = args.model.provider()?;
    if matches!(config, ModelConfig::Missing) {
        bail!("no model is configured: set OPENAI_API_KEY");
    }
    let (upstream, _known) = config.open(&Redactor::default())?;
    let mut limits = ProxyConfig::default();
    limits.max_in_flight = usize::try_from(args.max_in_flight)?;
    // No run is known here: workers tell theirs apart.
    let proxy = LlmProxy::from_service(stack_for_workers(&limits, &token, upstream), RunTokens::default());
    let app = axum::Router::new().fallback_service(proxy);
    let listener = super::bind(args.listen, "--listen").await?;
    tracing::info!(url = %format!("http://{}", listener.local_addr()?), "the proxy takes calls");
    Server::new(listener, app).run_until(stop.told()).await;
    Ok(())
}
