//! Waits for the broker's replies.

use std::{future::Future, time::Duration};

use lapin::{Acker, Channel, Connection};
use tokio::time::{sleep, timeout};

use super::{BrokerError, Connected};

/// A connection or channel: anything that can close while we await a reply.
pub trait Peer: Sync {
    /// True if no reply can arrive any more.
    fn is_gone(&self) -> bool;
}

impl Peer for Connection {
    fn is_gone(&self) -> bool {
        !self.status().connected()
    }
}

impl Peer for Connected {
    fn is_gone(&self) -> bool {
        !self.status().connected()
    }
}

impl Peer for Channel {
    fn is_gone(&self) -> bool {
        !self.status().connected()
    }
}

impl Peer for Acker {
    fn is_gone(&self) -> bool {
        self.poisoned()
    }
}

/// Waits for the reply to `action`, until `peer` is gone, and at most for `limit`. Every request to the broker goes
/// through this function. lapin sometimes leaves a request unanswered if the connection breaks meanwhile (measured: a
/// close, a confirm.select, acks).
///
/// # Errors
pub async fn within<T>(
    step: &'static str,
    limit: Duration,
    peer: &impl Peer,
    action: impl Future<Output = lapin::Result<T>>,
) -> Result<T, BrokerError> {
    tokio::select! {
        biased;
        result = timeout(limit, action) => match result {
            Ok(result) => result.map_err(|error| BrokerError::Lapin(step, error)),
            Err(_) => Err(BrokerError::Timeout(step, limit)),
        },
        error = gone(step, peer) => Err(error),
    }
}

/// Resolves shortly after `peer` is gone. The delay lets lapin report the cause to other waiting tasks first.
pub async fn gone(step: &'static str, peer: &impl Peer) -> BrokerError {
    while !peer.is_gone() {
        sleep(Duration::from_millis(100)).await;
    }
    sleep(Duration::from_millis(500)).await;
    BrokerError::Ended(format!("{step}: the connection was closed"))
}
