//! Long lists as streams, whose pages are fetched as they are needed.

use astraforge_core::{
    id::{RequestId, SandboxId},
    request::RequestState,
};
use futures::{Stream, StreamExt, stream::BoxStream};
use http::Method;
use serde::de::DeserializeOwned;

use super::{Client, ClientError, read_again};
use crate::wire::{
    api_key::ApiKeyView,
    merge_request::MergeRequestView,
    repository_link::RepositoryLinkView,
    request::RequestView,
    run::RunSummary,
    sandbox::{ArtifactList, ArtifactView, SessionView, SnapshotList, SnapshotView},
};

/// How many entries are fetched at a time.
const PAGE: u32 = 100;

/// The entries of a list. It ends after the first error.
pub type Entries<T> = BoxStream<'static, Result<T, ClientError>>;

/// Lists as streams: entries come page by page, the next page only when the one before was read. What is added or removed
/// meanwhile neither doubles nor skips an entry.
///
/// # Cancel safety
/// A stream that is dropped fetches no more.
impl Client {
    /// Lists requests, the newest first, of one state or of all.
    pub fn stream_requests(&self, state: Option<RequestState>) -> Entries<RequestView> {
        let filter = state.map(|state| ("state", state.to_string()));
        self.entries("api/requests/".to_owned(), filter, |page: Vec<RequestView>| page)
    }

    /// Lists runs, the one queued last first, of one request or of all.
    pub fn stream_runs(&self, request: Option<RequestId>) -> Entries<RunSummary> {
        self.entries("api/runs/".to_owned(), of(request), |page: Vec<RunSummary>| page)
    }

    /// Lists merge requests, the newest first, of one request or of all.
    pub fn stream_merge_requests(&self, request: Option<RequestId>) -> Entries<MergeRequestView> {
        self.entries("api/merge-requests/".to_owned(), of(request), |page: Vec<MergeRequestView>| page)
    }

    /// Lists repository links, the oldest first.
    pub fn stream_repository_links(&self) -> Entries<RepositoryLinkView> {
        self.entries("api/repository-links/".to_owned(), None, |page: Vec<RepositoryLinkView>| page)
    }

    /// Lists API keys, the newest first.
    pub fn stream_api_keys(&self) -> Entries<ApiKeyView> {
        self.entries("api/api-keys/".to_owned(), None, |page: Vec<ApiKeyView>| page)
    }

    /// Lists sandboxes, the newest first.
    pub fn stream_sandboxes(&self) -> Entries<SessionView> {
        self.entries("api/sandbox/sessions/".to_owned(), None, |page: Vec<SessionView>| page)
    }

    /// Lists the snapshots of a sandbox, the newest first.
    pub fn stream_snapshots(&self, id: SandboxId) -> Entries<SnapshotView> {
        self.entries(format!("api/sandbox/sessions/{id}/snapshots/"), None, |page: SnapshotList| page.snapshots)
    }

    /// Lists the files that were taken out of a sandbox, the newest first.
    pub fn stream_artifacts(&self, id: SandboxId) -> Entries<ArtifactView> {
        self.entries(format!("api/sandbox/sessions/{id}/artifacts/"), None, |page: ArtifactList| page.artifacts)
    }

    fn entries<P, T>(
        &self,
        path: String,
        filter: Option<(&'static str, String)>,
        entries: fn(P) -> Vec<T>,
    ) -> Entries<T>
    where
        P: DeserializeOwned + Send + 'static,
        T: Send + 'static,
    {
        self.clone().read_pages(path, filter, entries).boxed()
    }

    fn read_pages<P, T>(
        self,
        path: String,
        filter: Option<(&'static str, String)>,
        entries: fn(P) -> Vec<T>,
    ) -> impl Stream<Item = Result<T, ClientError>> + Send
    where
        P: DeserializeOwned + Send + 'static,
        T: Send + 'static,
    {
        async_stream::try_stream! {
            let mut cursor = None;
            loop {
                let mut query = vec![("limit", PAGE.to_string())];
                query.extend(filter.clone());
                query.extend(cursor.take().map(|cursor| ("cursor", cursor)));
                let (page, headers) = read_again::<P>(self.call(Method::GET, &path).query(&query)).await?;
                for entry in entries(page) {
                    yield entry;
                }
                let next = headers.get("x-next-cursor").and_then(|next| next.to_str().ok());
                cursor = next.map(str::to_owned);
                if cursor.is_none() {
                    break;
                }
            }
        }
    }
}

fn of(request: Option<RequestId>) -> Option<(&'static str, String)> {
    request.map(|id| ("request", id.to_string()))
}
