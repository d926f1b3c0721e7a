//! What a control plane does: sandboxes come up, come back and end, and lose no files.
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

use super::{ControlSettings, Created, NewSandbox, NewSnapshot, nodes::Presence, snapshots::AUTOMATIC, usage::Samples};
use crate::{
    access::{Action, Caller},
    egress::Egress,
    error::{ForgeError, chain},
    files::{FileReply, FileRequest, FileVerb, Roots},
    id::{NodeId, SandboxId, SnapshotId},
    ports::{
        artifacts::ArtifactStore,
        clock::Clock,
        machines::{Machine, Machines, WorkspaceOrigin},
        sandbox_store::SandboxStore,
        sessions::SessionError,
    },
    sandbox::{Kept, Sandbox, SandboxStatus, Termination},
};

/// How often whoever starts a sandbox gives a sign of life.
const SIGN_OF_LIFE: Duration = Duration::from_secs(2);
/// How long it may give none before whoever wants the sandbox starts it anew.
const ABANDONED: TimeDelta = TimeDelta::seconds(20);
/// How often somebody who waits for a sandbox looks at it.
const LOOK: Duration = Duration::from_millis(50);

/// Carries out what a control plane is asked for; clones share it.
#[derive(Debug, Clone)]
pub(super) struct Engine {
    pub(super) store: Arc<dyn SandboxStore>,
    pub(super) artifacts: Arc<dyn ArtifactStore>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) machines: Arc<BTreeMap<String, Arc<dyn Machines>>>,
    default_mode: String,
    pub(super) settings: Arc<ControlSettings>,
    pub(super) turns: Arc<Turns>,
    pub(super) samples: Arc<Samples>,
    pub(super) presence: Arc<Presence>,
}

impl Engine {
    pub(super) fn new(
        store: Arc<dyn SandboxStore>,
        artifacts: Arc<dyn ArtifactStore>,
        clock: Arc<dyn Clock>,
        drivers: Vec<Arc<dyn Machines>>,
        settings: ControlSettings,
    ) -> Self {
        let default_mode = drivers.first().map(|driver| driver.mode().to_owned()).unwrap_or_default();
        let machines = drivers.into_iter().map(|driver| (driver.mode().to_owned(), driver)).collect();
        let (machines, settings) = (Arc::new(machines), Arc::new(settings));
        Self {
            store,
            artifacts,
            clock,
            machines,
            default_mode,
            settings,
            turns: Arc::default(),
            samples: Arc::default(),
            presence: Arc::default(),
        }
    }

    /// Makes a sandbox, or finds the one of that id, and returns once it is ready.
    pub(super) async fn create(&self, caller: &Caller, new: NewSandbox) -> Result<Created, ForgeError> {
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
            node: self.settings.node,
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
            restored_from: new.restore,
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
        if let Some(snapshot) = new.restore
            && !self.is_superseded_by_itself(id, snapshot).await?
        {
            self.put_back(&sandbox, snapshot).await?;
        }
        Ok(Created { sandbox: self.find(caller, id).await?, is_new: false })
    }

    /// Tells whether a snapshot is the sandbox's own, and newer ones are there only because it was ended. Callers that just
    /// want it to be there name the last one that they know of each time, and more may have been written since.
    async fn is_superseded_by_itself(&self, id: SandboxId, snapshot: SnapshotId) -> Result<bool, ForgeError> {
        let snapshots = self.store.snapshots(id).await?;
        let newer = snapshots.iter().take_while(|it| it.id != snapshot && it.label.starts_with(AUTOMATIC)).count();
        Ok(snapshots.get(newer).is_some_and(|it| it.id == snapshot))
    }

    /// Finds a sandbox.
    pub(super) async fn get(&self, caller: &Caller, id: SandboxId) -> Result<Sandbox, ForgeError> {
        caller.may(Action::Read)?;
        self.find(caller, id).await
    }

