//! Sandboxes in stock: made ahead of time, and handed out to whoever asks for one like them.
//!
//! A sandbox in stock is whole and closed in, and waits; its folder has no sandbox's name yet. Handing it out is telling
//! its guest whom it serves and renaming its folder, in this order: one that the server dies over is found under its old
//! name by the next one. The renaming fails where the name is taken, so neither a sandbox nor a name is given twice.
//!
//! A guest in stock waits for its server some seconds only: what a dead server kept ready ends by itself.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use astraforge_core::BoxError;
use tokio::task::AbortHandle;

use super::{
    connect,
    launch_spec::Shape,
    maker::{Design, Maker, blocking},
    record::{Folder, Lock},
};
use crate::guest::client::GuestClient;

/// How long a guest may take to begin. It takes less than a millisecond.
const BEGIN: Duration = Duration::from_secs(5);
/// How long a sandbox may be in stock: what it shows of the host may have been replaced since.
const MAX_AGE: Duration = Duration::from_secs(3600);

/// The stock of one driver. Dropped, it removes what it holds.
#[derive(Debug)]
pub(super) struct Pool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    maker: Arc<Maker>,
    size: usize,
    stock: Mutex<Stock>,
}

#[derive(Debug, Default)]
struct Stock {
    /// What the sandboxes in stock are to be like.
    aim: Option<Shape>,
    /// What was asked for last and not to be had.
    missed: Option<Shape>,
    spares: VecDeque<Spare>,
    /// What is being made or removed, and the hold on its folder until its launcher has one.
    in_hand: Option<(Folder, Option<Lock>)>,
    is_filling: bool,
    is_closed: bool,
}

#[derive(Debug)]
struct Spare {
    shape: Shape,
    folder: Folder,
    /// The host's id behind its agent.
    owner: Option<u32>,
    guest: GuestClient,
    made: Instant,
    /// Waits for its death.
    watch: AbortHandle,
}

impl Pool {
    pub(super) fn new(maker: Arc<Maker>, size: usize) -> Self {
        Self { shared: Arc::new(Shared { maker, size, stock: Mutex::default() }) }
    }

    /// Makes a sandbox of the stock the one of `folder`, if there is one like `design` and the folder is nobody's yet.
    pub(super) async fn take(&self, folder: &Folder, design: &Design) -> bool {
        if self.shared.size == 0 {
            return false;
        }
        let spare = self.shared.lock().take(&design.shape);
        let taken = match spare {
            Some(spare) if !folder.path().exists() => self.shared.hand_out(spare, folder, design).await,
            Some(spare) => {
                self.shared.put_back(spare);
                false
            }
            None => false,
        };
        fill_in_background(&self.shared);
        taken
    }

