//! The bridge of sandboxes that may reach public addresses by themselves: out, and not to each other.

use astraforge_core::session::{Command, SandboxSpec};
use astraforge_sandbox::docker::Network;

use super::{Fixture, PATIENCE, config};

/// Says that the engine can make bridges: that it has a firewall of its own.
const BRIDGES: &str = "ASTRAFORGE_TEST_DOCKER_BRIDGES";

/// A sandbox, if there is an engine that can make bridges.
async fn on_bridge(egress: &str) -> Option<Fixture> {
    if std::env::var_os(BRIDGES).is_none() {
        eprintln!("skipped: {BRIDGES} does not say that the engine can make bridges");
        return None;
    }
    let mut config = config()?;
    config.network = Network::Isolated;
    Some(Fixture::new(config, SandboxSpec::default().with_egress(egress.parse().unwrap())).await)
}

/// Tries to connect, past the gateway; `refused` means that somebody was there to say no.
async fn connect(from: &Fixture, address: &str, port: u16) -> String {
    let program = format!(
        "import socket
try:
    socket.create_connection(('{address}', {port}), 3)
    print('connected')
except ConnectionRefusedError: print('refused')
except TimeoutError: print('silence')
except OSError as error: print(error.strerror)"
    );
    super::text(&from.run(Command::new(["python3", "-c", &program])).await)
}

#[tokio::test]
async fn the_isolated_bridge_leads_out_and_not_to_other_sandboxes() {
    let (Some(one), Some(two), Some(off)) =
        (on_bridge("public").await, on_bridge("public").await, on_bridge("off").await)
    else {
        return;
    };
    let address = two.shell("python3 -c 'import socket; print(socket.gethostbyname(socket.gethostname()))'").await;
    let outside = two.shell("ip route | awk '/^default/ { print $3 }'").await;
    let server = two.session.exec(Command::new(["python3", "-m", "http.server", "9000"])).await.unwrap();
    let listens = async { while connect(&two, &address, 9000).await != "connected" {} };
    tokio::time::timeout(PATIENCE, listens).await.expect("the server listens");
    // The engine's end of the bridge is the first step out. Nothing listens there.
    assert_eq!(connect(&one, &outside, 9).await, "refused");
    assert_eq!(connect(&one, &address, 9000).await, "silence", "another sandbox is out of reach");
    assert_eq!(connect(&off, &outside, 9).await, "Network is unreachable", "with egress off there is no bridge");
    drop(server);
    for fixture in [one, two, off] {
        fixture.end().await;
    }
}
