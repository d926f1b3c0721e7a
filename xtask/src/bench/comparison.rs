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
    /// Sizes, where not times were measured.
    #[serde(default)]
    samples_bytes: Vec<f64>,
    /// How much was moved each time; 0 where nothing was.
    #[serde(default)]
    n_bytes: u64,
    left_out: Option<String>,
}

impl Measurement {
    fn samples(&self) -> &[f64] {
        if self.samples_us.is_empty() { &self.samples_bytes } else { &self.samples_us }
    }
}

/// Prints each section: the subject first, then what it is compared with.
pub(crate) fn print(measurements: &[Measurement]) {
    let mut section = "";
    let mut subject = None;
    for measurement in measurements {
        if measurement.section != section {
            section = &measurement.section;
            subject = median(measurement.samples());
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
    let samples = measurement.samples();
    let Some(middle) = median(samples) else {
        return format!("{name:<14} left out: no sample was taken");
    };
    let of = |percent| percentile(samples, percent).unwrap_or(middle);
    let shown = if measurement.samples_us.is_empty() { size } else { time };
    let ratio = subject.filter(|_| middle > 0.0).map(|subject| compared(subject, middle, shown)).unwrap_or_default();
    let rate = match measurement.n_bytes {
        0 => String::new(),
        n_bytes => format!("{:.0} MB/s ", n_bytes as f64 / middle),
    };
    let n = samples.len();
    format!(
        "{name:<14} median {:>10}  p95 {:>10}  p99 {:>10}  n={n:<4} {ratio:<20} {rate}{}",
        shown(middle),
        shown(of(95)),
        shown(of(99)),
        measurement.command
    )
}

/// How many times more the subject takes than the baseline, and how much more.
fn compared(subject: f64, baseline: f64, shown: fn(f64) -> String) -> String {
    let sign = if subject < baseline { '-' } else { '+' };
    format!("{:.2}× ({sign}{})", subject / baseline, shown((subject - baseline).abs()))
}

fn time(microseconds: f64) -> String {
    if microseconds < 1000.0 { format!("{microseconds:.0} µs") } else { format!("{:.2} ms", microseconds / 1000.0) }
}

fn size(bytes: f64) -> String {
    format!("{:.2} MiB", bytes / f64::from(1 << 20))
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
    fn bytes_moved_show_a_rate_and_sizes_their_unit() {
        let pack = measurement(r#"{"section":"pack","name":"ours","n_bytes":1000000,"samples_us":[4000]}"#);
        assert!(row(&pack, None).contains("250 MB/s"), "{}", row(&pack, None));
        let memory = measurement(r#"{"section":"memory","name":"idle","samples_bytes":[1572864]}"#);
        assert!(row(&memory, None).contains("median   1.50 MiB"), "{}", row(&memory, None));
    }

    #[test]
    fn the_slowest_of_many_show() {
        let samples: Vec<u32> = (1..=200).collect();
        let json = serde_json::json!({"section": "fan-out", "name": "ours", "samples_us": samples});
        let line = row(&measurement(&json.to_string()), None);
        assert!(line.contains("p95     191 µs  p99     199 µs"), "{line}");
    }

    #[test]
    fn what_could_not_run_is_said() {
        let docker = measurement(r#"{"section":"create","name":"docker run","left_out":"no engine"}"#);
        assert_eq!(row(&docker, Some(1.0)), "docker run     left out: no engine");
    }
}
