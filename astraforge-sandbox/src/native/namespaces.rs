//! The name spaces of a sandbox: made with its first process, and told apart from the host's.

use std::{fs, io};

use rustix::{
    process::{Pid, Uid},
    thread::{CapabilitySets, UnshareFlags},
};

/// Names of the name spaces that a sandbox has of its own.
const KINDS: [&str; 7] = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"];

/// Reads which name spaces this process is in.
pub(super) fn own() -> io::Result<Vec<String>> {
    KINDS
        .iter()
        .map(|kind| Ok(fs::read_link(format!("/proc/self/ns/{kind}"))?.to_string_lossy().into_owned()))
        .collect()
}

/// Starts a sandbox's first process in name spaces of its own; `None` is the answer in that process.
///
/// The one for control groups is left out: it has to be made when the process is in its group.
///
/// The name spaces are `owner`'s, where the agent has an id of its own: what the kernel counts by user and by name space
/// (watches on files, processes, name spaces) is then nobody else's, and nothing of it can be used up for root.
pub(super) fn spawn(owner: Option<u32>) -> io::Result<Option<Pid>> {
    let Some(id) = owner else { return clone() };
    let (root, owner) = (Uid::ROOT, Uid::from_raw(id));
    rustix::thread::set_thread_res_uid(root, owner, owner)?;
    let spawned = own_files_as_root().and_then(|()| clone());
    if !matches!(spawned, Ok(None)) {
        rustix::thread::set_thread_res_uid(root, root, root)?;
    }
    spawned
}

/// Keeps root's access to files, and all capabilities, for a process that has become another user otherwise.
fn own_files_as_root() -> io::Result<()> {
    #[expect(unsafe_code, reason = "rustix does not wrap setfsuid")]
    // SAFETY: takes a plain number, and changes this thread alone, which is the process's only one.
    unsafe {
        libc::setfsuid(0);
    }
    let held = rustix::thread::capabilities(None)?;
    Ok(rustix::thread::set_capabilities(None, CapabilitySets { effective: held.permitted, ..held })?)
}

fn clone() -> io::Result<Option<Pid>> {
    let flags = libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::SIGCHLD;
    #[expect(unsafe_code, reason = "there is no safe way to clone a process")]
    // SAFETY: like fork: no memory or stack is shared, and the launcher has one thread, so no lock is held by another.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    match i32::try_from(pid) {
        Ok(pid) if pid >= 0 => Ok(Pid::from_raw(pid)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Leaves the named name spaces for new ones. For processes with one thread.
#[expect(unsafe_code, reason = "rustix marks unshare unsafe for flags that would break other threads")]
pub(super) fn leave(kinds: UnshareFlags) -> rustix::io::Result<()> {
    // SAFETY: this program's processes have one thread when they come here.
    unsafe { rustix::thread::unshare_unsafe(kinds) }
}
