//! What the driver tells the launcher, and what the launcher answers.

use std::{fmt, path::PathBuf};

use astraforge_core::session::Limits;
use serde::{Deserialize, Serialize};

use super::{cgroups::CgroupPlan, root_plan::RootPlan};
use crate::guest::GuestConfig;

/// Everything the launcher needs to make one sandbox; read from its standard input as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LaunchSpec {
    /// The sandbox's folder on the host.
    pub(crate) folder: PathBuf,
    /// The host's id behind the sandbox's agent; `None` keeps the launcher's own.
    pub(crate) host_id: Option<u32>,
    /// What the sandbox is.
    pub(crate) shape: Shape,
    /// The control groups to make, and their limits.
    pub(crate) cgroups: Vec<CgroupPlan>,
    /// What the daemon is told.
    pub(crate) payload: Payload,
}

/// What a sandbox is, whoever it is for. Two of the same shape can stand for each other before they are used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shape {
    /// What the sandbox sees as its file system.
    pub(crate) root: RootPlan,
    /// The folder of the unpacked image in it, which nobody may remove while the sandbox lives.
    pub(crate) image: Option<PathBuf>,
    /// Where `/workspace` lives.
    pub(crate) workspace: WorkspacePlan,
    /// Size of `/tmp` and of the home folder, in bytes.
    pub(crate) tmp_size: u64,
    /// What it may use up.
    pub(crate) limits: Limits,
}

/// Where `/workspace` lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WorkspacePlan {
    /// In memory, with its size in bytes.
    Memory(u64),
    /// In the sandbox's own folder.
    Disk,
    /// In a file system of its own on disk, with its size in bytes.
    Limited(u64),
}

impl WorkspacePlan {
    /// Tells whether it outlives a sandbox that dies by itself.
    pub(crate) const fn is_kept(self) -> bool {
        matches!(self, Self::Disk | Self::Limited(_))
    }
}

/// What runs once the sandbox is closed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Payload {
    /// The guest daemon.
    Daemon(GuestConfig),
    /// The guest daemon, which is told later whom it serves.
    Spare,
    /// Nothing: the sandbox was made to see whether this machine can.
    Trial,
}

/// The launcher's answer: one line of JSON on its standard output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    /// The sandbox is closed and its daemon starts.
    Ready,
    /// There is no sandbox.
    Failed(Failure),
}

/// The step of the isolation that failed, and what the kernel said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// What was tried.
    pub(crate) step: String,
    /// What came of it.
    pub(crate) error: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}", self.step, self.error)
    }
}

impl std::error::Error for Failure {}

/// Names the step at which an error stopped the isolation.
pub(crate) trait AtStep<T> {
    /// Turns the error into a [`Failure`] at `step`, which reads on from "cannot".
    fn at(self, step: impl fmt::Display) -> Result<T, Failure>;
}

impl<T, E: fmt::Display> AtStep<T> for Result<T, E> {
    fn at(self, step: impl fmt::Display) -> Result<T, Failure> {
        self.map_err(|error| Failure { step: step.to_string(), error: error.to_string() })
    }
}
