//! The clients of the APIs, connected to the simulated network, and the stages that use them.

use std::{sync::LazyLock, time::Duration};

use instant_connect_worker::{
    contract::{people::AllowedExperts, stage::StageDef},
    instant_connect::{
        InstantConnectClient,
        request::{Crypto, LinkOptions},
    },
    stages::{
        self, Deduplicator, GuestSender, HostRules, HostStage, LinkStage, OnFailure, Retention, SendStage,
        SmsSender, WhatsappSender,
    },
    upstream::{TokenSource, Upstream, UpstreamLimits},
    webex_connect::{
        ConnectApi, ConnectClient, Locales,
        texts::{TextOptions, Texts},
    },
    webex_messages::WebexClient,
};
use jiff::{SignedDuration, tz::TimeZone};

use super::{
    CALL_LIMIT, LifeParts,
    settings::{link_rules, send_rules, session_rules},
};
use crate::{
    checker::RATE_LIMIT_WAIT,
    network::{Api, BASE_URL, BODY_BYTES_MAX},
    plan::SendersPlan,
};

pub(super) const RETENTION: Retention =
    Retention { margin: SignedDuration::from_hours(1), max: SignedDuration::from_hours(100) };

/// The built-in texts.
static TEXTS: LazyLock<Texts> = LazyLock::new(|| {
    let options = TextOptions {
        folder: None,
        default_locale: "en",
        parts_max: 3,
        longest_url: BASE_URL.len() + 20,
        zone: TimeZone::UTC,
    };
    Texts::load(&options).unwrap_or_else(|error| unreachable!("the texts are built in: {error}"))
});

fn url(text: &str) -> url::Url {
    text.parse().unwrap_or_else(|_| unreachable!("a constant"))
}

impl LifeParts<'_> {
    pub(super) fn link_stage(&self) -> LinkStage {
        let options = LinkOptions { aud: "aud".to_owned(), short_urls: true, crypto: Crypto::default() };
        let endpoint = url("https://links.sim.example.com/api/v2/joseencrypt");
        let client = InstantConnectClient::new(self.upstream(&stages::LINK), endpoint, options, link_rules());
        LinkStage::new(client, session_rules(self.rules), self.deduplicator(&stages::LINK))
    }

    pub(super) fn host_stage(&self) -> HostStage {
        let endpoint = url("https://messages.sim.example.com/v1/messages");
        let client = WebexClient::new(self.upstream(&stages::HOST), endpoint);
        let rules = HostRules { links: link_rules(), experts: AllowedExperts::default() };
        HostStage::new(client, rules, self.deduplicator(&stages::HOST))
    }

    pub(super) fn sms_stage(&self, senders: &SendersPlan) -> SendStage<SmsSender> {
        let sender = SmsSender {
            client: self.connect_client(&stages::SMS, "v2/messages"),
            from: "Clinic".to_owned(),
            texts: TEXTS.clone(),
            receipts: senders.receipt_wait.is_some(),
        };
        self.send_stage(sender, senders)
    }

    pub(super) fn whatsapp_stage(&self, senders: &SendersPlan) -> SendStage<WhatsappSender> {
        let sender = WhatsappSender {
            client: self.connect_client(&stages::WHATSAPP, "resources/v1/messaging"),
            app_id: "app".to_owned(),
            templates: Locales::new([("en".to_owned(), "template".to_owned())], "en"),
            base_url: BASE_URL.to_owned(),
            names_guests: true,
        };
        self.send_stage(sender, senders)
    }

    fn send_stage<C: GuestSender>(&self, sender: C, senders: &SendersPlan) -> SendStage<C> {
        let (rules, metrics) = (send_rules(senders), self.metrics.receipts());
        SendStage::new(sender, rules, self.deduplicator(C::DEF), metrics, self.stop.clone())
    }

    fn connect_client(&self, stage: &'static StageDef, path: &str) -> ConnectClient {
        let endpoint = url(&format!("https://connect.sim.example.com/{path}"));
        ConnectClient::new(self.upstream(stage), endpoint, ConnectApi::Messages)
    }

    fn upstream(&self, stage: &'static StageDef) -> Upstream {
        let limits = UpstreamLimits {
            connect_timeout: Duration::from_secs(5),
            timeout: CALL_LIMIT,
            body_bytes_max: BODY_BYTES_MAX,
            rate_limit_wait: RATE_LIMIT_WAIT,
        };
        let api = Api { life: self.life.clone(), stage };
        let (token, clock) = (TokenSource::file(self.token.to_owned()), self.rules.clock.clone());
        let metrics = self.metrics.upstream(stage.upstream);
        let upstream = Upstream::over(Box::new(api), stage.upstream.title, token, limits, metrics, clock);
        upstream.sharing_rate_limits_in(self.ledger.clone(), stage.upstream.key)
    }

    fn deduplicator(&self, stage: &'static StageDef) -> Deduplicator {
        let (ledger, random) = (self.ledger.clone(), self.life.world.worker_random());
        Deduplicator::new(ledger, OnFailure::Wait, RETENTION, self.metrics.ledger(stage), random)
    }
}
