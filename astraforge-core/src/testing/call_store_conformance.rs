//! The rules that all stores of calls keep, one function a rule.

#![expect(missing_docs, reason = "the name of a rule says what it is")]

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use futures::future::join_all;

use super::samples::{self, at};
use crate::{
    access::Role,
    idempotency::{Answer, Attempt, Begun, CallName, Fingerprint, Outcome, REMEMBERED},
    ports::call_store::CallStore,
};

/// Makes one test of each rule that a [`CallStore`] keeps. The argument is a future that makes a fresh store, with what
/// must live as long as it: `(guard, store)`. The tests run on Tokio.
#[macro_export]
macro_rules! call_store_conformance {
    ($fresh:expr) => {
        $crate::call_store_conformance! { @ $fresh;
            a_call_is_carried_out_once_and_its_answer_comes_back_as_it_was
            an_answer_that_was_too_long_is_told
            of_many_who_ask_at_once_one_carries_it_out
            a_key_of_another_call_is_told_at_work_and_afterwards
            keys_are_their_callers_own
            a_lease_holds_to_its_end_and_another_attempt_makes_the_same
            a_renewed_attempt_is_held_and_a_lost_one_changes_nothing
            of_many_who_take_over_at_once_one_does
            an_attempt_that_came_to_nothing_can_be_followed_at_once
            a_call_is_remembered_for_its_time_and_its_key_is_free_then
            what_is_over_is_forgotten_so_many_at_a_time_and_nothing_that_is_at_work
        }
    };
    (@ $fresh:expr; $($rule:ident)*) => { $(
        #[tokio::test]
        async fn $rule() {
            let (_guard, store) = $fresh.await;
            $crate::testing::call_store_conformance::$rule(&store).await;
        }
    )* };
}

fn call(user: &str, role: Role, key: &str) -> CallName {
    CallName { caller: samples::caller(user, role), key: key.parse().unwrap() }
}

fn usual() -> CallName {
    call("ada", Role::Maintainer, "k-1")
}

fn print(body: &str) -> Fingerprint {
    Fingerprint::of("POST", "/api/requests/", body.as_bytes())
}

fn answer() -> Outcome {
    let headers = vec![("location".to_owned(), b"/x".to_vec()), ("set-cookie".to_owned(), b"\xff".to_vec())];
    Outcome::Answer(Answer { status: 201, headers, body: Bytes::from_static(b"\0one\ntwo") })
}

/// Asks for a call on a lease of five seconds.
async fn begin(store: &impl CallStore, call: &CallName, body: &str, now: DateTime<Utc>) -> Begun {
    store.begin_call(call, print(body), now, now + TimeDelta::seconds(5)).await.unwrap()
}

async fn attempt(store: &impl CallStore, call: &CallName, now: DateTime<Utc>) -> Attempt {
    match begin(store, call, "{}", now).await {
        Begun::Attempt(attempt) => attempt,
        other => panic!("{other:?}"),
    }
}

pub async fn a_call_is_carried_out_once_and_its_answer_comes_back_as_it_was(store: &impl CallStore) {
    let first = attempt(store, &usual(), at(0)).await;
    assert_eq!(first.call, usual());
    assert_eq!(begin(store, &usual(), "{}", at(1)).await, Begun::AtWork);
    assert!(store.end_call(&first, &answer(), at(2)).await.unwrap());
    for seconds in [2, 9, 80_000] {
        assert_eq!(begin(store, &usual(), "{}", at(seconds)).await, Begun::Over(answer()));
    }
    assert!(!store.end_call(&first, &Outcome::TooLong, at(3)).await.unwrap(), "it is over");
    assert!(!store.give_up_attempt(&first).await.unwrap(), "it is over");
    assert!(!store.renew_attempt(&first, at(99)).await.unwrap(), "it is over");
    assert_eq!(begin(store, &usual(), "{}", at(4)).await, Begun::Over(answer()));
}

pub async fn an_answer_that_was_too_long_is_told(store: &impl CallStore) {
    let first = attempt(store, &usual(), at(0)).await;
    assert!(store.end_call(&first, &Outcome::TooLong, at(1)).await.unwrap());
    assert_eq!(begin(store, &usual(), "{}", at(2)).await, Begun::Over(Outcome::TooLong));
}

pub async fn of_many_who_ask_at_once_one_carries_it_out(store: &impl CallStore) {
    for n in 0..5 {
        let call = call("ada", Role::Admin, &format!("k-{n}"));
        let begun = join_all((0..10).map(|_| begin(store, &call, "{}", at(n)))).await;
        let n_attempts = begun.iter().filter(|it| matches!(it, Begun::Attempt(_))).count();
        let n_waiting = begun.iter().filter(|it| **it == Begun::AtWork).count();
        assert_eq!((n_attempts, n_waiting), (1, 9), "{begun:?}");
    }
}

pub async fn a_key_of_another_call_is_told_at_work_and_afterwards(store: &impl CallStore) {
    let first = attempt(store, &usual(), at(0)).await;
    assert_eq!(begin(store, &usual(), "{ }", at(1)).await, Begun::OtherCall);
    assert_eq!(begin(store, &usual(), "{ }", at(60)).await, Begun::OtherCall, "its lease does not matter");
    store.end_call(&first, &answer(), at(61)).await.unwrap();
    assert_eq!(begin(store, &usual(), "{ }", at(62)).await, Begun::OtherCall);
    assert_eq!(begin(store, &usual(), "{}", at(62)).await, Begun::Over(answer()));
}

