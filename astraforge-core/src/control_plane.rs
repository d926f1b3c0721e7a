//! The control plane of sandboxes: they are asked for, used, stopped, brought back and ended, and lose no files.

use std::{fmt, sync::Arc};

use self::engine::Engine;
use crate::{
    access::Caller,
    archive::Comparison,
    download_link::{LinkClaim, LinkKey},
    egress::Egress,
    error::ForgeError,
    facade::facade,
    id::{ArtifactId, NodeId, SandboxId, SnapshotId},
    node::Node,
    ports::{
        artifacts::{ArtifactStore, ArtifactStream, Place},
        clock::Clock,
        machines::{ByteStream, Machine, Machines, Usage},
        sandbox_store::SandboxStore,
    },
    sandbox::{Artifact, Kept, Lifetime, Sandbox, Snapshot},
    session::SandboxSpec,
    sweep::Swept,
};

mod commands;
mod engine;
mod exports;
mod nodes;
mod pages;
mod reaper;
mod snapshots;
mod sweep;
mod transfer;
mod usage;

pub use self::{
    commands::{
        ChangeEgress, CreateSandbox, DeleteSandbox, ForkSandbox, NoteHeartbeat, RestoreSnapshot, StopSandbox,
        TakeSnapshot, UseSandbox,
    },
    exports::{NewExport, SignedLink},
    reaper::Reaped,
    snapshots::NewSnapshot,
    usage::UsageSample,
};

facade! {
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
    ///
    /// What changes a sandbox is a [command](crate::command::Command), carried out by a tower service of its own, with
    /// whatever layers [`ControlPlaneBuilder::layer`] put around it; the methods with plain arguments call the same
    /// services. What only looks is a method.
    ControlPlane;
    /// Builds a [`ControlPlane`].
    ControlPlaneBuilder;
    context: Engine;
    /// Makes a sandbox ready: a new one, or the one of that id.
    create_sandbox: CreateSandbox = carry_out::create, with_create_sandbox;
    /// Makes a sandbox ready, and hands out its machine.
    use_sandbox: UseSandbox = carry_out::machine, with_use_sandbox;
    /// Notes that somebody is there.
    note_heartbeat: NoteHeartbeat = carry_out::heartbeat, with_note_heartbeat;
    /// Changes what a sandbox may reach.
    change_egress: ChangeEgress = carry_out::egress, with_change_egress;
    /// Stops a sandbox.
    stop_sandbox: StopSandbox = carry_out::stop, with_stop_sandbox;
    /// Deletes a sandbox.
    delete_sandbox: DeleteSandbox = carry_out::delete, with_delete_sandbox;
    /// Keeps files.
    take_snapshot: TakeSnapshot = carry_out::snapshot, with_take_snapshot;
    /// Brings files back.
    restore_snapshot: RestoreSnapshot = carry_out::restore, with_restore_snapshot;
    /// Copies a sandbox.
    fork_sandbox: ForkSandbox = carry_out::fork, with_fork_sandbox;
}

/// What services do, each a function of the engine and its command.
mod carry_out {
    use super::*;

    type Result<T> = std::result::Result<T, ForgeError>;

    pub(super) async fn create(engine: &Engine, CreateSandbox { caller, new }: CreateSandbox) -> Result<Created> {
        engine.create(&caller, new).await
    }

    pub(super) async fn machine(engine: &Engine, UseSandbox { caller, id }: UseSandbox) -> Result<Arc<dyn Machine>> {
        engine.machine(&caller, id).await
    }

    pub(super) async fn heartbeat(engine: &Engine, NoteHeartbeat { caller, id }: NoteHeartbeat) -> Result<Sandbox> {
        engine.heartbeat(&caller, id).await
    }

    pub(super) async fn egress(engine: &Engine, command: ChangeEgress) -> Result<Sandbox> {
        engine.set_egress(&command.caller, command.id, command.egress).await
    }

    pub(super) async fn stop(engine: &Engine, StopSandbox { caller, id }: StopSandbox) -> Result<()> {
        engine.stop(&caller, id).await
    }

    pub(super) async fn delete(engine: &Engine, DeleteSandbox { caller, id }: DeleteSandbox) -> Result<()> {
        engine.delete(&caller, id).await
    }

