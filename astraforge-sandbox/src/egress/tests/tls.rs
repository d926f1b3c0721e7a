//! Tunnels whose first bytes are a TLS greeting.

use super::*;

/// Sends a greeting for `name` into a tunnel to `target`, and returns what comes back: the echo, or a refusal.
async fn greet(world: &World, target: &str, name: Option<&str>) -> Vec<u8> {
    let mut program = world.tunnel(target).await;
    let hello = client_hello(name);
    program.send(&hello).await;
    let first = program.receive(7).await;
    if first == hello[..7] { hello } else { first }
}

#[tokio::test]
async fn the_name_in_the_greeting_has_to_be_the_one_asked_for() {
    const REFUSED: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 49];
    for egress in ["public", "allow:example.com,93.184.216.34"] {
        let world = World::new(egress).await;
        assert!(greet(&world, "example.com:443", Some("example.com")).await.len() > 7, "{egress}");
        assert_eq!(greet(&world, "example.com:443", Some("evil.example")).await, REFUSED, "{egress}");
        assert!(greet(&world, "93.184.216.34:443", Some("example.com")).await.len() > 7, "{egress}");
    }
    let world = World::new("allow:example.com").await;
    assert_eq!(greet(&world, "example.com:443", None).await, REFUSED);
    assert!(world.log().iter().any(|line| line.contains("names no host (SNI)")), "{:?}", world.log());
    let world = World::new("public").await;
    assert!(greet(&world, "example.com:443", None).await.len() > 7);
}

#[tokio::test]
async fn a_greeting_in_pieces_is_read_whole_before_any_of_it_goes_out() {
    let world = World::new("allow:example.com").await;
    let mut program = world.tunnel("example.com:443").await;
    let hello = client_hello(Some("example.com"));
    for piece in hello.chunks(3) {
        program.send(piece).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(program.receive(hello.len()).await, hello, "as it was sent");
    program.send([0x17, 3, 3, 0, 1, 0xff]).await;
    assert_eq!(program.receive(6).await, [0x17, 3, 3, 0, 1, 0xff], "and so is what follows");
}

#[tokio::test]
async fn a_greeting_right_behind_the_request_is_read_too() {
    let world = World::new("allow:example.com").await;
    let mut program = world.visit();
    let hello = client_hello(Some("example.com"));
    program.send([b"CONNECT example.com:443 HTTP/1.1\r\n\r\n".as_slice(), &hello].concat()).await;
    assert!(program.head().await.starts_with("HTTP/1.1 200"));
    assert_eq!(program.receive(hello.len()).await, hello);
}

#[tokio::test]
async fn an_allowlist_lets_nothing_but_tls_and_http_through_the_ports_of_the_web() {
    let world = World::new("allow:example.com,example.com:22").await;
    let mut program = world.tunnel("example.com:443").await;
    program.send("echo is no TLS\n").await;
    assert_eq!(program.rest().await, "");
    assert!(world.log().iter().any(|line| line.contains("neither TLS nor HTTP")), "{:?}", world.log());
    let mut program = world.tunnel("example.com:22").await;
    program.send("echo\n").await;
    assert_eq!(program.receive(5).await, b"echo\n");
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let world = World::new("allow:ssh.example:22").await;
    world.internet.name("ssh.example", &["93.184.216.40"]);
    world.internet.server("93.184.216.40:22", listener.local_addr().unwrap());
    let mut program = world.tunnel("ssh.example:22").await;
    let (mut server, _) = listener.accept().await.unwrap();
    server.write_all(b"SSH-2.0-test\r\n").await.unwrap();
    assert_eq!(program.receive(14).await, b"SSH-2.0-test\r\n");
    program.send("SSH-2.0-client one\r\n").await;
    let mut heard = [0; 20];
    timeout(LONG, server.read_exact(&mut heard)).await.unwrap().unwrap();
    assert_eq!(&heard, b"SSH-2.0-client one\r\n");
}