    /// Has the stock hold sandboxes of `shape`, and returns once it is full.
    pub(super) async fn prepare(&self, shape: Shape) -> Result<(), BoxError> {
        self.shared.lock().aim = Some(shape);
        loop {
            if self.shared.lock().begin_filling() {
                return fill(&self.shared).await;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let (spares, in_hand) = {
            let mut stock = self.shared.lock();
            stock.is_closed = true;
            (std::mem::take(&mut stock.spares), stock.in_hand.take())
        };
        for spare in spares {
            remove(&spare.retire());
        }
        if let Some((folder, lock)) = in_hand {
            // What this process holds itself cannot be removed.
            drop(lock);
            remove(&folder);
        }
    }
}

impl Stock {
    /// Takes out a sandbox like `shape`. What is asked for in vain twice in a row is what the stock holds from then on.
    fn take(&mut self, shape: &Shape) -> Option<Spare> {
        let fits = |spare: &Spare| spare.shape == *shape && spare.is_fresh();
        if let Some(spare) = self.spares.iter().position(fits).and_then(|i| self.spares.remove(i)) {
            self.missed = None;
            return Some(spare);
        }
        if self.aim.is_none() || self.missed.as_ref() == Some(shape) {
            self.aim = Some(shape.clone());
        }
        self.missed = Some(shape.clone());
        None
    }

    /// Takes out what nobody is to get any more.
    fn take_stale(&mut self) -> Option<Spare> {
        let aim = self.aim.as_ref();
        let is_stale = |spare: &Spare| aim != Some(&spare.shape) || !spare.is_fresh();
        self.spares.iter().position(is_stale).and_then(|i| self.spares.remove(i))
    }

    /// Tells whether the caller is the one who fills the stock.
    fn begin_filling(&mut self) -> bool {
        !self.is_closed && !std::mem::replace(&mut self.is_filling, true)
    }
}

impl Spare {
    fn is_fresh(&self) -> bool {
        !self.guest.is_lost() && self.made.elapsed() < MAX_AGE
    }

    /// Lets go of the connection, and returns what is left to remove.
    fn retire(self) -> Folder {
        self.watch.abort();
        self.folder
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Stock> {
        // No code panics while it holds the stock, which is whole between any two of its calls.
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put_back(&self, spare: Spare) {
        let mut stock = self.lock();
        if stock.is_closed {
            drop(stock);
            remove(&spare.retire());
        } else {
            stock.spares.push_front(spare);
        }
    }

    /// Gives a sandbox of the stock its name. One that does not begin, or whose name was taken, is removed.
    async fn hand_out(&self, spare: Spare, to: &Folder, design: &Design) -> bool {
        let begun = tokio::time::timeout(BEGIN, spare.guest.begin(design.config.clone())).await;
        let keep = design.shape.workspace.is_kept().then_some(spare.owner);
        let from = spare.retire();
        let given = match begun {
            Ok(Ok(())) => from.hand_out(to, keep),
            Ok(Err(error)) => Err(io::Error::other(error)),
            Err(elapsed) => Err(elapsed.into()),
        };
        match given {
            Ok(true) => return true,
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "a sandbox in stock cannot be handed out; another is made"),
        }
        drop(blocking(move || from.destroy()).await);
        false
    }
}

/// Fills the stock in a task of its own, unless one is at it.
fn fill_in_background(shared: &Arc<Shared>) {
    if shared.lock().begin_filling() {
        let shared = Arc::clone(shared);
        tokio::spawn(async move {
            if let Err(error) = fill(&shared).await {
                tracing::warn!(%error, "cannot make a sandbox ahead of time");
            }
        });
    }
}

/// Removes what is stale and makes what is missing, one after the other. The caller is the one who fills.
async fn fill(shared: &Arc<Shared>) -> Result<(), BoxError> {
    let filled = loop {
        let (stale, wanted) = {
            let mut stock = shared.lock();
            let stale = stock.take_stale();
            let is_full = stock.spares.len() >= shared.size || stock.is_closed;
            (stale, stock.aim.clone().filter(|_| !is_full))
        };
        if let Some(spare) = stale {
            let folder = spare.retire();
            shared.lock().in_hand = Some((folder.clone(), None));
            drop(blocking(move || folder.destroy()).await);
            shared.lock().in_hand = None;
            continue;
        }
        let Some(shape) = wanted else { break Ok(()) };
        match make(shared, shape).await {
            Ok(Some(spare)) => shared.put_back(spare),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    shared.lock().is_filling = false;
    filled
}

/// Makes a sandbox for the stock; `None` when it is closed.
async fn make(shared: &Arc<Shared>, shape: Shape) -> Result<Option<Spare>, BoxError> {
    let (folder, lock, spec) = shared.maker.begin_spare(shape.clone())?;
    shared.lock().in_hand = Some((folder.clone(), Some(lock)));
    let launched = shared.maker.launch(&spec).await;
    if let Some((_, lock)) = &mut shared.lock().in_hand {
        *lock = None;
    }
    let connected = async {
        launched?;
        Ok::<_, BoxError>(GuestClient::connect(connect(&folder).await?, Vec::new()).await?)
    };
    let connected = connected.await;
    // Whoever closed the stock meanwhile has removed it.
    if shared.lock().in_hand.take().is_none() {
        return Ok(None);
    }
    match connected {
        Ok(guest) => {
            let watch = replace_when_lost(shared, guest.clone());
            Ok(Some(Spare { shape, folder, owner: spec.host_id, guest, made: Instant::now(), watch }))
        }
        Err(error) => {
            blocking(move || folder.destroy()).await?;
            Err(error)
        }
    }
}

fn replace_when_lost(shared: &Arc<Shared>, guest: GuestClient) -> AbortHandle {
    let shared = Arc::downgrade(shared);
    let watch = tokio::spawn(async move {
        guest.lost().await;
        if let Some(shared) = shared.upgrade() {
            fill_in_background(&shared);
        }
    });
    watch.abort_handle()
}

fn remove(folder: &Folder) {
    if let Err(error) = folder.destroy() {
        tracing::warn!(%error, "a sandbox in stock is left over");
    }
}
