//! Shared helpers of the tests: a real broker, real sockets, and the program as a process.
//!
//! - [`admin`]: a client for health checks and metrics
//! - [`amqp`]: a plain AMQP client that knows nothing of the program
//! - [`collector`]: receives the program's spans
//! - [`events`]: start events with recognisable private values
//! - [`https`]: HTTP/2 over TLS in front of the sandbox, with connections that hang
//! - [`leaks`]: finds these values in the program's output
//! - [`output`]: the output of a process, line by line
//! - [`private_broker`]: a broker that a test may stop and kill
//! - [`program`]: the program as a process
//! - [`python`]: runs scripts of `tests/python`
//! - [`rig`]: broker, sandbox and program together, with cleanup

pub(crate) mod admin;
pub(crate) mod amqp;
pub(crate) mod collector;
pub(crate) mod events;
pub(crate) mod frames;
pub(crate) mod https;
pub(crate) mod leaks;
mod output;
pub(crate) mod private_broker;
pub(crate) mod program;
pub(crate) mod python;
pub(crate) mod rig;

use std::time::Duration;

pub(crate) use events::event;
pub(crate) use rig::Rig;

/// Time limit for an expected event. Long, because the machine may be busy; no measurement depends on it.
pub(crate) const WAIT_LIMIT: Duration = Duration::from_secs(120);

/// Waits for `future`. The panic after the time limit names `what`.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(WAIT_LIMIT, future).await;
    waited.unwrap_or_else(|_| panic!("timed out after {WAIT_LIMIT:?} waiting for {what}"))
}

/// Polls a state until `ask` returns a value.
pub(crate) async fn poll<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let look = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon(what, look).await
}
