//! The rows of a store in memory, and the rules of a commit.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashSet},
    fmt::Display,
    hash::Hash,
    num::NonZeroU32,
};

use chrono::{DateTime, Utc};

use crate::{
    access::ApiKey,
    event::{NewEvent, RunEvent},
    id::{JobId, RequestId, TenantId},
    job::{Claim, Job, JobState, Limits, QueuedJob},
    merge_request::MergeRequest,
    ports::store::{Changes, EndedJob, Expected, FailedJob, LogEnd, LogState, RequestChange, StoreError},
    repository::RepositoryLink,
    request::{Attachment, Message, Request, approval::Approval, change_set::ChangeSet},
    run::Run,
    run_log::LogArchive,
    schedule::Turn,
};

/// All rows, in the order in which they were added.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pub(super) requests: Vec<Request>,
    pub(super) messages: Vec<Message>,
    pub(super) attachments: Vec<Attachment>,
    pub(super) runs: Vec<Run>,
    pub(super) change_sets: Vec<ChangeSet>,
    pub(super) approvals: Vec<Approval>,
    pub(super) merge_requests: Vec<MergeRequest>,
    pub(super) logs: BTreeMap<RequestId, Vec<RunEvent>>,
    pub(super) archives: Vec<LogArchive>,
    pub(super) links: Vec<RepositoryLink>,
    pub(super) api_keys: Vec<ApiKey>,
    jobs: Vec<Held>,
    schedules: BTreeMap<String, Scheduled>,
}

/// A schedule: when it is due, how often it was begun, and until when somebody is at it.
#[derive(Debug)]
pub(super) struct Scheduled {
    pub(super) due_at: DateTime<Utc>,
    pub(super) lease_until: Option<DateTime<Utc>>,
    turn: u64,
}

/// A job, and until when it is held; without a state it is over.
#[derive(Debug)]
struct Held {
    job: Job,
    state: Option<JobState>,
    not_before: Option<DateTime<Utc>>,
    error: Option<String>,
    lease_until: DateTime<Utc>,
}

impl Held {
    fn begin(&mut self, until: DateTime<Utc>) -> Job {
        self.job.attempts += 1;
        self.state = Some(JobState::Running);
        self.lease_until = until;
        self.job.clone()
    }

    fn is(&self, state: JobState) -> bool {
        self.state == Some(state)
    }

    fn fail(&mut self, failed: FailedJob) {
        self.job.failures += 1;
        self.state = Some(if failed.not_before.is_some() { JobState::Waiting } else { JobState::Dead });
        self.not_before = failed.not_before;
        self.error = Some(failed.error);
    }

    fn hand_back(&mut self) {
        self.state = Some(JobState::Waiting);
        self.not_before = None;
    }

    fn revive(&mut self) {
        self.job.failures = 0;
        self.hand_back();
    }

    fn queued(&self) -> Option<QueuedJob> {
        let Self { job, not_before, error, .. } = self;
        let state = self.state?;
        Some(QueuedJob { job: job.clone(), state, not_before: *not_before, error: error.clone() })
    }
}

impl Tables {
    /// Checks everything, then changes everything: nothing fails in between.
    pub(super) fn commit(&mut self, changes: Changes) -> Result<u64, StoreError> {
        self.check_claim(changes.claim)?;
        self.check_seen(changes.seen_job)?;
        self.check_request(changes.request.as_ref())?;
        self.check_ids(&changes)?;
        self.check_owners(&changes)?;
        let log = changes.request.as_ref().map(|change| change.request.id);
        let log = log.or(changes.events.last().map(|event| event.request));
        self.apply(changes);
        Ok(log.map_or(0, |id| self.last_event(id)))
    }

    fn check_claim(&self, claim: Option<Claim>) -> Result<(), StoreError> {
        let Some(claim) = claim else { return Ok(()) };
        let holds = self.jobs.iter().any(|q| q.is(JobState::Running) && q.job.claim() == claim);
        if holds { Ok(()) } else { Err(StoreError::ClaimLost { job: claim.job }) }
    }

