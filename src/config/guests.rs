//! Sections `guests`, `webex_connect`, `send` and `receipts`: messages to guests, in the form that each component takes.

use std::{collections::BTreeMap, path::PathBuf};

use jiff::tz::TimeZone;
use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use url::Url;

use super::{Config, ConfigError, Loaded, components::upstream_limits, schema};
use crate::{
    contract::{
        people::{Channel, NumberPrefixes},
        start_session::GuestRules,
    },
    ingress::config::{HubAlgorithm, KeyHeader},
    stages::{GuestsDelivery, OnUnknown, SendRules},
    upstream::UpstreamLimits,
    values::{self, Bounded, Period, PeriodOrZero, empty_is_none, http_url},
    webex_connect::{
        Locales,
        texts::{TextOptions, Texts, TextsError},
    },
};

/// Length of `short` in Instant Connect's links, in characters.
const SHORT_CHARS: usize = 7;

/// Section `guests`.
#[derive(Debug, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "see Config")]
pub struct GuestsConfig {
    pub delivery: GuestsDelivery,
}

/// Section `webex_connect`.
#[derive(Debug, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "see Config")]
pub struct WebexConnectConfig {
    pub mode: ConnectMode,
    #[serde(deserialize_with = "http_url")]
    #[schemars(with = "schema::HttpUrl")]
    pub url: Url,
    #[schemars(with = "String")]
    pub key: SecretString,
    #[serde(deserialize_with = "empty_is_none")]
    pub key_file: Option<PathBuf>,
    pub jwt_issuer: String,
    #[schemars(with = "String")]
    pub jwt_secret: SecretString,
    #[serde(deserialize_with = "empty_is_none")]
    pub jwt_secret_file: Option<PathBuf>,
    pub event_id: String,
    pub event_attributes: Vec<String>,
    pub sms_from: String,
    pub whatsapp_app_id: String,
    #[serde(default)]
    pub whatsapp_templates: BTreeMap<String, String>,
    pub whatsapp_parameters: Vec<String>,
    pub whatsapp_base_url: values::BaseUrl,
    #[serde(deserialize_with = "empty_is_none")]
    pub templates_dir: Option<PathBuf>,
    pub locale: values::NonEmpty,
    pub time_zone: values::NonEmpty,
    pub connect_timeout: Period,
    pub timeout: Period,
    pub body_bytes_max: Bounded<65_536, 1_073_741_824>,
    pub rate_limit_wait: Period,
    pub allow_insecure: bool,
}

/// `webex_connect.mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ConnectMode {
    /// Stages `sms` and `whatsapp` send messages.
    Messages,
    /// They wake flows, which send the messages.
    Event,
}

/// Section `send`.
#[derive(Debug, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "see Config")]
pub struct SendConfig {
    pub allowed_prefixes: NumberPrefixes,
    pub on_unknown: OnUnknown,
    pub unknown_wait: PeriodOrZero,
    pub min_remaining: Period,
    pub rate: Bounded<0, 1000>,
    pub per_address_per_hour: Bounded<0, 100>,
    pub sms_parts_max: Bounded<1, 10>,
    pub sms_fallback: bool,
}

/// Section `receipts`.
#[derive(Debug, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "see Config")]
pub struct ReceiptsConfig {
    #[serde(deserialize_with = "empty_is_none")]
    pub secret_file: Option<PathBuf>,
    #[schemars(with = "String")]
    pub secret: SecretString,
    pub algorithm: HubAlgorithm,
    pub key_header: KeyHeader,
    #[serde(deserialize_with = "empty_is_none")]
    pub key_file: Option<PathBuf>,
    #[schemars(with = "String")]
    pub key: SecretString,
    pub allow_unsigned: bool,
}

impl ReceiptsConfig {
    /// True if receipts need a signature.
    #[must_use]
    pub fn has_secret(&self) -> bool {
        self.secret_file.is_some() || !self.secret.expose_secret().is_empty()
    }

    /// True if receipts need a key.
    #[must_use]
    pub fn has_key(&self) -> bool {
        self.key_file.is_some() || !self.key.expose_secret().is_empty()
    }
}

