//! The provider, as a process of its own.

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
};

use reqwest::Client;
use serde_json::Value;

/// A provider that ends with the test.
pub(crate) struct Provider {
    child: Child,
    issuer: String,
    /// Kept open: it says more now and then, and would end if nobody could hear it.
    _said: BufReader<ChildStdout>,
}

impl Provider {
    /// Starts one with keys of its own, on a port or a free one, whose clock is so many seconds ahead.
    pub(crate) async fn start(port: u16, clock: i64) -> Self {
        _ = rustls::crypto::ring::default_provider().install_default();
        let folder = std::env::var_os("ASTRAFORGE_TEST_OIDC").map(PathBuf::from);
        let folder =
            folder.unwrap_or_else(|| panic!("ASTRAFORGE_TEST_OIDC is not set; run: cargo xtask test --only oidc"));
        let mut node = Command::new("node");
        node.arg(folder.join("provider.mjs")).args([port.to_string(), clock.to_string()]);
        let mut child = node.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut issuer = String::new();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        said.read_line(&mut issuer).unwrap();
        let provider = Self { child, issuer: issuer.trim().to_owned(), _said: said };
        assert!(provider.issuer.starts_with("http://127.0.0.1:"), "the provider did not start");
        provider
    }

    pub(crate) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// An access token of the program `robot`, made for `audience`.
    pub(crate) async fn token(&self, audience: &str) -> String {
        let resource: String = audience.replace(':', "%3A").replace('/', "%2F");
        self.grant(&format!("grant_type=client_credentials&scope=api&resource={resource}")).await
    }

    /// One that only the provider can read.
    pub(crate) async fn opaque_token(&self) -> String {
        self.grant("grant_type=client_credentials").await
    }

    async fn grant(&self, form: &str) -> String {
        let request = Client::new().post(format!("{}/token", self.issuer)).basic_auth("robot", Some("another-secret"));
        let request = request.header("content-type", "application/x-www-form-urlencoded").body(form.to_owned());
        let answer = request.send().await.unwrap().text().await.unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        answer["access_token"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
