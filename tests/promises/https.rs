//! Connections over TLS and HTTP/2, as Webex has them: one that stops answering does not stop the service.

use std::sync::Arc;

use crate::support::{Rig, https::Https, program::Program};

/// The worker, with both APIs behind `https`.
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
    // In place of the system's, which every build of the program reads.
    environment.push(("SSL_CERT_FILE".to_owned(), ca_file));
    let program = rig.launch_with(environment);
    program.output.until("subscribed to queue", 1).await;
    program
}

async fn before(rig: &Rig) -> Https {
    let environment = rig.environment(&[]);
    let sandbox = environment.iter().find(|(name, _)| name == "ICW_INSTANT_CONNECT__URL").unwrap();
    Https::before(sandbox.1.clone(), 2050).await
}

#[tokio::test]
async fn connection_that_hangs_is_replaced_after_a_time_out() {
    let rig = Rig::new().await;
    let https = before(&rig).await;
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
    rig.assert_all_is_done(&rig.amqp).await;
    for upstream in ["instant_connect", "webex_messages"] {
        let family = "instant_connect_upstream_call_duration_seconds_count";
        let line = format!("{family}{{result=\"unavailable\",upstream=\"{upstream}\"}} 1");
        assert!(metrics.text().lines().any(|found| found == line), "one call each that hangs");
    }
}

/// Long before a call of this length ends.
#[tokio::test]
async fn connection_that_is_dead_is_found_by_its_pings() {
    let rig = Rig::new().await;
    let https = before(&rig).await;
    let worker = start(&rig, &https, "15m").await;
    rig.publish(1).await;
    rig.until_experts_have(1).await;
    https.freeze();
    rig.publish(2).await;
    rig.until_experts_have(2).await;
    worker.stop().await;
    rig.assert_all_is_done(&rig.amqp).await;
}

/// RFC 9110, section 15.5.20: the connection is not for this origin.
#[tokio::test]
async fn misdirected_request_is_tried_again_over_another_connection() {
    let rig = Rig::new().await;
    let https = before(&rig).await;
    let worker = start(&rig, &https, "5s").await;
    rig.publish(1).await;
    rig.until_experts_have(1).await;
    let connections = https.connections();
    rig.sandbox.fault("joseencrypt:status=421,times=1".parse().unwrap());
    rig.publish(2).await;
    rig.until_experts_have(2).await;
    assert!(https.connections() > connections);
    worker.stop().await;
    rig.assert_all_is_done(&rig.amqp).await;
}
