//! The servers of an installation, as they find each other.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::id::NodeId;

/// How often a node says that it is there.
pub const SIGN_OF_LIFE: Duration = Duration::from_secs(10);
/// How long it may say nothing before it counts as gone: more than the clocks of two machines may differ.
const GONE: TimeDelta = TimeDelta::seconds(45);

/// A server that takes calls, with the sandboxes of its machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its id, which its data folder keeps.
    pub id: NodeId,
    /// Where other servers reach it, such as `http://10.0.0.7:8001`.
    pub url: String,
    /// When it last said that it is there.
    pub seen_at: DateTime<Utc>,
}

impl Node {
    /// Tells whether it has said nothing for so long that it counts as gone.
    #[must_use]
    pub fn is_gone(&self, now: DateTime<Utc>) -> bool {
        now - self.seen_at > GONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::samples;

    #[test]
    fn a_node_that_is_silent_for_long_counts_as_gone() {
        let node = Node { id: NodeId::random(), url: "http://127.0.0.1:1".to_owned(), seen_at: samples::now() };
        let after = |seconds| node.is_gone(samples::now() + TimeDelta::seconds(seconds));
        assert!(!after(-5) && !after(45) && after(46));
    }
}
