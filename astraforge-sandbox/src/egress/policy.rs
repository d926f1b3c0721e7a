//! What a sandbox may reach, decided without looking at anything but what it is given.

use std::{net::IpAddr, sync::Arc};

use astraforge_core::egress::Egress;

use super::{
    address::{Network, Unreachable, canonical, public},
    first_bytes::FirstBytes,
    target::{BadTarget, Host, Target},
};

/// Ports that no sandbox needs on the internet, and that are used to harm others.
const CLOSED_PORTS: [(u16, &str); 5] = [
    (25, "mail is handed in at 465 or 587; this one is where unwanted mail is sent"),
    (135, "it is for networks of offices"),
    (137, "it is for networks of offices"),
    (139, "it is for networks of offices"),
    (445, "it is for networks of offices"),
];

/// What an operator says about networks, for all sandboxes.
#[derive(Debug, Clone, Default)]
pub(super) struct Networks {
    /// They count as public.
    pub(super) open: Vec<Network>,
    /// They are out of reach, public or not.
    pub(super) closed: Vec<Network>,
}

/// Which addresses one sandbox may reach.
#[derive(Debug, Clone)]
pub(super) struct Policy {
    egress: Egress,
    networks: Arc<Networks>,
}

/// Why a connection is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// The sandbox may reach nothing.
    #[error("this sandbox may reach no host (its egress is off)")]
    Off,
    /// No rule names the host.
    #[error("no rule of this sandbox's allowlist names `{host}`")]
    NotListed {
        /// The host.
        host: String,
    },
    /// Rules name the host, at other ports.
    #[error("this sandbox's allowlist names `{host}`, but not its port {port}")]
    PortNotListed {
        /// The host.
        host: String,
        /// The port.
        port: u16,
    },
    /// The port is closed in every sandbox.
    #[error("port {port} is closed: {why}")]
    ClosedPort {
        /// The port.
        port: u16,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The host is spelled in a way that is not taken.
    #[error("`{text}` is not taken: {reason}")]
    Spelling {
        /// What was asked for.
        text: String,
        /// What is wrong with it.
        reason: BadTarget,
    },
    /// The address is not public.
    #[error("`{host}` is at {address}, {}: out of reach for every sandbox", why.what)]
    Address {
        /// The host.
        host: String,
        /// Its address.
        address: IpAddr,
        /// What kind of address that is.
        why: Unreachable,
    },
    /// The operator closed the network.
    #[error("`{host}` is at {address}, in a network that this node's operator closed")]
    ClosedNetwork {
        /// The host.
        host: String,
        /// Its address.
        address: IpAddr,
    },
    /// The TLS greeting names another host than the one asked for.
    #[error("the TLS greeting names `{greeted}`, but the connection is to `{host}`")]
    OtherName {
        /// The host asked for.
        host: String,
        /// The host greeted.
        greeted: String,
    },
    /// The TLS greeting names no host.
    #[error("the TLS greeting to `{host}` names no host (SNI), which an allowlist needs")]
    NoName {
        /// The host asked for.
        host: String,
    },
    /// What is sent is neither TLS nor HTTP.
    #[error(
        "what is sent to port {port} of `{host}` is neither TLS nor HTTP; a rule for another port allows other protocols"
    )]
    NotWeb {
        /// The host asked for.
        host: String,
        /// The port.
        port: u16,
    },
    /// The request names another host than the one that it is sent to.
    #[error("the request's Host field is `{named}`, but it is for `{host}`")]
    OtherHost {
        /// The host asked for.
        host: String,
        /// The host named.
        named: String,
    },
}

impl Policy {
    /// A policy of one sandbox on a node with those networks.
    #[must_use]
    pub(super) fn new(egress: Egress, networks: Arc<Networks>) -> Self {
        Self { egress, networks }
    }

    /// The egress that it carries out.
    #[must_use]
    pub(super) fn egress(&self) -> &Egress {
        &self.egress
    }

    /// Judges what is asked for, before anything is looked up.
    ///
    /// # Errors
    /// [`Refusal`] says which rule forbids it.
    pub(super) fn judge(&self, target: &Target) -> Result<(), Refusal> {
        let (host, port) = (target.host.to_string(), target.port);
        match &self.egress {
            Egress::Public => match CLOSED_PORTS.iter().find(|(closed, _)| *closed == port) {
                Some((port, why)) => Err(Refusal::ClosedPort { port: *port, why }),
                None => Ok(()),
            },
            Egress::Allowlist { rules } if rules.iter().any(|rule| rule.allows(&host, port)) => Ok(()),
            Egress::Allowlist { rules } if rules.iter().any(|rule| rule.names(&host)) => {
                Err(Refusal::PortNotListed { host, port })
            }
            Egress::Allowlist { .. } => Err(Refusal::NotListed { host }),
            // A mode that this version does not know allows nothing.
            _ => Err(Refusal::Off),
        }
    }

