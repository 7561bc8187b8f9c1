//! Broker, sandbox and program together.

use std::{
    env,
    future::pending,
    sync::{Arc, Mutex},
    thread,
};

use instant_connect_sandbox::{
    ConnectHandle, ConnectSandbox, ConnectSandboxOptions, ConnectSettings, Handle, Sandbox, SandboxOptions,
};
use lapin::BasicProperties;
use serde_json::Value;

use crate::{
    amqp::{Amqp, Deliveries, with_id},
    collector::Collector,
    event,
    leaks::leaks,
    output::Output,
    private_broker::PrivateBroker,
    program::{self, Environment, Finished, Program, with_settings},
    soon,
    topology::{delete_topology, planned},
};

/// The base URL of short links, as Webex has it.
pub const BASE_URL: &str = "https://instant.webex.com/visit/";
/// The token that the sandbox accepts.
pub const TOKEN: &str = "rig-token-that-must-not-be-shown";
/// The token after a rotation.
pub const NEW_TOKEN: &str = "rig-token-that-came-after-it";
/// The service key that the fake of Webex Connect accepts.
pub const CONNECT_KEY: &str = "rig-service-key-that-must-not-be-shown";
/// The secret of the webhook for receipts.
pub const HUB_SECRET: &str = "rig-hub-secret-that-must-not-be-shown";
/// A secret of JWTs for Webex Connect, in base64.
pub const CONNECT_JWT_SECRET: &str = "rigjwtsecretthatmustnotbeshown0000000000000=";
/// The token of a client of the ingress.
pub const CLIENT_TOKEN: &str = "rig-client-token-that-must-not-be-shown";
/// The client's token after a rotation.
pub const NEW_CLIENT_TOKEN: &str = "rig-client-token-that-came-after-it";
/// The password of the sandbox's ciphers.
pub const PASSWORD: &str = "rig-password-that-must-not-be-shown";

/// The URL of the broker that tests share.
pub fn shared_broker() -> String {
    env::var("ICW_AMQP__URL").unwrap_or_else(|_| "amqp://guest:guest@127.0.0.1:5672/%2f".into())
}

/// A sandbox on a free port that accepts [`TOKEN`].
pub async fn bind_sandbox() -> Sandbox {
    let options = SandboxOptions {
        listen: "127.0.0.1:0".parse().unwrap(),
        allow_any_address: false,
        token: TOKEN.into(),
        password: PASSWORD.into(),
        base_url: Some(BASE_URL.parse().unwrap()),
    };
    Sandbox::bind(options).await.unwrap()
}

/// A fake of Webex Connect on a free port that accepts [`CONNECT_KEY`], with the phones of `phones`.
pub async fn bind_connect(phones: Handle) -> ConnectSandbox {
    let options = ConnectSandboxOptions {
        listen: "127.0.0.1:0".parse().unwrap(),
        allow_any_address: false,
        phones: Some(phones),
        settings: ConnectSettings::with_key(CONNECT_KEY.into()),
    };
    ConnectSandbox::bind(options).await.unwrap()
}

/// A broker, a sandbox, and a topology prefix of its own. Dropping it deletes the queues, and fails the test if the
/// program's logs, spans or headers contain private data.
pub struct Rig {
    pub prefix: String,
    pub sandbox: Handle,
    pub amqp: Amqp,
    /// Receives the spans of every program without another endpoint.
    pub collector: Collector,
    url: String,
    private: Option<PrivateBroker>,
    outputs: Mutex<Vec<Arc<Output>>>,
    /// The distinct environments of the programs, by which the cleanup finds their queues.
    environments: Mutex<Vec<Environment>>,
}

impl Rig {
    /// Creates a rig on the shared broker.
    pub async fn new() -> Self {
        Self::on(shared_broker(), None).await
    }

    /// Creates a rig with its own broker.
    pub async fn private() -> Self {
        let broker = PrivateBroker::start().await;
        Self::on(broker.url(), Some(broker)).await
    }

