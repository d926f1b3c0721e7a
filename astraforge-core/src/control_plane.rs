//! The control plane of sandboxes: they are asked for, used, stopped, brought back and ended, and lose no files.
//!
//! What is remembered of a sandbox is a row; what it runs on is a machine of one driver. Rows are changed by comparing
//! versions, so several control planes may share one store: of all that want a sandbox to come back, one brings it back.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use chrono::TimeDelta;
use futures::future::{self, Either};

use crate::{
    access::{Action, Caller},
    egress::Egress,
    error::ForgeError,
    files::{FileReply, FileRequest, FileVerb, Roots},
    id::{SandboxId, SnapshotId},
    ports::{
        artifacts::ArtifactStore,
        clock::Clock,
        machines::{Machine, Machines, Usage, WorkspaceOrigin},
        sandbox_store::SandboxStore,
        sessions::SessionError,
    },
    sandbox::{Lifetime, Sandbox, SandboxStatus, Termination},
    session::SandboxSpec,
};

mod reaper;
mod snapshots;
mod transfer;

pub use self::{reaper::Reaped, snapshots::NewSnapshot};

/// How often whoever starts a sandbox gives a sign of life.
const SIGN_OF_LIFE: Duration = Duration::from_secs(2);
/// How long it may give none before whoever wants the sandbox starts it anew.
const ABANDONED: TimeDelta = TimeDelta::seconds(20);
/// How often somebody who waits for a sandbox looks at it.
const LOOK: Duration = Duration::from_millis(50);

/// Carries out everything that is done with durable sandboxes; clones share it.
///
/// ```
/// use std::sync::Arc;
/// use astraforge_core::{
///     access::Role,
///     control_plane::{ControlPlane, NewSandbox},
///     testing::{MemoryArtifacts, MemorySandboxStore, PlayedMachines, TestClock, samples},
/// };
///
/// # futures::executor::block_on(async {
/// // A real program brings drivers, a database and a folder.
/// let plane = ControlPlane::new(
///     Arc::new(MemorySandboxStore::default()),
///     Arc::new(MemoryArtifacts::default()),
///     Arc::new(TestClock::new()),
///     vec![Arc::new(PlayedMachines::default())],
/// );
/// let caller = samples::caller("ada", Role::Maintainer);
/// let made = plane.create(&caller, NewSandbox::default()).await?;
/// plane.stop(&caller, made.sandbox.id).await?;
/// // It comes back, with its files, when it is used.
/// let machine = plane.machine(&caller, made.sandbox.id).await?;
/// assert_eq!(machine.id(), made.sandbox.id);
/// # Ok::<(), astraforge_core::error::ForgeError>(()) }).unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct ControlPlane {
    store: Arc<dyn SandboxStore>,
    artifacts: Arc<dyn ArtifactStore>,
    clock: Arc<dyn Clock>,
    machines: Arc<BTreeMap<String, Arc<dyn Machines>>>,
    default_mode: String,
    turns: Arc<Turns>,
}

/// What a new sandbox is to be.
#[derive(Debug, Clone, Default)]
pub struct NewSandbox {
    /// The id, when the caller chose one: the same id is the same sandbox.
    pub id: Option<SandboxId>,
    /// The driver, by name; `None` is the default one.
    pub mode: Option<String>,
    /// What it is to be.
    pub spec: SandboxSpec,
    /// When it is ended by itself.
    pub lifetime: Lifetime,
    /// The snapshot whose files it begins with.
    pub restore: Option<SnapshotId>,
}

/// A sandbox that was asked for.
#[derive(Debug, Clone)]
pub struct Created {
    /// The sandbox.
    pub sandbox: Sandbox,
    /// Whether it is a new one.
    pub is_new: bool,
}

impl ControlPlane {
    /// A control plane over those drivers; the first is the default.
    #[must_use]
    pub fn new(
        store: Arc<dyn SandboxStore>,
        artifacts: Arc<dyn ArtifactStore>,
        clock: Arc<dyn Clock>,
        drivers: Vec<Arc<dyn Machines>>,
    ) -> Self {
        let default_mode = drivers.first().map(|driver| driver.mode().to_owned()).unwrap_or_default();
        let machines = drivers.into_iter().map(|driver| (driver.mode().to_owned(), driver)).collect();
        Self { store, artifacts, clock, machines: Arc::new(machines), default_mode, turns: Arc::default() }
    }

