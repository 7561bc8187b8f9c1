//! Chaos tests on real parts: everything that can break breaks under load, and a checker records the result of every
//! event.
//!
//! - [`event`]: the events of a run
//! - [`history`], [`verdict`]: the record of a run and its evaluation
//! - [`testbed`]: broker, relay, sandbox, workers, a publisher, and consumers of links and dead letters
//! - [`node`], [`relay`], [`worker`]: parts that can break
//! - [`faults`], [`cluster`]: one kind of fault at a time
//! - [`storm`]: all faults together, from a seed; `make chaos` makes it long

mod cluster;
mod event;
mod faults;
mod history;
mod node;
pub(crate) mod relay;
mod storm;
mod testbed;
mod verdict;
mod worker;

use std::time::Duration;

/// The base URL of short links, as Webex has it.
const BASE_URL: &str = "https://instant.webex.com/visit/";

/// Time limit without any progress. No measurement depends on it.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(120);

/// Polls a state until `ask` returns a value.
async fn poll<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let look = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let waited = tokio::time::timeout(PROGRESS_TIMEOUT, look).await;
    waited.unwrap_or_else(|_| panic!("timed out after {PROGRESS_TIMEOUT:?} waiting for {what}"))
}
