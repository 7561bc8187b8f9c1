//! Limits on heads, bodies, time, connections and requests.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use testkit::{
    Rig,
    admin::Admin,
    event,
    events::{email, event_with},
};

use super::{Caller, head, rest, with};

#[tokio::test]
async fn slow_head_ends_the_connection_and_slow_body_is_answered() {
    let rig = Rig::new().await;
    let worker = rig.start(&with(&[])).await;
    let caller = Caller::of(&worker).await;
    let since = Instant::now();
    let silent = caller.raw(b"");
    let half_head = caller.raw(b"POST /v1/sessions HTTP/1.1\r\nHost: ingress\r\n");
    let body = head("Content-Length: 100\r\n") + "{";
    let half_body = caller.raw(body.as_bytes());
    // A byte every 100 ms, so that neither is ever idle.
    let slow_head = trickled(&caller, b"POST /v1/sessions HTTP/1.1\r\nX-Slow: ");
    let slow_body = trickled(&caller, body.as_bytes());
    let ((silent, half_head, half_body), (slow_head, slow_body)) =
        tokio::join!(async { tokio::join!(silent, half_head, half_body) }, async {
            tokio::join!(slow_head, slow_body)
        });
    assert_eq!(slow_head, "");
    assert!(slow_body.starts_with("HTTP/1.1 408 "), "{slow_body}");
    assert!(since.elapsed() < Duration::from_secs(9), "{:?}", since.elapsed());
    assert_eq!((silent.as_str(), half_head.as_str()), ("", ""));
    assert!(half_body.starts_with("HTTP/1.1 408 ") && half_body.contains("\"type\":\"slow\""), "{half_body}");
    assert_eq!(caller.start("run-1", &event(1)).await.status, 202);
    rig.until_experts_have(1).await;
    worker.stop().await;
}