    /// Makes a sandbox, or finds the one of that id, and returns once it is ready.
    ///
    /// # Errors
    /// [`ForgeError::Invalid`] for a mode that is not configured, [`ForgeError::NotFound`] for a snapshot that is not
    /// there or an id that is another's, [`ForgeError::Session`] when it cannot be made.
    ///
    /// # Cancel safety
    /// Dropping the future may leave the sandbox starting; whoever uses it next starts it anew.
    pub async fn create(&self, caller: &Caller, new: NewSandbox) -> Result<Created, ForgeError> {
        caller.may(Action::UseSandboxes)?;
        let mode = new.mode.unwrap_or_else(|| self.default_mode.clone());
        self.driver(&mode)?;
        if let Some(snapshot) = new.restore {
            self.snapshot_of(caller, snapshot).await?;
        }
        let (id, now) = (new.id.unwrap_or_else(SandboxId::random), self.clock.now());
        let sandbox = Sandbox {
            id,
            tenant: caller.tenant.clone(),
            owner: caller.user.clone(),
            mode,
            spec: new.spec,
            status: SandboxStatus::Starting,
            lifetime: new.lifetime,
            created_at: now,
            started_at: now,
            last_activity_at: now,
            last_heartbeat_at: now,
            error_message: String::new(),
            termination: None,
            latest_snapshot: new.restore,
            was_ready: false,
            version: 1,
        };
        let turn = self.turns.of(id);
        let _turn = turn.lock().await;
        // The row is first: a machine without one is nobody's.
        if self.store.add_sandbox(&sandbox).await? {
            let (sandbox, _) = self.bring_up(sandbox).await?;
            return Ok(Created { sandbox, is_new: true });
        }
        self.find(caller, id).await?;
        let (sandbox, _) = self.ready(caller, id).await?;
        if let Some(snapshot) = new.restore {
            self.put_back(&sandbox, snapshot).await?;
        }
        Ok(Created { sandbox: self.find(caller, id).await?, is_new: false })
    }

    /// Finds a sandbox.
    ///
    /// # Errors
    /// [`ForgeError::NotFound`].
    pub async fn get(&self, caller: &Caller, id: SandboxId) -> Result<Sandbox, ForgeError> {
        caller.may(Action::Read)?;
        self.find(caller, id).await
    }

