//! All parts of a chaos run.

use std::{
    collections::{HashSet, VecDeque},
    env,
    future::{Future, pending},
    path::Path,
    sync::Arc,
    time::Duration,
};

use futures_util::StreamExt as _;
use instant_connect_sandbox::{Handle, Sandbox, SandboxOptions};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties,
    message::Delivery,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
        ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable},
};
use secrecy::ExposeSecret as _;
use tempfile::TempDir;
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};

use super::{
    BASE_URL,
    event::Start,
    history::History,
    node::Nodes,
    poll,
    relay::Relay,
    storm::setting,
    verdict::Report,
    worker::{Worker, lines},
};
use crate::ledger::server::Server as Redis;

const TOKEN: &str = "chaos-token-that-must-not-be-shown";
/// The delays of the delay queues, in milliseconds.
const HOLDS: [u32; 4] = [200, 1000, 5000, 30_000];
/// Number of publishes with outstanding confirms.
const BATCH: usize = 50;
/// RabbitMQ 3.10 loses a quorum queue if it is killed within a second of the declaration. Tests can't change that, so
/// brokers are killed only after this time.
const QUEUES_SETTLE: Duration = Duration::from_secs(3);

/// The setup of a run.
pub(crate) struct Plan {
    pub(crate) events: u32,
    /// Maximum number of unfinished events.
    pub(crate) window: u32,
    pub(crate) workers: usize,
    /// Overrides of the settings in [`WorkerEnvironment::variables`].
    pub(crate) settings: Vec<(&'static str, &'static str)>,
    /// Classes of dead letters that the faults explain.
    pub(crate) explained_classes: Vec<&'static str>,
    /// Number of own broker nodes, which can be stopped and killed. With 0, the run uses the shared broker.
    pub(crate) nodes: usize,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            events: 1000,
            window: 200,
            workers: 1,
            settings: Vec::new(),
            explained_classes: Vec::new(),
            nodes: 0,
        }
    }
}

/// The services that the workers use, and the settings of the plan.
struct WorkerEnvironment<'a> {
    broker: &'a [String],
    prefix: &'a str,
    /// URL of the sandbox, for both APIs.
    api: &'a str,
    ledger_file: &'a Path,
    redis: Option<&'a Redis>,
    overrides: &'a [(&'static str, &'static str)],
}

impl WorkerEnvironment<'_> {
    /// The environment variables of each worker.
    fn variables(&self) -> Vec<(String, String)> {
        // A stalled peer is detected after two heartbeats.
        let broker = self.broker.iter().map(|url| format!("{url}?heartbeat=2")).collect::<Vec<_>>().join(",");
        let holds = HOLDS.map(|hold| format!("{hold}ms")).join(",");
        let ledger_file = self.ledger_file.display().to_string();
        let redis_url = self.redis.map(Redis::url);
        let mut settings: Vec<(&str, &str)> = vec![
            ("amqp.url", &broker),
            ("admin.listen", "off"),
            ("amqp.connect_timeout", "3s"),
            ("topology.prefix", self.prefix),
            ("instant_connect.url", self.api),
            ("instant_connect.token", TOKEN),
            ("instant_connect.timeout", "5s"),
            ("hosts.webex_url", self.api),
            ("hosts.timeout", "5s"),
            ("devices.allowed", "room-*@example.rooms.webex.com"),
            ("retry.initial", "100ms"),
            ("retry.max", "2s"),
            ("retry.delays", &holds),
            ("breaker.probe_initial", "100ms"),
            ("breaker.probe_max", "1s"),
            ("ledger.path", &ledger_file),
        ];
        if let Some(url) = &redis_url {
            settings.extend([("ledger.kind", "redis"), ("ledger.url", url.expose_secret())]);
        }
        for (name, value) in self.overrides {
            settings.retain(|(known, _)| known != name);
            settings.push((name, value));
        }
        settings
            .into_iter()
            .map(|(name, value)| {
                (format!("ICW_{}", name.replace('.', "__").to_uppercase()), value.to_owned())
            })
            .collect()
    }
}

async fn bind_sandbox() -> Sandbox {
    let options = SandboxOptions {
        listen: "127.0.0.1:0".parse().unwrap(),
        allow_any_address: false,
        token: TOKEN.into(),
        password: "chaos-password".into(),
        base_url: Some(BASE_URL.parse().unwrap()),
    };
    Sandbox::bind(options).await.unwrap()
}

