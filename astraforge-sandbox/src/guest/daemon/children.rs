//! The daemon's children: shims, which it knows, and strays, which it kills.
//!
//! An orphan's new parent is the shim of its command. Only when a shim dies before its tree does (the agent may kill
//! it: it runs with the same user id) the orphans come to the daemon. They belong to no live command then.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    io,
    rc::Rc,
    time::Duration,
};

use rustix::process::{Signal, WaitOptions, getpid, wait};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
    task::spawn_local,
    time::{Instant, sleep},
};

use super::process_table::{kill_descendants, send_signal};

/// Rounds of killing after which processes are stopped first.
const QUICK_ROUNDS: usize = 3;
/// How long strays may resist before everything in the sandbox is killed with them.
const PATIENCE: Duration = Duration::from_secs(3);
/// After this, what is left waits in the kernel for something that doesn't come; its death is certain, not its hour.
const RESIGNATION: Duration = Duration::from_secs(30);

/// The children of this process.
#[derive(Debug, Default)]
pub(super) struct Children {
    shims: RefCell<HashMap<i32, oneshot::Sender<()>>>,
}

impl Children {
    /// Starts to reap; to be called before the first fork.
    pub(super) fn watch() -> io::Result<Rc<Self>> {
        let children = Rc::<Self>::default();
        let mut deaths = signal(SignalKind::child())?;
        let reaper = Rc::clone(&children);
        spawn_local(async move {
            while deaths.recv().await.is_some() {
                reaper.reap();
            }
        });
        Ok(children)
    }

    /// Makes `pid` known as a shim. The returned channel closes when it has died and was reaped.
    pub(super) fn adopt(&self, pid: i32) -> oneshot::Receiver<()> {
        let (alive, death) = oneshot::channel();
        self.shims.borrow_mut().insert(pid, alive);
        death
    }

    fn reap(&self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG | WaitOptions::UNTRACED) {
            let pid = pid.as_raw_nonzero().get();
            if status.stopped() {
                // No child of the daemon has a reason to be stopped: somebody wants its command to last for ever.
                send_signal(pid, Signal::KILL);
            } else {
                self.shims.borrow_mut().remove(&pid);
            }
        }
    }

    /// Kills all children that are no live shims, and their descendants, until there are none.
    pub(super) async fn kill_strays(&self) {
        let me = getpid();
        let start = Instant::now();
        let mut pause = Duration::from_millis(1);
        for round in 0.. {
            self.reap();
            let shims: HashSet<i32> = self.shims.borrow().keys().copied().collect();
            let n_strays = kill_descendants(me.as_raw_nonzero().get(), &shims, round >= QUICK_ROUNDS);
            if n_strays == 0 || start.elapsed() > RESIGNATION {
                return;
            }
            if start.elapsed() > PATIENCE && me.is_init() {
                // As pid 1 this reaches every other process of the sandbox, at once, and nothing beyond it.
                drop(kill_everyone());
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// Kills everything, shims too.
    pub(super) async fn kill_all(&self) {
        self.shims.borrow_mut().clear();
        self.kill_strays().await;
    }
}

/// Kills every process that this one may signal, but itself. For pid 1 of a sandbox only.
fn kill_everyone() -> io::Result<()> {
    #[expect(unsafe_code, reason = "rustix takes no -1 for a process")]
    // SAFETY: `kill` takes plain numbers and touches no memory of this process.
    let result = unsafe { libc::kill(-1, libc::SIGKILL) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
