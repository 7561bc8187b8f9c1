//! The worker: both stages over two supervised connections, until it is told to stop.

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
        consumer::{Begin, Consumer, ConsumerLimits},
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

/// How long the ledger has to finish its last writes. What it has confirmed is on the disk before.
const LEDGER_CLOSE_MAX: Duration = Duration::from_secs(3);

/// Why the worker ended otherwise than by being told to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkerError {
    /// The configuration can't be worked with.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The broker's exchanges or queues are not what they must be, and only a person can change that.
    #[error(transparent)]
    Topology(TopologyError),
    /// The admin server can't be started.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The ledger can't be opened.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// No HTTP client could be set up.
    #[error("HTTP client: {0}")]
    Http(#[from] upstream::NoClient),
    /// The metrics contradict each other: a defect.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The task that publishes has ended before those it publishes for: a defect.
    #[error(
        "the task that publishes {0}: a defect of this program (see its log); without it nothing can be done"
    )]
    Publishing(&'static str),
}

/// Runs the worker as `loaded` says, until `shutdown` resolves and what was in progress is done, `shutdown.grace` at
/// most. Without a broker it keeps trying.
///
/// # Errors
/// [`WorkerError`].
pub(crate) async fn run(loaded: &Loaded, shutdown: impl Future<Output = ()>) -> Result<(), WorkerError> {
    let config = &loaded.config;
    // Before anything is opened: without a token, or with a proxy that can't be used, there is nothing to start.
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

/// Waits for the ledger: a large file on a slow disk takes long to check. `None` where it is told to end before.
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
        () = turn(health) => Ok(None),
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
        info!(grace_s = grace.as_secs(), "shutting down: no more messages are taken");
        stop.send_replace(true);
        sleep(grace).await;
        warn!(
            in_progress = consumers.in_progress(),
            "not done within shutdown.grace; given back to the broker"
        );
    };
    let result = tokio::select! {
        result = consumers.run(&connector, &topology) => result.map_err(WorkerError::Topology),
        // What is taken without it would be given back until it is poison.
        error = ended_early(&mut publishing) => Err(error),
        () = stop_when_told => Ok(()),
        () = measure(&ledger, metrics) => Ok(()),
        () = turn(health) => Ok(()),
    };
    consumers.abort();
    drop(consumers);
    // A try of a message that is cut off here is no death.
    if timeout(Duration::from_secs(1), tries.idle()).await.is_err() {
        warn!("the ledger did not take back in time that work on messages had begun");
    }
    // The publisher ends by itself when nobody is left who publishes.
    if !publishing.is_finished() && timeout(Duration::from_secs(1), publishing).await.is_err() {
        warn!("the publisher did not end in time");
    }
    if timeout(LEDGER_CLOSE_MAX, ledger.close()).await.is_err() {
        warn!("the ledger's disk does not answer; ending all the same");
    }
    tracer.shut_down().await;
    result
}

/// How the task that publishes ended. What it panicked with may be private.
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
    // Whatever is still in progress by then cannot be ended from within.
    Health::new(metrics, stages, limits(loaded).work_age_max() + Duration::from_secs(60))
}

/// Shows that the event loop turns.
async fn turn(health: &Health) {
    loop {
        health.turn();
        sleep(Duration::from_secs(1)).await;
    }
}

