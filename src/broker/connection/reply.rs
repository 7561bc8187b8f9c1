//! Waits for the broker's replies.

use std::{future::Future, time::Duration};

use tokio::time::{sleep, timeout};

use super::BrokerError;
use crate::broker::port::Peer;

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
    peer.closed().await;
    sleep(Duration::from_millis(500)).await;
    BrokerError::Ended(format!("{step}: the connection was closed"))
}
