//! The baseline: a quick implementation with the same libraries. It makes the same calls and publishes the same
//! number of messages with confirms, but it has no checks, retries, deduplication or metrics.

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
use serde_json::{Value, json};
use tokio::sync::Mutex;

/// The argument that starts the baseline instead of the benchmark.
pub(crate) const FLAG: &str = "--serve-plainly";

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
    let sessions = consume(&plain, &connection, "sessions", async |plain, event| plain.links(event).await);
    let hosts = consume(&plain, &connection, "hosts", async |plain, link| plain.tell(link).await);
    tokio::join!(sessions, hosts);
}

async fn consume(
    plain: &Arc<Plain>,
    connection: &Connection,
    queue: &str,
    serve: impl AsyncFn(&Plain, &Value) + Copy,
) {
    let channel = connection.create_channel().await.unwrap();
    channel.basic_qos(32, BasicQosOptions::default()).await.unwrap();
    let queue = format!("{}.{queue}", plain.prefix);
    let options = BasicConsumeOptions::default();
    let deliveries =
        channel.basic_consume(queue.into(), "plain".into(), options, FieldTable::default()).await.unwrap();
    deliveries
        .for_each_concurrent(32, async |delivery| {
            let delivery = delivery.unwrap();
            serve(plain, &serde_json::from_slice(&delivery.data).unwrap()).await;
            delivery.ack(BasicAckOptions::default()).await.unwrap();
        })
        .await;
}

impl Plain {
    async fn links(&self, event: &Value) {
        let request = json!({
            "aud": "a4d886b0-979f-4e2c-a958-3e8c14605e51",
            "jwt": {"sub": event["sessionId"], "exp": 4_102_444_800_u64},
            "numHost": 1, "numGuest": 1, "provideShortUrls": true, "verticalType": "hc",
        });
        let answer = self.post("/api/v2/joseencrypt", &request).await;
        let (base, host, guest) =
            (&answer["baseUrl"], &answer["host"][0]["short"], &answer["guest"][0]["short"]);
        let url = |code: &Value| format!("{}{}", base.as_str().unwrap(), code.as_str().unwrap());
        let guest =
            json!({"sessionId": event["sessionId"], "to": event["guests"][0]["address"], "url": url(guest)});
        let host = json!({"sessionId": event["sessionId"], "expert": event["experts"][0], "url": url(host)});
        tokio::join!(self.publish("guest.sms", &guest), self.publish("host.webex", &host));
    }

    async fn publish(&self, key: &str, message: &Value) {
        let exchange = format!("{}.links", self.prefix);
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let properties = BasicProperties::default().with_delivery_mode(2);
        let body = message.to_string();
        let confirm = {
            let channel = self.channel.lock().await;
            channel
                .basic_publish(exchange.into(), key.into(), options, body.as_bytes(), properties)
                .await
                .unwrap()
        };
        confirm.await.unwrap();
    }

    async fn tell(&self, link: &Value) {
        let text = format!("[Join session]({})", link["url"].as_str().unwrap());
        self.post("/v1/messages", &json!({"toPersonEmail": link["expert"]["email"], "markdown": text})).await;
    }

    async fn post(&self, path: &str, body: &Value) -> Value {
        let request = self.http.post(format!("{}{path}", self.url)).bearer_auth(&self.token).json(body);
        request.send().await.unwrap().error_for_status().unwrap().json().await.unwrap()
    }
}
