//! The test kit: a real broker, real sockets, faults of the network, and the worker as a process. For tests only.
//!
//! - [`admin`]: a client for health checks and metrics
//! - [`amqp`]: a plain AMQP client that knows nothing of the program
//! - [`collector`]: receives the program's spans
//! - [`events`]: start events with recognisable private values
//! - [`frames`], [`relay`]: relays in front of a broker, with faults
//! - [`https`]: HTTP/2 over TLS in front of the sandbox, with connections that hang
//! - [`leaks`]: finds the private values of events in the program's output
//! - [`output`]: the output of a process, line by line
//! - [`private_broker`]: brokers that a test may stop and kill; the crate `test-broker` starts them
//! - [`program`]: the program as a process
//! - [`python`]: runs scripts of `tests/python`
//! - [`redis_server`]: a Redis that a test may stop and kill
//! - [`rig`]: broker, sandbox and program together, with cleanup
//! - [`topology`]: the queues and exchanges that the program declares
#![allow(
    clippy::disallowed_methods,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking, and people read its output"
)]

pub mod admin;
pub mod amqp;
pub mod collector;
pub mod events;
pub mod frames;
pub mod https;
pub mod leaks;
pub mod output;
pub mod private_broker;
pub mod program;
pub mod python;
pub mod redis_server;
pub mod relay;
pub mod rig;
pub mod topology;

use std::time::Duration;

pub use events::event;
pub use private_broker::PrivateBroker;
pub use rig::Rig;

/// Time limit for an expected event. Long, because the machine may be busy; no measurement depends on it.
pub const WAIT_LIMIT: Duration = Duration::from_secs(120);

/// A port without a listener, as [`test_broker::free_port`] gives it.
pub fn free_port() -> u16 {
    test_broker::free_port().unwrap()
}

/// A random generator. Prints its seed, so that the test can be repeated: `ICW_TEST_SEED=… cargo test NAME`.
pub fn random() -> fastrand::Rng {
    let seed =
        std::env::var("ICW_TEST_SEED").map_or_else(|_| fastrand::u64(..), |text| text.parse().unwrap());
    eprintln!("ICW_TEST_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

/// Waits for `future`. The panic after the time limit names `what`.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(WAIT_LIMIT, future).await;
    waited.unwrap_or_else(|_| panic!("timed out after {WAIT_LIMIT:?} waiting for {what}"))
}

/// Polls a state until `ask` returns a value.
pub async fn poll<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
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
