//! A durable sandbox: what is remembered of it while it runs, is stopped, and comes back.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    id::{ArtifactId, NodeId, SandboxId, SnapshotId, TenantId, UserId},
    session::SandboxSpec,
};

/// A sandbox as it is stored. It outlives the machine that it runs on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// Its id, which its machine has too.
    pub id: SandboxId,
    /// Who it belongs to.
    pub tenant: TenantId,
    /// Who made it.
    pub owner: UserId,
    /// The driver it runs on, by name.
    pub mode: String,
    /// The node whose drivers its machine is on, or was last; `None` in rows of before there were several.
    #[serde(default)]
    pub node: Option<NodeId>,
    /// What it was asked to be.
    pub spec: SandboxSpec,
    /// How it stands.
    pub status: SandboxStatus,
    /// When it is ended by itself.
    pub lifetime: Lifetime,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
    /// When its present incarnation began.
    pub started_at: DateTime<Utc>,
    /// When something was last done in it.
    pub last_activity_at: DateTime<Utc>,
    /// When its user last said that they are still there.
    pub last_heartbeat_at: DateTime<Utc>,
    /// Why it last failed; empty after a success.
    pub error_message: String,
    /// Why it was last ended; always there when it is [`SandboxStatus::Terminated`].
    pub termination: Option<Termination>,
    /// The snapshot that it was made with.
    #[serde(default)]
    pub restored_from: Option<SnapshotId>,
    /// What its files come back from.
    pub latest_snapshot: Option<SnapshotId>,
    /// Whether it ever was ready: from then on it has files that must not silently vanish.
    pub was_ready: bool,
    /// How often it was changed.
    pub version: u64,
}

impl Sandbox {
    /// When its present incarnation ends at the latest.
    #[must_use]
    pub fn expires_at(&self) -> DateTime<Utc> {
        later(self.started_at, self.lifetime.max())
    }

    /// What names it across drivers: `native://sandbox-<id>`.
    #[must_use]
    pub fn reference(&self) -> String {
        format!("{}://sandbox-{}", self.mode, self.id)
    }

    /// The node other than `here` that has its machine, or the only copy of its files. One that was stopped is nowhere:
    /// its files are in a snapshot.
    #[must_use]
    pub fn elsewhere(&self, here: Option<NodeId>) -> Option<NodeId> {
        let is_kept = matches!(
            self.termination,
            Some(
                Termination::Stopped | Termination::IdleTimeout | Termination::MaxLifetime | Termination::RestoreFailed
            )
        );
        let is_free = match self.status {
            SandboxStatus::Ready => false,
            SandboxStatus::Terminated => is_kept || self.is_deleted() || !self.was_ready,
            SandboxStatus::Starting | SandboxStatus::Failed => is_kept || !self.was_ready,
        };
        self.node.filter(|node| !is_free && here.is_some_and(|here| here != *node))
    }

    /// Tells whether it was deleted, which is for good.
    #[must_use]
    pub fn is_deleted(&self) -> bool {
        self.termination == Some(Termination::Deleted)
    }

    /// Tells whether, and why, it is to be ended at `now`. A heartbeat extends the idle time, never the lifetime.
    #[must_use]
    pub fn due(&self, now: DateTime<Utc>) -> Option<Termination> {
        if self.status != SandboxStatus::Ready {
            return None;
        }
        let last_seen = self.last_activity_at.max(self.last_heartbeat_at);
        if now >= self.expires_at() {
            Some(Termination::MaxLifetime)
        } else if now >= later(last_seen, self.lifetime.idle()) {
            Some(Termination::IdleTimeout)
        } else {
            None
        }
    }
}

fn later(time: DateTime<Utc>, duration: Duration) -> DateTime<Utc> {
    TimeDelta::from_std(duration)
        .ok()
        .and_then(|delta| time.checked_add_signed(delta))
        .unwrap_or(DateTime::<Utc>::MAX_UTC)
}

/// How a sandbox stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SandboxStatus {
    /// Its machine is being made.
    Starting,
    /// It works.
    Ready,
    /// Its machine could not be made.
    Failed,
    /// Its machine is gone; unless it was deleted, it comes back when it is used.
    Terminated,
}

impl SandboxStatus {
    /// Every status.
    pub const ALL: [Self; 4] = [Self::Starting, Self::Ready, Self::Failed, Self::Terminated];

    /// Tells whether `next` may follow.
    #[must_use]
    pub const fn can_become(self, next: Self) -> bool {
        matches!(
            (self, next),
            (Self::Starting, Self::Ready | Self::Failed | Self::Terminated)
                | (Self::Ready, Self::Terminated)
                | (Self::Failed | Self::Terminated, Self::Starting | Self::Terminated)
        )
    }

    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Failed => "failed",
            Self::Terminated => "terminated",
        }
    }
}

/// Why a sandbox was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Termination {
    /// Nobody used it for too long.
    IdleTimeout,
    /// It ran for as long as it may.
    MaxLifetime,
    /// Its user stopped it.
    Stopped,
    /// Its user deleted it: it does not come back.
    Deleted,
    /// Its files could not be brought back.
    RestoreFailed,
    /// Its machine died by itself.
    Lost,
}

impl Termination {
    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::IdleTimeout => "idle_timeout",
            Self::MaxLifetime => "max_lifetime",
            Self::Stopped => "stopped",
            Self::Deleted => "deleted",
            Self::RestoreFailed => "restore_failed",
            Self::Lost => "lost",
        }
    }
}

/// When a sandbox is ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "LifetimeText", into = "LifetimeText")]
pub struct Lifetime {
    idle: Duration,
    max: Duration,
}