    /// Judges the addresses that the host was found at, and returns those to connect to. All of them have to be
    /// reachable: a name with an inner address among public ones is what an attack by DNS looks like.
    ///
    /// # Errors
    /// [`Refusal`] says which address is out of reach.
    pub(super) fn pin(
        &self,
        target: &Target,
        addresses: &[IpAddr],
        is_own: &dyn Fn(IpAddr) -> bool,
    ) -> Result<Vec<IpAddr>, Refusal> {
        let host = || target.host.to_string();
        let mut pinned = Vec::with_capacity(addresses.len());
        for address in addresses.iter().copied().map(canonical) {
            if self.networks.closed.iter().any(|network| network.contains(address)) {
                return Err(Refusal::ClosedNetwork { host: host(), address });
            }
            let mut opened = self.networks.open.iter().filter(|network| network.contains(address));
            match public(address) {
                Err(why) if !why.can_be_opened || opened.next().is_none() => {
                    return Err(Refusal::Address { host: host(), address, why });
                }
                _ => {}
            }
            // What listens on the node trusts its own network; only a network of that one address opens it.
            let named = self.networks.open.iter().any(|network| network.is_one() && network.contains(address));
            if !named && is_own(address) {
                let why = Unreachable { what: "an address of the node itself", can_be_opened: true };
                return Err(Refusal::Address { host: host(), address, why });
            }
            if !pinned.contains(&address) {
                pinned.push(address);
            }
        }
        Ok(pinned)
    }

    /// Judges how a tunnel begins, as far as that tells which host is meant.
    ///
    /// # Errors
    /// [`Refusal`] says what does not agree.
    pub(super) fn judge_first_bytes(&self, target: &Target, first: &FirstBytes) -> Result<(), Refusal> {
        let listed = matches!(self.egress, Egress::Allowlist { .. });
        let (host, port) = (|| target.host.to_string(), target.port);
        match (first, target.host.name()) {
            (FirstBytes::Tls { name: Some(greeted) }, Some(name))
                if Host::parse(greeted).ok().as_ref().and_then(Host::name) != Some(name) =>
            {
                let greeted = greeted.chars().take(253).collect();
                Err(Refusal::OtherName { host: host(), greeted })
            }
            (FirstBytes::Tls { name: None }, Some(_)) if listed => Err(Refusal::NoName { host: host() }),
            (FirstBytes::Other, _) if listed && matches!(port, 80 | 443) => Err(Refusal::NotWeb { host: host(), port }),
            _ => Ok(()),
        }
    }

    /// Tells whether each HTTP request in a tunnel must name the tunnel's host.
    #[must_use]
    pub(super) fn reads_tunnelled_http(&self) -> bool {
        matches!(self.egress, Egress::Allowlist { .. })
    }
}

