//! Notifies consumers that something missing was redeclared.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::Notify;

/// Number of times that something missing was redeclared. Shared by all clones of a topology.
#[derive(Debug, Default)]
struct Counter {
    times: AtomicU64,
    notify: Notify,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Redeclarations(Arc<Counter>);

/// Sees the redeclarations from its creation on. Consumers are woken in the order in which they wait, so that a
/// simulation can repeat it.
#[derive(Clone, Debug)]
pub(crate) struct Redeclared {
    counter: Arc<Counter>,
    seen: u64,
}

impl Redeclarations {
    pub(super) fn add(&self) {
        self.0.times.fetch_add(1, Ordering::Relaxed);
        self.0.notify.notify_waiters();
    }

    pub(super) fn watch(&self) -> Redeclared {
        Redeclared { counter: Arc::clone(&self.0), seen: self.0.times.load(Ordering::Relaxed) }
    }
}

impl Redeclared {
    /// Resolves when something was redeclared.
    pub(crate) async fn changed(&mut self) {
        loop {
            let notified = self.counter.notify.notified();
            let times = self.counter.times.load(Ordering::Relaxed);
            if std::mem::replace(&mut self.seen, times) != times {
                return;
            }
            notified.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn each_redeclaration_is_seen_once_by_each_watcher() {
        let redeclarations = Redeclarations::default();
        redeclarations.add();
        let mut watchers = [redeclarations.watch(), redeclarations.watch()];
        assert!(watchers[0].changed().now_or_never().is_none(), "nothing since it began");
        let waiting = tokio::spawn({
            let mut watcher = watchers[0].clone();
            async move { watcher.changed().await }
        });
        tokio::task::yield_now().await;
        redeclarations.add();
        waiting.await.unwrap();
        for watcher in &mut watchers {
            assert!(watcher.changed().now_or_never().is_some());
            assert!(watcher.changed().now_or_never().is_none());
        }
    }
}
