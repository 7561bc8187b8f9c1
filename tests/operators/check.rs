//! `check --connect` against real brokers, ledgers and APIs.

use lapin::types::AMQPValue;
use serde_json::{Value, json};

use testkit::{
    Rig,
    collector::Mode,
    program::Finished,
    redis_server::RedisServer,
    rig::{NEW_TOKEN, PASSWORD, TOKEN},
};

type Settings<'a> = &'a [(&'a str, &'a str)];

/// The report of `check --connect`.
struct Found(Finished);

async fn check(rig: &Rig, settings: Settings<'_>) -> Found {
    let finished = rig.command(&["check", "--connect", "--json"], settings).await;
    for secret in [TOKEN, NEW_TOKEN, PASSWORD, "guest:guest", "127.0.0.1:1/"] {
        let said = [&finished.stdout, &finished.stderr];
        assert!(said.iter().all(|said| !said.contains(secret)), "{secret}: {finished:?}");
    }
    Found(finished)
}

impl Found {
    /// Asserts that the finding for `what` has this result, and all of these texts in its detail.
    fn is(&self, what: &str, result: &str, texts: &[&str]) {
        let report = self.0.json();
        let all = report["findings"].as_array().unwrap();
        let found = all.iter().find(|finding| finding["what"] == what);
        let found = found.unwrap_or_else(|| panic!("no finding for {what}: {all:#?}"));
        assert_eq!(found["result"], result, "{found}");
        assert_eq!(found["advice"].is_null(), result == "pass" && !texts.contains(&"hint"), "{found}");
        for text in texts.iter().filter(|text| **text != "hint") {
            assert!(found["detail"].as_str().unwrap().contains(text), "{text}: {found}");
        }
    }

    /// Asserts the exit status: 1 if a finding fails, otherwise 0.
    fn ends_with(&self, status: i32) {
        let report = self.0.json();
        let fails = |finding: &&Value| finding["result"] == "fail";
        let failed: Vec<_> = report["findings"].as_array().unwrap().iter().filter(fails).collect();
        assert_eq!((self.0.status, failed.is_empty()), (Some(status), status == 0), "{failed:#?}");
    }
}

async fn declare(rig: &Rig) {
    let declared = rig.command(&["topology", "--declare"], &[]).await;
    assert_eq!(declared.status, Some(0), "{declared:?}");
}

#[tokio::test]
async fn correct_broker_passes_all_checks_and_is_not_changed() {
    let rig = Rig::new().await;
    declare(&rig).await;
    let mut tapped = rig.amqp.tap(&rig.name("links"), &["#"]).await;
    rig.publish(1).await;
    for declare in ["create", "check", "off"] {
        let found = check(&rig, &[("topology.declare", declare)]).await;
        found.ends_with(0);
        found.is("broker", "pass", &["connected"]);
        found.is("broker, version", "pass", &["RabbitMQ"]);
        found.is("broker, capabilities", "pass", &["publisher_confirms", "connection.blocked"]);
        found.is(&format!("queue {}", rig.name("sessions")), "pass", &["1 messages ready, 0 consumers"]);
        found.is(&format!("queue {}", rig.name("hosts.hold.1000")), "pass", &["exists as declared"]);
        found.is(&format!("exchange {}", rig.name("links")), "pass", &["exists"]);
        for queue in ["sessions", "hosts"] {
            found.is(&format!("permission to consume from queue {}", rig.name(queue)), "pass", &[]);
        }
        found.is(&format!("permission to publish to exchange {}", rig.name("links")), "pass", &[]);
        found.is("permission to publish to the default exchange", "pass", &[]);
    }
    assert_eq!(rig.amqp.depth(&rig.name("sessions")).await, Some((1, 0)));
    // A message from the check would arrive before this one.
    rig.amqp.publish(&rig.name("links"), "last", lapin::BasicProperties::default(), b"last").await;
    assert_eq!(tapped.next().await.routing_key, "last");
    for queue in ["guests", "hosts", "sessions.dead", "sessions.replay", "sessions.hold.1000"] {
        assert_eq!(rig.amqp.depth(&rig.name(queue)).await, Some((0, 0)), "{queue}");
    }
}

