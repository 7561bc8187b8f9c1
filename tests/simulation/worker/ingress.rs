//! The ingress of the worker, without its listener: it takes requests as values.

use std::{collections::BTreeMap, sync::Arc};

use axum::body::Bytes;
use instant_connect_worker::{
    contract::{receipt, start_session},
    ingress::{Clients, IngressService, Outlet, Receipts, StartEvents, config::ClientConfig},
    telemetry::traces::Tracer,
};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{
    LifeParts,
    clients::RETENTION,
    settings::{config, session_rules},
};
use crate::plan::SendersPlan;

/// The name of the client that sends start requests, and its token.
pub(crate) const CLIENT: &str = "flows";
pub(crate) const CLIENT_TOKEN: &str = "icw_token-of-the-simulated-flows";

/// Number of requests in progress, and of bytes that wait for their confirms.
const IN_FLIGHT_MAX: usize = 64;
const ROOM_BYTES: usize = 4 * 1024 * 1024;

impl LifeParts<'_> {
    pub(super) fn ingress(&self, senders: &SendersPlan) -> IngressService {
        let client: ClientConfig = config(json!({
            "token_file": "", "token": CLIENT_TOKEN, "token_sha256": "", "signing_secret_file": "", "signing_secret": "",
            "scopes": ["start"],
            "rate": 10_000, "burst": 100_000, "allowed_addresses": [],
        }));
        let clients = Clients::open(&BTreeMap::from([(CLIENT.to_owned(), client)]), IN_FLIGHT_MAX);
        IngressService {
            clients: clients.unwrap_or_else(|error| unreachable!("a constant: {error}")),
            events: self.start_events(),
            receipts: senders.receipt_wait.map(|_| self.receipts()),
            in_flight: Semaphore::new(IN_FLIGHT_MAX),
            trusted_proxies: Vec::new(),
            requires_key: false,
            openapi: Bytes::new(),
            draining: self.stop.clone(),
            closed: CancellationToken::new(),
        }
    }

    fn start_events(&self) -> StartEvents {
        StartEvents {
            outlet: self.outlet(start_session::EXCHANGE),
            ledger: self.ledger.clone(),
            clock: self.rules.clock.clone(),
            random: self.life.world.worker_random(),
            without_ledger: false,
            rules: session_rules(self.rules),
            margin: RETENTION.margin,
            tracer: Tracer::default(),
            metrics: self.metrics.ingress(),
        }
    }

    fn receipts(&self) -> Receipts {
        Receipts {
            secrets: None,
            keys: None,
            in_progress: Semaphore::new(IN_FLIGHT_MAX / 2),
            outlet: self.outlet(receipt::EXCHANGE),
            by_sms: None,
            ledger: self.ledger.clone(),
            clock: self.rules.clock.clone(),
            random: self.life.world.worker_random(),
            without_ledger: false,
            tracer: Tracer::default(),
            metrics: self.metrics.receipts(),
        }
    }

    fn outlet(&self, exchange: &str) -> Outlet {
        Outlet {
            publisher: self.publisher.clone(),
            publishing: self.state.publishing().clone(),
            room: Arc::new(Semaphore::new(ROOM_BYTES)),
            exchange: self.topology.exchange(exchange),
        }
    }
}