    /// Lists the tenant's sandboxes, the newest first; those that were deleted are left out.
    pub(super) async fn list(&self, caller: &Caller) -> Result<Vec<Sandbox>, ForgeError> {
        caller.may(Action::Read)?;
        let mut sandboxes = self.store.sandboxes(&caller.tenant).await?;
        sandboxes.retain(|sandbox| !sandbox.is_deleted());
        Ok(sandboxes)
    }

    /// Tells what is kept of sandboxes, in their order.
    pub(super) async fn kept(&self, sandboxes: &[Sandbox]) -> Result<Vec<Kept>, ForgeError> {
        let ids: Vec<_> = sandboxes.iter().map(|sandbox| sandbox.id).collect();
        let mut kept = self.store.kept(&ids).await?;
        Ok(ids.iter().map(|id| kept.remove(id).unwrap_or_default()).collect())
    }

    /// Notes that the sandbox's user is there: it is not ended for lying unused. Its lifetime stays.
    pub(super) async fn heartbeat(&self, caller: &Caller, id: SandboxId) -> Result<Sandbox, ForgeError> {
        caller.may(Action::UseSandboxes)?;
        self.find(caller, id).await?;
        self.store.note_heartbeat(id, self.clock.now()).await?;
        self.find(caller, id).await
    }

    /// Returns the sandbox's machine, to be used. One that was stopped or lost comes back first, once, however many ask.
    pub(super) async fn machine(&self, caller: &Caller, id: SandboxId) -> Result<Arc<dyn Machine>, ForgeError> {
        caller.may(Action::UseSandboxes)?;
        let turn = self.turns.of(id);
        let _turn = turn.lock().await;
        Ok(self.ready(caller, id).await?.1)
    }

    /// Changes which addresses the sandbox may reach, for good. Where it runs it holds at once.
    pub(super) async fn set_egress(
        &self,
        caller: &Caller,
        id: SandboxId,
        egress: Egress,
    ) -> Result<Sandbox, ForgeError> {
        caller.may(Action::UseSandboxes)?;
        let turn = self.turns.of(id);
        let _turn = turn.lock().await;
        let sandbox = self.taken_over(self.find(caller, id).await?).await?;
        if sandbox.status == SandboxStatus::Ready {
            self.driver_of(&sandbox)?;
        }
        // The row is first: whoever finds the machine after that gives it the new egress.
        let sandbox = self.change(sandbox, &|row| row.spec.egress.clone_from(&egress)).await?;
        if sandbox.status == SandboxStatus::Ready {
            self.tell_egress(&sandbox).await?;
        }
        Ok(sandbox)
    }

