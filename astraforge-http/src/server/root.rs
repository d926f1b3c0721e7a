//! `/api/`: where the lists of the API are.

use axum::{
    Json,
    http::{HeaderMap, Uri, header::HOST, uri::Authority},
};

use super::{caller::Authenticated, error::ApiError, refusals::Refused};
use crate::wire::root::Resources;

/// Show where the lists are.
///
/// The addresses begin as the caller's own did, by its `Host`; `X-Forwarded-Proto: https` makes them `https`.
#[utoipa::path(
    get, path = "/api/", tag = "server", operation_id = "resources",
    responses((status = 200, description = "The addresses of the lists.", body = Resources), Refused),
)]
pub(super) async fn resources(_: Authenticated, uri: Uri, headers: HeaderMap) -> Result<Json<Resources>, ApiError> {
    let origin = origin(&uri, &headers);
    let list = |name: &str| format!("{origin}/api/{name}/");
    Ok(Json(Resources {
        requests: list("requests"),
        chat: list("chat"),
        api_keys: list("api-keys"),
        repository_links: list("repository-links"),
        runs: list("runs"),
        merge_requests: list("merge-requests"),
        sandbox_sessions: list("sandbox/sessions"),
    }))
}

/// Scheme and host that the caller used; empty, so that addresses are relative to them, when it names none.
pub(super) fn origin(uri: &Uri, headers: &HeaderMap) -> String {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let host = header(HOST.as_str()).and_then(|host| host.parse::<Authority>().ok());
    let Some(host) = host.or_else(|| uri.authority().cloned()) else { return String::new() };
    let secure = header("x-forwarded-proto") == Some("https") || uri.scheme_str() == Some("https");
    format!("{}://{host}", if secure { "https" } else { "http" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(uri: &'static str, headers: &[(&'static str, &'static str)], expected: &str) {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        assert_eq!(origin(&Uri::from_static(uri), &headers), expected);
    }

    #[test]
    fn addresses_begin_as_the_callers_own_did() {
        check("/api/", &[("host", "127.0.0.1:8001")], "http://127.0.0.1:8001");
        check("/api/", &[("host", "forge.example"), ("x-forwarded-proto", "https")], "https://forge.example");
        check("https://forge.example/api/", &[], "https://forge.example");
        check("/api/", &[("host", "a b<script>")], "");
        check("/api/", &[], "");
    }
}
