//! A request: what a person asked for, and where it stands.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::id::{AttachmentId, MessageId, RepositoryLinkId, RequestId, RunId, TenantId, UserId};

pub mod approval;
pub mod change_set;
pub mod state;

pub use state::RequestState;

/// A request, from prompt to merge request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Its id; a client may choose it.
    pub id: RequestId,
    /// The tenant that owns it.
    pub tenant: TenantId,
    /// Who asked.
    pub requester: UserId,
    /// The door it came through, `direct_user` for a person.
    pub source: String,
    /// The e-mail address it came from, or empty.
    pub sender: String,
    /// A short title, derived from the prompt.
    pub title: String,
    /// What was asked, word for word.
    pub prompt: Prompt,
    /// The repository to work on.
    pub repository: RepositoryLinkId,
    /// Where it stands.
    pub state: RequestState,
    /// The plan, once one was made.
    pub plan: Option<Plan>,
    /// Counts commits of this request; every commit names the version it saw.
    pub version: u64,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
}

impl Request {
    /// Moves to `next`, or tells why that is forbidden. Staying is allowed and changes nothing.
    ///
    /// # Errors
    /// [`ForbiddenTransition`] when the table has no such arrow.
    pub fn become_state(&mut self, next: RequestState, now: DateTime<Utc>) -> Result<(), ForbiddenTransition> {
        if self.state == next {
            return Ok(());
        }
        if !self.state.can_become(next) {
            return Err(ForbiddenTransition { from: self.state, to: next });
        }
        self.state = next;
        self.updated_at = now;
        Ok(())
    }
}

/// A transition that the table forbids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a request that is {from} cannot become {to}")]
pub struct ForbiddenTransition {
    /// Where the request stands.
    pub from: RequestState,
    /// Where it was to go.
    pub to: RequestState,
}

/// What a person asked for, word for word: not blank, no NUL, at most [`Prompt::MAX_BYTES`].
///
/// ```
/// use astraforge_core::request::Prompt;
///
/// let prompt: Prompt = "-v is ignored: fix it\n".parse()?;
/// assert_eq!(prompt.as_str(), "-v is ignored: fix it\n");
/// assert!("  \n".parse::<Prompt>().is_err());
/// # Ok::<(), astraforge_core::request::ParsePromptError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Prompt(String);

impl Prompt {
    /// The longest prompt, in bytes: agents take a mebibyte, and some of it is ours.
    pub const MAX_BYTES: usize = 1_000_000;

    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Derives a title: the first line, or all of it when that line says little; at most 72 characters.
    #[must_use]
    pub fn title(&self) -> String {
        const LONGEST: usize = 72;
        let first_line = self.0.lines().next().unwrap_or_default().trim();
        let title = if first_line.chars().count() >= 12 { first_line } else { self.0.trim() };
        if title.chars().count() <= LONGEST {
            return title.to_owned();
        }
        title.chars().take(LONGEST - 3).chain("...".chars()).collect()
    }
}

/// Prompts may hold what their author would not want in a log.
impl fmt::Debug for Prompt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Prompt({} bytes)", self.0.len())
    }
}

/// Why a text is no prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParsePromptError {
    /// There is nothing but white space.
    #[error("This field may not be blank.")]
    Blank,
    /// There is a NUL character.
    #[error("Null characters are not allowed.")]
    Nul,
    /// It is too long.
    #[error("Ensure this field has no more than {max} bytes; put long material in a file of the repository.", max = Prompt::MAX_BYTES)]
    TooLong,
}

impl FromStr for Prompt {
    type Err = ParsePromptError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.trim().is_empty() {
            Err(ParsePromptError::Blank)
        } else if text.contains('\0') {
            Err(ParsePromptError::Nul)
        } else if text.len() > Self::MAX_BYTES {
            Err(ParsePromptError::TooLong)
        } else {
            Ok(Self(text.to_owned()))
        }
    }
}

/// How an agent means to go about a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What will be done, in order.
    pub steps: Vec<PlanStep>,
    /// The plan in a sentence, with who made it.
    pub summary: String,
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanStep {
    /// What is to be done.
    pub description: String,
    /// Whether it was done.
    pub completed: bool,
    /// What could go wrong.
    pub risk: Option<String>,
}

/// One message of a request's conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its id.
    pub id: MessageId,
    /// The request it belongs to.
    pub request: RequestId,
    /// Who speaks.
    pub role: MessageRole,
    /// The words.
    pub text: String,
    /// The run that answered, for an assistant's message.
    pub run: Option<RunId>,
    /// When it was said.
    pub created_at: DateTime<Utc>,
}

/// Who speaks in a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageRole {
    /// A person.
    User,
    /// The agent.
    Assistant,
}

/// A file that came with a request or a message. Its bytes are in the artifact store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Its id.
    pub id: AttachmentId,
    /// The request it belongs to.
    pub request: RequestId,
    /// Its file name, without folders.
    pub name: String,
    /// Its media type.
    pub content_type: String,
    /// Its size in bytes.
    pub size: u64,
    /// Where the artifact store keeps it.
    pub artifact: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_title(prompt: &str, title: &str) {
        assert_eq!(prompt.parse::<Prompt>().unwrap().title(), title);
    }

    #[test]
    fn a_title_is_the_first_line_if_it_says_enough() {
        check_title("Cache the loader results\n\nKeep tests green.", "Cache the loader results");
        check_title("Fix\nmore text here", "Fix\nmore text here");
        check_title(&"x".repeat(72), &"x".repeat(72));
        check_title(&"x".repeat(100), &format!("{}...", "x".repeat(69)));
        check_title("  äöü äöü äöü  ", "äöü äöü äöü");
    }

    #[test]
    fn what_is_no_prompt_is_refused() {
        assert_eq!("".parse::<Prompt>(), Err(ParsePromptError::Blank));
        assert_eq!(" \n\t".parse::<Prompt>(), Err(ParsePromptError::Blank));
        assert_eq!("a\0b".parse::<Prompt>(), Err(ParsePromptError::Nul));
        assert_eq!("x".repeat(Prompt::MAX_BYTES + 1).parse::<Prompt>(), Err(ParsePromptError::TooLong));
    }

    #[test]
    fn white_space_around_a_prompt_is_kept() {
        assert_eq!(" fix it \n".parse::<Prompt>().unwrap().as_str(), " fix it \n");
    }
}
