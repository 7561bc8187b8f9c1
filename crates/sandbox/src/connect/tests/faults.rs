//! Faults of requests.

use serde_json::{Value, json};

use super::{serve, sms, whatsapp};
use crate::Endpoint;

#[tokio::test]
async fn code_is_refused_with_its_status_shape_and_type() {
    let probe = serve(|_| ()).await;
    let cases = [
        ("sms:refuse=7020,times=1", 400, json!({"code": "7020", "message": "Fault of the sandbox"})),
        ("sms:refuse=7006,http=500,numeric,times=1", 500, json!({"code": 7006, "message": "Internal error"})),
        (
            "sms:refuse=7020,http=200,shape=array,times=1",
            200,
            json!({"response": [{"code": "7020", "description": "Fault of the sandbox"}]}),
        ),
        (
            "sms:refuse=7020,shape=nested,times=1",
            400,
            json!({"detail": {"response_message": {"code": "7020", "message": "Fault of the sandbox"}}}),
        ),
    ];
    for (rule, status, body) in cases {
        probe.handle.fault(rule.parse().unwrap());
        let reply = probe.sms(&sms(&json!({}))).await;
        assert_eq!((reply.status, reply.json()), (status, body), "{rule}");
    }
    for (rule, array) in
        [("whatsapp:refuse=7845,shape=array", true), ("whatsapp:refuse=7845,shape=object", false)]
    {
        probe.handle.clear_faults();
        probe.handle.fault(rule.parse().unwrap());
        let reply = probe.whatsapp(&whatsapp(&json!({}))).await;
        assert_eq!((reply.status, reply.code().as_str()), (200, "7845"));
        assert_eq!(reply.json()["response"].is_array(), array);
    }
    assert_eq!(probe.handle.counts().sends, 0);
}

#[tokio::test]
async fn status_has_no_body_and_retry_after_only_as_written() {
    let probe = serve(|_| ()).await;
    probe.handle.fault("any:status=429,retry-after=7,times=1".parse().unwrap());
    probe.handle.fault("sms:status=429,times=1".parse().unwrap());
    probe.handle.fault("sms:status=503,times=1".parse().unwrap());
    for (status, wait) in [(429, Some("7")), (429, None), (503, None)] {
        let reply = probe.sms(&sms(&json!({}))).await;
        assert_eq!((reply.status, reply.text.as_str()), (status, ""));
        assert_eq!(reply.headers.get("retry-after").map(|value| value.to_str().unwrap()), wait);
    }
    let faults: Vec<_> =
        probe.handle.arrivals(Endpoint::Sms).into_iter().map(|one| one.fault.is_some()).collect();
    assert_eq!(faults, [true; 3]);
}

#[tokio::test]
async fn cut_before_sends_nothing_and_cut_after_counts_as_sent() {
    let probe = serve(|_| ()).await;
    for (rule, sends) in
        [("sms:cut=before,times=1", 0), ("sms:cut=after,times=1", 1), ("sms:cut=body,times=1", 2)]
    {
        probe.handle.fault(rule.parse().unwrap());
        assert!(probe.post("/v2/messages", &sms(&json!({}))).await.is_none(), "{rule}");
        assert_eq!(probe.handle.counts().sends, sends, "{rule}");
    }
    assert_eq!(probe.handle.times_sent("+34600111222", "https://instant.webex.com/visit/ckmNR7I"), 2);
}

#[tokio::test]
async fn unusable_success_counts_as_sent() {
    let probe = serve(|_| ()).await;
    for rule in ["garbage", "empty", "wrong-shape=empty-response", "wrong-shape=missing-response"] {
        probe.handle.clear_faults();
        probe.handle.fault(format!("any:{rule}").parse().unwrap());
        let (sms, whatsapp) =
            (probe.sms(&sms(&json!({}))).await, probe.whatsapp(&whatsapp(&json!({}))).await);
        match rule {
            "wrong-shape=empty-response" => {
                assert_eq!((sms.json(), whatsapp.json()), (json!([]), json!({"response": []})));
            }
            "wrong-shape=missing-response" => {
                assert_eq!((sms.json().get("messageId"), whatsapp.json()), (None, json!({})));
            }
            _ => {
                assert_eq!((sms.status, whatsapp.status), (200, 200));
                assert!(serde_json::from_str::<Value>(&sms.text).is_err());
            }
        }
    }
    assert_eq!(probe.handle.counts().sends, 8);
}

#[tokio::test]
async fn connections_are_refused_and_accepted_again_at_the_same_address() {
    let probe = serve(|_| ()).await;
    assert_eq!(probe.sms(&sms(&json!({}))).await.status, 201);
    for _ in 0..2 {
        probe.handle.refuse_connections(true).await;
        let url = probe.handle.url();
        let refused = tokio::net::TcpStream::connect((url.host_str().unwrap(), url.port().unwrap())).await;
        assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
        probe.handle.refuse_connections(false).await;
        assert_eq!(probe.sms(&sms(&json!({}))).await.status, 201);
    }
}

#[tokio::test]
async fn faults_are_set_and_listed_over_http() {
    let probe = serve(|_| ()).await;
    let rule = json!({"endpoint": "sms", "refuse": 7020, "http": 200, "times": 1});
    assert_eq!(probe.post("/sandbox/faults", &rule).await.unwrap().status, 201);
    assert_eq!(probe.sms(&sms(&json!({}))).await.code(), "7020");
    assert_eq!(probe.sms(&sms(&json!({}))).await.status, 201);
}
