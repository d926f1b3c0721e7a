//! Turns samples into medians, and medians into ratios.

use serde::Deserialize;

/// One line that a bench program prints: samples, or why there are none.
#[derive(Debug, Deserialize)]
pub(crate) struct Measurement {
    /// What belongs together; the first measurement of a section is compared with the others.
    section: String,
    name: String,
    #[serde(default)]
    what: String,
    /// The call or command line that was timed.
    #[serde(default)]
    command: String,
    #[serde(default)]
    samples_us: Vec<f64>,
    left_out: Option<String>,
}

/// Prints each section: the subject first, then what it is compared with.
pub(crate) fn print(measurements: &[Measurement]) {
    let mut section = "";
    let mut subject = None;
    for measurement in measurements {
        if measurement.section != section {
            section = &measurement.section;
            subject = median(&measurement.samples_us);
            println!("\n{section}: {}", measurement.what);
            println!("  {}", row(measurement, None));
        } else {
            println!("  {}", row(measurement, subject));
        }
    }
}

fn row(measurement: &Measurement, subject: Option<f64>) -> String {
    let name = &measurement.name;
    if let Some(why) = &measurement.left_out {
        return format!("{name:<14} left out: {why}");
    }
    let Some(middle) = median(&measurement.samples_us) else {
        return format!("{name:<14} left out: no sample was taken");
    };
    let slow = percentile(&measurement.samples_us, 95).unwrap_or(middle);
    let ratio = subject.filter(|_| middle > 0.0).map(|subject| compared(subject, middle)).unwrap_or_default();
    let n = measurement.samples_us.len();
    format!(
        "{name:<14} median {:>10}  p95 {:>10}  n={n:<4} {ratio:<20} {}",
        time(middle),
        time(slow),
        measurement.command
    )
}

/// How many times longer the subject takes than the baseline, and by how much.
fn compared(subject: f64, baseline: f64) -> String {
    let sign = if subject < baseline { '-' } else { '+' };
    format!("{:.2}× ({sign}{})", subject / baseline, time((subject - baseline).abs()))
}

fn time(microseconds: f64) -> String {
    if microseconds < 1000.0 { format!("{microseconds:.0} µs") } else { format!("{:.2} ms", microseconds / 1000.0) }
}

fn median(samples: &[f64]) -> Option<f64> {
    percentile(samples, 50)
}

/// The sample that `percent` of a hundred do not exceed.
fn percentile(samples: &[f64], percent: usize) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    sorted.get((last * percent).div_ceil(100)).copied()
}

#[cfg(test)]
mod tests {
    use super::{Measurement, median, percentile, row};

    fn measurement(json: &str) -> Measurement {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn percentiles_are_samples() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(percentile(&[3.0, 1.0, 2.0], 95), Some(3.0));
    }

    #[test]
    fn a_baseline_shows_how_many_times_longer_the_subject_takes() {
        let bwrap = measurement(r#"{"section":"create","name":"bwrap","command":"bwrap true","samples_us":[4000]}"#);
        let line = row(&bwrap, Some(6000.0));
        assert!(line.contains("4.00 ms") && line.contains("1.50× (+2.00 ms)") && line.contains("bwrap true"), "{line}");
    }

    #[test]
    fn what_could_not_run_is_said() {
        let docker = measurement(r#"{"section":"create","name":"docker run","left_out":"no engine"}"#);
        assert_eq!(row(&docker, Some(1.0)), "docker run     left out: no engine");
    }
}
