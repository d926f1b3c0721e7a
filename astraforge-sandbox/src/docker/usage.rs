//! What a sandbox uses, as its engine measures it.

use std::time::Duration;

use astraforge_core::{ports::machines::Usage, session::ByteSize};
use bollard::{errors::Error, models::ContainerStatsResponse, query_parameters::StatsOptionsBuilder};
use futures::StreamExt;

use super::engine::Engine;

/// Measures a container once.
pub(super) async fn of(engine: &Engine, container: &str) -> Result<Usage, Error> {
    let options = StatsOptionsBuilder::new().stream(false).one_shot(true).build();
    let sample = std::pin::pin!(engine.0.stats(container, Some(options))).next().await.transpose()?;
    Ok(sample.map(|it| read(&it)).unwrap_or_default())
}

fn read(sample: &ContainerStatsResponse) -> Usage {
    let cpu = sample.cpu_stats.as_ref().and_then(|it| it.cpu_usage.as_ref()?.total_usage);
    let memory = sample.memory_stats.as_ref();
    // The page cache goes when somebody needs the room: as everywhere, it is not counted.
    let cache = memory.and_then(|it| {
        let stats = it.stats.as_ref()?;
        stats.get("total_inactive_file").or_else(|| stats.get("inactive_file")).copied()
    });
    Usage {
        cpu: cpu.map(Duration::from_nanos),
        memory: memory.and_then(|it| it.usage).map(|it| ByteSize::bytes(it.saturating_sub(cache.unwrap_or(0)))),
        memory_peak: memory.and_then(|it| it.max_usage).map(ByteSize::bytes),
        disk: None,
        processes: sample.pids_stats.as_ref().and_then(|it| it.current).and_then(|it| u32::try_from(it).ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_read_without_the_page_cache() {
        let sample = serde_json::json!({
            "cpu_stats": { "cpu_usage": { "total_usage": 1_500_000_000u64 } },
            "memory_stats": { "usage": 5000, "max_usage": 9000, "stats": { "total_inactive_file": 1000 } },
            "pids_stats": { "current": 7 },
        });
        let usage = read(&serde_json::from_value(sample).unwrap());
        assert_eq!(usage.cpu, Some(Duration::from_millis(1500)));
        assert_eq!(usage.memory, Some(ByteSize::bytes(4000)));
        assert_eq!(usage.memory_peak, Some(ByteSize::bytes(9000)));
        assert_eq!(usage.processes, Some(7));
        assert_eq!(read(&ContainerStatsResponse::default()), Usage::default());
    }
}
