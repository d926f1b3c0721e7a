//! The rules that all wake-ups keep, one function a rule.

#![expect(missing_docs, reason = "the name of a rule says what it is")]

use std::{
    thread,
    time::{Duration, Instant},
};

use futures::{FutureExt, StreamExt, stream::BoxStream};

use crate::{
    id::RequestId,
    ports::wakeup::{Topic, Wakeups},
};

/// Makes one test of each rule that [`Wakeups`] keep. The argument makes fresh ones.
///
/// ```
/// astraforge_core::wakeups_conformance!(astraforge_core::testing::MemoryWakeups::default());
/// ```
#[macro_export]
macro_rules! wakeups_conformance {
    ($fresh:expr) => {
        $crate::wakeups_conformance!(@ $fresh;
            a_watcher_is_woken
            every_watcher_of_a_topic_is_woken
            only_watchers_of_the_topic_are_woken
            many_hints_are_folded_into_one
            a_hint_before_the_watch_wakes_nobody
            a_watcher_is_woken_again_after_it_looked
            a_dropped_watcher_harms_nobody
            a_dropped_wait_loses_no_hint
        );
    };
    (@ $fresh:expr; $($rule:ident)*) => { $(
        #[test]
        fn $rule() {
            $crate::testing::wakeups_conformance::$rule(&$fresh);
        }
    )* };
}

pub fn a_watcher_is_woken(wakeups: &impl Wakeups) {
    let mut jobs = wakeups.watch(Topic::Jobs);
    assert!(!is_woken(&mut jobs));
    wakeups.wake(Topic::Jobs);
    assert!(is_woken(&mut jobs));
}

pub fn every_watcher_of_a_topic_is_woken(wakeups: &impl Wakeups) {
    let mut watchers: Vec<_> = (0..3).map(|_| wakeups.watch(Topic::Jobs)).collect();
    wakeups.wake(Topic::Jobs);
    assert!(watchers.iter_mut().all(is_woken));
}

pub fn only_watchers_of_the_topic_are_woken(wakeups: &impl Wakeups) {
    let [one, other] = [Topic::Log(RequestId::random()), Topic::Log(RequestId::random())];
    let (mut watcher, mut of_other) = (wakeups.watch(one), wakeups.watch(other));
    wakeups.wake(one);
    wakeups.wake(Topic::Jobs);
    assert!(is_woken(&mut watcher));
    assert!(!is_woken(&mut of_other));
}

pub fn many_hints_are_folded_into_one(wakeups: &impl Wakeups) {
    let mut jobs = wakeups.watch(Topic::Jobs);
    for _ in 0..1000 {
        wakeups.wake(Topic::Jobs);
    }
    assert!(is_woken(&mut jobs));
    assert!(!is_woken(&mut jobs));
}

pub fn a_hint_before_the_watch_wakes_nobody(wakeups: &impl Wakeups) {
    let _keeps_the_topic = wakeups.watch(Topic::Jobs);
    wakeups.wake(Topic::Jobs);
    assert!(!is_woken(&mut wakeups.watch(Topic::Jobs)));
}

pub fn a_watcher_is_woken_again_after_it_looked(wakeups: &impl Wakeups) {
    let mut jobs = wakeups.watch(Topic::Jobs);
    for _ in 0..3 {
        wakeups.wake(Topic::Jobs);
        assert!(is_woken(&mut jobs));
        assert!(!is_woken(&mut jobs));
    }
}

pub fn a_dropped_watcher_harms_nobody(wakeups: &impl Wakeups) {
    let mut stays = wakeups.watch(Topic::Jobs);
    drop(wakeups.watch(Topic::Jobs));
    wakeups.wake(Topic::Jobs);
    assert!(is_woken(&mut stays));
    drop(stays);
    wakeups.wake(Topic::Jobs);
    let mut comes = wakeups.watch(Topic::Jobs);
    wakeups.wake(Topic::Jobs);
    assert!(is_woken(&mut comes));
}

/// A reader that stopped waiting, because it looked by itself, still gets the hint that came meanwhile.
pub fn a_dropped_wait_loses_no_hint(wakeups: &impl Wakeups) {
    let mut jobs = wakeups.watch(Topic::Jobs);
    assert!(!is_woken(&mut jobs), "this wait was begun and dropped");
    wakeups.wake(Topic::Jobs);
    assert!(is_woken(&mut jobs));
}

/// Wake-ups of two processes as one, so that the rules can be asked of both together: what is told to the one is waited
/// for at the other.
#[derive(Debug)]
pub struct TwoProcesses<W> {
    /// Is told.
    pub teller: W,
    /// Is watched.
    pub reader: W,
}

impl<W: Wakeups> Wakeups for TwoProcesses<W> {
    /// Wakes, and returns when the hint has arrived.
    ///
    /// # Panics
    /// When it does not arrive within 20 s.
    fn wake(&self, topic: Topic) {
        self.teller.wake(topic);
        // What is told later arrives later, unless it travels together: then the first mark does, and the second does not.
        for _ in 0..2 {
            let mark = Topic::Log(RequestId::random());
            let mut watcher = self.reader.watch(mark);
            self.teller.wake(mark);
            let began = Instant::now();
            while !is_woken(&mut watcher) {
                assert!(began.elapsed() < Duration::from_secs(20), "a hint did not arrive");
                thread::sleep(Duration::from_micros(100));
            }
        }
    }

    fn watch(&self, topic: Topic) -> BoxStream<'static, ()> {
        self.reader.watch(topic)
    }
}

fn is_woken(watcher: &mut BoxStream<'static, ()>) -> bool {
    match watcher.next().now_or_never() {
        Some(Some(())) => true,
        None => false,
        Some(None) => panic!("the stream of hints ended"),
    }
}
