//! Configuration of a node: read from the command line and the environment, once, and checked here.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    num::NonZeroU32,
    path::{Path, PathBuf},
};

use anyhow::Context;
use astraforge_core::session::ByteSize;
use clap::{Args, ValueEnum, builder::BoolishValueParser};

use crate::{
    account_args::AccountArgs,
    database::{Database, DatabaseArgs},
    drivers::{docker::DockerArgs, image::ImageArgs, k8s::K8sArgs},
    egress_args::EgressArgs,
    event_bus::EventBusArgs,
    files::FilesArgs,
    keys::KeyArgs,
    model::ModelArgs,
    native_args::NativeArgs,
    oidc_args::OidcArgs,
    rate_args::RateArgs,
    retention_args::RetentionArgs,
};

/// Settings of a node, for `up` and for commands that start one in their own process.
#[derive(Debug, Args)]
#[command(next_help_heading = "Node")]
pub(crate) struct ServerArgs {
    /// Folder for everything that is kept [default: ~/.local/share/astraforge]
    #[arg(long, global = true, env = "ASTRAFORGE_DATA", value_name = "FOLDER")]
    pub(crate) data: Option<PathBuf>,
    /// Where requests and sandboxes are kept
    #[command(flatten)]
    pub(crate) database: DatabaseArgs,
    #[command(flatten)]
    pub(crate) keys: KeyArgs,
    /// What wakes readers
    #[command(flatten)]
    pub(crate) event_bus: EventBusArgs,
    /// Folder with the bare repositories that requests may work on [default: DATA/repositories]
    #[arg(long, global = true, env = "ASTRAFORGE_REPOSITORIES", value_name = "FOLDER")]
    pub(crate) repositories: Option<PathBuf>,
    /// Folder that approved branches of repositories on this machine are published to [default: DATA/published]
    #[arg(long, global = true, env = "ASTRAFORGE_PUBLISHED", value_name = "FOLDER")]
    pub(crate) published: Option<PathBuf>,
    /// Which agent works
    #[arg(long, global = true, env = "EXECUTOR", value_enum, default_value_t = Executor::Codex)]
    pub(crate) executor: Executor,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Model that Codex asks for
    #[arg(long, global = true, env = "CODEX_MODEL", value_name = "NAME", default_value = "gpt-5.5")]
    pub(crate) codex_model: String,
    /// The native Codex program, or its npm package folder [default: searched on PATH]
    #[arg(long, global = true, env = "CODEX_PROGRAM", value_name = "PATH")]
    pub(crate) codex: Option<PathBuf>,
    /// The guest program [default: beside this program]
    #[arg(long, global = true, env = "ASTRAFORGE_GUEST", value_name = "FILE")]
    pub(crate) guest: Option<PathBuf>,
    /// Folders that sandboxes see read-only, separated by colons
    #[arg(long, global = true, env = "SANDBOX_TOOLCHAINS", value_name = "FOLDERS", value_delimiter = ':')]
    pub(crate) toolchains: Vec<PathBuf>,
    /// Those of native sandboxes
    #[command(flatten)]
    pub(crate) native: NativeArgs,
    /// Where sandboxes run unless they ask for something else
    #[arg(long, global = true, env = "PROVISIONER", value_enum, default_value_t = Provisioner::Native)]
    pub(crate) provisioner: Provisioner,
    /// What durable sandboxes may ask for besides, separated by commas
    #[arg(long, global = true, env = "SANDBOX_DRIVERS", value_enum, value_delimiter = ',', value_name = "DRIVERS")]
    pub(crate) drivers: Vec<Provisioner>,
    #[command(flatten)]
    pub(crate) image: ImageArgs,
    #[command(flatten)]
    pub(crate) docker: DockerArgs,
    #[command(flatten)]
    pub(crate) egress: EgressArgs,
    #[command(flatten)]
    pub(crate) k8s: K8sArgs,
    #[command(flatten)]
    pub(crate) files: FilesArgs,
    #[command(flatten)]
    pub(crate) accounts: AccountArgs,
    #[command(flatten)]
    pub(crate) oidc: OidcArgs,
    #[command(flatten)]
    pub(crate) rates: RateArgs,
    /// Address at which the other servers of an installation reach this one, for calls about its sandboxes [default: where
    /// it listens]
    #[arg(long, global = true, env = "ASTRAFORGE_NODE_URL", value_name = "URL")]
    pub(crate) node_url: Option<String>,
    #[command(flatten)]
    pub(crate) retention: RetentionArgs,
    /// Size of a run's workspace, in memory
    #[arg(long, global = true, env = "ASTRAFORGE_WORKSPACE_SIZE", value_name = "SIZE", default_value = "2Gi")]
    pub(crate) workspace_size: ByteSize,
    /// Folder with Rego policies [default: those shipped]
    #[arg(long, global = true, env = "ASTRAFORGE_POLICIES", value_name = "FOLDER")]
    pub(crate) policies: Option<PathBuf>,
    /// How many runs may be at work at the same time
    #[arg(long, global = true, env = "ASTRAFORGE_WORKERS", value_name = "N", default_value_t = 2,
          value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) workers: u16,
    /// How many jobs of one tenant may be at work at the same time [default: as many as there are workers]
    #[arg(long, global = true, env = "ASTRAFORGE_TENANT_JOBS", value_name = "N")]
    pub(crate) tenant_jobs: Option<NonZeroU32>,
    /// How many jobs of all tenants on all workers may be at work at the same time, the same for all of them
    /// [default: as many as there are workers]
    #[arg(long, global = true, env = "ASTRAFORGE_JOBS", value_name = "N")]
    pub(crate) jobs: Option<NonZeroU32>,
    /// After how many seconds without a sign of life a worker counts as dead, and others take over what it was at
    #[arg(long, global = true, env = "ASTRAFORGE_LEASE", value_name = "SECONDS", default_value_t = 15,
          value_parser = clap::value_parser!(u32).range(3..=3600))]
    pub(crate) lease: u32,
    /// Somebody else than the requester has to approve
    #[arg(long, global = true, env = "ASTRAFORGE_APPROVER_MUST_DIFFER", value_parser = BoolishValueParser::new())]
    pub(crate) approver_must_differ: bool,
    /// Author of the agent's commits
    #[arg(
        long,
        global = true,
        env = "ASTRAFORGE_GIT_AUTHOR_NAME",
        value_name = "NAME",
        default_value = "AstraForge Bot"
    )]
    pub(crate) git_author_name: String,
    /// E-mail address of that author
    #[arg(
        long,
        global = true,
        env = "ASTRAFORGE_GIT_AUTHOR_EMAIL",
        value_name = "ADDRESS",
        default_value = "bot@astraforge.local"
    )]
    pub(crate) git_author_email: String,
}