impl Config {
    /// True if stages `sms` and `whatsapp` send the guest links.
    #[must_use]
    pub fn sends_to_guests(&self) -> bool {
        self.guests.delivery == GuestsDelivery::WebexConnect
    }

    /// True if the ingress accepts receipts of Webex Connect. It is the same for all workers, also those without the ingress.
    #[must_use]
    pub fn takes_receipts(&self) -> bool {
        let section = &self.receipts;
        section.has_secret() || section.has_key() || section.allow_unsigned
    }

    /// True if a message that may have been sent waits for its receipt.
    #[must_use]
    pub(crate) fn waits_for_receipts(&self) -> bool {
        self.sends_to_guests() && self.takes_receipts() && !self.wakes_flows()
    }

    /// True if a guest whom `WhatsApp` does not reach gets the link by SMS.
    #[must_use]
    pub(crate) fn falls_back_to_sms(&self) -> bool {
        self.send.sms_fallback && self.sends_to_guests() && !self.wakes_flows()
    }

    /// True if flows send the messages.
    #[must_use]
    pub(crate) fn wakes_flows(&self) -> bool {
        self.webex_connect.mode == ConnectMode::Event
    }

    /// The guests that can get a message.
    pub(super) fn guest_rules(&self) -> GuestRules {
        let section = &self.webex_connect;
        let senders = [(Channel::Sms, &section.sms_from), (Channel::Whatsapp, &section.whatsapp_app_id)];
        let channels = senders.into_iter().filter(|(_, sender)| self.wakes_flows() || !sender.is_empty());
        GuestRules {
            numbers: self.send.allowed_prefixes.clone(),
            channels: channels.map(|(channel, _)| channel).collect(),
        }
    }

    /// Rules for the messages to guests.
    pub(crate) fn send_rules(&self) -> SendRules {
        SendRules {
            links: self.instant_connect.link_rules(),
            numbers: self.send.allowed_prefixes.clone(),
            min_remaining: self.send.min_remaining.get(),
            on_unknown: self.send.on_unknown,
            // Custom events have no receipts.
            receipt_wait: (self.takes_receipts() && !self.wakes_flows())
                .then(|| self.send.unknown_wait.get()),
            rate: Some(self.send.rate.get()).filter(|rate| *rate > 0),
            sms_fallback: self.falls_back_to_sms(),
            per_address_per_hour: Some(self.send.per_address_per_hour.get()).filter(|max| *max > 0),
        }
    }
}

impl WebexConnectConfig {
    /// The texts of SMS.
    ///
    /// # Errors
    /// All problems of the files.
    pub(crate) fn texts(&self, parts_max: usize, longest_url: usize) -> Result<Texts, TextsError> {
        Texts::load(&TextOptions {
            folder: self.templates_dir.as_deref(),
            default_locale: self.locale.as_str(),
            parts_max,
            longest_url,
            zone: TimeZone::get(self.time_zone.as_str()).unwrap_or(TimeZone::UTC),
        })
    }

    /// The template of each locale.
    pub(crate) fn templates(&self) -> Option<Locales<String>> {
        let templates = self.whatsapp_templates.iter().filter(|(_, id)| !id.is_empty());
        let templates = templates.map(|(locale, id)| (locale.clone(), id.clone()));
        Locales::new(templates, self.locale.as_str())
    }

    /// Limits of each call.
    pub(crate) fn limits(&self) -> UpstreamLimits {
        upstream_limits(self.connect_timeout, self.timeout, self.rate_limit_wait, self.body_bytes_max)
    }
}

impl Loaded {
    /// The texts of SMS.
    ///
    /// # Errors
    /// [`ConfigError`] with all problems of the files.
    pub(crate) fn texts(&self) -> Result<Texts, ConfigError> {
        let config = &self.config;
        let bases = config.instant_connect.allowed_base_urls.iter().map(|base| base.as_str().chars().count());
        let longest_url = bases.max().unwrap_or_default() + SHORT_CHARS;
        let texts = config.webex_connect.texts(config.send.sms_parts_max.size(), longest_url);
        texts.map_err(|error| self.settings.error("webex_connect.templates_dir", error))
    }
}