#[derive(Serialize, Deserialize)]
struct LifetimeText {
    idle_secs: u64,
    max_secs: u64,
}

/// Times that do not go together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct LifetimeError {
    /// The field that is wrong.
    pub field: &'static str,
    /// What would be right.
    pub message: &'static str,
}

impl Lifetime {
    /// Ends after `idle` without use, and after `max` in any case.
    ///
    /// # Errors
    /// When `idle` is less than a minute, `max` less than five, or `idle` more than `max`.
    pub fn new(idle: Duration, max: Duration) -> Result<Self, LifetimeError> {
        let wrong = |field, message| Err(LifetimeError { field, message });
        if idle < Duration::from_secs(60) {
            return wrong("idle_timeout_sec", "Ensure this value is greater than or equal to 60.");
        }
        if max < Duration::from_secs(300) {
            return wrong("max_lifetime_sec", "Ensure this value is greater than or equal to 300.");
        }
        if idle > max {
            return wrong("non_field_errors", "idle_timeout_sec cannot exceed max_lifetime_sec");
        }
        Ok(Self { idle, max })
    }

    /// How long it may lie unused.
    #[must_use]
    pub const fn idle(self) -> Duration {
        self.idle
    }

    /// How long it may run.
    #[must_use]
    pub const fn max(self) -> Duration {
        self.max
    }
}

impl Default for Lifetime {
    fn default() -> Self {
        Self { idle: Duration::from_secs(300), max: Duration::from_secs(3600) }
    }
}

impl TryFrom<LifetimeText> for Lifetime {
    type Error = LifetimeError;

    fn try_from(text: LifetimeText) -> Result<Self, Self::Error> {
        Self::new(Duration::from_secs(text.idle_secs), Duration::from_secs(text.max_secs))
    }
}

impl From<Lifetime> for LifetimeText {
    fn from(lifetime: Lifetime) -> Self {
        Self { idle_secs: lifetime.idle.as_secs(), max_secs: lifetime.max.as_secs() }
    }
}

/// Files of a sandbox, kept outside of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its id.
    pub id: SnapshotId,
    /// The sandbox whose files they are.
    pub sandbox: SandboxId,
    /// Who it belongs to.
    pub tenant: TenantId,
    /// What its maker calls it, or empty.
    pub label: String,
    /// Where its bytes are, in the artifact store.
    pub key: String,
    /// How many bytes.
    pub size: u64,
    /// Their SHA-256, in hex.
    pub sha256: String,
    /// What went into it.
    pub include: Vec<String>,
    /// What was left out.
    pub exclude: Vec<String>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// What is kept of a sandbox, in short.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Kept {
    /// Its snapshots, the newest first.
    pub snapshots: Vec<SnapshotId>,
    /// How many files were taken out of it.
    pub n_artifacts: u64,
}

/// A file that was taken out of a sandbox, kept when the sandbox is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Its id.
    pub id: ArtifactId,
    /// The sandbox it comes from.
    pub sandbox: SandboxId,
    /// Who it belongs to.
    pub tenant: TenantId,
    /// The name it is offered under.
    pub filename: String,
    /// What it is said to hold.
    pub content_type: String,
    /// Where it was in the sandbox.
    pub path: String,
    /// Where its bytes are, in the artifact store.
    pub key: String,
    /// How many bytes.
    pub size: u64,
    /// Their SHA-256, in hex.
    pub sha256: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::samples;

    #[track_caller]
    fn check(from: SandboxStatus, allowed: &[SandboxStatus]) {
        for to in SandboxStatus::ALL {
            assert_eq!(from.can_become(to), allowed.contains(&to), "{from:?} -> {to:?}");
        }
    }

    #[test]
    fn transitions() {
        use SandboxStatus::{Failed, Ready, Starting, Terminated};
        check(Starting, &[Ready, Failed, Terminated]);
        check(Ready, &[Terminated]);
        check(Failed, &[Starting, Terminated]);
        check(Terminated, &[Starting, Terminated]);
    }

    #[test]
    fn what_is_due_and_when() {
        let at = |secs| samples::now() + TimeDelta::seconds(secs);
        let mut sandbox = samples::sandbox();
        assert_eq!(sandbox.due(at(299)), None);
        assert_eq!(sandbox.due(at(300)), Some(Termination::IdleTimeout));
        sandbox.last_heartbeat_at = at(3500);
        assert_eq!(sandbox.due(at(3599)), None, "a heartbeat extends the idle time");
        assert_eq!(sandbox.due(at(3600)), Some(Termination::MaxLifetime), "and never the lifetime");
        sandbox.last_heartbeat_at = at(9000);
        assert_eq!(sandbox.due(at(-9000)), None, "a clock that was set back ends nothing");
        for status in [SandboxStatus::Starting, SandboxStatus::Failed, SandboxStatus::Terminated] {
            sandbox.status = status;
            assert_eq!(sandbox.due(at(1_000_000)), None);
        }
    }

    #[test]
    fn times_go_together() {
        let new = |idle, max| Lifetime::new(Duration::from_secs(idle), Duration::from_secs(max));
        assert_eq!(new(300, 3600), Ok(Lifetime::default()));
        assert_eq!(new(59, 3600).unwrap_err().field, "idle_timeout_sec");
        assert_eq!(new(60, 299).unwrap_err().field, "max_lifetime_sec");
        assert_eq!(new(301, 300).unwrap_err().to_string(), "idle_timeout_sec cannot exceed max_lifetime_sec");
    }
}
