//! A known series of events leads to exact values of the metrics.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use jiff::{SignedDuration, Timestamp};
use lapin::BasicProperties;
use serde_json::json;

use testkit::{
    Rig,
    admin::{Admin, Series},
    amqp::with_id,
    event,
    events::{DEVICE, event_with, number},
    leaks::leaks,
    rig::{NEW_TOKEN, TOKEN},
};

/// Short delays.
const QUICK: [(&str, &str); 7] = [
    ("amqp.watch_interval", "1s"),
    ("retry.initial", "10ms"),
    ("retry.max", "50ms"),
    ("retry.jitter", "0"),
    ("retry.delays", "10ms,30ms,1s,5s"),
    ("breaker.probe_initial", "10ms"),
    ("breaker.probe_max", "20ms"),
];

/// The series that are not 0, except times.
fn counted(series: &Series) -> Vec<String> {
    let timed = |name: &str| {
        ["_bucket", "_sum", "oldest_work", "queue_messages"].iter().any(|part| name.contains(part))
    };
    let counted = series.iter().filter(|(name, value)| *value != "0" && !timed(name));
    counted.map(|(name, value)| format!("{} {value}", name.replace('"', ""))).collect()
}

/// The expected values after the events of the test below. Each delay is exactly that of one delay queue.
const EXPECTED: &str = "
    build_info{role=all,version=VERSION} 1
    confirm_duration_seconds_count 19
    connected{connection=host} 1
    connected{connection=link} 1
    connected{connection=publish} 1
    connects_total{connection=host} 1
    connects_total{connection=link} 1
    connects_total{connection=publish} 1
    consuming{stage=host} 1
    consuming{stage=link} 1
    dead_letters_total{class=device-not-allowed,stage=link} 1
    dead_letters_total{class=invalid,stage=link} 2
    dead_letters_total{class=rejected,stage=host} 1
    dead_letters_total{class=rejected,stage=link} 1
    event_duration_seconds_count{outcome=dead,stage=host} 1
    event_duration_seconds_count{outcome=dead,stage=link} 4
    event_duration_seconds_count{outcome=done,stage=host} 3
    event_duration_seconds_count{outcome=done,stage=link} 5
    event_duration_seconds_count{outcome=try-again,stage=host} 2
    event_duration_seconds_count{outcome=try-again,stage=link} 3
    event_to_link_seconds_count 4
    events_total{outcome=dead,stage=host} 1
    events_total{outcome=dead,stage=link} 4
    events_total{outcome=done,stage=host} 3
    events_total{outcome=done,stage=link} 5
    events_total{outcome=try-again,stage=host} 2
    events_total{outcome=try-again,stage=link} 3
    holds_total{rung=10,stage=host} 1
    holds_total{rung=10,stage=link} 2
    holds_total{rung=30,stage=host} 1
    holds_total{rung=30,stage=link} 1
    ledger_claims_total{result=conflict,stage=link} 1
    ledger_claims_total{result=hit,stage=link} 1
    ledger_claims_total{result=miss,stage=host} 6
    ledger_claims_total{result=miss,stage=link} 8
    ledger_entries 8
    ledger_write_duration_seconds_count 17
    link_to_expert_seconds_count 3
    links_total{channel=sms,role=guest} 4
    links_total{channel=webex,role=host} 4
    links_total{channel=whatsapp,role=guest} 1
    permits{stage=host} 32
    permits{stage=link} 32
    publishes_total{result=confirmed} 19
    retries_total{reason=malformed,stage=link} 1
    retries_total{reason=unavailable,stage=host} 2
    retries_total{reason=unavailable,stage=link} 2
    returns_total{rung=10,stage=host} 1
    returns_total{rung=10,stage=link} 2
    returns_total{rung=30,stage=host} 1
    returns_total{rung=30,stage=link} 1
    upstream_call_duration_seconds_count{result=malformed,upstream=instant_connect} 1
    upstream_call_duration_seconds_count{result=ok,upstream=instant_connect} 4
    upstream_call_duration_seconds_count{result=ok,upstream=webex_messages} 3
    upstream_call_duration_seconds_count{result=rejected,upstream=instant_connect} 1
    upstream_call_duration_seconds_count{result=rejected,upstream=webex_messages} 2
    upstream_call_duration_seconds_count{result=unavailable,upstream=instant_connect} 2
    upstream_call_duration_seconds_count{result=unavailable,upstream=webex_messages} 2";