/// Broker, relay, sandbox, workers, a publisher, and consumers of links and dead letters.
pub(crate) struct Testbed {
    pub(crate) history: Arc<History>,
    pub(crate) sandbox: Handle,
    pub(crate) relay: Relay,
    pub(crate) workers: Vec<Option<Worker>>,
    nodes: Option<Nodes>,
    /// The ledger of several workers; one worker uses a file.
    pub(crate) redis: Option<Redis>,
    urls: Vec<String>,
    prefix: String,
    environment: Vec<(String, String)>,
    logs: TempDir,
    _ledgers: TempDir,
    logs_count: usize,
    publishing: Option<JoinHandle<()>>,
    /// Number of events that may be published so far.
    allowed: watch::Sender<u32>,
    plan: Plan,
    /// Tasks that end with the value.
    tasks: JoinSet<()>,
}

impl Testbed {
    /// Starts everything except the publisher, and waits until the workers consume.
    pub(crate) async fn start(plan: Plan) -> Self {
        let nodes = if plan.nodes > 0 { Some(Nodes::start(plan.nodes).await) } else { None };
        let shared = || {
            vec![env::var("ICW_AMQP__URL").unwrap_or_else(|_| "amqp://guest:guest@127.0.0.1:5672/%2f".into())]
        };
        let urls = nodes.as_ref().map_or_else(shared, |nodes| nodes.urls().to_vec());
        let (relay, relayed) = Relay::in_front_of(&urls[0]).await;
        let sandbox = bind_sandbox().await;
        let handle = sandbox.handle();
        let prefix = format!("icw-chaos-{:016x}", fastrand::u64(..));
        let (mut logs, ledgers) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        if setting("CHAOS_KEEP_LOGS").is_some() {
            logs.disable_cleanup(true);
            eprintln!("worker logs: {}", logs.path().display());
        }
        let redis = if plan.workers > 1 { Some(Redis::start()) } else { None };
        let broker = if urls.len() == 1 { &[relayed] } else { urls.as_slice() };
        let environment = WorkerEnvironment {
            broker,
            prefix: &prefix,
            api: sandbox.url().as_str(),
            ledger_file: &ledgers.path().join("ledger"),
            redis: redis.as_ref(),
            overrides: &plan.settings,
        }
        .variables();
        let history = Arc::new(History::new(plan.events, &plan.explained_classes));
        let mut tasks = JoinSet::new();
        tasks.spawn(async { sandbox.serve(pending()).await.unwrap() });
        tasks.spawn(watch_sandbox(handle.clone(), Arc::clone(&history)));
        let mut testbed = Self {
            history,
            sandbox: handle,
            relay,
            workers: (0..plan.workers).map(|_| None).collect(),
            nodes,
            redis,
            urls,
            prefix,
            environment,
            logs,
            _ledgers: ledgers,
            logs_count: 0,
            publishing: None,
            allowed: watch::Sender::new(u32::MAX),
            plan,
            tasks,
        };
        for index in 0..testbed.workers.len() {
            testbed.start_worker(index).await;
        }
        testbed.consume();
        testbed
    }

    /// The own broker nodes.
    pub(crate) fn nodes(&self) -> &Nodes {
        self.nodes.as_ref().unwrap()
    }

    /// Starts worker number `index`.
    pub(crate) fn launch_worker(&mut self, index: usize) {
        self.logs_count += 1;
        let log = self.logs.path().join(format!("{:04}.log", self.logs_count));
        self.workers[index] = Some(Worker::start(&self.environment, log));
    }

    /// Starts worker number `index` and waits until it consumes.
    pub(crate) async fn start_worker(&mut self, index: usize) {
        self.launch_worker(index);
        let worker = self.workers[index].as_ref().unwrap();
        worker.until_logged("connected to broker; consuming", 1).await;
    }

    /// Kills a worker with SIGKILL and starts a new one.
    pub(crate) async fn kill_worker(&mut self, index: usize) {
        self.history.disturbed("worker killed");
        self.workers[index].take().unwrap().kill();
        self.history.healed("worker killed");
        self.start_worker(index).await;
    }

    /// Ends a worker with SIGTERM, checks its exit status, and starts a new one.
    pub(crate) async fn terminate_worker(&mut self, index: usize) {
        self.history.disturbed("worker terminated");
        let status = self.workers[index].take().unwrap().stop().await;
        assert_eq!(status.code(), Some(0), "the status after SIGTERM");
        self.history.healed("worker terminated");
        self.start_worker(index).await;
    }

