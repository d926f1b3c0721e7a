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
    /// What cargo-nextest counted. Only its own summary counts: it repeats the closing lines of tests that failed.
    pub(crate) fn of_nextest(output: &str) -> Self {
        // `Summary [   0.015s] 5/9 tests run: 4 passed (1 slow), 1 failed, 2 skipped`
        let mut summaries = output.lines().map(without_colours).filter(|line| line.trim().starts_with("Summary ["));
        let last = summaries.next_back().unwrap_or_default();
        last.split_once("run:").map(|(_, counts)| Self::of(counts)).unwrap_or_default()
    }

    /// What the standard test harness counted, all programs together.
    pub(crate) fn of_libtest(output: &str) -> Self {
        // `test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; …`
        let mut total = Self::default();
        for line in output.lines().map(without_colours) {
            if let Some((_, counts)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")) {
                total += Self::of(counts);
            }
        }
        total
    }

    fn of(counts: &str) -> Self {
        Self {
            passed: number_before(counts, &["passed"]),
            failed: number_before(counts, &["failed", "exec", "timed"]),
            skipped: number_before(counts, &["skipped", "ignored"]),
        }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
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
    fn check(counted: Tally, passed: u64, failed: u64, skipped: u64) {
        assert_eq!(counted, Tally { passed, failed, skipped });
    }

    #[test]
    fn nextest_counts_in_its_summary() {
        let read = Tally::of_nextest;
        check(read("     Summary [   0.015s] 4 tests run: 4 passed, 2 skipped"), 4, 0, 2);
        check(
            read(" Summary [ 9s] 5/9 tests run: 3 passed (1 slow, 1 leaky), 1 failed, 1 timed out, 0 skipped"),
            3,
            2,
            0,
        );
        check(read(" Summary [ 9s] 2 tests run: 1 passed, 1 exec failed, 0 skipped"), 1, 1, 0);
        check(
            read("\u{1b}[32;1m Summary\u{1b}[0m [ 1s] \u{1b}[1m1\u{1b}[0m test run: \u{1b}[1m1\u{1b}[0m passed"),
            1,
            0,
            0,
        );
        check(read("test result: FAILED. 0 passed; 1 failed\n Summary [ 1s] 2 tests run: 1 passed, 1 failed"), 1, 1, 0);
        check(read("error: could not compile"), 0, 0, 0);
    }

    #[test]
    fn the_standard_harness_counts_once_a_program() {
        let read = Tally::of_libtest;
        check(read("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 7 filtered out"), 3, 0, 1);
        check(read("test result: FAILED. 3 passed; 2 failed; 0 ignored\ntest result: ok. 2 passed; 0 failed"), 5, 2, 0);
        check(read("a test prints: 17 passed, 3 failed"), 0, 0, 0);
    }
}
