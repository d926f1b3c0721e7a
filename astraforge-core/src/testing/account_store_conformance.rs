//! The rules that all stores of accounts keep, one function a rule.

#![expect(missing_docs, reason = "the name of a rule says what it is")]

use chrono::TimeDelta;
use futures::future::join_all;

use super::samples;
use crate::{
    access::Role,
    account::{Account, Login},
    id::{TenantId, UserId},
    identity::Subject,
    ports::account_store::AccountStore,
};

/// Makes one test of each rule that an [`AccountStore`] keeps. The argument is a future that makes a fresh store, with
/// what must live as long as it: `(guard, store)`. The tests run on Tokio.
#[macro_export]
macro_rules! account_store_conformance {
    ($fresh:expr) => {
        $crate::account_store_conformance! { @ $fresh;
            an_account_comes_back_as_it_was_added
            a_name_is_taken_once_whoever_asks
            lists_are_a_tenants_own_and_by_name
            what_may_change_changes_and_nothing_else
            somebody_at_a_provider_has_one_account_for_ever
            many_first_logins_of_one_make_one_account
            what_a_provider_tells_changes_and_nothing_else
            a_login_holds_until_it_expires_or_is_forgotten
            another_password_ends_logins_also_those_that_are_about_to_be
            somebody_who_may_not_log_in_is_logged_out_for_good
        }
    };
    (@ $fresh:expr; $($rule:ident)*) => { $(
        #[tokio::test]
        async fn $rule() {
            let (_guard, store) = $fresh.await;
            $crate::testing::account_store_conformance::$rule(&store).await;
        }
    )* };
}

fn account(name: &str) -> Account {
    Account {
        user: UserId::new(name),
        tenant: samples::tenant(),
        email: format!("{name}@example.org"),
        password_hash: "$argon2id$v=19$m=19456,t=2,p=1$salt$hash".to_owned(),
        role: Role::Reviewer,
        is_active: true,
        created_at: samples::now(),
    }
}

fn login(hash: &str, user: &str) -> Login {
    let (created_at, expires_at) = (samples::now(), samples::now() + TimeDelta::days(14));
    Login { hash: hash.to_owned(), user: UserId::new(user), created_at, expires_at }
}

pub async fn an_account_comes_back_as_it_was_added(store: &impl AccountStore) {
    let mira = account("Mira \"\u{fc}\"");
    assert!(store.add_account(&mira).await.unwrap());
    assert_eq!(store.account(&mira.user).await.unwrap(), Some(mira));
    assert_eq!(store.account(&UserId::new("mira \"\u{fc}\"")).await.unwrap(), None, "names differ by case");
}

pub async fn a_name_is_taken_once_whoever_asks(store: &impl AccountStore) {
    let first = account("mira");
    let other = Account { tenant: TenantId::new("other"), ..first.clone() };
    let added = join_all([&first, &other, &first].map(|it| store.add_account(it))).await;
    assert_eq!(added.into_iter().filter(|it| *it.as_ref().unwrap()).count(), 1);
}

pub async fn lists_are_a_tenants_own_and_by_name(store: &impl AccountStore) {
    for name in ["mira", "ada", "zoe"] {
        store.add_account(&account(name)).await.unwrap();
    }
    store.add_account(&Account { tenant: TenantId::new("other"), ..account("bob") }).await.unwrap();
    let listed = store.accounts(&samples::tenant()).await.unwrap();
    assert_eq!(listed.iter().map(|account| account.user.as_str()).collect::<Vec<_>>(), ["ada", "mira", "zoe"]);
}

pub async fn what_may_change_changes_and_nothing_else(store: &impl AccountStore) {
    store.add_account(&account("mira")).await.unwrap();
    let changed = Account {
        tenant: TenantId::new("other"),
        email: String::new(),
        password_hash: "another".to_owned(),
        role: Role::Admin,
        is_active: false,
        created_at: samples::now() + TimeDelta::days(1),
        ..account("mira")
    };
    assert!(store.change_account(&changed).await.unwrap());
    let kept = account("mira");
    let expected = Account { tenant: kept.tenant, created_at: kept.created_at, ..changed };
    assert_eq!(store.account(&expected.user).await.unwrap(), Some(expected));
    assert!(!store.change_account(&account("nobody")).await.unwrap());
}

fn subject(id: &str) -> Subject {
    Subject { issuer: "https://provider.example".to_owned(), id: id.to_owned() }
}

