//! Cancellation: tells work in progress that nobody wants it any more.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use futures::{
    FutureExt,
    channel::oneshot,
    future::{BoxFuture, Shared},
};

/// Ends work: the half that is kept.
#[derive(Debug)]
pub struct Canceller(Mutex<Option<oneshot::Sender<()>>>);

/// Ends work: the half that work listens to. Clones hear the same call.
#[derive(Clone)]
pub struct Cancellation {
    called: Shared<BoxFuture<'static, ()>>,
}

impl Cancellation {
    /// Makes both halves.
    ///
    /// ```
    /// use astraforge_core::cancel::Cancellation;
    ///
    /// let (canceller, cancellation) = Cancellation::pair();
    /// assert!(!cancellation.is_cancelled());
    /// canceller.cancel();
    /// assert!(cancellation.is_cancelled());
    /// ```
    #[must_use]
    pub fn pair() -> (Arc<Canceller>, Self) {
        let (sender, receiver) = oneshot::channel();
        // A canceller that is dropped will never call.
        let called = receiver.then(|called| async move {
            if called.is_err() {
                futures::future::pending::<()>().await;
            }
        });
        (Arc::new(Canceller(Mutex::new(Some(sender)))), Self { called: called.boxed().shared() })
    }

    /// A cancellation that never comes.
    #[must_use]
    pub fn never() -> Self {
        Self { called: futures::future::pending().boxed().shared() }
    }

    /// Waits for the call.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn cancelled(&self) {
        self.called.clone().await;
    }

    /// Tells whether the call came.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.called.clone().now_or_never().is_some()
    }
}

impl fmt::Debug for Cancellation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cancellation").field("cancelled", &self.is_cancelled()).finish()
    }
}

impl Canceller {
    /// Calls; the second time does nothing.
    pub fn cancel(&self) {
        let sender = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(sender) = sender {
            // Nobody listens any more: the work is over.
            _ = sender.send(());
        }
    }
}
