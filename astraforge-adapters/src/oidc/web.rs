//! Asking a provider: bounded in time and size, and never led elsewhere.

use std::time::Duration;

use astraforge_core::{BoxError, ports::identity_provider::IdentityError};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url, redirect};
use serde::de::DeserializeOwned;

/// How long one answer may take, connecting included.
const DEADLINE: Duration = Duration::from_secs(5);
/// The longest answer that is read, in bytes.
const LONGEST: usize = 1024 * 1024;

/// What asks a provider.
#[derive(Debug, Clone)]
pub(super) struct Web(Client);

/// What a provider answered.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    body: Vec<u8>,
}

impl Web {
    /// Connects nowhere yet.
    pub(super) fn new() -> Result<Self, BoxError> {
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            return Err("the process has no TLS crypto provider; call \
                        `rustls::crypto::ring::default_provider().install_default()` when it starts"
                .into());
        }
        let client = Client::builder()
            .redirect(redirect::Policy::none())
            .timeout(DEADLINE)
            .pool_idle_timeout(Duration::from_secs(60))
            .referer(false)
            .no_proxy()
            .build()?;
        Ok(Self(client))
    }

    pub(super) fn get(&self, url: Url) -> RequestBuilder {
        self.0.get(url).header("accept", "application/json")
    }

    /// Sends a form.
    pub(super) fn post(&self, url: Url, fields: &[(&str, &str)]) -> RequestBuilder {
        let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let request = self.0.post(url).header("accept", "application/json");
        request.header("content-type", "application/x-www-form-urlencoded").body(form)
    }
}

impl Answer {
    /// Asks, and reads what is answered.
    pub(super) async fn of(request: RequestBuilder) -> Result<Self, IdentityError> {
        let silent = |error: reqwest::Error| unavailable("it does not answer", error.without_url());
        let mut response: Response = request.send().await.map_err(silent)?;
        let mut body = Vec::new();
        while let Some(part) = response.chunk().await.map_err(silent)? {
            if body.len() + part.len() > LONGEST {
                return Err(unavailable("its answer is too long", format!("more than {LONGEST} bytes")));
            }
            body.extend_from_slice(&part);
        }
        Ok(Self { status: response.status(), body })
    }

    /// What a good answer says.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, IdentityError> {
        if self.status != StatusCode::OK {
            return Err(unavailable("it refuses to answer", format!("status {}", self.status)));
        }
        self.json().map_err(|error| unavailable("its answer cannot be read", error))
    }

    /// What an answer of any status says.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.body)
    }
}

/// The provider is of no use at the moment.
pub(super) fn unavailable(trouble: &'static str, source: impl Into<BoxError>) -> IdentityError {
    IdentityError::Unavailable { trouble, source: source.into() }
}
