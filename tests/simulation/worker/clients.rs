//! The clients of the APIs, connected to the simulated network, and the stages that use them.

use std::time::Duration;

use instant_connect_worker::{
    contract::stage::StageDef,
    instant_connect::{
        InstantConnectClient,
        request::{Crypto, LinkOptions},
    },
    stages::{self, Deduplicator, HostStage, LinkStage, OnFailure, Retention},
    upstream::{TokenSource, Upstream, UpstreamLimits},
    webex::WebexClient,
};
use jiff::SignedDuration;

use super::{
    CALL_LIMIT, LifeParts,
    settings::{link_rules, session_rules},
};
use crate::{
    checker::RATE_LIMIT_WAIT,
    network::{Api, BODY_BYTES_MAX},
};

const RETENTION: Retention =
    Retention { margin: SignedDuration::from_hours(1), max: SignedDuration::from_hours(100) };

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
        HostStage::new(client, link_rules(), self.deduplicator(&stages::HOST))
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
