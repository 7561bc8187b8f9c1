//! Error texts of libraries contain no private data either. The rig searches all output when it is dropped.

#[cfg(debug_assertions)]
use std::sync::Arc;

use testkit::{
    Rig,
    events::DEVICE,
    leaks::leaks,
    rig::{PASSWORD, TOKEN},
};

#[tokio::test]
async fn connection_error_shows_no_url_password() {
    let rig = Rig::new().await;
    let plain = rig.url().rsplit('@').next().unwrap().to_owned();
    let tls = format!("amqps://rig:{PASSWORD}@{plain}");
    let nobody = format!("amqp://rig:{PASSWORD}@127.0.0.1:1/%2f");
    let wrong = format!("amqp://rig:{PASSWORD}@{plain}");
    for url in [&tls, &nobody, &wrong] {
        let found = rig.command(&["check", "--connect"], &[("amqp.url", url)]).await;
        assert_eq!(found.status, Some(1), "{found:?}");
        assert!(found.stdout.contains("fail: broker") && !found.stdout.contains(PASSWORD), "{found:?}");
    }
    let redis = format!("redis://rig:{PASSWORD}@127.0.0.1:1");
    let worker = rig.start(&[("ledger.kind", "redis"), ("ledger.url", &redis)]).await;
    rig.publish(1).await;
    worker.output.until("\"outcome\":\"wait\"", 1).await;
    worker.stop().await;
    // The sandbox speaks plain HTTP behind an https URL.
    let sandbox =
        rig.environment(&[]).into_iter().find(|(name, _)| name == "ICW_HOSTS__WEBEX_URL").unwrap().1;
    let https = sandbox.replace("http://", "https://");
    let worker = rig.start(&[("instant_connect.url", &https)]).await;
    worker.output.until("\"outcome\":\"try-again\"", 1).await;
    worker.stop().await;
}

#[cfg(debug_assertions)]
#[tokio::test]
async fn panic_in_a_stage_is_dead_lettered_without_private_data() {
    for (queue, point) in [("sessions", "link.read:1:PANIC"), ("hosts", "host.read:1:PANIC")] {
        let rig = Rig::new().await;
        let worker = rig.launch_with_fault(&[("telemetry.log_level", "debug")], point);
        worker.output.until("subscribed to queue", 2).await;
        rig.publish(1).await;
        let letter = rig.dead_letters(queue).await.next().await;
        assert_eq!(letter.header("x-dead-class"), "internal");
        assert!(letter.header("x-dead-reason").contains("panicked"));
        assert_eq!(worker.output.logged("panic (bug in this program)").len(), 1);
        // The worker continues.
        rig.publish(2).await;
        rig.until_experts_have(1).await;
        worker.stop().await;
    }
}

#[cfg(debug_assertions)]
#[tokio::test]
async fn publisher_panic_stops_the_worker_and_the_next_one_continues() {
    for point in ["publish.asked:1:PANIC", "publish.confirmed:1:PANIC"] {
        let rig = Rig::new().await;
        let worker = rig.launch_with_fault(&[("telemetry.log_level", "debug")], point);
        worker.output.until("subscribed to queue", 2).await;
        rig.publish(1).await;
        let output = Arc::clone(&worker.output);
        assert_eq!(worker.ended().await.code(), Some(1));
        let last = output.text().lines().last().unwrap().to_owned();
        assert!(last.contains("publisher task panicked"), "{last}");
        let worker = rig.start(&[]).await;
        rig.guest_links().await.next().await;
        rig.until_experts_have(1).await;
        worker.stop().await;
    }
}

#[tokio::test]
async fn leak_search_finds_each_kind_of_private_data() {
    let rig = Rig::new().await;
    let worker = rig.start(&[]).await;
    rig.publish(1).await;
    rig.guest_links().await.next().await;
    worker.stop().await;
    let code = rig.sandbox.links().into_keys().next().unwrap();
    for line in [
        "name=Guadalupe",
        "to winnifred-1@example.com",
        "number 34600000001 called",
        DEVICE,
        "correlation flowsecret-flow-1",
        "https://elsewhere/visit/x",
        TOKEN,
        PASSWORD,
        &format!("short={code};"),
    ] {
        assert_eq!(leaks(line, &rig.sandbox).len(), 1, "{line}");
    }
    let fine = r#"{"timestamp":"2026-11-21T10:00:00.346000Z","session":"visit-1","trace_id":"34600000001a"}"#;
    assert_eq!(leaks(fine, &rig.sandbox), Vec::<String>::new());
}
