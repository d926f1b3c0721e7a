//! What a forge is wired to: the ports that it was given, and what tenants may choose.

use std::sync::Arc;

use crate::{
    job::{Claim, Limits},
    journal::Journal,
    ports::{
        artifacts::ArtifactStore,
        executor::AgentExecutor,
        git::{GitBroker, VcsProvider},
        policy::PolicyEngine,
        review::Reviewer,
    },
    registry::Registry,
};

/// What the request spine needs from outside.
#[derive(Debug, Clone)]
pub struct Ports {
    /// Where everything is written.
    pub journal: Journal,
    /// The agent.
    pub executor: Arc<dyn AgentExecutor>,
    /// What stands between workspaces and repositories.
    pub broker: Arc<dyn GitBroker>,
    /// The hosts of repositories, by name.
    pub providers: Registry<dyn VcsProvider>,
    /// What judges changes.
    pub policy: Arc<dyn PolicyEngine>,
    /// Who reviews merge requests, in order.
    pub reviewers: Vec<Arc<dyn Reviewer>>,
    /// Where large objects are kept.
    pub artifacts: Arc<dyn ArtifactStore>,
    /// What tenants may choose.
    pub settings: Settings,
}

impl Ports {
    /// The same for whoever holds a job: once the claim is lost, nothing more is written.
    pub(crate) fn under(&self, claim: Claim) -> Self {
        Self { journal: self.journal.under(claim), ..self.clone() }
    }
}

/// What tenants may choose, and how much they get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settings {
    /// Whether somebody else than the requester has to approve.
    pub approver_must_differ: bool,
    /// How many jobs may be at work at the same time.
    pub limits: Limits,
}
