//! Receipts of Webex Connect: its fake sends them to the ingress, and they are published on a real broker.

mod answers;
mod fallback;
mod unavailable;
mod unknown;
mod whole_way;

use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use instant_connect_sandbox::ReceiptWebhook;
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use sha2::{Sha256, Sha512};

use testkit::{Rig, admin::Admin, amqp::Deliveries, free_port, program::Program, rig::HUB_SECRET};

use crate::{
    ingress::{Caller, Reply, reply},
    send::SendRig,
};

/// The path of receipts.
const PATH: &str = "/v1/receipts/default";
/// A `message_id` of a guest link.
const MESSAGE: &str = "9a58bed1-6e22-51ff-b40f-df2011762f7f";

/// A rig whose worker takes receipts.
struct ReceiptRig {
    send: SendRig,
    /// The ingress has the same address after a restart.
    listen: String,
}

impl ReceiptRig {
    async fn new() -> Self {
        Self::on(Rig::new().await).await
    }

    async fn on(rig: Rig) -> Self {
        Self { send: SendRig::on(rig).await, listen: format!("127.0.0.1:{}", free_port()) }
    }

    /// The settings of a worker that sends on both channels and takes receipts, with `more`.
    fn settings<'a>(&'a self, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let own = [
            ("ingress.listen", self.listen.as_str()),
            ("ingress.drain", "1ms"),
            ("receipts.secret", HUB_SECRET),
        ];
        [&own[..], more].concat()
    }

    async fn start(&self, more: &[(&str, &str)]) -> Program {
        let worker = self.send.start(&self.settings(more)).await;
        until_declared(&worker, 4).await;
        worker
    }

    /// A webhook that sends its receipts to the worker, and repeats them often.
    fn webhook(&self) -> ReceiptWebhook {
        ReceiptWebhook {
            secret: Some(HUB_SECRET.into()),
            retries: 1000,
            retry_interval: Duration::from_millis(100),
            ..ReceiptWebhook::new(format!("http://{}{PATH}", self.listen).parse().unwrap())
        }
    }

    /// Lets the fake send receipts.
    async fn save_webhook(&self) {
        self.send.connect.save_webhook(self.webhook()).await.unwrap();
    }

    async fn published(&self) -> Deliveries {
        self.send.rig.amqp.consume(&self.send.rig.name("receipts")).await
    }

    /// Waits until the fake has sent `count` receipts.
    async fn until_confirmed(&self, count: u64) {
        let confirmed = self.send.connect.until(|connect| connect.counts().confirmed_receipts >= count);
        testkit::soon(&format!("{count} receipts"), confirmed).await;
    }
}

/// Waits until the publisher and this many stages have declared the topology. Until then another connection may still create the last
/// queue, and RabbitMQ closes the connection of a consumer of such a queue.
async fn until_declared(worker: &Program, stages: usize) {
    worker.output.until("subscribed to queue", stages).await;
    Admin::of(worker).await.until(r#"connected{connection="publish"}"#, "1").await;
}

/// The body of a receipt for the message `id` with this code, with personal data.
fn body(id: &str, code: &str) -> String {
    let info = json!({
        "timeStamp": "2026-11-21T11:00:04.120+01:00", "Description": "https://elsewhere/visit/x|192.0.2.1",
        "code": code, "deliveryChannel": "SMS", "additionalInfo": "flowsecret browser", "destination": "34600000001",
        "destinationType": "msisdn", "deliveryStatus": "x", "messageCount": "2", "waid": "34600000001",
    });
    let outer = json!({"deliveryInfo": info, "carrier": "Carrier", "transid": "6f9e", "correlationid": id});
    json!({"deliveryInfoNotification": outer}).to_string()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |digits, byte| digits + &format!("{byte:02x}"))
}

/// The signature of `body` with `secret`.
fn signature(secret: &str, body: &str) -> String {
    let mac = <Hmac<Sha256> as KeyInit>::new_from_slice(secret.as_bytes()).unwrap();
    hex(&mac.chain_update(body).finalize().into_bytes())
}

fn signature_512(secret: &str, body: &str) -> String {
    let mac = <Hmac<Sha512> as KeyInit>::new_from_slice(secret.as_bytes()).unwrap();
    hex(&mac.chain_update(body).finalize().into_bytes())
}

fn request(caller: &Caller, body: &str) -> RequestBuilder {
    caller.http.post(caller.url(PATH)).header("content-type", "application/json").body(body.to_owned())
}

/// Sends a receipt with a valid signature.
async fn receipt(caller: &Caller, body: &str) -> Reply {
    reply(request(caller, body).header("x-hub-signature", signature(HUB_SECRET, body))).await
}

/// Fields of a receipt that can be compared.
fn state(receipt: &Value) -> (&str, bool) {
    (receipt["state"].as_str().unwrap(), receipt["final"].as_bool().unwrap())
}
