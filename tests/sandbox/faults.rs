//! Faults, as a client meets them.

use std::time::{Duration, Instant};

use instant_connect_worker::sandbox::{Endpoint, Fault, FaultRule, Frequency};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{Served, TOKEN, handle_address, refusal, request, serve};

fn note() -> Value {
    json!({"toPersonEmail": "expert@example.com", "text": "x"})
}

async fn served_with(rule: &str) -> Served {
    let served = serve().await;
    served.handle.fault(rule.parse().unwrap());
    served
}

/// All bytes that come back for a message, until the connection is closed.
async fn raw_answer(served: &Served) -> Vec<u8> {
    let body = note().to_string();
    let head = format!(
        "POST /v1/messages HTTP/1.1\r\nhost: sandbox\r\nauthorization: Bearer {TOKEN}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(handle_address(&served.url)).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    answer
}

#[tokio::test]
async fn a_status_comes_so_often_with_its_retry_after_and_does_nothing() {
    let served = served_with("messages:status=429,retry-after=7,times=2").await;
    for _ in 0..2 {
        let response = served.message(&note()).await;
        assert_eq!(response.headers()["retry-after"], "7");
        refusal(response, StatusCode::TOO_MANY_REQUESTS).await;
    }
    assert!(served.handle.messages().is_empty());
    assert_eq!(served.message(&note()).await.status(), StatusCode::OK);
    let faulted = served.handle.arrivals(Endpoint::Messages).iter().filter(|one| one.fault.is_some()).count();
    assert_eq!(
        (faulted, served.handle.requests(Endpoint::Messages), served.handle.messages().len()),
        (2, 3, 1)
    );
}

#[tokio::test]
async fn a_connection_cut_before_the_effect_answers_no_byte_and_does_nothing() {
    let served = served_with("messages:cut=before").await;
    assert_eq!(raw_answer(&served).await, b"");
    assert!(served.handle.messages().is_empty());
}

#[tokio::test]
async fn a_cut_body_does_the_work_and_stops_half_way() {
    let served = served_with("messages:cut=body").await;
    let answer = String::from_utf8(raw_answer(&served).await).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    assert_eq!(body.len(), length.parse::<usize>().unwrap() / 2);
    assert!(body.starts_with("{\"id\""));
    assert_eq!(served.handle.messages()[0].fault, Some(Fault::CutBody));
}

#[tokio::test]
async fn a_delay_is_as_long_as_it_says_and_the_answer_is_the_usual_one() {
    let served = served_with("any:delay=60ms,times=1").await;
    let start = Instant::now();
    assert_eq!(served.ask(&request(&json!({}))).await.status(), StatusCode::OK);
    assert!(start.elapsed() >= Duration::from_millis(60));
}

#[tokio::test]
async fn what_hangs_is_let_go_when_the_client_goes_away() {
    let served = served_with("messages:hang").await;
    let body = note();
    let hanging = served.message(&body);
    let arrived = served.handle.until(|handle| handle.requests(Endpoint::Messages) == 1);
    tokio::select! {
        _ = hanging => panic!("a hanging request was answered"),
        () = arrived => {}
    }
    served.handle.clear_faults();
    assert_eq!(served.message(&note()).await.status(), StatusCode::OK);
    assert_eq!(served.handle.messages().len(), 1);
}

#[tokio::test]
async fn answers_can_be_garbage_or_empty_or_huge_after_the_work_is_done() {
    let served = served_with("messages:garbage,times=1").await;
    served.handle.fault("messages:empty,times=1".parse().unwrap());
    served.handle.fault("messages:huge=3,times=1".parse().unwrap());
    let garbage = served.message(&note()).await;
    assert_eq!(garbage.status(), StatusCode::OK);
    assert!(garbage.json::<Value>().await.is_err());
    assert_eq!(served.message(&note()).await.text().await.unwrap(), "");
    assert_eq!(served.message(&note()).await.bytes().await.unwrap().len(), 3 * 1024 * 1024);
    assert_eq!(served.handle.messages().len(), 3);
}

#[tokio::test]
async fn a_refusal_stays_a_refusal_under_a_fault_that_follows_the_work() {
    let served = served_with("any:garbage").await;
    refusal(served.message(&json!({"text": "nobody"})).await, StatusCode::BAD_REQUEST).await;
}

#[tokio::test]
async fn every_wrong_shape_is_wrong_in_its_own_way() {
    let served = serve().await;
    let body = request(&json!({"provideShortUrls": true, "numGuest": 2}));
    let mut bent = Vec::new();
    for shape in ["fewer-guests", "http-base", "foreign-base", "host-as-guest", "missing-short"] {
        served.handle.fault(format!("any:wrong-shape={shape},times=1").parse().unwrap());
        bent.push(served.ask(&body).await.json::<Value>().await.unwrap());
    }
    assert_eq!(bent[0]["guest"].as_array().unwrap().len(), 1);
    assert_eq!(bent[1]["baseUrl"], "http://instant.webex.com/visit/");
    assert_eq!(bent[2]["baseUrl"], "https://instant.example.net/visit/");
    assert_eq!(bent[3]["guest"][0]["short"], bent[3]["host"][0]["short"]);
    assert!(bent[4]["guest"][0].get("short").is_none());
    assert!(served.handle.calls().iter().all(|call| call.fault.is_some()));
}

#[tokio::test]
async fn an_operator_sets_sees_and_clears_faults_over_http() {
    let served = serve().await;
    let rule = json!({"endpoint": "messages", "status": 503, "retry-after": 1, "times": 2});
    assert_eq!(served.send("/sandbox/faults", &rule).await.unwrap().status(), StatusCode::CREATED);
    refusal(served.message(&note()).await, StatusCode::SERVICE_UNAVAILABLE).await;
    let shown: Value = served.get("/sandbox/faults").await.json().await.unwrap();
    assert_eq!(shown["faults"][0]["rule"], "messages:status=503,retry-after=1,times=2");
    assert_eq!(shown["faults"][0]["fired"], 1);
    let cleared = served.client.delete(served.at("/sandbox/faults")).send().await.unwrap();
    assert_eq!(cleared.status(), StatusCode::NO_CONTENT);
    assert_eq!(served.message(&note()).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_fault_that_is_not_understood_is_refused_with_what_would_be() {
    let served = serve().await;
    for (hint, rule) in [
        ("expected one of", json!({"endpoint": "messages", "statsu": 503})),
        ("expected one of status", json!({"endpoint": "messages"})),
        ("from 0 to 1", json!({"endpoint": "any", "hang": true, "share": 3})),
    ] {
        let response = served.send("/sandbox/faults", &rule).await.unwrap();
        let description = refusal(response, StatusCode::BAD_REQUEST).await;
        assert!(description.contains(hint), "{rule}: {description}");
    }
}

#[tokio::test]
async fn faults_come_before_authorisation() {
    let served = serve().await;
    served.handle.set_token("another".into());
    let fault = Fault::Status { code: 500, retry_after: None };
    served.handle.fault(FaultRule { endpoint: Endpoint::Any, fault, times: Frequency::Times(1) });
    refusal(served.message(&note()).await, StatusCode::INTERNAL_SERVER_ERROR).await;
    refusal(served.message(&note()).await, StatusCode::UNAUTHORIZED).await;
}