    pub(super) async fn snapshot(engine: &Engine, command: TakeSnapshot) -> Result<Snapshot> {
        engine.snapshot(&command.caller, command.id, command.new).await
    }

    pub(super) async fn restore(engine: &Engine, command: RestoreSnapshot) -> Result<()> {
        engine.restore(&command.caller, command.id, command.snapshot).await
    }

    pub(super) async fn fork(engine: &Engine, ForkSandbox { caller, id }: ForkSandbox) -> Result<Sandbox> {
        engine.fork(&caller, id).await
    }
}

/// How a control plane is set up, beside what it stands on.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ControlSettings {
    /// How many of the snapshots are kept that were taken by itself before an end: those of a sandbox beyond the last
    /// so many go, unless a sandbox comes back from them. Snapshots that somebody asked for stay. 3 unless set.
    pub kept_automatic: usize,
    /// What signs links to exported files; without it there are none.
    pub link_key: Option<LinkKey>,
    /// The node whose machines the drivers reach, where several nodes share a store; `None` unless set.
    pub node: Option<NodeId>,
    /// The drivers, by name, whose machines all nodes reach: what a node that is gone had there, another takes over.
    pub shared_modes: Vec<String>,
}

impl Default for ControlSettings {
    fn default() -> Self {
        Self { kept_automatic: 3, link_key: None, node: None, shared_modes: Vec::new() }
    }
}

impl ControlSettings {
    /// Sets how many automatic snapshots of a sandbox are kept; at least one is.
    #[must_use]
    pub fn with_kept_automatic(mut self, n: usize) -> Self {
        self.kept_automatic = n;
        self
    }

    /// Sets the node whose machines the drivers reach: sandboxes of other nodes in the same store are left alone.
    #[must_use]
    pub fn with_node(mut self, node: NodeId) -> Self {
        self.node = Some(node);
        self
    }

    /// Names a driver whose machines all nodes reach, so that they take over those of nodes that are gone.
    #[must_use]
    pub fn with_shared_mode(mut self, mode: impl Into<String>) -> Self {
        self.shared_modes.push(mode.into());
        self
    }

    /// Sets what signs links to exported files.
    #[must_use]
    pub fn with_link_key(mut self, key: LinkKey) -> Self {
        self.link_key = Some(key);
        self
    }
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
    /// A control plane over those drivers, with nothing around its services; the first driver is the default.
    #[must_use]
    pub fn new(
        store: Arc<dyn SandboxStore>,
        artifacts: Arc<dyn ArtifactStore>,
        clock: Arc<dyn Clock>,
        drivers: Vec<Arc<dyn Machines>>,
    ) -> Self {
        Self::builder(store, artifacts, clock, drivers, ControlSettings::default()).build()
    }

    /// A control plane whose services get layers, or are replaced.
    pub fn builder(
        store: Arc<dyn SandboxStore>,
        artifacts: Arc<dyn ArtifactStore>,
        clock: Arc<dyn Clock>,
        drivers: Vec<Arc<dyn Machines>>,
        settings: ControlSettings,
    ) -> ControlPlaneBuilder {
        ControlPlaneBuilder::new(Engine::new(store, artifacts, clock, drivers, settings))
    }

    /// Makes a sandbox, or finds the one of that id, and returns once it is ready.
    ///
    /// # Errors
    /// [`ForgeError::Invalid`] for a mode that is not configured, [`ForgeError::NoSnapshot`] for a snapshot that is not
    /// there, [`ForgeError::NoSandbox`] for an id that is another's, [`ForgeError::Session`] when it cannot be made.
    ///
    /// # Cancel safety
    /// Dropping the future may leave the sandbox starting; whoever uses it next starts it anew.
    pub async fn create(&self, caller: &Caller, new: NewSandbox) -> Result<Created, ForgeError> {
        self.create_sandbox(CreateSandbox { caller: caller.clone(), new }).await
    }

