//! Where the time of a demonstration went: what the tool measured, and what the run log tells.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};

/// The time of each part in milliseconds, by name. The person who approves is in none of them.
pub(super) fn of(request: &Value, prepared: Duration, tested: Duration) -> Value {
    let mut timings = Map::new();
    let mut put = |name: &str, time: Option<Duration>| {
        if let Some(time) = time {
            timings.insert(name.to_owned(), json!(time.as_millis()));
        }
    };
    put("build_and_install", Some(prepared));
    put("test_in_fresh_sandbox", Some(tested));

    let run = &request["metadata"]["runs"][0];
    let finished = time(&run["finished_at"]);
    put("prompt_to_patch_ready", between(time(&request["created_at"]), finished));
    let (during, after) = steps(&run["events"]).into_iter().partition::<Vec<_>, _>(|step| Some(step.at) <= finished);
    put("approval_to_reviewed", between(after.first().map(|step| step.at), after.last().map(|step| step.at)));
    for (stage, time) in stages(&during) {
        put(&format!("run.{stage}"), Some(time));
    }
    Value::Object(timings)
}

/// A status event.
struct Step {
    stage: String,
    at: DateTime<Utc>,
}

fn steps(events: &Value) -> Vec<Step> {
    let events = events.as_array().into_iter().flatten();
    let ends = |event: &Value| event["type"] == "status" || event["type"] == "completed";
    let step = |event: &Value| {
        Some(Step { stage: event["stage"].as_str().unwrap_or("end").to_owned(), at: time(&event["created_at"])? })
    };
    events.filter(|event| ends(event)).filter_map(step).collect()
}

/// The time from each step to the next, added up by stage.
fn stages(steps: &[Step]) -> Vec<(String, Duration)> {
    let mut stages: Vec<(String, Duration)> = Vec::new();
    for pair in steps.windows(2) {
        let time = between(Some(pair[0].at), Some(pair[1].at)).unwrap_or_default();
        match stages.iter_mut().find(|(stage, _)| *stage == pair[0].stage) {
            Some((_, sum)) => *sum += time,
            None => stages.push((pair[0].stage.clone(), time)),
        }
    }
    stages
}

fn time(value: &Value) -> Option<DateTime<Utc>> {
    value.as_str()?.parse().ok()
}

fn between(from: Option<DateTime<Utc>>, to: Option<DateTime<Utc>>) -> Option<Duration> {
    (to? - from?).to_std().ok()
}

/// Prints them as a table.
pub(super) fn print(timings: &Value) {
    println!("\nWhere the time went, in milliseconds:");
    for (name, time) in timings.as_object().into_iter().flatten() {
        println!("{:>8}  {name}", time.as_u64().unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_between_steps_belongs_to_the_first_and_a_persons_time_to_none() {
        let status = |stage: &str, second: u32| json!({ "type": "status", "stage": stage, "created_at": at(second) });
        let events = json!([
            status("clone", 0),
            status("codex", 1),
            json!({ "type": "log", "created_at": at(2) }),
            status("clone", 3),
            json!({ "type": "completed", "created_at": at(4) }),
            status("approval", 50),
            status("review", 51),
        ]);
        let run = json!({ "finished_at": at(4), "events": events });
        let request = json!({ "created_at": at(0), "metadata": { "runs": [run] } });
        let timings = of(&request, Duration::ZERO, Duration::ZERO);
        assert_eq!(timings["run.clone"], 2000);
        assert_eq!(timings["run.codex"], 2000);
        assert_eq!(timings["prompt_to_patch_ready"], 4000);
        assert_eq!(timings["approval_to_reviewed"], 1000);
    }

    fn at(second: u32) -> String {
        format!("2026-03-01T10:15:{second:02}Z")
    }
}
