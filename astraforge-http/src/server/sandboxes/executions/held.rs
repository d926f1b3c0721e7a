//! A command whose starter may come and go: its output is held until it was seen, and it ends when nobody comes back.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use astraforge_core::{
    error::chain,
    ports::sessions::{ExecControl, Execution, SessionError},
    session::{ExecEvent, Exit},
};
use axum::http::StatusCode;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use tokio::sync::{Notify, watch};

use super::super::super::error::ApiError;

/// The most output that is held until its reader says that it was seen, in bytes.
const WINDOW: u64 = 1024 * 1024;
/// The most output that is told in one piece, in bytes.
const MOST_AT_ONCE: usize = 32 * 1024;
/// What a piece costs beside its bytes, so that very small ones are bounded too.
const PIECE: u64 = 64;

/// A command that is held.
pub(super) struct Held {
    control: Arc<dyn ExecControl>,
    output: Mutex<Output>,
    changed: Notify,
    readers: watch::Sender<Readers>,
    is_dismissed: watch::Sender<bool>,
}

/// How many follow a command now, and did so far: one that comes and goes in a moment counts too.
#[derive(Debug, Clone, Copy, Default)]
struct Readers {
    now: usize,
    so_far: u64,
}

/// What it wrote that was not seen yet, and how it ended.
#[derive(Default)]
struct Output {
    /// The first byte that is held, counted over both streams.
    first: u64,
    /// The first byte that is yet to come.
    next: u64,
    /// Each with its first byte.
    pieces: VecDeque<(u64, ExecEvent)>,
    end: Option<Result<Exit, ApiError>>,
    /// Whether a reader was told how it ended.
    was_told: bool,
}

/// What comes next for a reader.
pub(super) enum Next {
    /// The command wrote something, or something of it is lost.
    Output(ExecEvent),
    /// It ended.
    Ended(ExecEvent),
    /// Nothing, before the reader says what it has seen.
    Nothing,
}

/// Somebody who follows a command.
pub(super) struct Reader(Arc<Held>);

impl Held {
    pub(super) fn new(control: Arc<dyn ExecControl>) -> Self {
        Self {
            control,
            output: Mutex::default(),
            changed: Notify::new(),
            readers: watch::Sender::new(Readers::default()),
            is_dismissed: watch::Sender::new(false),
        }
    }

    pub(super) fn control(&self) -> &dyn ExecControl {
        self.control.as_ref()
    }

    /// Keeps the command's output until it is given up: then it is ended, with all it started.
    pub(super) async fn keep(&self, mut execution: Execution, grace: Duration) {
        let filling = async {
            let end = self.fill(&mut execution).await;
            self.output().end = Some(end);
            self.changed.notify_waiters();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = filling => {}
            () = self.given_up(grace) => {}
        }
        drop(execution);
        self.output().end.get_or_insert_with(|| Err(ApiError::from(SessionError::Lost)));
        self.changed.notify_waiters();
    }

    /// Whether somebody was told how it ended, and nobody follows it any more.
    pub(super) fn was_told(&self) -> bool {
        self.output().was_told && self.readers.borrow().now == 0
    }

    /// Gives the command up at once.
    pub(super) fn dismiss(&self) {
        self.is_dismissed.send_replace(true);
    }

    /// Lets go of what lies before byte `from`, which was seen.
    pub(super) fn let_go_before(&self, from: u64) -> Result<(), ApiError> {
        let mut output = self.output();
        let Output { first, next, .. } = *output;
        if !(first..=next).contains(&from) {
            let detail = format!("Bytes {first} to {next} of the output can be read, and byte {from} is none of them.");
            return Err(ApiError::new(StatusCode::CONFLICT, detail).with_code("out_of_range"));
        }
        if let (true, Some(Err(refusal))) = (from == next, &output.end) {
            return Err(refusal.clone());
        }
        output.first = from;
        while output.pieces.front().is_some_and(|(start, piece)| start + length(piece) <= from) {
            output.pieces.pop_front();
        }
        drop(output);
        self.changed.notify_waiters();
        Ok(())
    }

    /// Follows it, which keeps it alive.
    pub(super) fn reader(self: &Arc<Self>) -> Reader {
        self.readers.send_modify(|readers| {
            readers.now += 1;
            readers.so_far += 1;
        });
        Reader(Arc::clone(self))
    }

    /// Reads what the command writes, as fast as it is seen, and returns how it ended.
    async fn fill(&self, execution: &mut Execution) -> Result<Exit, ApiError> {
        loop {
            self.room().await;
            match execution.events.next().await {
                Some(Ok(ExecEvent::Exited(exit))) => return Ok(exit),
                Some(Ok(event)) => self.output().push(event),
                Some(Err(error)) => {
                    tracing::info!(error = chain(&error), "the output of a command broke off");
                    return Err(error.into());
                }
                None => return Err(SessionError::Lost.into()),
            }
            self.changed.notify_waiters();
        }
    }

