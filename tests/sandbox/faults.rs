//! The sandbox's faults as a client sees them.

use std::time::{Duration, Instant};

use instant_connect_sandbox::{Endpoint, Fault, FaultRule, Frequency};
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

/// All bytes of the response to a message, until the connection closes.
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
async fn status_fault_fires_the_given_times_without_effect() {
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
async fn connection_cut_before_the_effect_sends_no_bytes() {
    let served = served_with("messages:cut=before").await;
    assert_eq!(raw_answer(&served).await, b"");
    assert!(served.handle.messages().is_empty());
}

#[tokio::test]
async fn cut_body_has_the_effect_and_ends_half_way() {
    let served = served_with("messages:cut=body").await;
    let answer = String::from_utf8(raw_answer(&served).await).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    assert_eq!(body.len(), length.parse::<usize>().unwrap() / 2);
    assert!(body.starts_with("{\"id\""));
    assert_eq!(served.handle.messages()[0].fault, Some(Fault::CutBody));
}

#[tokio::test]
async fn delay_lasts_the_given_time_before_the_normal_response() {
    let served = served_with("any:delay=60ms,times=1").await;
    let start = Instant::now();
    assert_eq!(served.ask(&request(&json!({}))).await.status(), StatusCode::OK);
    assert!(start.elapsed() >= Duration::from_millis(60));
}

#[tokio::test]
async fn hanging_request_ends_when_the_client_disconnects() {
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
async fn response_can_be_garbage_empty_or_huge_after_the_effect() {
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
async fn fault_after_the_effect_does_not_change_a_refusal() {
    let served = served_with("any:garbage").await;
    refusal(served.message(&json!({"text": "nobody"})).await, StatusCode::BAD_REQUEST).await;
}

#[tokio::test]
async fn each_wrong_shape_has_its_own_error() {
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
async fn faults_are_set_shown_and_cleared_over_http() {
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
async fn invalid_fault_is_refused_with_the_expected_form() {
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
async fn faults_apply_before_authorisation() {
    let served = serve().await;
    served.handle.set_token("another".into());
    let fault = Fault::Status { code: 500, retry_after: None };
    served.handle.fault(FaultRule { endpoint: Endpoint::Any, fault, times: Frequency::Times(1) });
    refusal(served.message(&note()).await, StatusCode::INTERNAL_SERVER_ERROR).await;
    refusal(served.message(&note()).await, StatusCode::UNAUTHORIZED).await;
}
