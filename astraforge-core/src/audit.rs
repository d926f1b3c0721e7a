//! The audit: what was done, by whom and with which outcome, kept so that nobody changes it unseen.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use self::{
    allowance::Allowance,
    chain::{AuditKey, Fault, Head, Mark, Verified, Verifier},
};
use crate::{
    access::Caller,
    error::chain,
    id::{ApiKeyId, TenantId, UserId},
    ports::{audit_log::AuditLog, clock::Clock, store::StoreError},
    redact::Redactor,
};

pub mod allowance;
pub mod chain;

/// How many entries are read at a time.
const AT_A_TIME: u32 = 1000;

/// Writes the audit, and reads it. Clones share everything.
///
/// Each tenant has a chain of entries of its own: every entry carries a hash of itself and of the one before it, made
/// with a key that the database does not hold.
///
/// ```
/// use std::sync::Arc;
///
/// use astraforge_core::{
///     audit::{Actor, Audit, Means, NewEntry, chain::AuditKey},
///     id::TenantId,
///     testing::{MemoryAuditLog, TestClock},
/// };
///
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let log = Arc::new(MemoryAuditLog::default());
/// let acme = TenantId::new("acme");
/// let audit = Audit::new(log, AuditKey::new([7; 32]), Arc::new(TestClock::new()), acme.clone());
/// let ada = Actor::new("ada", Means::CommandLine);
/// audit.note(NewEntry::new(acme.clone(), ada, "user.add", "mira", "done").with("role", "reviewer")).await;
/// let verified = audit.verify(&acme, None).await?.expect("nobody changed it");
/// assert_eq!(verified.n_entries, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Audit(Arc<Shared>);

struct Shared {
    log: Arc<dyn AuditLog>,
    key: AuditKey,
    clock: Arc<dyn Clock>,
    /// Whose administrators read what concerns no tenant.
    home: TenantId,
    redactor: Redactor,
    /// How much of what anybody can cause is written, by its action.
    allowances: Mutex<BTreeMap<&'static str, Allowance>>,
    n_lost: AtomicU64,
}

impl Audit {
    /// An audit in `log`. What concerns no tenant, such as a key that nobody has, goes to `home`.
    pub fn new(log: Arc<dyn AuditLog>, key: AuditKey, clock: Arc<dyn Clock>, home: TenantId) -> Self {
        Self::with_redactor(log, key, clock, home, Redactor::default())
    }

    /// The same, with secrets that `redactor` knows blanked in what is written.
    pub fn with_redactor(
        log: Arc<dyn AuditLog>,
        key: AuditKey,
        clock: Arc<dyn Clock>,
        home: TenantId,
        redactor: Redactor,
    ) -> Self {
        let (allowances, n_lost) = (Mutex::default(), AtomicU64::new(0));
        Self(Arc::new(Shared { log, key, clock, home, redactor, allowances, n_lost }))
    }

    /// The tenant that what concerns no tenant goes to.
    #[must_use]
    pub fn home(&self) -> &TenantId {
        &self.0.home
    }

    /// Writes an entry.
    ///
    /// # Errors
    /// Those of the log. Nothing was written then.
    pub async fn write(&self, entry: NewEntry) -> Result<Entry, StoreError> {
        let entry = entry.bounded(&self.0.redactor);
        self.0.log.add_entry(&self.0.key, &entry, self.0.clock.now()).await
    }

    /// Writes an entry about what has happened already. That it could not be written is counted, and told to the log of
    /// the program with all of the entry but its details.
    pub async fn note(&self, entry: NewEntry) {
        let NewEntry { tenant, actor, action, subject, outcome, call, .. } = entry.clone();
        if let Err(error) = self.write(entry).await {
            self.0.n_lost.fetch_add(1, Ordering::Relaxed);
            let (error, means) = (chain(&error), actor.means);
            tracing::error!(%tenant, user = %actor.user, %means, action, subject, outcome, call, error, "missing in the audit");
        }
    }

