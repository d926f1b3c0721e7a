//! The servers of an installation, as they find each other.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::id::NodeId;

/// How often a node says that it is there.
pub const SIGN_OF_LIFE: Duration = Duration::from_secs(10);
/// How long it may say nothing before it counts as gone: more than the clocks of two machines may differ.
pub const GONE: TimeDelta = TimeDelta::seconds(45);
/// How long a node that is gone is remembered.
pub const FORGOTTEN: TimeDelta = TimeDelta::days(30);

/// A server that takes calls, with the sandboxes of its machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its id, which its data folder keeps.
    pub id: NodeId,
    /// Where other servers reach it, such as `http://10.0.0.7:8001`; `None` where they do not.
    pub url: Option<String>,
    /// When it last said that it is there.
    pub seen_at: DateTime<Utc>,
    /// Whether it said last that it stops.
    pub has_stopped: bool,
}

impl Node {
    /// Tells whether it has stopped, or has said nothing for so long that it counts as gone.
    #[must_use]
    pub fn is_gone(&self, now: DateTime<Utc>) -> bool {
        self.has_stopped || now - self.seen_at > GONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::samples;

    #[test]
    fn a_node_that_stops_or_is_silent_for_long_counts_as_gone() {
        let node = Node { id: NodeId::random(), url: None, seen_at: samples::now(), has_stopped: false };
        let after = |seconds| node.is_gone(samples::now() + TimeDelta::seconds(seconds));
        assert!(!after(-5) && !after(45) && after(46));
        assert!(Node { has_stopped: true, ..node.clone() }.is_gone(samples::now()));
    }
}