    /// Returns the sandbox's machine, to be used. One that was stopped or lost comes back first, once, however many ask.
    ///
    /// # Errors
    /// [`ForgeError::NoSandbox`]; [`ForgeError::NotRestored`] when its files cannot be brought back: it is never empty
    /// in silence; [`ForgeError::Session`] when it cannot be made.
    pub async fn machine(&self, caller: &Caller, id: SandboxId) -> Result<Arc<dyn Machine>, ForgeError> {
        self.use_sandbox(UseSandbox { caller: caller.clone(), id }).await
    }

    /// Notes that the sandbox's user is there: it is not ended for lying unused. Its lifetime stays.
    ///
    /// # Errors
    /// [`ForgeError::NoSandbox`].
    pub async fn heartbeat(&self, caller: &Caller, id: SandboxId) -> Result<Sandbox, ForgeError> {
        self.note_heartbeat(NoteHeartbeat { caller: caller.clone(), id }).await
    }

    /// Changes which addresses the sandbox may reach, for good. Where it runs it holds at once: connections that are no
    /// longer allowed are cut.
    ///
    /// # Errors
    /// [`ForgeError::NoSandbox`]; [`ForgeError::Session`] when the machine could not be told, which its next use does.
    pub async fn set_egress(&self, caller: &Caller, id: SandboxId, egress: Egress) -> Result<Sandbox, ForgeError> {
        self.change_egress(ChangeEgress { caller: caller.clone(), id, egress }).await
    }

    /// Stops the sandbox; its files are kept and come back when it is used.
    ///
    /// # Errors
    /// [`ForgeError::NoSandbox`]. When its files cannot be kept it goes on, and the error says why.
    pub async fn stop(&self, caller: &Caller, id: SandboxId) -> Result<(), ForgeError> {
        self.stop_sandbox(StopSandbox { caller: caller.clone(), id }).await
    }

    /// Ends the sandbox for good. One that was deleted already is fine.
    ///
    /// # Errors
    /// [`ForgeError::NoSandbox`]; [`ForgeError::Session`] when its machine cannot be removed.
    pub async fn delete(&self, caller: &Caller, id: SandboxId) -> Result<(), ForgeError> {
        self.delete_sandbox(DeleteSandbox { caller: caller.clone(), id }).await
    }

    /// Keeps the files of a sandbox. Only once they are stored and read back they are what it comes back from.
    ///
    /// # Errors
    /// [`ForgeError::NoSandbox`], [`ForgeError::Session`] when they cannot be packed, [`ForgeError::Artifact`] when they
    /// cannot be stored.
    pub async fn snapshot(&self, caller: &Caller, id: SandboxId, new: NewSnapshot) -> Result<Snapshot, ForgeError> {
        self.take_snapshot(TakeSnapshot { caller: caller.clone(), id, new }).await
    }

    /// Replaces the files of a sandbox by those of a snapshot, of this sandbox or another of the tenant.
    ///
    /// # Errors
    /// [`ForgeError::NoSandbox`]; [`ForgeError::Session`] or [`ForgeError::Artifact`] when it cannot be done: then the
    /// files are as they were.
    pub async fn restore(&self, caller: &Caller, id: SandboxId, snapshot: SnapshotId) -> Result<(), ForgeError> {
        self.restore_snapshot(RestoreSnapshot { caller: caller.clone(), id, snapshot }).await
    }

    /// Makes a new sandbox with the files that another has now.
    ///
    /// # Errors
    /// [`ForgeError::NoSandbox`], [`ForgeError::Session`]; the new sandbox is deleted again when its files cannot be
    /// copied.
    pub async fn fork(&self, caller: &Caller, id: SandboxId) -> Result<Sandbox, ForgeError> {
        self.fork_sandbox(ForkSandbox { caller: caller.clone(), id }).await
    }

    /// Finds a sandbox.
    ///
    /// # Errors
    /// [`ForgeError::NoSandbox`].
    pub async fn get(&self, caller: &Caller, id: SandboxId) -> Result<Sandbox, ForgeError> {
        self.context.get(caller, id).await
    }