    /// Waits as [`QUEUES_SETTLE`] explains.
    pub(crate) async fn let_queues_settle(&self) {
        for queue in self.work_queues() {
            self.until_empty(&queue).await;
        }
        sleep(QUEUES_SETTLE).await;
    }

    /// Stops or kills the broker, starts it again, and waits for the first processed event.
    pub(crate) async fn restart_broker(&mut self, crash: bool) {
        let what = if crash { "broker killed" } else { "broker restarted" };
        self.history.disturbed(what);
        if crash {
            self.nodes().kill(0).await;
        } else {
            self.nodes().stop(0).await;
        }
        self.nodes().start_again(0).await;
        self.history.healed(what);
        // All allowed events may have been processed before.
        self.allow_more(100);
        self.history.until_recovered().await;
    }

    /// Sets the number of events that may be published, so that some are left for later faults.
    pub(crate) fn allow(&self, events: u32) {
        self.allowed.send_replace(events);
    }

    /// Increases the number of events that may be published.
    pub(crate) fn allow_more(&self, events: u32) {
        self.allowed.send_modify(|allowed| *allowed = allowed.saturating_add(events));
    }

    /// Starts the publisher.
    pub(crate) fn publish(&mut self) {
        let publish = publish(
            self.urls.clone(),
            self.name("sessions"),
            Arc::clone(&self.history),
            self.plan.events,
            self.plan.window,
            self.allowed.subscribe(),
        );
        self.publishing = Some(tokio::spawn(publish));
    }

    fn consume(&mut self) {
        let sandbox = self.sandbox.clone();
        let history = Arc::clone(&self.history);
        self.tasks.spawn(consume(self.urls.clone(), self.name("guests"), move |delivery| {
            let id = delivery.properties.message_id().as_ref().map_or("", |id| id.as_str());
            history.guest_link(id, delivery.redelivered, &delivery.data, &sandbox);
        }));
        for name in ["sessions", "guests", "hosts"] {
            let history = Arc::clone(&self.history);
            let queue = self.name(&format!("{name}.dead"));
            self.tasks.spawn(consume(self.urls.clone(), queue, move |delivery| {
                let id = delivery.properties.message_id().as_ref().map_or("", |id| id.as_str());
                let (class, reason) = (header(delivery, "x-dead-class"), header(delivery, "x-dead-reason"));
                history.dead_letter(name, id, &class, &reason, &delivery.data);
            }));
        }
    }

