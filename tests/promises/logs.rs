//! One log line for each outcome, with all ids that identify the event.

use std::sync::Arc;

use serde_json::{Value, json};

use testkit::{
    Rig,
    amqp::{headers, with_id},
    event,
    events::event_with,
    poll,
    program::Program,
};

const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// The stage and outcome of each line about an event. Checks that each line is complete.
fn decisions(worker: &Program, event_id: &str) -> Vec<(String, String)> {
    let records = worker.output.records().into_iter();
    let lines = records.filter(|one| one["event_id"] == event_id && one.get("outcome").is_some());
    lines
        .map(|line| {
            assert_eq!(line["trace_id"].as_str().unwrap().len(), 32, "{line}");
            assert!(line["attempt"].as_u64().unwrap() >= 1 && line["duration_ms"].is_number(), "{line}");
            let outcome = line["outcome"].as_str().unwrap();
            assert_eq!(line.get("reason").is_some(), outcome != "done", "{line}");
            assert_eq!(
                line.get("class").is_some(),
                matches!(outcome, "dead" | "try-again" | "wait"),
                "{line}"
            );
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            (text(&line["stage"]), text(&line["outcome"]))
        })
        .collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(stage, outcome)| ((*stage).to_owned(), (*outcome).to_owned())).collect()
}

#[tokio::test]
async fn each_outcome_is_logged_once_with_event_id_and_reason() {
    let rig = Rig::new().await;
    let settings = [
        ("retry.initial", "1ms"),
        ("retry.delays", "10ms,1s"),
        ("breaker.probe_initial", "10ms"),
        ("shutdown.grace", "100ms"),
    ];
    let worker = rig.start(&settings).await;
    let traceparent = format!("00-{TRACE_ID}-00f067aa0ba902b7-01");
    rig.sandbox.fault("joseencrypt:status=503,times=1".parse().unwrap());
    rig.sandbox.fault("messages:status=401,times=1".parse().unwrap());
    let properties = with_id("event-1").with_headers(headers(&[("traceparent", &traceparent)]));
    rig.publish_event(properties, &event(1)).await;
    worker.output.until("\"stage\":\"host\",\"outcome\":\"done\"", 1).await;
    rig.publish_event(with_id("event-2"), &event_with(2, &json!({"guests": []}))).await;
    worker.output.until("\"outcome\":\"dead\"", 1).await;
    // Deliveries in progress at the end of the grace are logged too.
    rig.sandbox.fault("joseencrypt:delay=60s".parse().unwrap());
    rig.publish(3).await;
    worker.output.until("processing start event", 3).await;
    let output = Arc::clone(&worker.output);
    let of_first = decisions(&worker, "event-1");
    let of_second = decisions(&worker, "event-2");
    let expected = [("link", "try-again"), ("link", "done"), ("host", "wait"), ("host", "done")];
    assert_eq!(of_first, pairs(&expected));
    assert_eq!(of_second, pairs(&[("link", "dead")]));
    let traces = output.records().into_iter().filter(|one| one["event_id"] == "event-1");
    let lines: Vec<_> = traces.into_iter().collect();
    assert!(lines.len() > of_first.len(), "the steps in between are logged too");
    let is_whole =
        |one: &Value| one["trace_id"] == TRACE_ID && one["stage"].is_string() && one["attempt"].is_u64();
    assert!(lines.iter().all(is_whole), "{lines:?}");
    worker.stop().await;
    let requeued = output.records().into_iter().filter(|one| one["outcome"] == "requeued");
    assert_eq!(requeued.map(|one| one["event_id"].clone()).collect::<Vec<_>>(), ["event-3"]);
}

#[tokio::test]
async fn usr1_enables_debug_logs_and_usr2_restores_the_configured_level() {
    let rig = Rig::new().await;
    rig.command(&["topology", "--declare"], &[]).await;
    let worker = rig.launch(&[("telemetry.log_level", "warn")]);
    let output = Arc::clone(&worker.output);
    let mut guests = rig.guest_links().await;
    rig.publish(1).await;
    guests.next().await;
    worker.signal("USR1");
    worker.signal("USR1");
    output.until("\"log_level\":\"debug\"", 1).await;
    rig.publish(2).await;
    guests.next().await;
    let is_host_of_second = |one: &Value| one["event_id"] == "event-2" && one["stage"] == "host";
    poll("the end of the second", async || output.logged("done").iter().any(is_host_of_second).then_some(()))
        .await;
    worker.signal("USR2");
    output.until("\"log_level\":\"warn\"", 1).await;
    rig.publish(3).await;
    guests.next().await;
    rig.until_experts_have(3).await;
    worker.stop().await;
    let records = output.records();
    assert_eq!(records[0]["message"], "log level changed", "nothing was logged before");
    let of = |id: &str| records.iter().filter(|one| one["event_id"] == id).count();
    assert!(
        of("event-2") >= 5 && of("event-3") == 0,
        "each step is logged for the second event, none for the third"
    );
}
