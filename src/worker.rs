//! The worker: both stages on supervised connections, until a shutdown is requested.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tracing::{error, info, warn};

use crate::{
    admin::{Admin, AdminError, health::Health},
    breaker,
    broker::{
        connection::{Connected, Connector, close, gone},
        consumer::{ConsumeMode, Consumer, ConsumerLimits},
        publisher::Publisher,
        reconnect::ReconnectBackoff,
        settle::Settler,
        topology::{Topology, TopologyError},
        tries::Tries,
        watchdog::Watchdog,
    },
    config::{self, ConfigError, Loaded},
    contract::start_session::SessionRules,
    fault,
    instant_connect::{
        self,
        request::{Crypto, LinkOptions},
        response::LinkRules,
    },
    ledger::{Ledger, LedgerError},
    retry::RetryPolicy,
    stages::{Deduplicator, HostStage, LinkStage, OnFailure, Retention, Stage},
    telemetry::{
        metrics::{Metrics, UpstreamMetrics, labels},
        traces::Tracer,
    },
    upstream::{self, TokenSource, Upstream},
    webex,
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

/// Runs the worker with the configuration `loaded`, until `shutdown` resolves. Then it finishes the work in progress,
/// within `shutdown.grace`. Without a broker it keeps reconnecting.
///
/// # Errors
/// [`WorkerError`].
pub(crate) async fn run(loaded: &Loaded, shutdown: impl Future<Output = ()>) -> Result<(), WorkerError> {
    let config = &loaded.config;
    // Checked before anything is opened, because the worker can't start without a token or with an unusable proxy.
    loaded.network()?;
    loaded.instant_connect_token()?;
    if loaded.delivers_to_hosts() {
        loaded.hosts_token()?;
    }
    let metrics = Metrics::new(config.retry.delays.as_slice())?;
    let health = health(loaded, &metrics);
    let _admin = config.admin.listen.map(|listen| Admin::start(listen, health.clone())).transpose()?;
    fault::point("worker", "starting");
    tokio::pin!(shutdown);
    let Some(ledger) = opened(Ledger::open(loaded.ledger()), &health, &mut shutdown).await? else {
        return Ok(());
    };
    health.start();
    serve(loaded, &metrics, &health, ledger, shutdown).await
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
    metrics: &Metrics,
    health: &Health,
    ledger: Ledger,
    shutdown: impl Future<Output = ()>,
) -> Result<(), WorkerError> {
    let config = &loaded.config;
    let connector = Arc::new(Connector::new(config));
    let topology = Topology::new(&config.topology, config.retry.delays.as_slice());
    let tracer = tracer(loaded);
    let (stop, stopped) = watch::channel(false);
    let (publisher, mut publishing) =
        Publisher::start(Arc::clone(&connector), topology.clone(), metrics.publishing());
    let settler = |queue, stage| {
        let (publisher, tracer, limit) = (publisher.clone(), tracer.clone(), config.amqp.timeout.get());
        let (retry, metrics) = (retry_policy(loaded), metrics.stage(stage));
        Settler::new(publisher, tracer, &topology, queue, limit, retry, metrics)
    };
    let tries = Tries::new(ledger.clone());
    let stage = labels::Stage::Link;
    let link = Consumer::new(
        link_stage(loaded, &ledger, metrics, &tracer)?,
        topology.sessions_queue(),
        settler(topology.sessions_queue(), stage),
        limits(loaded),
        tries.clone(),
        metrics.stage(stage),
        stopped.clone(),
    );
    let host = if loaded.delivers_to_hosts() {
        let (queue, stage) = (topology.hosts_queue(), labels::Stage::Host);
        Some(Arc::new(Consumer::new(
            host_stage(loaded, &ledger, metrics, &tracer)?,
            queue.clone(),
            settler(queue, stage),
            limits(loaded),
            tries.clone(),
            metrics.stage(stage),
            stopped.clone(),
        )))
    } else {
        None
    };
    let consumers = Consumers { link: Arc::new(link), host };
    drop(publisher);

    let grace = config.shutdown.grace.get();
    let stop_when_told = async {
        shutdown.await;
        health.end();
        info!(grace_s = grace.as_secs(), "shutting down: stopped consuming");
        stop.send_replace(true);
        sleep(grace).await;
        warn!(
            in_progress = consumers.in_progress(),
            "shutdown.grace elapsed with deliveries still in progress; returning them to the broker"
        );
    };
    let result = tokio::select! {
        result = consumers.run(&connector, &topology) => result.map_err(WorkerError::Topology),
        // Without the publisher, every delivery would be requeued until it is poison.
        error = ended_early(&mut publishing) => Err(error),
        () = stop_when_told => Ok(()),
        () = measure(&ledger, metrics) => Ok(()),
        () = keep_alive(health) => Ok(()),
    };
    consumers.abort();
    drop(consumers);
    // A try that is aborted here is not a death.
    if timeout(Duration::from_secs(1), tries.idle()).await.is_err() {
        warn!("ledger did not take back tries in time; they may count as worker deaths");
    }
    // The publisher stops once the last handle is dropped.
    if !publishing.is_finished() && timeout(Duration::from_secs(1), publishing).await.is_err() {
        warn!("publisher did not stop within 1s; exiting anyway");
    }
    if timeout(LEDGER_CLOSE_MAX, ledger.close()).await.is_err() {
        warn!("ledger did not close within 3s (disk not responding); exiting anyway");
    }
    tracer.shut_down().await;
    result
}

/// The error for an ended publisher task. Its panic message may be private.
async fn ended_early(publishing: &mut JoinHandle<()>) -> WorkerError {
    let panicked = publishing.await.is_err_and(|error| error.is_panic());
    WorkerError::Publishing(if panicked { "panicked" } else { "has ended" })
}

fn health(loaded: &Loaded, metrics: &Metrics) -> Health {
    let stages: &[_] = if loaded.delivers_to_hosts() {
        &[labels::Stage::Link, labels::Stage::Host]
    } else {
        &[labels::Stage::Link]
    };
    // Work that is still in progress at this age cannot be ended from within.
    Health::new(metrics, stages, limits(loaded).work_age_max() + Duration::from_secs(60))
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
    let metrics = metrics.ledger(labels::Stage::Link);
    loop {
        // A read error is reported by the code that needs the entry.
        if let Ok(Some(entries)) = ledger.len().await {
            metrics.set_entries(entries);
        }
        sleep(Duration::from_secs(2)).await;
    }
}

struct Consumers {
    link: Arc<Consumer<LinkStage>>,
    host: Option<Arc<Consumer<HostStage>>>,
}

impl Consumers {
    /// Consumes until a stop is requested and the work in progress is done.
    async fn run(&self, connector: &Connector, topology: &Topology) -> Result<(), TopologyError> {
        match &self.host {
            Some(host) => {
                let both = tokio::try_join!(
                    supervise(connector, topology, &self.link),
                    supervise(connector, topology, host)
                );
                both.map(drop)
            }
            None => supervise(connector, topology, &self.link).await,
        }
    }

    /// Aborts the work in progress.
    fn abort(&self) {
        self.link.abort();
        if let Some(host) = &self.host {
            host.abort();
        }
    }

    fn in_progress(&self) -> usize {
        self.link.in_progress() + self.host.as_ref().map_or(0, |host| host.in_progress())
    }
}

/// History of connection failures, which may be caused by a message.
#[derive(Debug, Default)]
struct FailureHistory {
    /// Consecutive connections that broke before anything was settled.
    without_progress: u32,
    /// The last one broke because of unreadable data from the broker.
    unreadable: bool,
}

impl FailureHistory {
    /// Records a broken connection. A connection that was never `established` delivered no message.
    fn broken(&mut self, established: bool, unreadable: bool, settled: bool) {
        if established {
            self.without_progress = if settled { 0 } else { self.without_progress.saturating_add(1) };
            self.unreadable = unreadable;
        }
    }

    fn mode(&self) -> ConsumeMode {
        match self.without_progress {
            _ if self.unreadable => ConsumeMode::OneAtATime,
            0 => ConsumeMode::Unlimited,
            1 => ConsumeMode::RampUp,
            _ => ConsumeMode::OneAtATime,
        }
    }
}

/// Keeps a connection for one consumer, and reconnects when it breaks. Each consumer has its own connection. A
/// message that breaks it, such as an unreadable one, must not count against the other consumer's messages.
async fn supervise<S: Stage>(
    connector: &Connector,
    topology: &Topology,
    consumer: &Arc<Consumer<S>>,
) -> Result<(), TopologyError> {
    let mut backoff = ReconnectBackoff::new(connector.reconnect_max);
    let mut connected_before = false;
    let mut failures = FailureHistory::default();
    while !consumer.is_stopped() {
        let settled = consumer.settled();
        let opened = tokio::select! {
            opened = open(connector, topology, S::NAME) => opened,
            () = consumer.stopped() => break,
        };
        let established = opened.is_ok();
        if !established {
            consumer.metrics().connection.failed();
            // The queue lengths are outdated from now on and would keep alerts firing. After an immediate reconnect
            // they stay until the next check, so an alert for waiting messages does not restart its time.
            consumer.metrics().forget_queued();
        }
        let error = match opened {
            Ok(connection) => {
                if backoff.connected().is_some() {
                    info!(stage = S::NAME, "connected to broker; consuming");
                }
                connected_before = true;
                let shown = consumer.metrics().connection.up();
                let watchdog = Watchdog::new(
                    &connection,
                    topology,
                    consumer.queue(),
                    consumer.metrics(),
                    connector.timeout,
                );
                let ended = tokio::select! {
                biased;
                result = consumer.consume((&*connection).into()) => result,
                error = gone("consume", &connection) => Err(error),
                error = watchdog.watch(connector) => Err(error),
                };
                if ended.is_ok() {
                    consumer.idle().await;
                }
                if connection.status().connected() {
                    topology.invalidate();
                }
                close(&connection).await;
                drop(shown);
                match ended {
                    Ok(()) => return Ok(()),
                    Err(error) => TopologyError::Broker(error),
                }
            }
            Err(TopologyError::Mismatch(problem)) if !connected_before => {
                error!(problem, "broker topology does not match the configuration; giving up");
                return Err(TopologyError::Mismatch(problem));
            }
            Err(error) => error,
        };
        consumer.metrics().connection.down(error.to_string());
        let is_new = backoff.failed(consumer.settled() > settled, error.reason());
        // A message that lapin can't read ends the connection each time, until the broker's delivery limit
        // dead-letters it. Consume one at a time so that only the unreadable message is charged a delivery, and
        // reconnect fast so that this ends soon. No message can arrive before a connection is established.
        let unreadable =
            established && matches!(&error, TopologyError::Broker(error) if error.is_protocol_error());
        let wait = if unreadable { backoff.wait_after_unreadable() } else { backoff.wait() };
        if is_new {
            let retry_in_ms = wait.as_secs_f64() * 1e3;
            warn!(stage = S::NAME, %error, retry_in_ms, "could not connect to broker; retrying");
        }
        failures.broken(established, unreadable, consumer.settled() > settled);
        consumer.set_next_mode(failures.mode());
        tokio::select! {
            () = sleep(wait) => {}
            () = consumer.stopped() => {}
        }
    }
    consumer.idle().await;
    Ok(())
}

async fn open(connector: &Connector, topology: &Topology, stage: &str) -> Result<Connected, TopologyError> {
    let connection = connector.connect(&format!("consume {stage}")).await.map_err(TopologyError::Broker)?;
    match topology.ensure(&connection, connector.timeout).await {
        Ok(()) => Ok(connection),
        Err(error) => {
            // Dropping the connection is not enough: lapin keeps it open for replies that it still awaits.
            close(&connection).await;
            Err(error)
        }
    }
}

fn link_stage(
    loaded: &Loaded,
    ledger: &Ledger,
    metrics: &Metrics,
    tracer: &Tracer,
) -> Result<LinkStage, WorkerError> {
    let deduplicator = deduplicator(loaded, ledger, metrics, labels::Stage::Link);
    let section = &loaded.config.instant_connect;
    let url = loaded.joseencrypt_url();
    let limits = upstream::UpstreamLimits {
        connect_timeout: section.connect_timeout.get(),
        timeout: section.timeout.get(),
        body_bytes_max: section.body_bytes_max.size(),
        rate_limit_wait: section.rate_limit_wait.get(),
    };
    let (token, metrics) =
        (loaded.instant_connect_token()?, metrics.upstream(labels::Upstream::InstantConnect));
    let network = loaded.network()?;
    let upstream = Upstream::new("Instant Connect", &url, token, limits, &network, metrics)?;
    let upstream = upstream.traced(tracer.clone()).sharing_rate_limits_in(ledger.clone(), "instant-connect");
    let options = LinkOptions {
        aud: section.aud.as_str().to_owned(),
        short_urls: section.short_urls,
        crypto: Crypto {
            jwe_alg: section.jwe_alg,
            salt_length: section.salt_length.map(|length| u8::try_from(length.get()).unwrap_or(u8::MAX)),
            iterations: section.iterations.map(|count| u16::try_from(count.get()).unwrap_or(u16::MAX)),
            enc: section.enc,
            jws_alg: section.jws_alg,
        },
    };
    let session_rules = SessionRules {
        subject_prefix: section.subject_prefix.as_str().to_owned(),
        vertical: section.vertical,
        host_login: section.host_login,
        link_lifetime: jiff::SignedDuration::try_from(section.link_lifetime.get())
            .unwrap_or(jiff::SignedDuration::MAX),
        devices: loaded.config.devices.allowed.clone(),
    };
    Ok(LinkStage::new(
        instant_connect::InstantConnectClient::new(upstream, url, options, link_rules(loaded)),
        session_rules,
        deduplicator,
    ))
}

fn deduplicator(loaded: &Loaded, ledger: &Ledger, metrics: &Metrics, stage: labels::Stage) -> Deduplicator {
    let section = &loaded.config.ledger;
    let on_failure = match section.on_failure {
        config::LedgerOnFailure::Wait => OnFailure::Wait,
        config::LedgerOnFailure::Continue => OnFailure::Continue,
    };
    let [margin, max] = [section.margin, section.keep_max]
        .map(|span| jiff::SignedDuration::try_from(span.get()).unwrap_or(jiff::SignedDuration::MAX));
    Deduplicator::new(ledger.clone(), on_failure, Retention { margin, max }, metrics.ledger(stage))
}

fn link_rules(loaded: &Loaded) -> LinkRules {
    let section = &loaded.config.instant_connect;
    LinkRules {
        allowed_base_urls: section.allowed_base_urls.iter().map(|base| base.as_str().to_owned()).collect(),
        long_url_base: section.long_url_base.as_str().trim_end_matches('/').to_owned(),
    }
}

fn host_stage(
    loaded: &Loaded,
    ledger: &Ledger,
    metrics: &Metrics,
    tracer: &Tracer,
) -> Result<HostStage, WorkerError> {
    let deduplicator = deduplicator(loaded, ledger, metrics, labels::Stage::Host);
    let (url, token) = (loaded.messages_url(), loaded.hosts_token()?);
    let metrics = metrics.upstream(labels::Upstream::WebexMessages);
    let upstream = messages_api(loaded, &url, token, metrics)?
        .traced(tracer.clone())
        .sharing_rate_limits_in(ledger.clone(), "messages");
    Ok(HostStage::new(webex::WebexClient::new(upstream, url), link_rules(loaded), deduplicator))
}

fn tracer(loaded: &Loaded) -> Tracer {
    let relation = loaded.config.telemetry.trace_context;
    let ca_file = loaded.config.tls.ca_file.as_deref();
    loaded.traces_url().map_or_else(Tracer::default, |url| Tracer::start(&url, relation, ca_file))
}

fn messages_api(
    loaded: &Loaded,
    url: &url::Url,
    token: TokenSource,
    metrics: UpstreamMetrics,
) -> Result<Upstream, WorkerError> {
    let section = &loaded.config.hosts;
    let limits = upstream::UpstreamLimits {
        connect_timeout: section.connect_timeout.get(),
        timeout: section.timeout.get(),
        body_bytes_max: section.body_bytes_max.size(),
        rate_limit_wait: section.rate_limit_wait.get(),
    };
    Ok(Upstream::new("Webex Messages", url, token, limits, &loaded.network()?, metrics)?)
}

pub(crate) fn limits(loaded: &Loaded) -> ConsumerLimits {
    let (amqp, breaker) = (&loaded.config.amqp, &loaded.config.breaker);
    ConsumerLimits {
        prefetch: u16::try_from(amqp.prefetch.get()).unwrap_or(u16::MAX),
        concurrency: amqp.concurrency.size(),
        bytes: amqp.bytes_in_progress.size(),
        deliveries_max: amqp.deliveries_max.get(),
        delivery_timeout: amqp.delivery_timeout.get(),
        timeout: amqp.timeout.get(),
        breaker: breaker::BreakerPolicy {
            failures: breaker.failures.get(),
            probe_initial: breaker.probe_initial.get(),
            probe_max: breaker.probe_max.get(),
        },
    }
}

pub(crate) fn retry_policy(loaded: &Loaded) -> RetryPolicy {
    let retry = &loaded.config.retry;
    RetryPolicy {
        initial: retry.initial.get(),
        max: retry.max.get(),
        multiplier: retry.multiplier.get(),
        jitter: retry.jitter.get(),
        attempts: retry.attempts.get(),
        total: retry.total.get(),
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::task::yield_now;

    use super::*;

    #[test]
    fn consume_mode_is_reduced_after_unreadable_data_or_no_progress() {
        let mut failures = FailureHistory::default();
        let mut after = |established, unreadable, settled| {
            failures.broken(established, unreadable, settled);
            failures.mode()
        };
        assert_eq!(after(true, false, true), ConsumeMode::Unlimited);
        assert_eq!(after(true, false, false), ConsumeMode::RampUp);
        assert_eq!(
            after(false, true, false),
            ConsumeMode::RampUp,
            "without a connection there was no message"
        );
        assert_eq!(after(true, false, false), ConsumeMode::OneAtATime);
        assert_eq!(after(true, false, true), ConsumeMode::Unlimited);
        assert_eq!(after(true, true, true), ConsumeMode::OneAtATime);
    }

    #[tokio::test]
    async fn worker_is_alive_while_its_ledger_opens() {
        let health = Health::new(&Metrics::new(&[]).unwrap(), &[labels::Stage::Link], Duration::ZERO);
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