#[tokio::test]
async fn known_series_of_events_gives_exact_metric_values() {
    let rig = Rig::new().await;
    let worker = rig.start(&QUICK).await;
    let admin = Admin::of(&worker).await;
    for stage in ["link", "host"] {
        admin.until(&format!("consuming{{stage=\"{stage}\"}}"), "1").await;
    }
    let before = admin.series().await;
    let done =
        |stage: &str, outcome: &str| format!("events_total{{outcome=\"{outcome}\",stage=\"{stage}\"}}");

    // Processed: two guests and an expert. Then repeated: the ledger knows the event, and nothing is published.
    let two = json!({"guests": [
        {"channel": "sms", "address": number(1)}, {"channel": "whatsapp", "address": number(2)},
    ]});
    for times in ["1", "2"] {
        rig.publish_event(with_id("event-1"), &event_with(1, &two)).await;
        admin.until(&done("link", "done"), times).await;
        admin.until(&done("host", "done"), "1").await;
    }
    // Retried: twice unavailable, once malformed.
    for (n, fault) in [(2, "joseencrypt:status=503,times=2"), (3, "joseencrypt:garbage,times=1")] {
        rig.sandbox.fault(fault.parse().unwrap());
        rig.publish(n).await;
        admin.until(&done("host", "done"), &n.to_string()).await;
    }
    // Dead: refused by the API, invalid, a device that is not allowed, and a known id with another body.
    rig.sandbox.fault("joseencrypt:status=400,times=1".parse().unwrap());
    rig.publish(5).await;
    rig.publish_body(with_id("event-6"), b"flowsecret").await;
    rig.publish_event(with_id("event-7"), &event_with(7, &json!({"devices": [DEVICE]}))).await;
    rig.publish_event(with_id("event-2"), &event_with(8, &json!({}))).await;
    admin.until(&done("link", "dead"), "4").await;
    // Retried in stage `host`, and refused: first the list request, then the message.
    for fault in ["messages:status=503,times=2", "messages:status=400,times=2"] {
        rig.sandbox.fault(fault.parse().unwrap());
    }
    rig.publish(9).await;
    admin.until(&done("host", "dead"), "1").await;
    rig.sandbox.clear_faults();

    admin.until("ledger_entries", "8").await;
    for (stage, dead) in [("link", "4"), ("host", "1")] {
        admin.until(&format!("queue_messages{{queue=\"dead\",stage=\"{stage}\"}}"), dead).await;
    }
    let after = admin.series().await;
    let expected = EXPECTED.replace("VERSION", env!("CARGO_PKG_VERSION"));
    let expected: Vec<_> = expected.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    assert_eq!(counted(&after), expected);
    assert_only_known_series(&before, &after);
    assert_eq!(leaks(&admin.scrape().await, &rig.sandbox), Vec::<String>::new());
    worker.stop().await;
}

fn assert_only_known_series(before: &Series, after: &Series) {
    let names = |series: &Series| series.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(before), names(after), "all series exist from the start, and no others appear");
}