impl Refusal {
    /// What would allow it.
    #[must_use]
    pub(super) fn remedy(&self) -> &'static str {
        match self {
            Self::Off | Self::NotListed { .. } | Self::PortNotListed { .. } => {
                "To allow it: for a sandbox, astraforge sandbox egress SANDBOX --set allow:HOST,... or --set public; for \
                 the runs on a repository, name the host in its link (astraforge run --allow HOST,...)."
            }
            Self::Address { why: Unreachable { can_be_opened: true, .. }, .. } => {
                "Whoever operates this node can open a network with SANDBOX_EGRESS_OPEN."
            }
            Self::ClosedNetwork { .. } => "Whoever operates this node closed it with SANDBOX_EGRESS_CLOSED.",
            Self::Spelling { .. } => "Write the host's name as DNS has it.",
            Self::OtherName { .. } | Self::NoName { .. } | Self::OtherHost { .. } => {
                "Connect by the name of the host that is meant."
            }
            Self::Address { .. } | Self::ClosedPort { .. } | Self::NotWeb { .. } => {
                "Nothing in the sandbox can change that."
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(egress: &str) -> Policy {
        Policy::new(egress.parse().unwrap(), Arc::default())
    }

    fn target(text: &str) -> Target {
        Target::parse(text, Some(443)).unwrap()
    }

    #[track_caller]
    fn check(egress: &str, text: &str, expected: Option<&str>) {
        let verdict = policy(egress).judge(&target(text)).map_err(|refusal| refusal.to_string());
        match expected {
            None => assert_eq!(verdict, Ok(())),
            Some(reason) => {
                assert!(verdict.as_ref().is_err_and(|it| it.contains(reason)), "{egress} {text}: {verdict:?}")
            }
        }
    }

    #[test]
    fn hosts_and_ports_are_judged_by_the_mode() {
        check("off", "example.com", Some("egress is off"));
        check("public", "example.com", None);
        check("public", "example.com:8443", None);
        check("public", "example.com:25", Some("port 25 is closed"));
        check("public", "example.com:445", Some("port 445 is closed"));
        let listed = "allow:example.com,*.example.org,git.example.net:22,smtp.example.net:25";
        check(listed, "example.com", None);
        check(listed, "example.com:80", None);
        check(listed, "EXAMPLE.com.:443", None);
        check(listed, "example.com:8443", Some("not its port 8443"));
        check(listed, "a.b.example.org", None);
        check(listed, "example.org", Some("no rule"));
        check(listed, "evil-example.com", Some("no rule"));
        check(listed, "example.com.evil.test", Some("no rule"));
        check(listed, "git.example.net:22", None);
        check(listed, "git.example.net:443", Some("not its port 443"));
        check(listed, "smtp.example.net:25", None);
        check(listed, "93.184.216.34", Some("no rule"));
    }

    fn pin(networks: Networks, addresses: &[&str]) -> Result<Vec<IpAddr>, Refusal> {
        let addresses: Vec<IpAddr> = addresses.iter().map(|it| it.parse().unwrap()).collect();
        let own = |address: IpAddr| ["9.9.9.9", "10.0.0.9"].contains(&address.to_string().as_str());
        Policy::new(Egress::Public, Arc::new(networks)).pin(&target("example.com"), &addresses, &own)
    }

    #[test]
    fn every_address_of_a_name_has_to_be_public() {
        let pinned = pin(Networks::default(), &["1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1"]).unwrap();
        assert_eq!(pinned, ["1.1.1.1".parse::<IpAddr>().unwrap(), "2606:4700::1111".parse().unwrap()]);
        for inner in ["10.0.0.1", "::ffff:10.0.0.1", "fd00::1", "169.254.169.254", "9.9.9.9", "::"] {
            assert!(pin(Networks::default(), &["1.1.1.1", inner]).is_err(), "{inner}");
            assert!(pin(Networks::default(), &[inner, "2606:4700::1111"]).is_err(), "{inner}");
        }
    }

    #[test]
    fn an_operator_opens_and_closes_networks_and_never_the_node_by_accident() {
        let networks = |open: &[&str], closed: &[&str]| Networks {
            open: open.iter().map(|it| it.parse().unwrap()).collect(),
            closed: closed.iter().map(|it| it.parse().unwrap()).collect(),
        };
        assert!(pin(networks(&["10.0.0.0/8"], &[]), &["10.0.0.1"]).is_ok());
        assert!(pin(networks(&["10.0.0.0/8"], &["10.0.0.1"]), &["10.0.0.1"]).is_err(), "closed counts more");
        assert!(pin(networks(&[], &["1.0.0.0/8"]), &["1.1.1.1"]).is_err());
        assert!(pin(networks(&["10.0.0.0/8"], &[]), &["10.0.0.9"]).is_err(), "the node's own");
        assert!(pin(networks(&["10.0.0.9"], &[]), &["10.0.0.9"]).is_ok(), "named alone");
        for never in ["127.0.0.1", "169.254.169.254", "0.0.0.0", "::1", "fe80::1", "100.100.100.200", "ff02::1"] {
            let all = networks(&["0.0.0.0/0", "::/0", never], &[]);
            assert!(pin(all, &[never]).is_err(), "{never}");
        }
    }

    #[test]
    fn how_a_tunnel_begins_has_to_agree_with_where_it_leads() {
        let tls = |name: Option<&str>| FirstBytes::Tls { name: name.map(str::to_owned) };
        let check = |egress: &str, to: &str, first: &FirstBytes, allowed: bool| {
            assert_eq!(
                policy(egress).judge_first_bytes(&target(to), first).is_ok(),
                allowed,
                "{egress} {to} {first:?}"
            );
        };
        for egress in ["public", "allow:example.com"] {
            check(egress, "example.com", &tls(Some("example.com")), true);
            check(egress, "example.com", &tls(Some("EXAMPLE.com")), true);
            check(egress, "example.com", &tls(Some("evil.test")), false);
            check(egress, "example.com", &tls(Some("a.example.com")), false);
            check(egress, "93.184.216.34", &tls(Some("example.com")), true);
            check(egress, "example.com", &FirstBytes::Http, true);
        }
        check("public", "example.com", &tls(None), true);
        check("allow:example.com", "example.com", &tls(None), false);
        check("public", "example.com", &FirstBytes::Other, true);
        check("allow:example.com", "example.com", &FirstBytes::Other, false);
        check("allow:example.com", "example.com:80", &FirstBytes::Other, false);
        check("allow:example.com:22", "example.com:22", &FirstBytes::Other, true);
    }
}
