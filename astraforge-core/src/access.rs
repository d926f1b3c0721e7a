//! Who acts, and what their role lets them do.

use std::{collections::BTreeSet, fmt, str::FromStr};

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
    /// What of it they may do by the way they came.
    pub scopes: Scopes,
}

impl Caller {
    /// Somebody who may do all that their role allows.
    #[must_use]
    pub fn new(tenant: TenantId, user: UserId, role: Role) -> Self {
        Self { tenant, user, role, scopes: Scopes::All }
    }

    /// The same caller, by a way that is for less than that.
    #[must_use]
    pub fn with_scopes(self, scopes: Scopes) -> Self {
        Self { scopes, ..self }
    }

    /// Tells whether the caller may do `action`.
    ///
    /// # Errors
    /// [`Forbidden`], which names the role or the scope that it needs.
    pub fn may(&self, action: Action) -> Result<(), Forbidden> {
        match (self.role.may(action), self.scopes.allow(action)) {
            (false, _) => Err(Forbidden::Role { role: self.role, action }),
            (true, false) => Err(Forbidden::Scope { action }),
            (true, true) => Ok(()),
        }
    }
}

/// Which of the actions that a role allows a key is for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Scopes {
    /// All of them.
    #[default]
    All,
    /// These only.
    Only(BTreeSet<Action>),
}

impl Scopes {
    const EVERYTHING: &str = "all";

    /// Tells whether `action` is among them.
    #[must_use]
    pub fn allow(&self, action: Action) -> bool {
        match self {
            Self::All => true,
            Self::Only(actions) => actions.contains(&action),
        }
    }

    /// Tells whether these allow nothing that others do not.
    #[must_use]
    pub fn is_within(&self, others: &Self) -> bool {
        Action::ALL.into_iter().all(|action| others.allow(action) || !self.allow(action))
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
    /// Also manages API keys, and reads the audit.
    Admin,
}

impl fmt::Display for Scopes {
    /// Names of actions with spaces between them; `all` for all.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str(Self::EVERYTHING),
            Self::Only(actions) => {
                let names: Vec<&str> = actions.iter().map(|action| action.as_str()).collect();
                f.write_str(&names.join(" "))
            }
        }
    }
}

impl FromStr for Scopes {
    type Err = ParseActionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == Self::EVERYTHING {
            return Ok(Self::All);
        }
        text.split_whitespace().map(str::parse).collect::<Result<_, _>>().map(Self::Only)
    }
}

/// Something that a role may or may not do, and that a key may be for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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
    /// Read the audit.
    ReadAudit,
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 10] = [
        Self::Read,
        Self::Chat,
        Self::Approve,
        Self::ApproveSensitive,
        Self::Submit,
        Self::Cancel,
        Self::UseSandboxes,
        Self::LinkRepositories,
        Self::ManageKeys,
        Self::ReadAudit,
    ];

    /// The name on the wire.
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
            Self::ReadAudit => "read_audit",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no action.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an action: expected one of {}", Action::ALL.map(Action::as_str).join(", "))]
pub struct ParseActionError {
    text: String,
}

impl FromStr for Action {
    type Err = ParseActionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|action| action.as_str() == text)
            .ok_or_else(|| ParseActionError { text: text.to_owned() })
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
            Action::ManageKeys | Action::ReadAudit => Self::Admin,
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

/// The caller may not do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    /// Their role does not allow it.
    #[error("your role `{role}` does not allow this; it needs at least `{}`", least(*.action))]
    Role {
        /// The caller's role.
        role: Role,
        /// What they wanted to do.
        action: Action,
    },
    /// Their role does, and their key is for something else.
    #[error("your key is not for this; it needs the scope `{action}`")]
    Scope {
        /// What they wanted to do.
        action: Action,
    },
}

fn least(action: Action) -> Role {
    Role::ALL.into_iter().find(|role| role.may(action)).unwrap_or(Role::Admin)
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
    /// What the key begins with, for people to know it by; empty where that was not kept.
    pub prefix: String,
    /// SHA-256 of the key, in hexadecimal.
    pub hash: String,
    /// What its bearer may do.
    pub role: Role,
    /// Which part of that it is for.
    pub scopes: Scopes,
    /// Whether it still opens anything.
    pub is_active: bool,
    /// From when on it opens nothing, if it ends by itself.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was last used, to the minute.
    pub last_used_at: Option<DateTime<Utc>>,
}

impl ApiKey {
    /// Whoever brings it, as the sender of commands.
    #[must_use]
    pub fn caller(&self) -> Caller {
        Caller::new(self.tenant.clone(), self.user.clone(), self.role).with_scopes(self.scopes.clone())
    }

    /// Tells whether its time is over.
    #[must_use]
    pub fn is_expired(&self, now: DateTime<Utc>) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }

    /// Tells whether it opens what `action` needs.
    #[must_use]
    pub fn opens(&self, action: Action, now: DateTime<Utc>) -> bool {
        self.is_active && !self.is_expired(now) && self.caller().may(action).is_ok()
    }
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
        let maintainer = [Read, Chat, Approve, ApproveSensitive, Submit, Cancel, UseSandboxes, LinkRepositories];
        check(Role::Maintainer, &maintainer);
        check(Role::Admin, &Action::ALL);
    }

    #[test]
    fn a_refusal_names_the_role_or_the_scope_that_would_do() {
        let forbidden = Forbidden::Role { role: Role::Observer, action: Action::Approve };
        assert_eq!(forbidden.to_string(), "your role `observer` does not allow this; it needs at least `reviewer`");
        let forbidden = Forbidden::Scope { action: Action::LinkRepositories };
        assert_eq!(forbidden.to_string(), "your key is not for this; it needs the scope `link_repositories`");
    }

    #[test]
    fn scopes_take_away_from_a_role_and_add_nothing() {
        let caller = Caller::new(TenantId::new("acme"), UserId::new("ada"), Role::Reviewer);
        let scopes = Scopes::Only([Action::Read, Action::Submit].into());
        let scoped = caller.clone().with_scopes(scopes);
        for action in Action::ALL {
            let expected = caller.may(action).is_ok() && action == Action::Read;
            assert_eq!(scoped.may(action).is_ok(), expected, "{action}");
        }
        assert_eq!(scoped.may(Action::Chat), Err(Forbidden::Scope { action: Action::Chat }));
    }

    #[test]
    fn scopes_are_compared_by_what_they_allow() {
        let only = |actions: &[Action]| Scopes::Only(actions.iter().copied().collect());
        assert!(only(&[Action::Read]).is_within(&only(&[Action::Read, Action::Chat])));
        assert!(!only(&[Action::Read, Action::Chat]).is_within(&only(&[Action::Read])));
        assert!(only(&[]).is_within(&only(&[])) && only(&Action::ALL).is_within(&Scopes::All));
        assert!(!Scopes::All.is_within(&only(&[Action::Read])));
        assert!(Scopes::All.is_within(&only(&Action::ALL)));
    }

    #[test]
    fn a_name_leads_back_to_its_action() {
        for action in Action::ALL {
            assert_eq!(action.as_str().parse(), Ok(action));
        }
        let some = Scopes::Only([Action::Read, Action::UseSandboxes].into());
        assert_eq!(some.to_string(), "read use_sandboxes");
        for scopes in [some, Scopes::All, Scopes::Only(BTreeSet::new())] {
            assert_eq!(scopes.to_string().parse(), Ok(scopes));
        }
        assert!("all".parse::<Action>().unwrap_err().to_string().contains("approve_sensitive"));
    }
}
