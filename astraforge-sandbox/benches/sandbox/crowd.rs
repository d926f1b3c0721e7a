//! Many sandboxes at once: how long a hundred take, and what one that does nothing costs.

use std::{fs, path::Path, time::Duration};

use astraforge_core::{id::SandboxId, ports::sessions::Sessions, session::SandboxSpec};
use astraforge_sandbox::sandboxes::Sandboxes;
use futures::{StreamExt, TryStreamExt, stream};

use crate::{
    creation::run_true,
    samples::{Failure, Section, timed},
};

const BURST: Section = Section { name: "burst", what: "create 100 at once, and run `true` in each" };
const MEMORY: Section = Section { name: "memory", what: "memory of one idle sandbox, on the average of all" };

pub(crate) async fn measure(sandboxes: &Sandboxes, state: &Path) -> Result<(), Failure> {
    let mut bursts = Vec::new();
    for _ in 0..3 {
        let burst = create(sandboxes, 100, 100);
        let (ids, took) = timed(burst).await?;
        bursts.push(took);
        destroy(sandboxes, ids).await?;
    }
    BURST.print("native", "Sandboxes::create + exec true, 100 times at once", &bursts);
    let mut ids = Vec::new();
    let before = available()?;
    for n in [10, 100, 1000] {
        let more = n - ids.len();
        ids.extend(create(sandboxes, more, 16).await?);
        tokio::time::sleep(Duration::from_secs(2)).await;
        let private: Vec<f64> = ids.iter().filter_map(|id| own(&state.join(id.to_string()))).collect();
        if private.len() < n {
            return Err(format!("{} of {n} sandboxes live", private.len()).into());
        }
        MEMORY.print_sizes(&format!("native, of {n}"), "proportional set size of launcher and guest", &private);
        let all = before.saturating_sub(available()?) as f64 / n as f64;
        MEMORY.print_sizes(&format!("machine, of {n}"), "MemAvailable before less after, a sandbox", &[all]);
    }
    destroy(sandboxes, ids).await
}

async fn create(sandboxes: &Sandboxes, n: usize, at_once: usize) -> Result<Vec<SandboxId>, Failure> {
    let one = |_| async {
        let id = SandboxId::random();
        let session = sandboxes.create(id, SandboxSpec::default(), Vec::new()).await?;
        run_true(&*session).await?;
        Ok::<_, Failure>(id)
    };
    stream::iter(0..n).map(one).buffer_unordered(at_once).try_collect().await
}

async fn destroy(sandboxes: &Sandboxes, ids: Vec<SandboxId>) -> Result<(), Failure> {
    let gone = stream::iter(ids).map(|id| sandboxes.destroy(id)).buffer_unordered(16);
    Ok(gone.try_collect::<Vec<()>>().await.map(drop)?)
}

/// What a sandbox's processes have of memory, each page shared out among those who share it.
fn own(folder: &Path) -> Option<f64> {
    let record: serde_json::Value = serde_json::from_slice(&fs::read(folder.join("record.json")).ok()?).ok()?;
    let sizes = ["keeper", "init"].map(|process| {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", record[process]["pid"])).ok()?;
        kilobytes(&rollup, "Pss:")
    });
    Some((sizes[0]? + sizes[1]?) as f64 * 1024.0)
}

fn available() -> Result<u64, Failure> {
    let table = fs::read_to_string("/proc/meminfo")?;
    Ok(kilobytes(&table, "MemAvailable:").ok_or("/proc/meminfo tells nothing")? * 1024)
}

fn kilobytes(table: &str, name: &str) -> Option<u64> {
    table.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}
