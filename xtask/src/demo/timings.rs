//! Where the time of a demonstration went, read from the run log.

use std::time::Duration;

use serde_json::{Map, Value, json};

/// The time of each part in milliseconds: what the tool measured, and each stage of the run by its events.
pub(super) fn of(request: &Value, prepared: Duration, answered: Duration, tested: Duration) -> Value {
    let mut timings = Map::new();
    let mut put = |name: &str, time: Duration| timings.insert(name.to_owned(), json!(time.as_millis() as u64));
    put("build_and_install", prepared);
    put("prompt_to_reviewed", answered);
    put("test_in_fresh_sandbox", tested);
    let run = &request["metadata"]["runs"][0];
    if let Some(total) = between(&run["started_at"], &run["finished_at"]) {
        put("run", total);
    }
    for (stage, time) in stages(&run["events"]) {
        put(&format!("run.{stage}"), time);
    }
    Value::Object(timings)
}

/// The time between the first event of each stage and the first of the next.
fn stages(events: &Value) -> Vec<(String, Duration)> {
    let status = |event: &&Value| event["type"] == "status";
    let events: Vec<&Value> = events.as_array().into_iter().flatten().filter(status).collect();
    let mut stages: Vec<(String, Duration)> = Vec::new();
    for pair in events.windows(2) {
        let stage = pair[0]["stage"].as_str().unwrap_or_default();
        let time = between(&pair[0]["created_at"], &pair[1]["created_at"]).unwrap_or_default();
        match stages.iter_mut().find(|(name, _)| name == stage) {
            Some((_, sum)) => *sum += time,
            None => stages.push((stage.to_owned(), time)),
        }
    }
    stages
}

fn between(from: &Value, to: &Value) -> Option<Duration> {
    let time = |value: &Value| value.as_str()?.parse::<chrono::DateTime<chrono::Utc>>().ok();
    (time(to)? - time(from)?).to_std().ok()
}

/// Prints them as a table.
pub(super) fn print(timings: &Value) {
    println!("\nWhere the time went:");
    for (name, time) in timings.as_object().into_iter().flatten() {
        println!("{:>8} ms  {name}", time);
    }
}
