use super::{
    broker::{capabilities, version},
    ledger::server,
    *,
};
use crate::{
    broker::greeting::Greeting,
    config::{Sources, load},
};

fn with(flags: &[&str]) -> Loaded {
    let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
    load(&Sources { flags, ..Sources::default() }).unwrap()
}

/// Each warning and failure as one line.
fn problems(loaded: &Loaded) -> Vec<String> {
    let problems = settings(loaded).into_iter().filter(|finding| finding.result != CheckVerdict::Pass);
    problems
        .map(|Finding { what, result, detail, advice, .. }| {
            assert!(advice.is_some_and(|advice| !advice.is_empty()), "no advice for {what}");
            format!("{}: {what}: {detail}", result.as_str())
        })
        .collect()
}

const PERSISTENT: &str = "ledger.path=/var/lib/icw/ledger";

#[test]
fn defaults_warn_only_about_the_ledger_path() {
    let found = problems(&with(&[]));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with(
            "warn: ledger.kind = \"file\", ledger.path = \"\": instant-connect.ledger is relative"
        )
    );
    assert_eq!(problems(&with(&[PERSISTENT])), Vec::<String>::new());
}

/// Settings, and a finding of them.
const CONFLICTS: &[(&[&str], &str)] = &[
    (
        &["shutdown.grace=10s"],
        "warn: shutdown.grace = \"10s\", instant_connect.timeout = \"15s\": a shutdown interrupts",
    ),
    (
        &["hosts.timeout=30s"],
        "warn: shutdown.grace = \"25s\", hosts.timeout = \"30s\": a shutdown interrupts",
    ),
    (&["amqp.prefetch=8"], "warn: amqp.prefetch = 8, amqp.concurrency = 32: at most 8 messages"),
    (
        &["amqp.concurrency=2"],
        "warn: amqp.prefetch = 32, amqp.concurrency = 2: each stage prefetches far more",
    ),
    (
        &["amqp.delivery_timeout=28m"],
        "warn: amqp.delivery_timeout = \"28m\", amqp.timeout = \"30s\": a delivery may stay in progress for 1800s",
    ),
    (&["amqp.deliveries_max=1"], "warn: amqp.deliveries_max = 1: a few worker crashes"),
    (&["retry.attempts=1"], "warn: retry.attempts = 1, retry.initial = \"1s\""),
    (&["retry.attempts=20"], "of 20 attempts only 12 fit within retry.total"),
    (&["instant_connect.link_lifetime=15m"], "of 8 attempts only 7 fit within instant_connect.link_lifetime"),
    (
        &["retry.delays=30s,2m"],
        "warn: retry.initial = \"1s\", retry.delays = [\"30s\", \"2m\"]: the shortest delay queue",
    ),
    (&["retry.delays=1s,3h"], "beyond link_lifetime: 1 of 2"),
    (
        &["retry.delays=1s,15m"],
        "warn: retry.delays = [\"1s\", \"15m\"]: the alert InstantConnectHoldsDoNotReturn fires",
    ),
    (
        &["retry.delays=3h"],
        "fail: retry.delays = [\"3h\"], instant_connect.link_lifetime = \"2h\": delay queues return",
    ),
    (
        &["instant_connect.rate_limit_wait=2h"],
        "warn: instant_connect.rate_limit_wait = \"2h\", instant_connect.link",
    ),
    (&["hosts.rate_limit_wait=3h"], "warn: hosts.rate_limit_wait = \"3h\", instant_connect.link"),
    (
        &["topology.queue_length_max=10"],
        "warn: topology.queue_length_max = 10, amqp.prefetch = 32: if all messages in progress",
    ),
    (&["ledger.kind=memory", "ledger.path="], "warn: ledger.kind = \"memory\": the ledger is lost"),
    (
        &["ledger.path=here/ledger"],
        "ledger.path = \"here/ledger\": here/ledger is relative to the working directory",
    ),
    (
        &["amqp.delivery_timeout=50s"],
        "warn: amqp.delivery_timeout = \"50s\", instant_connect.timeout = \"15s\", hosts.timeout",
    ),
    (
        &["ledger.keep_max=2h"],
        "warn: ledger.keep_max = \"2h\", ledger.margin = \"1h\", instant_connect.link_lifetime = \"2h\": ledger entries",
    ),
    (&["ledger.path=/tmp/ledger"], "ledger.path = \"/tmp/ledger\": the file is in a temporary folder"),
    (
        &["ledger.on_failure=continue"],
        "warn: ledger.on_failure = \"continue\": while the ledger is unavailable",
    ),
    (
        &["ledger.kind=redis", "ledger.url=redis://redis"],
        "warn: ledger.path = \"/var/lib/icw/ledger\", ledger.kind = \"redis\": ledger.path is set",
    ),
    (&["ledger.url=redis://redis"], "warn: ledger.url = [hidden], ledger.kind = \"file\": ledger.url is set"),
    (
        &["hosts.delivery=amqp", "hosts.token=x"],
        "warn: hosts.token = [hidden], hosts.delivery = \"amqp\": hosts.token is set",
    ),
    (
        &["hosts.delivery=amqp", "hosts.token_file=/x"],
        "warn: hosts.token_file = \"/x\", hosts.delivery = \"amqp\"",
    ),
    (&["admin.listen=off"], "warn: admin.listen = \"off\": the admin server is off"),
    (&["admin.listen=0.0.0.0:9464"], "warn: admin.listen = \"0.0.0.0:9464\": anyone who reaches"),
    (
        &["ingress.clients.flows.token=icw_token-of-the-flows-1"],
        "warn: ingress.clients.flows.token_file = : the client's token is read only at startup",
    ),
    (
        &["ingress.clients.flows.signing_secret=whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
        "warn: ingress.clients.flows.signing_secret_file = : the client's signing secret is read only at startup",
    ),
    (
        &["ingress.listen=127.0.0.1:1", "ingress.clients.flows.signing_secret_file=/nonexistent/secret"],
        "fail: ingress.listen = \"127.0.0.1:1\": ingress.clients.flows.signing_secret_file: secret file /nonexistent/secret",
    ),
    (
        &["ingress.listen=127.0.0.1:1", "ingress.clients.flows.token_file=/nonexistent/token"],
        "fail: ingress.listen = \"127.0.0.1:1\": ingress.clients.flows.token_file: token file /nonexistent/token",
    ),
    (
        &["ingress.listen=127.0.0.1:1", "ingress.clients.flows.token=icw_token-of-the-flows-1"],
        "warn: hosts.allowed = []: with a token of the ingress, host links can be sent to every e-mail address",
    ),
    (
        &["ingress.trusted_proxies=0.0.0.0/0"],
        "warn: ingress.trusted_proxies = [\"0.0.0.0/0\"]: a block of length /0: every client may state its address",
    ),
    (
        &[
            "ingress.clients.flows.token=icw_token-of-the-flows-1",
            "ingress.clients.flows.allowed_addresses=10.0.0.0/8,::/0",
        ],
        "warn: ingress.clients.flows.allowed_addresses = [\"10.0.0.0/8\", \"::/0\"]: a block of length /0: the client may call",
    ),
    (
        &["ingress.allow_insecure=true"],
        "warn: ingress.allow_insecure = true: the clients' tokens and the events may be sent unencrypted",
    ),
    (&["instant_connect.token=x"], "warn: instant_connect.token = [hidden]: read only at startup"),
    (&["instant_connect.token=x"], "warn: instant_connect.token = [hidden]: passed with --set"),
    (&["amqp.url=amqp://rabbit"], "warn: amqp.url = [hidden]: passed with --set"),
    (&["amqp.allow_insecure=true"], "warn: amqp.allow_insecure = true: the broker's password may be sent"),
    (&["ledger.allow_insecure=true"], "warn: ledger.allow_insecure = true: Redis's password"),
    (&["instant_connect.host_login=false"], "warn: instant_connect.host_login = false: anyone with"),
    (
        &["instant_connect.allowed_base_urls=[]"],
        "fail: instant_connect.short_urls = true, instant_connect.allowed_base_urls = []: short",
    ),
    (&["instant_connect.short_urls=false"], "warn: instant_connect.short_urls = false"),
    (
        &["instant_connect.url=http://127.0.0.1:1"],
        "only one of the two APIs is on this machine: experts get simulated links",
    ),
    (&["telemetry.log_level=error"], "warn: telemetry.log_level = \"error\": the log omits dead letters"),
    (&["telemetry.log_level=debug"], "warn: telemetry.log_level = \"debug\": the log has several lines"),
];

#[test]
fn each_conflict_is_reported_with_its_settings_and_values() {
    for (flags, expected) in CONFLICTS {
        let found = problems(&with(&[&[PERSISTENT][..], *flags].concat()));
        assert!(found.iter().any(|problem| problem.contains(expected)), "{flags:?}: {expected}: {found:#?}");
    }
}

/// The settings of a worker whose flows send the messages.
const FLOWS: [&str; 6] = [
    PERSISTENT,
    "guests.delivery=webex-connect",
    "webex_connect.mode=event",
    "webex_connect.event_id=EVTVIDEO1",
    "send.allowed_prefixes=+34",
    "webex_connect.jwt_issuer=service-1",
];

#[test]
fn worker_whose_flows_send_needs_neither_senders_nor_texts_but_a_limit() {
    let problems = |more: &[&str]| problems(&with(&[&FLOWS, more].concat()));
    let without_secret = problems(&[]);
    assert_eq!(without_secret.len(), 1, "{without_secret:?}");
    assert!(without_secret[0].contains("expected webex_connect.jwt_secret_file, too"), "{without_secret:?}");
    let secret = "webex_connect.jwt_secret=c2VjcmV0";
    let found = problems(&[secret, "send.per_address_per_hour=0"]);
    let keys = ["send.per_address_per_hour = 0", "webex_connect.jwt_secret = [hidden]"];
    assert!(keys.iter().all(|key| found.iter().any(|line| line.contains(key))), "{found:?}");
    assert!(found.iter().all(|line| line.starts_with("warn: ") && !line.contains("c2VjcmV0")), "{found:?}");
}

/// The settings of a worker that sends guests' messages, with the fallback.
const FALLBACK: [&str; 6] = [
    PERSISTENT,
    "guests.delivery=webex-connect",
    "webex_connect.key=a-service-key",
    "webex_connect.sms_from=34900123123",
    "send.allowed_prefixes=+34",
    "send.sms_fallback=true",
];
const WHATSAPP: [&str; 2] =
    ["webex_connect.whatsapp_app_id=a_6390", "webex_connect.whatsapp_templates.en=7781"];

#[test]
fn sms_fallback_without_an_effect_is_reported_with_its_cause() {
    let receipts = ["ingress.listen=127.0.0.1:1", "receipts.secret=a-secret-of-the-hub"];
    let event = ["webex_connect.mode=event", "webex_connect.event_id=EVTVIDEO1"];
    for (flags, expected) in [
        (vec!["guests.delivery=amqp"], Some("guests.delivery = \"amqp\": no effect: other programs")),
        (event.to_vec(), Some("webex_connect.mode = \"event\": no effect: flows")),
        (receipts.to_vec(), Some("webex_connect.whatsapp_app_id = \"\": no effect: no message")),
        (
            WHATSAPP.to_vec(),
            Some("receipts.secret_file = \"\": receipts are off: a guest gets the link by SMS only if"),
        ),
        ([&WHATSAPP[..], &receipts].concat(), None),
    ] {
        let found = problems(&with(&[&FALLBACK[..], &flags].concat()));
        let about: Vec<_> = found.iter().filter(|line| line.contains("send.sms_fallback")).collect();
        assert_eq!(about.len(), usize::from(expected.is_some()), "{flags:?}: {found:#?}");
        let warning = expected.map(|expected| format!("warn: send.sms_fallback = true, {expected}"));
        assert!(warning.is_none_or(|warning| about[0].starts_with(&warning)), "{flags:?}: {about:?}");
    }
}

#[test]
fn prefetch_far_above_concurrency_warns_of_dead_letters() {
    let found = problems(&with(&[PERSISTENT, "amqp.prefetch=1000"]));
    assert!(found[0].contains("dead-letters a message after 100 requeues"), "{found:#?}");
}

#[test]
fn broker_is_judged_by_version_and_capabilities() {
    let all = ["publisher_confirms", "basic.nack", "consumer_cancel_notify", "connection.blocked"];
    let greeting = |product: &str, version: &str, able: &[&str]| Greeting {
        product: product.to_owned(),
        version: version.to_owned(),
        capabilities: able.iter().map(|name| (*name).to_owned()).collect(),
    };
    for (product, is, result) in [
        ("RabbitMQ", "3.9.29", CheckVerdict::Warn),
        ("RabbitMQ", "3.10.8", CheckVerdict::Pass),
        ("RabbitMQ", "4.0.5", CheckVerdict::Pass),
        ("RabbitMQ", "4.3.0-rc.1", CheckVerdict::Pass),
        ("RabbitMQ", "5.0.0", CheckVerdict::Warn),
        ("RabbitMQ", "latest", CheckVerdict::Warn),
        ("LavinMQ", "2.1.0", CheckVerdict::Warn),
    ] {
        assert_eq!(version(&greeting(product, is, &all), "broker").result, result, "{product} {is}");
    }
    assert_eq!(capabilities(&greeting("", "", &all), "broker").result, CheckVerdict::Pass);
    assert_eq!(capabilities(&greeting("", "", &all[..3]), "broker").result, CheckVerdict::Warn);
    assert_eq!(capabilities(&greeting("", "", &all[1..]), "broker").result, CheckVerdict::Fail);
}

#[test]
fn redis_is_judged_by_its_info() {
    let info = |policy: &str, memory: &str, role: &str, aof: &str| {
        format!(
            "# Server\r\nredis_version:7.0.15\r\nmaxmemory:{memory}\r\nmaxmemory_human:1G\r\n\
             maxmemory_policy:{policy}\r\naof_enabled:{aof}\r\nrole:{role}\r\n"
        )
    };
    let results = |info: &str| server(info).iter().map(|finding| finding.result.as_str()).collect::<Vec<_>>();
    assert_eq!(results(&info("noeviction", "0", "master", "1")), ["pass"; 4]);
    assert_eq!(results(&info("allkeys-lru", "0", "master", "0")), ["pass", "pass", "pass", "warn"]);
    assert_eq!(results(&info("volatile-ttl", "1024", "slave", "1")), ["pass", "fail", "warn", "pass"]);
    assert_eq!(results(&info("noeviction", "1024", "master", "1").replace("7.0", "4.0"))[0], "warn");
}