#[tokio::test]
async fn queue_with_different_arguments_fails_and_names_the_argument() {
    let rig = Rig::new().await;
    let queue = rig.name("sessions");
    rig.amqp.declare(&queue, &[("x-queue-type", AMQPValue::LongString("quorum".into()))]).await;
    let what = format!("queue {queue}");
    let found = check(&rig, &[]).await;
    found.is(&what, "fail", &["argument x-", "the worker does not start"]);
    found.ends_with(1);
    let missing = format!("queue {}", rig.name("hosts"));
    found.is(&missing, "warn", &["missing; the worker declares it"]);
    let found = check(&rig, &[("topology.declare", "check")]).await;
    let replay = format!("queue {}", rig.name("sessions.replay"));
    found.is(&replay, "warn", &["missing; only `dead replay` needs it"]);
    found.is(&what, "warn", &["argument x-"]);
    found.is(&missing, "fail", &["missing"]);
    assert_eq!(rig.amqp.depth(&rig.name("hosts")).await, None, "nothing was declared");
}

#[tokio::test]
async fn page_shows_missing_queues_as_one_finding_and_changed_settings() {
    let rig = Rig::new().await;
    rig.amqp.declare(&rig.name("hosts"), &[("x-queue-type", AMQPValue::LongString("quorum".into()))]).await;
    let settings = [("topology.declare", "check"), ("amqp.prefetch", "16")];
    let page = rig.command(&["check", "--connect"], &settings).await;
    assert_eq!(page.status, Some(1), "{page:?}");
    let of_queues: Vec<_> = page.stdout.lines().filter(|line| line.contains(" queue")).collect();
    let failing = of_queues.iter().filter(|line| line.starts_with("  fail: ") && line.ends_with(" queues"));
    assert_eq!(failing.count(), 1, "{page:?}");
    assert!(page.stdout.contains("        each: missing\n"), "{page:?}");
    let below = format!("  warn: queue {}\n        exists, but argument x-", rig.name("hosts"));
    assert!(page.stdout.contains(&below), "{page:?}");
    assert!(page.stdout.contains("\n  amqp.prefetch = 16  (environment ICW_AMQP__PREFETCH)\n"), "{page:?}");
    let unchanged = "amqp.concurrency = 32  (default)";
    assert!(!page.stdout.contains(unchanged) && !page.stdout.contains('\x1b'), "{page:?}");
    assert!(!page.stdout.contains("  pass: "), "{page:?}");

    let all = rig.command(&["check", "--connect", "--all"], &settings).await;
    assert!(all.stdout.contains(unchanged), "{all:?}");
    assert!(all.stdout.contains("  pass: broker: connected and logged in\n"), "{all:?}");
    let json = check(&rig, &settings).await.0.json();
    for (finding, keys) in
        [("findings", &["advice", "detail", "result", "what"][..]), ("settings", &["key", "origin", "value"])]
    {
        let entries = json[finding].as_array().unwrap();
        for entry in entries {
            let mut names: Vec<_> = entry.as_object().unwrap().keys().map(String::as_str).collect();
            names.sort_unstable();
            assert_eq!(names, keys, "{entry}");
        }
    }
}