    /// Lists the tenant's sandboxes, the newest first; those that were deleted are left out.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn list(&self, caller: &Caller) -> Result<Vec<Sandbox>, ForgeError> {
        caller.may(Action::Read)?;
        let mut sandboxes = self.store.sandboxes(&caller.tenant).await?;
        sandboxes.retain(|sandbox| !sandbox.is_deleted());
        Ok(sandboxes)
    }

    /// Notes that the sandbox's user is there: it is not ended for lying unused. Its lifetime stays.
    ///
    /// # Errors
    /// [`ForgeError::NotFound`].
    pub async fn heartbeat(&self, caller: &Caller, id: SandboxId) -> Result<Sandbox, ForgeError> {
        caller.may(Action::UseSandboxes)?;
        self.find(caller, id).await?;
        self.store.note_heartbeat(id, self.clock.now()).await?;
        self.find(caller, id).await
    }

    /// Returns the sandbox's machine, to be used. One that was stopped or lost comes back first, once, however many ask.
    ///
    /// # Errors
    /// [`ForgeError::NotFound`]; [`ForgeError::Conflict`] when its files cannot be brought back: it is never empty in
    /// silence; [`ForgeError::Session`] when it cannot be made.
    pub async fn machine(&self, caller: &Caller, id: SandboxId) -> Result<Arc<dyn Machine>, ForgeError> {
        caller.may(Action::UseSandboxes)?;
        let turn = self.turns.of(id);
        let _turn = turn.lock().await;
        Ok(self.ready(caller, id).await?.1)
    }

    /// Returns what the sandbox uses, and has used since its machine was made; `None` while it has none. It is not woken
    /// for that, and it does not count as use.
    ///
    /// # Errors
    /// [`ForgeError::NotFound`], [`ForgeError::Session`] when it cannot be measured.
    pub async fn usage(&self, caller: &Caller, id: SandboxId) -> Result<Option<Usage>, ForgeError> {
        let sandbox = self.get(caller, id).await?;
        if sandbox.status != SandboxStatus::Ready {
            return Ok(None);
        }
        match self.driver(&sandbox.mode)?.find(id, sandbox.spec.egress).await {
            Ok(machine) => Ok(Some(machine.usage().await?)),
            Err(SessionError::Lost) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Changes which addresses the sandbox may reach, for good. Where it runs it holds at once: connections that are no
    /// longer allowed are cut.
    ///
    /// # Errors
    /// [`ForgeError::NotFound`]; [`ForgeError::Session`] when the machine could not be told, which its next use does.
    pub async fn set_egress(&self, caller: &Caller, id: SandboxId, egress: Egress) -> Result<Sandbox, ForgeError> {
        caller.may(Action::UseSandboxes)?;
        let turn = self.turns.of(id);
        let _turn = turn.lock().await;
        let sandbox = self.find(caller, id).await?;
        // The row is first: whoever finds the machine after that gives it the new egress.
        let sandbox = self.change(sandbox, &|row| row.spec.egress.clone_from(&egress)).await?;
        if sandbox.status == SandboxStatus::Ready {
            self.tell_egress(&sandbox).await?;
        }
        Ok(sandbox)
    }

    /// Gives the machine the egress of its row. The caller has the turn.
    async fn tell_egress(&self, sandbox: &Sandbox) -> Result<(), ForgeError> {
        let egress = sandbox.spec.egress.clone();
        match self.driver(&sandbox.mode)?.find(sandbox.id, egress.clone()).await {
            Ok(machine) => Ok(machine.set_egress(egress).await?),
            Err(SessionError::Lost) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Stops the sandbox; its files are kept and come back when it is used.
    ///
    /// # Errors
    /// [`ForgeError::NotFound`]. When its files cannot be kept it goes on, and the error says why.
    pub async fn stop(&self, caller: &Caller, id: SandboxId) -> Result<(), ForgeError> {
        caller.may(Action::UseSandboxes)?;
        let turn = self.turns.of(id);
        let _turn = turn.lock().await;
        let sandbox = self.find(caller, id).await?;
        self.end(sandbox, Termination::Stopped).await
    }

    /// Ends the sandbox for good. One that was deleted already is fine.
    ///
    /// # Errors
    /// [`ForgeError::NotFound`]; [`ForgeError::Session`] when its machine cannot be removed.
    pub async fn delete(&self, caller: &Caller, id: SandboxId) -> Result<(), ForgeError> {
        caller.may(Action::UseSandboxes)?;
        let turn = self.turns.of(id);
        let _turn = turn.lock().await;
        let sandbox = self.store.sandbox(id).await?.filter(|sandbox| sandbox.tenant == caller.tenant);
        let Some(sandbox) = sandbox else { return Err(unknown(id)) };
        let sandbox = self.change(sandbox, &|row| row.terminate(Termination::Deleted)).await?;
        self.driver(&sandbox.mode)?.remove(id).await?;
        Ok(())
    }

    /// Finds a sandbox that was not deleted.
    async fn find(&self, caller: &Caller, id: SandboxId) -> Result<Sandbox, ForgeError> {
        let found = self.store.sandbox(id).await?;
        let own = found.filter(|sandbox| sandbox.tenant == caller.tenant && !sandbox.is_deleted());
        own.ok_or_else(|| unknown(id))
    }

    fn driver(&self, mode: &str) -> Result<&Arc<dyn Machines>, ForgeError> {
        self.machines.get(mode).ok_or_else(|| {
            let known: Vec<_> = self.machines.keys().map(String::as_str).collect();
            let message = format!("`{mode}` is not configured on this server; it has {}", known.join(", "));
            ForgeError::Invalid { field: "mode", message }
        })
    }

    /// Makes the sandbox ready, by whatever it takes. The caller has the turn.
    async fn ready(&self, caller: &Caller, id: SandboxId) -> Result<(Sandbox, Arc<dyn Machine>), ForgeError> {
        loop {
            let sandbox = self.find(caller, id).await?;
            match sandbox.status {
                SandboxStatus::Ready => {
                    match self.driver(&sandbox.mode)?.find(id, sandbox.spec.egress.clone()).await {
                        Ok(machine) => {
                            // Another process may have changed it.
                            machine.set_egress(sandbox.spec.egress.clone()).await?;
                            self.store.note_activity(id, self.clock.now()).await?;
                            return Ok((sandbox, machine));
                        }
                        // Whoever loses this race finds the row changed, and looks again.
                        Err(SessionError::Lost) => {
                            drop(self.update(sandbox, |it| it.terminate(Termination::Lost)).await?)
                        }
                        Err(error) => return Err(error.into()),
                    }
                }
                // Another process starts it.
                SandboxStatus::Starting if !sandbox.is_abandoned(self.clock.now()) => self.clock.sleep(LOOK).await,
                SandboxStatus::Starting | SandboxStatus::Failed | SandboxStatus::Terminated => {
                    let now = self.clock.now();
                    if let Some(sandbox) = self.update(sandbox, |it| it.start(now)).await? {
                        return self.bring_up(sandbox).await;
                    }
                }
            }
        }
    }

    /// Makes the machine of a sandbox that this caller alone starts, and brings its files back.
    async fn bring_up(&self, sandbox: Sandbox) -> Result<(Sandbox, Arc<dyn Machine>), ForgeError> {
        let id = sandbox.id;
        let signs = async {
            loop {
                self.clock.sleep(SIGN_OF_LIFE).await;
                if let Err(error) = self.store.note_activity(id, self.clock.now()).await {
                    break error;
                }
            }
        };
        match future::select(Box::pin(self.start(sandbox)), Box::pin(signs)).await {
            Either::Left((started, _)) => started,
            // Others would take it over in the midst of it.
            Either::Right((error, _)) => Err(error.into()),
        }
    }

    async fn start(&self, sandbox: Sandbox) -> Result<(Sandbox, Arc<dyn Machine>), ForgeError> {
        let driver = Arc::clone(self.driver(&sandbox.mode)?);
        let (machine, workspace) = match self.make(driver.as_ref(), &sandbox).await {
            Ok(made) => made,
            Err(error) => {
                let text = chain(&error);
                self.update(sandbox, |it| it.fail(&text)).await?;
                return Err(error.into());
            }
        };
        let (id, version) = (sandbox.id, sandbox.version);
        if workspace == WorkspaceOrigin::Fresh
            && let Err(error) = self.bring_files(&sandbox, machine.as_ref()).await
        {
            // Else another has taken it over, and the machine is that one's.
            if self.store.sandbox(id).await?.is_some_and(|row| row.version == version) {
                driver.remove(id).await?;
            }
            let text = chain(&error);
            let ended = |it: &mut Sandbox| {
                it.terminate(Termination::RestoreFailed);
                it.error_message = text.clone();
            };
            self.update(sandbox, ended).await?;
            return Err(error);
        }
        match self.update(sandbox, Sandbox::become_ready).await? {
            Some(sandbox) => Ok((sandbox, machine)),
            None => {
                // It was deleted meanwhile, or another took it over after it seemed abandoned.
                let now = self.store.sandbox(id).await?;
                if now.is_none_or(|row| row.status == SandboxStatus::Terminated) {
                    driver.remove(id).await?;
                }
                Err(ForgeError::conflict(format!("sandbox {id} was changed while it started; try again")))
            }
        }
    }

    /// Makes the machine, or takes over what was made for it before whoever started it died.
    async fn make(
        &self,
        driver: &dyn Machines,
        sandbox: &Sandbox,
    ) -> Result<(Arc<dyn Machine>, WorkspaceOrigin), SessionError> {
        let (id, began) = (sandbox.id, self.clock.now());
        loop {
            match driver.make(id, sandbox.spec.clone()).await {
                Ok(made) => return Ok((made.machine, made.workspace)),
                Err(SessionError::AlreadyExists { .. }) => {}
                Err(error) => return Err(error),
            }
            match driver.find(id, sandbox.spec.egress.clone()).await {
                Ok(machine) if origin_of(machine.as_ref()).await? == WorkspaceOrigin::Kept => {
                    return Ok((machine, WorkspaceOrigin::Kept));
                }
                // Nothing is in it yet. Should its maker only have been held up, it must not fill it any more.
                Ok(_) => driver.remove(id).await?,
                // It is about to be there, or about to go.
                Err(SessionError::Lost) if self.clock.now() - began < ABANDONED => self.clock.sleep(LOOK).await,
                Err(error) => return Err(error),
            }
        }
    }

    async fn bring_files(&self, sandbox: &Sandbox, machine: &dyn Machine) -> Result<(), ForgeError> {
        match sandbox.latest_snapshot {
            Some(snapshot) => self.restore_into(sandbox, machine, snapshot).await,
            None if sandbox.was_ready => Err(ForgeError::conflict(format!(
                "the files of sandbox {} are lost: its machine died, and there is no snapshot of it; make a new sandbox",
                sandbox.id
            ))),
            None => Ok(()),
        }
    }

    /// Keeps the files of a sandbox and ends its machine. The caller has the turn.
    async fn end(&self, sandbox: Sandbox, why: Termination) -> Result<(), ForgeError> {
        let driver = Arc::clone(self.driver(&sandbox.mode)?);
        let mut sandbox = sandbox;
        if sandbox.status == SandboxStatus::Ready {
            match driver.find(sandbox.id, sandbox.spec.egress.clone()).await {
                Ok(machine) => {
                    let new = NewSnapshot { label: format!("auto-{}", label(why)), ..NewSnapshot::default() };
                    if let Err(error) = self.take(&sandbox, machine.as_ref(), new).await {
                        let text = format!("its files could not be kept, so it goes on: {}", chain(&error));
                        self.change(sandbox, &|it| it.error_message.clone_from(&text)).await?;
                        return Err(error);
                    }
                    sandbox = self.store.sandbox(sandbox.id).await?.ok_or_else(|| unknown(sandbox.id))?;
                }
                Err(SessionError::Lost) => {
                    return self.change(sandbox, &|it| it.terminate(Termination::Lost)).await.map(drop);
                }
                Err(error) => return Err(error.into()),
            }
        } else if sandbox.status == SandboxStatus::Terminated {
            return Ok(());
        }
        driver.remove(sandbox.id).await?;
        self.change(sandbox, &|it| it.terminate(why)).await.map(drop)
    }

    /// Changes the row if it still is as it was read.
    async fn update(
        &self,
        mut sandbox: Sandbox,
        change: impl FnOnce(&mut Sandbox),
    ) -> Result<Option<Sandbox>, ForgeError> {
        change(&mut sandbox);
        let updated = self.store.update_sandbox(&sandbox).await?;
        sandbox.version += 1;
        Ok(updated.then_some(sandbox))
    }

    /// Changes the row as it is by then; for changes that fit whatever others did. A deleted one stays as it is.
    async fn change(&self, sandbox: Sandbox, change: &(dyn Fn(&mut Sandbox) + Sync)) -> Result<Sandbox, ForgeError> {
        let id = sandbox.id;
        let mut row = sandbox;
        loop {
            if let Some(changed) = self.update(row, change).await? {
                return Ok(changed);
            }
            row = self.store.sandbox(id).await?.ok_or_else(|| unknown(id))?;
            if row.is_deleted() {
                return Ok(row);
            }
        }
    }
}

impl Sandbox {
    /// Tells whether whoever starts it has died, as far as can be told from outside.
    fn is_abandoned(&self, now: chrono::DateTime<chrono::Utc>) -> bool {
        self.status == SandboxStatus::Starting && now - self.started_at.max(self.last_activity_at) >= ABANDONED
    }

    fn start(&mut self, now: chrono::DateTime<chrono::Utc>) {
        self.status = SandboxStatus::Starting;
        (self.started_at, self.last_activity_at) = (now, now);
    }

    fn become_ready(&mut self) {
        self.status = SandboxStatus::Ready;
        self.was_ready = true;
        self.termination = None;
        self.error_message.clear();
    }

    fn fail(&mut self, why: &str) {
        self.status = SandboxStatus::Failed;
        why.clone_into(&mut self.error_message);
    }

    fn terminate(&mut self, why: Termination) {
        self.status = SandboxStatus::Terminated;
        self.termination = Some(why);
    }
}

/// What the contract calls snapshots that are taken before an end.
const fn label(why: Termination) -> &'static str {
    match why {
        Termination::Stopped => "stop",
        other => other.as_str(),
    }
}

/// Where the workspace of a machine comes from that somebody else made. A restore puts all files in place at once, so a
/// workspace with anything in it is whole.
async fn origin_of(machine: &dyn Machine) -> Result<WorkspaceOrigin, SessionError> {
    let verb = FileVerb::List { path: "/workspace".to_owned(), depth: 1, limit: 1 };
    match machine.file(FileRequest { roots: Roots::everywhere(), verb }).await? {
        FileReply::Entries { entries, .. } if !entries.is_empty() => Ok(WorkspaceOrigin::Kept),
        _ => Ok(WorkspaceOrigin::Fresh),
    }
}

fn unknown(id: SandboxId) -> ForgeError {
    ForgeError::not_found(format!("Sandbox {id}"))
}

/// An error with all that caused it, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// One turn a sandbox: what changes it in this process does so one after the other.
#[derive(Debug, Default)]
struct Turns(Mutex<HashMap<SandboxId, Weak<futures::lock::Mutex<()>>>>);

impl Turns {
    fn of(&self, id: SandboxId) -> Arc<futures::lock::Mutex<()>> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(&id).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        turns.insert(id, Arc::downgrade(&turn));
        turn
    }
}

#[cfg(test)]
mod tests;
