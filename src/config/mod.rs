//! The configuration: typed, validated, and documented by `config/default.toml`, which is built in.
//!
//! - [`mod@load`]: the layers
//! - [`settings`]: the merged values, their origins, and what may be shown of them
//! - [`validate`]: rules between settings
//! - `components`, `guests`, `urls`, `tokens`: the settings in the form that each component takes
//! - [`mod@schema`]: JSON Schema of the settings
//! - `otel`: OpenTelemetry's own variables

#![warn(missing_docs)]

mod components;
mod guests;
pub mod load;
mod otel;
pub mod schema;
pub mod settings;
mod tokens;
mod urls;
pub mod validate;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

pub use guests::{ConnectMode, GuestsConfig, ReceiptsConfig, SendConfig, WebexConnectConfig};
pub use load::{Loaded, Sources, load};
use schemars::JsonSchema;
use secrecy::SecretString;
use serde::Deserialize;
pub use settings::ConfigError;
use url::Url;

use crate::{
    breaker::BreakerPolicy,
    broker::topology::TopologyConfig,
    contract::{device::AllowList, people::AllowedExperts, start_session::Vertical},
    ingress::config::{AddressBlock, ClientConfig},
    instant_connect::request::{Enc, JweAlg, JwsAlg},
    retry::RetryPolicy,
    stages::OnFailure,
    telemetry::{
        logs::{LogFormat, LogLevel},
        traces::TraceRelation,
    },
    values::{self, Bounded, Period, address_or_off, empty_is_none, http_url, zero_is_none},
};

/// The whole configuration; `config/default.toml` documents each key.
#[derive(Debug, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "config/default.toml documents every key, and a test holds the two together")]
pub struct Config {
    pub amqp: AmqpConfig,
    pub tls: TlsConfig,
    pub topology: TopologyConfig,
    pub instant_connect: InstantConnectConfig,
    pub devices: DevicesConfig,
    pub hosts: HostsConfig,
    pub guests: GuestsConfig,
    pub webex_connect: WebexConnectConfig,
    pub send: SendConfig,
    pub retry: RetryPolicy,
    pub breaker: BreakerPolicy,
    pub ledger: LedgerConfig,
    pub shutdown: ShutdownConfig,
    pub ingress: IngressConfig,
    pub receipts: ReceiptsConfig,
    pub admin: AdminConfig,
    pub telemetry: TelemetryConfig,
}

/// Section `amqp`.
#[derive(Debug, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "see Config")]
pub struct AmqpConfig {
    #[schemars(with = "String")]
    pub url: SecretString,
    #[serde(deserialize_with = "empty_is_none")]
    pub url_file: Option<PathBuf>,
    pub prefetch: Bounded<1, 65535>,
    pub concurrency: Bounded<1, 65535>,
    pub bytes_in_progress: Bounded<1_048_576, 4_294_967_295>,
    pub connect_timeout: Period,
    pub timeout: Period,
    pub reconnect_max: Period,
    pub watch_interval: Period,
    pub deliveries_max: Bounded<1, 90>,
    pub delivery_timeout: Period,
    pub auth: Auth,
    #[serde(deserialize_with = "empty_is_none")]
    pub client_cert_file: Option<PathBuf>,
    #[serde(deserialize_with = "empty_is_none")]
    pub client_key_file: Option<PathBuf>,
    pub allow_insecure: bool,
}

/// `amqp.auth`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Auth {
    /// User and password in the URL.
    Password,
    /// The client certificate: SASL `EXTERNAL`.
    External,
}

/// Section `tls`.
#[derive(Debug, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "see Config")]
pub struct TlsConfig {
    #[serde(deserialize_with = "empty_is_none")]
    pub ca_file: Option<PathBuf>,
}

