//! Changes of files in a sandbox of another server.

use astraforge_core::{
    files::{FileChange, FileEvent, WatchRequest},
    id::SandboxId,
    ports::sessions::SessionError,
    sandbox::SandboxStatus,
};
use futures::{StreamExt, stream::BoxStream};
use http::Method;
use reqwest::Response;

use super::super::{
    Client, ClientError,
    retry::HeldUp,
    sandboxes::path,
    sse::{self, VAIN_TRIES, back_off},
};

/// Follows changes below a path. When the connection breaks it is made again; that something may have happened meanwhile
/// is told as [`FileChange::Overflowed`]. A sandbox that was stopped meanwhile is lost, and not woken for its watcher.
pub(super) async fn watch(
    client: &Client,
    sandbox: SandboxId,
    request: WatchRequest,
) -> Result<BoxStream<'static, Result<FileEvent, SessionError>>, SessionError> {
    let place = Place { client: client.clone(), sandbox, request };
    let first = place.open().await.map_err(ClientError::into_session_error)?;
    let events = async_stream::stream! {
        let (mut response, mut vain_tries, mut is_first) = (first, 0, true);
        loop {
            if let Some(response) = response.take() {
                let mut frames = std::pin::pin!(sse::events(response));
                // What breaks off is begun anew, whatever broke it.
                while let Some(Ok(frame)) = frames.next().await {
                    let event: FileEvent = match serde_json::from_str(&frame.data) {
                        Ok(event) => event,
                        Err(error) => {
                            yield Err(ClientError::decode(error).into_session_error());
                            return;
                        }
                    };
                    vain_tries = 0;
                    yield Ok(if is_first { event } else { begun_anew(event) });
                }
                is_first = false;
            }
            tokio::time::sleep(back_off(vain_tries)).await;
            vain_tries += 1;
            let opened = match place.is_awake().await {
                Ok(true) => place.open().await,
                Ok(false) => {
                    yield Err(SessionError::Lost);
                    return;
                }
                Err(error) => Err(error),
            };
            match opened.map_err(|error| (error.is_retryable(), error.into_session_error())) {
                Ok(opened) => response = opened,
                // A path that is gone ends its watch.
                Err((_, SessionError::FileNotFound { .. })) => return,
                Err((true, _)) if vain_tries < VAIN_TRIES => {}
                Err((_, error)) => {
                    yield Err(error);
                    return;
                }
            }
            if vain_tries >= VAIN_TRIES {
                yield Err(SessionError::Lost);
                return;
            }
        }
    };
    Ok(events.boxed())
}

/// What the first event of a later connection means.
fn begun_anew(event: FileEvent) -> FileEvent {
    match event.change {
        FileChange::Watching => FileEvent { change: FileChange::Overflowed, ..event },
        _ => event,
    }
}

/// What is watched.
struct Place {
    client: Client,
    sandbox: SandboxId,
    request: WatchRequest,
}

impl Place {
    async fn open(&self) -> Result<Option<Response>, ClientError> {
        let terms = [("path", self.request.path.clone()), ("recursive", self.request.recursive.to_string())];
        let call = self.client.open_ended_call(Method::GET, &path(self.sandbox, "files/watch/"));
        sse::open(call.query(&terms)).await
    }

    /// Whether the sandbox works. It is not woken for that; too many calls are waited out.
    async fn is_awake(&self) -> Result<bool, ClientError> {
        let mut held_up = HeldUp::default();
        loop {
            match self.client.sandbox(self.sandbox).await {
                Err(error) => held_up.wait_out(error).await?,
                Ok(found) => return Ok(found.status == SandboxStatus::Ready),
            }
        }
    }
}