/// Sends `start`, then a byte every 100 ms until the server ends the connection. Returns the answer.
async fn trickled(caller: &Caller, start: &[u8]) -> String {
    let (reader, mut writer) = caller.connect(start).await.into_split();
    let bytes = async {
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        while writer.write_all(b"x").await.is_ok() {
            tick.tick().await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        answer = rest(reader) => answer,
        () = bytes => unreachable!(),
    }
}

/// Exactly the limit is accepted, by length and in chunks.
#[tokio::test]
async fn body_of_exactly_the_limit_is_accepted() {
    let rig = Rig::new().await;
    let worker = rig.start(&with(&[])).await;
    let caller = Caller::of(&worker).await;
    let padded = |n| {
        let event = event(n).to_string();
        event.clone() + &" ".repeat(262_144 - event.len())
    };
    let (first, second) = (padded(1), padded(2));
    let by_length = head("Content-Length: 262144\r\nConnection: close\r\n") + &first;
    let chunked = head("Transfer-Encoding: chunked\r\nConnection: close\r\n")
        + &format!("20000\r\n{}\r\n20000\r\n{}\r\n0\r\n\r\n", &second[..0x20000], &second[0x20000..]);
    for request in [by_length, chunked] {
        let answer = caller.raw(request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
    }
    rig.until_experts_have(2).await;
    worker.stop().await;
}

#[tokio::test]
async fn large_ambiguous_and_malformed_requests_are_refused() {
    let rig = Rig::new().await;
    let worker = rig.start(&with(&[])).await;
    let caller = Caller::of(&worker).await;
    let chunked = "Transfer-Encoding: chunked\r\n";
    let too_large = format!("{}40001\r\n{}\r\n0\r\n\r\n", head(chunked), "x".repeat(0x40001));
    let large_head = head(&format!("X-Filler: {}\r\n", "x".repeat(9000)));
    for (request, status) in [
        (head("Content-Length: 262145\r\n"), 413),
        (too_large, 413),
        (head("Content-Length: 2\r\nContent-Length: 3\r\n") + "{}", 400),
        // Two equal lengths are one (RFC 9110, 8.6).
        (head("Content-Length: 2\r\nContent-Length: 2\r\nConnection: close\r\n") + "{}", 422),
        (head("Content-Length: 2, 2\r\n") + "{}", 400),
        (head("Content-Length: -2\r\n") + "{}", 400),
        // The chunks count, and the connection ends (RFC 9112, 6.1).
        (head(&format!("{chunked}Content-Length: 2\r\n")) + "2\r\n{}\r\n0\r\n\r\n", 422),
        (head("Transfer-Encoding: gzip, chunked\r\nConnection: close\r\n") + "0\r\n\r\n", 400),
        (head("Transfer-Encoding: gzip\r\n") + "{}", 400),
        (head(chunked) + "zz\r\n{}\r\n0\r\n\r\n", 400),
        (head(" folded: x\r\n"), 400),
        (large_head, 431),
        ("nonsense\r\n\r\n".to_owned(), 400),
    ] {
        let since = Instant::now();
        let second = "GET /openapi.json HTTP/1.1\r\nHost: ingress\r\n\r\n";
        let answer = caller.raw((request.clone() + second).as_bytes()).await;
        let shown = &request[..request.len().min(250)];
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{shown}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "the rest is no second request: {answer}");
        // The connection ends with the answer, not because its client is idle.
        assert!(since.elapsed() < Duration::from_secs(4), "{shown}: {:?}", since.elapsed());
    }
    worker.stop().await;
    rig.assert_queues_are_empty(&rig.amqp).await;
    assert_eq!(rig.sandbox.counts().joseencrypt, 0);
}

/// Idle connections give way to new ones.
#[tokio::test]
async fn thousand_open_connections_keep_nobody_out() {
    let rig = Rig::new().await;
    let worker = rig.start(&with(&[])).await;
    let caller = Caller::of(&worker).await;
    let before = worker.resident_kib();
    let mut open = Vec::new();
    for number in 0..1000 {
        open.push(caller.connect(b"POST /v1/sessions HTTP/1.1\r\nX-Slow: ").await);
        if number % 250 == 249 {
            assert_eq!(caller.start(&format!("run-{number}"), &event(number)).await.status, 202);
        }
    }
    let files = std::fs::read_dir(format!("/proc/{}/fd", worker.id())).unwrap().count();
    assert!(files < 400, "{files} open files");
    assert!(worker.resident_kib() < before + 32 * 1024, "{} KiB, then {}", before, worker.resident_kib());
    drop(open);
    rig.until_experts_have(4).await;
    worker.stop().await;
}

#[tokio::test]
async fn request_beyond_the_requests_in_flight_is_refused_at_once() {
    let rig = Rig::new().await;
    let worker = rig.start(&with(&[("ingress.in_flight_max", "1")])).await;
    let (caller, admin) = (Caller::of(&worker).await, Admin::of(&worker).await);
    let body = event(1).to_string();
    let lines = format!("Content-Length: {}\r\nConnection: close\r\n", body.len());
    let mut slow: TcpStream = caller.connect(head(&lines).as_bytes()).await;
    admin.until("ingress_in_flight", "1").await;
    let refused = caller.start("run-2", &event(2)).await;
    assert_eq!((refused.status, refused.problem(&rig).as_str()), (503, "unavailable"));
    assert_eq!(refused.header("retry-after"), "1");
    let description = super::reply(caller.http.get(caller.url("/openapi.json"))).await;
    assert_eq!(description.status, 200, "a document is not a request in progress");
    slow.write_all(body.as_bytes()).await.unwrap();
    let answer = rest(slow).await;
    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
    admin.until("ingress_in_flight", "0").await;
    rig.until_experts_have(1).await;
    worker.stop().await;
}

#[tokio::test]
async fn client_with_half_of_the_requests_in_flight_leaves_the_rest_to_others() {
    const OTHER: &str = "rig-client-token-that-came-after-it";
    let rig = Rig::new().await;
    let settings = with(&[("ingress.in_flight_max", "4"), ("ingress.clients.other.token", OTHER)]);
    let worker = rig.start(&settings).await;
    let (caller, admin) = (Caller::of(&worker).await, Admin::of(&worker).await);
    let slow = head("Content-Length: 100\r\n");
    let open = [caller.connect(slow.as_bytes()).await, caller.connect(slow.as_bytes()).await];
    admin.until("ingress_in_flight", "2").await;
    let refused = caller.start("run-1", &event(1)).await;
    assert_eq!((refused.status, refused.problem(&rig).as_str()), (503, "unavailable"));
    assert!(refused.text.contains("of this client"), "{refused:?}");
    let request = caller.http.post(caller.url("/v1/sessions")).bearer_auth(OTHER);
    let request = request.header("content-type", "application/json").body(event(1).to_string());
    assert_eq!(super::reply(request).await.status, 202);
    drop(open);
    rig.until_experts_have(1).await;
    worker.stop().await;
}

#[tokio::test]
async fn client_beyond_its_rate_waits_and_others_do_not() {
    const OTHER: &str = "rig-client-token-that-came-after-it";
    let rig = Rig::new().await;
    let settings = with(&[
        ("ingress.clients.flows.rate", "1"),
        ("ingress.clients.flows.burst", "2"),
        ("ingress.clients.other.token", OTHER),
    ]);
    let worker = rig.start(&settings).await;
    let caller = Caller::of(&worker).await;
    let events: Vec<_> = (0..12).map(event).collect();
    let keys: Vec<_> = (0..12).map(|n| format!("run-{n}")).collect();
    let answers = join_all(keys.iter().zip(&events).map(|(key, event)| caller.start(key, event))).await;
    let (accepted, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 202);
    assert!(accepted.len() >= 2 && !refused.is_empty(), "{answers:?}");
    for answer in refused {
        assert_eq!((answer.status, answer.problem(&rig).as_str()), (429, "rate-limited"));
        assert_eq!(answer.header("retry-after"), "1");
    }
    let request = caller.http.post(caller.url("/v1/sessions")).bearer_auth(OTHER);
    let request = request.header("content-type", "application/json").body(event(99).to_string());
    assert_eq!(super::reply(request).await.status, 202);
    rig.until_experts_have(accepted.len() as u64 + 1).await;
    worker.stop().await;
}

/// Experts get messages too, so a stolen token must not reach many of them either.
#[tokio::test]
async fn experts_of_a_session_count_as_its_guests_do() {
    let rig = Rig::new().await;
    let settings = with(&[("ingress.clients.flows.rate", "1"), ("ingress.clients.flows.burst", "2")]);
    let worker = rig.start(&settings).await;
    let caller = Caller::of(&worker).await;
    let experts: Vec<_> = (0..30).map(|n| json!({"email": email(n)})).collect();
    let accepted = caller.start("run-1", &event_with(1, &json!({"experts": experts}))).await;
    assert_eq!(accepted.status, 202, "a full burst lets one session pass: {accepted:?}");
    let answer = caller.start("run-2", &event(2)).await;
    assert_eq!((answer.status, answer.problem(&rig).as_str()), (429, "rate-limited"));
    let wait: u64 = answer.header("retry-after").parse().unwrap();
    assert!(wait > 20, "the experts of the first session are refilled in {wait} s");
    rig.until_experts_have(30).await;
    worker.stop().await;
}
