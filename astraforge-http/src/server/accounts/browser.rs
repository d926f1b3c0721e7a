//! What a browser sends and keeps: cookies, and proof that a page of ours makes a call.

use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header::COOKIE, header::ORIGIN};
use chrono::TimeDelta;

use super::super::{
    auth::{MintError, random_text},
    error::ApiError,
    root::origin,
};

/// How long somebody stays logged in.
pub(super) const LOGGED_IN: TimeDelta = TimeDelta::days(14);
/// How long a browser keeps its token, in seconds.
const TOKEN_SECONDS: u32 = 31_449_600;
/// How long a token is, in characters.
const TOKEN_LENGTH: usize = 32;

/// How long a login at an identity provider may take, in seconds.
const PROVIDER_SECONDS: u32 = 600;

const LOGIN: &str = "sessionid";
const TOKEN: &str = "csrftoken";
const PROVIDER: &str = "oidclogin";

/// A fresh token.
pub(super) fn new_token() -> Result<String, MintError> {
    let plain = |c: &char| c.is_ascii_alphanumeric();
    let text: String =
        [random_text()?, random_text()?].iter().flat_map(|it| it.reveal().chars()).filter(plain).collect();
    Ok(text.chars().chain(std::iter::repeat('x')).take(TOKEN_LENGTH).collect())
}

/// A browser, as one call shows it.
pub(super) struct Browser<'a> {
    headers: &'a HeaderMap,
    /// Scheme and host that it used.
    own_origin: String,
}

impl<'a> Browser<'a> {
    pub(super) fn of(uri: &Uri, headers: &'a HeaderMap) -> Self {
        Self { headers, own_origin: origin(uri, headers) }
    }

    /// What proves that somebody is logged in.
    pub(super) fn login(&self) -> Option<&'a str> {
        self.cookie(LOGIN)
    }

    /// The token that it has, if it is one of ours.
    pub(super) fn token(&self) -> Option<&'a str> {
        let is_ours = |token: &&str| token.len() == TOKEN_LENGTH && token.bytes().all(|c| c.is_ascii_alphanumeric());
        self.cookie(TOKEN).filter(is_ours)
    }

    /// The login at an identity provider that it has begun, sealed.
    pub(super) fn provider_login(&self) -> Option<&'a str> {
        self.cookie(PROVIDER)
    }

    /// Scheme and host that it used; empty when it names none.
    pub(super) fn own_origin(&self) -> &str {
        &self.own_origin
    }

    fn cookie(&self, name: &str) -> Option<&'a str> {
        let lines = self.headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
        let mut cookies = lines.flat_map(|line| line.split(';')).filter_map(|cookie| cookie.trim().split_once('='));
        cookies.find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    /// Refuses a call that a page of another origin makes.
    pub(super) fn check_origin(&self, trusted: &[String]) -> Result<(), ApiError> {
        let Some(origin) = self.headers.get(ORIGIN) else { return Ok(()) };
        let origin = origin.to_str().unwrap_or_default();
        if origin == self.own_origin || trusted.iter().any(|trusted| trusted == origin) {
            return Ok(());
        }
        let shown: String = origin.chars().take(200).collect();
        Err(refused(&format!("Origin checking failed - {shown} does not match any trusted origins.")))
    }

    /// Refuses a call that does not bring the browser's token: another page cannot read it.
    pub(super) fn check_token(&self) -> Result<(), ApiError> {
        let kept = self.cookie(TOKEN).ok_or_else(|| refused("CSRF cookie not set."))?;
        let sent = self.headers.get("x-csrftoken").ok_or_else(|| refused("CSRF token missing."))?.as_bytes();
        if sent.len() != TOKEN_LENGTH {
            return Err(refused("CSRF token from the 'X-Csrftoken' HTTP header has incorrect length."));
        }
        // Every character is looked at, so that the time it takes tells nothing.
        let differ = kept.len() != sent.len() || kept.bytes().zip(sent).fold(0, |all, (a, b)| all | (a ^ b)) != 0;
        if differ { Err(refused("CSRF token from the 'X-Csrftoken' HTTP header incorrect.")) } else { Ok(()) }
    }

    pub(super) fn login_cookie(&self, proof: &str) -> HeaderValue {
        self.cookie_to_keep(&format!("{LOGIN}={proof}; HttpOnly; Max-Age={}", LOGGED_IN.num_seconds()))
    }

    pub(super) fn no_login_cookie(&self) -> HeaderValue {
        self.cookie_to_keep(&format!("{LOGIN}=; HttpOnly; Max-Age=0"))
    }

    pub(super) fn token_cookie(&self, token: &str) -> HeaderValue {
        self.cookie_to_keep(&format!("{TOKEN}={token}; Max-Age={TOKEN_SECONDS}"))
    }

    /// The provider sends the browser back from another site: that is still taken for the browser's own doing (`Lax`).
    pub(super) fn provider_cookie(&self, sealed: &str) -> HeaderValue {
        self.cookie_to_keep(&format!("{PROVIDER}={sealed}; HttpOnly; Max-Age={PROVIDER_SECONDS}"))
    }

    pub(super) fn no_provider_cookie(&self) -> HeaderValue {
        self.cookie_to_keep(&format!("{PROVIDER}=; HttpOnly; Max-Age=0"))
    }

    fn cookie_to_keep(&self, cookie: &str) -> HeaderValue {
        let secure = if self.own_origin.starts_with("https://") { "; Secure" } else { "" };
        let cookie = HeaderValue::try_from(format!("{cookie}; Path=/; SameSite=Lax{secure}"));
        cookie.unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

fn refused(reason: &str) -> ApiError {
    ApiError::new(StatusCode::FORBIDDEN, format!("CSRF Failed: {reason}"))
}
