//! Which model answers, and how it is reached: at its provider, through the installation's proxy, or in a script.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context, bail};
use astraforge_adapters::models::{OpenAiConfig, OpenAiUpstream, ScriptedUpstream};
use astraforge_core::{
    ports::model::ModelUpstream,
    redact::{KnownSecret, Redactor},
    repository::Secret,
};
use clap::{Args, ValueEnum};

use crate::config::given;

/// Settings of the model.
#[derive(Debug, Args)]
pub(crate) struct ModelArgs {
    /// Which model answers [default: openai]
    #[arg(long, global = true, env = "MODEL_UPSTREAM", value_enum)]
    model_upstream: Option<Upstream>,
    /// Scenario that the scripted model plays
    #[arg(long, global = true, env = "SCRIPTED_SCENARIO", value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// Key for OpenAI; set the variable instead, which other users of the machine can't see
    #[arg(long, global = true, env = "OPENAI_API_KEY", value_name = "KEY", hide_env_values = true)]
    openai_api_key: Option<String>,
    /// Address of OpenAI, or of a server that speaks its Responses API
    #[arg(
        long,
        global = true,
        env = "OPENAI_BASE_URL",
        value_name = "URL",
        default_value = "https://api.openai.com/v1"
    )]
    openai_base_url: String,
    /// Address of the installation's astraforge-proxy, which has the key instead of this process
    #[arg(long, global = true, env = "LLM_PROXY_URL", value_name = "URL")]
    llm_proxy_url: Option<String>,
    /// What proves to the proxy that this is a worker of its installation; set the variable instead
    #[arg(long, global = true, env = "LLM_PROXY_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    llm_proxy_token: Option<String>,
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
    /// The installation's proxy with the token of its workers.
    Proxy { base_url: String, token: Secret },
    /// A scenario.
    Scripted { scenario: PathBuf },
    /// None; a run says so.
    Missing,
}

impl ModelArgs {
    /// The model upstream, or why the settings contradict each other.
    pub(crate) fn config(&self) -> anyhow::Result<ModelConfig> {
        match (given(self.llm_proxy_url.as_deref()), self.token()?) {
            (Some(_), None) => bail!("LLM_PROXY_URL needs LLM_PROXY_TOKEN, which the proxy has too"),
            (Some(_), Some(_)) if self.model_upstream.is_some() || self.scenario.is_some() => bail!(
                "LLM_PROXY_URL leaves the choice of a model to the proxy; unset MODEL_UPSTREAM and SCRIPTED_SCENARIO here"
            ),
            (Some(url), Some(token)) => {
                Ok(ModelConfig::Proxy { base_url: url.trim_end_matches('/').to_owned(), token })
            }
            (None, _) => self.provider(),
        }
    }

    /// The model itself, proxy or not, or why the settings contradict each other.
    pub(crate) fn provider(&self) -> anyhow::Result<ModelConfig> {
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

    /// What workers and their proxy share.
    pub(crate) fn token(&self) -> anyhow::Result<Option<Secret>> {
        match given(self.llm_proxy_token.as_deref()) {
            Some(token) if token.len() < 32 => bail!(
                "LLM_PROXY_TOKEN has {} characters, which can be guessed; make one with: openssl rand -hex 32",
                token.len()
            ),
            token => Ok(token.map(Secret::new)),
        }
    }
}

impl ModelConfig {
    /// Opens the upstream; the redactor learns what opens it, for as long as the second value lives.
    pub(crate) fn open(self, redactor: &Redactor) -> anyhow::Result<(Arc<dyn ModelUpstream>, Option<KnownSecret>)> {
        let mut config = OpenAiConfig::default();
        let mut known = None;
        match self {
            Self::Scripted { scenario } => {
                let upstream = ScriptedUpstream::from_path(&scenario)
                    .with_context(|| format!("cannot play scenario {}", scenario.display()))?;
                return Ok((Arc::new(upstream), None));
            }
            Self::OpenAi { base_url, api_key: key } | Self::Proxy { base_url, token: key } => {
                known = Some(redactor.learn(key.clone()));
                config.base_url = base_url;
                config.api_key = Some(key);
            }
            // Every call says what is missing.
            Self::Missing => {}
        }
        Ok((Arc::new(OpenAiUpstream::new(config)?), known))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        model: ModelArgs,
    }

    #[track_caller]
    fn check_model(words: &[&str], expected: &str) {
        let line = Line::try_parse_from(["x"].iter().chain(words)).unwrap();
        let model = match line.model.config() {
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
        check_model(&["--llm-proxy-url", "http://p"], "LLM_PROXY_TOKEN");
        check_model(&["--llm-proxy-url", "http://p", "--llm-proxy-token", "short"], "can be guessed");
        let token = "t".repeat(32);
        check_model(&["--llm-proxy-url", "http://p", "--llm-proxy-token", &token, "--scenario", "x"], "unset");
    }

    #[test]
    fn a_key_selects_openai_and_is_not_shown() {
        check_model(&["--openai-api-key", "sk-1"], "OpenAi");
        check_model(&["--openai-api-key", "sk-1"], "Secret(***)");
        check_model(&["--scenario", "s.json"], "Scripted");
        let elsewhere = ["--openai-api-key", "k", "--openai-base-url", "http://h/v1/"];
        check_model(&elsewhere, "base_url: \"http://h/v1\"");
        check_model(&["--openai-api-key", "k"], "base_url: \"https://api.openai.com/v1\"");
    }

    #[test]
    fn a_proxy_comes_before_a_key() {
        let token = "t".repeat(32);
        let words = ["--llm-proxy-url", "http://p:8080/", "--llm-proxy-token", &token, "--openai-api-key", "sk-1"];
        check_model(&words, "Proxy { base_url: \"http://p:8080\", token: Secret(***)");
        check_model(&["--llm-proxy-url", "", "--openai-api-key", "sk-1"], "OpenAi");
    }
}
