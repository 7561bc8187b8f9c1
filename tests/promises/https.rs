//! Connections over TLS and HTTP/2, as Webex uses them. A connection that stops responding does not stop the service.

use std::sync::Arc;

use testkit::{Rig, https::Https, program::Program};

/// Starts the worker with both APIs behind `https`.
async fn start(rig: &Rig, https: &Https, timeout: &str) -> Program {
    let ca_file = https.ca_file();
    let settings = [
        ("instant_connect.url", https.url.as_str()),
        ("instant_connect.timeout", timeout),
        ("hosts.webex_url", &https.url),
        ("hosts.timeout", timeout),
        ("retry.initial", "10ms"),
        ("retry.max", "50ms"),
        ("retry.delays", "10ms,50ms,1s,5s"),
        ("telemetry.log_level", "debug"),
    ];
    let mut environment = rig.environment(&settings);
    // Replaces the system's certificates; every build of the program reads this variable.
    environment.push(("SSL_CERT_FILE".to_owned(), ca_file));
    let program = rig.launch_with(environment);
    program.output.until("subscribed to queue", 1).await;
    program
}

async fn https_for(rig: &Rig) -> Https {
    let environment = rig.environment(&[]);
    let sandbox = environment.iter().find(|(name, _)| name == "ICW_INSTANT_CONNECT__URL").unwrap();
    Https::in_front_of(sandbox.1.clone(), 2050).await
}

#[tokio::test]
async fn hanging_connection_is_replaced_after_a_timeout() {
    let rig = Rig::new().await;
    let https = https_for(&rig).await;
    let worker = start(&rig, &https, "5s").await;
    rig.publish(1).await;
    rig.until_experts_have(1).await;
    let connections = https.connections();
    https.hang();
    rig.publish(2).await;
    rig.until_experts_have(2).await;
    assert!(https.connections() > connections);
    let metrics = Arc::clone(&worker.metrics);
    worker.stop().await;
    rig.assert_queues_are_empty(&rig.amqp).await;
    for upstream in ["instant_connect", "webex_messages"] {
        let family = "instant_connect_upstream_call_duration_seconds_count";
        let line = format!("{family}{{result=\"unavailable\",upstream=\"{upstream}\"}} 1");
        assert!(metrics.text().lines().any(|found| found == line), "expected one hanging call per API");
    }
}

/// The ping fails long before the time limit of the call.
#[tokio::test]
async fn dead_connection_is_detected_by_pings() {
    let rig = Rig::new().await;
    let https = https_for(&rig).await;
    let worker = start(&rig, &https, "15m").await;
    rig.publish(1).await;
    rig.until_experts_have(1).await;
    https.freeze();
    rig.publish(2).await;
    rig.until_experts_have(2).await;
    worker.stop().await;
    rig.assert_queues_are_empty(&rig.amqp).await;
}

/// RFC 9110, section 15.5.20: the server does not accept this connection for the origin.
#[tokio::test]
async fn misdirected_request_is_retried_over_another_connection() {
    let rig = Rig::new().await;
    let https = https_for(&rig).await;
    let worker = start(&rig, &https, "5s").await;
    rig.publish(1).await;
    rig.until_experts_have(1).await;
    let connections = https.connections();
    rig.sandbox.fault("joseencrypt:status=421,times=1".parse().unwrap());
    rig.publish(2).await;
    rig.until_experts_have(2).await;
    assert!(https.connections() > connections);
    worker.stop().await;
    rig.assert_queues_are_empty(&rig.amqp).await;
}
