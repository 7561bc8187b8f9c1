//! All parts of a chaos run.

use std::{future::pending, sync::Arc, time::Duration};

use instant_connect_sandbox::Handle;
use lapin::options::QueueDeleteOptions;
use tempfile::TempDir;
use testkit::{
    PrivateBroker,
    leaks::leaks,
    output::Output,
    poll,
    program::Program,
    redis_server::RedisServer,
    relay::Relay,
    rig::{bind_sandbox, shared_broker},
    topology::delete_topology,
};
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::sleep,
};

use super::{
    client::{consume, depth, header, open, publish},
    edges::{Edges, Evidence, requests::request_all},
    history::History,
    slots::{WorkerEnvironment, WorkerSlot},
    storm::setting,
    verdict::Report,
};

/// The delays of the delay queues, in milliseconds.
pub(super) const HOLDS: [u32; 4] = [200, 1000, 5000, 30_000];
/// RabbitMQ 3.10 loses a quorum queue if it is killed within a second of the declaration. Tests can't change that, so
/// brokers are killed only after this time.
const QUEUES_SETTLE: Duration = Duration::from_secs(3);

/// The setup of a run.
pub(crate) struct Plan {
    pub(crate) events: u32,
    /// Maximum number of unfinished events.
    pub(crate) window: u32,
    pub(crate) workers: usize,
    /// Events come by HTTP, and the workers send the guests' messages. The workers run the stages only; ingresses run beside them.
    pub(crate) over_http: bool,
    /// Overrides of the settings in [`WorkerEnvironment`].
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
            over_http: false,
            settings: Vec::new(),
            explained_classes: Vec::new(),
            nodes: 0,
        }
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
    pub(super) edges: Option<Edges>,
    pub(super) slots: Vec<WorkerSlot>,
    urls: Vec<String>,
    prefix: String,
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
        let nodes = start_nodes(plan.nodes).await;
        let urls: Vec<_> = if nodes.is_empty() {
            vec![shared_broker()]
        } else {
            nodes.iter().map(PrivateBroker::url).collect()
        };
        let (relay, relayed) = Relay::in_front_of(&urls[0]).await;
        let sandbox = bind_sandbox().await;
        let (handle, api) = (sandbox.handle(), sandbox.url());
        let prefix = format!("icw-chaos-{:016x}", fastrand::u64(..));
        let (logs, ledgers) = (log_folder(), tempfile::tempdir().unwrap());
        let redis = (plan.workers > 1 || plan.over_http).then(RedisServer::start);
        let history = Arc::new(History::new(plan.events, &plan.explained_classes));
        let mut tasks = JoinSet::new();
        tasks.spawn(async { sandbox.serve(pending()).await.unwrap() });
        tasks.spawn(watch_sandbox(handle.clone(), Arc::clone(&history)));
        let edges =
            if plan.over_http { Some(Edges::start(&handle, &history, &mut tasks).await) } else { None };
        let broker = if urls.len() == 1 { &[relayed] } else { urls.as_slice() };
        let slots = WorkerEnvironment {
            broker,
            prefix: &prefix,
            api: api.as_str(),
            ledger_file: &ledgers.path().join("ledger"),
            redis: redis.as_ref(),
            edges: edges.as_ref(),
            overrides: &plan.settings,
        }
        .slots(plan.workers);
        let mut testbed = Self {
            history,
            sandbox: handle,
            relay,
            workers: slots.iter().map(|_| None).collect(),
            nodes,
            redis,
            edges,
            slots,
            urls,
            prefix,
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
        if let Some(edges) = &testbed.edges {
            edges.save_webhook().await;
        }
        testbed.consume();
        testbed
    }

    /// Starts worker number `index`.
    pub(crate) fn launch_worker(&mut self, index: usize) {
        let log = self.logs.path().join(format!("{:04}.log", self.outputs.len() + 1));
        let slot = &self.slots[index];
        let worker = Program::run_with_log(slot.role, &slot.environment, &log);
        self.outputs.push(Arc::clone(&worker.output));
        self.workers[index] = Some(worker);
    }

    /// Starts worker number `index` and waits until it consumes, or listens.
    pub(crate) async fn start_worker(&mut self, index: usize) {
        self.launch_worker(index);
        let worker = self.workers[index].as_ref().unwrap();
        worker.output.until(self.slots[index].ready, 1).await;
    }

    /// Kills a worker with SIGKILL and starts a new one.
    pub(crate) async fn kill_worker(&mut self, index: usize) {
        let what = self.slots[index].killed;
        self.history.disturbed(what);
        self.workers[index].take().unwrap().kill();
        self.history.healed(what);
        self.start_worker(index).await;
    }

    /// Ends a worker with SIGTERM, checks its exit status, and starts a new one.
    pub(crate) async fn terminate_worker(&mut self, index: usize) {
        let what = self.slots[index].terminated;
        self.history.disturbed(what);
        self.workers[index].take().unwrap().stop().await;
        self.history.healed(what);
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
        let (history, allowed) = (Arc::clone(&self.history), self.allowed.subscribe());
        let Plan { events, window, .. } = self.plan;
        self.publishing = Some(match &self.edges {
            Some(edges) => {
                tokio::spawn(request_all(edges.ingresses.clone(), history, events, window, allowed))
            }
            None => tokio::spawn(publish(
                self.urls.clone(),
                self.name("sessions"),
                history,
                events,
                window,
                allowed,
            )),
        });
    }

    fn consume(&mut self) {
        let sandbox = self.sandbox.clone();
        let history = Arc::clone(&self.history);
        if self.edges.is_some() {
            self.tasks.spawn(consume(self.urls.clone(), self.name("receipts"), move |delivery| {
                history.receipt_published(&delivery.data);
            }));
        } else {
            self.tasks.spawn(consume(self.urls.clone(), self.name("guests"), move |delivery| {
                let id = delivery.properties.message_id().as_ref().map_or("", |id| id.as_str());
                history.guest_link(id, delivery.redelivered, &delivery.data, &sandbox);
            }));
        }
        let others: &[_] = if self.edges.is_some() { &[] } else { &["guests"] };
        for name in self.stage_queues().iter().chain(others).copied() {
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

    /// The names of the stages' queues.
    fn stage_queues(&self) -> &'static [&'static str] {
        let all = &["sessions", "hosts", "guests.sms", "guests.whatsapp"];
        if self.edges.is_some() { all } else { &all[..2] }
    }

    /// The work queues and their delay queues.
    fn work_queues(&self) -> Vec<String> {
        self.stage_queues()
            .iter()
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
        if let Some(edges) = &self.edges {
            edges.connect.clear_faults();
        }
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
        if self.edges.is_some() {
            self.history.until_receipts_are_published().await;
        } else {
            self.until_empty(&self.name("guests")).await;
        }
        self.assert_logs_show_no_private_data();
        let evidence = self.edges.is_some().then(|| Evidence::of(&self.history, &self.outputs));
        let report = self.history.report(evidence.as_ref());
        if self.nodes.is_empty() {
            let environments: Vec<_> = self.slots.iter().map(|slot| slot.environment.clone()).collect();
            delete_topology(&self.urls[0], &environments[..1]).await;
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

async fn start_nodes(count: u8) -> Vec<PrivateBroker> {
    match count {
        0 => Vec::new(),
        1 => vec![PrivateBroker::start().await],
        count => PrivateBroker::start_cluster(count).await,
    }
}

/// A folder for the logs of the workers. `CHAOS_KEEP_LOGS` keeps it.
fn log_folder() -> TempDir {
    let mut logs = tempfile::tempdir().unwrap();
    if setting("CHAOS_KEEP_LOGS").is_some() {
        logs.disable_cleanup(true);
        eprintln!("worker logs: {}", logs.path().display());
    }
    logs
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