    /// Ends when there is room for more.
    async fn room(&self) {
        loop {
            let changed = self.changed.notified();
            if !self.output().is_full() {
                return;
            }
            changed.await;
        }
    }

    /// Ends when nobody has followed it for `grace`, or it was dismissed.
    async fn given_up(&self, grace: Duration) {
        let (mut readers, mut dismissed) = (self.readers.subscribe(), self.is_dismissed.subscribe());
        let abandoned = async {
            // The senders are in `self`, so that waiting never fails.
            while let Ok(so_far) = readers.wait_for(|it| it.now == 0).await.map(|it| it.so_far) {
                let comes = readers.wait_for(|it| it.so_far != so_far);
                if tokio::time::timeout(grace, comes).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = abandoned => {}
            _ = dismissed.wait_for(|is_dismissed| *is_dismissed) => {}
        }
    }

    fn output(&self) -> MutexGuard<'_, Output> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Output {
    fn n_bytes(&self) -> u64 {
        self.next - self.first
    }

    fn is_full(&self) -> bool {
        self.n_bytes() + PIECE * self.pieces.len() as u64 >= WINDOW
    }

    fn push(&mut self, event: ExecEvent) {
        let (start, n_bytes) = (self.next, length(&event));
        self.next += n_bytes;
        if n_bytes == 0 {
            return;
        }
        match (self.pieces.back_mut().map(|(_, last)| last), event) {
            (Some(ExecEvent::Stdout(last)), ExecEvent::Stdout(more))
            | (Some(ExecEvent::Stderr(last)), ExecEvent::Stderr(more))
                if last.len() + more.len() <= MOST_AT_ONCE =>
            {
                *last = joined(last, &more);
            }
            (_, event) => self.pieces.push_back((start, event)),
        }
    }

    /// What is held from byte `position` on, in one piece.
    fn at(&self, position: u64) -> Option<ExecEvent> {
        let place = self.pieces.partition_point(|(start, _)| *start <= position).checked_sub(1)?;
        let (start, piece) = self.pieces.get(place)?;
        let seen = position - start;
        let rest = |bytes: &Bytes| {
            let begin = usize::try_from(seen).ok().filter(|begin| *begin < bytes.len())?;
            Some(bytes.slice(begin..bytes.len().min(begin + MOST_AT_ONCE)))
        };
        match piece {
            ExecEvent::Stdout(bytes) => rest(bytes).map(ExecEvent::Stdout),
            ExecEvent::Stderr(bytes) => rest(bytes).map(ExecEvent::Stderr),
            ExecEvent::Lost(n_bytes) => (seen < *n_bytes).then(|| ExecEvent::Lost(n_bytes - seen)),
            ExecEvent::Exited(_) => None,
        }
    }
}

impl Reader {
    /// What comes next at byte `position`, for a reader that began at byte `from`.
    pub(super) async fn next(&self, position: u64, from: u64) -> Next {
        loop {
            let changed = self.0.changed.notified();
            {
                let mut output = self.0.output();
                // Half of what may be held is left to come while the reader says what it has seen.
                if position - from >= WINDOW / 2 {
                    return Next::Nothing;
                }
                if let Some(piece) = output.at(position) {
                    return Next::Output(piece);
                }
                match &output.end {
                    Some(Ok(exit)) if position == output.next => {
                        let exit = ExecEvent::Exited(*exit);
                        output.was_told = true;
                        return Next::Ended(exit);
                    }
                    Some(_) => return Next::Nothing,
                    None if output.is_full() => return Next::Nothing,
                    None => {}
                }
            }
            changed.await;
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.readers.send_modify(|readers| readers.now -= 1);
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").finish_non_exhaustive()
    }
}

fn length(event: &ExecEvent) -> u64 {
    match event {
        ExecEvent::Stdout(bytes) | ExecEvent::Stderr(bytes) => bytes.len() as u64,
        ExecEvent::Lost(n_bytes) => *n_bytes,
        ExecEvent::Exited(_) => 0,
    }
}

fn joined(one: &Bytes, other: &Bytes) -> Bytes {
    let mut both = BytesMut::with_capacity(one.len() + other.len());
    both.extend_from_slice(one);
    both.extend_from_slice(other);
    both.freeze()
}

#[cfg(test)]
pub(super) mod tests {
    use astraforge_core::session::{PtySize, Signal};
    use async_trait::async_trait;
    use futures::{FutureExt, channel::mpsc};

    use super::*;

    const GRACE: Duration = Duration::from_secs(15);

    pub(in super::super) struct Mute;

    #[async_trait]
    impl ExecControl for Mute {
        async fn signal(&self, _: Signal) -> Result<(), SessionError> {
            Ok(())
        }

        async fn write_stdin(&self, _: Bytes) -> Result<(), SessionError> {
            Ok(())
        }

        async fn close_stdin(&self) -> Result<(), SessionError> {
            Ok(())
        }

        async fn resize(&self, _: PtySize) -> Result<(), SessionError> {
            Ok(())
        }
    }

