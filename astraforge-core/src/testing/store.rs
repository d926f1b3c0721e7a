//! A store in memory.

use std::{
    fmt,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use chrono::{DateTime, DurationRound, TimeDelta, Utc};

use self::tables::Tables;
use super::pages::{Order, page as page_of};
use crate::{
    access::ApiKey,
    event::{NewEvent, RunEvent},
    id::{ApiKeyId, ChangeSetId, JobId, MergeRequestId, RepositoryLinkId, RequestId, RunId, TenantId},
    job::{Claim, Job, JobState, Limits, QueuedJob},
    merge_request::MergeRequest,
    page::{Page, Paged},
    ports::store::{Changes, LogEnd, LogState, RestingLog, Store, StoreError},
    repository::RepositoryLink,
    request::{Attachment, Message, Request, RequestState, approval::Approval, change_set::ChangeSet},
    run::{Run, Usage},
    run_log::LogArchive,
    schedule::Turn,
    testing::call_store::MemoryCallStore,
};

mod calls;
mod tables;

/// Keeps everything in memory, under the same rules as a store that lasts.
///
/// What belongs to a request is refused until the request is there; [`MemoryStore::holding`] puts one there.
///
/// ```
/// use astraforge_core::{
///     ports::store::Store,
///     testing::{MemoryStore, samples},
/// };
///
/// # futures::executor::block_on(async {
/// let request = samples::request();
/// let store = MemoryStore::holding([&request]);
/// let last_seq = store.append(vec![samples::log(request.id, "cloned")]).await?;
/// assert_eq!(store.events(request.id, 0, 10).await?.len() as u64, last_seq);
/// # Ok::<(), astraforge_core::ports::store::StoreError>(()) }).unwrap();
/// ```
#[derive(Debug, Default)]
pub struct MemoryStore {
    tables: Mutex<Tables>,
    calls: MemoryCallStore,
    refusal: Mutex<Option<Refusal>>,
    is_silent: AtomicBool,
    /// The sequence number of events that cannot be read; 0 when all can.
    damaged: AtomicU64,
    /// What becomes of the next call that archives events.
    breaks: Mutex<Option<Breaks>>,
}

/// When a connection breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breaks {
    /// Before anything is written.
    Before,
    /// When it is written, and before that is answered.
    After,
}

/// Commits that fail, as those of a store whose disk is full do.
struct Refusal {
    left: usize,
    which: Box<dyn Fn(&Changes) -> bool + Send>,
}

impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refusal").field("left", &self.left).finish_non_exhaustive()
    }
}

