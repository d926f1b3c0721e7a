//! A model that plays a scenario: for demonstrations and tests, with nothing but the request deciding.

mod answer;
mod request;
mod scenario;

use std::{
    collections::VecDeque,
    fmt, fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use astraforge_core::ports::model::{Endpoint, ModelAnswer, ModelCall, ModelUpstream, UpstreamError};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, stream};

use self::{
    answer::{Piece, Played},
    request::Seen,
    scenario::Scenario,
};

/// Plays a scenario: the first step whose conditions hold of the request gives the answer.
///
/// A request that no step is for gets a 400 in OpenAI's shape, whose text says which conditions failed.
///
/// # The scenario
/// A JSON object with `name`, optionally `models` (the names that `GET /models` lists; every model is served), and
/// `steps`, each with an optional `name`, `when` and `answer`.
///
/// `when` holds conditions on the request, of which all that are given must hold:
/// - `prompt_matches`: a pattern on the text of the last user message;
/// - `last_output_matches`: a pattern on the last tool output since that message;
/// - `no_output_yet: true`: there is no tool output since that message;
/// - `calls_made`: the number of tool outputs since that message;
/// - `tool_offered`: a tool of this name is offered;
/// - `text_matches`: a pattern on the whole body.
///
/// `answer` is a list of `{"message": text}`, `{"reasoning": text}`, `{"function_call": {name, arguments}}`,
/// `{"custom_tool_call": {name, input}}`, `{"usage": {input_tokens, output_tokens}}`, `{"delay_ms": n}`,
/// `{"sse": text}` (raw bytes of the stream), and at most one last `{"error": {status, headers, body}}`,
/// `{"html": {status, body}}`, `{"failed": {code, message}}`, `{"incomplete": {reason}}`, `"cut"` (the connection
/// breaks), `"end"` (the stream ends too early) or `"stall"` (nothing more comes).
/// `${name}` in a text stands for what the named group `(?P<name>…)` of one of the step's patterns matched.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use astraforge_adapters::models::ScriptedUpstream;
/// use astraforge_core::ports::model::{Endpoint, ModelCall, ModelUpstream};
/// use futures::TryStreamExt as _;
///
/// let upstream = ScriptedUpstream::from_json(
///     r#"{"name": "greeter", "steps": [
///         {"when": {"prompt_matches": "I am (?P<who>\\w+)"}, "answer": [{"message": "Hello, ${who}."}]}
///     ]}"#,
/// )?;
/// let body = r#"{"model": "any", "input": "I am Ada"}"#.into();
/// let answer = upstream.call(ModelCall { endpoint: Endpoint::Responses, headers: vec![], body }).await?;
/// let body: Vec<_> = answer.body.try_collect().await.map_err(|e| e.to_string())?;
/// assert!(String::from_utf8(body.concat())?.contains("Hello, Ada."));
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct ScriptedUpstream {
    scenario: Arc<Scenario>,
    seen: Arc<Mutex<Journal>>,
}

/// What was asked so far.
#[derive(Default)]
struct Journal {
    n_calls: u64,
    bodies: VecDeque<Bytes>,
}

impl ScriptedUpstream {
    /// How many bodies are remembered; older ones are forgotten.
    pub const BODIES_KEPT: usize = 64;

    /// Reads a scenario.
    ///
    /// # Errors
    /// [`ScenarioError`] says where the mistake is.
    pub fn from_json(text: &str) -> Result<Self, ScenarioError> {
        Ok(Self { scenario: Arc::new(Scenario::parse(text)?), seen: Arc::default() })
    }

    /// Reads a scenario from a file.
    ///
    /// # Errors
    /// [`ScenarioError::Read`] if the file cannot be read, else as [`Self::from_json`].
    pub fn from_path(path: impl AsRef<Path>) -> Result<Self, ScenarioError> {
        let path = path.as_ref();
        let text = fs::read_to_string(path).map_err(|source| ScenarioError::Read { path: path.to_owned(), source })?;
        Self::from_json(&text)
    }

    /// Counts the calls of `POST /responses` so far, refused ones too. Clones count together.
    #[must_use]
    pub fn n_calls(&self) -> u64 {
        self.journal().n_calls
    }

    /// Returns the last [`Self::BODIES_KEPT`] bodies of `POST /responses`, the oldest first.
    #[must_use]
    pub fn bodies(&self) -> Vec<Bytes> {
        self.journal().bodies.iter().cloned().collect()
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn respond(&self, body: &Bytes) -> Played {
        {
            let mut journal = self.journal();
            journal.n_calls += 1;
            if journal.bodies.len() == Self::BODIES_KEPT {
                journal.bodies.pop_front();
            }
            journal.bodies.push_back(body.clone());
        }
        match Seen::read(body) {
            Err(reason) => answer::error(400, "invalid_body", &reason),
            Ok(seen) => match self.scenario.answer(&seen) {
                Ok(entries) => answer::play(&entries, &seen),
                Err(reason) => answer::error(400, "no_matching_step", &reason),
            },
        }
    }
}

#[async_trait]
impl ModelUpstream for ScriptedUpstream {
    fn name(&self) -> &str {
        "scripted"
    }

    async fn call(&self, call: ModelCall) -> Result<ModelAnswer, UpstreamError> {
        let played = match call.endpoint {
            Endpoint::Responses => self.respond(&call.body),
            Endpoint::Models => answer::models(&self.scenario.models),
        };
        tokio::time::sleep(played.head_delay).await;
        let body = stream::iter(played.pieces).filter_map(send).boxed();
        Ok(ModelAnswer { status: played.status, headers: played.headers, body })
    }
}

async fn send(piece: Piece) -> Option<Result<Bytes, astraforge_core::BoxError>> {
    match piece {
        Piece::Bytes(bytes) => Some(Ok(bytes)),
        Piece::Wait(duration) => {
            tokio::time::sleep(duration).await;
            None
        }
        Piece::Cut => Some(Err("the scenario cuts the connection".into())),
        Piece::Stall => std::future::pending().await,
    }
}

impl fmt::Debug for ScriptedUpstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedUpstream").field("scenario", &self.scenario.name).finish_non_exhaustive()
    }
}

/// A scenario cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScenarioError {
    /// Its file cannot be read.
    #[error("the scenario `{}` cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is not JSON of the right form; the source has line and column.
    #[error("the scenario is malformed")]
    Malformed(#[source] serde_json::Error),
    /// A pattern is no regular expression.
    #[error("`{condition}` of step `{step}` is not a regular expression")]
    Pattern {
        /// The step's name, or its number from 1.
        step: String,
        /// The condition.
        condition: &'static str,
        /// What is wrong with it.
        #[source]
        source: regex::Error,
    },
    /// A step makes no sense.
    #[error("step `{step}` cannot be played: {reason}")]
    Invalid {
        /// The step's name, or its number from 1.
        step: String,
        /// What is wrong, and what to do.
        reason: String,
    },
}
