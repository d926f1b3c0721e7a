//! The way to the API server.

use std::{error::Error, io, time::Duration};

use futures::future::{BoxFuture, FutureExt};
use http::{Method, Request, Response};
use hyper_timeout::TimeoutConnector;
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use kube::{
    Client,
    client::{Body, ConfigExt as _, retry::RetryPolicy},
};
use tokio::time::{Instant, sleep};
use tower::{
    BoxError, ServiceBuilder,
    retry::{Policy, RetryLayer},
};

/// The first pause before a server that was not reached is asked again; each later one is twice as long.
const PAUSE: Duration = Duration::from_millis(50);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A client as the library makes it, but for two things. What is written to the guest of a pod is small, and is sent at
/// once: else each answer waits for the one before to be acknowledged, which takes forty milliseconds. And for `patience`
/// a server that is not reached is asked again, where asking twice does what asking once does. Through a proxy it is the
/// library's own.
///
/// # Errors
/// When what the configuration names can't be read or used.
pub(super) fn client(config: &kube::Config, patience: Duration) -> kube::Result<Client> {
    if config.proxy_url.is_some() {
        return Client::try_from(config.clone());
    }
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(connector)?);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_read_timeout(config.read_timeout);
    connector.set_write_timeout(config.write_timeout);
    connector.set_reset_reader_on_write(config.reset_reader_on_write);
    let http: legacy::Client<_, Body> = legacy::Client::builder(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.default_retry.then(|| RetryLayer::new(RetryPolicy::server_retry())))
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        // Innermost: only what befalls the connection is its matter.
        .layer(RetryLayer::new(Again { patience, until: None, pause: PAUSE }))
        .map_err(tower::BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace.clone()))
}

/// Asks again while the server is not reached: it restarts, or something between it and us does.
#[derive(Debug, Clone)]
struct Again {
    patience: Duration,
    /// Set by the first failure.
    until: Option<Instant>,
    pause: Duration,
}

impl<B> Policy<Request<Body>, Response<B>, BoxError> for Again {
    type Future = BoxFuture<'static, ()>;

    fn retry(
        &mut self,
        request: &mut Request<Body>,
        result: &mut Result<Response<B>, BoxError>,
    ) -> Option<Self::Future> {
        let Err(error) = result else { return None };
        let until = *self.until.get_or_insert_with(|| Instant::now() + self.patience);
        let is_over = Instant::now() + self.pause >= until;
        if is_over || !is_unreached(error.as_ref()) {
            return None;
        }
        tracing::debug!(method = %request.method(), error = error.as_ref() as &dyn Error, "the API server is asked again");
        let pause = self.pause;
        self.pause = LONGEST_PAUSE.min(pause * 2);
        Some(sleep(pause).boxed())
    }

    fn clone_request(&mut self, request: &Request<Body>) -> Option<Request<Body>> {
        // A deletion names the very object that is meant, so the second finds it gone or going.
        if !matches!(*request.method(), Method::GET | Method::HEAD | Method::DELETE) {
            return None;
        }
        Policy::<_, Response<B>, _>::clone_request(&mut RetryPolicy::server_retry(), request)
    }
}

/// Whether an error says that the server was not reached, or not to the end; what it answered or how it proved itself is
/// another matter.
pub(super) fn is_unreached(error: &(dyn Error + 'static)) -> bool {
    use io::ErrorKind as Kind;
    let mut next = Some(error);
    let mut causes = std::iter::from_fn(|| {
        let cause = next?;
        next = cause.source();
        Some(cause)
    });
    causes.any(|cause| {
        let broken = cause.downcast_ref::<io::Error>().is_some_and(|error| {
            matches!(
                error.kind(),
                Kind::ConnectionRefused
                    | Kind::ConnectionReset
                    | Kind::ConnectionAborted
                    | Kind::NotConnected
                    | Kind::BrokenPipe
                    | Kind::UnexpectedEof
                    | Kind::TimedOut
                    | Kind::HostUnreachable
                    | Kind::NetworkUnreachable
            )
        });
        let cut = cause.downcast_ref::<hyper::Error>();
        broken || cut.is_some_and(|error| error.is_incomplete_message() || error.is_closed() || error.is_canceled())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn again() -> Again {
        Again { patience: PATIENCE, until: None, pause: PAUSE }
    }

    /// Asks again for as long as that is wanted; returns the pauses in milliseconds.
    async fn pauses(mut again: Again, mut result: impl FnMut() -> Result<Response<()>, BoxError>) -> Vec<u128> {
        let mut pauses = Vec::new();
        while let Some(pause) = again.retry(&mut Request::new(Body::empty()), &mut result()) {
            let began = Instant::now();
            pause.await;
            pauses.push(began.elapsed().as_millis());
        }
        pauses
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_not_reached_is_asked_again_until_patience_ends() {
        let again = again();
        // What comes before the first failure does not count.
        sleep(2 * PATIENCE).await;
        let refused = || Err(io::Error::from(io::ErrorKind::ConnectionRefused).into());
        let pauses = pauses(again, refused).await;
        // The next one would end after ten seconds.
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1600, 2000, 2000, 2000]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_server_answers_or_does_not_prove_is_no_matter_of_asking_again() {
        let busy = || Ok(Response::builder().status(503).body(()).unwrap());
        assert_eq!(pauses(again(), busy).await, []);
        let unproven = || Err(io::Error::new(io::ErrorKind::InvalidData, "an unknown certificate").into());
        assert_eq!(pauses(again(), unproven).await, []);
    }

    #[track_caller]
    fn check(method: Method, is_asked_again: bool) {
        let request = Request::builder().method(&method).uri("/pods").header("x", "y").body(Body::empty()).unwrap();
        let clone = Policy::<_, Response<()>, BoxError>::clone_request(&mut again(), &request);
        assert_eq!(clone.is_some(), is_asked_again, "{method}");
        if let Some(clone) = clone {
            assert_eq!((clone.method(), clone.uri(), clone.headers()), (&method, request.uri(), request.headers()));
        }
    }

    #[test]
    fn only_what_does_the_same_when_it_is_done_twice_is_asked_again() {
        for method in [Method::GET, Method::HEAD, Method::DELETE] {
            check(method, true);
        }
        for method in [Method::POST, Method::PUT, Method::PATCH] {
            check(method, false);
        }
    }
}
