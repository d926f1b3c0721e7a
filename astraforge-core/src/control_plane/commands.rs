//! What can be asked of a control plane, as plain values: each is carried out by a tower service.

use std::sync::Arc;

use super::{Created, NewSandbox, NewSnapshot};
use crate::{
    access::Caller,
    command::commands,
    egress::Egress,
    id::{SandboxId, SnapshotId},
    ports::machines::Machine,
    sandbox::{Sandbox, Snapshot},
};

commands! {
    /// Makes a sandbox, or finds the one of that id, and makes it ready.
    CreateSandbox -> Created {
        /// Who asks.
        caller: Caller,
        /// What it is to be.
        new: NewSandbox,
    }

    /// Makes a sandbox ready, and hands out its machine. One that was stopped or lost comes back first.
    UseSandbox -> Arc<dyn Machine> {
        /// Who asks.
        caller: Caller,
        /// The sandbox.
        id: SandboxId,
    }

    /// Notes that the sandbox's user is there.
    NoteHeartbeat -> Sandbox {
        /// Who is there.
        caller: Caller,
        /// The sandbox.
        id: SandboxId,
    }

    /// Changes which addresses a sandbox may reach.
    ChangeEgress -> Sandbox {
        /// Who asks.
        caller: Caller,
        /// The sandbox.
        id: SandboxId,
        /// What it may reach from now on.
        egress: Egress,
    }

    /// Keeps the files of a sandbox, and ends its machine.
    StopSandbox -> () {
        /// Who asks.
        caller: Caller,
        /// The sandbox.
        id: SandboxId,
    }

    /// Ends a sandbox for good.
    DeleteSandbox -> () {
        /// Who asks.
        caller: Caller,
        /// The sandbox.
        id: SandboxId,
    }

    /// Keeps the files of a sandbox.
    TakeSnapshot -> Snapshot {
        /// Who asks.
        caller: Caller,
        /// The sandbox.
        id: SandboxId,
        /// What is kept.
        new: NewSnapshot,
    }

    /// Replaces the files of a sandbox by those of a snapshot.
    RestoreSnapshot -> () {
        /// Who asks.
        caller: Caller,
        /// The sandbox.
        id: SandboxId,
        /// The snapshot.
        snapshot: SnapshotId,
    }

    /// Makes a new sandbox with the files that another has now.
    ForkSandbox -> Sandbox {
        /// Who asks.
        caller: Caller,
        /// The sandbox.
        id: SandboxId,
    }
}
