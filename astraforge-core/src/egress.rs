//! Which addresses a sandbox may reach: the policy, and the grammar of its allowlist.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Which addresses a sandbox may reach, besides the services given to it.
///
/// Private, loopback, link-local and metadata addresses are out of reach in every mode.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "mode")]
#[non_exhaustive]
pub enum Egress {
    /// None at all.
    #[default]
    Off,
    /// Every public address.
    Public,
    /// The hosts that a rule names.
    Allowlist {
        /// The rules; a host is reachable when one of them names it.
        rules: Vec<HostRule>,
    },
}

/// One rule of an allowlist: `example.com`, `*.example.com` (any name below it, not itself), `example.com:8443`.
///
/// Names are compared without regard to case and to a trailing dot. Without a port, 80 and 443 are meant.
///
/// ```
/// use astraforge_core::egress::HostRule;
///
/// let rule: HostRule = "*.Example.com:443".parse()?;
/// assert!(rule.allows("api.example.com.", 443));
/// assert!(!rule.allows("example.com", 443) && !rule.allows("evil-example.com", 443));
/// # Ok::<(), astraforge_core::egress::ParseHostRuleError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostRule {
    name: String,
    below: bool,
    ports: BTreeSet<u16>,
}

/// A text that is not a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a rule for hosts: {reason}; write example.com, *.example.com or example.com:8443")]
pub struct ParseHostRuleError {
    text: String,
    reason: &'static str,
}

impl HostRule {
    /// Tells whether the rule names `host` at `port`.
    #[must_use]
    pub fn allows(&self, host: &str, port: u16) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let named = if self.below {
            host.strip_suffix(&self.name).is_some_and(|above| above.len() > 1 && above.ends_with('.'))
        } else {
            host == self.name
        };
        named && if self.ports.is_empty() { matches!(port, 80 | 443) } else { self.ports.contains(&port) }
    }
}

impl FromStr for HostRule {
    type Err = ParseHostRuleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = |reason| Err(ParseHostRuleError { text: text.chars().take(80).collect(), reason });
        let (host, ports) = text.split_once(':').map_or((text, None), |(host, ports)| (host, Some(ports)));
        let mut rule = Self { name: String::new(), below: false, ports: BTreeSet::new() };
        for port in ports.into_iter().flat_map(|ports| ports.split(',')) {
            match port.parse() {
                Ok(port) if port > 0 => rule.ports.insert(port),
                _ => return refused("a port is a number from 1 to 65535"),
            };
        }
        let name = host.strip_prefix("*.").inspect(|_| rule.below = true).unwrap_or(host);
        rule.name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let sound = |label: &str| (1..=63).contains(&label.len()) && label.chars().all(plain);
        if rule.name.len() > 253 || !rule.name.split('.').all(sound) {
            return refused("a host name is made of labels of letters, digits and `-`");
        }
        Ok(rule)
    }
}

impl fmt::Display for HostRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.below { "*." } else { "" }, self.name)?;
        for (i, port) in self.ports.iter().enumerate() {
            write!(f, "{}{port}", if i == 0 { ':' } else { ',' })?;
        }
        Ok(())
    }
}

impl TryFrom<String> for HostRule {
    type Error = ParseHostRuleError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<HostRule> for String {
    fn from(rule: HostRule) -> Self {
        rule.to_string()
    }
}

/// One connection that a sandbox tried to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressEvent {
    /// When it was tried.
    pub at: chrono::DateTime<chrono::Utc>,
    /// The host asked for, as the sandbox spelled it.
    pub host: String,
    /// The port asked for.
    pub port: u16,
    /// What became of it.
    pub outcome: EgressOutcome,
}

/// What became of a connection that a sandbox tried to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
#[non_exhaustive]
pub enum EgressOutcome {
    /// It was made; told when it has ended.
    Allowed {
        /// The address that the name was pinned to.
        address: std::net::IpAddr,
        /// Bytes from the sandbox.
        sent: u64,
        /// Bytes to the sandbox.
        received: u64,
    },
    /// The policy forbids it.
    Refused {
        /// Which rule forbids it.
        reason: String,
    },
    /// It was allowed and could not be made.
    Failed {
        /// What went wrong.
        reason: String,
    },
}
