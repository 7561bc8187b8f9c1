//! One trace shows an event from end to end, and no collector can delay an event.

use std::{collections::HashSet, sync::Arc};

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

use testkit::{
    Rig,
    amqp::{headers, with_id},
    collector::{Mode, Span},
    event,
    https::Https,
    rig::TOKEN,
};

const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const FLOW: &str = "00f067aa0ba902b7";
const DOWN: &str = "OTLP collector unreachable; dropping spans until it recovers";

/// Publishes event `n` as a traced flow does, with these trace flags.
async fn publish(rig: &Rig, n: usize, flags: &str) {
    let traceparent = format!("00-{TRACE_ID}-{FLOW}-{flags}");
    let table = headers(&[("traceparent", &traceparent), ("tracestate", "vendor=flowsecret")]);
    rig.publish_event(with_id(&format!("event-{n}")).with_headers(table), &event(n)).await;
}

/// One line per span: two spaces per level, the name without the prefix, the HTTP status, the error.
fn tree(rig: &Rig, spans: &[Span]) -> Vec<String> {
    fn below(rig: &Rig, spans: &[Span], parent: &str, depth: usize, lines: &mut Vec<String>) {
        let mut children: Vec<_> = spans.iter().filter(|span| span.parent == parent).collect();
        children.sort_by_key(|span| span.name.clone());
        for span in children {
            let name = span.name.replace(&format!("{}.", rig.prefix), "");
            let line = [name.as_str(), span.get("http.response.status_code"), span.get("error.type")];
            lines.push(format!("{}{}", "  ".repeat(depth), line.join(" ").trim_end()));
            below(rig, spans, &span.id, depth + 1, lines);
        }
    }
    let mut lines = Vec::new();
    below(rig, spans, FLOW, 0, &mut lines);
    assert_eq!(lines.len(), spans.len(), "a span is outside the tree: {lines:#?}\n{spans:#?}");
    lines
}

#[tokio::test]
async fn one_trace_covers_both_stages_and_retries_through_delay_queues() {
    let rig = Rig::new().await;
    let worker = rig.start(&[("retry.initial", "10ms")]).await;
    let mut hosts = rig.amqp.tap(&rig.name("links"), &["host.webex"]).await;
    rig.sandbox.fault("joseencrypt:status=503,times=1".parse().unwrap());
    rig.sandbox.fault("messages:status=503,times=1".parse().unwrap());
    publish(&rig, 1, "01").await;
    let (guest, host) = (rig.guest_links().await.next().await, hosts.next().await);
    rig.until_experts_have(1).await;
    worker.stop().await;
    let spans = rig.collector.spans();
    assert!(spans.iter().all(|span| span.trace_id == TRACE_ID));
    assert_eq!(
        tree(&rig, &spans),
        [
            "process sessions  unavailable",
            "  POST 503 503",
            "  publish sessions.hold.1000",
            "    process sessions",
            "      POST 200",
            "      publish links:guest.sms",
            "      publish links:host.webex",
            "        process hosts  unavailable",
            "          POST 503 503",
            "          publish hosts.hold.1000",
            "            process hosts",
            "              GET 200",
            "              POST 200",
        ]
    );
    // A message on the wire names the span that published it, and keeps the tracestate.
    for (message, name) in [(&guest, "links:guest.sms"), (&host, "links:host.webex")] {
        let span = spans.iter().find(|span| span.name.ends_with(name)).unwrap();
        assert_eq!(message.header("traceparent"), format!("00-{TRACE_ID}-{}-01", span.id));
        assert_eq!(message.header("tracestate"), "vendor=flowsecret");
        assert_eq!(span.get("messaging.message.id"), message.id());
    }
    assert_conventions(&rig, &spans);
}