/// Section `instant_connect`.
#[derive(Debug, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "see Config")]
pub struct InstantConnectConfig {
    #[serde(deserialize_with = "http_url")]
    #[schemars(with = "schema::HttpUrl")]
    pub url: Url,
    #[schemars(with = "String")]
    pub token: SecretString,
    #[serde(deserialize_with = "empty_is_none")]
    pub token_file: Option<PathBuf>,
    pub aud: values::NonEmpty,
    pub subject_prefix: values::SubjectPrefix,
    pub vertical: Vertical,
    pub host_login: bool,
    pub link_lifetime: Period,
    pub short_urls: bool,
    pub allowed_base_urls: Vec<values::BaseUrl>,
    #[serde(deserialize_with = "http_url")]
    #[schemars(with = "schema::HttpUrl")]
    pub long_url_base: Url,
    pub connect_timeout: Period,
    pub timeout: Period,
    pub body_bytes_max: Bounded<65536, 1_073_741_824>,
    pub rate_limit_wait: Period,
    #[serde(deserialize_with = "empty_is_none")]
    pub jwe_alg: Option<JweAlg>,
    #[serde(deserialize_with = "zero_is_none")]
    pub salt_length: Option<Bounded<8, 128>>,
    #[serde(deserialize_with = "zero_is_none")]
    pub iterations: Option<Bounded<1000, 32767>>,
    #[serde(deserialize_with = "empty_is_none")]
    pub enc: Option<Enc>,
    #[serde(deserialize_with = "empty_is_none")]
    pub jws_alg: Option<JwsAlg>,
    pub allow_insecure: bool,
}

/// Section `devices`.
#[derive(Debug, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "see Config")]
pub struct DevicesConfig {
    pub allowed: AllowList,
}

/// Section `hosts`.
#[derive(Debug, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "see Config")]
pub struct HostsConfig {
    pub delivery: HostsDelivery,
    pub allowed: AllowedExperts,
    #[serde(deserialize_with = "http_url")]
    #[schemars(with = "schema::HttpUrl")]
    pub webex_url: Url,
    #[schemars(with = "String")]
    pub token: SecretString,
    #[serde(deserialize_with = "empty_is_none")]
    pub token_file: Option<PathBuf>,
    pub connect_timeout: Period,
    pub timeout: Period,
    pub body_bytes_max: Bounded<65536, 1_073_741_824>,
    pub rate_limit_wait: Period,
    pub allow_insecure: bool,
}

/// `hosts.delivery`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HostsDelivery {
    /// Stage `host` sends the link.
    Webex,
    /// The link stays on `host.webex` for another consumer.
    Amqp,
}

/// Section `ledger`.
#[derive(Debug, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "see Config")]
pub struct LedgerConfig {
    pub kind: LedgerChoice,
    #[serde(deserialize_with = "empty_is_none")]
    pub path: Option<PathBuf>,
    #[schemars(with = "String")]
    pub url: SecretString,
    #[serde(deserialize_with = "empty_is_none")]
    pub url_file: Option<PathBuf>,
    pub allow_insecure: bool,
    pub on_failure: OnFailure,
    pub margin: Period,
    pub keep_max: Period,
}

/// `ledger.kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the field's own names")]
pub enum LedgerChoice {
    File,
    Redis,
    Memory,
}

/// Section `shutdown`.
#[derive(Debug, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "see Config")]
pub struct ShutdownConfig {
    pub grace: Period,
}

/// Section `ingress`.
#[derive(Debug, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "see Config")]
pub struct IngressConfig {
    #[serde(deserialize_with = "address_or_off")]
    #[schemars(with = "schema::Listen")]
    pub listen: Option<SocketAddr>,
    #[serde(deserialize_with = "empty_is_none")]
    pub tls_cert_file: Option<PathBuf>,
    #[serde(deserialize_with = "empty_is_none")]
    pub tls_key_file: Option<PathBuf>,
    #[serde(deserialize_with = "empty_is_none")]
    pub client_ca_file: Option<PathBuf>,
    pub allow_insecure: bool,
    pub require_idempotency_key: bool,
    pub connections_max: Bounded<1, 65535>,
    pub in_flight_max: Bounded<1, 65535>,
    pub drain: Period,
    pub trusted_proxies: Vec<AddressBlock>,
    #[serde(default)]
    pub clients: BTreeMap<String, ClientConfig>,
}

/// Section `admin`.
#[derive(Debug, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "see Config")]
pub struct AdminConfig {
    #[serde(deserialize_with = "address_or_off")]
    #[schemars(with = "schema::Listen")]
    pub listen: Option<SocketAddr>,
}

/// Section `telemetry`.
#[derive(Debug, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "see Config")]
pub struct TelemetryConfig {
    pub log_format: LogFormat,
    pub log_level: LogLevel,
    #[serde(deserialize_with = "empty_is_none")]
    #[schemars(with = "Option<schema::HttpUrl>")]
    pub otlp_endpoint: Option<Url>,
    pub trace_context: TraceRelation,
}
