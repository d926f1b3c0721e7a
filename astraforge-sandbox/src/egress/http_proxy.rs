//! The conversation with a client that speaks HTTP: tunnels, and requests that are passed on one by one.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, TRANSFER_ENCODING},
    uri::Scheme,
};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    body::{Body as _, Incoming},
    client,
    ext::ReasonPhrase,
    server,
    service::service_fn,
    upgrade::{self, OnUpgrade},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::task::JoinSet;

use super::{
    flows::Upstream,
    gateway::{Inside, NoWay, Visit},
    policy::Refusal,
    target::{Host, Target},
    tunnel,
};

/// The longest head of a request or an answer, in bytes.
const MAX_HEAD: usize = 64 * 1024;

/// Fields that are about one connection only.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "upgrade",
];

type Body = BoxBody<Bytes, hyper::Error>;
type Answer = Response<Body>;

/// Serves a client that was configured to use a proxy.
pub(super) async fn serve_proxy(visit: Visit, client: Inside) {
    let connection = Arc::new(Connection::new(visit.clone(), None));
    let Some((target, upstream, on_upgrade)) = serve(&connection, client).await else { return };
    drop(connection);
    let Ok(upgraded) = on_upgrade.await else { return };
    let Ok(parts) = upgraded.downcast::<TokioIo<Inside>>() else {
        tracing::error!(%target, "a tunnel is not on the stream that it was asked for on");
        return;
    };
    let mut client = parts.io.into_inner();
    client.put_back(parts.read_buf);
    tunnel::run(visit, client, upstream).await;
}

/// Serves requests in a tunnel, each of which has to be for the tunnel's host.
pub(super) async fn serve_tunnel(visit: Visit, client: Inside, upstream: Upstream) {
    let connection = Arc::new(Connection::new(visit, Some(upstream.target().clone())));
    if connection.greet(upstream).await.is_ok() {
        serve(&connection, client).await;
    }
}

