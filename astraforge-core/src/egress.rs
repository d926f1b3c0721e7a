//! Which addresses a sandbox may reach: the policy, and the grammar of its allowlist.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

mod gateway;

pub use self::gateway::{GATEWAY_PORT, proxy_variables};

/// Which addresses a sandbox may reach, besides the services given to it.
///
/// Private, loopback, link-local and metadata addresses are out of reach in every mode. As a text it is `off`, `public`,
/// or `allow:` with rules separated by commas.
///
/// ```
/// use astraforge_core::egress::Egress;
///
/// let egress: Egress = "allow:example.com,*.example.org:80,8080".parse()?;
/// assert_eq!(egress.to_string(), "allow:example.com,*.example.org:80,8080");
/// let Egress::Allowlist { rules } = egress else { panic!() };
/// assert!(rules[1].allows("api.example.org", 8080));
/// # Ok::<(), astraforge_core::egress::ParseEgressError>(())
/// ```
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

impl Egress {
    /// An allowlist of those rules.
    #[must_use]
    pub fn allowlist(rules: impl IntoIterator<Item = HostRule>) -> Self {
        Self::Allowlist { rules: rules.into_iter().collect() }
    }
}

/// A text that says no egress.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseEgressError {
    /// It is none of the modes.
    #[error("`{0}` is not an egress: write off, public, or allow:HOST,… such as allow:example.com,*.example.org:8443")]
    Mode(String),
    /// A rule is none.
    #[error(transparent)]
    Rule(#[from] ParseHostRuleError),
}

impl FromStr for Egress {
    type Err = ParseEgressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "off" => return Ok(Self::Off),
            "public" => return Ok(Self::Public),
            _ => {}
        }
        let hosts =
            text.strip_prefix("allow:").ok_or_else(|| ParseEgressError::Mode(text.chars().take(80).collect()))?;
        if hosts.is_empty() {
            return Ok(Self::Allowlist { rules: Vec::new() });
        }
        // A number after a rule is one more port of it.
        let mut rules: Vec<String> = Vec::new();
        for part in hosts.split(',') {
            match rules.last_mut().filter(|_| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit())) {
                Some(rule) => *rule = format!("{rule},{part}"),
                None => rules.push(part.trim().to_owned()),
            }
        }
        Ok(Self::Allowlist { rules: rules.iter().map(|rule| rule.parse()).collect::<Result<_, _>>()? })
    }
}

impl fmt::Display for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Public => f.write_str("public"),
            Self::Allowlist { rules } => {
                f.write_str("allow:")?;
                for (i, rule) in rules.iter().enumerate() {
                    write!(f, "{}{rule}", if i == 0 { "" } else { "," })?;
                }
                Ok(())
            }
        }
    }
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
        self.names(host) && if self.ports.is_empty() { matches!(port, 80 | 443) } else { self.ports.contains(&port) }
    }

    /// Tells whether the rule names `host`, at whichever port.
    #[must_use]
    pub fn names(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        if self.below {
            host.strip_suffix(&self.name).is_some_and(|above| above.len() > 1 && above.ends_with('.'))
        } else {
            host == self.name
        }
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
        // Programs read such names as addresses, each in its own way.
        let last = rule.name.rsplit('.').next().unwrap_or_default();
        let is_number = last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x");
        if is_number && (rule.below || rule.name.parse::<std::net::Ipv4Addr>().is_err()) {
            return refused("an address is four numbers from 0 to 255");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_egress_is_read_and_written() {
        for text in ["off", "public", "allow:", "allow:example.com", "allow:a.example:22,80,*.b.example,198.51.100.7"] {
            assert_eq!(text.parse::<Egress>().unwrap().to_string(), text);
        }
        for text in ["", "on", "allow", "allow:,a.example", "allow:80", "allow:a.example,,b.example", "Public"] {
            assert!(text.parse::<Egress>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_rule_names_no_host_but_its_own() {
        let allows = |rule: &str, host: &str| rule.parse::<HostRule>().unwrap().allows(host, 443);
        assert!(allows("example.com", "EXAMPLE.com."));
        assert!(allows("xn--bcher-kva.example", "xn--bcher-kva.example"));
        assert!(allows("*.example.com", "a.b.example.com"));
        for host in ["evil-example.com", "example.com.evil.test", "example.co", "a.example.com", "example.com..", ""] {
            assert!(!allows("example.com", host), "{host}");
        }
        for host in ["example.com", ".example.com", "evil-example.com", "example.com.evil.test"] {
            assert!(!allows("*.example.com", host), "{host}");
        }
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for text in [
            "*",
            "*.",
            "a.*.example",
            "*example.com",
            "a..b",
            "bücher.example",
            "a b",
            "example.com:",
            "example.com:0",
            "example.com:65536",
            "example.com:80-90",
            "http://example.com",
            "example.com/path",
            "user@example.com",
            "2130706433",
            "127.1",
            "0x7f.0.0.1",
            "*.1.2.3.4",
            "256.1.1.1",
            "[::1]",
            "::1",
        ] {
            assert!(text.parse::<HostRule>().is_err(), "{text}");
        }
    }
}
