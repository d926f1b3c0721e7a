//! Where the time of the demo goes, as the demo itself tells.

use std::process::Command;

use anyhow::Context as _;
use serde_json::{Map, Value};

use crate::process;
use crate::workspace::Workspace;

/// Runs the demo and prints its own account of its time.
pub(crate) fn run(workspace: &Workspace) -> anyhow::Result<()> {
    let mut demo = Command::new(std::env::current_exe()?);
    demo.args(["demo", "--yes", "--json"]).current_dir(&workspace.root);
    let output = process::read(&mut demo)?;
    let summary: Value = serde_json::from_str(output.lines().last().unwrap_or_default())
        .context("the demo's last line is not its summary")?;
    let timings = summary["timings_ms"].as_object().context("the demo told no timings")?;
    println!("\ndemo: from the prompt to the merge request (cargo xtask demo --yes --json)");
    for line in lines(timings) {
        println!("  {line}");
    }
    let overhead = overhead(timings).context("the demo told no time of the run")?;
    println!("  ours, beside Codex and the repository's tests: {overhead:.0} ms (debug build)");
    Ok(())
}

/// What a request takes from prompt to review, without Codex, the repository's tests, and the person who approves.
fn overhead(timings: &Map<String, Value>) -> Option<f64> {
    let time = |name: &str| timings.get(name).and_then(Value::as_f64);
    let whole = time("prompt_to_patch_ready")? + time("approval_to_reviewed")?;
    Some(whole - time("run.codex")? - time("run.test").unwrap_or_default())
}

fn lines(timings: &Map<String, Value>) -> Vec<String> {
    let known = timings.iter().filter_map(|(step, value)| Some((step, value.as_f64()?)));
    known.map(|(step, milliseconds)| format!("{step:<24} {milliseconds:>9.0} ms")).collect()
}
