//! What is set in the environment and read by nobody: variables of the system that AstraForge takes the place of, and
//! misspelt ones.

use std::collections::BTreeSet;

use anyhow::bail;
use serde::Serialize;

#[cfg(test)]
mod documented;

/// Variables of the system that AstraForge takes the place of which are not read, and what became of them.
pub(crate) const NOT_READ: &[(&str, &str)] = &[
    // The server.
    ("ALLOWED_HOSTS", "ignored: the API answers whoever has a key, by whatever name it was reached"),
    ("ASTRAFORGE_ENV_FILE", "ignored: no file is read; set the variables themselves"),
    (
        "CELERY_TASK_ALWAYS_EAGER",
        "ignored: work is always done by workers; `astraforge up` has them in its own process",
    ),
    (
        "CELERY_TASK_EAGER_PROPAGATES",
        "ignored: the failure of a run is told by the run, never by the call that began it",
    ),
    ("CONNECTOR", "ignored: it had no effect"),
    ("DEBUG", "ignored: errors are always told without the inside of the program; logs are set by RUST_LOG"),
    ("DEFAULT_TENANT_ID", "ignored: all that a node has belongs to the tenant `tenant-default`"),
    ("LOG_LEVEL", "use RUST_LOG instead, such as RUST_LOG=debug"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "ignored: no traces are sent; it had no effect"),
    ("REQUEST_REPOSITORY", "ignored: requests are always kept in the database"),
    ("RUN_LOG_STREAMER", "use EVENT_BUS instead: memory, postgres or redis; run logs are always kept in the database"),
    ("RUN_LOG_STREAM_BLOCK_MS", "ignored: readers are woken, and look by themselves within a second"),
    ("SECRET_KEY", "use ASTRAFORGE_SECRET_KEY instead, which has 32 bytes in base64: openssl rand -base64 32"),
    ("UNSAFE_DISABLE_AUTH", "ignored: every call needs a key or a login"),
    ("VCS_PROVIDER", "ignored: the repository's own link names its provider"),
    // The agent and its model.
    (
        "ASTRAFORGE_EXECUTE_COMMANDS",
        "ignored: commands are always run; EXECUTOR=stub tries the rest out without an agent",
    ),
    ("CLAUDE_API_KEY", "ignored: the agent is Codex"),
    ("CODEX_API_KEY", "use OPENAI_API_KEY instead"),
    ("CODEX_CLI_SKIP_PULL", "ignored: an image is pulled only where it is missing"),
    ("CODEX_WORKSPACE_PROXY_URL", "use LLM_PROXY_URL instead, for workers; a sandbox finds its proxy by itself"),
    ("LLM_MODEL", "use CODEX_MODEL instead"),
    ("LLM_PROXY_TIMEOUT", "ignored: an answer has 180 seconds to begin, and 300 from one part to the next"),
    ("OPENAI_BETA_HEADERS", "ignored: what the agent sends is passed on"),
    ("OPENAI_ORGANIZATION", "ignored: use a key of that organization in OPENAI_API_KEY"),
    ("OPENAI_ORG_ID", "ignored: use a key of that organization in OPENAI_API_KEY"),
    ("OPENAI_PROJECT", "ignored: use a key of that project in OPENAI_API_KEY"),
    ("OPENCODER_API_KEY", "ignored: the agent is Codex"),
    // Sandboxes.
    ("HYBRID_KUBECONFIG", "use KUBECONFIG instead"),
    ("SANDBOX_DOCKER_VOLUME_NAME", "ignored: a volume belongs to one sandbox, and no two share one"),
    ("SANDBOX_IDLE_TIMEOUT_SEC", "ignored, as it always was: who makes a sandbox says how long it may lie unused"),
    ("SANDBOX_MAX_LIFETIME_SEC", "ignored, as it always was: who makes a sandbox says how long it may live"),
    ("SANDBOX_REAP_INTERVAL_SEC", "ignored: sandboxes whose time has come are looked for every 60 seconds"),
    // The chat agent.
    ("DEEPAGENT_CHECKPOINTER_URL", "ignored: there is no chat agent yet"),
    ("DEEPAGENT_MODEL", "ignored: there is no chat agent yet"),
    ("DEEPAGENT_SYSTEM_PROMPT", "ignored: there is no chat agent yet"),
    ("DEEPAGENT_TEMPERATURE", "ignored: there is no chat agent yet"),
    ("IMAGE_TOOL_MAX_BASE64_CHARS", "ignored: there is no chat agent yet"),
    ("PLAYWRIGHT_PREVIEW_MAX_CHARS", "ignored: there is no chat agent yet"),
    ("PYTHON_REPL_MAX_CHARS", "ignored: there is no chat agent yet"),
    ("SHELL_TOOL_MAX_CHARS", "ignored: there is no chat agent yet"),
    ("SHELL_TOOL_TIMEOUT_SEC", "ignored: there is no chat agent yet"),
    ("TAVILY_API_KEY", "ignored: there is no chat agent yet"),
    // Its clients.
    ("ASTRA_FORGE_API_KEY", "use ASTRAFORGE_API_KEY instead, for the command line"),
    ("ASTRA_FORGE_API_URL", "use ASTRAFORGE_SERVER instead, for the command line"),
    ("ASTRA_FORGE_SANDBOX_DEBUG", "use RUST_LOG instead, such as RUST_LOG=debug"),
    ("ASTRA_FORGE_SANDBOX_READY_POLL_INTERVAL", "ignored: the call that makes a sandbox is answered when it is ready"),
    ("ASTRA_FORGE_SANDBOX_READY_TIMEOUT", "ignored: the call that makes a sandbox is answered when it is ready"),
    // What its containers were told.
    ("BACKEND_ORIGIN", "ignored: there is no web interface"),
    ("MINIO_ROOT_PASSWORD", "use AWS_SECRET_ACCESS_KEY instead"),
    ("MINIO_ROOT_USER", "use AWS_ACCESS_KEY_ID instead"),
    ("POSTGRES_DB", "use DATABASE_URL instead"),
    ("POSTGRES_PASSWORD", "use DATABASE_URL instead"),
    ("POSTGRES_USER", "use DATABASE_URL instead"),
    ("VITE_API_BASE_URL", "ignored: there is no web interface"),
    ("VITE_API_URL", "ignored: there is no web interface"),
];

