//! `demo`: one session end to end on a sandbox. An HTTP request starts it, two guests, an expert and a room get their messages, and
//! receipts come back.
//!
//! - `people`: what each of them receives, as lines
//! - `services`: the sandbox, the worker, and the reader of the receipts

mod people;
mod services;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use lapin::options::{ExchangeDeleteOptions, QueueDeleteOptions};
use serde_json::{Value, json};
use tokio::time::timeout;
use url::Url;
use uuid::Uuid;

use self::services::{DemoServices, Sandboxes};
use super::{
    CommandError, Global,
    emit_http::{self, ClientProof},
    say, signals,
};
use crate::{
    broker::{
        connection::{Connector, close, within},
        properties::short,
        topology::Topology,
    },
    config::Loaded,
};

/// Time limit for steps that usually take a second or two.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time between two looks at a condition, and before a request is repeated.
const PAUSE: Duration = Duration::from_millis(50);
const DEVICE: &str = "room-12@example.rooms.webex.com";
/// Credentials of the sandbox, and of the flow at the ingress.
const TOKEN: &str = "demo-token";
const KEY: &str = "demo-key";
const HUB_SECRET: &str = "demo-hub-secret-of-the-webhook";
const CLIENT_TOKEN: &str = "icw_demo_token_of_the_flow";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Keep running with the page until Ctrl-C and process further events
    #[arg(long)]
    keep: bool,
    /// Listen address of the sandbox; port 0 selects a free port
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
}

pub(super) async fn run(global: &Global, args: &Args) -> Result<(), CommandError> {
    let begun = Instant::now();
    let stop = signals::shutdown()?;
    let sandboxes = Sandboxes::bind(args.listen).await?;
    let (url, connect_url) = (sandboxes.webex.url(), sandboxes.connect.handle().url());
    let loaded = Arc::new(global.load(&[], &settings(&url, &connect_url))?);
    let topology = loaded.config.topology();
    let connector = Arc::new(loaded.config.connector());
    let prepared = async {
        let connection = connector.connect_once("demo").await?;
        topology.declare(&connection, false, connector.limits.timeout).await?;
        close(&connection).await;
        Ok::<_, CommandError>(())
    };
    prepared.await.map_err(|failure| {
        CommandError::Failed(format!(
            "{failure}; the demo needs RabbitMQ: run `make demo`, which starts one, or set ICW_AMQP__URL"
        ))
    })?;
    say(&format!("sandbox   {url}  (simulated Instant Connect, Webex Messages and Webex Connect)"))?;
    say(&format!("broker    exchanges and queues {}.*", loaded.config.topology.prefix.as_str()))?;

    let mut services = DemoServices::start(sandboxes, &loaded, &connector, &topology);
    let shown = tokio::select! {
        shown = services.people.show(&loaded, args.keep) => shown,
        ended = &mut services.worker => Err(ended.map_err(|error| CommandError::Failed(error.to_string())).and_then(|result| result.map_err(CommandError::from)).err().unwrap_or_else(|| CommandError::Failed("the worker stopped unexpectedly".to_owned()))),
        () = stop => Ok(()),
    };
    services.stop().await;
    clean_up(&connector, &topology).await?;
    shown?;
    say(&format!("done in {:.1} s", begun.elapsed().as_secs_f32()))
}

