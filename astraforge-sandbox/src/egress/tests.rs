//! The gateway as its clients meet it, with servers of this machine behind public addresses.

use std::{net::SocketAddr, sync::Mutex};

use astraforge_core::{
    egress::{Egress, EgressEvent, EgressOutcome},
    id::SandboxId,
    ports::guest_service::GuestService,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::{Duration, timeout},
};
use tokio_util::compat::TokioAsyncReadCompatExt;

use super::*;
use crate::{egress::samples::client_hello, testing::PlayedInternet};

mod http;
mod limits;
mod names;
mod socks;
mod tls;

/// Longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(30);

/// A gateway, and an internet with one server in it.
struct World {
    internet: Arc<PlayedInternet>,
    gateway: Gateway,
    server: Server,
}

impl World {
    /// The server is `example.com` and `other.example`, at all ports that tests use.
    async fn new(egress: &str) -> Self {
        Self::with(egress, EgressSettings::default()).await
    }

    async fn with(egress: &str, settings: EgressSettings) -> Self {
        let (internet, server) = (Arc::new(PlayedInternet::default()), Server::start().await);
        internet.name("example.com", &["93.184.216.34"]);
        internet.name("other.example", &["93.184.216.35"]);
        for port in [22, 80, 443, 8080] {
            internet.server(&format!("93.184.216.34:{port}"), server.address);
            internet.server(&format!("93.184.216.35:{port}"), server.address);
        }
        let settings = settings.with_outside(internet.clone());
        Self { internet, gateway: Gateway::new(SandboxId::random(), &settings, egress.parse().unwrap()), server }
    }

    /// A connection of a program inside.
    fn visit(&self) -> Program {
        let (inside, outside) = tokio::io::duplex(64 * 1024);
        let gateway = self.gateway.clone();
        Program { stream: inside, served: tokio::spawn(async move { gateway.serve(Box::pin(outside.compat())).await }) }
    }

    /// All that is answered to `bytes` until the end.
    async fn say(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut program = self.visit();
        program.send(bytes).await;
        program.stream.shutdown().await.unwrap();
        program.rest().await
    }

    /// A tunnel to `target`.
    async fn tunnel(&self, target: &str) -> Program {
        let mut program = self.visit();
        program.send(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n")).await;
        let answer = program.head().await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        program
    }

    /// The hosts and outcomes of what was tried, without what changes from run to run.
    fn log(&self) -> Vec<String> {
        let line = |event: EgressEvent| match event.outcome {
            EgressOutcome::Allowed { sent, received, .. } => format!("{}:{} {sent}/{received}", event.host, event.port),
            EgressOutcome::Refused { reason } => format!("{}:{} refused: {reason}", event.host, event.port),
            EgressOutcome::Failed { reason } => format!("{}:{} failed: {reason}", event.host, event.port),
            other => format!("{other:?}"),
        };
        self.gateway.events().into_iter().map(line).collect()
    }

    #[track_caller]
    fn assert_unreached(&self) {
        assert_eq!(self.internet.connected(), [] as [SocketAddr; 0]);
    }
}

/// A program inside of the sandbox.
struct Program {
    stream: DuplexStream,
    served: JoinHandle<()>,
}

impl Program {
    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        timeout(LONG, self.stream.write_all(bytes.as_ref())).await.unwrap().unwrap();
    }

    async fn receive(&mut self, n_bytes: usize) -> Vec<u8> {
        let mut bytes = vec![0; n_bytes];
        timeout(LONG, self.stream.read_exact(&mut bytes)).await.unwrap().unwrap();
        bytes
    }

    /// The head of an answer.
    async fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.extend(self.receive(1).await);
        }
        String::from_utf8(head).unwrap()
    }

    /// All that comes until the end.
    async fn rest(mut self) -> String {
        let mut bytes = Vec::new();
        timeout(LONG, self.stream.read_to_end(&mut bytes)).await.expect("an end").ok();
        timeout(LONG, self.served).await.expect("the gateway is done with it").unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Keeps what it is sent. Requests are answered one by one, in a way that their path says; anything else is echoed.
struct Server {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<String>>>,
    _task: JoinHandle<()>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, heard) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let ear = Arc::clone(&heard);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, Arc::clone(&ear)));
            }
        });
        Self { address, heard, _task: task }
    }

    /// The requests that came, each as it was on the wire.
    fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }
}

async fn answer(mut stream: TcpStream, heard: Arc<Mutex<Vec<String>>>) {
    let (mut bytes, mut echoes) = (Vec::new(), false);
    while let Ok(1..) = stream.read_buf(&mut bytes).await {
        echoes |= bytes[0] == 0x16 || bytes.starts_with(b"echo");
        if echoes {
            if stream.write_all(&bytes).await.is_err() {
                return;
            }
            bytes.clear();
            continue;
        }
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4) else { continue };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        // Chunks end with an empty one; nothing here sends a length and less than that.
        if head.to_ascii_lowercase().contains("transfer-encoding") && !bytes.ends_with(b"0\r\n\r\n") {
            continue;
        }
        heard.lock().unwrap().push(String::from_utf8_lossy(&bytes).into_owned());
        bytes.clear();
        let answer = if head.contains(" /moved ") {
            "HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/latest/\r\nContent-Length: 0\r\n\r\n".to_owned()
        } else if head.contains(" /close ") {
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nend".to_owned()
        } else {
            "HTTP/1.1 200 OK\r\nConnection: X-Hop, keep-alive\r\nX-Hop: secret\r\nKeep-Alive: timeout=5\r\nX-End: kept\r\n\
             Content-Length: 5\r\n\r\nhello"
                .to_owned()
        };
        if stream.write_all(answer.as_bytes()).await.is_err() || head.contains(" /close ") {
            return;
        }
    }
}
