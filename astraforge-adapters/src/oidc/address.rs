//! Addresses of a provider: over HTTPS, or on this machine.

use std::net::IpAddr;

use reqwest::Url;
use serde::Deserialize;

/// An address, as a provider publishes it.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Address(pub(super) Url);

impl TryFrom<String> for Address {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Url::parse(&text).map(Self).map_err(|error| format!("`{text}` is no address: {error}"))
    }
}

/// Whether a provider of that issuer may have something at `address`: HTTPS, or this machine where the provider itself is
/// on it.
pub(super) fn is_safe(address: &Url, issuer: &str) -> bool {
    address.scheme() == "https" || (is_here(address) && Url::parse(issuer).is_ok_and(|issuer| is_here(&issuer)))
}

/// Whether an issuer can be trusted to be who it says.
pub(super) fn is_issuer(text: &str) -> bool {
    let Ok(url) = Url::parse(text) else { return false };
    let is_plain = url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
    is_plain && url.password().is_none() && url.host_str().is_some() && (url.scheme() == "https" || is_here(&url))
}

fn is_here(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    url.scheme() == "http" && (host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuer_is_behind_https_or_here() {
        for fine in [
            "https://id.example",
            "https://id.example/realms/x",
            "http://127.0.0.1:9",
            "http://[::1]:9",
            "http://localhost",
        ] {
            assert!(is_issuer(fine), "{fine}");
        }
        for wrong in [
            "http://id.example",
            "http://10.0.0.1",
            "http://localhost.example",
            "http://127.0.0.1.example",
            "https://a:b@id.example",
            "https://id.example?x",
            "https://id.example#x",
            "id.example",
            "file:///x",
            "",
        ] {
            assert!(!is_issuer(wrong), "{wrong}");
        }
    }

    #[test]
    fn a_provider_elsewhere_leads_nowhere_on_this_machine() {
        let here = Url::parse("http://127.0.0.1:8080/token").unwrap();
        assert!(is_safe(&here, "http://localhost:8080"));
        assert!(!is_safe(&here, "https://id.example"));
        assert!(is_safe(&Url::parse("https://keys.example").unwrap(), "https://id.example"));
        assert!(!is_safe(&Url::parse("http://keys.example").unwrap(), "http://localhost"));
    }
}
