//! The settings in the form that each component takes.

use std::time::Duration;

use jiff::SignedDuration;

use super::{
    AmqpConfig, Auth, Config, HostsConfig, HostsDelivery, InstantConnectConfig, LedgerChoice, LedgerConfig,
    Loaded,
};
use crate::{
    broker::{
        connection::{Connector, ConnectorSettings},
        consumer::ConsumerLimits,
        port::ConnectionLimits,
        topology::Topology,
    },
    contract::{stage::StageDef, start_session::SessionRules},
    endpoint::broker_url,
    instant_connect::{
        request::{Crypto, Enc, JweAlg, JwsAlg, LinkOptions},
        response::LinkRules,
    },
    ledger,
    stages::{self, Retention},
    tls::{ClientFiles, Files},
    upstream::UpstreamLimits,
    values::{Bounded, Period},
};

crate::values::from_text_by_name!(JweAlg, Enc, JwsAlg);

pub(super) fn upstream_limits(
    connect_timeout: Period,
    timeout: Period,
    rate_limit_wait: Period,
    body_bytes_max: Bounded<65536, 1_073_741_824>,
) -> UpstreamLimits {
    UpstreamLimits {
        connect_timeout: connect_timeout.get(),
        timeout: timeout.get(),
        body_bytes_max: body_bytes_max.size(),
        rate_limit_wait: rate_limit_wait.get(),
    }
}

fn signed(period: Period) -> SignedDuration {
    SignedDuration::try_from(period.get()).unwrap_or(SignedDuration::MAX)
}

impl Config {
    /// Opens connections to the broker.
    #[must_use]
    pub(crate) fn connector(&self) -> Connector {
        let amqp = &self.amqp;
        Connector::new(ConnectorSettings {
            url: amqp.url.clone(),
            url_file: amqp.url_file.clone(),
            rules: amqp.url_rules(),
            tls: self.broker_tls(),
            connect_timeout: amqp.connect_timeout.get(),
            limits: ConnectionLimits {
                timeout: amqp.timeout.get(),
                reconnect_max: amqp.reconnect_max.get(),
                watch_interval: amqp.watch_interval.get(),
            },
        })
    }

    /// The names of exchanges and queues.
    #[must_use]
    pub fn topology(&self) -> Topology {
        let topology =
            Topology::new(&self.topology, self.guests.delivery.stages(), self.retry.delays.as_slice());
        if self.takes_receipts() { topology.with_receipts() } else { topology }
    }

    /// The queues of all stages, whatever `guests.delivery` says: dead letters of both deliveries can be there.
    #[must_use]
    pub(crate) fn topology_of_all_stages(&self) -> Topology {
        Topology::new(&self.topology, stages::ALL, self.retry.delays.as_slice())
    }

    /// Limits of each consumer.
    #[must_use]
    pub(crate) fn consumer_limits(&self) -> ConsumerLimits {
        let AmqpConfig {
            prefetch,
            concurrency,
            bytes_in_progress,
            deliveries_max,
            delivery_timeout,
            timeout,
            ..
        } = &self.amqp;
        ConsumerLimits {
            prefetch: u16::try_from(prefetch.get()).unwrap_or(u16::MAX),
            concurrency: concurrency.size(),
            bytes: bytes_in_progress.size(),
            deliveries_max: deliveries_max.get(),
            delivery_timeout: delivery_timeout.get(),
            timeout: timeout.get(),
            breaker: self.breaker,
        }
    }

    /// Defaults and limits for start events.
    pub(crate) fn session_rules(&self) -> SessionRules {
        let section = &self.instant_connect;
        SessionRules {
            subject_prefix: section.subject_prefix.as_str().to_owned(),
            vertical: section.vertical,
            host_login: section.host_login,
            link_lifetime: signed(section.link_lifetime),
            devices: self.devices.allowed.clone(),
            experts: self.hosts.allowed.clone(),
            guests: self.sends_to_guests().then(|| self.guest_rules()),
        }
    }

    /// TLS files for the broker.
    #[must_use]
    pub fn broker_tls(&self) -> Files {
        let files = self.amqp.client_cert_file.clone().zip(self.amqp.client_key_file.clone());
        let client = files.map(|(certificate, key)| ClientFiles { certificate, key });
        Files { client, ..self.tls() }
    }

