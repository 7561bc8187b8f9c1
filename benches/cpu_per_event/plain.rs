//! The baseline: an implementation with the same libraries. It makes the same calls and publishes the same number of
//! messages with confirms, but it has no checks, retries, deduplication or metrics.

use std::{env, sync::Arc};

use futures_util::StreamExt as _;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    },
    types::FieldTable,
};
use reqwest::Client;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;
use tokio::sync::Mutex;

/// The argument that starts the baseline instead of the benchmark.
pub(crate) const FLAG: &str = "--serve-plainly";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    session_id: String,
    guests: [Guest; 1],
    experts: [Expert; 1],
}

#[derive(Deserialize)]
struct Guest {
    address: String,
}

#[derive(Serialize, Deserialize)]
struct Expert {
    email: String,
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Links {
    host: [Code; 1],
    guest: [Code; 1],
    base_url: String,
}

#[derive(Deserialize)]
struct Code {
    short: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GuestLink<'a> {
    session_id: &'a str,
    to: &'a str,
    url: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct HostLink {
    session_id: String,
    expert: Expert,
    url: String,
}

#[derive(Deserialize)]
struct Sent {
    #[serde(rename = "id")]
    _id: String,
}

struct Plain {
    http: Client,
    /// Locked for each publish, because lapin mismatches confirms if several tasks publish on one channel.
    channel: Mutex<Channel>,
    prefix: String,
    url: String,
    token: String,
}

/// Processes events until it is killed.
pub(crate) async fn run() {
    let setting = |name: &str| env::var(name).unwrap();
    let connection =
        Connection::connect(&setting("ICW_AMQP__URL"), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let plain = Arc::new(Plain {
        http: Client::new(),
        channel: Mutex::new(channel),
        prefix: setting("ICW_TOPOLOGY__PREFIX"),
        url: setting("ICW_INSTANT_CONNECT__URL").trim_end_matches('/').to_owned(),
        token: setting("ICW_INSTANT_CONNECT__TOKEN"),
    });
    let at_once = setting("ICW_AMQP__CONCURRENCY").parse().unwrap();
    let sessions =
        consume(&plain, &connection, "sessions", at_once, async |plain, event| plain.links(event).await);
    let hosts = consume(&plain, &connection, "hosts", at_once, async |plain, link| plain.tell(link).await);
    tokio::join!(sessions, hosts);
}

async fn consume<T: DeserializeOwned>(
    plain: &Arc<Plain>,
    connection: &Connection,
    queue: &str,
    at_once: u16,
    serve: impl AsyncFn(&Plain, T) + Copy,
) {
    let channel = connection.create_channel().await.unwrap();
    channel.basic_qos(at_once, BasicQosOptions::default()).await.unwrap();
    let queue = format!("{}.{queue}", plain.prefix);
    let options = BasicConsumeOptions::default();
    let deliveries =
        channel.basic_consume(queue.into(), "plain".into(), options, FieldTable::default()).await.unwrap();
    deliveries
        .for_each_concurrent(usize::from(at_once), async |delivery| {
            let delivery = delivery.unwrap();
            serve(plain, serde_json::from_slice(&delivery.data).unwrap()).await;
            delivery.ack(BasicAckOptions::default()).await.unwrap();
        })
        .await;
}

impl Plain {
    async fn links(&self, event: Event) {
        let Event { session_id, guests: [guest], experts: [expert] } = event;
        let request = json!({
            "aud": "a4d886b0-979f-4e2c-a958-3e8c14605e51",
            "jwt": {"sub": session_id, "exp": 4_102_444_800_u64},
            "numHost": 1, "numGuest": 1, "provideShortUrls": true, "verticalType": "hc",
        });
        let links: Links = self.post("/api/v2/joseencrypt", &request).await;
        let url = |code: &Code| format!("{}{}", links.base_url, code.short);
        let guest = GuestLink { session_id: &session_id, to: &guest.address, url: url(&links.guest[0]) };
        let guest = serde_json::to_vec(&guest).unwrap();
        let host = HostLink { session_id, expert, url: url(&links.host[0]) };
        let host = serde_json::to_vec(&host).unwrap();
        tokio::join!(self.publish("guest.sms", &guest), self.publish("host.webex", &host));
    }

    async fn publish(&self, key: &str, body: &[u8]) {
        let exchange = format!("{}.links", self.prefix);
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let properties = BasicProperties::default().with_delivery_mode(2);
        let confirm = {
            let channel = self.channel.lock().await;
            channel.basic_publish(exchange.into(), key.into(), options, body, properties).await.unwrap()
        };
        confirm.await.unwrap();
    }

    async fn tell(&self, link: HostLink) {
        let text = format!("[Join session]({})", link.url);
        let request = json!({"toPersonEmail": link.expert.email, "markdown": text});
        let _: Sent = self.post("/v1/messages", &request).await;
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> T {
        let request = self.http.post(format!("{}{path}", self.url)).bearer_auth(&self.token).json(body);
        request.send().await.unwrap().error_for_status().unwrap().json().await.unwrap()
    }
}
