//! What Codex is configured with: one provider, the LLM proxy; one model; everything else that reaches out switched off.
//!
//! The keys are those of version 0.169, read back by it under `--strict-config`.

use std::collections::BTreeMap;

use astraforge_core::egress::{GATEWAY_PORT, proxy_variables};
use serde::Serialize;

/// The provider's id. Sessions record it, and are resumed only where it exists: it must never change.
pub(super) const PROVIDER: &str = "astraforge";
/// The variable that holds the run's token in the environment of Codex.
pub(super) const TOKEN_VARIABLE: &str = "ASTRAFORGE_RUN_TOKEN";
/// The port at which a workspace finds the LLM proxy.
pub(super) const PROXY_PORT: u16 = 8080;
/// The address of the LLM proxy, as a workspace sees it.
pub(super) const PROXY_URL: &str = "http://127.0.0.2:8080/v1";

/// `config.toml`.
#[derive(Debug, Serialize)]
pub(super) struct Config {
    model: String,
    model_provider: &'static str,
    model_catalog_json: String,
    approval_policy: &'static str,
    sandbox_mode: &'static str,
    web_search: &'static str,
    check_for_update_on_startup: bool,
    allow_login_shell: bool,
    model_providers: BTreeMap<&'static str, Provider>,
    features: Features,
    analytics: Switch,
    agents: Switch,
    skills: Skills,
    shell_environment_policy: ShellEnvironment,
}

#[derive(Debug, Serialize)]
struct Provider {
    name: &'static str,
    base_url: String,
    env_key: &'static str,
    wire_api: &'static str,
    request_max_retries: u32,
    stream_max_retries: u32,
    stream_idle_timeout_ms: u64,
}

#[derive(Debug, Serialize)]
struct Features {
    plugins: bool,
    goals: bool,
    unbounded_connection_retries: bool,
}

#[derive(Debug, Serialize)]
struct Switch {
    enabled: bool,
}

#[derive(Debug, Serialize)]
struct Skills {
    bundled: Switch,
}

#[derive(Debug, Serialize)]
struct ShellEnvironment {
    inherit: &'static str,
    set: BTreeMap<String, String>,
}

impl Config {
    /// The configuration for one run. `env` is the environment of the commands that the model runs.
    pub(super) fn new(model: &str, base_url: &str, catalogue: &str, env: &BTreeMap<String, String>) -> Self {
        let provider = Provider {
            name: "AstraForge LLM proxy",
            base_url: base_url.to_owned(),
            env_key: TOKEN_VARIABLE,
            wire_api: "responses",
            // The proxy says with its status what is worth another try; a few bridge a short gap.
            request_max_retries: 2,
            stream_max_retries: 2,
            // Longer than the proxy's own patience, so that the proxy is the one to say what happened.
            stream_idle_timeout_ms: 330_000,
        };
        let way_out = proxy_variables(GATEWAY_PORT).into_iter().map(|(name, value)| (name.to_owned(), value));
        let mut set: BTreeMap<_, _> = way_out.chain([("CI".to_owned(), "1".to_owned())]).collect();
        set.extend(env.clone());
        Self {
            model: model.to_owned(),
            model_provider: PROVIDER,
            model_catalog_json: catalogue.to_owned(),
            approval_policy: "never",
            // The workspace is the sandbox; Codex's own can't be had within it.
            sandbox_mode: "danger-full-access",
            web_search: "disabled",
            check_for_update_on_startup: false,
            // A login shell would replace the PATH of the sandbox.
            allow_login_shell: false,
            model_providers: BTreeMap::from([(PROVIDER, provider)]),
            features: Features { plugins: false, goals: false, unbounded_connection_retries: false },
            analytics: Switch { enabled: false },
            agents: Switch { enabled: false },
            skills: Skills { bundled: Switch { enabled: false } },
            // Only what every shell needs, so that commands do not see the run's token.
            shell_environment_policy: ShellEnvironment { inherit: "core", set },
        }
    }

    pub(super) fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }
}

/// The file that tells Codex what the model can do. With one entry of our own the tools are known, whatever its name.
#[derive(Debug, Serialize)]
pub(super) struct Catalogue<'a> {
    models: [Model<'a>; 1],
}

#[derive(Debug, Serialize)]
struct Model<'a> {
    slug: &'a str,
    display_name: &'a str,
    supported_reasoning_levels: [&'static str; 0],
    shell_type: &'static str,
    visibility: &'static str,
    supported_in_api: bool,
    priority: u32,
    support_verbosity: bool,
    truncation_policy: Truncation,
    experimental_supported_tools: [&'static str; 0],
    apply_patch_tool_type: &'static str,
    base_instructions: &'a str,
}

#[derive(Debug, Serialize)]
struct Truncation {
    mode: &'static str,
    limit: u32,
}

impl<'a> Catalogue<'a> {
    pub(super) fn of(model: &'a str, instructions: &'a str) -> Self {
        Self {
            models: [Model {
                slug: model,
                display_name: model,
                supported_reasoning_levels: [],
                shell_type: "unified_exec",
                visibility: "list",
                supported_in_api: true,
                priority: 1,
                support_verbosity: false,
                truncation_policy: Truncation { mode: "tokens", limit: 10_000 },
                experimental_supported_tools: [],
                apply_patch_tool_type: "freeform",
                base_instructions: instructions,
            }],
        }
    }

    pub(super) fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec_pretty(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_what_codex_was_seen_to_take() {
        let env = BTreeMap::from([("RUSTFLAGS".to_owned(), "-D \"warnings\"".to_owned())]);
        let config = Config::new("gpt-5.5", PROXY_URL, "/home/agent/.codex/models.json", &env);
        insta::assert_snapshot!(config.to_toml().unwrap());
    }

    #[test]
    fn the_catalogue_is_what_codex_was_seen_to_take() {
        let json = Catalogue::of("gpt-5.5", "Do the work.").to_json().unwrap();
        insta::assert_snapshot!(String::from_utf8(json).unwrap());
    }
}
