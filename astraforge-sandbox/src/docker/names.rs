//! What a sandbox's things are called on an engine, and how its owner's are told from everybody else's.

use std::collections::HashMap;

use astraforge_core::id::SandboxId;

/// Label with the sandbox's id, on everything that belongs to one.
pub(super) const SESSION: &str = "astraforge.sandbox.session";

/// Label with the owner, on everything that a driver makes for itself.
pub(super) const OWNER: &str = "astraforge.sandbox.owner";

/// Label with what a container is there for.
pub(super) const ROLE: &str = "astraforge.sandbox.role";

/// Label with who makes a container, as long as it has not started.
pub(super) const MAKER: &str = "astraforge.sandbox.maker";

/// Label of volumes that hold a guest program.
pub(super) const GUEST: &str = "astraforge.sandbox.guest";

/// What a container is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// It is a sandbox whose workspace nobody had before.
    Fresh,
    /// It is a sandbox around what an earlier one left.
    Kept,
    /// It is never started: something is put on its volume.
    Preparation,
}

impl Role {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Kept => "kept",
            Self::Preparation => "preparation",
        }
    }

    pub(super) fn of(labels: &HashMap<String, String>) -> Option<Self> {
        let role = labels.get(ROLE)?;
        [Self::Fresh, Self::Kept, Self::Preparation].into_iter().find(|it| it.as_str() == role)
    }
}

/// Name and host name of the container of a sandbox.
pub(super) fn container(id: SandboxId) -> String {
    format!("sandbox-{id}")
}

/// Name of the container by which a new workspace is given to its user.
pub(super) fn preparation(id: SandboxId) -> String {
    format!("sandbox-{id}-workspace")
}

/// Name of the volume of a sandbox's workspace.
pub(super) fn workspace(prefix: &str, id: SandboxId) -> String {
    format!("{prefix}session-{id}")
}

/// Labels of what belongs to a sandbox.
pub(super) fn labels(owner: &str, id: SandboxId) -> HashMap<String, String> {
    HashMap::from([(SESSION.to_owned(), id.to_string()), (OWNER.to_owned(), owner.to_owned())])
}

/// Tells whether labels say that something belongs to `owner`.
pub(super) fn is_owned(labels: &HashMap<String, String>, owner: &str) -> bool {
    labels.get(OWNER).is_some_and(|it| it == owner)
}

/// Makes a filter for what belongs to `owner`, of one sandbox or of all.
pub(super) fn filter(owner: &str, id: Option<SandboxId>) -> HashMap<String, Vec<String>> {
    let mut labels =
        vec![format!("{OWNER}={owner}"), id.map_or_else(|| SESSION.to_owned(), |id| format!("{SESSION}={id}"))];
    labels.sort();
    HashMap::from([("label".to_owned(), labels)])
}