#[tokio::test]
async fn metrics_show_open_breaker_refused_token_and_returned_message() {
    let rig = Rig::new().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, TOKEN).unwrap();
    let settings = [
        ("instant_connect.token", ""),
        ("instant_connect.token_file", file.to_str().unwrap()),
        // The missing binding is not redeclared.
        ("topology.declare", "off"),
    ];
    let declared = rig.command(&["topology", "--declare"], &QUICK).await;
    assert_eq!(declared.status, Some(0), "{declared:?}");
    let worker = rig.start(&[QUICK.as_slice(), settings.as_slice()].concat()).await;
    let admin = Admin::of(&worker).await;
    let before = admin.series().await;
    let opened =
        |reason: &str| format!("breaker_opened_total{{reason=\"{reason}\",upstream=\"instant_connect\"}}");
    let (open, refused) =
        (r#"breaker_open{upstream="instant_connect"}"#, r#"token_refused{upstream="instant_connect"}"#);
    let done = r#"events_total{outcome="done",stage="link"}"#;

    rig.sandbox.fault("joseencrypt:status=429,retry-after=1,times=1".parse().unwrap());
    rig.publish(1).await;
    admin.until(done, "1").await;
    let series = admin.series().await;
    assert_eq!([&series[&opened("rate-limited")], &series[open], &series[refused]], ["1", "0", "0"]);
    assert_eq!(series[r#"retries_total{reason="rate-limited",stage="link"}"#], "1");
    assert_eq!(series[r#"rate_limit_wait_seconds_total{upstream="instant_connect"}"#], "1");

    rig.sandbox.set_token(NEW_TOKEN.into());
    rig.publish(2).await;
    admin.until(refused, "1").await;
    admin.until(open, "1").await;
    std::fs::write(&file, NEW_TOKEN).unwrap();
    admin.until(done, "2").await;
    let series = admin.series().await;
    assert_eq!([&series[&opened("token")], &series[open], &series[refused]], ["1", "0", "0"]);
    let calls = |result: &str| {
        format!("upstream_call_duration_seconds_count{{result=\"{result}\",upstream=\"instant_connect\"}}")
    };
    assert!(series[&calls("token")] != "0" && series[&calls("rate-limited")] == "1", "{series:?}");

    rig.amqp.unbind(&rig.name("guests"), &rig.name("links"), "guest.sms").await;
    rig.publish(3).await;
    admin.until(r#"dead_letters_total{class="unroutable",stage="link"}"#, "1").await;
    let series = admin.series().await;
    assert_eq!(series[r#"publishes_total{result="returned"}"#], "1");
    assert_eq!(
        series[r#"links_total{channel="sms",role="guest"}"#], "2",
        "only links that arrived are counted"
    );
    assert_only_known_series(&before, &series);
    assert_eq!(leaks(&admin.scrape().await, &rig.sandbox), Vec::<String>::new());
    worker.stop().await;
}

#[tokio::test]
async fn time_to_link_starts_at_the_time_that_the_event_names() {
    let rig = Rig::new().await;
    let worker = rig.start(&[]).await;
    let admin = Admin::of(&worker).await;
    let ago = |minutes: i64| Timestamp::now() - SignedDuration::from_mins(minutes);
    // The timestamp property; a CloudEvent's time takes precedence.
    let minutes_ago = u64::try_from(ago(10).as_second()).unwrap();
    rig.publish_event(with_id("event-1").with_timestamp(minutes_ago), &event(1)).await;
    let cloud_event = json!({"specversion": "1.0", "id": "event-2", "type": "start", "source": "flow",
        "time": ago(40).to_string(), "data": event(2)});
    let properties = BasicProperties::default()
        .with_content_type("application/cloudevents+json".into())
        .with_timestamp(minutes_ago);
    rig.publish_event(properties, &cloud_event).await;
    // A clock ahead of ours gives no negative time. Without a time, the measurement starts at the delivery.
    let ahead = u64::try_from(ago(-10).as_second()).unwrap();
    rig.publish_event(with_id("event-3").with_timestamp(ahead), &event(3)).await;
    rig.publish(4).await;
    admin.until("event_to_link_seconds_count", "4").await;
    let series = admin.series().await;
    let within = |seconds: &str| series[&format!("event_to_link_seconds_bucket{{le=\"{seconds}\"}}")].clone();
    assert_eq!(["300", "1800", "3600"].map(within), ["2", "3", "4"]);
    worker.stop().await;
}

#[tokio::test]
async fn length_of_a_recreated_queue_is_exported_again() {
    let rig = Rig::new().await;
    let worker = rig.start(&[("amqp.watch_interval", "1s")]).await;
    let admin = Admin::of(&worker).await;
    let (queue, dead) = (rig.name("sessions.dead"), r#"queue_messages{queue="dead",stage="link"}"#);
    rig.publish_body(with_id("event-1"), b"no event").await;
    admin.until(dead, "1").await;
    rig.amqp.delete_queues([queue.as_str()]).await;
    admin.until(dead, "0").await;
    // The worker declares the queue again for the next dead letter.
    rig.publish_body(with_id("event-2"), b"no event").await;
    admin.until(dead, "1").await;
    assert_eq!(admin.series().await[r#"connects_total{connection="link"}"#], "1");
    worker.stop().await;
}

#[tokio::test]
async fn metrics_pass_promtool_check() {
    let rig = Rig::new().await;
    let worker = rig.start(&[]).await;
    let text = Admin::of(&worker).await.scrape().await;
    let check = move || {
        let mut promtool = Command::new("promtool");
        promtool
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = promtool.spawn().expect("promtool, which `make test` installs");
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let output = tokio::task::spawn_blocking(check).await.unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.is_empty(), "{said}");
    worker.stop().await;
}