    /// Writes an entry about what anybody can cause as often as they like: of each action only so many a minute are
    /// written, and fewer of each `source`. The next one tells how many were left out, as `left_out`.
    pub async fn note_some(&self, source: &str, action: &'static str, entry: impl FnOnce() -> NewEntry) {
        let now = self.0.clock.now();
        let taken = {
            let mut allowances = self.0.allowances.lock().unwrap_or_else(PoisonError::into_inner);
            allowances.entry(action).or_default().take(source, now)
        };
        match taken {
            Some(0) => self.note(NewEntry { action: action.to_owned(), ..entry() }).await,
            Some(n) => self.note(NewEntry { action: action.to_owned(), ..entry() }.with("left_out", n)).await,
            None => {}
        }
    }

    /// How many entries could not be written since this process began.
    #[must_use]
    pub fn n_lost(&self) -> u64 {
        self.0.n_lost.load(Ordering::Relaxed)
    }

    /// Reads at most `limit` entries of a tenant that are older than sequence number `before`, the newest first.
    ///
    /// # Errors
    /// Those of the log.
    pub async fn newest(&self, tenant: &TenantId, before: Option<u64>, limit: u32) -> Result<Vec<Entry>, StoreError> {
        self.0.log.entries_before(tenant, before.unwrap_or(u64::MAX), limit).await
    }

    /// Reads some entries of a tenant after sequence number `after`, in order; none when there are no more.
    ///
    /// # Errors
    /// Those of the log.
    pub async fn after(&self, tenant: &TenantId, after: u64) -> Result<Vec<Entry>, StoreError> {
        self.0.log.entries_after(tenant, after, AT_A_TIME).await
    }

    /// Every tenant that has entries, or had some.
    ///
    /// # Errors
    /// Those of the log.
    pub async fn tenants(&self) -> Result<Vec<TenantId>, StoreError> {
        self.0.log.audited_tenants().await
    }

    /// Reads all entries of a tenant, and tells whether each is as it was written, and none is missing. With a mark that
    /// was kept elsewhere it also tells whether what it marks is still there.
    ///
    /// # Errors
    /// Those of the log.
    pub async fn verify(
        &self,
        tenant: &TenantId,
        expected: Option<&Mark>,
    ) -> Result<Result<Verified, Fault>, StoreError> {
        let mut verifier = Verifier::new(&self.0.key, tenant.clone(), expected.cloned());
        loop {
            let entries = self.0.log.entries_after(tenant, verifier.last(), AT_A_TIME).await?;
            if !entries.is_empty() {
                if let Err(fault) = entries.iter().try_for_each(|entry| verifier.take(entry)) {
                    return Ok(Err(fault));
                }
                continue;
            }
            // Read after the entries, so that it stands for all of them; others may have been written in between.
            let head = self.0.log.audit_head(tenant).await?;
            if head.as_ref().is_none_or(|head| head.seq <= verifier.last())
                || self.0.log.entries_after(tenant, verifier.last(), 1).await?.is_empty()
            {
                return Ok(verifier.end(head.as_ref()));
            }
        }
    }

    /// The end of a tenant's chain.
    ///
    /// # Errors
    /// Those of the log.
    pub async fn head(&self, tenant: &TenantId) -> Result<Option<Head>, StoreError> {
        self.0.log.audit_head(tenant).await
    }
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audit").field("log", &self.0.log).field("home", &self.0.home).finish_non_exhaustive()
    }
}

/// Who did something, and what showed that it was them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// The user's name; empty for nobody.
    pub user: String,
    /// What showed it.
    pub means: Means,
}

/// What showed who acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Means {
    /// An API key.
    Key(ApiKeyId),
    /// A browser that is logged in.
    Login,
    /// A token of an identity provider.
    Token,
    /// A command of this library, whose caller somebody else has made sure of.
    Command,
    /// A program on the machine itself.
    CommandLine,
    /// Nobody's doing but the server's own.
    Server,
    /// Nothing: whoever it was is not known.
    Nothing,
}

impl Actor {
    /// Whoever that is.
    pub fn new(user: impl Into<String>, means: Means) -> Self {
        Self { user: user.into(), means }
    }