pub async fn somebody_at_a_provider_has_one_account_for_ever(store: &impl AccountStore) {
    let (mira, ada) = (Account { password_hash: String::new(), ..account("mira") }, account("ada"));
    store.add_account(&ada).await.unwrap();
    assert_eq!(store.account_of(&subject("1")).await.unwrap(), None);
    assert!(store.add_account_of(&subject("1"), &mira).await.unwrap());
    assert_eq!(store.account_of(&subject("1")).await.unwrap(), Some(mira.clone()));
    assert_eq!(store.account(&mira.user).await.unwrap(), Some(mira.clone()));
    let elsewhere = Subject { issuer: "https://other.example".to_owned(), ..subject("1") };
    assert_eq!(store.account_of(&elsewhere).await.unwrap(), None, "another provider's 1 is somebody else");
    for (subject, taken) in [(elsewhere, &mira), (subject("2"), &ada), (subject("1"), &account("zoe"))] {
        assert!(!store.add_account_of(&subject, taken).await.unwrap(), "{subject:?} {taken:?}");
    }
    assert_eq!(store.account_of(&subject("2")).await.unwrap(), None);
    assert_eq!(store.account(&UserId::new("zoe")).await.unwrap(), None, "all of it is added, or nothing");
    let promoted = Account { role: Role::Admin, ..mira };
    store.change_account(&promoted).await.unwrap();
    assert_eq!(store.account_of(&subject("1")).await.unwrap(), Some(promoted));
}

pub async fn many_first_logins_of_one_make_one_account(store: &impl AccountStore) {
    let names = ["mira", "mira", "mira m", "mira", "m"];
    let (subject, accounts) = (subject("1"), names.map(account));
    let added = join_all(accounts.iter().map(|account| store.add_account_of(&subject, account))).await;
    assert_eq!(added.into_iter().filter(|it| *it.as_ref().unwrap()).count(), 1);
    assert_eq!(store.accounts(&samples::tenant()).await.unwrap().len(), 1);
}

pub async fn what_a_provider_tells_changes_and_nothing_else(store: &impl AccountStore) {
    let mira = Account { is_active: false, ..account("mira") };
    for it in [&mira, &account("ada")] {
        store.add_account(it).await.unwrap();
    }
    store.refresh_account(&mira.user, "m@example.org", Role::Admin).await.unwrap();
    let told = Account { email: "m@example.org".to_owned(), role: Role::Admin, ..mira };
    assert_eq!(store.account(&told.user).await.unwrap(), Some(told), "nobody is let in by that");
    assert_eq!(store.account(&UserId::new("ada")).await.unwrap(), Some(account("ada")));
}

pub async fn a_login_holds_until_it_expires_or_is_forgotten(store: &impl AccountStore) {
    for name in ["mira", "ada"] {
        store.add_account(&account(name)).await.unwrap();
    }
    for (hash, user) in [("one", "mira"), ("two", "mira"), ("three", "ada")] {
        assert!(store.add_login(&login(hash, user), &account(user)).await.unwrap());
    }
    let at = |days| samples::now() + TimeDelta::days(days);
    let who = async |hash: &str, days| {
        store.logged_in(hash, at(days)).await.unwrap().map(|account| account.user.as_str().to_owned())
    };
    assert_eq!(who("one", 13).await.as_deref(), Some("mira"));
    assert_eq!(who("one", 14).await, None, "it has expired");
    assert_eq!(who("four", 0).await, None);
    store.remove_login("one").await.unwrap();
    assert_eq!((who("one", 0).await, who("two", 0).await.as_deref()), (None, Some("mira")));
    let later = Login { created_at: at(20), expires_at: at(34), ..login("five", "mira") };
    store.add_login(&later, &account("mira")).await.unwrap();
    assert_eq!(who("three", 0).await, None, "what has expired is forgotten when somebody logs in");
    assert_eq!(who("five", 33).await.as_deref(), Some("mira"));
}

pub async fn another_password_ends_logins_also_those_that_are_about_to_be(store: &impl AccountStore) {
    let (mira, ada) = (account("mira"), account("ada"));
    for it in [&mira, &ada] {
        store.add_account(it).await.unwrap();
        store.add_login(&login(it.user.as_str(), it.user.as_str()), it).await.unwrap();
    }
    let promoted = Account { role: Role::Admin, ..mira.clone() };
    store.change_account(&promoted).await.unwrap();
    assert!(store.logged_in("mira", samples::now()).await.unwrap().is_some_and(|it| it.role == Role::Admin));
    let changed = Account { password_hash: "another".to_owned(), ..promoted };
    store.change_account(&changed).await.unwrap();
    assert_eq!(store.logged_in("mira", samples::now()).await.unwrap(), None);
    assert!(store.logged_in("ada", samples::now()).await.unwrap().is_some());
    // Its password was checked before, and found right.
    assert!(!store.add_login(&login("late", "mira"), &mira).await.unwrap());
    assert_eq!(store.logged_in("late", samples::now()).await.unwrap(), None);
    assert!(store.add_login(&login("new", "mira"), &changed).await.unwrap());
}

pub async fn somebody_who_may_not_log_in_is_logged_out_for_good(store: &impl AccountStore) {
    let mira = account("mira");
    store.add_account(&mira).await.unwrap();
    store.add_login(&login("one", "mira"), &mira).await.unwrap();
    store.change_account(&Account { is_active: false, ..mira.clone() }).await.unwrap();
    assert!(!store.add_login(&login("two", "mira"), &mira).await.unwrap());
    store.change_account(&mira).await.unwrap();
    for hash in ["one", "two"] {
        assert_eq!(store.logged_in(hash, samples::now()).await.unwrap(), None, "{hash}");
    }
}
