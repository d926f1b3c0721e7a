//! What a person and a machine read: one line a stage, the table, and the closing line.

use std::io::IsTerminal as _;
use std::time::Duration;

use super::Verdict;
use super::stages::Stage;
use super::tally::Tally;

/// How one stage ended.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) took: Duration,
    pub(crate) tally: Tally,
    pub(crate) result: anyhow::Result<Verdict>,
}

/// How all stages so far ended.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

impl Report {
    pub(crate) fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Whether the stage `name` ran and failed.
    pub(crate) fn has_failed(&self, name: &str) -> bool {
        self.rows.iter().any(|row| row.name == name && row.result.is_err())
    }

    /// Whether nothing failed, nor, when `all` must run, was skipped.
    pub(crate) fn is_good(&self, all: bool) -> bool {
        self.rows.iter().all(|row| match &row.result {
            Ok(Verdict::Skipped(_)) => !all,
            Ok(_) => true,
            Err(_) => false,
        })
    }

    /// Prints the table, and as the last line the totals of the tests alone.
    pub(crate) fn print(&self, took: Duration, budget: Duration, all: bool) {
        println!("\n{:<10} {:>8}  {:<8} tests", "stage", "time", "outcome");
        for row in &self.rows {
            println!("{}", table_line(row));
        }
        let budget_word = if took <= budget { "within" } else { "OVER" };
        println!("\ntook {}, {budget_word} the budget of {} for a warm target folder", seconds(took), seconds(budget));
        if all && self.rows.iter().any(|row| matches!(row.result, Ok(Verdict::Skipped(_)))) {
            println!("with --all a skipped stage is a failure");
        }
        println!("{}", closing_line(&self.rows));
    }
}

/// Prints what `--list` shows.
pub(crate) fn print_list(stages: &[Stage]) {
    for stage in stages {
        let soak = if stage.soak { " (only with --soak)" } else { "" };
        println!("{:<10} {}{soak}", stage.name, stage.purpose);
    }
}

/// Announces a stage, so that a person knows what the machine is busy with.
pub(crate) fn print_start(stage: &Stage) {
    println!("\n{} {}: {}", coloured("1", "──"), coloured("1", stage.name), stage.purpose);
}

/// Prints how a stage ended, with the whole cause when it failed.
pub(crate) fn print_outcome(row: &Row) {
    let took = seconds(row.took);
    match &row.result {
        Ok(Verdict::Passed) => println!("{} {} {took}", coloured("32", "✓"), row.name),
        Ok(Verdict::PassedWith(note)) => println!("{} {} {took} ({note})", coloured("32", "✓"), row.name),
        Ok(Verdict::Skipped(why)) => println!("{} {} skipped: {why}", coloured("33", "–"), row.name),
        Err(error) => println!("{} {} {took}: {error:#}", coloured("31", "✗"), row.name),
    }
}

fn table_line(row: &Row) -> String {
    let (outcome, note) = match &row.result {
        Ok(Verdict::Passed) => ("passed", String::new()),
        Ok(Verdict::PassedWith(note)) => ("passed", note.clone()),
        Ok(Verdict::Skipped(why)) => ("skipped", why.clone()),
        Err(error) => ("FAILED", format!("{error:#}")),
    };
    let tests = match row.tally {
        Tally { passed: 0, failed: 0, .. } => String::new(),
        Tally { passed, failed: 0, .. } => format!("{passed} passed"),
        Tally { passed, failed, .. } => format!("{passed} passed, {failed} failed"),
    };
    let note = short(&note);
    let line = format!("{:<10} {:>8}  {outcome:<8} {tests:<12} {note}", row.name, seconds(row.took));
    line.trim_end().to_owned()
}

/// The last line: tests, as their runners counted them, not stages.
fn closing_line(rows: &[Row]) -> String {
    let mut total = Tally::default();
    for row in rows {
        total += row.tally;
    }
    format!("{} passed, {} failed, {} skipped", total.passed, total.failed, total.skipped)
}

/// The beginning of the first line; the whole was printed when the stage ended.
fn short(text: &str) -> String {
    const WIDTH: usize = 90;
    let line = text.lines().next().unwrap_or_default();
    let mut beginning: String = line.chars().take(WIDTH).collect();
    if beginning.len() < text.len() {
        beginning.push('…');
    }
    beginning
}

fn seconds(duration: Duration) -> String {
    match duration.as_secs() {
        0..60 => format!("{:.1} s", duration.as_secs_f64()),
        whole => format!("{} m {:02} s", whole / 60, whole % 60),
    }
}

/// `text` in a colour, when a person is watching and has not declined colours.
fn coloured(code: &str, text: &str) -> String {
    if std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::{Report, Row, closing_line};
    use crate::checks::Verdict;
    use crate::checks::tally::Tally;
    use std::time::Duration;

    fn row(name: &'static str, passed: u64, failed: u64, result: anyhow::Result<Verdict>) -> Row {
        Row { name, took: Duration::from_secs(1), tally: Tally { passed, failed, skipped: 0 }, result }
    }

    #[test]
    fn the_closing_line_adds_up_tests() {
        let rows = [row("tests", 40, 1, Ok(Verdict::Passed)), row("doctests", 2, 0, Ok(Verdict::Passed))];
        assert_eq!(closing_line(&rows), "42 passed, 1 failed, 0 skipped");
    }

    #[test]
    fn a_skip_is_a_failure_only_when_all_must_run() {
        let mut report = Report::default();
        report.add(row("fmt", 0, 0, Ok(Verdict::Passed)));
        assert!(report.is_good(true));
        report.add(row("deny", 0, 0, Ok(Verdict::Skipped("no pip".into()))));
        assert!(report.is_good(false));
        assert!(!report.is_good(true));
    }

    #[test]
    fn a_failed_stage_is_remembered() {
        let mut report = Report::default();
        report.add(row("guest", 0, 0, Err(anyhow::anyhow!("no compiler"))));
        assert!(report.has_failed("guest"));
        assert!(!report.has_failed("fmt"));
        assert!(!report.is_good(false));
    }
}