    /// Somebody who sent a command.
    #[must_use]
    pub fn of(caller: &Caller) -> Self {
        Self::user(&caller.user, Means::Command)
    }

    /// A user whom `means` shows.
    #[must_use]
    pub fn user(user: &UserId, means: Means) -> Self {
        Self::new(user.as_str(), means)
    }

    /// The server itself.
    #[must_use]
    pub fn server() -> Self {
        Self::new("", Means::Server)
    }

    /// Somebody who is not known.
    #[must_use]
    pub fn nobody() -> Self {
        Self::new("", Means::Nothing)
    }
}

impl fmt::Display for Means {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(id) => write!(f, "key:{id}"),
            Self::Login => f.write_str("login"),
            Self::Token => f.write_str("token"),
            Self::Command => f.write_str("command"),
            Self::CommandLine => f.write_str("command_line"),
            Self::Server => f.write_str("server"),
            Self::Nothing => f.write_str("nothing"),
        }
    }
}

/// What is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEntry {
    /// Whose chain it goes to.
    pub tenant: TenantId,
    /// Who did it.
    pub actor: Actor,
    /// What was done, as a name with a dot that stays as it is: `api.approve_request`, `policy.decided`.
    pub action: String,
    /// What it was done to: an id or a name; empty for nothing in particular.
    pub subject: String,
    /// What came of it: a status of HTTP, a verdict, `done`.
    pub outcome: String,
    /// More of it, small and without secrets.
    pub details: Map<String, Value>,
    /// The id of the HTTP call; empty when there is none.
    pub call: String,
}

impl NewEntry {
    /// The most bytes of subject, actor, and other short texts.
    const LONGEST: usize = 300;
    /// The most bytes of all details.
    const MOST_DETAILS: usize = 4096;

    /// An entry without details.
    pub fn new(
        tenant: TenantId,
        actor: Actor,
        action: impl Into<String>,
        subject: impl Into<String>,
        outcome: impl Into<String>,
    ) -> Self {
        let (action, subject, outcome) = (action.into(), subject.into(), outcome.into());
        Self { tenant, actor, action, subject, outcome, details: Map::new(), call: String::new() }
    }

    /// The same with one more detail.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }

    /// The same as a part of an HTTP call.
    #[must_use]
    pub fn in_call(mut self, id: impl Into<String>) -> Self {
        self.call = id.into();
        self
    }

    /// The details as they are stored.
    #[must_use]
    pub fn details_text(&self) -> String {
        Value::Object(self.details.clone()).to_string()
    }

    /// The same, no larger than an entry may be, and without secrets that are known.
    fn bounded(mut self, redactor: &Redactor) -> Self {
        for text in [&mut self.actor.user, &mut self.action, &mut self.subject, &mut self.outcome, &mut self.call] {
            *text = redactor.redact(text);
            text.truncate(text.floor_char_boundary(Self::LONGEST));
        }
        let text = self.details_text();
        let clean = redactor.redact(&text);
        if clean.len() > Self::MOST_DETAILS {
            self.details = Map::from_iter([("bytes_left_out".to_owned(), Value::from(clean.len()))]);
        } else if clean != text {
            let unreadable = || Map::from_iter([("redacted".to_owned(), Value::Bool(true))]);
            self.details = serde_json::from_str(&clean).unwrap_or_else(|_| unreadable());
        }
        self
    }
}

/// An entry as it is stored: texts and numbers, so that a row that somebody changed can be read and told as changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Whose chain it is in.
    pub tenant: TenantId,
    /// Its place there, counted from 1.
    pub seq: u64,
    /// When it was written, to the microsecond.
    pub at: DateTime<Utc>,
    /// Who did it.
    pub user: String,
    /// What showed that it was them, as [`Means`] is written.
    pub means: String,
    /// What was done.
    pub action: String,
    /// What it was done to.
    pub subject: String,
    /// What came of it.
    pub outcome: String,
    /// More of it, in JSON.
    pub details: String,
    /// The id of the HTTP call; empty when there is none.
    pub call: String,
    /// The hash of all that and of the hash before it: 64 hexadecimal digits.
    pub hash: String,
}

#[cfg(test)]
mod tests;
