//! Health checks: the worker is alive without a broker, and ready only if it would process an event that arrives now.

use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use testkit::{
    Rig,
    admin::Admin,
    amqp::with_id,
    events::{event_with, number},
    leaks::leaks,
    poll,
    rig::{NEW_TOKEN, TOKEN},
};

/// The status of `/readyz`, and the failing checks with their details.
async fn readiness(admin: &Admin) -> (u16, Vec<String>) {
    let (status, body) = admin.get("/readyz").await;
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(answer["ok"], status == 200, "{body}");
    let checks = answer["checks"].as_object().unwrap();
    let failed = checks.iter().filter(|(_, check)| check["ok"] != true);
    (status, failed.map(|(name, check)| format!("{name}: {}", check["detail"].as_str().unwrap())).collect())
}

async fn until_ready(admin: &Admin) {
    poll("the worker to be ready", async || (readiness(admin).await.0 == 200).then_some(())).await;
}

/// Waits until this check fails. Returns all failing checks.
async fn until_failing(admin: &Admin, check: &str) -> Vec<String> {
    poll(check, async || {
        let (status, failed) = readiness(admin).await;
        (status == 503 && failed.iter().any(|one| one == check)).then_some(failed)
    })
    .await
}

#[tokio::test]
async fn worker_is_ready_only_with_a_broker_but_alive_without() {
    let rig = Rig::private().await;
    let worker = rig.launch(&[("amqp.watch_interval", "200ms")]);
    let admin = Admin::of(&worker).await;
    until_ready(&admin).await;
    let (_, body) = admin.get("/readyz").await;
    let answer: Value = serde_json::from_str(&body).unwrap();
    let names: Vec<_> = answer["checks"].as_object().unwrap().keys().collect();
    let expected = [
        "consuming.host",
        "consuming.link",
        "publishing",
        "running",
        "token.instant_connect",
        "token.webex_messages",
    ];
    assert_eq!(names, expected);
    for path in ["/", "/metrics/", "/readyz/x", "/debug"] {
        assert_eq!(admin.get(path).await.0, 404, "{path}");
    }
    rig.broker().stop().await;
    let away = "not connected to the broker: connect: connection refused";
    poll("all connections to be lost", async || {
        let expected =
            ["consuming.host", "consuming.link", "publishing"].map(|name| format!("{name}: {away}"));
        (readiness(&admin).await == (503, expected.to_vec())).then_some(())
    })
    .await;
    let (status, body) = admin.get("/livez").await;
    assert_eq!(status, 200, "{body}");
    // A queue length that can't be read is not exported.
    let queued = r#"queue_messages{queue="work",stage="link"}"#;
    poll("the queue metrics to disappear", async || {
        (!admin.series().await.contains_key(queued)).then_some(())
    })
    .await;
    rig.broker().start_again().await;
    until_ready(&admin).await;
    admin.until(queued, "0").await;
    worker.stop().await;
}

#[tokio::test]
async fn readyz_reports_a_refused_token_until_a_new_one_is_accepted() {
    let rig = Rig::new().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, NEW_TOKEN).unwrap();
    let settings = [
        ("hosts.token_file", file.to_str().unwrap()),
        ("breaker.probe_initial", "10ms"),
        ("breaker.probe_max", "20ms"),
        ("retry.delays", "10ms,50ms,1s,5s"),
    ];
    let worker = rig.start(&settings).await;
    let admin = Admin::of(&worker).await;
    until_ready(&admin).await;
    rig.publish(1).await;
    let refused = "token.webex_messages: refused";
    let failed = until_failing(&admin, refused).await;
    assert!(failed.iter().all(|one| one == refused || one.starts_with("consuming.host: ")), "{failed:?}");
    let (_, body) = admin.get("/readyz").await;
    assert_eq!(leaks(&body, &rig.sandbox), Vec::<String>::new());
    assert_eq!(admin.get("/livez").await.0, 200);
    std::fs::write(&file, TOKEN).unwrap();
    until_ready(&admin).await;
    rig.until_experts_have(1).await;
    worker.stop().await;
}