    fn check_seen(&self, seen: Option<(JobId, JobState)>) -> Result<(), StoreError> {
        let Some((job, state)) = seen else { return Ok(()) };
        let stands = self.jobs.iter().any(|q| q.job.id == job && q.is(state));
        if stands { Ok(()) } else { Err(StoreError::JobMoved { job, seen: state }) }
    }

    fn check_request(&self, change: Option<&RequestChange>) -> Result<(), StoreError> {
        let Some(RequestChange { request, expected }) = change else { return Ok(()) };
        let stored = self.requests.iter().find(|r| r.id == request.id);
        match (expected, stored) {
            (Expected::Absent, None) => Ok(()),
            (Expected::Absent, Some(_)) => Err(taken("request", request.id)),
            (Expected::Version(v), Some(s)) if s.version == *v && s.tenant == request.tenant => Ok(()),
            (Expected::Version(_), _) => Err(StoreError::Conflict { id: request.id }),
        }
    }

    fn check_ids(&self, changes: &Changes) -> Result<(), StoreError> {
        all_new("message", &self.messages, &changes.messages, |m| m.id)?;
        all_new("attachment", &self.attachments, &changes.attachments, |a| a.id)?;
        all_new("change set", &self.change_sets, changes.change_set.as_slice(), |c| c.id)?;
        all_new("approval", &self.approvals, changes.approval.as_slice(), |a| a.id)?;
        if let Some(job) = changes.new_jobs.iter().find(|job| self.jobs.iter().any(|q| q.job.id == job.id)) {
            return Err(taken("job", job.id));
        }
        all_new("job", &[], &changes.new_jobs, |j| j.id)?;
        for run in &changes.runs {
            let same = self.runs.iter().find(|r| r.id == run.id);
            if same.is_some_and(|r| (&r.tenant, r.request) != (&run.tenant, run.request)) {
                return Err(taken("run", run.id));
            }
        }
        let merge_request = changes.merge_request.as_ref();
        let same = merge_request.and_then(|new| self.merge_requests.iter().find(|m| m.id == new.id).zip(Some(new)));
        match same {
            Some((old, new)) if (&old.tenant, old.request) != (&new.tenant, new.request) => {
                Err(taken("merge request", new.id))
            }
            _ => Ok(()),
        }
    }

    fn check_owners(&self, changes: &Changes) -> Result<(), StoreError> {
        let added = changes.request.as_ref().map(|change| change.request.id);
        let mut owners = (changes.messages.iter().map(|m| m.request))
            .chain(changes.attachments.iter().map(|a| a.request))
            .chain(changes.runs.iter().map(|r| r.request))
            .chain(changes.change_set.iter().map(|c| c.request))
            .chain(changes.approval.iter().map(|a| a.request))
            .chain(changes.merge_request.iter().map(|m| m.request))
            .chain(changes.new_jobs.iter().map(|j| j.request))
            .chain(changes.events.iter().map(|e| e.request));
        match owners.find(|id| added != Some(*id) && self.requests.iter().all(|r| r.id != *id)) {
            None => Ok(()),
            Some(id) => Err(StoreError::Backend {
                operation: "write what belongs to a request",
                source: format!("there is no request `{id}`").into(),
            }),
        }
    }

    fn apply(&mut self, changes: Changes) {
        if let Some(RequestChange { mut request, .. }) = changes.request {
            let stored = self.requests.iter().find(|r| r.id == request.id);
            request.version = stored.map_or(0, |r| r.version) + 1;
            upsert(&mut self.requests, request, |r| r.id);
        }
        self.messages.extend(changes.messages);
        self.attachments.extend(changes.attachments);
        for mut run in changes.runs {
            if let Some(stored) = self.runs.iter().find(|r| r.id == run.id) {
                run.usage = stored.usage;
                run.cancel_requested |= stored.cancel_requested;
            }
            upsert(&mut self.runs, run, |r| r.id);
        }
        self.change_sets.extend(changes.change_set);
        self.approvals.extend(changes.approval);
        if let Some(merge_request) = changes.merge_request {
            upsert(&mut self.merge_requests, merge_request, |m| m.id);
        }
        let waiting = |job| {
            let state = Some(JobState::Waiting);
            Held { job, state, not_before: None, error: None, lease_until: DateTime::<Utc>::MIN_UTC }
        };
        self.jobs.extend(changes.new_jobs.into_iter().map(waiting));
        for EndedJob { id, error } in changes.ended_jobs {
            if let Some(held) = self.jobs.iter_mut().find(|held| held.job.id == id && held.state.is_some()) {
                (held.state, held.error) = (None, error);
            }
        }
        for id in changes.handed_back_jobs {
            let held = self.jobs.iter_mut().find(|held| held.job.id == id && held.is(JobState::Running));
            held.into_iter().for_each(Held::hand_back);
        }
        for failed in changes.failed_jobs {
            let held = self.jobs.iter_mut().find(|held| held.job.id == failed.id && held.is(JobState::Running));
            held.into_iter().for_each(|held| held.fail(failed.clone()));
        }
        for id in changes.revived_jobs {
            let revivable = |held: &&mut Held| held.is(JobState::Dead) || held.is(JobState::Waiting);
            self.jobs.iter_mut().filter(|held| held.job.id == id).find(revivable).into_iter().for_each(Held::revive);
        }
        changes.events.into_iter().for_each(|event| self.log(event));
    }

