//! How fast events are written. Not a limit that fails on a busy machine: run by hand, with `--ignored --nocapture`.

use std::time::Instant;

use astraforge_core::{event::NewEvent, id::RequestId, ports::store::Store, testing::samples};

use super::fresh;

#[tokio::test]
#[ignore = "prints a measurement"]
async fn events_a_second() {
    for (batch, batches) in [(1, 2000), (100, 200), (1000, 20)] {
        let (_folder, store) = fresh().await;
        let request = samples::request();
        store.commit(samples::submitted(&request)).await.unwrap();
        let begun = Instant::now();
        for _ in 0..batches {
            store.append(lines(request.id, batch)).await.unwrap();
        }
        let seconds = begun.elapsed().as_secs_f64();
        println!("batches of {batch}: {:.0} events/s", f64::from(batch * batches) / seconds);
        let begun = Instant::now();
        let n = store.events(request.id, 0, u32::MAX).await.unwrap().len();
        println!("  read back: {:.0} events/s", n as f64 / begun.elapsed().as_secs_f64());
    }
}

fn lines(request: RequestId, n: i32) -> Vec<NewEvent> {
    (0..n).map(|n| samples::log(request, format!("line {n} of about a hundred bytes {}", "x".repeat(70)))).collect()
}
