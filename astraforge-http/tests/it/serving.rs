//! Connections, as clients open them: well-behaved ones, and others.

use std::{sync::Arc, time::Duration};

use astraforge_core::cancel::Cancellation;
use astraforge_http::server::Server;
use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use chrono::DateTime;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{Notify, oneshot},
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::house::{House, Who};

/// Longer than anything here takes that works.
const PATIENCE: Duration = Duration::from_secs(10);

const CALL: &[u8] = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";

/// A server of this process.
struct Served {
    address: String,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl Served {
    async fn start(app: Router, setup: impl FnOnce(Server) -> Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (stop, stopped) = oneshot::channel();
        let server = setup(Server::new(listener, app));
        let serving = tokio::spawn(server.run_until(async move { _ = stopped.await }));
        Self { address, stop, serving }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(&self.address).await.unwrap()
    }
}

fn page() -> Router {
    Router::new().route("/", get(|| async { "the page" }))
}

/// What comes until there is `end` in it.
async fn read_to(stream: &mut TcpStream, end: &str) -> String {
    let mut text = String::new();
    while !text.contains(end) {
        let mut bytes = [0; 1024];
        let n = timeout(PATIENCE, stream.read(&mut bytes)).await.expect("an answer").unwrap();
        assert!(n > 0, "hung up after {text:?}");
        text.push_str(std::str::from_utf8(&bytes[..n]).unwrap());
    }
    text
}

/// Waits until the server hangs up; what it says before does not matter.
async fn hung_up(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    // A reset is no worse than an end.
    _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the server hangs up");
}

#[tokio::test]
async fn a_client_that_sends_no_whole_head_in_time_is_left() {
    let it = Served::start(page(), |server| server.with_head_timeout(Duration::from_millis(100))).await;
    for begun in ["", "P", "GET / HTTP/1.1\r\nhost:", "PRI * HTTP/2.0\r\n"] {
        let mut stream = it.connect().await;
        stream.write_all(begun.as_bytes()).await.unwrap();
        hung_up(&mut stream).await;
    }
    let mut patient = it.connect().await;
    patient.write_all(CALL).await.unwrap();
    read_to(&mut patient, "the page").await;
    hung_up(&mut patient).await;
}

#[tokio::test]
async fn a_method_that_begins_like_http2_is_waited_for() {
    let it = Served::start(page(), |server| server).await;
    let mut stream = it.connect().await;
    stream.set_nodelay(true).unwrap();
    for part in ["P", "R", "OPFIND / HTTP/1.1\r\nhost: localhost\r\n\r\n"] {
        stream.write_all(part.as_bytes()).await.unwrap();
        sleep(Duration::from_millis(30)).await;
    }
    read_to(&mut stream, "405 Method Not Allowed").await;
}

#[tokio::test]
async fn http2_is_spoken_to_those_who_begin_with_it() {
    let it = Served::start(page(), |server| server).await;
    let io = TokioIo::new(it.connect().await);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake::<_, _, Body>(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("http://localhost/").body(Body::empty()).unwrap();
    let answer = timeout(PATIENCE, sender.send_request(request)).await.unwrap().unwrap();
    assert_eq!((answer.status(), answer.version()), (StatusCode::OK, axum::http::Version::HTTP_2));
}

/// Answers by switching to a protocol that sends back what it is sent.
async fn echo(request: Request) -> Response {
    tokio::spawn(async move {
        let mut stream = TokioIo::new(hyper::upgrade::on(request).await.unwrap());
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
    });
    let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, "echo")];
    (StatusCode::SWITCHING_PROTOCOLS, headers.map(|(name, value)| (name, HeaderValue::from_static(value))))
        .into_response()
}

#[tokio::test]
async fn a_connection_can_become_one_of_another_protocol() {
    let it = Served::start(Router::new().route("/", get(echo)), |server| server).await;
    let mut stream = it.connect().await;
    let call = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    stream.write_all(call).await.unwrap();
    read_to(&mut stream, "101 Switching Protocols").await;
    stream.write_all(b"hello").await.unwrap();
    read_to(&mut stream, "hello").await;
}

#[tokio::test]
async fn a_connection_too_many_waits_until_another_ends() {
    let it = Served::start(page(), |server| server.with_most_connections(1)).await;
    let mut first = it.connect().await;
    first.write_all(CALL).await.unwrap();
    read_to(&mut first, "the page").await;
    let mut second = it.connect().await;
    second.write_all(CALL).await.unwrap();
    let mut byte = [0];
    let waited = timeout(Duration::from_millis(200), second.peek(&mut byte)).await;
    assert!(waited.is_err(), "two are served where one may be");
    drop(first);
    read_to(&mut second, "the page").await;
}

/// An answer that takes until it is told to come, and tells when it is dropped.
fn slow(go: &Arc<Notify>, dropped: &Arc<Notify>) -> Router {
    struct Told(Arc<Notify>);
    impl Drop for Told {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }
    let (go, dropped) = (go.clone(), dropped.clone());
    Router::new().route(
        "/",
        get(async move || {
            let _told = Told(dropped);
            go.notified().await;
            "the page"
        }),
    )
}