    pub(super) fn log_state(&self, request: RequestId) -> LogState {
        let mut runs = self.runs.iter().filter(|run| run.request == request).peekable();
        let has_run = runs.peek().is_some();
        let has_job = self
            .jobs
            .iter()
            .any(|held| held.job.request == request && (held.is(JobState::Waiting) || held.is(JobState::Running)));
        let may_grow = !has_run || has_job || runs.any(|run| !run.status.is_over());
        LogState { end: LogEnd { request, last: self.last_event(request) }, may_grow }
    }

    fn log(&mut self, event: NewEvent) {
        let NewEvent { request, run, kind, at } = event;
        let seq = self.last_event(request) + 1;
        self.logs.entry(request).or_default().push(RunEvent {
            seq,
            request_id: request,
            run_id: run,
            kind,
            created_at: at,
        });
    }

    pub(super) fn claim_job(&mut self, now: DateTime<Utc>, until: DateTime<Utc>, limits: Limits) -> Option<Job> {
        let running = self.running_jobs();
        let n_running = |tenant: &TenantId| running.iter().filter(|job| job.tenant == *tenant).count();
        let most = |limit: Option<NonZeroU32>| limit.map_or(usize::MAX, |most| most.get() as usize);
        if running.len() >= most(limits.in_all) {
            return None;
        }
        let mut passed: HashSet<RequestId> = running.iter().map(|job| job.request).collect();
        let mut waiting: Vec<&mut Held> = self.jobs.iter_mut().filter(|held| held.is(JobState::Waiting)).collect();
        waiting.sort_by_key(|held| held.job.created_at);
        // Of each request the oldest alone, and that when its time has come.
        waiting.retain(|held| passed.insert(held.job.request));
        waiting.retain(|held| held.not_before.is_none_or(|time| time <= now));
        waiting.retain(|held| n_running(&held.job.tenant) < most(limits.per_tenant));
        let turn = |held: &&mut Held| (n_running(&held.job.tenant), Reverse(held.job.kind.priority()));
        Some(waiting.into_iter().min_by_key(turn)?.begin(until))
    }

    pub(super) fn take_over_job(&mut self, now: DateTime<Utc>, until: DateTime<Utc>) -> Option<Job> {
        let left = self.jobs.iter_mut().filter(|held| held.is(JobState::Running) && held.lease_until < now);
        Some(left.min_by_key(|held| held.lease_until)?.begin(until))
    }

    pub(super) fn renew_lease(&mut self, claim: Claim, until: DateTime<Utc>) -> bool {
        let held = self.jobs.iter_mut().find(|held| held.is(JobState::Running) && held.job.claim() == claim);
        held.map(|held| held.lease_until = until).is_some()
    }

    pub(super) fn take_turn(&mut self, name: &str, now: DateTime<Utc>, until: DateTime<Utc>) -> Option<Turn> {
        let fresh = || Scheduled { due_at: now, lease_until: None, turn: 0 };
        let schedule = self.schedules.entry(name.to_owned()).or_insert_with(fresh);
        if schedule.due_at > now || schedule.lease_until.is_some_and(|until| until >= now) {
            return None;
        }
        schedule.turn += 1;
        schedule.lease_until = Some(until);
        Some(Turn { schedule: name.to_owned(), number: schedule.turn })
    }

