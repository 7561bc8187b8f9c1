//! The worker: both stages over two supervised connections, until it is told to stop.

use std::{future::Future, sync::Arc, time::Duration};

use lapin::Connection;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tracing::{error, info, warn};

use crate::{
    broker::{
        connection::{Connector, close},
        consumer::{Consumer, Limits},
        publisher::Publisher,
        settle::Settler,
        topology::{Topology, TopologyError},
    },
    config::{ConfigError, Loaded},
    contract::start_session::Rules,
    instant_connect::{
        self,
        request::{Crypto, Options},
        response::LinkRules,
    },
    retry::{self, Policy},
    stages::{Host, Link},
    upstream::{self, TokenSource, Upstream},
    webex,
};

/// Why the worker ended otherwise than by being told to.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The configuration can't be worked with.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The broker's exchanges or queues are not what they must be, and only a person can change that.
    #[error(transparent)]
    Topology(TopologyError),
    /// No HTTP client could be set up.
    #[error("HTTP client: {0}")]
    Http(#[from] reqwest::Error),
}

/// Runs the worker as `loaded` says, until `shutdown` resolves and what was in progress is done, `shutdown.grace` at
/// most. Without a broker it keeps trying.
///
/// # Errors
/// [`WorkerError`].
pub async fn run(loaded: &Loaded, shutdown: impl Future<Output = ()>) -> Result<(), WorkerError> {
    let config = &loaded.config;
    let connector = Arc::new(Connector::new(&config.amqp));
    let topology = Topology::new(&config.topology);
    let (stop, stopped) = watch::channel(false);
    let (publisher, publishing) = Publisher::start(Arc::clone(&connector), topology.clone());
    let settler = |queue| Settler::new(publisher.clone(), &topology, queue, config.amqp.timeout.get());
    let link = Consumer::new(
        link_stage(loaded)?,
        topology.sessions_queue(),
        settler(topology.sessions_queue()),
        limits(loaded),
        stopped.clone(),
    );
    let host = if loaded.delivers_to_hosts() {
        let queue = topology.hosts_queue();
        Some(Arc::new(Consumer::new(
            host_stage(loaded)?,
            queue.clone(),
            settler(queue),
            limits(loaded),
            stopped.clone(),
        )))
    } else {
        None
    };
    let consumers = Consumers { link: Arc::new(link), host };
    drop(publisher);

    let grace = config.shutdown.grace.get();
    let supervise = supervise(&connector, &topology, &consumers, stopped, grace);
    let stop_when_told = async {
        shutdown.await;
        info!(grace_s = grace.as_secs(), "shutting down: no more messages are taken");
        stop.send_replace(true);
        std::future::pending::<()>().await;
    };
    let result = tokio::select! {
        result = supervise => result,
        () = stop_when_told => Ok(()),
    };
    consumers.abort();
    drop(consumers);
    // The publisher ends by itself when nobody is left who publishes.
    if timeout(Duration::from_secs(1), publishing).await.is_err() {
        warn!("the publisher did not end in time");
    }
    result.map_err(WorkerError::Topology)
}

struct Consumers {
    link: Arc<Consumer<Link>>,
    host: Option<Arc<Consumer<Host>>>,
}

impl Consumers {
    /// Consumes until the connection breaks or a stop is asked for.
    async fn consume(&self, connection: &Connection) -> Result<(), crate::broker::connection::BrokerError> {
        match &self.host {
            Some(host) => tokio::try_join!(self.link.consume(connection), host.consume(connection)).map(drop),
            None => self.link.consume(connection).await,
        }
    }

