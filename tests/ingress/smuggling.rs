//! Requests that two programs could read in different ways, so that a proxy in front would pass one request as two. Each
//! gets one answer that ends its connection, or is read as its framing says.

use testkit::{Rig, event, rig::CLIENT_TOKEN};

use super::{Caller, head, with};

/// The start of a request that would be read from a body.
const SECOND: &str = "GET /openapi.json HTTP/1.1\r\nHost: ingress\r\n\r\n";

/// Heads whose framing is ambiguous or malformed, with a body.
fn ambiguous() -> Vec<String> {
    let chunks = "2\r\n{}\r\n0\r\n\r\n";
    let mut requests: Vec<_> = [
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: \u{b}chunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding: chunked\r\n\tx: y\r\n",
        "X: y\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n",
        "Content-Length: 2\r\nContent-Length: 10\r\n",
        "Content-Length: +2\r\n",
        "Content-Length: 0x2\r\n",
        "Content-Length: 2 2\r\n",
        "Content-Length: 18446744073709551618\r\n",
        "Content-Length : 2\r\n",
        "X\0: y\r\n",
        "X: y\0\r\n",
        ": empty name\r\n",
    ]
    .iter()
    .map(|lines| head(lines) + chunks)
    .collect();
    for chunks in [
        "ffffffffffffffff1\r\n{}\r\n0\r\n\r\n",
        "-2\r\n{}\r\n0\r\n\r\n",
        "0x2\r\n{}\r\n0\r\n\r\n",
        "2\n{}\n0\n\n",
        "2\r\n{}x\r\n0\r\n\r\n",
    ] {
        requests.push(head("Transfer-Encoding: chunked\r\n") + chunks);
    }
    requests.push(head("Content-Length: 2\r\n").replace("HTTP/1.1", "HTTP/1.2") + "{}");
    requests.push(head("Transfer-Encoding: chunked\r\n").replace("HTTP/1.1", "HTTP/1.0") + chunks);
    requests.push(format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{SECOND}"));
    requests.push(format!("CONNECT ingress:80 HTTP/1.1\r\nHost: ingress\r\n\r\n{SECOND}"));
    requests
}

#[tokio::test]
async fn ambiguous_request_gets_one_refusal_and_ends_its_connection() {
    let rig = Rig::new().await;
    let worker = rig.start(&with(&[])).await;
    let caller = Caller::of(&worker).await;
    for request in ambiguous() {
        let answer = caller.raw((request.clone() + SECOND).as_bytes()).await;
        let status = answer.get(9..12).unwrap_or_default();
        assert!(
            ["400", "404", "405", "413", "422"].contains(&status) || answer.is_empty(),
            "{request:?}: {answer}"
        );
        assert!(
            answer.matches("HTTP/1.").count() <= 1,
            "{request:?}: the rest is no second request: {answer}"
        );
        assert!(!answer.contains("\"openapi\""), "{request:?}: {answer}");
    }
    worker.stop().await;
    rig.assert_queues_are_empty(&rig.amqp).await;
    assert_eq!(rig.sandbox.counts().joseencrypt, 0);
}

/// Pipelined requests are answered in order, each by its own framing, and the trailer of a body is no header.
#[tokio::test]
async fn pipelined_requests_are_read_by_their_own_framing() {
    let rig = Rig::new().await;
    let worker = rig.start(&with(&[])).await;
    let caller = Caller::of(&worker).await;
    let (first, second) = (event(1).to_string(), event(2).to_string());
    let trailer = format!("Authorization: Bearer {CLIENT_TOKEN}\r\n");
    let requests = [
        head(&format!("Content-Length: {}\r\n", first.len())) + &first,
        head("Transfer-Encoding: chunked\r\n")
            + &format!("{:x};name=value\r\n{second}\r\n0\r\n{trailer}\r\n", second.len()),
        "POST /v1/sessions HTTP/1.1\r\nHost: ingress\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
            .to_owned()
            + &format!("2\r\n{{}}\r\n0\r\n{trailer}\r\n"),
    ];
    let answer = caller.raw(requests.concat().as_bytes()).await;
    let statuses: Vec<_> =
        answer.match_indices("HTTP/1.1 ").map(|(at, _)| &answer[at + 9..at + 12]).collect();
    assert_eq!(statuses, ["202", "202", "401"], "{answer}");
    rig.until_experts_have(2).await;
    worker.stop().await;
}