    /// The schedule that somebody is at with this turn.
    pub(super) fn held_turn(&mut self, turn: &Turn) -> Option<&mut Scheduled> {
        let schedule = self.schedules.get_mut(&turn.schedule);
        schedule.filter(|schedule| schedule.turn == turn.number && schedule.lease_until.is_some())
    }

    pub(super) fn last_event(&self, request: RequestId) -> u64 {
        let archived = self.archives.iter().filter(|archive| archive.request == request).map(|archive| archive.last);
        self.logs.get(&request).and_then(|log| log.last()).map(|event| event.seq).or(archived.max()).unwrap_or(0)
    }

    pub(super) fn log_size(&self, request: RequestId) -> u64 {
        let size = |event: &RunEvent| serde_json::to_string(&event.kind).map_or(0, |text| text.len() as u64);
        self.logs.get(&request).map_or(0, |log| log.iter().map(size).sum())
    }

    pub(super) fn is_at_rest(&self, request: RequestId) -> bool {
        let is_at_rest = self.requests.iter().any(|r| r.id == request && r.state.is_at_rest());
        is_at_rest && !self.log_state(request).may_grow
    }

    pub(super) fn archive(&mut self, archive: &LogArchive) -> bool {
        let log = self.logs.get(&archive.request).map_or(&[][..], Vec::as_slice);
        let archived = log.iter().map(|event| event.seq).take_while(|seq| *seq <= archive.last);
        if !self.is_at_rest(archive.request) || !archived.eq(archive.first..=archive.last) {
            return false;
        }
        self.archives.push(archive.clone());
        self.logs.entry(archive.request).or_default().retain(|event| event.seq > archive.last);
        true
    }

    pub(super) fn running_jobs(&self) -> Vec<Job> {
        self.jobs_in(JobState::Running).into_iter().map(|queued| queued.job).collect()
    }

    pub(super) fn jobs_of(&self, request: RequestId, state: JobState) -> Vec<Job> {
        let jobs = self.jobs_in(state).into_iter().map(|queued| queued.job);
        jobs.filter(|job| job.request == request).collect()
    }

    pub(super) fn jobs_in(&self, state: JobState) -> Vec<QueuedJob> {
        let mut jobs: Vec<QueuedJob> =
            self.jobs.iter().filter(|held| held.is(state)).filter_map(Held::queued).collect();
        jobs.sort_by_key(|queued| queued.job.created_at);
        jobs
    }

    pub(super) fn job(&self, id: JobId) -> Option<QueuedJob> {
        self.jobs.iter().find(|held| held.job.id == id)?.queued()
    }

    /// Refuses a link whose id, or whose provider and repository, another one has.
    pub(super) fn check_link(&self, link: &RepositoryLink, replaces: bool) -> Result<(), StoreError> {
        let named = |l: &RepositoryLink| {
            (&l.tenant, &l.provider, &l.repository) == (&link.tenant, &link.provider, &link.repository)
        };
        let clash = self.links.iter().any(|l| if l.id == link.id { !replaces } else { named(l) });
        if clash {
            let what = format!("a link to `{}` of provider `{}`", link.repository, link.provider);
            return Err(StoreError::AlreadyExists { what });
        }
        Ok(())
    }
}

fn upsert<T, Id: PartialEq>(rows: &mut Vec<T>, row: T, id: impl Fn(&T) -> Id) {
    match rows.iter().position(|r| id(r) == id(&row)) {
        Some(position) => rows[position] = row,
        None => rows.push(row),
    }
}

fn all_new<T, Id: Eq + Hash + Display>(
    what: &str,
    rows: &[T],
    new: &[T],
    id: impl Fn(&T) -> Id,
) -> Result<(), StoreError> {
    let mut ids: HashSet<Id> = if new.is_empty() { HashSet::new() } else { rows.iter().map(&id).collect() };
    match new.iter().find(|row| !ids.insert(id(row))) {
        None => Ok(()),
        Some(row) => Err(taken(what, id(row))),
    }
}

fn taken(what: &str, id: impl Display) -> StoreError {
    StoreError::AlreadyExists { what: format!("{what} `{id}`") }
}