/// Keeps the size of the ledger up to date in the metrics.
async fn measure(ledger: &Ledger, metrics: &Metrics) {
    let metrics = metrics.ledger(labels::Stage::Link);
    loop {
        // One that can't be read is told of where it is needed.
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
    /// Consumes until a stop is asked for and what was in progress is done.
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

    /// Ends what is still in progress.
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

/// Whether a message may be what ends connections.
#[derive(Debug, Default)]
struct Suspicion {
    /// Connections in a row that were used, and broke before anything was settled.
    barren: u32,
    /// The last of them broke because of what the broker sent.
    unreadable: bool,
}

impl Suspicion {
    /// Takes in that a connection broke. One that never `stood` brought no message.
    fn broken(&mut self, stood: bool, unreadable: bool, settled: bool) {
        if stood {
            self.barren = if settled { 0 } else { self.barren.saturating_add(1) };
            self.unreadable = unreadable;
        }
    }

    fn begin(&self) -> Begin {
        match self.barren {
            _ if self.unreadable => Begin::Singly,
            0 => Begin::AtOnce,
            1 => Begin::Slowly,
            _ => Begin::Singly,
        }
    }
}

/// Keeps a connection for one consumer, and makes a new one when it breaks. Each consumer has its own: what breaks one, such as
/// a message that can't be read, must not count against the other's.
async fn supervise<S: Stage>(
    connector: &Connector,
    topology: &Topology,
    consumer: &Arc<Consumer<S>>,
) -> Result<(), TopologyError> {
    let mut backoff = ReconnectBackoff::new(connector.reconnect_max);
    let mut connected_before = false;
    let mut suspicion = Suspicion::default();
    while !consumer.is_stopped() {
        let settled = consumer.settled();
        let opened = tokio::select! {
            opened = open(connector, topology, S::NAME) => opened,
            () = consumer.stopped() => break,
        };
        let stood = opened.is_ok();
        if !stood {
            consumer.metrics().connection.failed();
            // What was seen in the queues is old from here on, and would keep alerts firing. A connection that is made anew at
            // once keeps it until its first look: an alert for what waits must not begin its time again.
            consumer.metrics().forget_queued();
        }
        let error = match opened {
            Ok(connection) => {
                if backoff.connected().is_some() {
                    info!(stage = S::NAME, "connected to the broker; taking messages");
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
                    topology.doubt();
                }
                close(&connection).await;
                drop(shown);
                match ended {
                    Ok(()) => return Ok(()),
                    Err(error) => TopologyError::Broker(error),
                }
            }
            Err(TopologyError::Mismatch(problem)) if !connected_before => {
                error!(problem, "cannot work with this broker");
                return Err(TopologyError::Mismatch(problem));
            }
            Err(error) => error,
        };
        consumer.metrics().connection.down(error.to_string());
        if backoff.failed(consumer.settled() > settled, error.reason()) {
            warn!(stage = S::NAME, %error, "no connection to the broker; trying until there is one");
        }
        // A message that lapin can't read ends the connection each time, until the broker's delivery limit puts it aside.
        // Its neighbours are not to be counted with it, and the sooner that is over the better. Before a connection stands there
        // is no message.
        let unreadable = stood && matches!(&error, TopologyError::Broker(error) if error.is_reading());
        suspicion.broken(stood, unreadable, consumer.settled() > settled);
        consumer.begin_next(suspicion.begin());
        let wait = if unreadable { backoff.wait_after_unreadable() } else { backoff.wait() };
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
            // Dropping it is not enough: what lapin still waits for keeps it open.
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
    fn connections_that_break_by_what_they_read_or_settle_nothing_begin_carefully() {
        let mut suspicion = Suspicion::default();
        let mut after = |stood, unreadable, settled| {
            suspicion.broken(stood, unreadable, settled);
            suspicion.begin()
        };
        assert_eq!(after(true, false, true), Begin::AtOnce);
        assert_eq!(after(true, false, false), Begin::Slowly);
        assert_eq!(after(false, true, false), Begin::Slowly, "no connection, no message");
        assert_eq!(after(true, false, false), Begin::Singly);
        assert_eq!(after(true, false, true), Begin::AtOnce);
        assert_eq!(after(true, true, true), Begin::Singly);
    }

    #[tokio::test]
    async fn a_worker_lives_while_its_ledger_is_opened() {
        let health = Health::new(&Metrics::new(&[]).unwrap(), &[labels::Stage::Link], Duration::ZERO);
        health.grow_late();
        let lives = async {
            while !health.is_alive() {
                yield_now().await;
            }
        };
        let opened = timeout(Duration::from_secs(60), opened(pending(), &health, lives)).await;
        assert!(matches!(opened, Ok(Ok(None))), "told to end as soon as it shows that it lives");
    }
}