/// Variables that are read without an option, and what for.
pub(crate) const READ_BESIDE: &[(&str, &str)] = &[
    ("AWS_ACCESS_KEY_ID", "key for the bucket; else what AWS programs find: a profile, or the machine's role"),
    ("AWS_SECRET_ACCESS_KEY", "its secret"),
    ("AWS_SESSION_TOKEN", "with keys that are lent for a while"),
    ("CLICOLOR_FORCE", "colours where there is no terminal"),
    ("HOME", "the data folder is in `.local/share` below it"),
    ("KUBECONFIG", "the cluster of sandboxes, where the server is no pod of it"),
    ("NO_COLOR", "no colours"),
    ("PATH", "where git and Codex are searched"),
    ("RUST_LOG", "what is logged, such as `debug` or `warn,astraforge=debug`"),
    ("TERM", "what kind of terminal `astraforge sandbox shell` tells a sandbox of"),
    ("XDG_DATA_HOME", "the data folder is in it, instead"),
];

/// What a variable that is ours begins with: one that nobody reads is an error.
const OURS: &str = "ASTRAFORGE_";
/// What variables begin with that hardly anybody else has: one that nobody reads is told.
const SHARED: [&str; 4] = ["SANDBOX_", "RUN_LOG_", "LLM_PROXY_", "OIDC_"];
/// Ours too, but of tests, tools and sandboxes; those that end in a line are beginnings.
const OF_OTHERS: [&str; 7] = [
    "ASTRAFORGE_TEST_",
    "ASTRAFORGE_CHAOS_",
    "ASTRAFORGE_SIMULATION_",
    "ASTRAFORGE_EMBED_GUEST",
    "ASTRAFORGE_GUEST_CONFIG",
    "ASTRAFORGE_RUN_TOKEN",
    "ASTRAFORGE_EXEC",
];