/// Checks the semantic conventions for each kind of span.
fn assert_conventions(rig: &Rig, spans: &[Span]) {
    for span in spans {
        let name = span.name.as_str();
        let expected = match name {
            "POST" | "GET" => {
                assert_eq!(span.kind, SpanKind::Client);
                assert!(span.get("url.full").starts_with("http://127.0.0.1:"), "{span:?}");
                assert!(!span.get("url.full").contains('?'), "a query may name a person: {span:?}");
                assert!(span.get("http.response.header.trackingid").contains("ROUTERGW"), "{span:?}");
                assert!(span.get("server.port").parse::<u16>().is_ok(), "{span:?}");
                vec![("http.request.method", name), ("server.address", "127.0.0.1")]
            }
            _ if name.starts_with("publish ") => {
                assert_eq!(span.kind, SpanKind::Producer);
                let destination = ("messaging.destination.name", name.strip_prefix("publish ").unwrap());
                let operation = ("messaging.operation.name", "publish");
                vec![
                    ("messaging.system", "rabbitmq"),
                    operation,
                    ("messaging.operation.type", "send"),
                    destination,
                ]
            }
            _ => {
                assert_eq!(span.kind, SpanKind::Consumer);
                let destination = ("messaging.destination.name", name.strip_prefix("process ").unwrap());
                let operation = ("messaging.operation.type", "process");
                let ours = ("instant_connect.event_id", "event-1");
                vec![("messaging.system", "rabbitmq"), operation, destination, ours]
            }
        };
        for (key, value) in expected {
            assert_eq!(span.get(key), value, "{key} of {span:?}");
        }
        assert_eq!(span.error.is_some(), !span.get("error.type").is_empty(), "{span:?}");
        assert_eq!(span.resource["service.name"], "instant-connect-worker");
        assert!(!span.resource["service.version"].is_empty());
    }
    let outcomes: Vec<_> = spans.iter().map(|span| span.get("instant_connect.outcome")).collect();
    let count = |outcome| outcomes.iter().filter(|one| **one == outcome).count();
    assert_eq!((count("done"), count("try-again")), (2, 2), "{}", rig.prefix);
}

