//! Clients that speak SOCKS.

use super::*;

fn connect(name: &str, port: u16) -> Vec<u8> {
    [&[5, 1, 0, 3, name.len() as u8], name.as_bytes(), &port.to_be_bytes()].concat()
}

#[tokio::test]
async fn a_name_is_connected_to_and_looked_up_out_here() {
    let world = World::new("allow:example.com:22").await;
    let mut program = world.visit();
    program.send([5, 2, 2, 0]).await;
    assert_eq!(program.receive(2).await, [5, 0]);
    program.send(connect("example.com", 22)).await;
    assert_eq!(program.receive(10).await, [5, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    program.send("echo\n").await;
    assert_eq!(program.receive(5).await, b"echo\n");
}

#[tokio::test]
async fn all_at_once_or_byte_by_byte_is_the_same() {
    let world = World::new("public").await;
    let bytes = [&[5, 1, 0][..], &connect("example.com", 443), b"echo\n"].concat();
    let mut program = world.visit();
    program.send(&bytes).await;
    assert_eq!(program.receive(17).await, b"\x05\x00\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00echo\n");
    let mut program = world.visit();
    for byte in bytes {
        program.send([byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(program.receive(17).await, b"\x05\x00\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00echo\n");
}

#[tokio::test]
async fn a_refusal_has_its_own_number() {
    let world = World::new("allow:example.com,*.missing.example").await;
    world.internet.name("down.missing.example", &["93.184.216.99"]);
    let check = async |request: &[u8], reply: u8| {
        let answer = world.say([&[5, 1, 0], request].concat()).await.into_bytes();
        assert_eq!(answer[..4], [5, 0, 5, reply], "{request:?}");
    };
    check(&connect("other.example", 443), 2).await;
    check(&connect("example.com", 22), 2).await;
    check(&[5, 1, 0, 1, 127, 0, 0, 1, 0, 80], 2).await;
    check(&[&[5, 1, 0, 4][..], &[0; 15], &[1, 0, 80]].concat(), 2).await;
    check(&connect("a.missing.example", 443), 4).await;
    check(&connect("down.missing.example", 443), 5).await;
    check(&[5, 2, 0, 1, 1, 1, 1, 1, 0, 80], 7).await;
    check(&[5, 3, 0, 1, 0, 0, 0, 0, 0, 0], 7).await;
    check(&[5, 1, 0, 9, 1, 1], 8).await;
    assert_eq!(world.say([5, 1, 2]).await.as_bytes(), "\u{5}\u{fffd}".as_bytes(), "a password is not asked for");
    assert_eq!(world.say([4, 1, 0, 80, 1, 1, 1, 1, 0]).await.len().min(1), 1, "version 4 is not spoken");
}
