//! What is found of what somebody does to a chain, and that hashes stay what they are.

use chrono::TimeDelta;

use super::*;
use crate::{
    audit::{Actor, Means},
    testing::samples,
};

const KEY: AuditKey = AuditKey::new([7; 32]);

fn new(n: u64) -> NewEntry {
    let actor = Actor::new("ada", Means::Login);
    NewEntry::new(samples::tenant(), actor, "api.approve_request", format!("request {n}"), "202")
        .with("role", "reviewer")
        .in_call("trace-7")
}

/// Five entries and their end.
fn chain() -> (Vec<Entry>, Option<Head>) {
    let (mut entries, mut head) = (Vec::new(), None);
    for n in 1..=5 {
        let (entry, next) = KEY.next(head.as_ref(), &new(n), samples::at(0));
        entries.push(entry);
        head = Some(next);
    }
    (entries, head)
}

#[track_caller]
fn check(tamper: impl FnOnce(&mut Vec<Entry>, &mut Option<Head>), expected: Result<u64, Fault>) {
    let (mut entries, mut head) = chain();
    tamper(&mut entries, &mut head);
    let verified = verify(&KEY, &samples::tenant(), &entries, head.as_ref(), None);
    assert_eq!(verified.map(|it| it.n_entries), expected);
}

/// Made by another program, from the description of the chain in the record of this decision.
const FIRST: &str = "95618856b339f865cddaf830a74193e286e2ac87949be90399ae613d43c30fc8";
const FIFTH: &str = "2ea46f43972462547b2f2039b22220904a59f5d5fe275b735323e5ecb5f4e145";
const SEAL: &str = "cb28cb3ec19fabf31e118814c75029dcf4b9ee253eb86784adb5cc4d5d2ce702";
const DERIVED: &str = "6f59897cf8331d047c363d4de401bcde4058e21ad4719fc022b23f14061aa69e";

#[test]
fn hashes_are_the_same_for_ever() {
    let (entries, head) = chain();
    assert_eq!(entries[0].hash, FIRST);
    assert_eq!(entries[4].hash, FIFTH);
    assert_eq!(head.unwrap().seal, SEAL);
    let AuditKey(derived) = AuditKey::derived_from(&[1; 32]);
    assert_eq!(derived.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), DERIVED);
}

#[test]
fn a_chain_that_nobody_touched_holds() {
    check(|_, _| (), Ok(5));
}

#[test]
fn a_change_of_any_field_of_any_entry_is_found() {
    type Edit = fn(&mut Entry);
    let edits: [Edit; 10] = [
        |it| it.tenant = TenantId::new("other"),
        |it| it.at += TimeDelta::microseconds(1),
        |it| it.user.push('x'),
        |it| it.means = "key:1".to_owned(),
        |it| it.action.clear(),
        |it| it.subject.insert(0, ' '),
        |it| it.outcome = "409".to_owned(),
        |it| it.details = "{}".to_owned(),
        |it| it.call = "trace-8".to_owned(),
        |it| it.hash = "0".repeat(64),
    ];
    for (n, edit) in (0..5).flat_map(|n| edits.map(|edit| (n, edit))) {
        check(|entries, _| edit(&mut entries[n]), Err(Fault::Changed { seq: n as u64 + 1 }));
    }
    // What goes from one field into the next is another entry.
    check(
        |entries, _| (entries[2].user, entries[2].means) = ("adalogin".to_owned(), String::new()),
        Err(Fault::Changed { seq: 3 }),
    );
}

