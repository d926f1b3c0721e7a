//! Counts tests by reading what the runners print.

use std::ops::AddAssign;

/// How many tests ran, and how they ended.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// Tests that a runner left out.
    pub(crate) skipped: u64,
}

impl Tally {
    /// Adds up every closing line of cargo-nextest and of the standard test harness in `output`.
    pub(crate) fn read(output: &str) -> Self {
        let mut total = Self::default();
        for line in output.lines() {
            let line = without_colours(line);
            if let Some(counts) = closing_line(&line) {
                total += Self {
                    passed: number_before(counts, &["passed"]),
                    failed: number_before(counts, &["failed", "exec", "timed"]),
                    skipped: number_before(counts, &["skipped", "ignored"]),
                };
            }
        }
        total
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// The part of a runner's closing line that holds the counts.
fn closing_line(line: &str) -> Option<&str> {
    let line = line.trim();
    // nextest: `Summary [   0.015s] 5/9 tests run: 4 passed (1 slow), 1 failed, 2 skipped`
    if let Some(rest) = line.strip_prefix("Summary [") {
        return rest.split_once("run:").map(|(_, counts)| counts);
    }
    // libtest: `test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; …`
    line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")).map(|(_, counts)| counts)
}

/// The sum of the numbers that stand directly before one of `words`, outside parentheses.
fn number_before(counts: &str, words: &[&str]) -> u64 {
    counts
        .split([',', ';'])
        .filter_map(|part| part.trim().split_once(' '))
        .filter(|(_, rest)| rest.split([' ', '(']).next().is_some_and(|word| words.contains(&word)))
        .filter_map(|(number, _)| number.parse::<u64>().ok())
        .sum()
}

/// `line` without terminal colour sequences.
fn without_colours(line: &str) -> String {
    let mut clean = String::with_capacity(line.len());
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' {
            characters.find(|c| c.is_ascii_alphabetic());
        } else {
            clean.push(character);
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[track_caller]
    fn check(output: &str, passed: u64, failed: u64, skipped: u64) {
        assert_eq!(Tally::read(output), Tally { passed, failed, skipped });
    }

    #[test]
    fn counts_come_from_closing_lines_alone() {
        check("     Summary [   0.015s] 4 tests run: 4 passed, 2 skipped", 4, 0, 2);
        check(
            "     Summary [   9.1s] 5/9 tests run: 3 passed (1 slow, 1 leaky), 1 failed, 1 timed out, 0 skipped",
            3,
            2,
            0,
        );
        check("     Summary [   9.1s] 2 tests run: 1 passed, 1 exec failed, 0 skipped", 1, 1, 0);
        check("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.00s", 3, 0, 1);
        check("test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out", 3, 2, 0);
        check(
            "\u{1b}[32;1m     Summary\u{1b}[0m [ 1s] \u{1b}[1m1\u{1b}[0m test run: \u{1b}[1m1\u{1b}[0m passed, 0 skipped",
            1,
            0,
            0,
        );
        check("a test prints: 17 passed, 3 failed", 0, 0, 0);
        check(
            "test result: ok. 1 passed; 0 failed; 0 ignored\ntest result: ok. 2 passed; 0 failed; 0 ignored",
            3,
            0,
            0,
        );
    }
}