    async fn on(url: String, private: Option<PrivateBroker>) -> Self {
        let sandbox = bind_sandbox().await;
        let handle = sandbox.handle();
        let address = sandbox.url();
        tokio::spawn(sandbox.serve(pending()));
        let rig = Self {
            prefix: format!("icw-test-{:016x}", fastrand::u64(..)),
            sandbox: handle,
            amqp: Amqp::connect(&url).await,
            collector: Collector::start().await,
            url,
            private,
            outputs: Mutex::default(),
            environments: Mutex::default(),
        };
        let five = rig.five(address.as_str());
        rig.environments.lock().unwrap().push(five);
        rig
    }

    /// The five required settings, and a free admin port.
    fn five(&self, sandbox: &str) -> Environment {
        let five = [
            ("amqp.url", self.url.as_str()),
            ("instant_connect.url", sandbox),
            ("instant_connect.token", TOKEN),
            ("hosts.webex_url", sandbox),
            ("topology.prefix", &self.prefix),
            ("admin.listen", "127.0.0.1:0"),
        ];
        with_settings(Environment::new(), five)
    }

    /// The environment with these settings added to the five; an empty value removes a setting.
    pub fn environment(&self, settings: &[(&str, &str)]) -> Environment {
        let five = self.environments.lock().unwrap()[0].clone();
        with_settings(five, settings.iter().copied())
    }

    /// Starts the worker with `settings` added to the five and full logs, and waits until it consumes.
    pub async fn start(&self, settings: &[(&str, &str)]) -> Program {
        let program = self.launch(settings);
        program.output.until("subscribed to queue", 1).await;
        program
    }

    /// Starts the worker with full logs.
    pub fn launch(&self, settings: &[(&str, &str)]) -> Program {
        let settings = [&[("telemetry.log_level", "debug")], settings].concat();
        self.launch_with(self.environment(&settings))
    }

    /// Starts the worker, which gets the signal of `plan` at its point (see `src/fault.rs`).
    pub fn launch_with_fault(&self, settings: &[(&str, &str)], plan: &str) -> Program {
        let mut environment = self.environment(settings);
        environment.push(("FAULT_AT".to_owned(), plan.to_owned()));
        self.run(&environment)
    }

    /// Starts one part of the worker with full logs.
    pub fn launch_role(&self, role: &str, settings: &[(&str, &str)]) -> Program {
        let settings = [&[("telemetry.log_level", "debug")], settings].concat();
        let environment = self.environment(&settings);
        let program = self.run_role(&["run", "--role", role], &environment);
        self.add(environment);
        program
    }

    /// Remembers an environment for the cleanup.
    fn add(&self, environment: Environment) {
        let mut environments = self.environments.lock().unwrap();
        if !environments.contains(&environment) {
            environments.push(environment);
        }
    }

    /// A fake of Webex Connect on a free port that accepts [`CONNECT_KEY`], with the phones of the rig's sandbox.
    pub async fn webex_connect(&self) -> ConnectHandle {
        let connect = bind_connect(self.sandbox.clone()).await;
        let handle = connect.handle();
        tokio::spawn(connect.serve(pending()));
        handle
    }

    fn run(&self, environment: &Environment) -> Program {
        self.run_role(&["run"], environment)
    }

    fn run_role(&self, arguments: &[&str], environment: &Environment) -> Program {
        let program =
            Program::start(arguments, &[self.collector.environment(), environment.clone()].concat());
        let said = [&program.output, &program.metrics].map(Arc::clone);
        self.outputs.lock().unwrap().extend(said);
        program
    }

    /// Starts the worker with exactly this environment.
    pub fn launch_with(&self, environment: Environment) -> Program {
        let program = self.run(&environment);
        self.add(environment);
        program
    }

    /// Runs a subcommand to its end.
    pub async fn command(&self, arguments: &[&str], settings: &[(&str, &str)]) -> Finished {
        let finished = program::finished(arguments, &self.environment(settings)).await;
        let output = Output::new();
        output.read(std::io::Cursor::new(finished.stderr.clone())).join().unwrap();
        self.outputs.lock().unwrap().push(output);
        finished
    }

    /// The private broker.
    pub fn broker(&self) -> &PrivateBroker {
        self.private.as_ref().unwrap()
    }

