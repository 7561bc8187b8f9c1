//! Stops the taking of messages while a token is refused, and lets one message at a time try whether it still is.

use tokio::sync::{Mutex, MutexGuard, watch};
use tracing::{info, warn};

/// Open in normal times. Closed by the first message that has to wait, opened by the first that need not.
#[derive(Debug)]
pub struct Gate {
    stage: &'static str,
    closed: watch::Sender<bool>,
    waiting: watch::Sender<usize>,
    probe: Mutex<()>,
}

/// Counts one message as waiting, for as long as it lives.
#[derive(Debug)]
pub struct Waiting<'a>(&'a Gate);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.send_modify(|waiting| *waiting -= 1);
    }
}

impl Gate {
    /// An open gate for the stage called `stage`.
    #[must_use]
    pub fn new(stage: &'static str) -> Self {
        Self {
            stage,
            closed: watch::Sender::new(false),
            waiting: watch::Sender::new(0),
            probe: Mutex::new(()),
        }
    }

    /// Whether messages have to wait.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Closes the gate because of `reason`, which is logged once.
    pub fn close(&self, reason: &str) -> Waiting<'_> {
        self.waiting.send_modify(|waiting| *waiting += 1);
        if !self.closed.send_replace(true) {
            warn!(
                stage = self.stage,
                reason, "no more messages are taken until this passes; those here are kept"
            );
        }
        Waiting(self)
    }

    /// Opens the gate.
    pub fn open(&self) {
        if self.closed.send_replace(false) {
            info!(stage = self.stage, "messages are taken again");
        }
    }

    /// Resolves when another message may be taken: the gate is open, or nobody is left to try whether it could be.
    pub async fn passable(&self) {
        let (mut closed, mut waiting) = (self.closed.subscribe(), self.waiting.subscribe());
        while *closed.borrow_and_update() && *waiting.borrow_and_update() > 0 {
            // Both senders live as long as this gate, so neither wait can fail.
            tokio::select! {
                _ = closed.changed() => {}
                _ = waiting.changed() => {}
            }
        }
    }

    /// One waiting message's turn to try.
    pub async fn turn(&self) -> MutexGuard<'_, ()> {
        self.probe.lock().await
    }
}
