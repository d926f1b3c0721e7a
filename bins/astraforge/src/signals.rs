//! Being told to stop: Ctrl-C, a supervisor's SIGTERM, a terminal that is closed, a reader that is gone.

use std::{
    error::Error,
    fmt, io,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::Notify,
};

/// Standard output takes no more: its reader, such as `head`, has had enough, or what it is written to is full.
#[derive(Debug)]
pub(crate) struct OutputGone {
    is_so: AtomicBool,
    failure: OnceLock<io::Error>,
    noticed: Notify,
}

impl OutputGone {
    /// Tells it to whoever waits in [`StopSignals::told`].
    pub(crate) fn notice(&self, error: io::Error) {
        if error.kind() != io::ErrorKind::BrokenPipe {
            // The first one says why.
            _ = self.failure.set(error);
        }
        self.is_so.store(true, Ordering::Relaxed);
        self.noticed.notify_one();
    }

    /// What went wrong, unless a reader has had enough.
    pub(crate) fn failure(&self) -> Option<&io::Error> {
        self.failure.get()
    }

    /// Whether it was noticed.
    pub(crate) fn is_so(&self) -> bool {
        self.is_so.load(Ordering::Relaxed)
    }
}

/// There is one standard output.
pub(crate) static OUTPUT_GONE: OutputGone =
    OutputGone { is_so: AtomicBool::new(false), failure: OnceLock::new(), noticed: Notify::const_new() };

/// Hears the signals that ask a process to stop, from the moment it is made.
#[derive(Debug)]
pub(crate) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    /// None under `nohup`, which asks to go on without a terminal.
    hang_up: Option<Signal>,
}

impl StopSignals {
    /// Begins to listen. From here on none of them ends the process by itself.
    pub(crate) fn listen() -> io::Result<Self> {
        let hang_up = if is_hang_up_ignored() { None } else { Some(signal(SignalKind::hangup())?) };
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())?, hang_up })
    }

    /// Waits for one.
    pub(crate) async fn told(&mut self) {
        let hung_up = async {
            match &mut self.hang_up {
                Some(signal) => signal.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = hung_up => {}
            () = OUTPUT_GONE.noticed.notified() => {}
        }
    }
}

/// Whether whoever started this process has it ignore SIGHUP.
fn is_hang_up_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

/// A command was told to stop before its end.
#[derive(Debug)]
pub(crate) struct Interrupted {
    /// Whether the server was this command's own, and so has stopped with it.
    pub(crate) server_stopped: bool,
    /// What became of what it was doing, and what to do next; may be empty.
    pub(crate) then: String,
}

impl Interrupted {
    /// The exit code of a process that Ctrl-C ended.
    pub(crate) const EXIT_CODE: u8 = 130;
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.then.is_empty() { "interrupted" } else { "interrupted; " })?;
        f.write_str(&self.then)
    }
}

impl Error for Interrupted {}
