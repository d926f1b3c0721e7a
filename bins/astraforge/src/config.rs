//! Configuration of a node: read from the command line and the environment, once, and checked here.

use std::path::PathBuf;

use anyhow::{Context, bail};
use astraforge_core::{repository::Secret, session::ByteSize};
use clap::{Args, ValueEnum};

use crate::{
    database::DatabaseArgs,
    drivers::{docker::DockerArgs, image::ImageArgs, k8s::K8sArgs},
    egress_args::EgressArgs,
    native_args::NativeArgs,
    sandbox_files::SandboxFilesArgs,
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
    /// Folder with the bare repositories that requests may work on [default: DATA/repositories]
    #[arg(long, global = true, env = "ASTRAFORGE_REPOSITORIES", value_name = "FOLDER")]
    pub(crate) repositories: Option<PathBuf>,
    /// Which agent works
    #[arg(long, global = true, env = "EXECUTOR", value_enum, default_value_t = Executor::Codex)]
    pub(crate) executor: Executor,
    /// Which model answers [default: openai]
    #[arg(long, global = true, env = "MODEL_UPSTREAM", value_enum)]
    pub(crate) model_upstream: Option<Upstream>,
    /// Scenario that the scripted model plays
    #[arg(long, global = true, env = "SCRIPTED_SCENARIO", value_name = "FILE")]
    pub(crate) scenario: Option<PathBuf>,
    /// Key for OpenAI; set the variable instead, which other users of the machine can't see
    #[arg(long, global = true, env = "OPENAI_API_KEY", value_name = "KEY", hide_env_values = true)]
    pub(crate) openai_api_key: Option<String>,
    /// Address of OpenAI, or of a server that speaks its Responses API
    #[arg(
        long,
        global = true,
        env = "OPENAI_BASE_URL",
        value_name = "URL",
        default_value = "https://api.openai.com/v1"
    )]
    pub(crate) openai_base_url: String,
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
    pub(crate) sandbox_files: SandboxFilesArgs,
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
    /// Somebody else than the requester has to approve
    #[arg(long, global = true, env = "ASTRAFORGE_APPROVER_MUST_DIFFER")]
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

/// A model upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Upstream {
    /// OpenAI, or a server that speaks its Responses API
    Openai,
    /// Plays a scenario from a file
    Scripted,
}

/// A checked model upstream.
#[derive(Debug)]
pub(crate) enum ModelConfig {
    /// OpenAI with its key.
    OpenAi { base_url: String, api_key: Secret },
    /// A scenario.
    Scripted { scenario: PathBuf },
    /// None; a run says so.
    Missing,
}

impl ServerArgs {
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

    /// The model upstream, or why the settings contradict each other.
    pub(crate) fn model(&self) -> anyhow::Result<ModelConfig> {
        match (self.model_upstream, &self.scenario, &self.openai_api_key) {
            (Some(Upstream::Scripted), None, _) => {
                bail!("MODEL_UPSTREAM=scripted needs a scenario: set SCRIPTED_SCENARIO or pass --scenario FILE")
            }
            (Some(Upstream::Openai), Some(_), _) => {
                bail!("SCRIPTED_SCENARIO is set, but MODEL_UPSTREAM=openai does not play scenarios; unset one of them")
            }
            (_, Some(scenario), _) => Ok(ModelConfig::Scripted { scenario: scenario.clone() }),
            (Some(Upstream::Openai), None, None) => bail!("MODEL_UPSTREAM=openai needs OPENAI_API_KEY"),
            (_, None, Some(key)) if key.trim().is_empty() => bail!("OPENAI_API_KEY is set, but empty"),
            (_, None, Some(key)) => Ok(ModelConfig::OpenAi {
                base_url: self.openai_base_url.trim_end_matches('/').to_owned(),
                api_key: Secret::new(key.trim()),
            }),
            (None, None, None) => Ok(ModelConfig::Missing),
        }
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
        server: ServerArgs,
    }

    #[track_caller]
    fn check_model(words: &[&str], expected: &str) {
        let line = Line::try_parse_from(["x"].iter().chain(words)).unwrap();
        let model = match line.server.model() {
            Ok(model) => format!("{model:?}"),
            Err(error) => error.to_string(),
        };
        assert!(model.contains(expected), "{model}");
    }

    #[test]
    fn contradictory_model_settings_are_refused_by_name() {
        check_model(&["--model-upstream", "scripted"], "SCRIPTED_SCENARIO");
        check_model(&["--model-upstream", "openai", "--scenario", "x", "--openai-api-key", "k"], "unset one of them");
        check_model(&["--openai-api-key", " "], "empty");
    }

    #[test]
    fn a_key_selects_openai_and_is_not_shown() {
        check_model(&["--openai-api-key", "sk-1"], "OpenAi");
        check_model(&["--openai-api-key", "sk-1"], "Secret(***)");
        check_model(&["--scenario", "s.json"], "Scripted");
    }
}