/// A variable that is set and read by nobody.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Unread {
    /// Its name.
    pub(crate) variable: String,
    /// What became of it, or what may have been meant.
    pub(crate) advice: String,
}

/// What is set for nothing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    /// Nobody minds, but whoever set it should know.
    pub(crate) ignored: Vec<Unread>,
    /// Certainly a mistake.
    pub(crate) unknown: Vec<Unread>,
}

impl Findings {
    /// Looks at this process's environment, beside the variables that are `read`.
    pub(crate) fn of_process(read: &BTreeSet<String>) -> Self {
        // One that is set to nothing is not set.
        let set = std::env::vars_os().filter(|(_, value)| !value.is_empty());
        find(&set.filter_map(|(name, _)| name.into_string().ok()).collect(), read)
    }

    /// Warns of what is ignored.
    ///
    /// # Errors
    /// A variable is certainly a mistake.
    pub(crate) fn tell(self) -> anyhow::Result<()> {
        for Unread { variable, advice } in &self.ignored {
            tracing::warn!("the environment variable {variable} is set: {advice}");
        }
        if !self.unknown.is_empty() {
            let all: Vec<_> = self.unknown.iter().map(|it| format!("{}: {}", it.variable, it.advice)).collect();
            bail!("the environment has variables that are not known\n{}", all.join("\n"));
        }
        Ok(())
    }
}

/// Sorts out what is `set` and not `read`.
fn find(set: &BTreeSet<String>, read: &BTreeSet<String>) -> Findings {
    let mut findings = Findings::default();
    let beside = |name: &str| READ_BESIDE.iter().any(|(known, _)| *known == name);
    for name in set.iter().filter(|name| !read.contains(*name) && !beside(name) && !is_of_others(name, set)) {
        let unread = |advice: String| Unread { variable: name.clone(), advice };
        if let Some((_, advice)) = NOT_READ.iter().find(|(known, _)| known == name) {
            findings.ignored.push(unread((*advice).to_owned()));
            continue;
        }
        // Who swaps two letters has made one mistake.
        let nearest = read.iter().map(|known| (strsim::osa_distance(name, known), known)).min();
        if name.starts_with(OURS) {
            let known = nearest.map_or("", |(_, known)| known);
            findings.unknown.push(unread(format!("there is no such variable; the nearest one is {known}")));
        } else if let Some((1, known)) = nearest {
            findings.ignored.push(unread(format!("nothing reads it; is {known} meant?")));
        } else if SHARED.iter().any(|prefix| name.starts_with(prefix)) {
            findings.ignored.push(unread("nothing reads it".to_owned()));
        }
    }
    findings
}

