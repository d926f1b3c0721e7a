//! What is printed for `cargo xtask bench`.

use std::time::Duration;

use serde_json::json;

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Measurements that belong together; the first of them is compared with the others.
#[derive(Debug, Clone)]
pub(crate) struct Section {
    pub(crate) name: String,
    /// What is measured, in words.
    pub(crate) what: &'static str,
}

impl Section {
    pub(crate) fn new(name: impl Into<String>, what: &'static str) -> Self {
        Self { name: name.into(), what }
    }

    /// Prints how long something took each time.
    pub(crate) fn print(&self, name: &str, command: &str, samples: &[Duration]) {
        let samples_us: Vec<f64> = samples.iter().map(|sample| sample.as_secs_f64() * 1e6).collect();
        self.line(name, command, "samples_us", &samples_us);
    }

    /// Prints sizes, in bytes.
    pub(crate) fn print_sizes(&self, name: &str, command: &str, samples_bytes: &[f64]) {
        self.line(name, command, "samples_bytes", samples_bytes);
    }

    fn line(&self, name: &str, command: &str, unit: &str, samples: &[f64]) {
        println!(
            "{}",
            json!({ "section": self.name, "name": name, "what": self.what, "command": command, unit: samples })
        );
    }
}