/// What a setting is set to. One that is set to nothing, as in files of variables, is not set.
pub(crate) fn given(setting: Option<&str>) -> Option<&str> {
    setting.map(str::trim).filter(|text| !text.is_empty())
}

/// The tenant that owns everything on a node of one person or team.
pub(crate) const TENANT: &str = "tenant-default";

/// A sandbox driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Provisioner {
    /// Processes of this machine, in namespaces of their own
    Native,
    /// Containers of a Docker engine
    Docker,
    /// Pods of a Kubernetes cluster
    K8s,
}

/// An agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Executor {
    /// The OpenAI Codex CLI
    Codex,
    /// No agent at all: appends a line to a file, to try the rest out
    Stub,
}

impl ServerArgs {
    /// Opens the database of the node whose data folder is `root`. Several processes may do so at once.
    pub(crate) async fn open_database(&self, root: &Path) -> anyhow::Result<Database> {
        self.database.open(root, self.keys.secrets(root)?).await
    }

    /// What contradicts itself, as far as that can be told without a look at the machine; each names its variables.
    pub(crate) fn contradictions(&self) -> Vec<String> {
        let checks = [
            self.database.postgres().err(),
            self.keys.given().err(),
            self.event_bus.check(&self.database).err(),
            self.model.config().err(),
            self.files.check().err(),
            self.node_address(SocketAddr::from(([127, 0, 0, 1], 1))).err(),
            self.retention.check(&self.database, &self.files).err(),
            self.oidc.check().err(),
            self.rates.limits().err(),
        ];
        let mut told: Vec<_> = checks.into_iter().flatten().map(|error| format!("{error:#}")).collect();
        // What is wrong with the database is wrong with the bus on it.
        let mut seen = BTreeSet::new();
        told.retain(|text| seen.insert(text.clone()));
        told
    }