#[tokio::test]
async fn delivery_starts_its_own_trace_if_trace_context_is_link() {
    let rig = Rig::new().await;
    let mut environment = rig.environment(&[("telemetry.trace_context", "link")]);
    for (name, value) in [
        ("OTEL_SERVICE_NAME", "video-links"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test"),
        ("OTEL_EXPORTER_OTLP_HEADERS", &format!("authorization=Bearer%20{TOKEN}")),
    ] {
        environment.push((name.to_owned(), value.to_owned()));
    }
    let worker = rig.launch_with(environment);
    worker.output.until("connected to broker; consuming", 1).await;
    publish(&rig, 1, "01").await;
    let guest = rig.guest_links().await.next().await;
    rig.until_experts_have(1).await;
    worker.stop().await;
    let spans = rig.collector.spans();
    let named = |name: &str| spans.iter().find(|span| span.name.ends_with(name)).unwrap();
    let (link, sent, host) = (named(".sessions"), named("host.webex"), named(".hosts"));
    assert_eq!((link.parent.as_str(), host.parent.as_str()), ("", ""));
    assert_eq!(link.links, [(TRACE_ID.to_owned(), FLOW.to_owned())]);
    assert_eq!(host.links, [(sent.trace_id.clone(), sent.id.clone())]);
    let traces = [TRACE_ID, &link.trace_id, &host.trace_id].map(str::to_owned);
    assert_eq!(HashSet::from(traces).len(), 3, "three traces");
    assert_eq!(sent.parent, link.id);
    assert!(guest.header("traceparent").contains(&link.trace_id));
    assert!(!guest.headers().contains_key("tracestate"), "the tracestate belongs to another trace");
    assert_eq!(link.resource["service.name"], "video-links");
    assert_eq!(link.resource["deployment.environment.name"], "test");
    assert_eq!(rig.collector.header("authorization").unwrap(), format!("Bearer {TOKEN}"));
}

#[tokio::test]
async fn unsampled_trace_is_propagated_but_not_exported() {
    let rig = Rig::new().await;
    // The program's setting overrides the environment's endpoint, which does not exist.
    let mut environment = rig.environment(&[("telemetry.otlp_endpoint", rig.collector.url())]);
    environment.push(("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), "http://127.0.0.1:1".to_owned()));
    let worker = rig.launch_with(environment);
    worker.output.until("connected to broker; consuming", 1).await;
    let mut guests = rig.guest_links().await;
    publish(&rig, 1, "00").await;
    assert_eq!(guests.next().await.header("traceparent"), format!("00-{TRACE_ID}-{FLOW}-00"));
    // An event without a trace starts a new one here.
    rig.publish(2).await;
    let own = guests.next().await.header("traceparent");
    rig.until_experts_have(2).await;
    worker.stop().await;
    let spans = rig.collector.spans();
    assert_eq!(spans.len(), 6, "spans of the second event only: {spans:#?}");
    assert!(spans.iter().all(|span| own.contains(&span.trace_id) && own.ends_with("-01")));
    let roots: Vec<_> = spans.iter().filter(|span| span.parent.is_empty()).collect();
    assert!(roots.len() == 1 && roots[0].name.ends_with(".sessions"), "{roots:?}");
}

#[tokio::test]
async fn trace_context_is_propagated_unchanged_without_a_collector() {
    let rig = Rig::new().await;
    let mut environment = rig.environment(&[("telemetry.otlp_endpoint", rig.collector.url())]);
    environment.push(("OTEL_SDK_DISABLED".to_owned(), "true".to_owned()));
    let worker = rig.launch_with(environment);
    worker.output.until("connected to broker; consuming", 1).await;
    publish(&rig, 1, "01").await;
    let link = rig.guest_links().await.next().await;
    assert_eq!(link.header("traceparent"), format!("00-{TRACE_ID}-{FLOW}-01"));
    assert_eq!(link.header("tracestate"), "vendor=flowsecret");
    rig.until_experts_have(1).await;
    worker.stop().await;
    assert_eq!(rig.collector.requests(), 0);
}

#[tokio::test]
async fn failing_collector_never_blocks_work_and_is_logged_once() {
    let rig = Rig::new().await;
    let worker = rig.start(&[]).await;
    let output = Arc::clone(&worker.output);
    let mut guests = rig.guest_links().await;
    rig.collector.set_mode(Mode::Refuses(503));
    rig.publish(1).await;
    guests.next().await;
    output.until(DOWN, 1).await;
    // More batches fail, but the failure is not logged again.
    for n in 2..5 {
        let requests = rig.collector.requests();
        rig.publish(n).await;
        guests.next().await;
        rig.collector.until_requests(requests + 1).await;
    }
    rig.collector.set_mode(Mode::Takes);
    rig.publish(5).await;
    guests.next().await;
    output.until("OTLP collector recovered", 1).await;
    assert_eq!(output.logged(DOWN).len(), 1);
    let again = output.logged("OTLP collector recovered").remove(0);
    assert!(again["dropped"].as_u64().unwrap() > 0, "{again}");
    // A hanging collector delays neither work nor the shutdown.
    rig.collector.set_mode(Mode::Hangs);
    rig.publish_many(6..26).await;
    guests.take(20).await;
    rig.until_experts_have(25).await;
    worker.stop().await;
    assert_eq!(output.logged("shutdown: some spans were not exported").len(), 1);
    rig.assert_queues_are_empty(&rig.amqp).await;
}

#[tokio::test]
async fn dead_letter_names_the_span_that_published_it() {
    let rig = Rig::new().await;
    let worker = rig.start(&[]).await;
    let traceparent = format!("00-{TRACE_ID}-{FLOW}-01");
    let properties = with_id("event-1").with_headers(headers(&[("traceparent", &traceparent)]));
    rig.publish_body(properties, b"{}").await;
    let letter = rig.dead_letters("sessions").await.next().await;
    worker.stop().await;
    let spans = rig.collector.spans();
    assert_eq!(tree(&rig, &spans), ["process sessions  invalid", "  publish sessions.dead"]);
    let span = spans.iter().find(|span| span.name.ends_with("sessions.dead")).unwrap();
    assert_eq!(letter.header("traceparent"), format!("00-{TRACE_ID}-{}-01", span.id));
    let process = spans.iter().find(|span| span.parent == FLOW).unwrap();
    assert_eq!(process.error.as_deref(), Some("`sessionId`: missing required field"));
}

/// A connection that a firewall has forgotten would otherwise swallow every batch until TCP gives up.
#[tokio::test]
async fn dead_connection_to_the_collector_is_detected_by_pings() {
    let rig = Rig::new().await;
    let https = Https::in_front_of(rig.collector.url().to_owned(), 2050).await;
    let mut environment = rig.environment(&[("telemetry.otlp_endpoint", &https.url)]);
    environment.push(("SSL_CERT_FILE".to_owned(), https.ca_file()));
    let worker = rig.launch_with(environment);
    let output = Arc::clone(&worker.output);
    output.until("connected to broker; consuming", 1).await;
    rig.publish(1).await;
    rig.collector.until_requests(1).await;
    https.freeze();
    rig.publish(2).await;
    output.until(DOWN, 1).await;
    // A batch may still fail on the old connection, so there must be spans until one gets through.
    let more_spans = async {
        for n in 3_u32.. {
            rig.publish(n as usize).await;
            rig.until_experts_have(n.into()).await;
        }
    };
    tokio::select! {
        () = more_spans => {}
        () = output.until("OTLP collector recovered", 1) => {}
    }
    worker.stop().await;
}
