//! When a job that failed is tried again, and when that is given up.

use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::Job;

/// How often a job fails before it is given up.
pub const MOST_FAILURES: u32 = 5;

/// The longest pause after the first failure; each later one is four times as long, up to five minutes.
const FIRST: Duration = Duration::from_secs(3);
const FACTOR: u32 = 4;
const LONGEST: Duration = Duration::from_secs(300);

/// How long to wait before a job is tried again that has just failed once more than `job.failures` tells; `None` when it
/// has failed often enough.
///
/// The pause lies between half of its length and all of it. Where is drawn from the request's id, so jobs that failed in the
/// same moment, because a host was away, do not all come back in the same moment.
///
/// ```
/// use astraforge_core::{
///     job::{Job, backoff},
///     testing::samples,
/// };
///
/// let job = samples::execute(&samples::run(&samples::request()));
/// assert!(backoff::pause_after(&job).is_some());
/// let failed = Job { failures: backoff::MOST_FAILURES - 1, ..job };
/// assert!(backoff::pause_after(&failed).is_none());
/// ```
#[must_use]
pub fn pause_after(job: &Job) -> Option<Duration> {
    if job.failures + 1 >= MOST_FAILURES {
        return None;
    }
    let longest = FIRST.saturating_mul(FACTOR.saturating_pow(job.failures)).min(LONGEST);
    Some(longest / 2 + (longest / 2).mul_f64(fraction(job)))
}

/// A number from 0 to 1 that differs from request to request, of which one job is tried at a time, and from failure to
/// failure.
fn fraction(job: &Job) -> f64 {
    let mut hasher = Sha256::new();
    hasher.update(job.request.as_uuid().as_bytes());
    hasher.update(job.failures.to_be_bytes());
    let hash = hasher.finalize();
    f64::from(u16::from_be_bytes([hash[0], hash[1]])) / f64::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::samples;

    fn job(failures: u32) -> Job {
        Job { failures, ..samples::execute(&samples::run(&samples::request())) }
    }

    #[test]
    fn pauses_grow_and_end() {
        for (failures, longest) in [(0, 3), (1, 12), (2, 48), (3, 192)] {
            let pause = pause_after(&job(failures)).unwrap();
            let longest = Duration::from_secs(longest);
            assert!((longest / 2..=longest).contains(&pause), "after failure {failures}: {pause:?}");
        }
        assert_eq!(pause_after(&job(4)), None);
        assert_eq!(pause_after(&job(u32::MAX - 1)), None);
    }

    #[test]
    fn jobs_that_fail_together_do_not_come_back_together() {
        let pauses: std::collections::HashSet<Duration> = (0..100).filter_map(|_| pause_after(&job(0))).collect();
        assert!(pauses.len() > 90, "{} different pauses", pauses.len());
    }
}
