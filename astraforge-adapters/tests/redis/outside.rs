//! A subscriber outside of our code gets every event once and in order, whatever happens to Redis.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use astraforge_core::{event::Envelope, ports::store::Store as _};
use serde_json::Value;

use crate::{
    PATIENCE,
    server::Server,
    streams::{World, submitted},
};

/// Starts the subscriber, which ends when event `last` has come.
fn subscriber(server: &Server, stream: &str, last: u64) -> impl Future<Output = Vec<(String, Value)>> + use<> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/redis/subscriber.py");
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "python3"]).arg(program);
    command.args([&server.port().to_string(), stream, &last.to_string()]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    async move {
        let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
        let output = tokio::time::timeout(2 * PATIENCE, output).await.expect("the subscriber waits in vain").unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let entries = text.lines().map(|line| line.split_once(' ').unwrap());
        entries.map(|(id, data)| (id.to_owned(), serde_json::from_str(data).unwrap())).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_gets_every_event_once_and_in_order_whatever_happens_to_redis() {
    const ROUNDS: u64 = 12;
    const EACH: u64 = 20;
    let mut server = Server::new();
    let world = World::new(server.config()).await;
    let request = submitted(&world.store).await;
    let stream = world.config.stream(request);
    // It is there before Redis is.
    let subscriber = subscriber(&server, &stream, ROUNDS * EACH);
    // Two processes write the same log.
    let writers = [world.process(), world.process()];
    for round in 0..ROUNDS {
        for line in 0..EACH {
            writers[(line % 2) as usize].write(request, 1, &format!("{round}.{line} {}", "ä".repeat(40))).await;
            if line % 7 == 0 {
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
        }
        match round % 4 {
            0 => server.start(),
            1 => server.flush(),
            2 => server.stop(),
            _ => {
                server.start();
                server.stop();
            }
        }
        if round % 4 == 1 {
            // A moment in which everything is well.
            world.is_published(request, &server).await;
            server.flush();
        }
    }
    server.start();
    let got = subscriber.await;
    let rows = world.store.events(request, 0, 1000).await.unwrap();
    assert_eq!(rows.len() as u64, ROUNDS * EACH);
    let expected: Vec<(String, Value)> = rows
        .into_iter()
        .map(|row| (format!("{}-0", row.seq), serde_json::to_value(Envelope::from(row)).unwrap()))
        .collect();
    assert_eq!(got, expected);
}
