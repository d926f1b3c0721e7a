//! The attack suite: what a hostile program may try in a sandbox and must not achieve, on any driver.
//!
//! Each [`Case`] has sandboxes made on the driver, runs a program in them that was written to break out, and judges by
//! what the host sees of it, a [`HostView`]; after every case nothing of its sandboxes may be left on the host.
//!
//! ```no_run
//! # async fn example(driver: astraforge_sandbox::driver::DynSandboxDriver) -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use astraforge_sandbox::{attack::{self, Attacker, Options, Target}, native::NativeView};
//!
//! let host = Arc::new(NativeView::new("/var/lib/astraforge/sandboxes"));
//! let target = Target::new(driver, host, Attacker::find(None)?);
//! let report = attack::run(&Arc::new(target), &Options::default(), |progress| println!("{progress}")).await;
//! assert!(report.holds());
//! # Ok(()) }
//! ```

use std::{panic::AssertUnwindSafe, pin::pin, sync::Arc, time::Duration};

use futures::FutureExt;
use tokio::time::{Instant, timeout};

mod attacker;
mod case;
mod cases;
mod footprint;
mod host;
mod plane;
mod progress;
mod report;
mod target;
mod transcript;

use self::case::{Judged, Stop};
#[cfg(feature = "native")]
pub(crate) use self::footprint::tree;
pub use self::{
    attacker::{Attacker, AttackerError},
    case::{Case, Group},
    cases::all,
    footprint::{Footprint, HostProcess},
    host::{ContainerView, HostView},
    plane::{MakePlane, SteppedClock},
    progress::Progress,
    report::{CaseReport, Outcome, Report},
    target::Target,
};

/// How much a case takes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scale {
    /// As much as shows that it holds, in a second or so.
    #[default]
    Quick,
    /// Ten gigabytes of output, ten thousand sandboxes.
    Full,
}

/// What is run, and how much of it.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// How much a case takes on.
    pub scale: Scale,
    /// Only cases whose id or group is named here; all when it is empty.
    pub only: Vec<String>,
}

impl Options {
    fn wants(&self, case: &Case) -> bool {
        self.only.is_empty() || self.only.iter().any(|it| it == case.id || it == case.group.name())
    }

    /// How long a case may take; one that takes longer hangs, and fails.
    const fn patience(&self) -> Duration {
        match self.scale {
            Scale::Quick => Duration::from_secs(180),
            Scale::Full => Duration::from_secs(3 * 60 * 60),
        }
    }
}

/// How often a case that is not judged yet is told of.
const NEWS: Duration = Duration::from_secs(10);

/// Runs the cases one after the other, and tells of each as it is judged and, while one takes long, how far it is.
///
/// # Cancel safety
/// Dropping the future leaves the sandboxes of the case that ran; they end by themselves as any that lose their server.
pub async fn run(target: &Arc<Target>, options: &Options, mut tell: impl FnMut(Progress<'_>)) -> Report {
    let mut report = Report::of(target);
    target.begin(options.scale).await;
    for case in all().filter(|it| options.wants(it)) {
        target.has_done(String::new());
        let judging = judge(target, case, options.patience());
        let goes_on = |elapsed| tell(Progress::Running { case, elapsed, done: &target.done() });
        let judged = telling(judging, goes_on).await;
        report.cases.push(CaseReport::new(case, judged));
        report.cases.last().map(Progress::Judged).map(&mut tell);
    }
    if let Err(left) = target.end().await {
        report.cases.push(CaseReport::left_over(left));
        report.cases.last().map(Progress::Judged).map(&mut tell);
    }
    report
}

/// Carries out one case, and clears up behind it; what is left over counts against it.
async fn judge(target: &Arc<Target>, case: &Case, patience: Duration) -> Judged {
    let run = AssertUnwindSafe((case.run)(target)).catch_unwind();
    let judged = match timeout(patience, run).await {
        Ok(Ok(judged)) => judged,
        Ok(Err(_)) => Err(Stop::trouble("the case panicked")),
        Err(_) => Err(Stop::Breach(format!("it hangs: not judged within {} s", patience.as_secs()))),
    };
    match (target.clear().await, judged) {
        (Ok(()), judged) => judged,
        (Err(left), Ok(_) | Err(Stop::Excused(_))) => Err(Stop::Breach(left)),
        (Err(left), Err(stop)) => Err(Stop::Breach(format!("{stop}; and then {left}"))),
    }
}

/// Waits for `work`, and tells every now and then for how long it has been going on.
async fn telling<T>(work: impl Future<Output = T>, mut goes_on: impl FnMut(Duration)) -> T {
    let start = Instant::now();
    let mut work = pin!(work);
    loop {
        match timeout(NEWS, &mut work).await {
            Ok(done) => return done,
            Err(_) => goes_on(start.elapsed()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_takes_long_is_told_of_until_it_ends() {
        let mut told = Vec::new();
        telling(tokio::time::sleep(NEWS * 7 / 2), |elapsed| told.push(elapsed)).await;
        assert_eq!(told.iter().map(Duration::as_secs).collect::<Vec<_>>(), [10, 20, 30]);
        told.clear();
        telling(tokio::time::sleep(NEWS / 2), |elapsed| told.push(elapsed)).await;
        assert!(told.is_empty(), "what ends soon needs no news: {told:?}");
    }
}
