//! Who acts, and what their role lets them do.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Utc};

use crate::id::{ApiKeyId, TenantId, UserId};

/// Who sent a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The tenant whose rows they see.
    pub tenant: TenantId,
    /// Who they are.
    pub user: UserId,
    /// What they may do.
    pub role: Role,
}

impl Caller {
    /// Tells whether the caller may do `action`.
    ///
    /// # Errors
    /// [`Forbidden`], which names the roles that may.
    pub fn may(&self, action: Action) -> Result<(), Forbidden> {
        if self.role.may(action) { Ok(()) } else { Err(Forbidden { role: self.role, action }) }
    }
}

/// A role of a caller in its tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Sees everything, changes nothing.
    Observer,
    /// Also takes part in conversations and approves.
    Reviewer,
    /// Also submits, runs and cancels, and links repositories.
    Maintainer,
    /// Also manages API keys.
    Admin,
}

/// Something that a role may or may not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Look at anything.
    Read,
    /// Add a message to a conversation, which runs the agent again.
    Chat,
    /// Approve a change.
    Approve,
    /// Approve a change that the policy keeps for maintainers.
    ApproveSensitive,
    /// Submit, plan and execute requests.
    Submit,
    /// Cancel a run.
    Cancel,
    /// Make and use sandboxes.
    UseSandboxes,
    /// Link and unlink repositories.
    LinkRepositories,
    /// Make and revoke API keys.
    ManageKeys,
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 9] = [
        Self::Read,
        Self::Chat,
        Self::Approve,
        Self::ApproveSensitive,
        Self::Submit,
        Self::Cancel,
        Self::UseSandboxes,
        Self::LinkRepositories,
        Self::ManageKeys,
    ];

    /// Its name in documents.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Chat => "chat",
            Self::Approve => "approve",
            Self::ApproveSensitive => "approve_sensitive",
            Self::Submit => "submit",
            Self::Cancel => "cancel",
            Self::UseSandboxes => "use_sandboxes",
            Self::LinkRepositories => "link_repositories",
            Self::ManageKeys => "manage_keys",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Role {
    /// Every role, the least first.
    pub const ALL: [Self; 4] = [Self::Observer, Self::Reviewer, Self::Maintainer, Self::Admin];

    /// Tells whether this role may do `action`: the one table of permissions.
    #[must_use]
    pub fn may(self, action: Action) -> bool {
        let least = match action {
            Action::Read => Self::Observer,
            Action::Chat | Action::Approve => Self::Reviewer,
            Action::ApproveSensitive
            | Action::Submit
            | Action::Cancel
            | Action::UseSandboxes
            | Action::LinkRepositories => Self::Maintainer,
            Action::ManageKeys => Self::Admin,
        };
        self >= least
    }

    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Observer => "observer",
            Self::Reviewer => "reviewer",
            Self::Maintainer => "maintainer",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a role: expected observer, reviewer, maintainer or admin")]
pub struct ParseRoleError(String);

impl FromStr for Role {
    type Err = ParseRoleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or_else(|| ParseRoleError(text.to_owned()))
    }
}

/// The caller's role does not allow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("your role `{role}` does not allow this; it needs at least `{}`", self.least())]
pub struct Forbidden {
    /// The caller's role.
    pub role: Role,
    /// What they wanted to do.
    pub action: Action,
}

impl Forbidden {
    fn least(&self) -> Role {
        Role::ALL.into_iter().find(|role| role.may(self.action)).unwrap_or(Role::Admin)
    }
}

/// An API key as it is stored: never the key, only its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Its id.
    pub id: ApiKeyId,
    /// The tenant it belongs to.
    pub tenant: TenantId,
    /// Whom it stands for.
    pub user: UserId,
    /// Its name, for people.
    pub name: String,
    /// SHA-256 of the key, in hexadecimal.
    pub hash: String,
    /// What its bearer may do.
    pub role: Role,
    /// Whether it still opens anything.
    pub is_active: bool,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was last used, to the minute.
    pub last_used_at: Option<DateTime<Utc>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(role: Role, allowed: &[Action]) {
        for action in Action::ALL {
            assert_eq!(role.may(action), allowed.contains(&action), "{role} {action:?}");
        }
    }

    #[test]
    fn each_role_may_do_what_the_table_says() {
        use Action::*;
        check(Role::Observer, &[Read]);
        check(Role::Reviewer, &[Read, Chat, Approve]);
        let maintainer =
            [Read, Chat, Approve, ApproveSensitive, Submit, Cancel, UseSandboxes, LinkRepositories].as_slice();
        check(Role::Maintainer, maintainer);
        check(Role::Admin, &[maintainer, &[ManageKeys]].concat());
    }

    #[test]
    fn a_refusal_names_the_role_that_would_do() {
        let forbidden = Forbidden { role: Role::Observer, action: Action::Approve };
        assert_eq!(forbidden.to_string(), "your role `observer` does not allow this; it needs at least `reviewer`");
    }
}
