//! The workers of a run: their parts and their environments.

use std::path::Path;

use secrecy::ExposeSecret as _;
use testkit::{
    program::{Environment, with_settings},
    redis_server::RedisServer,
    rig::TOKEN,
};

use super::{edges::Edges, testbed::HOLDS};

/// One worker of a run, which may be replaced by a new process.
#[derive(Clone)]
pub(super) struct WorkerSlot {
    /// `run --role`
    pub(super) role: &'static str,
    /// The text in the log of a worker that works.
    pub(super) ready: &'static str,
    /// The names of faults.
    pub(super) killed: &'static str,
    pub(super) terminated: &'static str,
    pub(super) environment: Environment,
}

/// The services that the workers use, and the settings of the plan.
pub(super) struct WorkerEnvironment<'a> {
    pub(super) broker: &'a [String],
    pub(super) prefix: &'a str,
    /// URL of the sandbox, for both APIs.
    pub(super) api: &'a str,
    pub(super) ledger_file: &'a Path,
    pub(super) redis: Option<&'a RedisServer>,
    pub(super) edges: Option<&'a Edges>,
    pub(super) overrides: &'a [(&'static str, &'static str)],
}

impl WorkerEnvironment<'_> {
    /// The environment variables of each worker.
    fn variables(&self) -> Environment {
        // A stalled peer is detected after two heartbeats.
        let broker = self.broker.iter().map(|url| format!("{url}?heartbeat=2")).collect::<Vec<_>>().join(",");
        let holds = HOLDS.map(|hold| format!("{hold}ms")).join(",");
        let ledger_file = self.ledger_file.display().to_string();
        let redis_url = self.redis.map(RedisServer::url);
        let connect = self.edges.map(|edges| edges.connect.url());
        let mut settings = connect.as_ref().map_or_else(Vec::new, |url| Edges::settings(url.as_str()));
        settings.extend([
            ("amqp.url", broker.as_str()),
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
        ]);
        if let Some(url) = &redis_url {
            settings.extend([("ledger.kind", "redis"), ("ledger.url", url.expose_secret())]);
        }
        settings.extend(self.overrides);
        with_settings(Environment::new(), settings)
    }

    /// `workers` workers. Over both edges, they run the stages only, and each ingress is a worker of its own.
    pub(super) fn slots(&self, workers: usize) -> Vec<WorkerSlot> {
        let environment = self.variables();
        let slot = |role, ready, killed, terminated| WorkerSlot {
            role,
            ready,
            killed,
            terminated,
            environment: environment.clone(),
        };
        let ready = "connected to broker; consuming";
        let Some(edges) = self.edges else {
            return vec![slot("all", ready, "worker killed", "worker terminated"); workers];
        };
        let ingress = |address: &String| {
            let slot = slot("ingress", "ingress listens", "ingress killed", "ingress terminated");
            let environment = with_settings(slot.environment, [("ingress.listen", address.as_str())]);
            WorkerSlot { environment, ..slot }
        };
        let stages = vec![slot("stages", ready, "stages killed", "stages terminated"); workers];
        stages.into_iter().chain(edges.ingresses.iter().map(ingress)).collect()
    }
}