/// The refused event has expired, so no probe can show that the new token works.
#[tokio::test]
async fn replaced_token_ends_the_refusal_although_no_event_waits() {
    let rig = Rig::new().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, NEW_TOKEN).unwrap();
    let settings = [
        ("instant_connect.token", ""),
        ("instant_connect.token_file", file.to_str().unwrap()),
        ("breaker.probe_initial", "10ms"),
        ("breaker.probe_max", "20ms"),
        ("retry.delays", "10ms,50ms,1s,5s"),
    ];
    let worker = rig.start(&settings).await;
    let admin = Admin::of(&worker).await;
    let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(15);
    let event = event_with(1, &json!({"expiresAt": soon.to_string()}));
    let mut dead = rig.dead_letters("sessions").await;
    rig.publish_event(with_id("event-1"), &event).await;
    until_failing(&admin, "token.instant_connect: refused").await;
    dead.next().await;
    std::fs::write(&file, TOKEN).unwrap();
    worker.output.until("the token was replaced and no message waits", 1).await;
    until_ready(&admin).await;
    rig.publish(2).await;
    rig.until_experts_have(1).await;
    worker.stop().await;
}

#[tokio::test]
async fn worker_that_shuts_down_is_unready_and_keeps_responding() {
    let rig = Rig::new().await;
    rig.sandbox.fault("joseencrypt:hang".parse().unwrap());
    let worker = rig.start(&[("shutdown.grace", "60s")]).await;
    let admin = Admin::of(&worker).await;
    until_ready(&admin).await;
    rig.publish(1).await;
    admin.until("in_flight{stage=\"link\"}", "1").await;
    worker.signal("TERM");
    until_failing(&admin, "running: shutting down").await;
    assert_eq!(admin.get("/livez").await.0, 200);
    assert_eq!(admin.series().await["in_flight{stage=\"link\"}"], "1");
    // The call ends at its own time limit, and then the worker stops.
    worker.ended().await;
}

#[cfg(debug_assertions)]
#[tokio::test]
async fn worker_with_slow_ledger_is_alive_but_not_ready_and_stops() {
    let rig = Rig::new().await;
    let worker = rig.launch_with_fault(&[], "ledger.opening:1:HANG");
    worker.output.until("fault point ledger.opening", 1).await;
    let admin = Admin::of(&worker).await;
    let failed = until_failing(&admin, "running: starting: the ledger is being opened").await;
    assert!(failed.len() > 1, "{failed:?}");
    assert_eq!(admin.get("/livez").await.0, 200);
    worker.stop().await;
}

#[cfg(debug_assertions)]
#[tokio::test]
async fn second_signal_ends_a_worker_that_hangs_at_start() {
    let rig = Rig::new().await;
    let mut worker = rig.launch_with_fault(&[], "worker.starting:1:HANG");
    worker.output.until("fault point worker.starting", 1).await;
    // Signals that arrive together count as one.
    poll("the worker to end after a later signal", async || {
        if worker.is_running() {
            worker.signal("TERM");
            None
        } else {
            Some(())
        }
    })
    .await;
    assert_eq!(worker.ended().await.code(), Some(1));
}

#[tokio::test]
async fn overdue_delivery_is_logged_counted_and_requeued() {
    let rig = Rig::new().await;
    // Each of the two calls is within its own limit, but not both together.
    rig.sandbox.fault("joseencrypt:delay=11s,times=2".parse().unwrap());
    let limits =
        [("amqp.delivery_timeout", "20s"), ("instant_connect.timeout", "20s"), ("hosts.timeout", "20s")];
    let worker = rig.start(&limits).await;
    let admin = Admin::of(&worker).await;
    let guest = |n: usize| json!({"channel": "sms", "address": number(n)});
    let guests: Vec<_> = (0..30).map(guest).collect();
    rig.publish_event(with_id("event-1"), &event_with(1, &json!({"guests": guests}))).await;
    rig.guest_links().await.take(30).await;
    admin.until("events_total{outcome=\"requeued\",stage=\"link\"}", "1").await;
    assert_eq!(admin.series().await["overdue_total{stage=\"link\"}"], "1");
    let said = worker.output.logged("processing exceeded amqp.delivery_timeout; requeueing the delivery");
    assert_eq!((said.len(), &said[0]["event_id"]), (1, &json!("event-1")));
    worker.stop().await;
}