    async fn idle(&self) {
        self.link.idle().await;
        if let Some(host) = &self.host {
            host.idle().await;
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

/// Keeps a connection for consuming, and makes a new one when it breaks.
async fn supervise(
    connector: &Connector,
    topology: &Topology,
    consumers: &Consumers,
    mut stopped: watch::Receiver<bool>,
    grace: Duration,
) -> Result<(), TopologyError> {
    let mut down_since = Some(Instant::now());
    let mut said = false;
    let mut tries = 0;
    while !*stopped.borrow() {
        let error = match open(connector, topology).await {
            Ok(connection) => {
                info!(
                    after_ms = down_since.take().map_or(0, |since| since.elapsed().as_millis()),
                    "connected to the broker; taking messages"
                );
                (said, tries) = (false, 0);
                match consumers.consume(&connection).await {
                    Ok(()) => {
                        drain(consumers, grace).await;
                        close(&connection, connector.timeout.min(Duration::from_secs(5))).await;
                        return Ok(());
                    }
                    Err(error) => {
                        close(&connection, connector.timeout.min(Duration::from_secs(5))).await;
                        error
                    }
                }
            }
            Err(TopologyError::Broker(error)) => error,
            Err(mismatch) => {
                error!(error = %mismatch, "cannot work with this broker");
                return Err(mismatch);
            }
        };
        if !std::mem::replace(&mut said, true) {
            warn!(%error, "no connection to the broker; trying until there is one");
        }
        down_since.get_or_insert_with(Instant::now);
        tries += 1;
        let wait = retry::reconnect_wait(
            Duration::from_millis(100),
            connector.reconnect_max,
            tries,
            fastrand::f64(),
        );
        tokio::select! {
            () = sleep(wait) => {}
            _ = stopped.wait_for(|stop| *stop) => {}
        }
    }
    drain(consumers, grace).await;
    Ok(())
}

async fn open(connector: &Connector, topology: &Topology) -> Result<Connection, TopologyError> {
    let connection = connector.connect("consume").await.map_err(TopologyError::Broker)?;
    topology.ensure(&connection, connector.timeout).await?;
    Ok(connection)
}

/// Waits for what is in progress, `grace` at most. What is not done then is the broker's again when the connection closes.
async fn drain(consumers: &Consumers, grace: Duration) {
    if timeout(grace, consumers.idle()).await.is_err() {
        warn!(
            in_progress = consumers.in_progress(),
            "not done within shutdown.grace; given back to the broker"
        );
    }
}

fn link_stage(loaded: &Loaded) -> Result<Link, WorkerError> {
    let section = &loaded.config.instant_connect;
    let url = loaded.joseencrypt_url();
    let limits = upstream::Limits {
        connect_timeout: section.connect_timeout.get(),
        timeout: section.timeout.get(),
        body_bytes_max: section.body_bytes_max.size(),
        rate_limit_wait: section.rate_limit_wait.get(),
    };
    let upstream = Upstream::new("Instant Connect", &url, loaded.instant_connect_token()?, limits)?;
    let options = Options {
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
    let rules = LinkRules {
        allowed_base_urls: section.allowed_base_urls.iter().map(|base| base.as_str().to_owned()).collect(),
        long_url_base: section.long_url_base.as_str().trim_end_matches('/').to_owned(),
    };
    let session_rules = Rules {
        vertical: section.vertical,
        host_login: section.host_login,
        link_lifetime: jiff::SignedDuration::try_from(section.link_lifetime.get())
            .unwrap_or(jiff::SignedDuration::MAX),
        devices: loaded.config.devices.allowed.clone(),
    };
    Ok(Link::new(instant_connect::Client::new(upstream, url, options, rules), session_rules))
}

fn host_stage(loaded: &Loaded) -> Result<Host, WorkerError> {
    let (url, token) = (loaded.messages_url(), loaded.hosts_token()?);
    Ok(Host::new(webex::Client::new(messages_api(loaded, &url, token)?, url)))
}

fn messages_api(loaded: &Loaded, url: &url::Url, token: TokenSource) -> Result<Upstream, WorkerError> {
    let section = &loaded.config.hosts;
    let limits = upstream::Limits {
        connect_timeout: section.connect_timeout.get(),
        timeout: section.timeout.get(),
        body_bytes_max: section.body_bytes_max.size(),
        rate_limit_wait: section.rate_limit_wait.get(),
    };
    Ok(Upstream::new("Webex Messages", url, token, limits)?)
}

fn limits(loaded: &Loaded) -> Limits {
    let (amqp, retry) = (&loaded.config.amqp, &loaded.config.retry);
    Limits {
        prefetch: u16::try_from(amqp.prefetch.get()).unwrap_or(u16::MAX),
        concurrency: amqp.concurrency.size(),
        hold_max: amqp.hold_max.get(),
        timeout: amqp.timeout.get(),
        retry: Policy {
            initial: retry.initial.get(),
            max: retry.max.get(),
            multiplier: retry.multiplier.get(),
            jitter: retry.jitter.get(),
            attempts: retry.attempts.get(),
            total: retry.total.get(),
        },
        probe: (retry.probe_initial.get(), retry.probe_max.get()),
    }
}
