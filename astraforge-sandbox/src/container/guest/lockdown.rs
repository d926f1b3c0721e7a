//! What the first process of a container gives up, for itself and all that come after it.
//!
//! The engine has closed the container already. What is done here on top makes sandboxes of all drivers alike; where a
//! kernel or the engine's own filter does not allow it, what the engine gives remains.

use std::{fmt, io};

use landlock::{CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetStatus, Scope};
use rustix::process::{DumpableBehavior, Resource, Rlimit};

use crate::native::seccomp;

/// The guest, and relays of its hosts.
const OWN_PROCESSES: u64 = 8;

/// Shuts this process in.
///
/// # Errors
/// When even what every kernel can do fails.
pub(super) fn close_in(open_files: u32, processes: Option<u32>) -> io::Result<()> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    rustix::thread::set_no_new_privs(true)?;
    // A limit of one byte on dumps also keeps the kernel from starting a program of the host's that takes them.
    for (resource, max) in [(Resource::Nofile, u64::from(open_files)), (Resource::Core, 1), (Resource::Rtprio, 0)] {
        lower(resource, max)?;
    }
    if let Some(processes) = processes {
        lower(Resource::Nproc, u64::from(processes) + OWN_PROCESSES)?;
    }
    note("keep the sandbox apart from its host's relays", scope());
    note("load the system call filter", seccomp::filters().and_then(|filters| seccomp::load(&filters)));
    Ok(())
}

fn lower(resource: Resource, max: u64) -> io::Result<()> {
    let known = rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let max = Some(max.min(known));
    Ok(rustix::process::setrlimit(resource, Rlimit { current: max, maximum: max })?)
}

/// Lets nothing in here signal what was put into the container from outside, nor reach the guest's own socket, which
/// was made before.
fn scope() -> Result<(), Box<dyn std::error::Error>> {
    let rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .scope(Scope::AbstractUnixSocket | Scope::Signal)?
        .create()?;
    match rules.restrict_self()?.ruleset {
        RulesetStatus::NotEnforced => Err("this kernel or the engine's filter has no scopes of Landlock".into()),
        _ => Ok(()),
    }
}

/// Leaves a word in the container's log about what could not be had.
#[expect(clippy::print_stderr, reason = "the first process of a container has no other log")]
fn note<E: fmt::Display>(what: &str, result: Result<(), E>) {
    if let Err(error) = result {
        eprintln!("cannot {what}: {error}; what the container engine gives remains");
    }
}