    /// Lists the tenant's sandboxes, the newest first; those that were deleted are left out.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn list(&self, caller: &Caller) -> Result<Vec<Sandbox>, ForgeError> {
        self.context.list(caller).await
    }

    /// Returns what the sandbox uses, and has used since its machine was made; `None` while it has none. It is not woken
    /// for that, and it does not count as use.
    ///
    /// # Errors
    /// [`ForgeError::NoSandbox`], [`ForgeError::Session`] when it cannot be measured.
    pub async fn usage(&self, caller: &Caller, id: SandboxId) -> Result<Option<Usage>, ForgeError> {
        self.context.usage(caller, id).await
    }

    /// Tells what is kept of sandboxes that [`get`](Self::get) or [`list`](Self::list) found, in the same order.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn kept(&self, sandboxes: &[Sandbox]) -> Result<Vec<Kept>, ForgeError> {
        self.context.kept(sandboxes).await
    }

    /// Says that this node is there, and that other nodes reach it at `url`, if they do; to be said every
    /// [`SIGN_OF_LIFE`](crate::node::SIGN_OF_LIFE). Nothing is said where [`ControlSettings::node`] is not set.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn announce(&self, url: Option<&str>) -> Result<(), ForgeError> {
        self.context.announce(url).await
    }

    /// Says that this node has stopped; to be said when nothing of it is at work any more.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn withdraw(&self) -> Result<(), ForgeError> {
        self.context.withdraw().await
    }

    /// Lists the other nodes that said that they are there, those included that have gone silent since.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn other_nodes(&self) -> Result<Vec<Node>, ForgeError> {
        self.context.other_nodes().await
    }

    /// The other node that has the sandbox's machine or the only copy of its files; `None` also where this node takes it
    /// over from one that is gone.
    ///
    /// # Errors
    /// [`ForgeError::NoSandbox`], and those of the store.
    pub async fn elsewhere(&self, caller: &Caller, id: SandboxId) -> Result<Option<NodeId>, ForgeError> {
        self.context.elsewhere(caller, id).await
    }

    /// The node whose machines this control plane reaches, where there are several.
    #[must_use]
    pub fn node(&self) -> Option<NodeId> {
        self.context.settings.node
    }

    /// The drivers that sandboxes can run on, by name.
    pub fn modes(&self) -> impl Iterator<Item = &str> {
        self.context.machines.keys().map(String::as_str)
    }

    /// Where the bytes of a snapshot lie.
    #[must_use]
    pub fn place_of(&self, snapshot: &Snapshot) -> Place {
        self.context.artifacts.place(&snapshot.key)
    }

    /// Lists a sandbox's snapshots, the newest first.
    ///
    /// # Errors
    /// [`ForgeError::NoSandbox`].
    pub async fn snapshots(&self, caller: &Caller, id: SandboxId) -> Result<Vec<Snapshot>, ForgeError> {
        self.context.snapshots(caller, id).await
    }

    /// Replaces the files of a sandbox by those of an archive from elsewhere, compressed with zstd or, as the contract's
    /// are, with gzip. Its members are named `workspace/…`.
    ///
    /// # Errors
    /// [`ForgeError::NoSandbox`]; [`ForgeError::Session`] when it cannot be done: then the files are as they were.
    pub async fn restore_archive(&self, caller: &Caller, id: SandboxId, archive: ByteStream) -> Result<(), ForgeError> {
        self.context.restore_archive(caller, id, archive).await
    }

    /// Tells how the files of a sandbox differ from a snapshot, in at most `limit` changes.
    ///
    /// # Errors
    /// [`ForgeError::NoSandbox`], [`ForgeError::Session`], [`ForgeError::Artifact`].
    pub async fn diff(
        &self,
        caller: &Caller,
        id: SandboxId,
        snapshot: SnapshotId,
        limit: usize,
    ) -> Result<Comparison, ForgeError> {
        self.context.diff(caller, id, snapshot, limit).await
    }

    /// Takes a file out of a sandbox: its bytes are kept when the sandbox is gone.
    ///
    /// # Errors
    /// [`ForgeError::NoSandbox`], [`ForgeError::Session`] when it cannot be read, [`ForgeError::Artifact`] when it cannot
    /// be stored.
    pub async fn export(&self, caller: &Caller, id: SandboxId, new: NewExport) -> Result<Artifact, ForgeError> {
        self.context.export(caller, id, new).await
    }

    /// Lists the files that were taken out of a sandbox, the newest first.
    ///
    /// # Errors
    /// [`ForgeError::NoSandbox`].
    pub async fn artifacts(&self, caller: &Caller, id: SandboxId) -> Result<Vec<Artifact>, ForgeError> {
        self.context.artifacts(caller, id).await
    }

    /// Reads a file that was taken out of a sandbox, which may be gone by now. The stream ends in an error when the
    /// bytes are not those that were stored.
    ///
    /// # Errors
    /// [`ForgeError::NotFound`], [`ForgeError::Artifact`].
    pub async fn artifact(&self, caller: &Caller, id: ArtifactId) -> Result<(Artifact, ArtifactStream), ForgeError> {
        self.context.artifact(caller, id).await
    }

    /// Makes a link to a file that was taken out, with which whoever has it may download it for `seconds`.
    ///
    /// # Errors
    /// [`ForgeError::NotFound`]; [`ForgeError::Invalid`] for a time that is not between a second and a week;
    /// [`ForgeError::Conflict`] without a key that signs links.
    pub async fn link(&self, caller: &Caller, id: ArtifactId, seconds: u32) -> Result<SignedLink, ForgeError> {
        self.context.link(caller, id, seconds).await
    }

    /// Makes a link to a file that [`export`](Self::export) or [`artifacts`](Self::artifacts) told of.
    ///
    /// # Errors
    /// Those of [`link`](Self::link) but for `NotFound`.
    pub fn link_to(&self, artifact: &Artifact, seconds: u32) -> Result<SignedLink, ForgeError> {
        self.context.link_to(artifact, seconds)
    }

    /// Reads the file of a link, for whoever has it.
    ///
    /// # Errors
    /// [`ForgeError::NotFound`] for a link that is wrong or has expired, or a file that is gone.
    pub async fn download(&self, claim: &LinkClaim, proof: &str) -> Result<(Artifact, ArtifactStream), ForgeError> {
        self.context.download(claim, proof).await
    }

    /// Measures what all sandboxes use that are ready, to be told by [`usage_samples`](Self::usage_samples).
    ///
    /// # Errors
    /// Those of the store. What cannot be measured is left out.
    pub async fn sample_usage(&self) -> Result<(), ForgeError> {
        self.context.sample_usage().await
    }

    /// What the tenant's sandboxes used when it was last measured.
    ///
    /// # Errors
    /// [`ForgeError::Forbidden`].
    pub fn usage_samples(&self, caller: &Caller) -> Result<Vec<UsageSample>, ForgeError> {
        self.context.usage_samples(caller)
    }

    /// Ends the sandboxes whose time has come; their files are kept first. Those that somebody began to start and then
    /// died are brought up. One that fails holds up no other. Those that this process is connected to are told anew what
    /// they may reach, which another may have changed.
    ///
    /// # Errors
    /// Those of the store, before anything was done.
    pub async fn reap(&self) -> Result<Reaped, ForgeError> {
        self.context.reap().await
    }

    /// Removes the bytes of snapshots and files that were taken out which no row tells of: what is left when a process is
    /// killed between storing the two. They go a day after their making began, so that what other processes are storing
    /// stays, and only where they are of a sandbox of this store. It lists all that is stored, so once in hours is enough.
    ///
    /// # Errors
    /// Those of the store of artifacts, when it cannot list.
    pub async fn sweep(&self) -> Result<Swept, ForgeError> {
        self.context.sweep().await
    }

    /// Makes rows and machines agree: to be called at the start, and now and then where several nodes share a store,
    /// because a machine whose sandbox was deleted through another node goes only here. A sandbox whose machine is gone is
    /// told as lost and comes back when it is used; a machine that no live sandbox has is removed, and so is the workspace
    /// that a dead machine left of a sandbox that will not come back. Those that `is_foreign` names stay: they belong to
    /// somebody else who uses the same drivers.
    ///
    /// # Errors
    /// Those of the store and the drivers.
    pub async fn adopt(&self, is_foreign: &(dyn Fn(SandboxId) -> bool + Sync)) -> Result<(), ForgeError> {
        self.context.adopt(is_foreign).await
    }
}

impl fmt::Debug for ControlPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlPlane").field("engine", &self.context).finish_non_exhaustive()
    }
}

impl fmt::Debug for ControlPlaneBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlPlaneBuilder").field("engine", &self.context).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