impl MemoryStore {
    /// A store that holds requests, each at version 1.
    ///
    /// # Panics
    /// When two of them have the same id.
    pub fn holding<'a>(requests: impl IntoIterator<Item = &'a Request>) -> Self {
        let mut tables = Tables::default();
        for request in requests {
            tables.commit(super::samples::submitted(request)).unwrap();
        }
        Self { tables: Mutex::new(tables), ..Self::default() }
    }

    /// Lets the next `times` commits that `which` picks fail; nothing of them is written.
    pub fn refuse(&self, times: usize, which: impl Fn(&Changes) -> bool + Send + 'static) {
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Refusal { left: times, which: Box::new(which) });
    }

    /// Lets what a worker asks while it is at work, for a renewal or whether its run is cancelled, wait for ever from now
    /// on, as when a database is cut off.
    pub fn falls_silent(&self) {
        self.is_silent.store(true, Ordering::SeqCst);
    }

    /// Has the event of this sequence number be unreadable in every log.
    pub fn damage(&self, seq: u64) {
        self.damaged.store(seq, Ordering::SeqCst);
    }

    /// Lets the next call that archives events fail.
    pub fn breaks_off(&self, when: Breaks) {
        *self.breaks.lock().unwrap_or_else(PoisonError::into_inner) = Some(when);
    }

    async fn answers(&self) {
        if self.is_silent.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }

    fn check_refusal(&self, changes: &Changes) -> Result<(), StoreError> {
        let mut refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        match refusal.as_mut() {
            Some(refusal) if refusal.left > 0 && (refusal.which)(changes) => {
                refusal.left -= 1;
                Err(StoreError::Backend { operation: "end a commit", source: "the disk is full".into() })
            }
            _ => Ok(()),
        }
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn commit(&self, changes: Changes) -> Result<u64, StoreError> {
        self.check_refusal(&changes)?;
        self.tables().commit(changes)
    }

    async fn request(&self, tenant: &TenantId, id: RequestId) -> Result<Option<Request>, StoreError> {
        Ok(self.tables().requests.iter().find(|r| r.id == id && r.tenant == *tenant).cloned())
    }

    async fn requests(&self, tenant: &TenantId) -> Result<Vec<Request>, StoreError> {
        let found = collect(&self.tables().requests, |r| r.tenant == *tenant);
        Ok(newest_first(found, |r| r.created_at))
    }

    async fn requests_page(
        &self,
        tenant: &TenantId,
        state: Option<RequestState>,
        page: Page,
    ) -> Result<Paged<Request>, StoreError> {
        let wanted = |r: &Request| r.tenant == *tenant && state.is_none_or(|state| r.state == state);
        Ok(page_of(&self.tables().requests, Order::Newest, page, wanted))
    }

    async fn messages(&self, request: RequestId) -> Result<Vec<Message>, StoreError> {
        let found = collect(&self.tables().messages, |m| m.request == request);
        Ok(oldest_first(found, |m| m.created_at))
    }

    async fn attachments(&self, request: RequestId) -> Result<Vec<Attachment>, StoreError> {
        Ok(collect(&self.tables().attachments, |a| a.request == request))
    }

    async fn run(&self, tenant: &TenantId, id: RunId) -> Result<Option<Run>, StoreError> {
        Ok(self.tables().runs.iter().find(|r| r.id == id && r.tenant == *tenant).cloned())
    }

    async fn runs_of(&self, request: RequestId) -> Result<Vec<Run>, StoreError> {
        let found = collect(&self.tables().runs, |r| r.request == request);
        Ok(oldest_first(found, |r| r.created_at))
    }

    async fn runs(&self, tenant: &TenantId) -> Result<Vec<Run>, StoreError> {
        let found = collect(&self.tables().runs, |r| r.tenant == *tenant);
        Ok(newest_first(found, |r| r.created_at))
    }

    async fn runs_page(
        &self,
        tenant: &TenantId,
        request: Option<RequestId>,
        page: Page,
    ) -> Result<Paged<Run>, StoreError> {
        let wanted = |r: &Run| r.tenant == *tenant && request.is_none_or(|request| r.request == request);
        Ok(page_of(&self.tables().runs, Order::Newest, page, wanted))
    }

    async fn cancel_requested(&self, run: RunId) -> Result<bool, StoreError> {
        self.answers().await;
        Ok(self.tables().runs.iter().any(|r| r.id == run && r.cancel_requested))
    }

    async fn add_usage(&self, run: RunId, usage: Usage) -> Result<(), StoreError> {
        if let Some(run) = self.tables().runs.iter_mut().find(|r| r.id == run) {
            run.usage += usage;
        }
        Ok(())
    }

    async fn change_set(&self, id: ChangeSetId) -> Result<Option<ChangeSet>, StoreError> {
        Ok(self.tables().change_sets.iter().find(|c| c.id == id).cloned())
    }

    async fn latest_change_set(&self, request: RequestId) -> Result<Option<ChangeSet>, StoreError> {
        Ok(self.tables().change_sets.iter().rfind(|c| c.request == request).cloned())
    }

    async fn approvals(&self, request: RequestId) -> Result<Vec<Approval>, StoreError> {
        let found = collect(&self.tables().approvals, |a| a.request == request);
        Ok(oldest_first(found, |a| a.created_at))
    }

    async fn merge_request(&self, tenant: &TenantId, id: MergeRequestId) -> Result<Option<MergeRequest>, StoreError> {
        Ok(self.tables().merge_requests.iter().find(|m| m.id == id && m.tenant == *tenant).cloned())
    }

    async fn merge_requests(&self, tenant: &TenantId) -> Result<Vec<MergeRequest>, StoreError> {
        let found = collect(&self.tables().merge_requests, |m| m.tenant == *tenant);
        Ok(newest_first(found, |m| m.created_at))
    }

    async fn merge_requests_page(
        &self,
        tenant: &TenantId,
        request: Option<RequestId>,
        page: Page,
    ) -> Result<Paged<MergeRequest>, StoreError> {
        let wanted = |m: &MergeRequest| m.tenant == *tenant && request.is_none_or(|request| m.request == request);
        Ok(page_of(&self.tables().merge_requests, Order::Newest, page, wanted))
    }

    async fn merge_request_of(&self, request: RequestId) -> Result<Option<MergeRequest>, StoreError> {
        let found = collect(&self.tables().merge_requests, |m| m.request == request);
        Ok(newest_first(found, |m| m.created_at).into_iter().next())
    }

    async fn append(&self, events: Vec<NewEvent>) -> Result<u64, StoreError> {
        self.commit(Changes { events, ..Changes::default() }).await
    }

    async fn events(&self, request: RequestId, after: u64, limit: u32) -> Result<Vec<RunEvent>, StoreError> {
        let tables = self.tables();
        let log = tables.logs.get(&request).map_or(&[][..], Vec::as_slice);
        let later = log.iter().filter(|event| event.seq > after);
        let events: Vec<RunEvent> = later.take(limit as usize).cloned().collect();
        let damaged = self.damaged.load(Ordering::SeqCst);
        if events.iter().any(|event| event.seq == damaged) {
            return Err(StoreError::Unreadable { operation: "read events", source: "the row is damaged".into() });
        }
        Ok(events)
    }

    async fn events_of_run(&self, run: RunId) -> Result<Vec<RunEvent>, StoreError> {
        let tables = self.tables();
        Ok(tables.logs.values().flatten().filter(|event| event.run_id == Some(run)).cloned().collect())
    }

    async fn last_event(&self, request: RequestId) -> Result<u64, StoreError> {
        Ok(self.tables().last_event(request))
    }

    async fn recent_logs(&self, since: DateTime<Utc>, limit: u32) -> Result<Vec<LogEnd>, StoreError> {
        let tables = self.tables();
        let at_work: Vec<RequestId> = tables.running_jobs().iter().map(|job| job.request).collect();
        let recent = collect(&tables.requests, |r| r.updated_at >= since || at_work.contains(&r.id));
        let recent = newest_first(recent, |r| r.updated_at).into_iter().take(limit as usize);
        Ok(recent.map(|r| LogEnd { request: r.id, last: tables.last_event(r.id) }).collect())
    }

    async fn log_states(&self, requests: &[RequestId]) -> Result<Vec<LogState>, StoreError> {
        let tables = self.tables();
        let found = requests.iter().filter(|id| tables.requests.iter().any(|request| request.id == **id));
        Ok(found.map(|id| tables.log_state(*id)).collect())
    }

    async fn logs_size(&self) -> Result<u64, StoreError> {
        let tables = self.tables();
        Ok(tables.logs.keys().map(|request| tables.log_size(*request)).sum())
    }

    async fn resting_logs(&self, limit: u32) -> Result<Vec<RestingLog>, StoreError> {
        let tables = self.tables();
        let resting = collect(&tables.requests, |r| tables.is_at_rest(r.id) && tables.log_size(r.id) > 0);
        let resting = oldest_first(resting, |r| r.updated_at).into_iter().take(limit as usize);
        Ok(resting.map(|r| RestingLog { request: r.id, since: r.updated_at, size: tables.log_size(r.id) }).collect())
    }

    async fn archives(&self, request: RequestId) -> Result<Vec<LogArchive>, StoreError> {
        Ok(collect(&self.tables().archives, |archive| archive.request == request))
    }

    async fn archive(&self, archive: &LogArchive) -> Result<bool, StoreError> {
        let cut_off = || StoreError::Backend { operation: "archive events", source: "the connection broke".into() };
        let breaks = self.breaks.lock().unwrap_or_else(PoisonError::into_inner).take();
        if breaks == Some(Breaks::Before) {
            return Err(cut_off());
        }
        let is_done = self.tables().archive(archive);
        if breaks == Some(Breaks::After) { Err(cut_off()) } else { Ok(is_done) }
    }

    async fn claim_job(
        &self,
        now: DateTime<Utc>,
        until: DateTime<Utc>,
        limits: Limits,
    ) -> Result<Option<Job>, StoreError> {
        Ok(self.tables().claim_job(now, until, limits))
    }

    async fn take_over_job(&self, now: DateTime<Utc>, until: DateTime<Utc>) -> Result<Option<Job>, StoreError> {
        Ok(self.tables().take_over_job(now, until))
    }

    async fn renew_lease(&self, claim: Claim, until: DateTime<Utc>) -> Result<bool, StoreError> {
        self.answers().await;
        Ok(self.tables().renew_lease(claim, until))
    }

    async fn running_jobs(&self) -> Result<Vec<Job>, StoreError> {
        Ok(self.tables().running_jobs())
    }

    async fn waiting_jobs(&self, request: RequestId) -> Result<Vec<Job>, StoreError> {
        Ok(self.tables().jobs_of(request, JobState::Waiting))
    }

    async fn dead_jobs(&self, request: RequestId) -> Result<Vec<Job>, StoreError> {
        Ok(self.tables().jobs_of(request, JobState::Dead))
    }

    async fn job(&self, id: JobId) -> Result<Option<QueuedJob>, StoreError> {
        Ok(self.tables().job(id))
    }

    async fn jobs(&self, state: JobState, limit: u32) -> Result<Vec<QueuedJob>, StoreError> {
        let mut jobs = self.tables().jobs_in(state);
        jobs.truncate(limit as usize);
        Ok(jobs)
    }

    async fn take_turn(
        &self,
        schedule: &str,
        now: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> Result<Option<Turn>, StoreError> {
        Ok(self.tables().take_turn(schedule, now, until))
    }

    async fn renew_turn(&self, turn: &Turn, until: DateTime<Utc>) -> Result<bool, StoreError> {
        self.answers().await;
        Ok(self.tables().held_turn(turn).map(|held| held.lease_until = Some(until)).is_some())
    }

    async fn end_turn(&self, turn: &Turn, due_at: DateTime<Utc>) -> Result<bool, StoreError> {
        let mut tables = self.tables();
        let ended = tables.held_turn(turn).map(|held| (held.due_at, held.lease_until) = (due_at, None));
        Ok(ended.is_some())
    }

    async fn add_link(&self, link: RepositoryLink) -> Result<(), StoreError> {
        let mut tables = self.tables();
        tables.check_link(&link, false)?;
        tables.links.push(link);
        Ok(())
    }

    async fn link(&self, tenant: &TenantId, id: RepositoryLinkId) -> Result<Option<RepositoryLink>, StoreError> {
        Ok(self.tables().links.iter().find(|l| l.id == id && l.tenant == *tenant).cloned())
    }

    async fn links(&self, tenant: &TenantId) -> Result<Vec<RepositoryLink>, StoreError> {
        let found = collect(&self.tables().links, |l| l.tenant == *tenant);
        Ok(oldest_first(found, |l| l.created_at))
    }

    async fn links_page(&self, tenant: &TenantId, page: Page) -> Result<Paged<RepositoryLink>, StoreError> {
        Ok(page_of(&self.tables().links, Order::Oldest, page, |l| l.tenant == *tenant))
    }

    async fn update_link(&self, link: RepositoryLink) -> Result<bool, StoreError> {
        let mut tables = self.tables();
        let Some(position) = tables.links.iter().position(|l| l.id == link.id && l.tenant == link.tenant) else {
            return Ok(false);
        };
        tables.check_link(&link, true)?;
        tables.links[position] = link;
        Ok(true)
    }

    async fn remove_link(&self, tenant: &TenantId, id: RepositoryLinkId) -> Result<bool, StoreError> {
        let mut tables = self.tables();
        let before = tables.links.len();
        tables.links.retain(|l| !(l.id == id && l.tenant == *tenant));
        Ok(tables.links.len() < before)
    }

    async fn add_api_key(&self, key: ApiKey) -> Result<(), StoreError> {
        let mut tables = self.tables();
        if tables.api_keys.iter().any(|k| k.id == key.id || k.hash == key.hash) {
            return Err(StoreError::AlreadyExists { what: format!("API key `{}`", key.id) });
        }
        tables.api_keys.push(key);
        Ok(())
    }

    async fn api_key_by_hash(&self, hash: &str) -> Result<Option<ApiKey>, StoreError> {
        Ok(self.tables().api_keys.iter().find(|k| k.is_active && k.hash == hash).cloned())
    }

    async fn api_keys(&self, tenant: &TenantId) -> Result<Vec<ApiKey>, StoreError> {
        let found = collect(&self.tables().api_keys, |k| k.tenant == *tenant);
        Ok(oldest_first(found, |k| k.created_at))
    }

    async fn api_keys_page(&self, tenant: &TenantId, page: Page) -> Result<Paged<ApiKey>, StoreError> {
        Ok(page_of(&self.tables().api_keys, Order::Newest, page, |k| k.tenant == *tenant))
    }

    async fn count_api_keys(&self) -> Result<u64, StoreError> {
        Ok(self.tables().api_keys.len() as u64)
    }

    async fn revoke_api_key(&self, tenant: &TenantId, id: ApiKeyId) -> Result<bool, StoreError> {
        let mut tables = self.tables();
        let found = tables.api_keys.iter_mut().find(|k| k.id == id && k.tenant == *tenant);
        Ok(found.map(|key| key.is_active = false).is_some())
    }

    async fn touch_api_key(&self, id: ApiKeyId, now: DateTime<Utc>) -> Result<bool, StoreError> {
        let minute = Some(now.duration_trunc(TimeDelta::minutes(1)).unwrap_or(now));
        let mut tables = self.tables();
        let key = tables.api_keys.iter_mut().find(|k| k.id == id && k.last_used_at != minute);
        Ok(key.map(|key| key.last_used_at = minute).is_some())
    }
}

fn collect<T: Clone>(rows: &[T], wanted: impl Fn(&T) -> bool) -> Vec<T> {
    rows.iter().filter(|row| wanted(row)).cloned().collect()
}

/// Sorts by time; of the same time, the one added first comes first.
fn oldest_first<T>(mut rows: Vec<T>, time: impl Fn(&T) -> DateTime<Utc>) -> Vec<T> {
    rows.sort_by_key(time);
    rows
}

/// Sorts by time; of the same time, the one added last comes first.
fn newest_first<T>(rows: Vec<T>, time: impl Fn(&T) -> DateTime<Utc>) -> Vec<T> {
    let mut rows = oldest_first(rows, time);
    rows.reverse();
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::store_conformance!(async { ((), MemoryStore::default()) });
}