#[test]
fn entries_that_are_gone_moved_or_put_in_are_found() {
    check(|entries, _| drop(entries.remove(0)), Err(Fault::Missing { first: 1, last: 1 }));
    check(|entries, _| drop(entries.drain(1..3)), Err(Fault::Missing { first: 2, last: 3 }));
    check(|entries, _| drop(entries.pop()), Err(Fault::Missing { first: 5, last: 5 }));
    check(|entries, _| entries.clear(), Err(Fault::Missing { first: 1, last: 5 }));
    check(|entries, _| entries.swap(1, 2), Err(Fault::Missing { first: 2, last: 2 }));
    check(|entries, _| entries[3].seq = 2, Err(Fault::OutOfOrder { expected: 4, found: 2 }));
    check(|entries, _| entries[0].seq = 0, Err(Fault::OutOfOrder { expected: 1, found: 0 }));
    let exchange = |entries: &mut Vec<Entry>, _: &mut Option<Head>| {
        entries.swap(1, 3);
        (entries[1].seq, entries[3].seq) = (2, 4);
    };
    check(exchange, Err(Fault::Changed { seq: 2 }));
    let put_in = |entries: &mut Vec<Entry>, _: &mut Option<Head>| {
        entries.push(Entry { seq: 6, ..entries[4].clone() });
    };
    check(put_in, Err(Fault::Changed { seq: 6 }));
    // Whoever has the key of another installation.
    let forge = |entries: &mut Vec<Entry>, head: &mut Option<Head>| {
        let (entry, next) = AuditKey::new([8; 32]).next(head.as_ref(), &new(6), samples::at(0));
        entries.push(entry);
        *head = Some(next);
    };
    check(forge, Err(Fault::Changed { seq: 6 }));
}

#[test]
fn a_chain_cannot_be_cut_short_by_whoever_did_not_keep_its_end() {
    let cut = |entries: &mut Vec<Entry>, head: &mut Option<Head>| {
        entries.truncate(3);
        *head = head.clone().map(|head| Head { seq: 3, hash: entries[2].hash.clone(), ..head });
    };
    check(cut, Err(Fault::WrongHead { last: 3 }));
    check(|_, head| *head = None, Err(Fault::WrongHead { last: 5 }));
    check(|entries, head| (*entries, *head) = (vec![], None), Ok(0));
}

#[test]
fn a_server_that_writes_on_does_not_heal_what_was_cut() {
    let cut_and_go_on = |entries: &mut Vec<Entry>, head: &mut Option<Head>| {
        entries.truncate(3);
        let forged = Head { seq: 3, hash: entries[2].hash.clone(), seal: head.clone().unwrap().seal };
        let (entry, next) = KEY.next(Some(&forged), &new(4), samples::at(9));
        let (after, last) = KEY.next(Some(&next), &new(5), samples::at(9));
        entries.extend([entry, after]);
        *head = Some(last);
    };
    check(cut_and_go_on, Err(Fault::BrokenBefore { seq: 4 }));
}

#[test]
fn a_mark_that_was_kept_tells_of_a_chain_that_was_put_back_whole() {
    let (entries, head) = chain();
    let marked = |mark: Mark, entries: &[Entry], head: Option<&Head>| {
        verify(&KEY, &samples::tenant(), entries, head, Some(mark)).map(|it| it.n_entries)
    };
    let mark = head.as_ref().unwrap().mark();
    assert_eq!(marked(mark.clone(), &entries, head.as_ref()), Ok(5));
    let (_, earlier) = KEY.next(None, &new(1), samples::at(0));
    assert_eq!(marked(mark.clone(), &entries[..1], Some(&earlier)), Err(Fault::EndsBeforeMark { seq: 5, last: 1 }));
    assert_eq!(marked(mark.clone(), &[], None), Err(Fault::EndsBeforeMark { seq: 5, last: 0 }));
    let other = Mark { seq: 2, ..mark };
    assert_eq!(marked(other, &entries, head.as_ref()), Err(Fault::NotAsMarked { seq: 2 }));
}

#[test]
fn a_mark_survives_its_text_and_rubbish_is_none() {
    let mark = chain().1.unwrap().mark();
    assert_eq!(mark.to_string().parse(), Ok(mark.clone()));
    let hash = &mark.hash;
    for text in
        ["", "5", &format!("0:{hash}"), &format!("-1:{hash}"), &format!("5:{}", &hash[1..]), &format!("x:{hash}")]
    {
        assert!(text.parse::<Mark>().is_err(), "{text}");
    }
}