#[tokio::test]
async fn occupied_admin_port_exits_2_and_names_the_setting() {
    let rig = Rig::new().await;
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let run = rig.command(&["run"], &[("admin.listen", &address)]).await;
    assert_eq!(run.status, Some(2), "{run:?}");
    let last = run.stderr.lines().rev().nth(1).unwrap();
    assert!(
        last.starts_with(&format!("error: admin.listen = \"{address}\": cannot listen there: ")),
        "{last}"
    );
    let wrong = rig.command(&["run"], &[("admin.listen", "9464")]).await;
    assert_eq!(wrong.status, Some(2), "{wrong:?}");
    assert!(
        wrong.stderr.contains("ICW_ADMIN__LISTEN") && wrong.stderr.contains("127.0.0.1:9464"),
        "{wrong:?}"
    );
    // A worker with `admin.listen = "off"` needs no port.
    let worker = rig.start(&[("admin.listen", "off")]).await;
    assert!(worker.output.logged("admin server listens").is_empty());
    worker.stop().await;
}

#[tokio::test]
async fn silent_admin_clients_do_not_block_others() {
    let rig = Rig::new().await;
    let worker = rig.start(&[]).await;
    let admin = Admin::of(&worker).await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(admin.address()).await.unwrap());
    }
    // The server accepts connections in order, so this one comes last. The newest ones are still open, so it did not
    // wait for one to end.
    assert_eq!(admin.get("/livez").await.0, 200);
    let open = |stream: &TcpStream| matches!(stream.try_read(&mut [0; 1]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
    assert!(open(&silent[160]), "the newest 64 connections stay open");
    worker.stop().await;
}

#[tokio::test]
async fn health_command_reports_failing_checks_by_status_and_text() {
    let rig = Rig::private().await;
    let worker = rig.launch(&[]);
    let admin = Admin::of(&worker).await;
    let listen = [("admin.listen", admin.address())];
    until_ready(&admin).await;
    for arguments in [&["health"][..], &["health", "--live"]] {
        let healthy = rig.command(arguments, &listen).await;
        assert_eq!((healthy.status, healthy.stdout.as_str(), healthy.stderr.as_str()), (Some(0), "", ""));
    }
    rig.broker().stop().await;
    until_failing(&admin, "publishing: not connected to the broker: connect: connection refused").await;
    let unready = rig.command(&["health"], &listen).await;
    assert_eq!(unready.status, Some(1), "{unready:?}");
    assert!(unready.stderr.contains("not ready: ") && unready.stderr.contains("publishing: not connected"));
    assert_eq!(rig.command(&["health", "--live"], &listen).await.status, Some(0));
    worker.kill();
    let gone = rig.command(&["health", "--live"], &listen).await;
    assert_eq!(gone.status, Some(1), "{gone:?}");
    assert!(gone.stderr.contains("check that the worker runs"), "{gone:?}");
    let off = rig.command(&["health", "--set", "admin.listen="], &[]).await;
    assert_eq!(off.status, Some(2), "{off:?}");
}

#[tokio::test]
async fn log_command_changes_the_level_of_a_running_worker() {
    let rig = Rig::new().await;
    let worker = rig.launch(&[("telemetry.log_level", "info")]);
    worker.output.until("connected to broker; consuming", 2).await;
    let pid = worker.id().to_string();
    let changed = rig.command(&["log", "debug", "--pid", &pid], &[]).await;
    assert_eq!(changed.status, Some(0), "{changed:?}");
    rig.publish(1).await;
    worker.output.until("processing start event", 1).await;
    assert_eq!(rig.command(&["log", "configured", "--pid", &pid], &[]).await.status, Some(0));
    // This test process has no handler for the signal, which would kill it.
    let other = rig.command(&["log", "debug", "--pid", &std::process::id().to_string()], &[]).await;
    assert!(other.status == Some(1) && other.stderr.contains("not a worker"), "{other:?}");
    worker.stop().await;
    let gone = rig.command(&["log", "debug", "--pid", &pid], &[]).await;
    assert_eq!(gone.status, Some(1), "{gone:?}");
    for wrong in ["0", "-1", "one"] {
        assert_eq!(
            rig.command(&["log", "debug", &format!("--pid={wrong}")], &[]).await.status,
            Some(2),
            "{wrong}"
        );
    }
}
