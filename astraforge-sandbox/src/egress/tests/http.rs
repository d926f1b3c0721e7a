//! Requests that are passed on one by one.

use super::*;

#[tokio::test]
async fn a_request_is_passed_on_without_what_is_between_two_of_us() {
    let world = World::new("allow:example.com").await;
    let answer = world
        .say(
            "GET http://Example.com/a?b=c HTTP/1.1\r\nHost: example.COM:80\r\nProxy-Authorization: Basic c2VjcmV0\r\n\
             Proxy-Connection: keep-alive\r\nConnection: X-Inner, close\r\nX-Inner: secret\r\nTE: trailers\r\n\
             Upgrade: websocket\r\nX-Mine: kept\r\n\r\n",
        )
        .await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nhello"), "{answer}");
    let lower = answer.to_ascii_lowercase();
    assert!(lower.contains("x-end: kept") && !lower.contains("x-hop") && !lower.contains("keep-alive:"), "{answer}");
    let heard = world.server.heard().concat().to_ascii_lowercase();
    assert!(heard.starts_with("get /a?b=c http/1.1\r\n"), "{heard}");
    assert!(heard.contains("host: example.com\r\n") && heard.contains("x-mine: kept"), "{heard}");
    for gone in ["proxy-", "x-inner", "te:", "upgrade", "connection:"] {
        assert!(!heard.contains(gone), "{gone}: {heard}");
    }
}

#[tokio::test]
async fn each_request_of_a_connection_is_judged_and_one_connection_serves_its_host() {
    let world = World::new("allow:example.com").await;
    let get = |host: &str, path: &str| format!("GET http://{host}/{path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let pipeline =
        [get("example.com", "1"), get("example.com", "2"), get("other.example", "3"), get("example.com", "4")];
    let answer = world.say(pipeline.concat()).await;
    let statuses: Vec<&str> = answer.split("HTTP/1.1 ").skip(1).map(|it| &it[..3]).collect();
    assert_eq!(statuses, ["200", "200", "403", "200"], "{answer}");
    assert_eq!(world.server.heard().len(), 3);
    assert_eq!(world.internet.connected().len(), 1, "one connection is used for all three");
}

#[tokio::test]
async fn a_connection_that_its_host_ended_is_made_anew() {
    let world = World::new("public").await;
    let mut program = world.visit();
    for _ in 0..3 {
        program.send("GET http://example.com/close HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
        assert!(program.head().await.starts_with("HTTP/1.1 200"));
        assert_eq!(program.receive(3).await, b"end");
    }
    assert_eq!(world.internet.connected().len(), 3);
}

#[tokio::test]
async fn a_request_that_names_two_hosts_goes_to_neither() {
    let world = World::new("allow:example.com,other.example").await;
    for (request, status) in [
        ("GET http://example.com/ HTTP/1.1\r\nHost: other.example\r\n\r\n", "403"),
        ("GET http://example.com/ HTTP/1.1\r\nHost: example.com:8080\r\n\r\n", "403"),
        ("GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\nHost: other.example\r\n\r\n", "400"),
        ("GET http://example.com@other.example/ HTTP/1.1\r\nHost: other.example\r\n\r\n", "403"),
        ("CONNECT example.com:443 HTTP/1.1\r\nHost: other.example:443\r\n\r\n", "403"),
        ("CONNECT a@example.com:443 HTTP/1.1\r\n\r\n", "403"),
        ("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n", "400"),
        ("GET https://example.com/ HTTP/1.1\r\nHost: example.com\r\n\r\n", "400"),
        ("GET ftp://example.com/ HTTP/1.1\r\nHost: example.com\r\n\r\n", "400"),
        ("CONNECT example.com HTTP/1.1\r\n\r\n", "403"),
        ("CONNECT / HTTP/1.1\r\n\r\n", "400"),
    ] {
        let answer = world.say(request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")) || answer.starts_with("HTTP/1.1 400"),
            "{request}: {answer}"
        );
    }
    world.assert_unreached();
}

#[tokio::test]
async fn a_request_cannot_be_hidden_in_another() {
    let world = World::new("allow:example.com").await;
    let hidden = "GET /hidden HTTP/1.1\r\nHost: other.example\r\n\r\n";
    for framing in [
        format!("Transfer-Encoding: chunked\r\nContent-Length: {}\r\n\r\n0\r\n\r\n{hidden}", hidden.len() + 5),
        format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}", hidden.len() + 5),
        format!("Content-Length: 0\r\nContent-Length: {}\r\n\r\n{hidden}", hidden.len()),
        format!("Transfer-Encoding: chunked, identity\r\nContent-Length: 0\r\n\r\n{hidden}"),
        format!("Transfer-Encoding : chunked\r\nContent-Length: 0\r\n\r\n{hidden}"),
        format!("Transfer-Encoding:\r\n chunked\r\nContent-Length: 0\r\n\r\n{hidden}"),
        format!("X: y\nContent-Length: 0\r\n\r\n{hidden}"),
    ] {
        world.say(format!("POST http://example.com/ HTTP/1.1\r\nHost: example.com\r\n{framing}")).await;
    }
    let heard = world.server.heard();
    assert!(heard.iter().all(|request| request.starts_with("POST / HTTP/1.1\r\n")), "{heard:?}");
    for request in &heard {
        let lower = request.to_ascii_lowercase();
        assert_eq!(
            lower.matches("content-length:").count() + lower.matches("transfer-encoding:").count(),
            1,
            "{request}"
        );
    }
}

#[tokio::test]
async fn a_redirect_leads_where_a_request_would() {
    let world = World::new("public").await;
    let moved = world.say("GET http://example.com/moved HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
    assert!(moved.contains("http://169.254.169.254/latest/"), "{moved}");
    let followed = world.say("GET http://169.254.169.254/latest/ HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n").await;
    assert!(followed.starts_with("HTTP/1.1 403") && followed.contains("link-local"), "{followed}");
    assert_eq!(world.internet.connected().len(), 1);
}

#[tokio::test]
async fn requests_in_a_tunnel_have_to_name_its_host() {
    let world = World::new("allow:example.com,example.com:8080,other.example").await;
    for target in ["example.com:80", "example.com:8080"] {
        let mut program = world.tunnel(target).await;
        program.send("GET /1 HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
        assert!(program.head().await.starts_with("HTTP/1.1 200"));
        assert_eq!(program.receive(5).await, b"hello");
        program.send("GET /2 HTTP/1.1\r\nHost: other.example\r\n\r\n").await;
        let refused = program.head().await;
        assert!(refused.starts_with("HTTP/1.1 403"), "{refused}");
        let mut program = world.tunnel(target).await;
        program.send("GET /3 HTTP/1.1\r\nHost: evil.example\r\n\r\n").await;
        assert!(program.head().await.starts_with("HTTP/1.1 403"));
        let mut program = world.tunnel(target).await;
        program.send("GET /4 HTTP/1.0\r\n\r\n").await;
        assert!(program.head().await.contains(" 400 "));
        let mut program = world.tunnel(target).await;
        program.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        program.rest().await;
    }
    let paths: Vec<String> = world.server.heard().iter().map(|it| it[..6].to_owned()).collect();
    assert_eq!(paths, ["GET /1", "GET /1"]);
}

#[tokio::test]
async fn a_public_sandbox_may_send_any_request_in_a_tunnel() {
    let world = World::new("public").await;
    let mut program = world.tunnel("example.com:80").await;
    program.send("GET /odd HTTP/1.1\r\nHost: name-of-its-own\r\n\r\n").await;
    assert!(program.head().await.starts_with("HTTP/1.1 200"));
}
