//! What is told of a run while it goes on.

use std::{fmt, time::Duration};

use super::{Case, CaseReport};

/// How far a run is.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Progress<'a> {
    /// A case takes long, and is not judged yet.
    Running {
        /// The case.
        case: &'a Case,
        /// How long it has been going on.
        elapsed: Duration,
        /// What it has done so far; empty where it counts nothing.
        done: &'a str,
    },
    /// A case is judged.
    Judged(&'a CaseReport),
}

impl fmt::Display for Progress<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running { case, elapsed, done } => {
                write!(f, "...   {:<26}  for {} s", case.id, elapsed.as_secs())?;
                if done.is_empty() { Ok(()) } else { write!(f, ": {done}") }
            }
            Self::Judged(case) => case.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_that_goes_on_says_for_how_long_and_what_it_has_done() {
        let case = crate::attack::all().find(|it| it.id == "flat").unwrap();
        let told = |done| Progress::Running { case, elapsed: Duration::from_millis(40_500), done }.to_string();
        assert_eq!(told("800 of 10000 rounds"), "...   flat                        for 40 s: 800 of 10000 rounds");
        assert_eq!(told(""), "...   flat                        for 40 s");
    }
}
