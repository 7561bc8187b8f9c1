//! Chaos on real parts: everything that can break is broken under load, and a checker says what became of every event.
//!
//! - [`event`]: the events of a run
//! - [`history`], [`verdict`]: what was sent and what came of it
//! - [`field`]: broker, relay, sandbox, workers, a publisher, and consumers of links and dead letters
//! - [`node`], [`relay`], [`worker`]: what can be broken
//! - [`faults`], [`cluster`]: one kind of trouble at a time
//! - [`storm`]: all of it at once, from a seed; `make chaos` runs it for long

mod cluster;
mod event;
mod faults;
mod field;
mod history;
mod node;
pub(crate) mod relay;
mod storm;
mod verdict;
mod worker;

use std::time::Duration;

/// What short links begin with, as at Webex.
const BASE_URL: &str = "https://instant.webex.com/visit/";

/// How long a run goes on although nothing happens. Nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(120);

/// Looks at a state that nobody tells of, again and again, until `ask` has an answer.
async fn poll<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let look = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, look).await;
    waited.unwrap_or_else(|_| panic!("waited {PATIENCE:?} in vain for {what}"))
}
