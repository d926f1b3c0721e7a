//! The states of a request, and the table of what may follow what.

use std::{fmt, str::FromStr};

use RequestState::{
    Cancelled, ChatReviewed, Done, Executing, Failed, MrOpened, PatchReady, PlanReady, Received, Reviewed, SpecReady,
};

/// Where a request stands.
///
/// ```
/// use astraforge_core::request::RequestState;
///
/// assert!(RequestState::PatchReady.can_become(RequestState::MrOpened));
/// assert!(!RequestState::Done.can_become(RequestState::Executing));
/// assert_eq!("PATCH_READY".parse(), Ok(RequestState::PatchReady));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RequestState {
    /// It was accepted; an agent will start.
    Received,
    /// A specification was derived from the prompt.
    SpecReady,
    /// The conversation about the specification is closed.
    ChatReviewed,
    /// There is a plan that can be executed.
    PlanReady,
    /// An agent is at work.
    Executing,
    /// The agent is done; its change waits for approval.
    PatchReady,
    /// The approved change is a merge request.
    MrOpened,
    /// The merge request has been reviewed.
    Reviewed,
    /// The merge request was merged or closed.
    Done,
    /// The last run failed.
    Failed,
    /// A person cancelled it.
    Cancelled,
}

impl RequestState {
    /// Every state.
    pub const ALL: [Self; 11] = [
        Received,
        SpecReady,
        ChatReviewed,
        PlanReady,
        Executing,
        PatchReady,
        MrOpened,
        Reviewed,
        Done,
        Failed,
        Cancelled,
    ];

    /// Tells whether `next` may follow.
    #[must_use]
    pub fn can_become(self, next: Self) -> bool {
        self.followers().contains(&next) || (next == Cancelled && !self.is_settled())
    }

    /// Tells whether nothing more happens unless a person acts.
    #[must_use]
    pub fn is_settled(self) -> bool {
        matches!(self, Done | Failed | Cancelled)
    }

    /// Tells whether its runs are over and what followed them is done, whatever a person may do next.
    #[must_use]
    pub fn is_at_rest(self) -> bool {
        self.is_settled() || matches!(self, PatchReady | Reviewed)
    }

    /// The arrows of the table, those to `Cancelled` aside.
    const fn followers(self) -> &'static [Self] {
        match self {
            Received => &[SpecReady, Executing, Failed],
            SpecReady => &[ChatReviewed, Executing, Failed],
            ChatReviewed => &[PlanReady, Failed],
            PlanReady => &[Executing, Failed],
            Executing => &[PatchReady, Failed],
            PatchReady => &[Executing, MrOpened, Failed],
            MrOpened => &[Executing, Reviewed, Failed],
            Reviewed => &[Executing, Done, Failed],
            Done => &[],
            Failed => &[SpecReady, Executing],
            Cancelled => &[Executing],
        }
    }

    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Received => "RECEIVED",
            SpecReady => "SPEC_READY",
            ChatReviewed => "CHAT_REVIEWED",
            PlanReady => "PLAN_READY",
            Executing => "EXECUTING",
            PatchReady => "PATCH_READY",
            MrOpened => "MR_OPENED",
            Reviewed => "REVIEWED",
            Done => "DONE",
            Failed => "FAILED",
            Cancelled => "CANCELLED",
        }
    }
}

impl fmt::Display for RequestState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a request state")]
pub struct ParseStateError(String);

impl FromStr for RequestState {
    type Err = ParseStateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| ParseStateError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(from: RequestState, allowed: &[RequestState]) {
        for to in RequestState::ALL {
            assert_eq!(from.can_become(to), allowed.contains(&to), "{from} -> {to}");
        }
    }

    #[test]
    fn every_pair_of_states_is_allowed_or_forbidden_as_the_table_says() {
        check(Received, &[SpecReady, Executing, Failed, Cancelled]);
        check(SpecReady, &[ChatReviewed, Executing, Failed, Cancelled]);
        check(ChatReviewed, &[PlanReady, Failed, Cancelled]);
        check(PlanReady, &[Executing, Failed, Cancelled]);
        check(Executing, &[PatchReady, Failed, Cancelled]);
        check(PatchReady, &[Executing, MrOpened, Failed, Cancelled]);
        check(MrOpened, &[Executing, Reviewed, Failed, Cancelled]);
        check(Reviewed, &[Executing, Done, Failed, Cancelled]);
        check(Done, &[]);
        check(Failed, &[SpecReady, Executing]);
        check(Cancelled, &[Executing]);
    }

    #[test]
    fn a_state_survives_its_name() {
        for state in RequestState::ALL {
            assert_eq!(state.to_string().parse(), Ok(state));
        }
        assert!("patch_ready".parse::<RequestState>().is_err());
    }
}
