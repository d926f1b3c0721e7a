//! Rules of schedules: of all who ask, one gets the turn.

use futures::future::join_all;

use crate::{ports::store::Store, schedule::Turn, testing::samples::at};

pub async fn a_schedule_is_due_at_first_and_then_when_its_turn_says(store: &impl Store) {
    let turn = take(store, 10).await.unwrap();
    assert_eq!(turn, Turn { schedule: "sweep".to_owned(), number: 1 });
    assert!(store.end_turn(&turn, at(50)).await.unwrap());
    assert!(!store.end_turn(&turn, at(11)).await.unwrap(), "it is over");
    assert_eq!(take(store, 49).await, None);
    assert_eq!(take(store, 50).await.unwrap().number, 2);
}

pub async fn of_many_who_ask_at_once_one_gets_the_turn(store: &impl Store) {
    for n in 1..=5 {
        let asked = join_all((0..10).map(|_| take(store, 10 * n))).await;
        let taken: Vec<Turn> = asked.into_iter().flatten().collect();
        assert_eq!(taken.len(), 1, "{taken:?}");
        assert!(store.end_turn(&taken[0], at(10 * (n + 1))).await.unwrap());
    }
}

pub async fn a_turn_whose_lease_ended_is_taken_over(store: &impl Store) {
    let lost = take(store, 10).await.unwrap();
    assert_eq!(take(store, 15).await, None, "the lease holds to its end");
    let turn = take(store, 16).await.unwrap();
    assert_eq!(turn.number, 2);
    assert!(!store.renew_turn(&lost, at(99)).await.unwrap());
    assert!(!store.end_turn(&lost, at(99)).await.unwrap());
    assert_eq!(take(store, 20).await, None, "what the lost one said changed nothing");
    assert!(store.end_turn(&turn, at(30)).await.unwrap());
    assert_eq!(take(store, 30).await.unwrap().number, 3);
}

pub async fn a_renewed_turn_is_held_and_a_lost_one_is_not_renewed(store: &impl Store) {
    let turn = take(store, 10).await.unwrap();
    assert!(store.renew_turn(&turn, at(40)).await.unwrap());
    assert_eq!(take(store, 40).await, None);
    assert!(store.end_turn(&turn, at(41)).await.unwrap());
    assert!(!store.renew_turn(&turn, at(99)).await.unwrap(), "it is over");
    assert!(take(store, 41).await.is_some());
    let unknown = Turn { schedule: "unheard of".to_owned(), number: 1 };
    assert!(!store.renew_turn(&unknown, at(99)).await.unwrap());
    assert!(!store.end_turn(&unknown, at(99)).await.unwrap());
}

pub async fn each_schedule_has_its_own_turns(store: &impl Store) {
    take(store, 10).await.unwrap();
    let other = store.take_turn("other", at(10), at(15)).await.unwrap().unwrap();
    assert_eq!(other.number, 1);
    assert!(store.end_turn(&other, at(11)).await.unwrap());
    assert_eq!(take(store, 12).await, None);
}

/// Asks for a turn on a lease of five seconds.
async fn take(store: &impl Store, seconds: i64) -> Option<Turn> {
    store.take_turn("sweep", at(seconds), at(seconds + 5)).await.unwrap()
}