    /// Where other servers reach this one, which listens at `listening`; `None` where that cannot be told.
    pub(crate) fn node_address(&self, listening: SocketAddr) -> anyhow::Result<Option<String>> {
        match given(self.node_url.as_deref()) {
            Some(url) => {
                let parsed = reqwest::Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
                parsed.with_context(|| {
                    format!("ASTRAFORGE_NODE_URL: `{url}` is no address such as http://10.0.0.7:8001")
                })?;
                Ok(Some(url.to_owned()))
            }
            None => Ok((!listening.ip().is_unspecified()).then(|| format!("http://{listening}"))),
        }
    }

    /// The data folder.
    pub(crate) fn data_folder(&self) -> anyhow::Result<PathBuf> {
        let folder = match &self.data {
            Some(folder) => folder.clone(),
            None => {
                default_data_folder().context("neither --data, XDG_DATA_HOME nor HOME is set; pass --data FOLDER")?
            }
        };
        std::path::absolute(&folder).with_context(|| format!("{} is no path", folder.display()))
    }
}

fn default_data_folder() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("XDG_DATA_HOME").or_else(|| Some(set("HOME")?.join(".local/share"))).map(|folder| folder.join("astraforge"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        node: ServerArgs,
    }

    fn read(words: &[&str]) -> Result<ServerArgs, String> {
        let line = Line::try_parse_from(["x"].iter().chain(words));
        line.map(|line| line.node).map_err(|error| error.to_string())
    }

    #[test]
    fn older_values_are_taken_and_others_refused() {
        let usual = read(&[]).unwrap();
        assert_eq!((usual.provisioner, usual.executor), (Provisioner::Native, Executor::Codex));
        assert_eq!(usual.git_author_name, "AstraForge Bot");
        assert_eq!(usual.git_author_email, "bot@astraforge.local");
        let named = read(&["--git-author-name", "Ada", "--git-author-email", "a@b"]).unwrap();
        assert_eq!((named.git_author_name.as_str(), named.git_author_email.as_str()), ("Ada", "a@b"));
        assert_eq!(read(&["--provisioner", "k8s"]).unwrap().provisioner, Provisioner::K8s);
        assert_eq!(read(&["--provisioner", "docker"]).unwrap().provisioner, Provisioner::Docker);
        assert!(read(&["--provisioner", "hybrid"]).unwrap_err().contains("docker"));
        assert!(read(&["--executor", "claude"]).unwrap_err().contains("codex"));
    }

    #[test]
    fn contradictions_are_told_all_at_once_and_by_name() {
        assert_eq!(read(&[]).unwrap().contradictions(), Vec::<String>::new());
        let words = [
            "--event-bus=redis",
            "--llm-proxy-url=http://p",
            "--secret-key=short",
            "--s3-bucket=b",
            "--s3-use-ssl=no",
            "--oidc-client-id=x",
        ];
        let told = read(&words).unwrap().contradictions();
        let names = ["ASTRAFORGE_SECRET_KEY", "REDIS_URL", "LLM_PROXY_TOKEN", "SANDBOX_S3_USE_SSL", "OIDC_ISSUER"];
        assert_eq!(told.len(), names.len(), "{told:?}");
        assert!(told.iter().zip(names).all(|(told, name)| told.contains(name)), "{told:?}");
        let told = read(&["--database-url=mysql://h/x"]).unwrap().contradictions();
        assert!(told.len() == 1 && told[0].contains("DATABASE_URL"), "{told:?}");
    }
}