/// Answers requests until the connection ends or becomes a tunnel, which is returned.
async fn serve(connection: &Arc<Connection>, client: Inside) -> Option<(Target, Upstream, OnUpgrade)> {
    let service = service_fn(|request| {
        let connection = Arc::clone(connection);
        async move { Ok::<_, Infallible>(connection.answer(request).await) }
    });
    let served = server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(connection.visit.patience().greeting)
        .max_buf_size(MAX_HEAD)
        .half_close(true)
        .preserve_header_case(true)
        .serve_connection(TokioIo::new(client), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to the gateway ended early");
    }
    connection.tunnel.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// A client's connection.
struct Connection {
    visit: Visit,
    /// The host that all requests are for, in a tunnel.
    only: Option<Target>,
    tunnel: Mutex<Option<(Target, Upstream, OnUpgrade)>>,
    upstream: tokio::sync::Mutex<Option<Pooled>>,
}

/// A connection that can take another request.
struct Pooled {
    target: Target,
    sender: client::conn::http1::SendRequest<Incoming>,
    /// What moves its bytes; ends with it.
    _driver: JoinSet<()>,
}

/// What became of a request on a connection that was used before.
enum Asked {
    Answered(Response<Incoming>),
    /// The connection had ended while nobody looked; the request can be sent on another.
    Unsent(Request<Incoming>),
}

impl Pooled {
    async fn ask(&mut self, request: Request<Incoming>) -> Result<Asked, Failure> {
        if self.sender.ready().await.is_err() {
            return Ok(Asked::Unsent(request));
        }
        match self.sender.try_send_request(request).await {
            Ok(answer) => Ok(Asked::Answered(answer)),
            Err(mut failed) => match failed.take_message() {
                Some(request) => Ok(Asked::Unsent(request)),
                None => Err(Failure::Broken(failed.into_error())),
            },
        }
    }
}

impl Connection {
    fn new(visit: Visit, only: Option<Target>) -> Self {
        Self { visit, only, tunnel: Mutex::default(), upstream: tokio::sync::Mutex::default() }
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        if request.method() == Method::CONNECT {
            // Who asked for a tunnel and gets none has no use for this connection.
            return self.connect(request).await.unwrap_or_else(|failure| {
                let mut answer = failure.into_answer();
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                answer
            });
        }
        self.pass_on(request).await.unwrap_or_else(Failure::into_answer)
    }

    async fn connect(&self, request: Request<Incoming>) -> Result<Answer, Failure> {
        if self.only.is_some() {
            return Err(Failure::Malformed("a tunnel leads to one host; ask for another on a new connection"));
        }
        let authority = request.uri().authority().ok_or(Failure::Malformed("CONNECT takes host:port"))?;
        let target = self.read(authority.as_str(), None)?;
        // Some clients name the host alone, some with its port.
        if let Some(named) = host_field(request.headers())? {
            let agrees = Target::parse(named, Some(target.port)).is_ok_and(|named| named == target);
            if !agrees {
                return Err(self.disagree(&target, named));
            }
        }
        let upstream = self.visit.dial(&target).await?;
        let on_upgrade = upgrade::on(request);
        *self.tunnel.lock().unwrap_or_else(PoisonError::into_inner) = Some((target, upstream, on_upgrade));
        Ok(Response::new(text("")))
    }

    async fn pass_on(&self, request: Request<Incoming>) -> Result<Answer, Failure> {
        let target = self.target_of(&request)?;
        // What was allowed when the connection was made may no longer be.
        if let Err(refusal) = self.visit.policy().judge(&target) {
            self.visit.refused(&target.host.to_string(), target.port, &refusal);
            return Err(Failure::from(NoWay::Refused(refusal)));
        }
        let request = outgoing(request, &target)?;
        let mut pooled = self.upstream.lock().await;
        let request = match pooled.take().filter(|it| it.target == target) {
            None => request,
            Some(mut known) => match known.ask(request).await? {
                Asked::Answered(answer) => {
                    *pooled = Some(known);
                    return Ok(incoming(answer));
                }
                Asked::Unsent(request) => request,
            },
        };
        let mut upstream = self.open(&target).await?;
        let answer = upstream.sender.send_request(request).await.map_err(Failure::Broken)?;
        *pooled = Some(upstream);
        Ok(incoming(answer))
    }

    /// Connects anew. A tunnel has its connection, and no other.
    async fn open(&self, target: &Target) -> Result<Pooled, Failure> {
        if self.only.is_some() {
            return Err(NoWay::Closed(format!("`{target}` ended this connection")).into());
        }
        let upstream = self.visit.dial(target).await?;
        handshake(upstream).await
    }

    /// Takes the connection of a tunnel for all that is asked.
    async fn greet(&self, upstream: Upstream) -> Result<(), Failure> {
        *self.upstream.lock().await = Some(handshake(upstream).await?);
        Ok(())
    }

    /// Where a request is to go, if all that it says of that agrees.
    fn target_of(&self, request: &Request<Incoming>) -> Result<Target, Failure> {
        let uri = request.uri();
        let named = host_field(request.headers())?;
        let target = match (uri.authority(), &self.only) {
            (Some(authority), only) => {
                if uri.scheme() != Some(&Scheme::HTTP) {
                    return Err(Failure::Malformed(
                        "this proxy passes on http:// alone; for anything else use CONNECT",
                    ));
                }
                let target = self.read(authority.as_str(), Some(80))?;
                if let Some(only) = only.as_ref().filter(|only| **only != target) {
                    return Err(self.disagree(only, authority.as_str()));
                }
                target
            }
            (None, Some(only)) if named.is_some() => only.clone(),
            (None, Some(_)) => return Err(Failure::Malformed("a request names its host in the Host field")),
            (None, None) => {
                return Err(Failure::Malformed(
                    "this is an HTTP and SOCKS5 proxy, the way out of this sandbox; set it as the proxy of your program",
                ));
            }
        };
        if let Some(named) = named {
            // In a tunnel to another port some clients leave the port out.
            let default = if self.only.is_some() { target.port } else { 80 };
            let agrees = Target::parse(named, Some(default)).is_ok_and(|named| named == target);
            if !agrees {
                return Err(self.disagree(&target, named));
            }
        }
        Ok(target)
    }

    fn read(&self, text: &str, default: Option<u16>) -> Result<Target, Failure> {
        Target::parse(text, default).map_err(|reason| {
            let refusal = Refusal::Spelling { text: text.chars().take(253).collect(), reason };
            self.visit.refused(text, 0, &refusal);
            Failure::from(NoWay::Refused(refusal))
        })
    }

    fn disagree(&self, target: &Target, named: &str) -> Failure {
        let named = named.chars().take(253).collect();
        let refusal = Refusal::OtherHost { host: target.to_string(), named };
        self.visit.refused(&target.host.to_string(), target.port, &refusal);
        NoWay::Refused(refusal).into()
    }
}

async fn handshake(upstream: Upstream) -> Result<Pooled, Failure> {
    let target = upstream.target().clone();
    let handshake = client::conn::http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .max_headers(256)
        .preserve_header_case(true)
        .handshake::<_, Incoming>(TokioIo::new(upstream));
    let (sender, connection) = handshake.await.map_err(Failure::Broken)?;
    let mut driver = JoinSet::new();
    driver.spawn(async move { drop(connection.await) });
    Ok(Pooled { target, sender, _driver: driver })
}

/// The one Host field.
fn host_field(headers: &HeaderMap) -> Result<Option<&str>, Failure> {
    let mut named = headers.get_all(HOST).iter();
    let first = named.next();
    if named.next().is_some() {
        return Err(Failure::Malformed("a request has one Host field"));
    }
    first.map(|value| value.to_str().map_err(|_| Failure::Malformed("the Host field is not readable"))).transpose()
}

/// The request as it goes to the host: framed anew, so that there is one way to read where it ends.
fn outgoing(request: Request<Incoming>, target: &Target) -> Result<Request<Incoming>, Failure> {
    let (mut parts, body) = request.into_parts();
    strip(&mut parts.headers);
    for name in [TRANSFER_ENCODING, EXPECT] {
        parts.headers.remove(name);
    }
    // What the length was read as, not what it was written as.
    if parts.headers.remove(CONTENT_LENGTH).is_some()
        && let Some(n_bytes) = body.size_hint().exact()
    {
        parts.headers.insert(CONTENT_LENGTH, n_bytes.into());
    }
    let host = match (&target.host, target.port) {
        (Host::Name(name), 80) => name.clone(),
        (Host::Address(address), 80) if address.is_ipv4() => address.to_string(),
        _ => target.to_string(),
    };
    let host = HeaderValue::from_str(&host).map_err(|_| Failure::Malformed("the host is not readable"))?;
    parts.headers.insert(HOST, host);
    let path =
        parts.uri.path_and_query().map_or("/", |path| if path.as_str().is_empty() { "/" } else { path.as_str() });
    parts.uri = Uri::try_from(path).map_err(|_| Failure::Malformed("the path is not readable"))?;
    parts.version = Version::HTTP_11;
    Ok(Request::from_parts(parts, body))
}

/// The host's answer as it goes to the client.
fn incoming(answer: Response<Incoming>) -> Answer {
    let (mut parts, body) = answer.into_parts();
    strip(&mut parts.headers);
    parts.version = Version::HTTP_11;
    Response::from_parts(parts, body.boxed())
}

/// Removes what is about one connection, and what the message itself says is.
fn strip(headers: &mut HeaderMap) {
    let listed: Vec<String> = headers
        .get_all("connection")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        // A message that lists these would lose where it goes or ends.
        .filter(|name| !matches!(name.as_str(), "host" | "content-length" | "transfer-encoding"))
        .collect();
    for name in listed.iter().map(String::as_str).chain(HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Why a request has no answer from its host.
#[derive(Debug)]
enum Failure {
    NoWay(NoWay),
    Malformed(&'static str),
    Broken(hyper::Error),
}

impl From<NoWay> for Failure {
    fn from(no_way: NoWay) -> Self {
        Self::NoWay(no_way)
    }
}

impl Failure {
    fn into_answer(self) -> Answer {
        let (status, reason) = match self {
            Self::NoWay(NoWay::Refused(refusal)) => return refusal_answer(&refusal),
            Self::NoWay(no_way @ NoWay::Unanswered(_)) => (StatusCode::GATEWAY_TIMEOUT, no_way.reason().to_owned()),
            Self::NoWay(no_way) => (StatusCode::BAD_GATEWAY, no_way.reason().to_owned()),
            Self::Malformed(why) => (StatusCode::BAD_REQUEST, why.to_owned()),
            Self::Broken(error) => (StatusCode::BAD_GATEWAY, format!("the host broke off: {error}")),
        };
        said(status, &reason, format!("AstraForge: {reason}.\n"))
    }
}

fn refusal_answer(refusal: &Refusal) -> Answer {
    said(StatusCode::FORBIDDEN, &format!("Refused: {refusal}"), sentence(refusal))
}

fn sentence(refusal: &Refusal) -> String {
    format!("AstraForge refused this connection: {refusal}.\n{}\n", refusal.remedy())
}

/// Many programs show the reason beside the status, and not the text below.
fn said(status: StatusCode, reason: &str, body: String) -> Answer {
    let mut answer = Response::new(text(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    let reason: String = reason.chars().map(|c| if c.is_ascii_graphic() { c } else { ' ' }).take(200).collect();
    if let Ok(reason) = ReasonPhrase::try_from(reason.into_bytes()) {
        answer.extensions_mut().insert(reason);
    }
    answer
}

fn text(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).map_err(|never| match never {}).boxed()
}

/// The answer to a request that was refused where nobody speaks HTTP for us.
pub(super) fn forbidden(refusal: &Refusal) -> String {
    raw("403 Forbidden", &sentence(refusal))
}

/// The answer to one connection too many.
pub(super) fn too_many(max: usize) -> String {
    raw(
        "503 Service Unavailable",
        &format!("AstraForge: this sandbox has {max} connections open; close some of them.\n"),
    )
}

fn raw(status: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}
