//! What came of a run, for people and programs.

use std::fmt::{self, Write};

use serde::Serialize;

use super::{
    Case, Target,
    case::{Judged, Stop},
};
use crate::driver::IsolationTier;

/// What came of a run on one driver.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The driver's name.
    pub driver: String,
    /// How strongly it says it isolates.
    pub tier: IsolationTier,
    /// The cases, in order.
    pub cases: Vec<CaseReport>,
}

/// What came of one case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CaseReport {
    /// The case.
    pub id: String,
    /// What holds when it passes.
    pub title: String,
    /// How it ended.
    pub result: Outcome,
    /// What shows it, or what was achieved, or what excuses it.
    pub detail: String,
}

/// How a case ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Outcome {
    /// The attack came to nothing.
    #[serde(rename = "pass")]
    Pass,
    /// The attack achieved something, or could not be carried out.
    #[serde(rename = "fail")]
    Fail,
    /// The isolation tier, or a capability that the driver says it lacks, excuses it.
    #[serde(rename = "n/a")]
    NotApplicable,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pass => "pass",
            Self::Fail => "FAIL",
            Self::NotApplicable => "n/a",
        })
    }
}

impl CaseReport {
    pub(super) fn new(case: &Case, judged: Judged) -> Self {
        let (result, detail) = match judged {
            Ok(detail) => (Outcome::Pass, detail),
            Err(stop @ Stop::Excused(_)) => (Outcome::NotApplicable, stop.to_string()),
            Err(stop) => (Outcome::Fail, stop.to_string()),
        };
        Self { id: case.id.to_owned(), title: case.title.to_owned(), result, detail: short(&detail) }
    }

    /// What is still there when all sandboxes are gone.
    pub(super) fn left_over(detail: String) -> Self {
        let title = "nothing is left when all sandboxes are gone".to_owned();
        Self { id: "left-over".to_owned(), title, result: Outcome::Fail, detail }
    }
}

/// One line of a text table.
impl fmt::Display for CaseReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<4}  {:<26}  {}", self.result, self.id, self.title)?;
        if self.result != Outcome::Pass {
            write!(f, "\n      {:<26}  {}", "", self.detail)?;
        }
        Ok(())
    }
}

impl Report {
    pub(super) fn of(target: &Target) -> Self {
        Self { driver: target.driver().name().to_owned(), tier: target.tier(), cases: Vec::new() }
    }

    /// Tells whether no case failed, and at least one was carried out.
    #[must_use]
    pub fn holds(&self) -> bool {
        !self.cases.is_empty() && self.failed().next().is_none()
    }

    /// The cases that failed.
    pub fn failed(&self) -> impl Iterator<Item = &CaseReport> {
        self.cases.iter().filter(|it| it.result == Outcome::Fail)
    }

    /// One line that counts the cases.
    #[must_use]
    pub fn summary(&self) -> String {
        let count = |result| self.cases.iter().filter(|it| it.result == result).count();
        format!(
            "{} ({:?}): {} passed, {} failed, {} not applicable",
            self.driver,
            self.tier,
            count(Outcome::Pass),
            count(Outcome::Fail),
            count(Outcome::NotApplicable)
        )
    }

    /// The report as a Markdown table.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let mut text = format!("{}\n\n| case | result | what holds | detail |\n|---|---|---|---|\n", self.summary());
        for CaseReport { id, title, result, detail } in &self.cases {
            let detail = detail.replace('|', "\\|");
            // Writing to a string does not fail.
            let _ = writeln!(text, "| `{id}` | {result} | {title} | {detail} |");
        }
        text
    }
}

/// A detail in one line that fits a table; what an attacker wrote may hold anything.
fn short(text: &str) -> String {
    const MOST: usize = 400;
    let plain: String = text.chars().map(|it| if it.is_control() { ' ' } else { it }).collect();
    if plain.chars().count() <= MOST { plain } else { plain.chars().take(MOST).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(results: &[Outcome]) -> Report {
        let case = |result: &Outcome| CaseReport {
            id: "x".to_owned(),
            title: "it holds".to_owned(),
            result: *result,
            detail: "a|b".to_owned(),
        };
        Report { driver: "native".to_owned(), tier: IsolationTier::T1, cases: results.iter().map(case).collect() }
    }

    #[test]
    fn one_failure_is_enough_and_nothing_at_all_is_no_success() {
        assert!(report(&[Outcome::Pass, Outcome::NotApplicable]).holds());
        assert!(!report(&[Outcome::Pass, Outcome::Fail]).holds());
        assert!(!report(&[]).holds());
    }

    #[test]
    fn programs_read_the_words_of_the_contract() {
        let json = serde_json::to_value(report(&[Outcome::Pass, Outcome::Fail, Outcome::NotApplicable])).unwrap();
        let words: Vec<_> = json["cases"].as_array().unwrap().iter().map(|it| it["result"].as_str().unwrap()).collect();
        assert_eq!(words, ["pass", "fail", "n/a"]);
        assert_eq!((json["driver"].as_str(), json["tier"].as_str()), (Some("native"), Some("T1")));
    }

    #[test]
    fn what_an_attacker_wrote_stays_in_its_cell() {
        assert!(report(&[Outcome::Fail]).to_markdown().ends_with("| `x` | FAIL | it holds | a\\|b |\n"));
        assert_eq!(short("a\n\x1b[31mb"), "a  [31mb");
        assert_eq!(short(&"é".repeat(500)).chars().count(), 401);
    }
}
