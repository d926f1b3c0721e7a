//! What a hostile program cannot do to the gateway, and what a change of mind does to connections.

use astraforge_core::ports::egress_audit::EgressAudit;

use super::*;
use crate::egress::gateway::Patience;

#[tokio::test]
async fn a_narrowed_policy_cuts_what_it_forbids_at_once_and_nothing_else() {
    let world = World::new("public").await;
    let (mut kept, cut) = (world.tunnel("example.com:22").await, world.tunnel("other.example:22").await);
    let mut kept_http = world.visit();
    kept_http.send("GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
    kept_http.head().await;
    world.gateway.set("allow:example.com:22".parse().unwrap());
    assert_eq!(cut.rest().await, "");
    assert_eq!(kept_http.rest().await.replace("hello", ""), "", "its port is no longer allowed");
    kept.send("echo\n").await;
    assert_eq!(kept.receive(5).await, b"echo\n");
    assert!(
        world.log().iter().any(|line| line.starts_with("other.example:22 refused: it was cut")),
        "{:?}",
        world.log()
    );
    world.gateway.set(Egress::Off);
    assert_eq!(kept.rest().await, "");
    world.gateway.set(Egress::Public);
    world.tunnel("other.example:22").await;
}

#[tokio::test]
async fn a_connection_that_is_being_made_is_cut_too() {
    let world = World::new("public").await;
    // A listener that never accepts more than fits into its queue: connecting there waits.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let queue: Vec<_> = (0..4096)
        .map_while(|_| std::net::TcpStream::connect_timeout(&address, Duration::from_millis(300)).ok())
        .collect();
    assert!(queue.len() < 4096, "the queue is full");
    world.internet.name("slow.example", &["93.184.216.50"]);
    world.internet.server("93.184.216.50:443", address);
    let mut program = world.visit();
    program.send("CONNECT slow.example:443 HTTP/1.1\r\n\r\n").await;
    while world.internet.connected().is_empty() {
        tokio::task::yield_now().await;
    }
    world.gateway.set(Egress::Off);
    assert_eq!(program.rest().await, "");
}

#[tokio::test]
async fn who_leaves_takes_the_connection_along() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let world = World::new("public").await;
    world.internet.server("93.184.216.34:22", listener.local_addr().unwrap());
    let program = world.tunnel("example.com:22").await;
    let (mut server, _) = listener.accept().await.unwrap();
    // As a server does that ends.
    program.served.abort();
    assert_eq!(timeout(LONG, server.read(&mut [0; 8])).await.unwrap().unwrap_or(0), 0);
}

fn hasty() -> EgressSettings {
    let mut settings = EgressSettings::default();
    let short = Duration::from_millis(200);
    settings.patience =
        Patience { greeting: short, lookup: short, connect: (short, short), idle: Duration::from_millis(600) };
    settings
}

#[tokio::test]
async fn who_does_not_say_what_it_wants_is_sent_away() {
    let world = World::with("public", hasty()).await;
    for beginning in [
        "",
        "GET http://exam",
        "CONNECT example.com:443 HTTP/1.1\r\nX: ",
        "\u{5}",
        "\u{5}\u{1}\0\u{5}\u{1}\0\u{3}\u{9}",
    ] {
        let mut program = world.visit();
        program.send(beginning).await;
        let answer = program.rest().await;
        assert!(!answer.contains(" 200 "), "{answer}");
    }
    world.assert_unreached();
}

#[tokio::test]
async fn a_connection_on_which_nothing_moves_ends() {
    let world = World::with("public", hasty()).await;
    assert_eq!(world.tunnel("example.com:443").await.rest().await, "");
}

#[tokio::test]
async fn connections_are_limited_and_room_comes_back() {
    let world = World::new("public").await;
    let mut open = Vec::new();
    for _ in 0..96 {
        open.push(world.tunnel("example.com:22").await);
    }
    let busy = world.visit().rest().await;
    assert!(busy.starts_with("HTTP/1.1 503") && busy.contains("96 connections"), "{busy}");
    let Program { stream, served } = open.pop().unwrap();
    drop(stream);
    timeout(LONG, served).await.unwrap().unwrap();
    world.tunnel("example.com:22").await;
}

#[tokio::test]
async fn a_head_without_end_is_refused() {
    let world = World::new("public").await;
    let endless = format!("GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\nX: {}", "x".repeat(128 * 1024));
    let mut program = world.visit();
    drop(timeout(LONG, program.stream.write_all(endless.as_bytes())).await.unwrap());
    assert!(program.rest().await.starts_with("HTTP/1.1 431"));
    world.assert_unreached();
}

#[tokio::test]
async fn a_host_is_read_no_faster_than_the_program_reads() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let world = World::new("public").await;
    world.internet.server("93.184.216.34:80", listener.local_addr().unwrap());
    let mut program = world.visit();
    program.send("GET http://example.com/flood HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
    let (mut server, _) = listener.accept().await.unwrap();
    server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await.unwrap();
    let flood = vec![0; 64 * 1024];
    let mut n_bytes = 0;
    // Until nothing more is taken: what is held then is in sockets and buffers.
    while let Ok(written) = timeout(Duration::from_millis(500), server.write(&flood)).await {
        n_bytes += written.unwrap();
        assert!(n_bytes < 64 * 1024 * 1024, "somebody holds all of it");
    }
    program.head().await;
    // All of it: a socket of which only a part was read need not take more yet, as kernels open a window in large steps.
    program.receive(n_bytes).await;
    timeout(LONG, server.write(&flood)).await.unwrap().unwrap();
}

#[derive(Debug, Default)]
struct Witness(Mutex<Vec<(SandboxId, EgressEvent)>>);

impl EgressAudit for Witness {
    fn note(&self, sandbox: SandboxId, event: &EgressEvent) {
        self.0.lock().unwrap().push((sandbox, event.clone()));
    }
}

#[tokio::test]
async fn all_is_told_and_the_last_of_it_is_remembered() {
    let witness = Arc::new(Witness::default());
    let world = World::with("off", EgressSettings::default().with_audit(witness.clone())).await;
    for n in 0..600 {
        world.say(format!("CONNECT host-{n}.example:443 HTTP/1.1\r\n\r\n")).await;
    }
    assert_eq!(witness.0.lock().unwrap().len(), 600);
    let log = world.log();
    assert_eq!(log.len(), 512);
    assert!(log[511].starts_with("host-599.example:443 refused"), "{}", log[511]);
    let odd = format!("CONNECT {}\u{1b}[31m:443 HTTP/1.1\r\n\r\n", "a".repeat(2000));
    world.say(odd).await;
    assert!(world.log().iter().all(|line| line.len() < 1000 && !line.contains('\u{1b}')));
}
