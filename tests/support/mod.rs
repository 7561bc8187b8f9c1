//! What the tests of promises share. All of it is real: a broker, sockets, the program as a process of its own.
//!
//! - [`admin`]: asks the program what an orchestrator and Prometheus ask
//! - [`amqp`]: a plain client of the broker, which knows nothing of the program
//! - [`collector`]: takes the program's spans
//! - [`events`]: start events whose private parts are recognised wherever they turn up
//! - [`https`]: HTTP/2 over TLS in front of the sandbox, with connections that hang
//! - [`leaks`]: looks for those in all that the program said
//! - [`output`]: what a process says, line by line, as it says it
//! - [`private_broker`]: a broker that a test may stop and kill
//! - [`program`]: the program as a process
//! - [`python`]: scripts of `tests/python`
//! - [`rig`]: broker, sandbox and program together, cleaned up whatever happens

pub(crate) mod admin;
pub(crate) mod amqp;
pub(crate) mod collector;
pub(crate) mod events;
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

/// How long a test waits for what should come at once. Long, because a machine may be busy: nothing is measured by it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Waits for `future`; says what it waited for in vain.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(PATIENCE, future).await;
    waited.unwrap_or_else(|_| panic!("waited {PATIENCE:?} in vain for {what}"))
}

/// Looks at a state that nobody tells of, again and again, until `ask` has an answer.
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
