//! A Retry-After applies to all workers that share a ledger, and survives a restart.

use std::time::Duration;

use instant_connect_sandbox::Endpoint;

use testkit::{Rig, poll, redis_server::RedisServer};

/// The delay that the API imposes.
const WAIT: Duration = Duration::from_secs(10);
/// The log message of a deferred event.
const WAITS: &str = "deferred; attempt not counted";

fn rate_limit(rig: &Rig, endpoint: &str) {
    let fault = format!("{endpoint}:status=429,retry-after={},times=1", WAIT.as_secs());
    rig.sandbox.fault(fault.parse().unwrap());
}

/// Checks that no call came before the Retry-After of the first call ended.
fn assert_honoured(rig: &Rig, endpoint: Endpoint) {
    let arrivals = rig.sandbox.arrivals(endpoint);
    assert!(arrivals.len() > 1, "expected another call");
    let early = arrivals[1..].iter().find(|call| call.at - arrivals[0].at < WAIT);
    assert!(early.is_none(), "a call came before the Retry-After ended");
}

#[tokio::test]
async fn restarted_worker_honours_the_rest_of_a_retry_after() {
    for (endpoint, name) in [(Endpoint::JoseEncrypt, "joseencrypt"), (Endpoint::Messages, "messages")] {
        let rig = Rig::new().await;
        let worker = rig.start(&[]).await;
        rate_limit(&rig, name);
        rig.publish(1).await;
        worker.output.until(WAITS, 1).await;
        worker.kill();
        let worker = rig.start(&[]).await;
        // The first event waits in its delay queue in any case.
        rig.publish(2).await;
        rig.until_experts_have(2).await;
        worker.stop().await;
        assert_honoured(&rig, endpoint);
        rig.assert_queues_are_empty(&rig.amqp).await;
    }
}

#[tokio::test]
async fn retry_after_applies_to_all_workers_on_one_redis() {
    use secrecy::ExposeSecret;

    let server = RedisServer::start();
    let rig = Rig::new().await;
    let url = server.url();
    let settings = [
        ("ledger.kind", "redis"),
        ("ledger.url", url.expose_secret()),
        ("amqp.prefetch", "1"),
        ("amqp.concurrency", "1"),
    ];
    let workers = [rig.start(&settings).await, rig.start(&settings).await];
    rate_limit(&rig, "joseencrypt");
    rig.publish(1).await;
    poll("the first event to be deferred", async || {
        workers.iter().any(|worker| !worker.output.logged(WAITS).is_empty()).then_some(())
    })
    .await;
    // That worker has stopped consuming; the other one consumes.
    rig.publish_many(2..=4).await;
    rig.until_experts_have(4).await;
    for worker in workers {
        worker.stop().await;
    }
    assert_honoured(&rig, Endpoint::JoseEncrypt);
    rig.assert_queues_are_empty(&rig.amqp).await;
}