pub async fn keys_are_their_callers_own(store: &impl CallStore) {
    let first = attempt(store, &usual(), at(0)).await;
    store.end_call(&first, &answer(), at(1)).await.unwrap();
    let mut elsewhere = usual();
    elsewhere.caller.tenant = crate::id::TenantId::new("other");
    let others = [call("bob", Role::Maintainer, "k-1"), call("ada", Role::Observer, "k-1"), elsewhere];
    for other in others.into_iter().chain([call("ada", Role::Maintainer, "k-2")]) {
        let made = attempt(store, &other, at(2)).await;
        assert_ne!(made.makes, first.makes, "{other:?}");
    }
}

pub async fn a_lease_holds_to_its_end_and_another_attempt_makes_the_same(store: &impl CallStore) {
    let lost = attempt(store, &usual(), at(0)).await;
    assert_eq!(begin(store, &usual(), "{}", at(5)).await, Begun::AtWork);
    let next = attempt(store, &usual(), at(6)).await;
    assert_eq!(next.makes, lost.makes);
    assert_ne!(next.id, lost.id);
}

pub async fn a_renewed_attempt_is_held_and_a_lost_one_changes_nothing(store: &impl CallStore) {
    let lost = attempt(store, &usual(), at(0)).await;
    assert!(store.renew_attempt(&lost, at(40)).await.unwrap());
    assert_eq!(begin(store, &usual(), "{}", at(40)).await, Begun::AtWork);
    let next = attempt(store, &usual(), at(41)).await;
    assert!(!store.renew_attempt(&lost, at(99)).await.unwrap());
    assert!(!store.give_up_attempt(&lost).await.unwrap());
    assert!(!store.end_call(&lost, &Outcome::TooLong, at(42)).await.unwrap());
    assert_eq!(begin(store, &usual(), "{}", at(42)).await, Begun::AtWork);
    assert!(store.end_call(&next, &answer(), at(43)).await.unwrap());
    assert_eq!(begin(store, &usual(), "{}", at(44)).await, Begun::Over(answer()));
}

pub async fn of_many_who_take_over_at_once_one_does(store: &impl CallStore) {
    let mut made = vec![attempt(store, &usual(), at(0)).await.makes];
    let call = usual();
    for n in 1..=5 {
        let begun = join_all((0..10).map(|_| begin(store, &call, "{}", at(10 * n)))).await;
        let taken = begun.into_iter().filter_map(|it| if let Begun::Attempt(it) = it { Some(it.makes) } else { None });
        made.extend(taken);
        assert_eq!(made.len() as i64, n + 1);
    }
    assert!(made.iter().all(|id| *id == made[0]), "{made:?}");
}

pub async fn an_attempt_that_came_to_nothing_can_be_followed_at_once(store: &impl CallStore) {
    let first = attempt(store, &usual(), at(0)).await;
    assert!(store.give_up_attempt(&first).await.unwrap());
    assert_eq!(begin(store, &usual(), "{ }", at(1)).await, Begun::OtherCall, "the key stays the call's");
    let next = attempt(store, &usual(), at(1)).await;
    assert_eq!(next.makes, first.makes);
    assert!(!store.give_up_attempt(&first).await.unwrap(), "the call is another's now");
    assert_eq!(begin(store, &usual(), "{}", at(2)).await, Begun::AtWork);
}

pub async fn a_call_is_remembered_for_its_time_and_its_key_is_free_then(store: &impl CallStore) {
    let first = attempt(store, &usual(), at(0)).await;
    store.end_call(&first, &answer(), at(4)).await.unwrap();
    let end = at(4) + REMEMBERED;
    assert_eq!(begin(store, &usual(), "{}", end - TimeDelta::microseconds(1)).await, Begun::Over(answer()));
    let Begun::Attempt(next) = begin(store, &usual(), "another", end).await else { panic!("the key is not free") };
    assert_ne!(next.makes, first.makes);
    assert!(!store.end_call(&first, &answer(), end).await.unwrap(), "it is another call now");
    let later = end + TimeDelta::days(2);
    assert!(store.renew_attempt(&next, later).await.unwrap());
    assert_eq!(begin(store, &usual(), "another", later).await, Begun::AtWork, "however long it takes");
}

pub async fn what_is_over_is_forgotten_so_many_at_a_time_and_nothing_that_is_at_work(store: &impl CallStore) {
    for n in 0..5 {
        let ended = attempt(store, &call("ada", Role::Admin, &format!("ended-{n}")), at(n)).await;
        store.end_call(&ended, &answer(), at(n)).await.unwrap();
    }
    let given_up = attempt(store, &call("ada", Role::Admin, "given-up"), at(0)).await;
    store.give_up_attempt(&given_up).await.unwrap();
    let working = attempt(store, &usual(), at(0)).await;
    store.renew_attempt(&working, at(200_000)).await.unwrap();
    let end = at(2) + REMEMBERED;
    let forget = async |now, limit| store.forget_calls(now, limit).await.unwrap();
    assert_eq!([forget(end, 3).await, forget(end, 3).await, forget(end, 3).await], [3, 1, 0]);
    let (kept, gone) = (call("ada", Role::Admin, "ended-3"), call("ada", Role::Admin, "ended-2"));
    assert_eq!(begin(store, &kept, "{}", at(9)).await, Begun::Over(answer()));
    attempt(store, &gone, at(9)).await;
    assert_eq!(begin(store, &usual(), "{}", at(200_000)).await, Begun::AtWork);
    assert_eq!(forget(at(200_001), 9).await, 4, "a lease that ended holds nothing");
}
