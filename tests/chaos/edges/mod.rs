//! A run over both edges: requests to the ingress, messages through Webex Connect, and its receipts to the ingress.
//!
//! - [`requests`]: the clients of the ingress; `balancer`: the way of receipts
//! - `record`: what happened to each message; `evidence`: why a message was sent again
//!
//! The test is in [`super::storm`]; `make chaos-edges` makes it long.

mod balancer;
mod evidence;
mod record;
pub(super) mod requests;

use std::{future::pending, sync::Arc, time::Duration};

use instant_connect_sandbox::{ConnectHandle, Handle, ReceiptWebhook};
use testkit::{
    free_port,
    rig::{CLIENT_TOKEN, HUB_SECRET, bind_connect},
};
use tokio::task::JoinSet;

use self::balancer::Balancer;
use super::history::History;

pub(super) use self::{evidence::Evidence, record::EdgeRecords};

/// Number of ingresses.
const INGRESSES: usize = 2;
/// Time for which a message that may have been sent waits for its receipt.
const UNKNOWN_WAIT: &str = "8s";
/// Time between two attempts to send a receipt. While the broker is down, all receipts of the last messages are repeated, and a short
/// interval would take the CPU time that the broker needs to start.
const RECEIPT_RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// The edges of a run: the fake of Webex Connect, and the addresses of the ingresses.
pub(super) struct Edges {
    pub(super) connect: ConnectHandle,
    pub(super) ingresses: Vec<String>,
    balancer: Balancer,
}

impl Edges {
    /// Starts the fake and the balancer. `tasks` serve and watch the fake.
    pub(super) async fn start(sandbox: &Handle, history: &Arc<History>, tasks: &mut JoinSet<()>) -> Self {
        let ingresses: Vec<_> = (0..INGRESSES).map(|_| format!("127.0.0.1:{}", free_port())).collect();
        let connect = bind_connect(sandbox.clone()).await;
        let handle = connect.handle();
        tasks.spawn(async { connect.serve(pending()).await.unwrap() });
        tasks.spawn(watch(handle.clone(), sandbox.clone(), Arc::clone(history)));
        let balancer = Balancer::start(ingresses.clone()).await;
        Self { connect: handle, ingresses, balancer }
    }

    /// The settings of all workers.
    pub(super) fn settings(url: &str) -> Vec<(&str, &str)> {
        let more = [
            ("webex_connect.connect_timeout", "2s"),
            ("webex_connect.timeout", "5s"),
            ("webex_connect.rate_limit_wait", "1s"),
            ("send.rate", "0"),
            ("send.unknown_wait", UNKNOWN_WAIT),
            ("receipts.secret", HUB_SECRET),
            ("ingress.drain", "1ms"),
            ("ingress.clients.flows.token", CLIENT_TOKEN),
            ("ingress.clients.flows.rate", "10000"),
            ("ingress.clients.flows.burst", "100000"),
        ];
        crate::send::settings(url, &more)
    }

    /// Lets the fake send receipts to the ingresses. They must listen.
    pub(super) async fn save_webhook(&self) {
        let url = format!("http://{}/v1/receipts/default", self.balancer.address());
        let webhook = ReceiptWebhook {
            secret: Some(HUB_SECRET.into()),
            retries: 10_000,
            retry_interval: RECEIPT_RETRY_INTERVAL,
            ..ReceiptWebhook::new(url.parse().unwrap())
        };
        self.connect.save_webhook(webhook).await.unwrap();
    }
}

/// Records the fake's messages and receipts.
async fn watch(connect: ConnectHandle, sandbox: Handle, history: Arc<History>) {
    let (mut sends, mut receipts) = (0, 0);
    loop {
        let changed = connect.changed();
        for sent in connect.sends_after(sends) {
            sends += 1;
            history.guest_message(&sent, &sandbox);
        }
        for receipt in connect.receipts_after(receipts) {
            receipts += 1;
            history.receipt_sent(&receipt);
        }
        changed.await;
    }
}