    /// A new client for a broker that was restarted.
    pub async fn reconnect(&self) -> Amqp {
        Amqp::connect(&self.url).await
    }

    /// The broker's URL, for other clients.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// `{prefix}.{name}`
    pub fn name(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    /// Publishes [`event`] number `n`, with `event-n` as its id.
    pub async fn publish(&self, n: usize) {
        self.publish_event(with_id(&format!("event-{n}")), &event(n)).await;
    }

    /// Publishes events, with ids as [`Rig::publish`] gives them.
    pub async fn publish_many(&self, numbers: impl IntoIterator<Item = usize>) {
        let messages =
            numbers.into_iter().map(|n| (with_id(&format!("event-{n}")), event(n).to_string().into_bytes()));
        self.amqp.publish_all(&self.name("sessions"), "session.start", messages).await;
    }

    /// Publishes a start event.
    pub async fn publish_event(&self, properties: BasicProperties, event: &Value) {
        self.publish_body(properties, event.to_string().as_bytes()).await;
    }

    /// Publishes any body to the exchange of start events.
    pub async fn publish_body(&self, properties: BasicProperties, body: &[u8]) {
        self.amqp.publish(&self.name("sessions"), "session.start", properties, body).await;
    }

    /// Consumes guest links, as a sender of SMS does.
    pub async fn guest_links(&self) -> Deliveries {
        self.amqp.consume(&self.name("guests")).await
    }

    /// Consumes dead letters of the queue `name`.
    pub async fn dead_letters(&self, name: &str) -> Deliveries {
        self.amqp.consume(&self.name(&format!("{name}.dead"))).await
    }

    /// Waits until experts have this many messages.
    pub async fn until_experts_have(&self, messages: u64) {
        let arrived = self.sandbox.until(|sandbox| sandbox.counts().messages >= messages);
        soon(&format!("{messages} Webex messages"), arrived).await;
    }

    /// Asserts that all queues except the guests queue are empty. Call it after the worker stopped.
    pub async fn assert_queues_are_empty(&self, amqp: &Amqp) {
        let environment = self.environments.lock().unwrap().last().unwrap().clone();
        let queues = planned("queues", &environment).await;
        assert!(queues.len() >= 6, "{queues:?}");
        for queue in queues.iter().filter(|queue| **queue != self.name("guests")) {
            if queue.rsplit('.').next() == Some("dead") {
                let (messages, _) = amqp.depth(queue).await.unwrap();
                assert_eq!(messages, 0, "{queue}");
            } else {
                amqp.until_unused_and_empty(queue).await;
            }
        }
    }

    /// Deletes the queues and exchanges of these environments, on a separate thread that may block.
    fn clean_up(&self) -> Result<(), String> {
        let environments = self.environments.lock().unwrap().clone();
        let url = self.url.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let deleted = thread::spawn(move || {
            runtime.block_on(delete_topology(&url, &environments));
        });
        deleted.join().map_err(|_| format!("could not delete {}.* on the broker", self.prefix))
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let outputs = self.outputs.lock().unwrap().clone();
        // A private broker is removed as a whole.
        let cleaned = if self.private.is_none() { self.clean_up() } else { Ok(()) };
        for file in std::fs::read_dir(program::folder()).unwrap().map_while(Result::ok) {
            if file.file_name().to_string_lossy().starts_with(&self.prefix) {
                // The entry is a file or a folder; one of the calls fails.
                _ = std::fs::remove_file(file.path());
                _ = std::fs::remove_dir_all(file.path());
            }
        }
        if thread::panicking() {
            for output in outputs {
                let text = output.text();
                let lines: Vec<_> = text.lines().collect();
                let tail = lines[lines.len().saturating_sub(60)..].join("\n");
                eprintln!("--- end of a program's output ({} lines):\n{tail}", lines.len());
            }
            return;
        }
        cleaned.unwrap();
        for text in outputs
            .iter()
            .map(|output| output.text())
            .chain([self.collector.text(), self.amqp.header_texts()])
        {
            let leaks = leaks(&text, &self.sandbox);
            assert!(leaks.is_empty(), "{} leaks, such as {}", leaks.len(), leaks[0]);
        }
    }
}