fn settings(sandbox: &Url, connect: &Url) -> Vec<String> {
    let base = sandbox.as_str().trim_end_matches('/');
    let connect = connect.as_str().trim_end_matches('/');
    let prefix = format!("icw-demo-{}", &Uuid::new_v4().simple().to_string()[..8]);
    vec![
        format!("topology.prefix={prefix}"),
        "topology.declare=create".to_owned(),
        format!("instant_connect.url={base}"),
        format!("instant_connect.token={TOKEN}"),
        "instant_connect.token_file=".to_owned(),
        format!("instant_connect.allowed_base_urls={base}/visit/"),
        format!("hosts.webex_url={base}"),
        "ledger.kind=memory".to_owned(),
        "admin.listen=off".to_owned(),
        "hosts.delivery=webex".to_owned(),
        "hosts.token=".to_owned(),
        "hosts.token_file=".to_owned(),
        format!("devices.allowed={DEVICE}"),
        "ingress.listen=127.0.0.1:0".to_owned(),
        "ingress.drain=100ms".to_owned(),
        format!("ingress.clients.demo.token={CLIENT_TOKEN}"),
        "ingress.tls_cert_file=".to_owned(),
        "ingress.tls_key_file=".to_owned(),
        "ingress.client_ca_file=".to_owned(),
        "guests.delivery=webex-connect".to_owned(),
        "webex_connect.mode=messages".to_owned(),
        "webex_connect.key_file=".to_owned(),
        "webex_connect.jwt_issuer=".to_owned(),
        "webex_connect.jwt_secret=".to_owned(),
        "webex_connect.jwt_secret_file=".to_owned(),
        "webex_connect.templates_dir=".to_owned(),
        "webex_connect.locale=en".to_owned(),
        format!("webex_connect.url={connect}"),
        format!("webex_connect.key={KEY}"),
        "webex_connect.sms_from=34900123123".to_owned(),
        "webex_connect.whatsapp_app_id=sandbox-app".to_owned(),
        "webex_connect.whatsapp_templates.en=link-en".to_owned(),
        "webex_connect.whatsapp_templates.es=link-es".to_owned(),
        "webex_connect.whatsapp_parameters=name,join".to_owned(),
        format!("webex_connect.whatsapp_base_url={base}/visit/"),
        "send.allowed_prefixes=*".to_owned(),
        "receipts.secret_file=".to_owned(),
        format!("receipts.secret={HUB_SECRET}"),
        "receipts.key_file=".to_owned(),
        "receipts.key=".to_owned(),
        "receipts.allow_unsigned=false".to_owned(),
    ]
}

/// Starts one session by HTTP at the ingress at `url`, as a flow does. Returns the response.
async fn start_session(loaded: &Loaded, url: &Url, session: &str) -> Result<Value, CommandError> {
    let (key, token) = (Uuid::new_v4().to_string(), CLIENT_TOKEN.into());
    let body = event(session).to_string().into_bytes();
    emit_http::send(loaded, url, &ClientProof::Token(token), &key, "run the demo again", body).await
}

fn event(session: &str) -> Value {
    json!({
        "sessionId": session,
        "guests": [
            {"channel": "sms", "address": "+14155550123", "name": "Ben"},
            {"channel": "whatsapp", "address": "+34600111222", "name": "Ana", "locale": "es"},
        ],
        "experts": [{"email": "expert@example.com", "name": "Dr Lee"}],
        "devices": [DEVICE],
        "correlationId": "flow-7f3a",
        "attributes": {"resumeKey": "chat-99"},
    })
}

/// `action`, or an error after [`PATIENCE`].
async fn soon<T>(what: &str, action: impl Future<Output = T>) -> Result<T, CommandError> {
    let late =
        || CommandError::Failed(format!("{what} took more than {PATIENCE:?}; hint: see the warnings above"));
    timeout(PATIENCE, action).await.map_err(|_| late())
}

/// Deletes the demo's own exchanges and queues.
async fn clean_up(connector: &Connector, topology: &Topology) -> Result<(), CommandError> {
    let limit = connector.limits.timeout;
    let connection = connector.connect_once("demo").await?;
    let channel = within("open channel", limit, &connection, connection.create_channel()).await?;
    let plan = topology.plan();
    for queue in plan.queues {
        within(
            "delete queue",
            limit,
            &connection,
            channel.queue_delete(short(&queue.name), QueueDeleteOptions::default()),
        )
        .await?;
    }
    for exchange in plan.exchanges {
        within(
            "delete exchange",
            limit,
            &connection,
            channel.exchange_delete(short(&exchange.name), ExchangeDeleteOptions::default()),
        )
        .await?;
    }
    close(&connection).await;
    Ok(())
}
