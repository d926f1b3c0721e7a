//! The launcher: makes one sandbox, answers for it in one line, and stays until it has cleaned up after it.
//!
//! It is a program of its own because the server has threads, and a process with threads must not clone itself. It has
//! a session of its own too, so that what ends the server's terminal does not end the sandboxes.

use std::{
    fs,
    io::{self, Read, Write},
    os::{
        fd::AsRawFd,
        unix::{
            fs::PermissionsExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::Path,
};

use rustix::{
    fs::{CWD, Mode, OFlags},
    process::{Gid, Pid, Signal, Uid, WaitOptions},
};

use super::{
    confine::AGENT,
    disk,
    init::{self, Prepared},
    launch_spec::{AtStep, Failure, LaunchSpec, Payload, Report, WorkspacePlan},
    namespaces,
    record::{self, Folder, Lock, Process, Record},
    seccomp,
};

/// Name of the guest's socket in a sandbox's folder.
pub(super) const SOCKET: &str = "guest.sock";

/// Makes the sandbox that the specification on standard input asks for, and returns once it has ended.
///
/// The first line on standard output says whether it came to be.
///
/// # Errors
/// When the answer can't be given, or something of the sandbox can't be removed.
pub fn launch() -> io::Result<()> {
    let _ = rustix::process::setsid();
    match serde_json::from_reader(io::stdin().lock()).at("read the specification") {
        // Not even the folder is known; the server removes it.
        Err(failure) => answer(&Report::Failed(failure)),
        Ok(spec) => keep(&spec),
    }
}

/// Makes the sandbox, waits for its end, and removes what is left of it.
fn keep(spec: &LaunchSpec) -> io::Result<()> {
    let folder = Folder::new(&spec.folder);
    let lock = match folder.share().at("use the sandbox's folder") {
        // It was destroyed before it was made: what has its place now, if anything, is another's.
        Err(failure) => return answer(&Report::Failed(failure)),
        Ok(lock) => lock,
    };
    let outcome = hold_image(spec).and_then(|image| Ok((image, start(&folder, spec)?))).and_then(|(_image, child)| {
        // One that waits for its user has nothing to keep; whoever hands it out says so then.
        if spec.shape.workspace.is_kept() && matches!(spec.payload, Payload::Daemon(_)) {
            folder.keep_workspace(spec.host_id).at("keep the workspace").inspect_err(|_| child.kill())?;
        }
        answer(&Report::Ready).at("answer the server").inspect_err(|_| child.kill())?;
        child.wait();
        Ok(())
    });
    if let Err(failure) = outcome {
        // Nobody may be listening any more; what is left is removed all the same.
        let _ = answer(&Report::Failed(failure));
    }
    let cgroups = record::remove_cgroups(&spec.cgroups.iter().map(|it| it.folder.clone()).collect::<Vec<_>>());
    // It may have got another name since.
    let removed = lock.folder().and_then(|folder| folder.leave()).and(cgroups);
    drop(lock);
    removed
}

/// Keeps the image of the sandbox from being removed, as long as the returned lock is held.
fn hold_image(spec: &LaunchSpec) -> Result<Option<Lock>, Failure> {
    spec.shape.image.as_ref().map(|it| Folder::new(it).share().at("use the image")).transpose()
}

/// Makes the sandbox, up to where its first process has shut itself in.
fn start(folder: &Folder, spec: &LaunchSpec) -> Result<Child, Failure> {
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let mut record = Record {
        boot: record::boot(),
        keeper: Process::current().at("find out who this process is")?,
        init: None,
        cgroups: spec.cgroups.iter().map(|it| it.folder.clone()).collect(),
    };
    folder.write_record(&record).at("write the sandbox's record")?;
    let disk = match spec.shape.workspace {
        WorkspacePlan::Memory(_) => None,
        WorkspacePlan::Disk => {
            make_workspace(folder, spec.host_id).at("make the workspace folder")?;
            None
        }
        WorkspacePlan::Limited(size) => Some(disk::open(folder, size, spec.host_id)?),
    };
    for cgroup in &spec.cgroups {
        cgroup.make().at(format_args!("set limits in {}", cgroup.folder.display()))?;
    }
    let listener = listen(folder.path()).at("listen for the server")?;
    let (mut gate, launcher) = UnixStream::pair().at("make a socket pair")?;
    let prepared = Prepared {
        spec,
        filters: seccomp::filters()?,
        host: namespaces::own().at("read the host's name spaces")?,
        listener,
        disk,
        launcher,
    };
    let child = match namespaces::spawn(spec.host_id).at("make name spaces")? {
        None => {
            // Else this process would keep open the very end whose closing tells it that the launcher is gone.
            drop(gate);
            init::run(prepared)
        }
        Some(pid) => Child { pid },
    };
    drop(prepared);
    release(&child, spec, folder, &mut record, &mut gate).inspect_err(|_| child.kill())?;
    Ok(child)
}

/// Gives the first process its ids, lets it go on, and hears how it went.
fn release(
    child: &Child,
    spec: &LaunchSpec,
    folder: &Folder,
    record: &mut Record,
    gate: &mut UnixStream,
) -> Result<(), Failure> {
    record.init = Some(Process::of(child.pid).at("find the sandbox's first process")?);
    folder.write_record(record).at("write the sandbox's record")?;
    map_ids(child.pid, spec.host_id).at("map the sandbox's user")?;
    prefer_as_victim(child.pid).at("make the sandbox the first to go when memory runs out")?;
    gate.write_all(&[1]).at("release the sandbox's first process")?;
    // The gate itself must stay open: its end is how the sandbox notices that this process is gone.
    let mut line = Vec::new();
    gate.try_clone().and_then(|mut it| it.read_to_end(&mut line)).at("hear from the sandbox's first process")?;
    match serde_json::from_slice(&line) {
        Ok(Report::Ready) => Ok(()),
        Ok(Report::Failed(failure)) => Err(failure),
        Err(_) => Err(format!("it ended without a word: {}", child.wait())).at("shut the sandbox in"),
    }
}

/// The sandbox's first process, seen from outside.
struct Child {
    pid: Pid,
}

impl Child {
    fn kill(&self) {
        let _ = rustix::process::kill_process(self.pid, Signal::KILL);
        let _ = self.wait();
    }

    /// Waits for its end, and with it for the end of every process inside.
    fn wait(&self) -> String {
        loop {
            match rustix::process::waitpid(Some(self.pid), WaitOptions::empty()) {
                Err(rustix::io::Errno::INTR) => {}
                ended => return format!("{ended:?}"),
            }
        }
    }
}

/// Says how it went, and lets go of the server's pipes.
fn answer(report: &Report) -> io::Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    io::stdout().lock().write_all(&line)?;
    io::stdout().lock().flush()?;
    let null = fs::File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}

/// Listens on the guest's socket. It lies on the host, so nothing inside can connect to it or replace it.
fn listen(folder: &Path) -> io::Result<UnixListener> {
    // A socket's path may have 108 bytes; through a descriptor the folder's own length does not count.
    let dir = rustix::fs::openat(CWD, folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    UnixListener::bind(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd()))
}

/// Makes the folder of the workspace, or opens the one that an earlier sandbox of the same id left.
fn make_workspace(folder: &Folder, owner: Option<u32>) -> io::Result<()> {
    let path = folder.workspace();
    if folder.disk().exists() {
        return Err(io::Error::other("there is one with a hard limit, which this sandbox does not ask for"));
    }
    match fs::create_dir(&path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.keeps_workspace() => {
            // Its agent may have closed it to itself.
            let mode = fs::symlink_metadata(&path)?.permissions().mode();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode & 0o777 | 0o700))?;
        }
        made => made?,
    }
    if let Some(id) = owner {
        rustix::fs::chown(&path, Some(Uid::from_raw(id)), Some(Gid::from_raw(id)))?;
    }
    Ok(())
}

/// When the host itself runs out of memory a sandbox is to go, not its server. Processes inside inherit this, and what
/// a launcher with `CAP_SYS_RESOURCE` has set they cannot lower.
fn prefer_as_victim(pid: Pid) -> io::Result<()> {
    fs::write(format!("/proc/{}/oom_score_adj", pid.as_raw_nonzero()), "500")
}

/// Says which id of the host the agent is: a private one, or the launcher's own. There is no other inside.
fn map_ids(pid: Pid, host_id: Option<u32>) -> io::Result<()> {
    let proc = format!("/proc/{}", pid.as_raw_nonzero());
    let (uid, gid) = match host_id {
        Some(id) => (id, id),
        None => {
            fs::write(format!("{proc}/setgroups"), "deny")?;
            (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
        }
    };
    fs::write(format!("{proc}/uid_map"), format!("{AGENT} {uid} 1"))?;
    fs::write(format!("{proc}/gid_map"), format!("{AGENT} {gid} 1"))
}