    pub(crate) fn name(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    /// The work queues and their delay queues.
    fn work_queues(&self) -> Vec<String> {
        ["sessions", "hosts"]
            .into_iter()
            .flat_map(|name| {
                let holds = HOLDS.map(|hold| self.name(&format!("{name}.hold.{hold}")));
                holds.into_iter().chain([self.name(name)])
            })
            .collect()
    }

    /// Waits until no message is ready in a queue.
    pub(crate) async fn until_empty(&self, queue: &str) {
        poll(&format!("{queue} to be empty"), async || {
            depth(&self.urls, queue).await.filter(|(ready, _)| *ready == 0).map(drop)
        })
        .await;
    }

    /// Waits until a queue exists and has a consumer.
    pub(crate) async fn until_consumed(&self, queue: &str) {
        poll(&format!("a consumer of {queue}"), async || {
            depth(&self.urls, queue).await.filter(|(_, consumers)| *consumers > 0).map(drop)
        })
        .await;
    }

    /// Deletes a queue that may have consumers.
    pub(crate) async fn delete_queue(&self, queue: &str) {
        let (_connection, channel) = open(&self.urls).await.unwrap();
        channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap();
    }

    /// Ends all faults, waits until every event is finished and all queues are empty, stops the workers, and returns
    /// the report.
    pub(crate) async fn finish(mut self) -> Report {
        self.relay.heal();
        self.sandbox.clear_faults();
        self.allow(u32::MAX);
        self.publishing.take().expect("it was started").await.unwrap();
        self.history.until_finished(self.plan.events).await;
        // Unacked messages, such as repeats of finished events, are not visible from outside. They return to the
        // queue when the last worker stops; then one worker consumes them.
        for round in 1.. {
            for queue in self.work_queues() {
                self.until_empty(&queue).await;
            }
            for worker in self.workers.iter_mut().filter_map(Option::take) {
                assert_eq!(worker.stop().await.code(), Some(0), "the status after SIGTERM");
            }
            let mut left = Vec::new();
            for queue in self.work_queues() {
                let what = format!("{queue} to have no consumer");
                let alone = async || depth(&self.urls, &queue).await.filter(|(_, consumers)| *consumers == 0);
                let (ready, _) = poll(&what, alone).await;
                left.extend((ready > 0).then_some((queue, ready)));
            }
            if left.is_empty() {
                break;
            }
            assert!(round < 10, "messages are left: {left:?}");
            self.start_worker(0).await;
        }
        self.until_empty(&self.name("guests")).await;
        self.assert_logs_show_no_private_data();
        let report = self.history.report();
        if self.nodes.is_none() {
            self.clean_up().await;
        }
        report
    }

    /// Asserts that no worker log contains a link, phone number, address or token.
    fn assert_logs_show_no_private_data(&self) {
        for entry in std::fs::read_dir(self.logs.path()).unwrap() {
            for line in lines(&entry.unwrap().path()) {
                let leak = ["/visit/", "+346", "@example", "Guadalupe", TOKEN, "guest:guest"]
                    .into_iter()
                    .find(|secret| line.contains(secret));
                assert_eq!(leak, None, "{line}");
            }
        }
    }

    /// Deletes the run's queues and exchanges on the shared broker.
    async fn clean_up(&self) {
        let (_connection, channel) = open(&self.urls).await.unwrap();
        let dead = ["sessions.dead", "hosts.dead", "guests.dead"];
        let replay = ["sessions.replay", "hosts.replay", "guests.replay"];
        let others = ["guests"].into_iter().chain(dead).chain(replay).map(|name| self.name(name));
        for queue in self.work_queues().into_iter().chain(others) {
            channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
        }
        for exchange in ["sessions", "links"].map(|name| self.name(name)) {
            let options = ExchangeDeleteOptions::default();
            channel.exchange_delete(exchange.as_str().into(), options).await.unwrap();
        }
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let mut logs: Vec<_> = std::fs::read_dir(self.logs.path())
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect();
        logs.sort();
        for log in logs.iter().rev().take(3) {
            let lines: Vec<_> = lines(log).collect();
            let tail = lines[lines.len().saturating_sub(40)..].join("\n");
            eprintln!("--- end of a worker log ({} lines):\n{tail}", lines.len());
        }
    }
}

fn header(delivery: &Delivery, name: &str) -> String {
    let headers = delivery.properties.headers().as_ref();
    match headers.and_then(|headers| headers.inner().get(name)) {
        Some(AMQPValue::LongString(text)) => String::from_utf8_lossy(text.as_bytes()).into_owned(),
        other => format!("{other:?}"),
    }
}

/// Records the sandbox's calls and messages.
async fn watch_sandbox(sandbox: Handle, history: Arc<History>) {
    let (mut calls, mut messages) = (0, 0);
    loop {
        let changed = sandbox.changed();
        for call in sandbox.calls_after(calls) {
            calls += 1;
            history.call(&call);
        }
        for message in sandbox.messages_after(messages) {
            messages += 1;
            history.host_message(&message, &sandbox);
        }
        changed.await;
    }
}

/// The broker's response; `None` for an error or a timeout. Futures of lapin can stay pending forever if a broker
/// goes away at the wrong moment: after one restart, a consumer of dead letters never returned.
async fn within<T>(action: impl Future<Output = lapin::Result<T>>) -> Option<T> {
    timeout(Duration::from_secs(10), action).await.ok()?.ok()
}

/// The result of `action`, without a time limit; `None` if the channel closes first.
async fn unless_gone<T>(channel: &Channel, action: impl Future<Output = T>) -> Option<T> {
    let gone = async {
        while channel.status().connected() {
            sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::select! {
        biased;
        done = action => Some(done),
        () = gone => None,
    }
}

/// Opens a connection and a channel to a random node.
async fn open(urls: &[String]) -> Option<(Connection, Channel)> {
    let url = format!("{}?heartbeat=4", fastrand::choice(urls)?);
    let connection = within(Connection::connect(&url, ConnectionProperties::default())).await?;
    let channel = within(connection.create_channel()).await?;
    Some((connection, channel))
}

/// The numbers of ready messages and consumers of a queue; `None` if the broker can't tell.
async fn depth(urls: &[String], queue: &str) -> Option<(u32, u32)> {
    let (connection, channel) = open(urls).await?;
    let options = QueueDeclareOptions { passive: true, durable: true, ..QueueDeclareOptions::default() };
    let declared = within(channel.queue_declare(queue.into(), options, FieldTable::default())).await;
    _ = within(connection.close(200, "done".into())).await;
    declared.map(|queue| (queue.message_count(), queue.consumer_count()))
}

/// Consumes a queue forever and reconnects after failures.
async fn consume(urls: Vec<String>, queue: String, mut take: impl FnMut(&Delivery)) {
    loop {
        if let Some((connection, channel)) = open(&urls).await {
            _ = consume_once(&channel, &queue, &mut take).await;
            // Dropping the connection is not enough: lapin's pending futures keep it and its consumer open.
            _ = within(connection.close(200, "done".into())).await;
        }
        // The cause usually lasts for a while.
        sleep(Duration::from_millis(100)).await;
    }
}

async fn consume_once(channel: &Channel, queue: &str, take: &mut impl FnMut(&Delivery)) -> Option<()> {
    within(channel.basic_qos(200, BasicQosOptions::default())).await?;
    let (options, table) = (BasicConsumeOptions::default(), FieldTable::default());
    let mut deliveries = within(channel.basic_consume(queue.into(), "".into(), options, table)).await?;
    while let Some(Some(Ok(delivery))) = unless_gone(channel, deliveries.next()).await {
        take(&delivery);
        within(delivery.ack(BasicAckOptions::default())).await?;
    }
    Some(())
}

/// Publishes each event until the broker confirms it, as a well-built flow does.
async fn publish(
    urls: Vec<String>,
    exchange: String,
    history: Arc<History>,
    events: u32,
    window: u32,
    mut allowed: watch::Receiver<u32>,
) {
    let mut queue: VecDeque<Start> = (0..events).map(Start).collect();
    while !queue.is_empty() {
        if let Some((connection, channel)) = open(&urls).await {
            _ = publish_until_broken(&channel, &exchange, &history, &mut queue, window, &mut allowed).await;
            _ = within(connection.close(200, "done".into())).await;
        }
        if !queue.is_empty() {
            // The cause usually lasts for a while.
            sleep(Duration::from_millis(100)).await;
        }
    }
}

async fn publish_until_broken(
    channel: &Channel,
    exchange: &str,
    history: &History,
    queue: &mut VecDeque<Start>,
    window: u32,
    allowed: &mut watch::Receiver<u32>,
) -> Option<()> {
    within(channel.confirm_select(ConfirmSelectOptions::default())).await?;
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    while !queue.is_empty() {
        history.until_fewer_than(window).await;
        let next = queue.front().map_or(0, |start| start.0);
        // The wait fails only when the run is over.
        _ = allowed.wait_for(|allowed| *allowed > next).await;
        let batch: Vec<_> = queue.drain(..queue.len().min(BATCH)).collect();
        let mut confirms = Vec::with_capacity(batch.len());
        for start in &batch {
            history.published(*start);
            let body = start.body();
            let properties = BasicProperties::default()
                .with_message_id(start.id().into())
                .with_content_type("application/json".into())
                .with_delivery_mode(2);
            let publish =
                channel.basic_publish(exchange.into(), "session.start".into(), options, &body, properties);
            confirms.push((*start, publish.await));
        }
        let (mut good, mut bad, mut returned) = (Vec::new(), Vec::new(), HashSet::new());
        for (start, confirm) in confirms {
            let confirmed = match confirm {
                // A broker that blocks publishing confirms late.
                Ok(confirm) => unless_gone(channel, confirm).await.and_then(Result::ok),
                Err(_) => None,
            };
            match confirmed {
                Some(Confirmation::Ack(back)) => {
                    // The returned message in a confirm may be any message of the batch.
                    let id = back.and_then(|back| back.properties.message_id().clone());
                    returned.extend(id.map(|id| id.as_str().to_owned()));
                    good.push(start);
                }
                _ => bad.push(start),
            }
        }
        let broken = !bad.is_empty() || !returned.is_empty();
        for start in good {
            if returned.contains(&start.id()) {
                bad.push(start);
            } else {
                history.confirmed(start);
            }
        }
        bad.into_iter().rev().for_each(|start| queue.push_front(start));
        if broken {
            return None;
        }
    }
    Some(())
}