    /// The certificate that the ingress shows.
    #[must_use]
    pub(crate) fn ingress_certificate(&self) -> Option<ClientFiles> {
        let files = self.ingress.tls_cert_file.clone().zip(self.ingress.tls_key_file.clone())?;
        Some(ClientFiles { certificate: files.0, key: files.1 })
    }

    /// TLS files for all other connections.
    #[must_use]
    pub fn tls(&self) -> Files {
        Files { ca: self.tls.ca_file.clone(), client: None }
    }
}

impl InstantConnectConfig {
    /// Limits of each call.
    pub(crate) fn limits(&self) -> UpstreamLimits {
        upstream_limits(self.connect_timeout, self.timeout, self.rate_limit_wait, self.body_bytes_max)
    }

    /// Options of each request.
    pub(crate) fn options(&self) -> LinkOptions {
        LinkOptions {
            aud: self.aud.as_str().to_owned(),
            short_urls: self.short_urls,
            crypto: Crypto {
                jwe_alg: self.jwe_alg,
                salt_length: self.salt_length.map(|length| u8::try_from(length.get()).unwrap_or(u8::MAX)),
                iterations: self.iterations.map(|count| u16::try_from(count.get()).unwrap_or(u16::MAX)),
                enc: self.enc,
                jws_alg: self.jws_alg,
            },
        }
    }

    /// Rules for accepted links.
    pub(crate) fn link_rules(&self) -> LinkRules {
        LinkRules {
            allowed_base_urls: self.allowed_base_urls.iter().map(|base| base.as_str().to_owned()).collect(),
            long_url_base: self.long_url_base.as_str().trim_end_matches('/').to_owned(),
        }
    }
}

impl HostsConfig {
    /// Limits of each call.
    pub(crate) fn limits(&self) -> UpstreamLimits {
        upstream_limits(self.connect_timeout, self.timeout, self.rate_limit_wait, self.body_bytes_max)
    }
}

impl LedgerConfig {
    /// Retention of entries.
    pub(crate) fn retention(&self) -> Retention {
        Retention { margin: signed(self.margin), max: signed(self.keep_max) }
    }
}

impl AmqpConfig {
    /// Rules for the broker's URLs.
    #[must_use]
    pub fn url_rules(&self) -> broker_url::UrlRules {
        broker_url::UrlRules { allow_insecure: self.allow_insecure, external: self.auth == Auth::External }
    }
}

impl Loaded {
    /// The configured ledger.
    #[must_use]
    pub fn ledger(&self) -> ledger::LedgerKind {
        let (section, prefix) = (&self.config.ledger, self.config.topology.prefix.as_str());
        match section.kind {
            LedgerChoice::Memory => ledger::LedgerKind::Memory,
            LedgerChoice::File => {
                let path = section.path.clone().unwrap_or_else(|| format!("{prefix}.ledger").into());
                ledger::LedgerKind::File { path }
            }
            LedgerChoice::Redis => {
                let allow_insecure = section.allow_insecure;
                let url = match section.url_file.clone() {
                    Some(path) => ledger::RedisUrl::File { path, allow_insecure },
                    None => section.url.clone().into(),
                };
                ledger::LedgerKind::Redis {
                    url,
                    prefix: prefix.to_owned(),
                    ca_file: self.config.tls.ca_file.clone(),
                }
            }
        }
    }

    /// True if stage `host` runs in this worker.
    #[must_use]
    pub fn delivers_to_hosts(&self) -> bool {
        self.config.hosts.delivery == HostsDelivery::Webex
    }

    /// The stages that run in this worker.
    #[must_use]
    pub(crate) fn stages(&self) -> Vec<&'static StageDef> {
        let is_off = |stage: &StageDef| *stage == stages::HOST && !self.delivers_to_hosts();
        self.config.guests.delivery.stages().iter().copied().filter(|stage| !is_off(stage)).collect()
    }

    /// Age at which work in progress can't be ended from within.
    pub(crate) fn stuck_after(&self) -> Duration {
        self.config.consumer_limits().work_age_max() + Duration::from_secs(60)
    }
}
