//! Somebody else's service with AstraForge inside: its own page, our API and LLM proxy, its own tower layer around
//! every command. It serves one request from prompt to change, and ends.

use std::{error::Error, path::Path, sync::Arc};

use astraforge_adapters::{
    artifacts::FolderArtifacts,
    clock::SystemClock,
    git::{Quarantine, QuarantineConfig},
    local::{LocalConfig, LocalProvider},
    models::ScriptedUpstream,
    rego::RegoPolicy,
    secret_box::SecretKey,
    sqlite::SqliteStore,
    wakeup::InProcessWakeups,
};
use astraforge_codex::{LlmProxy, RunSettings, StubExecutor};
use astraforge_core::{
    forge::{Forge, Ports, Settings},
    journal::Journal,
    ports::git::VcsProvider,
    redact::Redactor,
    registry::Registry,
    review::rules::RuleReviewer,
    worker::Worker,
};
use astraforge_http::{AppState, router};
use astraforge_sandbox::{
    native::{NativeConfig, NativeDriver},
    sandboxes::Sandboxes,
};
use axum::{Router, routing::get};

mod audit;
mod tryout;

/// The request spine, its worker and the LLM proxy in an app of our own.
async fn embed(data: &Path, guest: &Path, scenario: &str) -> Result<(Router, Forge, Worker), Box<dyn Error>> {
    let store = SqliteStore::open(data.join("forge.db"), SecretKey::load_or_create(data.join("key"))?).await?;
    let redactor = Redactor::default();
    let wakeups = Arc::new(InProcessWakeups::default());
    let journal = Journal::new(Arc::new(store), wakeups, Arc::new(SystemClock), redactor);

    let driver = NativeDriver::new(NativeConfig::new(data.join("sandboxes"), guest))?;
    let sandboxes = Arc::new(Sandboxes::new(Arc::new(driver)));
    let artifacts = Arc::new(FolderArtifacts::new(data.join("artifacts")));
    let local = LocalProvider::new(LocalConfig::new(data.join("repositories"), data.join("published")));
    let mut providers: Registry<dyn VcsProvider> = Registry::new("VCS provider");
    providers.register("local", move || Ok(Arc::new(local.clone())))?;

    let forge = Forge::builder(Ports {
        journal,
        // The agent that needs no model; `CodexRunner` takes its place with a `CodexProgram` and the proxy below.
        executor: Arc::new(StubExecutor::new(sandboxes, RunSettings::default())),
        broker: Arc::new(Quarantine::new(QuarantineConfig::new(data.join("quarantine"), artifacts.clone()))),
        providers,
        policy: Arc::new(RegoPolicy::shipped()?),
        reviewers: vec![Arc::new(RuleReviewer::default())],
        artifacts,
        settings: Settings::default(),
    })
    .layer(audit::AuditLayer::default())
    .build();

    let proxy = LlmProxy::builder(Arc::new(ScriptedUpstream::from_json(scenario)?)).build();
    let app = Router::new()
        .route("/", get(|| async { "our own page" }))
        .nest_service("/llm", proxy)
        .merge(router(AppState::builder(forge.clone()).build()));
    Ok((app, forge.clone(), Worker::new(forge)))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let guest = tryout::guest()?;
    let data = tryout::Scratch::new()?;
    let scenario = r#"{ "name": "hello", "steps": [{ "when": {}, "answer": [{ "message": "hello" }] }] }"#;
    let (app, forge, worker) = embed(data.path(), &guest, scenario).await?;
    tryout::serve_and_ask(app).await?;
    tryout::one_request(data.path(), &forge, &worker).await
}