#[tokio::test]
async fn a_server_that_stops_answers_what_it_is_at_and_hangs_up_on_the_others() {
    let (go, dropped) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let it = Served::start(slow(&go, &dropped), |server| server).await;
    let (mut silent, mut asking) = (it.connect().await, it.connect().await);
    asking.write_all(CALL).await.unwrap();
    sleep(Duration::from_millis(100)).await;
    it.stop.send(()).unwrap();
    hung_up(&mut silent).await;
    assert!(TcpStream::connect(&it.address).await.is_err(), "a new connection is taken");
    assert!(!it.serving.is_finished());
    go.notify_one();
    read_to(&mut asking, "the page").await;
    hung_up(&mut asking).await;
    timeout(PATIENCE, it.serving).await.expect("it ends by itself").unwrap();
}

#[tokio::test]
async fn calls_that_take_longer_than_the_grace_are_dropped() {
    let (go, dropped) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let it = Served::start(slow(&go, &dropped), |server| server.with_grace(Duration::from_millis(50))).await;
    let mut asking = it.connect().await;
    asking.write_all(CALL).await.unwrap();
    sleep(Duration::from_millis(100)).await;
    it.stop.send(()).unwrap();
    timeout(PATIENCE, it.serving).await.expect("the grace ends").unwrap();
    timeout(PATIENCE, dropped.notified()).await.expect("the call is dropped");
    hung_up(&mut asking).await;
}

#[tokio::test]
async fn a_call_whose_client_is_gone_is_dropped() {
    let (go, dropped) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let it = Served::start(slow(&go, &dropped), |server| server).await;
    let mut asking = it.connect().await;
    asking.write_all(CALL).await.unwrap();
    sleep(Duration::from_millis(100)).await;
    drop(asking);
    timeout(PATIENCE, dropped.notified()).await.expect("the call is dropped");
}

/// A call for the log of a request that waits for a person.
async fn log_call(house: &House, version: &str) -> String {
    let id = house.submit(json!({ "auto_execute": false })).await;
    let key = house.key(Who::Observer);
    format!("GET /api/runs/{id}/logs/stream?follow=1 {version}\r\nhost: localhost\r\nx-api-key: {key}\r\n\r\n")
}

async fn connect(house: &House) -> TcpStream {
    let url = house.open().await;
    TcpStream::connect(url.trim_start_matches("http://")).await.unwrap()
}

/// The body that a text of chunks stands for; none without its last one.
fn joined(mut chunks: &str) -> Option<String> {
    let mut body = String::new();
    loop {
        let (size, rest) = chunks.split_once("\r\n")?;
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            assert_eq!(rest, "\r\n");
            return Some(body);
        }
        body.push_str(&rest[..size]);
        chunks = rest[size..].strip_prefix("\r\n").unwrap();
    }
}

#[tokio::test]
async fn a_long_answer_comes_in_chunks_and_the_connection_ends_with_it() {
    let (canceller, shutdown) = Cancellation::pair();
    let house = House::with(|state| state.with_shutdown(shutdown)).await;
    let call = log_call(&house, "HTTP/1.1").await;
    let mut stream = connect(&house).await;
    stream.write_all(call.as_bytes()).await.unwrap();
    let mut text = read_to(&mut stream, "user_prompt").await;
    canceller.cancel();
    timeout(PATIENCE, stream.read_to_string(&mut text)).await.expect("it ends").unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    for line in
        ["content-type: text/event-stream", "connection: close", "transfer-encoding: chunked", "x-run-log: live"]
    {
        assert_eq!(head.lines().filter(|known| *known == line).count(), 1, "{line} in {head}");
    }
    let dates: Vec<&str> = head.lines().filter_map(|line| line.strip_prefix("date: ")).collect();
    assert!(matches!(dates[..], [date] if DateTime::parse_from_rfc2822(date).is_ok()), "{dates:?}");
    let body = joined(body).expect("the last chunk is there");
    assert!(body.starts_with("event: message\ndata: ") && body.contains("user_prompt"), "{body}");
}

#[tokio::test]
async fn a_client_of_http_1_0_has_its_long_answer_without_chunks() {
    let house = House::new().await;
    let call = log_call(&house, "HTTP/1.0").await;
    let mut stream = connect(&house).await;
    stream.write_all(call.as_bytes()).await.unwrap();
    let text = read_to(&mut stream, "user_prompt").await;
    assert!(!text.contains("chunked"), "{text}");
}

/// What a client sends ahead is answered in its order, and each answer whole, though it reads none while it sends.
#[tokio::test]
async fn a_long_answer_cuts_off_none_before_it() {
    const N_CALLS: usize = 4000;
    let house = House::new().await;
    // Small buffers, so that what is written waits in the server soon.
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(8 * 1024).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8 * 1024).unwrap();
    let connecting = socket.connect(listener.local_addr().unwrap());
    let _serving = tokio::spawn(Server::new(listener, house.app.clone()).run());
    let (mut reader, mut writer) = connecting.await.unwrap().into_split();
    let calls =
        "HEAD /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(N_CALLS) + &log_call(&house, "HTTP/1.1").await;
    let sent = tokio::spawn(async move {
        writer.write_all(calls.as_bytes()).await.unwrap();
        writer
    });
    sleep(Duration::from_millis(500)).await;
    let (mut answers, mut looked_at) = (Vec::new(), 0_usize);
    while !answers[looked_at..].windows(11).any(|it| it == b"user_prompt") {
        looked_at = answers.len().saturating_sub(10);
        let read = timeout(PATIENCE, reader.read_buf(&mut answers)).await.expect("all is answered");
        assert!(read.unwrap() > 0, "hung up");
    }
    let answers = String::from_utf8(answers).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200 OK\r\n").count(), N_CALLS + 1);
    drop(sent);
}
