//! All parts of a chaos run.

use std::{future::pending, path::Path, sync::Arc, time::Duration};

use instant_connect_sandbox::Handle;
use lapin::options::QueueDeleteOptions;
use secrecy::ExposeSecret as _;
use tempfile::TempDir;
use testkit::{
    PrivateBroker,
    leaks::leaks,
    output::Output,
    poll,
    program::{Environment, Program, with_settings},
    redis_server::RedisServer,
    relay::Relay,
    rig::{TOKEN, bind_sandbox, shared_broker},
    topology::delete_topology,
};
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::sleep,
};

use super::{
    client::{consume, depth, header, open, publish},
    history::History,
    storm::setting,
    verdict::Report,
};

/// The delays of the delay queues, in milliseconds.
const HOLDS: [u32; 4] = [200, 1000, 5000, 30_000];
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
    pub(crate) nodes: u8,
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
    redis: Option<&'a RedisServer>,
    overrides: &'a [(&'static str, &'static str)],
}

impl WorkerEnvironment<'_> {
    /// The environment variables of each worker.
    fn variables(&self) -> Environment {
        // A stalled peer is detected after two heartbeats.
        let broker = self.broker.iter().map(|url| format!("{url}?heartbeat=2")).collect::<Vec<_>>().join(",");
        let holds = HOLDS.map(|hold| format!("{hold}ms")).join(",");
        let ledger_file = self.ledger_file.display().to_string();
        let redis_url = self.redis.map(RedisServer::url);
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
        settings.extend(self.overrides);
        with_settings(Environment::new(), settings)
    }
}

/// Broker, relay, sandbox, workers, a publisher, and consumers of links and dead letters.
pub(crate) struct Testbed {
    pub(crate) history: Arc<History>,
    pub(crate) sandbox: Handle,
    pub(crate) relay: Relay,
    pub(crate) workers: Vec<Option<Program>>,
    /// The own broker nodes.
    pub(crate) nodes: Vec<PrivateBroker>,
    /// The ledger of several workers; one worker uses a file.
    pub(crate) redis: Option<RedisServer>,
    urls: Vec<String>,
    prefix: String,
    environment: Environment,
    logs: TempDir,
    _ledgers: TempDir,
    /// The logs of all workers so far.
    outputs: Vec<Arc<Output>>,
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
        let nodes = match plan.nodes {
            0 => Vec::new(),
            1 => vec![PrivateBroker::start().await],
            count => PrivateBroker::start_cluster(count).await,
        };
        let urls: Vec<_> = if nodes.is_empty() {
            vec![shared_broker()]
        } else {
            nodes.iter().map(PrivateBroker::url).collect()
        };
        let (relay, relayed) = Relay::in_front_of(&urls[0]).await;
        let sandbox = bind_sandbox().await;
        let handle = sandbox.handle();
        let prefix = format!("icw-chaos-{:016x}", fastrand::u64(..));
        let (mut logs, ledgers) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        if setting("CHAOS_KEEP_LOGS").is_some() {
            logs.disable_cleanup(true);
            eprintln!("worker logs: {}", logs.path().display());
        }
        let redis = if plan.workers > 1 { Some(RedisServer::start()) } else { None };
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
            outputs: Vec::new(),
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

    /// Starts worker number `index`.
    pub(crate) fn launch_worker(&mut self, index: usize) {
        let log = self.logs.path().join(format!("{:04}.log", self.outputs.len() + 1));
        let worker = Program::run_with_log(&self.environment, &log);
        self.outputs.push(Arc::clone(&worker.output));
        self.workers[index] = Some(worker);
    }

    /// Starts worker number `index` and waits until it consumes.
    pub(crate) async fn start_worker(&mut self, index: usize) {
        self.launch_worker(index);
        let worker = self.workers[index].as_ref().unwrap();
        worker.output.until("connected to broker; consuming", 1).await;
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
        self.workers[index].take().unwrap().stop().await;
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
            self.nodes[0].kill().await;
        } else {
            self.nodes[0].stop().await;
        }
        self.nodes[0].start_again().await;
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
                worker.stop().await;
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
        if self.nodes.is_empty() {
            delete_topology(&self.urls[0], std::slice::from_ref(&self.environment)).await;
        }
        report
    }

    /// Asserts that no worker log contains a link, phone number, address or token.
    fn assert_logs_show_no_private_data(&self) {
        for output in &self.outputs {
            let text = output.text();
            let address = text.lines().find(|line| line.contains("@example"));
            let leak = leaks(&text, &self.sandbox).into_iter().next();
            assert_eq!((leak, address), (None, None));
        }
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for output in self.outputs.iter().rev().take(3) {
            let text = output.text();
            let lines: Vec<_> = text.lines().collect();
            let tail = lines[lines.len().saturating_sub(40)..].join("\n");
            eprintln!("--- end of a worker log ({} lines):\n{tail}", lines.len());
        }
        // Again, because only the end of the output may be kept.
        eprintln!("--- {}", self.history.summary());
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