#[tokio::test]
async fn missing_permissions_and_blocked_publishing_are_named() {
    const USER: &str = "narrow";
    let rig = Rig::private().await;
    let broker = rig.broker();
    let grant = async |configure: &str, write: &str, read: &str| {
        broker.ctl(&["set_permissions", USER, configure, write, read]).await;
    };
    broker.ctl(&["add_user", USER, PASSWORD]).await;
    let url = format!("amqp://{USER}:{PASSWORD}@{}/%2f", broker.address());
    let settings = [("amqp.url", url.as_str())];
    let of = |name: &str, what: &str| format!("{what} {}", rig.name(name));

    let wrong = format!("amqp://{USER}:another@{}/%2f", broker.address());
    let found = check(&rig, &[("amqp.url", &wrong)]).await;
    found.is("broker", "fail", &["connect: "]);
    let found = check(&rig, &settings).await;
    found.is("broker", "fail", &["connect: "]);
    found.ends_with(1);

    grant("^$", ".*", ".*").await;
    let found = check(&rig, &settings).await;
    found.is(&of("sessions", "exchange"), "fail", &["missing, and the user may not declare it"]);
    found.is(&of("sessions", "queue"), "fail", &["missing, and the user may not declare it"]);
    grant(".*", ".*", ".*").await;
    let found = check(&rig, &settings).await;
    found.is(&of("sessions", "exchange"), "warn", &["missing"]);
    found.is(&of("sessions", "queue"), "warn", &["missing"]);
    found.ends_with(0);
    assert!(!broker.ctl(&["list_queues", "name"]).await.contains(&rig.prefix), "nothing was declared");

    declare(&rig).await;
    let before = broker.ctl(&["list_queues", "name", "messages", "consumers"]).await;
    grant("^$", ".*", ".*").await;
    let found = check(&rig, &settings).await;
    found.is(&of("sessions", "queue"), "fail", &["may not declare it", "does not start"]);
    let found = check(&rig, &[settings[0], ("topology.declare", "check")]).await;
    found.is(&of("sessions", "queue"), "pass", &["cannot be compared"]);
    found.ends_with(0);

    grant(".*", ".*", "^$").await;
    let found = check(&rig, &settings).await;
    found.is(&of("sessions", "permission to consume from queue"), "fail", &["refused"]);
    found.is(&of("links", "permission to publish to exchange"), "pass", &[]);
    grant(".*", "^$", ".*").await;
    let found = check(&rig, &settings).await;
    found.is(&of("links", "permission to publish to exchange"), "fail", &["refused"]);
    found.is("permission to publish to the default exchange", "fail", &["refused"]);
    let bind = format!("permission to bind queue {} to exchange {}", rig.name("hosts"), rig.name("links"));
    found.is(&bind, "fail", &["refused"]);
    found.is(&of("sessions", "permission to consume from queue"), "pass", &[]);

    grant(".*", ".*", ".*").await;
    broker.disk_is_full(true).await;
    let found = check(&rig, &settings).await;
    found.is("permission to publish to the default exchange", "fail", &["short of memory or disk"]);
    broker.disk_is_full(false).await;
    check(&rig, &settings).await.ends_with(0);
    assert_eq!(broker.ctl(&["list_queues", "name", "messages", "consumers"]).await, before);
}

#[tokio::test]
async fn each_cluster_node_is_checked_and_one_reachable_node_suffices() {
    let rig = Rig::new().await;
    let cluster = format!("amqp://127.0.0.1:1/%2f,{}", rig.url());
    let found = check(&rig, &[("amqp.url", &cluster)]).await;
    found.is("broker node 1 of 2", "warn", &["connect: "]);
    found.is("broker node 2 of 2", "pass", &["connected"]);
    found.ends_with(0);
}

#[tokio::test]
async fn peer_that_is_not_a_broker_fails_within_the_timeout() {
    let rig = Rig::new().await;
    // The sandbox speaks HTTP.
    let http = rig.environment(&[]).into_iter().find(|(name, _)| name == "ICW_HOSTS__WEBEX_URL").unwrap().1;
    let url = http.replace("http://", "amqp://").trim_end_matches('/').to_owned() + "/%2f";
    let found = check(&rig, &[("amqp.url", &url), ("amqp.connect_timeout", "2s")]).await;
    found.is("broker", "fail", &["connect: "]);
    found.ends_with(1);
}

#[tokio::test]
async fn token_is_verified_at_webex_only_if_it_may_be_sent_there() {
    let rig = Rig::new().await;
    let (instant_connect, messages) =
        ("token of Instant Connect at Webex", "token of Webex Messages at Webex");
    let found = check(&rig, &[("hosts.token", NEW_TOKEN)]).await;
    found.is(instant_connect, "pass", &["a bot token"]);
    found.is(messages, "fail", &["responded with 401"]);
    found.ends_with(1);
    let found = check(&rig, &[("instant_connect.token", NEW_TOKEN), ("hosts.delivery", "amqp")]).await;
    found.is(instant_connect, "fail", &["responded with 401"]);
    assert!(!found.0.stdout.contains(messages), "the worker sends no messages");
    let calls = rig.sandbox.counts().people;
    let elsewhere = [("instant_connect.url", "https://mtg-broker-a.wbx2.com"), ("hosts.token", TOKEN)];
    let found = check(&rig, &elsewhere).await;
    found.is(instant_connect, "warn", &["not tested"]);
    found.is(messages, "pass", &["accepted"]);
    assert_eq!(rig.sandbox.counts().people, calls + 1);
    found.is("clock", "pass", &["agrees"]);
    found.ends_with(0);
}

