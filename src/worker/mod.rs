//! The worker: its stages on supervised connections, until a shutdown is requested.
//!
//! - `role`: the parts that run
//! - `assembly`: makes the consumers and the ingress from the configuration; `senders`: the stages that send messages to guests
//! - [`supervise`]: keeps the consumers connected

mod assembly;
mod role;
mod senders;
pub mod supervise;

use std::{future::Future, sync::Arc, time::Duration};

use futures_util::future::try_join;
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use assembly::Parts;
use role::WorkerParts;
pub(crate) use role::{ListeningIngress, WorkerRole};

use crate::{
    admin::{Admin, AdminError, health::Health},
    broker::{publisher::Publisher, topology::TopologyError, tries::Tries},
    config::{ConfigError, Loaded},
    fault,
    ingress::{Ingress, IngressError},
    ledger::{Ledger, LedgerError},
    random::Random,
    state::WorkerState,
    telemetry::{metrics::Metrics, traces::Tracer},
    upstream,
};

/// Time limit for the ledger's last writes. Confirmed records are already on the disk.
const LEDGER_CLOSE_MAX: Duration = Duration::from_secs(3);

/// An error that ends the worker.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkerError {
    /// The configuration is unusable.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The broker's exchanges or queues do not match, and only a person can change that.
    #[error(transparent)]
    Topology(TopologyError),
    /// The admin server could not start.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The ingress could not start.
    #[error(transparent)]
    Ingress(#[from] IngressError),
    /// The ledger could not be opened.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The HTTP client could not be created.
    #[error("HTTP client: {0}")]
    Http(#[from] upstream::ClientError),
    /// The metrics conflict: a defect.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The publisher task ended while its users were still running: a defect.
    #[error("publisher task {0} (bug; see the log). The worker cannot continue without it.")]
    Publishing(&'static str),
}

/// Runs the parts of `role` with the configuration `loaded`, until `shutdown` resolves. Then it finishes the work in progress,
/// within `shutdown.grace`. Without a broker it keeps reconnecting. `listens` gets the ingress once it listens.
///
/// # Errors
/// [`WorkerError`].
pub(crate) async fn run(
    loaded: &Loaded,
    role: WorkerRole,
    listens: Option<oneshot::Sender<ListeningIngress>>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), WorkerError> {
    let config = &loaded.config;
    // Checked before anything is opened, because the worker can't start without a token or with an unusable proxy.
    let run = WorkerParts { listens, ..WorkerParts::of(role, loaded)? };
    let metrics = Metrics::new(config.guests.delivery.stages(), config.retry.delays.as_slice())?;
    metrics.set_role(role.into());
    metrics.receipts().set_awaited(config.waits_for_receipts());
    let state = WorkerState::default();
    let health = Health::new(&state, &run.stages, loaded.stuck_after());
    let start = |listen| Admin::start(listen, health.clone(), metrics.clone());
    let _admin = config.admin.listen.map(start).transpose()?;
    fault::point("worker", "starting");
    tokio::pin!(shutdown);
    let Some(ledger) = opened(Ledger::open(loaded.ledger()), &health, &mut shutdown).await? else {
        return Ok(());
    };
    health.start();
    serve(loaded, run, &state, &metrics, &health, ledger, shutdown).await
}

/// Waits for the ledger to open, which takes long for a large file on a slow disk. `None` if a shutdown comes first.
async fn opened(
    ledger: impl Future<Output = Result<Ledger, LedgerError>>,
    health: &Health,
    shutdown: impl Future<Output = ()>,
) -> Result<Option<Ledger>, LedgerError> {
    tokio::select! {
        ledger = ledger => ledger.map(Some),
        () = shutdown => {
            health.end();
            info!("shutting down: the ledger was not open yet");
            Ok(None)
        }
        () = keep_alive(health) => Ok(None),
    }
}

async fn serve(
    loaded: &Loaded,
    run: WorkerParts,
    state: &WorkerState,
    metrics: &Metrics,
    health: &Health,
    ledger: Ledger,
    shutdown: impl Future<Output = ()>,
) -> Result<(), WorkerError> {
    let config = &loaded.config;
    let connector = Arc::new(config.connector());
    let topology = config.topology();
    let tracer = loaded.traces_url().map_or_else(Tracer::default, |url| {
        Tracer::start(&url, config.telemetry.trace_context, config.tls.ca_file.as_deref())
    });
    let (random, stop) = (Random::system(), CancellationToken::new());
    let (publisher, mut publishing) = Publisher::start(
        Arc::clone(&connector),
        topology.clone(),
        state.publishing().clone(),
        metrics.publishing(),
        random.clone(),
    );
    let tries = Tries::new(ledger.clone(), random.clone());
    let parts = Parts {
        loaded,
        state,
        metrics,
        ledger: &ledger,
        random: &random,
        tracer: &tracer,
        topology: &topology,
        publisher: &publisher,
        tries: &tries,
        stop: &stop,
    };
    let consumers = parts.consumers(&run.stages)?;
    let ingress = run.ingress.map(|settings| parts.ingress(settings)).transpose()?;
    tell(run.listens, ingress.as_ref(), state);
    drop(publisher);

    let grace = config.shutdown.grace.get();
    let stop_when_told = async {
        shutdown.await;
        health.end();
        info!(grace_s = grace.as_secs(), "shutting down: consuming stops; finishing deliveries in progress");
        stop.cancel();
        sleep(grace).await;
        let in_progress = consumers.in_progress();
        if in_progress > 0 {
            warn!(in_progress, "shutdown.grace elapsed with deliveries still in progress; requeueing them");
        } else {
            warn!("shutdown.grace elapsed with connections still in use; closing them");
        }
    };
    let result = tokio::select! {
        result = both(consumers.run(&connector, &topology), ingress) => result.map_err(WorkerError::Topology),
        // Without the publisher, every delivery would be requeued until it is poison.
        error = ended_early(&mut publishing) => Err(error),
        () = stop_when_told => Ok(()),
        () = measure(&ledger, metrics) => Ok(()),
        () = keep_alive(health) => Ok(()),
    };
    consumers.abort();
    drop(consumers);
    wind_down(&tries, publishing, &ledger, &tracer).await;
    result.inspect_err(log_mismatch)
}

/// Tells `listens` that `ingress` listens.
fn tell(listens: Option<oneshot::Sender<ListeningIngress>>, ingress: Option<&Ingress>, state: &WorkerState) {
    if let (Some(listens), Some(ingress)) = (listens, ingress) {
        let publishing = state.publishing().clone();
        // The receiver may no longer want to know.
        _ = listens.send(ListeningIngress { address: ingress.address(), publishing });
    }
}

fn log_mismatch(error: &WorkerError) {
    if let WorkerError::Topology(error) = error {
        error!(%error, "broker topology does not match the configuration; exiting");
    }
}

/// Runs the consumers and the ingress until both have ended after a stop, or the consumers have failed.
async fn both(
    consumers: impl Future<Output = Result<(), TopologyError>>,
    ingress: Option<Ingress>,
) -> Result<(), TopologyError> {
    let serve = async {
        if let Some(ingress) = ingress {
            ingress.run().await;
        }
        Ok(())
    };
    try_join(consumers, serve).await.map(drop)
}

/// Gives each part that was started a short time to end.
async fn wind_down(
    tries: &Tries,
    publishing: JoinHandle<Result<(), TopologyError>>,
    ledger: &Ledger,
    tracer: &Tracer,
) {
    // A try that is aborted here is not a death.
    if timeout(Duration::from_secs(1), tries.idle()).await.is_err() {
        warn!(
            "shutdown: could not remove the records of processing starts from the ledger within 1s; each may count as a crash"
        );
    }
    // The publisher stops once the last handle is dropped.
    if !publishing.is_finished() && timeout(Duration::from_secs(1), publishing).await.is_err() {
        warn!("publisher did not stop within 1s; exiting anyway");
    }
    if timeout(LEDGER_CLOSE_MAX, ledger.close()).await.is_err() {
        warn!("ledger did not close within 3s (disk not responding); exiting anyway");
    }
    tracer.shut_down().await;
}

/// The error for an ended publisher task. Its panic message may be private.
async fn ended_early(publishing: &mut JoinHandle<Result<(), TopologyError>>) -> WorkerError {
    match publishing.await {
        Ok(Err(error)) => WorkerError::Topology(error),
        Err(error) if error.is_panic() => WorkerError::Publishing("panicked"),
        _ => WorkerError::Publishing("has ended"),
    }
}

/// Shows that the event loop is running.
async fn keep_alive(health: &Health) {
    loop {
        health.turn();
        sleep(Duration::from_secs(1)).await;
    }
}

/// Keeps the size of the ledger up to date in the metrics.
async fn measure(ledger: &Ledger, metrics: &Metrics) {
    loop {
        // A read error is reported by the code that needs the entry.
        if let Ok(Some(entries)) = ledger.len().await {
            metrics.set_ledger_entries(entries);
        }
        sleep(Duration::from_secs(2)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::task::yield_now;

    use super::*;
    use crate::stages;

    #[tokio::test]
    async fn worker_is_alive_while_its_ledger_opens() {
        let health = Health::new(&WorkerState::default(), stages::ALL, Duration::ZERO);
        health.grow_late();
        let lives = async {
            while !health.is_alive() {
                yield_now().await;
            }
        };
        let opened = timeout(Duration::from_secs(60), opened(pending(), &health, lives)).await;
        assert!(matches!(opened, Ok(Ok(None))), "shut down as soon as it is alive");
    }
}
