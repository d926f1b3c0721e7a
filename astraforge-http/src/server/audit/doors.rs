//! Entries of who came in, and of who did not.

use astraforge_core::{
    access::ApiKey,
    account::Account,
    audit::{Actor, Means, NewEntry},
    id::TenantId,
};
use axum::http::request::Parts;

use super::{
    super::{AppState, layers::CallId},
    calls::{call_id, operation_of},
};

/// What stands for all names that nobody has: what is typed there may be a password.
const UNKNOWN: &str = "";

/// Why somebody was not let in.
#[derive(Debug, Clone, Copy)]
pub(in crate::server) enum Refused {
    /// There is no such name with such a password.
    Wrong,
    /// There is, and they may not log in.
    Disabled,
    /// Too many passwords were wrong before.
    TooMany,
    /// Their identity provider sent them back without, or with nothing that proves it.
    AtProvider,
}

/// Somebody logged in, who may have added themselves just now.
pub(in crate::server) async fn came_in(state: &AppState, account: &Account, is_new: bool, call: CallId) {
    let action = if is_new { "user.registered" } else { "login.accepted" };
    let actor = Actor::user(&account.user, Means::Login);
    let entry = NewEntry::new(account.tenant.clone(), actor, action, account.user.as_str(), "done");
    state.forge().journal().note(entry.with("role", account.role.as_str()).in_call(call.0)).await;
}

/// Somebody could not log in; `account` is the one whose name they gave, if it is one.
pub(in crate::server) async fn stayed_out(state: &AppState, account: Option<&Account>, why: Refused, call: CallId) {
    let Some(audit) = state.forge().journal().audit() else { return };
    let name = account.map_or(UNKNOWN, |account| account.user.as_str());
    let tenant = account.map_or_else(|| audit.home().clone(), |account| account.tenant.clone());
    let outcome = match why {
        Refused::Wrong if account.is_none() => "unknown_name",
        Refused::Wrong => "wrong_password",
        Refused::Disabled => "disabled",
        Refused::TooMany => "too_many",
        Refused::AtProvider => "at_provider",
    };
    let entry = || NewEntry::new(tenant, Actor::nobody(), "", name, outcome).in_call(call.0);
    audit.note_some(name, "login.refused", entry).await;
}

/// A key was used for the first time in this minute.
pub(in crate::server) async fn key_was_used(state: &AppState, key: &ApiKey, parts: &Parts) {
    let actor = Actor::user(&key.user, Means::Key(key.id));
    let entry = NewEntry::new(key.tenant.clone(), actor, "key.used", key.id.to_string(), "done");
    state.forge().journal().note(entry.in_call(call_id(parts))).await;
}

/// A call brought a key that nobody has, or one that was revoked or has expired.
pub(in crate::server) async fn key_was_refused(state: &AppState, parts: &Parts) {
    nobody_came_in(state, parts, "key.refused", "unknown_key").await;
}

/// A call brought a token of an identity provider that opens nothing here.
pub(in crate::server) async fn token_was_refused(state: &AppState, parts: &Parts) {
    nobody_came_in(state, parts, "token.refused", "no_entry").await;
}

async fn nobody_came_in(state: &AppState, parts: &Parts, action: &'static str, outcome: &'static str) {
    let Some(audit) = state.forge().journal().audit() else { return };
    let home: TenantId = audit.home().clone();
    let subject = operation_of(parts).unwrap_or_default();
    let entry = || NewEntry::new(home, Actor::nobody(), "", subject, outcome).in_call(call_id(parts));
    audit.note_some(subject, action, entry).await;
}