/// Whether it is set for somebody else: for tests and tools, or by a cluster for each of its services.
fn is_of_others(name: &str, set: &BTreeSet<String>) -> bool {
    let of_service = |service: &str| {
        let rest = name.strip_prefix(service);
        rest.is_some_and(|rest| rest.starts_with("_SERVICE_") || rest == "_PORT" || rest.starts_with("_PORT_"))
    };
    OF_OTHERS.iter().any(|other| name == *other || (other.ends_with('_') && name.starts_with(other)))
        || set.iter().filter_map(|other| other.strip_suffix("_SERVICE_HOST")).any(of_service)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::programs;

    #[track_caller]
    fn check(set: &[&str], ignored: &[(&str, &str)], unknown: &[(&str, &str)]) {
        let found = find(&set.iter().map(|name| (*name).to_owned()).collect(), &programs::variables());
        for (found, expected) in [(found.ignored, ignored), (found.unknown, unknown)] {
            let names: Vec<_> = found.iter().map(|it| it.variable.as_str()).collect();
            assert_eq!(names, expected.iter().map(|(name, _)| *name).collect::<Vec<_>>(), "{set:?}");
            for (found, (_, words)) in found.iter().zip(expected) {
                assert!(found.advice.contains(words), "{found:?}");
            }
        }
    }

    #[test]
    fn a_variable_of_ours_that_nobody_reads_is_a_mistake() {
        check(&["ASTRAFORGE_WORKER"], &[], &[("ASTRAFORGE_WORKER", "ASTRAFORGE_WORKERS")]);
        check(&["ASTRAFORGE_LAESE"], &[], &[("ASTRAFORGE_LAESE", "ASTRAFORGE_LEASE")]);
        check(&["ASTRAFORGE_PORT"], &[], &[("ASTRAFORGE_PORT", "nearest")]);
    }

    #[test]
    fn what_is_hardly_another_programs_is_told() {
        check(&["SANDBOX_S3_BUKCET"], &[("SANDBOX_S3_BUKCET", "is SANDBOX_S3_BUCKET meant?")], &[]);
        check(&["DATABASE_URI"], &[("DATABASE_URI", "is DATABASE_URL meant?")], &[]);
        check(&["RUN_LOG_COLOUR", "SANDBOX_TEA"], &[("RUN_LOG_COLOUR", "nothing"), ("SANDBOX_TEA", "nothing")], &[]);
    }

    #[test]
    fn what_the_earlier_system_read_is_told_with_what_to_do() {
        check(
            &["SECRET_KEY", "RUN_LOG_STREAMER", "ASTRAFORGE_EXECUTE_COMMANDS"],
            &[
                ("ASTRAFORGE_EXECUTE_COMMANDS", "EXECUTOR"),
                ("RUN_LOG_STREAMER", "EVENT_BUS"),
                ("SECRET_KEY", "openssl"),
            ],
            &[],
        );
    }

    #[test]
    fn what_is_set_for_others_is_left_alone() {
        let others = ["ASTRAFORGE_TEST_DOCKER", "ASTRAFORGE_CHAOS_SEED", "ASTRAFORGE_ATTACKER", "ASTRAFORGE_SERVER"];
        check(&others, &[], &[]);
        check(
            &["PATH", "HOME", "LANG", "EDITOR", "AWS_PROFILE", "KUBERNETES_SERVICE_HOST", "KUBERNETES_PORT"],
            &[],
            &[],
        );
        check(&["ASTRAFORGE_GUEST", "ASTRAFORGE_API_KEY", "DOCKER_HOST", "AWS_ENDPOINT_URL"], &[], &[]);
    }

    #[test]
    fn what_a_cluster_sets_for_a_service_is_no_mistake() {
        let set = ["ASTRAFORGE_API_SERVICE_HOST", "ASTRAFORGE_API_SERVICE_PORT", "ASTRAFORGE_API_PORT"];
        check(&set, &[], &[]);
        check(&["LLM_PROXY_SERVICE_HOST", "LLM_PROXY_PORT_8080_TCP_ADDR"], &[], &[]);
        check(&["ASTRAFORGE_API_PORT"], &[], &[("ASTRAFORGE_API_PORT", "nearest")]);
    }

    #[test]
    fn nothing_is_both_read_and_not_read() {
        let read = programs::variables();
        let beside: BTreeSet<_> = READ_BESIDE.iter().map(|(name, _)| *name).collect();
        for (name, advice) in NOT_READ {
            assert!(!read.contains(*name) && !beside.contains(name), "{name}");
            if let Some(instead) = advice.strip_prefix("use ") {
                let instead = instead.split([' ', ',']).next().unwrap();
                assert!(read.contains(instead) || beside.contains(instead), "{name}: {instead} is not read either");
            }
        }
    }
}
