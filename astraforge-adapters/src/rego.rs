//! Policies in Rego, evaluated in process.

mod input;

use std::{
    fmt, fs, io,
    num::NonZeroU32,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use astraforge_core::{
    BoxError,
    policy::{Decision, Reason, Verdict},
    ports::policy::{PolicyEngine, PolicyError},
    request::change_set::Change,
};
use async_trait::async_trait;
use regorus::{Engine, Value, utils::limits::ExecutionTimerConfig};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use self::input::Input;

/// The rules and their data, as they are shipped.
const SHIPPED: [(&str, &str); 4] = [
    ("default.json", include_str!("../policies/default.json")),
    ("limits.rego", include_str!("../policies/limits.rego")),
    ("modes.rego", include_str!("../policies/modes.rego")),
    ("paths.rego", include_str!("../policies/paths.rego")),
];

const DENY: &str = "data.astraforge.change.deny";
const MAINTAINER: &str = "data.astraforge.change.maintainer";

/// Judges changes by Rego rules.
///
/// The rules belong to the package `astraforge.change` and fill two sets, `deny` and `maintainer`, with objects of
/// `rule`, `message` and, where it is about a file, `path`. A member of `deny` forbids the change, a member of
/// `maintainer` lets only a maintainer approve it; without members anyone who may approve, may.
///
/// The `input` has `target_branch`, `branch` and `files`, each with `path`, `old_path`, `kind`, `added`, `removed`,
/// `mode`, `old_mode`, `size` (bytes), and for links `link_target` and `link_leaves_tree`.
///
/// Whatever goes wrong, a broken rule, an unknown answer or too long an evaluation, is an error and never lets a
/// change through.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use astraforge_adapters::rego::RegoPolicy;
/// use astraforge_core::{policy::Decision, ports::policy::PolicyEngine, request::change_set::Change};
///
/// let policy = RegoPolicy::shipped()?;
/// let change = Change {
///     target_branch: "main".into(),
///     branch: "astraforge/1".into(),
///     base_commit: "a".repeat(40),
///     head_commit: "b".repeat(40),
///     head_tree: "c".repeat(40),
///     diff: "diff --git a/Jenkinsfile b/Jenkinsfile\n--- a/Jenkinsfile\n+++ b/Jenkinsfile\n@@ -1 +1 @@\n-a\n+b\n".into(),
///     files: vec![],
/// };
/// let verdict = policy.evaluate(&change).await?;
/// assert_eq!(verdict.decision, Decision::NeedsMaintainer);
/// assert_eq!(verdict.reasons[0].path.as_deref(), Some("Jenkinsfile"));
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct RegoPolicy {
    engine: Arc<Engine>,
    version: String,
}

impl RegoPolicy {
    /// How long an evaluation may take, unless [`Self::with_time_limit`] says otherwise.
    pub const TIME_LIMIT: Duration = Duration::from_secs(2);

    /// The policy that AstraForge ships.
    ///
    /// # Errors
    /// None in a released build: its tests load it.
    pub fn shipped() -> Result<Self, PolicyLoadError> {
        let texts = SHIPPED.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        Self::load(texts.collect())
    }

    /// Reads a folder: its `*.rego` files are the rules, its `*.json` files their data; `*_test.rego` is passed over.
    ///
    /// A folder with data but without rules keeps the shipped rules: so limits are changed without Rego.
    ///
    /// # Errors
    /// [`PolicyLoadError`] names the file, and for a broken one the line.
    pub fn from_dir(path: impl AsRef<Path>) -> Result<Self, PolicyLoadError> {
        let path = path.as_ref();
        let mut texts = read_dir(path)?;
        if texts.is_empty() {
            return Err(PolicyLoadError::Empty { path: path.to_owned() });
        }
        if !texts.iter().any(|(name, _)| name.ends_with(".rego")) {
            let rules = SHIPPED.iter().filter(|(name, _)| name.ends_with(".rego"));
            texts.extend(rules.map(|(name, text)| ((*name).to_owned(), (*text).to_owned())));
        }
        Self::load(texts)
    }

    /// Limits how long an evaluation may take.
    #[must_use]
    pub fn with_time_limit(self, limit: Duration) -> Self {
        let mut engine = (*self.engine).clone();
        set_time_limit(&mut engine, limit);
        Self { engine: Arc::new(engine), ..self }
    }

    /// Names the exact texts of this policy: `sha256:` and 64 hexadecimal digits.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    fn load(mut texts: Vec<(String, String)>) -> Result<Self, PolicyLoadError> {
        texts.sort();
        let mut engine = Engine::new();
        // An undefined builtin or a bad pattern must not read as "no objection".
        engine.set_strict_builtin_errors(true);
        for (file, text) in &texts {
            let added = match file.ends_with(".rego") {
                true => engine.add_policy(file.clone(), text.clone()).map(drop),
                false => engine.add_data_json(text),
            };
            added.map_err(|error| PolicyLoadError::Broken { file: file.clone(), source: error.into() })?;
        }
        set_time_limit(&mut engine, Self::TIME_LIMIT);
        probe(&mut engine)?;
        Ok(Self { engine: Arc::new(engine), version: version_of(&texts) })
    }
}

