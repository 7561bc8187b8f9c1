//! `demo`: one session end to end on a sandbox, with two guests, an expert and a room, and the messages of each.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use instant_connect_sandbox::{Handle, RecordedMessage, Sandbox, SandboxOptions, Text};
use lapin::options::{ExchangeDeleteOptions, QueueDeleteOptions};
use serde_json::{Value, json};
use tokio::{sync::oneshot, task::JoinHandle, time::timeout};
use uuid::Uuid;

use super::{CommandError, Global, emit, phones, say, signals};
use crate::{
    broker::{
        connection::{Connector, close, within},
        properties::short,
        topology::Topology,
    },
    config::Loaded,
    contract::{link::GUESTS, start_session},
    worker::{self, WorkerRole},
};

/// Time limit for steps that usually take a second or two.
const PATIENCE: Duration = Duration::from_secs(30);
const DEVICE: &str = "room-12@example.rooms.webex.com";
const TOKEN: &str = "demo-token";

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
    let options = SandboxOptions {
        listen: args.listen,
        allow_any_address: false,
        token: TOKEN.into(),
        password: "demo-password".into(),
        base_url: None,
    };
    let sandbox = Sandbox::bind(options).await?;
    let (url, handle) = (sandbox.url(), sandbox.handle());
    let loaded = Arc::new(global.load(&[], &settings(&url))?);
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
    say(&format!("sandbox   {url}  (simulated Instant Connect and Webex Messages)"))?;
    say(&format!("broker    exchanges and queues {}.*", loaded.config.topology.prefix.as_str()))?;

    let mut parts = DemoParts::start(sandbox, &loaded, &connector, &topology, &handle);
    let shown = tokio::select! {
        shown = show(&loaded, &connector, &topology, &handle, args.keep) => shown,
        ended = &mut parts.worker => Err(ended.map_err(|error| CommandError::Failed(error.to_string())).and_then(|result| result.map_err(CommandError::from)).err().unwrap_or_else(|| CommandError::Failed("the worker stopped unexpectedly".to_owned()))),
        () = stop => Ok(()),
    };
    parts.stop().await;
    clean_up(&connector, &topology).await?;
    shown?;
    say(&format!("done in {:.1} s", begun.elapsed().as_secs_f32()))
}

fn settings(sandbox: &url::Url) -> Vec<String> {
    let base = sandbox.as_str().trim_end_matches('/');
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
    ]
}

/// The tasks of the demo.
struct DemoParts {
    worker: JoinHandle<Result<(), worker::WorkerError>>,
    stop_worker: oneshot::Sender<()>,
    stop_sandbox: oneshot::Sender<()>,
    sandbox: JoinHandle<()>,
    phones: JoinHandle<()>,
}

impl DemoParts {
    fn start(
        sandbox: Sandbox,
        loaded: &Arc<Loaded>,
        connector: &Arc<Connector>,
        topology: &Topology,
        handle: &Handle,
    ) -> Self {
        let (stop_worker, worker_stopped) = oneshot::channel::<()>();
        let (stop_sandbox, sandbox_stopped) = oneshot::channel::<()>();
        let loaded = Arc::clone(loaded);
        let worker = tokio::spawn(async move {
            worker::run(&loaded, WorkerRole::All, async { _ = worker_stopped.await }).await
        });
        let sandbox =
            tokio::spawn(async move { _ = sandbox.serve(async { _ = sandbox_stopped.await }).await });
        let (connector, queue, handle) = (Arc::clone(connector), topology.queue(&GUESTS), handle.clone());
        let phones = tokio::spawn(async move {
            // Stops with the demo. After a connection error the texts are missing, which the demo reports.
            _ = phones::forward(&connector, &queue, &handle, |text| _ = say(&received(text))).await;
        });
        Self { worker, stop_worker, stop_sandbox, sandbox, phones }
    }

    async fn stop(self) {
        // The receiver is gone if the worker has ended.
        _ = self.stop_worker.send(());
        if !self.worker.is_finished() {
            _ = timeout(PATIENCE, self.worker).await;
        }
        self.phones.abort();
        _ = self.stop_sandbox.send(());
        _ = timeout(PATIENCE, self.sandbox).await;
    }
}

fn received(text: &Text) -> String {
    let channel = if text.channel == "whatsapp" { "WhatsApp" } else { "SMS" };
    format!("{channel:<9} to {} ({}): {}", text.to, text.name.as_deref().unwrap_or("no name"), text.url)
}

/// Publishes one session and waits until each person has received a message.
async fn show(
    loaded: &Loaded,
    connector: &Arc<Connector>,
    topology: &Topology,
    handle: &Handle,
    keep: bool,
) -> Result<(), CommandError> {
    let message_id = Uuid::new_v4().to_string();
    let session = format!("visit-{}", &message_id[..8]);
    emit::publish(
        loaded,
        connector,
        topology,
        &message_id,
        "run the demo again",
        event(&session).to_string().into_bytes(),
    )
    .await?;
    say(&format!(
        "event     {message_id} published to {} (session.start): session {session}, two guests, an expert, a room",
        topology.exchange(start_session::EXCHANGE)
    ))?;
    let all = handle.until(|sandbox| {
        let counts = sandbox.counts();
        counts.texts >= 2 && counts.messages >= 1
    });
    if timeout(PATIENCE, all).await.is_err() {
        let counts = handle.counts();
        return Err(CommandError::Failed(format!(
            "only {} of 2 texts and {} of 1 Webex messages arrived within {PATIENCE:?}, after {} calls of Instant Connect; hint: see the warnings above",
            counts.texts, counts.messages, counts.calls
        )));
    }
    for message in handle.messages() {
        say(&expert_received(&message))?;
    }
    for call in handle.calls() {
        for device in &call.devices {
            say(&format!("{:<9} {device} added to meeting {} (sip-no-knock)", "Device", call.sub))?;
        }
    }
    if keep {
        say("still running; open the page, or publish further events with the same ICW_AMQP__URL and:")?;
        say(&format!(
            "          instant-connect-worker emit --set topology.prefix={} --guest sms:+14155550123:Ben --expert expert@example.com",
            loaded.config.topology.prefix.as_str()
        ))?;
        say("stop with Ctrl-C")?;
        std::future::pending::<()>().await;
    }
    Ok(())
}

fn expert_received(message: &RecordedMessage) -> String {
    let card = message.attachments.first().map(|attachment| &attachment["content"]);
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let headline = text(card.and_then(|card| card.pointer("/body/0/text")));
    let button = text(card.and_then(|card| card.pointer("/actions/0/title")));
    let url = text(card.and_then(|card| card.pointer("/actions/0/url")));
    format!(
        "{:<9} to {}: \"{headline}\" [{button}] {url}",
        "Webex",
        message.to_person_email.as_deref().unwrap_or_default()
    )
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
