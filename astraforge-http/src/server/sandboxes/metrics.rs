//! `/metrics`: what sandboxes use, for those who watch the server, in the text form of Prometheus.

use std::fmt::Write as _;

use astraforge_core::{control_plane::UsageSample, ports::machines::Usage};
use axum::{extract::State, http::header::CONTENT_TYPE, response::IntoResponse};

use super::super::{AppState, caller::Authenticated, error::ApiError, refusals::Refused};

/// Show what sandboxes use. It is measured once a minute.
#[utoipa::path(
    get, path = "/metrics", tag = "server",
    responses(
        (status = 200, description = "Samples in the text form of Prometheus.", body = String, content_type = "text/plain"),
        Refused,
    ),
)]
pub(in crate::server) async fn metrics(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
) -> Result<impl IntoResponse, ApiError> {
    let samples = state.sandboxes.as_ref().map(|sandboxes| sandboxes.usage_samples(&caller)).transpose()?;
    let mut text = render(&samples.unwrap_or_default());
    if let Some(audit) = state.forge().journal().audit() {
        text.push_str(&render_lost(audit.n_lost()));
    }
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4")], text))
}

/// A metric: its name, its kind, what it says, and its value where it is known.
type Metric = (&'static str, &'static str, &'static str, fn(&Usage) -> Option<f64>);

#[expect(clippy::cast_precision_loss, reason = "Prometheus knows no other numbers")]
const METRICS: [Metric; 5] = [
    ("cpu_seconds_total", "counter", "Processor time of a sandbox's processes.", |it| {
        it.cpu.map(|cpu| cpu.as_secs_f64())
    }),
    ("memory_bytes", "gauge", "Memory of a sandbox.", |it| it.memory.map(|size| size.as_bytes() as f64)),
    ("memory_peak_bytes", "gauge", "The most memory of a sandbox so far.", |it| {
        it.memory_peak.map(|size| size.as_bytes() as f64)
    }),
    ("disk_bytes", "gauge", "Files in a sandbox's workspace.", |it| it.disk.map(|size| size.as_bytes() as f64)),
    ("processes", "gauge", "Processes of a sandbox.", |it| it.processes.map(f64::from)),
];

fn render(samples: &[UsageSample]) -> String {
    let mut text = format!(
        "# HELP astraforge_sandboxes Sandboxes that are ready.\n# TYPE astraforge_sandboxes gauge\n\
         astraforge_sandboxes {}\n",
        samples.len()
    );
    for (name, kind, help, value) in METRICS {
        let name = format!("astraforge_sandbox_{name}");
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        for UsageSample { id, mode, usage, .. } in samples {
            if let Some(value) = value(usage) {
                let _ = writeln!(text, "{name}{{sandbox=\"{id}\",mode=\"{mode}\"}} {value}");
            }
        }
    }
    text
}

/// How many entries are missing in the audit: any at all is for somebody to look at.
fn render_lost(n_lost: u64) -> String {
    format!(
        "# HELP astraforge_audit_lost_total Entries of the audit that could not be written.\n\
         # TYPE astraforge_audit_lost_total counter\nastraforge_audit_lost_total {n_lost}\n"
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use astraforge_core::id::{SandboxId, TenantId};

    use super::*;

    #[test]
    fn what_is_not_known_is_not_told() {
        let usage = Usage { cpu: Some(Duration::from_millis(1500)), processes: Some(3), ..Usage::default() };
        let id = SandboxId::random();
        let text = render(&[UsageSample { id, tenant: TenantId::new("acme"), mode: "native".to_owned(), usage }]);
        let line = format!("astraforge_sandbox_cpu_seconds_total{{sandbox=\"{id}\",mode=\"native\"}} 1.5\n");
        assert!(text.contains(&line) && text.contains("astraforge_sandboxes 1\n"), "{text}");
        assert!(text.contains("# TYPE astraforge_sandbox_memory_bytes gauge\n# HELP"), "{text}");
    }
}
