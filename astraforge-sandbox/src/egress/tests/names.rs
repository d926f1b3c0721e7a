//! Which hosts are reached, and which are not whatever they are called.

use super::*;

#[tokio::test]
async fn a_tunnel_carries_bytes_both_ways_and_is_counted() {
    let world = World::new("allow:example.com:22").await;
    let mut program = world.tunnel("Example.COM.:22").await;
    program.send("echo me\n").await;
    assert_eq!(program.receive(8).await, b"echo me\n");
    drop(program.stream);
    timeout(LONG, program.served).await.unwrap().unwrap();
    assert_eq!(world.log(), ["example.com:22 8/8"]);
    assert_eq!(world.internet.connected(), ["93.184.216.34:22".parse().unwrap()]);
}

#[tokio::test]
async fn a_refusal_says_which_rule_and_what_to_do() {
    let check = async |egress: &str, target: &str, reason: &str, remedy: &str| {
        let world = World::new(egress).await;
        let answer = world.say(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 403 Refused: "), "{answer}");
        assert!(answer.contains(reason) && answer.contains(remedy), "{answer}");
        world.assert_unreached();
        assert!(world.log()[0].contains(reason), "{:?}", world.log());
    };
    check("off", "example.com:443", "egress is off", "astraforge sandbox egress").await;
    check("allow:other.example", "example.com:443", "no rule", "--allow HOST").await;
    check("allow:example.com", "example.com:8080", "not its port 8080", "--set allow:").await;
    check("public", "example.com:25", "port 25 is closed", "Nothing in the sandbox").await;
    check("public", "10.0.0.1:80", "a private address", "SANDBOX_EGRESS_OPEN").await;
}

#[tokio::test]
async fn metadata_and_inner_addresses_are_out_of_reach_in_every_spelling() {
    let world = World::new("public").await;
    for host in [
        "169.254.169.254",
        "2852039166",
        "0xa9fea9fe",
        "0xA9.0xFE.0xA9.0xFE",
        "0251.0376.0251.0376",
        "025177524776",
        "169.254.43518",
        "[::ffff:169.254.169.254]",
        "[::ffff:a9fe:a9fe]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:a9fe:a9fe::1]",
        "[fd00:ec2::254]",
        "[fe80::1]",
        "[fe80::a9fe:a9fe%251]",
        "100.100.100.200",
        "168.63.129.16",
        "127.0.0.1",
        "127.1",
        "0",
        "0.0.0.0",
        "[::]",
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "localhost",
        "metadata",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.0.1",
        "100.64.0.1",
        "[fd12::1]",
        "224.0.0.1",
        "[ff02::1]",
        "255.255.255.255",
        "192.0.2.1",
        "203.0.113.1",
        "240.0.0.1",
    ] {
        let connect = world.say(format!("CONNECT {host}:80 HTTP/1.1\r\n\r\n")).await;
        assert!(connect.starts_with("HTTP/1.1 403") || connect.starts_with("HTTP/1.1 400"), "{host}: {connect}");
        let get = world.say(format!("GET http://{host}/latest/meta-data HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert!(get.starts_with("HTTP/1.1 403") || get.starts_with("HTTP/1.1 400"), "{host}: {get}");
        let name = host.trim_matches(['[', ']']);
        let socks = [&[5, 1, 0, 5, 1, 0, 3, name.len() as u8], name.as_bytes(), &[0, 80]].concat();
        assert_eq!(world.say(socks).await.as_bytes()[..4], [5, 0, 5, 2], "{host}");
    }
    world.assert_unreached();
}

#[tokio::test]
async fn an_answer_of_dns_holds_for_one_connection_and_is_judged_each_time() {
    let world = World::new("public").await;
    // It changes its mind with each lookup, as a name with a lifetime of zero may.
    world.internet.name("rebind.example", &["93.184.216.34"]);
    world.internet.name("rebind.example", &["127.0.0.1"]);
    let mut first = world.tunnel("rebind.example:443").await;
    first.send("echo").await;
    assert_eq!(first.receive(4).await, b"echo");
    let second = world.say("CONNECT rebind.example:443 HTTP/1.1\r\n\r\n").await;
    assert!(second.contains("`rebind.example` is at 127.0.0.1, a loopback address"), "{second}");
    assert_eq!(world.internet.connected(), ["93.184.216.34:443".parse().unwrap()]);
}

#[tokio::test]
async fn one_inner_address_among_public_ones_spoils_the_answer() {
    let world = World::new("allow:split.example").await;
    for split in [&["93.184.216.34", "fd00::1"][..], &["::ffff:10.0.0.1", "93.184.216.34"], &["10.0.0.1"]] {
        world.internet.name("split.example", split);
        let answer = world.say("CONNECT split.example:443 HTTP/1.1\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{split:?}: {answer}");
    }
    world.assert_unreached();
}

#[tokio::test]
async fn the_node_itself_is_out_of_reach_at_its_public_address_too() {
    let world = World::new("public").await;
    world.internet.own("93.184.216.34");
    let answer = world.say("CONNECT example.com:443 HTTP/1.1\r\n\r\n").await;
    assert!(answer.contains("an address of the node itself"), "{answer}");
    world.assert_unreached();
}

#[tokio::test]
async fn an_operator_opens_a_network() {
    let settings = || EgressSettings::default().with_open_networks(["203.0.113.0/24".parse().unwrap()]);
    let world = World::with("public", settings()).await;
    world.internet.name("mirror.example", &["203.0.113.80"]);
    world.internet.server("203.0.113.80:443", world.server.address);
    world.tunnel("mirror.example:443").await;
    let closed = settings().with_closed_networks(["203.0.113.80".parse().unwrap()]);
    let world = World::with("public", closed).await;
    world.internet.name("mirror.example", &["203.0.113.80"]);
    let answer = world.say("CONNECT mirror.example:443 HTTP/1.1\r\n\r\n").await;
    assert!(answer.contains("operator closed"), "{answer}");
}

#[tokio::test]
async fn what_cannot_be_reached_is_no_refusal() {
    let world = World::new("public").await;
    world.internet.name("closed.example", &["93.184.216.36"]);
    world.internet.name("empty.example", &[]);
    for (host, reason) in [
        ("nowhere.example", "could not be looked up"),
        ("empty.example", "has no address"),
        ("closed.example", "could not be connected to"),
    ] {
        let answer = world.say(format!("CONNECT {host}:443 HTTP/1.1\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 502") && answer.contains(reason), "{answer}");
    }
    assert!(world.log().iter().all(|line| line.contains("failed: ")), "{:?}", world.log());
    assert_eq!(world.log().len(), 3);
}

#[tokio::test]
async fn the_next_address_is_tried_when_one_does_not_answer() {
    let world = World::new("public").await;
    world.internet.name("two.example", &["93.184.216.99", "93.184.216.34"]);
    world.tunnel("two.example:443").await;
    assert_eq!(world.internet.connected().len(), 2);
}
