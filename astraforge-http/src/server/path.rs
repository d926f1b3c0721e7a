//! Paths: one form for each, and ids in them.

use std::{collections::HashMap, str::FromStr};

use astraforge_core::id::{
    ApiKeyId, ArtifactId, MergeRequestId, RepositoryLinkId, RequestId, RunId, SandboxId, SnapshotId,
};
use axum::{
    extract::{FromRequestParts, Path, Request},
    http::{Uri, request::Parts},
    middleware::Next,
    response::Response,
};

use super::error::ApiError;

/// Gives each path below `/api`, which was stripped by the router, its one form.
pub(super) async fn canonical(mut request: Request, next: Next) -> Response {
    let path = canonical_path(request.uri().path());
    let path_and_query = match request.uri().query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    if let Ok(path_and_query) = path_and_query.parse() {
        let mut parts = request.uri().clone().into_parts();
        parts.path_and_query = Some(path_and_query);
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
    next.run(request).await
}

/// The form that the contract gives a path: a slash at the end, except for run logs, and no name of a format.
fn canonical_path(below_api: &str) -> String {
    // Where a name of a caller's own is last, its end is a part of it.
    let without_format = || below_api.strip_suffix(".json").filter(|_| !below_api.contains("/processes/"));
    let path = below_api.strip_suffix('/').or_else(without_format).unwrap_or(below_api);
    let slash = if path.ends_with("/logs/stream") { "" } else { "/" };
    format!("/api{path}{slash}")
}

/// An id in a path. One that is malformed names nothing: 404.
pub(super) struct PathId<T>(pub(super) T);

/// Something that a path names.
pub(super) trait Named: FromStr {
    /// What is said when there is no such thing.
    fn not_found(text: &str) -> String;
    /// What is said when the text is no id.
    fn malformed(text: &str) -> String {
        Self::not_found(text)
    }
}

impl Named for RequestId {
    fn not_found(text: &str) -> String {
        format!("Request {text} not found")
    }
}

impl Named for RunId {
    fn not_found(_: &str) -> String {
        "Run not found".to_owned()
    }
}

impl Named for MergeRequestId {
    fn not_found(_: &str) -> String {
        "Merge request not found".to_owned()
    }
}

impl Named for RepositoryLinkId {
    fn not_found(_: &str) -> String {
        "No RepositoryLink matches the given query.".to_owned()
    }

    fn malformed(_: &str) -> String {
        "Not found.".to_owned()
    }
}

impl Named for SandboxId {
    fn not_found(_: &str) -> String {
        "No SandboxSession matches the given query.".to_owned()
    }

    fn malformed(_: &str) -> String {
        "Not found.".to_owned()
    }
}

impl Named for SnapshotId {
    fn not_found(_: &str) -> String {
        "Snapshot not found".to_owned()
    }
}

impl Named for ArtifactId {
    fn not_found(_: &str) -> String {
        "Artifact not found".to_owned()
    }
}

impl Named for ApiKeyId {
    fn not_found(_: &str) -> String {
        "API key not found".to_owned()
    }
}

impl<T: Named> PathId<T> {
    /// Reads an id.
    pub(super) fn parse(text: &str) -> Result<T, ApiError> {
        let shown: String = text.chars().take(64).collect();
        text.parse().map_err(|_| ApiError::not_found(T::malformed(&shown)))
    }
}

impl<S: Send + Sync, T: Named> FromRequestParts<S> for PathId<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        // A segment that is not UTF-8 when decoded names nothing either.
        let text = Path::<String>::from_request_parts(parts, state).await.map(|Path(text)| text).unwrap_or_default();
        Self::parse(&text).map(PathId)
    }
}

/// A segment of a path that has several, by the name that its route gives it. One that is not UTF-8 when decoded is empty.
pub(super) async fn segment<S: Send + Sync>(parts: &mut Parts, state: &S, name: &str) -> String {
    let segments = Path::<HashMap<String, String>>::from_request_parts(parts, state).await;
    segments.ok().and_then(|Path(mut segments)| segments.remove(name)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(below_api: &str, canonical: &str) {
        assert_eq!(canonical_path(below_api), canonical);
    }

    #[test]
    fn each_route_has_one_path() {
        check("/requests", "/api/requests/");
        check("/requests/", "/api/requests/");
        check("/runs/7/logs/stream", "/api/runs/7/logs/stream");
        check("/runs/7/logs/stream/", "/api/runs/7/logs/stream");
        check("/sandbox/sessions.json", "/api/sandbox/sessions/");
        check("/sandbox/sessions/7/processes/a.json", "/api/sandbox/sessions/7/processes/a.json/");
        check("/", "/api/");
        check("", "/api/");
        check("/requests//", "/api/requests//");
    }
}