#[tokio::test]
async fn ledger_is_checked_in_each_state() {
    let rig = Rig::new().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state/ledger");
    let file = [("ledger.path", path.to_str().unwrap())];
    let found = check(&rig, &file).await;
    found.is("ledger", "pass", &["does not exist"]);
    assert!(!path.parent().unwrap().exists(), "the check creates no folder");
    let worker = rig.start(&file).await;
    let found = check(&rig, &file).await;
    found.is("ledger", "pass", &["in use", "hint"]);
    found.ends_with(0);
    rig.publish(1).await;
    rig.until_experts_have(1).await;
    worker.stop().await;
    check(&rig, &file).await.is("ledger", "pass", &["entries"]);
    std::fs::write(&path, "not a ledger".repeat(1000)).unwrap();
    check(&rig, &file).await.is("ledger", "fail", &["damaged"]);

    let mut server = RedisServer::start();
    let url = server.url();
    let redis = [("ledger.kind", "redis"), ("ledger.url", secrecy::ExposeSecret::expose_secret(&url))];
    let found = check(&rig, &redis).await;
    found.is("ledger", "pass", &["Redis responds"]);
    found.is("ledger, Redis's durability", "warn", &["appendonly is off"]);
    found.is("ledger, Redis's eviction", "pass", &["noeviction"]);
    found.ends_with(0);
    let mut client = server.connect();
    for (key, value) in [("maxmemory", "100mb"), ("maxmemory-policy", "allkeys-lru")] {
        redis::cmd("CONFIG").arg("SET").arg(key).arg(value).exec(&mut client).unwrap();
    }
    check(&rig, &redis).await.is("ledger, Redis's eviction", "warn", &["allkeys-lru"]);
    server.kill();
    let found = check(&rig, &redis).await;
    found.is("ledger", "fail", &["cannot reach Redis"]);
    found.ends_with(1);
}

#[tokio::test]
async fn collector_is_checked_without_spans() {
    let rig = Rig::new().await;
    check(&rig, &[]).await.is("collector", "pass", &["off"]);
    let settings = [("telemetry.otlp_endpoint", rig.collector.url())];
    check(&rig, &settings).await.is("collector", "pass", &["accepts spans"]);
    assert_eq!((rig.collector.requests(), rig.collector.spans().len()), (1, 0));
    rig.collector.set_mode(Mode::Refuses(401));
    let found = check(&rig, &settings).await;
    found.is("collector", "fail", &["responded with 401"]);
    found.ends_with(1);
    let found = check(&rig, &[("telemetry.otlp_endpoint", "http://127.0.0.1:1")]).await;
    found.is("collector", "fail", &["no connection"]);
}

#[tokio::test]
async fn conflicting_settings_are_reported_without_a_connection() {
    let rig = Rig::new().await;
    let settings = [("shutdown.grace", "5s"), ("amqp.url", "amqp://127.0.0.1:1/%2f")];
    let said = rig.command(&["check"], &settings).await;
    assert_eq!((said.status, said.stderr.as_str()), (Some(0), ""), "{said:?}");
    let mut lines = said.stdout.lines().map(str::trim_start);
    let item = "warn: shutdown.grace = \"5s\", instant_connect.timeout = \"15s\"";
    assert!(lines.any(|line| line == item), "{said:?}");
    assert!(lines.next().unwrap().starts_with("a shutdown interrupts calls"), "{said:?}");
    assert!(lines.next().unwrap().starts_with("hint: set shutdown.grace to at least 25s"), "{said:?}");
    let said = rig.command(&["check", "--json"], &[("instant_connect.allowed_base_urls", "[]")]).await;
    assert_eq!(said.status, Some(1), "{said:?}");
    let failing =
        said.json()["findings"].as_array().unwrap().iter().filter(|one| one["result"] == "fail").count();
    assert_eq!(json!(failing), json!(1));
}
