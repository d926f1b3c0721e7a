//! What is printed for `cargo xtask bench`, and how a command line is timed.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::json;

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Measurements that belong together; the first of them is compared with the others.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Section {
    pub(crate) name: &'static str,
    /// What is measured, in words.
    pub(crate) what: &'static str,
}

impl Section {
    /// Prints how long something took each time.
    pub(crate) fn print(self, name: &str, command: &str, samples: &[Duration]) {
        self.print_rate(name, command, samples, 0);
    }

    /// The same, for something that moves `n_bytes` bytes.
    pub(crate) fn print_rate(self, name: &str, command: &str, samples: &[Duration], n_bytes: u64) {
        let samples_us: Vec<f64> = samples.iter().map(|sample| sample.as_secs_f64() * 1e6).collect();
        self.line(name, command, &json!({ "samples_us": samples_us, "n_bytes": n_bytes }));
    }

    /// Prints sizes, in bytes.
    pub(crate) fn print_sizes(self, name: &str, command: &str, samples_bytes: &[f64]) {
        self.line(name, command, &json!({ "samples_bytes": samples_bytes }));
    }

    /// Says why something is not measured.
    pub(crate) fn leave_out(self, name: &str, why: &str) {
        self.line(name, "", &json!({ "left_out": why }));
    }

    fn line(self, name: &str, command: &str, more: &serde_json::Value) {
        let mut line = json!({ "section": self.name, "name": name, "what": self.what, "command": command });
        if let (Some(line), Some(more)) = (line.as_object_mut(), more.as_object()) {
            line.extend(more.clone());
        }
        println!("{line}");
    }
}

/// Times what is done until it is over.
pub(crate) async fn timed<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<(T, Duration), Failure> {
    let start = Instant::now();
    let done = work.await?;
    Ok((done, start.elapsed()))
}

/// Times a program of the host, split at spaces.
pub(crate) async fn time(line: &str) -> Result<Duration, Failure> {
    let start = Instant::now();
    let output = command(line).output().await?;
    let took = start.elapsed();
    if !output.status.success() {
        return Err(format!("`{line}`: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(took)
}

/// Tells whether a program of the host works.
pub(crate) async fn runs(line: &str) -> bool {
    command(line).stdout(Stdio::null()).stderr(Stdio::null()).status().await.is_ok_and(|status| status.success())
}

fn command(line: &str) -> tokio::process::Command {
    let mut words = line.split_whitespace();
    let mut command = tokio::process::Command::new(words.next().unwrap_or_default());
    command.args(words).stdin(Stdio::null());
    command
}
