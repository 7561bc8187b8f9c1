//! The ingress and the stages in processes of their own, and the end of the ingress.

use tokio::io::AsyncWriteExt as _;

use testkit::{Rig, admin::Admin, event};

use super::{Caller, INGRESS, head, rest, with};

#[tokio::test]
async fn ingress_and_stages_run_apart() {
    let rig = Rig::new().await;
    let memory = ("ledger.kind", "memory");
    let ingress =
        rig.launch_role("ingress", &[INGRESS[0], INGRESS[1], memory, ("instant_connect.token", "")]);
    let (caller, admin) = (Caller::of(&ingress).await, Admin::of(&ingress).await);
    admin.until(r#"connected{connection="publish"}"#, "1").await;
    let (ready, checks) = admin.get("/readyz").await;
    assert_eq!(ready, 200, "{checks}");
    assert!(checks.contains("publishing") && !checks.contains("consuming"), "{checks}");
    assert_eq!(
        caller.start("run-1", &event(1)).await.status,
        202,
        "the ingress declares what it publishes to"
    );
    let stages = rig.launch_role("stages", &with(&[memory]));
    rig.until_experts_have(1).await;
    assert!(stages.output.logged("ingress listens").is_empty());
    stages.stop().await;
    ingress.stop().await;
}

#[tokio::test]
async fn wrong_use_of_the_role_ends_with_status_2() {
    let rig = Rig::new().await;
    for (settings, words) in [
        (vec![], "ingress.listen: expected ADDRESS:PORT"),
        (vec![INGRESS[0]], "expected at least one client"),
        (with(&[("ingress.clients.other.token", INGRESS[1].1)]), "expected different tokens"),
        (vec![("ingress.listen", "192.0.2.1:1"), INGRESS[1]], "expected a loopback address"),
        (
            vec![INGRESS[0], ("ingress.clients.flows.token_file", "/nonexistent/token")],
            "token file /nonexistent/token",
        ),
    ] {
        let ended = rig.command(&["run", "--role", "ingress"], &settings).await;
        assert_eq!(ended.status, Some(2), "{ended:?}");
        assert!(ended.stderr.contains(words), "{ended:?}");
    }
}

/// No consumer finds this out, and a restart shows the reason.
#[tokio::test]
async fn ingress_without_its_topology_exits_with_the_reason() {
    let rig = Rig::new().await;
    let settings = with(&[("topology.declare", "check"), ("ledger.kind", "memory")]);
    let ended = rig.command(&["run", "--role", "ingress"], &settings).await;
    assert_eq!(ended.status, Some(1), "{ended:?}");
    let missing = format!("exchange {}", rig.name("sessions"));
    assert!(ended.stderr.lines().last().is_some_and(|last| last.contains(&missing)), "{ended:?}");
}

/// A request whose body is still coming when the worker is told to stop.
#[tokio::test]
async fn request_in_progress_is_answered_before_the_end() {
    let rig = Rig::new().await;
    let worker = rig.start(&with(&[])).await;
    let (caller, admin) = (Caller::of(&worker).await, Admin::of(&worker).await);
    let body = event(1).to_string();
    let mut stream = caller.connect(head(&format!("Content-Length: {}\r\n", body.len())).as_bytes()).await;
    admin.until("ingress_in_flight", "1").await;
    worker.signal("TERM");
    worker.output.until("shutting down", 1).await;
    stream.write_all(body.as_bytes()).await.unwrap();
    let answer = rest(stream).await;
    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
    assert_eq!(worker.ended().await.code(), Some(0));
    let (messages, _) = rig.amqp.depth(&rig.name("sessions")).await.unwrap();
    assert_eq!(messages, 1, "accepted, and kept for the next worker");
}

/// A load balancer sends requests until it notices that the ingress is not ready.
#[tokio::test]
async fn draining_ingress_serves_new_connections_and_ends_each_after_its_answer() {
    let rig = Rig::new().await;
    let settings = [("ingress.drain", "10m"), ("shutdown.grace", "10m"), ("ledger.kind", "memory")];
    let worker = rig.launch_role("ingress", &with(&settings));
    let (caller, admin) = (Caller::of(&worker).await, Admin::of(&worker).await);
    let before = caller.start("run-1", &event(1)).await;
    assert_eq!((before.status, before.headers.contains_key("connection")), (202, false), "{before:?}");
    worker.signal("TERM");
    worker.output.until("shutting down", 1).await;
    let (ready, checks) = admin.get("/readyz").await;
    assert_eq!(ready, 503, "{checks}");
    // On the connection that was open before, and on a new one.
    for n in 2..4 {
        let answer = caller.start(&format!("run-{n}"), &event(n)).await;
        assert_eq!((answer.status, answer.header("connection")), (202, "close"), "{answer:?}");
    }
    // A second signal ends the program at once.
    worker.signal("TERM");
    assert_eq!(worker.ended().await.code(), Some(1));
    let (messages, _) = rig.amqp.depth(&rig.name("sessions")).await.unwrap();
    assert_eq!(messages, 3);
}
