//! Times what an installation does on PostgreSQL beside its baselines, and prints samples for `cargo xtask bench service`.
//!
//! Subject and baseline take turns, so that whatever else the machine does weighs on both. What is measured across
//! processes runs in processes of its own, which are this program again.
#![expect(clippy::print_stdout, reason = "the samples are its output")]

use self::samples::Failure;

mod dispatch;
mod forge;
mod log;
mod peer;
mod queue;
mod reads;
mod recovery;
mod samples;
mod watchers;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let url = std::env::var("DATABASE_URL").map_err(|_| "run it as `cargo xtask bench service`")?;
    let words: Vec<String> = std::env::args().collect();
    let follows = |name: &str| words.iter().position(|word| word == name).and_then(|at| words.get(at + 1)).cloned();
    if let Some(database) = follows("--serve") {
        return peer::serve(&database).await;
    }
    if let Some(database) = follows("--serve-bare") {
        return peer::serve_bare(&database).await;
    }
    if let Some(database) = follows("--work") {
        return recovery::work(&database).await;
    }
    let only: Vec<&String> = words.iter().skip(1).filter(|word| !word.starts_with("--")).collect();
    let chosen = |name: &str| only.is_empty() || only.iter().any(|word| *word == name);
    if chosen("queue") {
        queue::measure(&url).await?;
    }
    if chosen("log") {
        log::measure(&url).await?;
    }
    if chosen("dispatch") {
        dispatch::measure(&url).await?;
    }
    if chosen("reads") {
        reads::measure(&url).await?;
    }
    if chosen("watchers") {
        watchers::measure(&url).await?;
    }
    if chosen("recovery") {
        recovery::measure(&url).await?;
    }
    Ok(())
}