    /// A command that does what is sent to it; once it was ended, nothing more can be sent.
    fn command() -> (Arc<Held>, mpsc::UnboundedSender<Result<ExecEvent, SessionError>>) {
        let (says, events) = mpsc::unbounded();
        let held = Arc::new(Held::new(Arc::new(Mute)));
        let keeping = held.clone();
        let execution = Execution { events: events.boxed(), control: Arc::new(Mute) };
        tokio::spawn(async move { keeping.keep(execution, GRACE).await });
        (held, says)
    }

    /// Reads one stream from byte `from` on; tells what was read, and how the command ended if that was told.
    async fn read(held: &Arc<Held>, from: u64) -> (Vec<u8>, Option<Exit>) {
        let (reader, mut read) = (held.reader(), Vec::new());
        loop {
            match reader.next(from + read.len() as u64, from).await {
                Next::Output(ExecEvent::Stdout(bytes) | ExecEvent::Stderr(bytes)) => read.extend_from_slice(&bytes),
                Next::Output(other) => panic!("{other:?}"),
                Next::Ended(ExecEvent::Exited(exit)) => return (read, Some(exit)),
                Next::Ended(_) | Next::Nothing => return (read, None),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_lost_however_slowly_and_often_it_is_read() {
        let (held, says) = command();
        let whole: Vec<u8> = (0..5 * WINDOW).map(|n| (n % 251) as u8).collect();
        for (place, piece) in whole.chunks(7000).enumerate() {
            let bytes = Bytes::copy_from_slice(piece);
            let event = if place % 3 == 0 { ExecEvent::Stderr(bytes) } else { ExecEvent::Stdout(bytes) };
            says.unbounded_send(Ok(event)).unwrap();
        }
        says.unbounded_send(Ok(ExecEvent::Exited(Exit::Exited { code: 7 }))).unwrap();
        let (mut seen, mut n_streams) = (Vec::new(), 0);
        let exit = loop {
            held.let_go_before(seen.len() as u64).unwrap();
            let (mut read, exit) = read(&held, seen.len() as u64).await;
            n_streams += 1;
            if exit.is_some() && n_streams > 3 {
                seen.extend(read);
                break exit;
            }
            // A connection that breaks: the end of what was sent did not come.
            read.truncate(read.len() - read.len() / 3);
            seen.extend(read);
        };
        assert!(seen == whole, "{} of {} bytes", seen.len(), whole.len());
        assert_eq!(exit, Some(Exit::Exited { code: 7 }));
        let n_held = held.output().n_bytes();
        assert!(n_held <= WINDOW + 7000, "{n_held}");
        assert!(held.let_go_before(0).is_err(), "what was seen is not held");
    }

    #[tokio::test(start_paused = true)]
    async fn a_command_writes_no_faster_than_it_is_seen() {
        let (held, says) = command();
        let piece = Bytes::from(vec![b'x'; 10_000]);
        for _ in 0..1000 {
            says.unbounded_send(Ok(ExecEvent::Stdout(piece.clone()))).unwrap();
        }
        let first = read(&held, 0).await.0.len() as u64;
        assert!(first >= WINDOW / 2, "{first}");
        tokio::time::sleep(Duration::from_secs(1)).await;
        let held_now = held.output().next;
        assert!(held_now <= WINDOW + 10_000, "{held_now}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_command_ends_when_nobody_comes_back() {
        let (held, says) = command();
        tokio::time::sleep(GRACE - Duration::from_secs(1)).await;
        let reader = held.reader();
        tokio::time::sleep(10 * GRACE).await;
        assert!(!says.is_closed(), "it is followed");
        drop(reader);
        tokio::time::sleep(GRACE - Duration::from_secs(1)).await;
        drop(held.reader());
        tokio::time::sleep(GRACE - Duration::from_secs(1)).await;
        assert!(!says.is_closed(), "its reader was there a moment ago");
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(says.is_closed(), "it was ended");
        assert!(held.let_go_before(0).is_err(), "and whoever comes later is told so");
    }

    #[tokio::test(start_paused = true)]
    async fn a_command_that_is_dismissed_ends_at_once_with_its_readers() {
        let (held, says) = command();
        let following = tokio::spawn({
            let held = held.clone();
            async move { read(&held, 0).await }
        });
        tokio::task::yield_now().await;
        held.dismiss();
        assert_eq!(following.await.unwrap(), (Vec::new(), None));
        assert!(says.is_closed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_sandbox_that_goes_away_is_told_to_whoever_reads_on() {
        let (held, says) = command();
        says.unbounded_send(Ok(ExecEvent::Stdout(Bytes::from_static(b"last words")))).unwrap();
        says.unbounded_send(Err(SessionError::Lost)).unwrap();
        assert_eq!(read(&held, 0).await, (b"last words".to_vec(), None));
        assert!(held.let_go_before(4).is_ok(), "what it wrote can be read again");
        assert!(held.let_go_before(10).is_err());
        assert!(held.reader().next(10, 10).now_or_never().is_some());
    }
}