    /// Gives the machine the egress of its row. The caller has the turn.
    pub(super) async fn tell_egress(&self, sandbox: &Sandbox) -> Result<(), ForgeError> {
        match self.driver_of(sandbox)?.find(sandbox.id, sandbox.spec.egress.clone()).await {
            Ok(_) | Err(SessionError::Lost) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The machine of a ready sandbox, to be looked at: what it may reach stays as it is. Only where this process is not
    /// connected to it yet it waits for the turn, so that what its row says by then is what it may reach.
    pub(super) async fn look_at(&self, sandbox: &Sandbox) -> Result<Arc<dyn Machine>, ForgeError> {
        let driver = self.driver_of(sandbox)?;
        if let Some(machine) = driver.known(sandbox.id) {
            return Ok(machine);
        }
        let turn = self.turns.of(sandbox.id);
        let _turn = turn.lock().await;
        let row = self.store.sandbox(sandbox.id).await?.filter(|row| row.status == SandboxStatus::Ready);
        Ok(driver.find(sandbox.id, row.ok_or(SessionError::Lost)?.spec.egress).await?)
    }

    /// Stops the sandbox; its files are kept and come back when it is used.
    pub(super) async fn stop(&self, caller: &Caller, id: SandboxId) -> Result<(), ForgeError> {
        caller.may(Action::UseSandboxes)?;
        let turn = self.turns.of(id);
        let _turn = turn.lock().await;
        let sandbox = self.taken_over(self.find(caller, id).await?).await?;
        self.end(sandbox, Termination::Stopped).await
    }

    /// Ends the sandbox for good. One that was deleted already is fine.
    pub(super) async fn delete(&self, caller: &Caller, id: SandboxId) -> Result<(), ForgeError> {
        caller.may(Action::UseSandboxes)?;
        let turn = self.turns.of(id);
        let _turn = turn.lock().await;
        let sandbox = self.store.sandbox(id).await?.filter(|sandbox| sandbox.tenant == caller.tenant);
        let Some(sandbox) = sandbox else { return Err(ForgeError::NoSandbox { id }) };
        let sandbox = self.taken_over(sandbox).await?;
        let is_here = self.is_here(&sandbox);
        let sandbox = self.change(sandbox, &|row| row.terminate(Termination::Deleted)).await?;
        if is_here {
            self.driver_of(&sandbox)?.remove(id).await?;
        } // else its own node finds a machine that no row wants any more
        Ok(())
    }

    /// Finds a sandbox that was not deleted.
    pub(super) async fn find(&self, caller: &Caller, id: SandboxId) -> Result<Sandbox, ForgeError> {
        let found = self.store.sandbox(id).await?;
        let own = found.filter(|sandbox| sandbox.tenant == caller.tenant && !sandbox.is_deleted());
        own.ok_or(ForgeError::NoSandbox { id })
    }

    /// The driver that has the sandbox's machine, unless that is with another node.
    pub(super) fn driver_of(&self, sandbox: &Sandbox) -> Result<&Arc<dyn Machines>, ForgeError> {
        match sandbox.elsewhere(self.settings.node) {
            Some(node) => Err(ForgeError::Elsewhere { sandbox: sandbox.id, node }),
            None => self.driver(&sandbox.mode),
        }
    }

    /// Whether no other node has its machine, or the only copy of its files.
    pub(super) fn is_here(&self, sandbox: &Sandbox) -> bool {
        sandbox.elsewhere(self.settings.node).is_none()
    }

    /// The sandboxes of this node that are starting or ready.
    pub(super) async fn live_here(&self) -> Result<Vec<Sandbox>, ForgeError> {
        let mut sandboxes = self.store.live_sandboxes().await?;
        sandboxes.retain(|sandbox| self.is_here(sandbox));
        Ok(sandboxes)
    }

    pub(super) fn driver(&self, mode: &str) -> Result<&Arc<dyn Machines>, ForgeError> {
        self.machines.get(mode).ok_or_else(|| {
            let known: Vec<_> = self.machines.keys().map(String::as_str).collect();
            let message = format!("`{mode}` is not configured on this server; it has {}", known.join(", "));
            ForgeError::Invalid { field: "mode", message }
        })
    }

    /// Makes the sandbox ready, by whatever it takes. The caller has the turn.
    pub(super) async fn ready(
        &self,
        caller: &Caller,
        id: SandboxId,
    ) -> Result<(Sandbox, Arc<dyn Machine>), ForgeError> {
        loop {
            let sandbox = self.taken_over(self.find(caller, id).await?).await?;
            match sandbox.status {
                SandboxStatus::Ready => {
                    match self.driver_of(&sandbox)?.find(id, sandbox.spec.egress.clone()).await {
                        Ok(machine) => {
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
                    self.driver_of(&sandbox)?;
                    let now = self.clock.now();
                    if let Some(sandbox) = self.update(sandbox, |it| it.start(now, self.settings.node)).await? {
                        return self.bring_up(sandbox).await;
                    }
                }
            }
        }
    }

    /// Makes the machine of a sandbox that this caller alone starts, and brings its files back.
    pub(super) async fn bring_up(&self, sandbox: Sandbox) -> Result<(Sandbox, Arc<dyn Machine>), ForgeError> {
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
        let driver = Arc::clone(self.driver_of(&sandbox)?);
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
            return Err(ForgeError::NotRestored { sandbox: id, reason: Box::new(error) });
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
    pub(super) async fn end(&self, sandbox: Sandbox, why: Termination) -> Result<(), ForgeError> {
        let driver = Arc::clone(self.driver_of(&sandbox)?);
        let mut sandbox = sandbox;
        if sandbox.status == SandboxStatus::Ready {
            match driver.find(sandbox.id, sandbox.spec.egress.clone()).await {
                Ok(machine) => {
                    let new = NewSnapshot { label: format!("{AUTOMATIC}{}", label(why)), ..NewSnapshot::default() };
                    if let Err(error) = self.take(&sandbox, machine.as_ref(), new).await {
                        let text = format!("its files could not be kept, so it goes on: {}", chain(&error));
                        self.change(sandbox, &|it| it.error_message.clone_from(&text)).await?;
                        return Err(error);
                    }
                    sandbox = self.store.sandbox(sandbox.id).await?.ok_or(ForgeError::NoSandbox { id: sandbox.id })?;
                    // Should this node have been halted for long, another may have it by now.
                    self.driver_of(&sandbox)?;
                }
                Err(SessionError::Lost) => {
                    return self.change(sandbox, &|it| it.terminate(Termination::Lost)).await.map(drop);
                }
                Err(error) => return Err(error.into()),
            }
        } else if sandbox.status == SandboxStatus::Terminated {
            return Ok(());
        }
        // The row is first: what it does not want any more, nobody takes over, and `adopt` removes.
        let (id, here) = (sandbox.id, sandbox.node);
        let ended = self
            .change(sandbox, &|it| {
                if it.node == here {
                    it.terminate(why)
                }
            })
            .await?;
        self.driver_of(&ended)?;
        Ok(driver.remove(id).await?)
    }

    /// Changes the row if it still is as it was read.
    pub(super) async fn update(
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
    pub(super) async fn change(
        &self,
        sandbox: Sandbox,
        change: &(dyn Fn(&mut Sandbox) + Sync),
    ) -> Result<Sandbox, ForgeError> {
        let id = sandbox.id;
        let mut row = sandbox;
        loop {
            if let Some(changed) = self.update(row, change).await? {
                return Ok(changed);
            }
            row = self.store.sandbox(id).await?.ok_or(ForgeError::NoSandbox { id })?;
            if row.is_deleted() {
                return Ok(row);
            }
        }
    }
}

impl Sandbox {
    /// Tells whether whoever starts it has died, as far as can be told from outside.
    pub(super) fn is_abandoned(&self, now: chrono::DateTime<chrono::Utc>) -> bool {
        self.status == SandboxStatus::Starting && now - self.started_at.max(self.last_activity_at) >= ABANDONED
    }

    pub(super) fn start(&mut self, now: chrono::DateTime<chrono::Utc>, node: Option<NodeId>) {
        self.status = SandboxStatus::Starting;
        self.node = node.or(self.node);
        (self.started_at, self.last_activity_at) = (now, now);
    }

    pub(super) fn become_ready(&mut self) {
        self.status = SandboxStatus::Ready;
        self.was_ready = true;
        self.termination = None;
        self.error_message.clear();
    }

    pub(super) fn fail(&mut self, why: &str) {
        self.status = SandboxStatus::Failed;
        why.clone_into(&mut self.error_message);
    }

    pub(super) fn terminate(&mut self, why: Termination) {
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

/// One turn a sandbox: what changes it in this process does so one after the other.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<SandboxId, Weak<futures::lock::Mutex<()>>>>);

impl Turns {
    pub(super) fn of(&self, id: SandboxId) -> Arc<futures::lock::Mutex<()>> {
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