#[async_trait]
impl PolicyEngine for RegoPolicy {
    async fn evaluate(&self, change: &Change) -> Result<Verdict, PolicyError> {
        let input = serde_json::to_string(&Input::of(change)).map_err(|error| PolicyError(error.into()))?;
        let mut engine = (*self.engine).clone();
        let judged = tokio::task::spawn_blocking(move || judge(&mut engine, &input)).await;
        let (denied, protected) = judged.map_err(|error| PolicyError(error.into()))?.map_err(PolicyError)?;
        let decision = match (denied.is_empty(), protected.is_empty()) {
            (false, _) => Decision::Deny,
            (true, false) => Decision::NeedsMaintainer,
            (true, true) => Decision::Allow,
        };
        let mut reasons: Vec<_> = denied.into_iter().chain(protected).collect();
        reasons.sort();
        reasons.dedup();
        Ok(Verdict { policy_version: self.version.clone(), decision, reasons })
    }
}

impl fmt::Debug for RegoPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegoPolicy").field("version", &self.version).finish_non_exhaustive()
    }
}

/// Why a policy could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyLoadError {
    /// A file or folder cannot be read.
    #[error("the policy at `{}` cannot be read", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A folder holds neither rules nor data.
    #[error("the folder `{}` holds no policy: put `*.rego` or `*.json` files there", path.display())]
    Empty {
        /// The folder.
        path: PathBuf,
    },
    /// A file is not Rego, or not JSON; the source has the line.
    #[error("the policy file `{file}` is broken")]
    Broken {
        /// The file's name.
        file: String,
        /// What is wrong, with line and column.
        #[source]
        source: BoxError,
    },
    /// The rules cannot be evaluated even on an empty change; the source has file and line.
    #[error("the policy cannot be evaluated")]
    Unusable(#[source] BoxError),
    /// A set of the contract is not there; so a misspelt package does not allow everything.
    #[error("no rule of the policy fills `{rule}`: the package must be `astraforge.change`")]
    Missing {
        /// The set.
        rule: &'static str,
    },
}

fn set_time_limit(engine: &mut Engine, limit: Duration) {
    const CHECK_EVERY: NonZeroU32 = NonZeroU32::MIN.saturating_add(63);
    engine.set_execution_timer_config(ExecutionTimerConfig { limit, check_interval: CHECK_EVERY });
}

fn read_dir(folder: &Path) -> Result<Vec<(String, String)>, PolicyLoadError> {
    let unread = |path: &Path| {
        let path = path.to_owned();
        move |source| PolicyLoadError::Read { path, source }
    };
    let mut texts = Vec::new();
    for entry in fs::read_dir(folder).map_err(unread(folder))? {
        let path = entry.map_err(unread(folder))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let is_rule = name.ends_with(".rego") && !name.ends_with("_test.rego");
        if is_rule || name.ends_with(".json") {
            let text = fs::read_to_string(&path).map_err(unread(&path))?;
            texts.push((name.to_owned(), text));
        }
    }
    Ok(texts)
}

/// Finds at load what would otherwise fail, or worse allow, the first change.
fn probe(engine: &mut Engine) -> Result<(), PolicyLoadError> {
    let unusable = |error: BoxError| PolicyLoadError::Unusable(error);
    let input = serde_json::to_string(&Input::sample()).map_err(|error| unusable(error.into()))?;
    engine.set_input_json(&input).map_err(|error| unusable(error.into()))?;
    for rule in [DENY, MAINTAINER] {
        let found = engine.eval_query(rule.to_owned(), false).map_err(|error| unusable(error.into()))?;
        let value = found.result.first().and_then(|result| result.expressions.first()).map(|found| &found.value);
        match value {
            None | Some(Value::Undefined) => return Err(PolicyLoadError::Missing { rule }),
            Some(value) => read_reasons(rule, value).map(drop).map_err(unusable)?,
        }
    }
    Ok(())
}

fn judge(engine: &mut Engine, input: &str) -> Result<(Vec<Reason>, Vec<Reason>), BoxError> {
    engine.set_input_json(input)?;
    let denied = read_reasons(DENY, &engine.eval_rule(DENY.to_owned())?)?;
    let protected = read_reasons(MAINTAINER, &engine.eval_rule(MAINTAINER.to_owned())?)?;
    Ok((denied, protected))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenReason {
    rule: String,
    #[serde(default)]
    path: Option<String>,
    message: String,
}

fn read_reasons(rule: &str, value: &Value) -> Result<Vec<Reason>, BoxError> {
    let Value::Set(_) = value else { return Err(format!("`{rule}` is not a set; write `contains`").into()) };
    let written: Vec<WrittenReason> = serde_json::to_value(value)
        .and_then(serde_json::from_value)
        .map_err(|error| format!("a member of `{rule}` is not an object of rule, path and message: {error}"))?;
    Ok(written.into_iter().map(|w| Reason { rule: w.rule, path: w.path, message: w.message }).collect())
}

fn version_of(texts: &[(String, String)]) -> String {
    let mut hasher = Sha256::new();
    for part in texts.iter().flat_map(|(name, text)| [name, text]) {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part.as_bytes());
    }
    format!("sha256:{:x}", hasher.finalize())
}
