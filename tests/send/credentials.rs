//! JWTs in place of a service key.

use instant_connect_sandbox::{Endpoint, ServiceCredentials, UsedCredential};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::{SendRig, settings};
use testkit::{
    amqp::with_id,
    events::{event_with, number},
    python::python,
    rig::{CONNECT_JWT_SECRET, CONNECT_KEY},
};

/// The id of the service in the fake of Webex Connect.
const SERVICE: &str = "service-1";

/// The secret after a rotation.
const NEW_SECRET: &str = "anothersecretthatmustnotbeshown000000000000=";

/// The settings that put JWTs in the place of the service key.
fn by_jwt<'a>(key: &'a str, secret: &'a str) -> [(&'a str, &'a str); 3] {
    [("webex_connect.key", ""), ("webex_connect.jwt_issuer", SERVICE), (key, secret)]
}

fn accepted(secrets: &[&str]) -> ServiceCredentials {
    ServiceCredentials {
        keys: Vec::new(),
        service_id: SERVICE.to_owned(),
        jwt_secrets: secrets.iter().map(|secret| (*secret).into()).collect(),
    }
}

#[tokio::test]
async fn jwt_is_accepted_on_both_channels_and_its_secret_rotates() {
    let send = SendRig::new().await;
    send.connect.set_credentials(accepted(&[CONNECT_JWT_SECRET]));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, format!("{CONNECT_JWT_SECRET}\n")).unwrap();
    let path = file.to_str().unwrap();
    let worker = send.start(&by_jwt("webex_connect.jwt_secret_file", path)).await;
    let guests = json!([
        {"channel": "sms", "address": number(1)}, {"channel": "whatsapp", "address": number(2)},
    ]);
    send.rig.publish_event(with_id("event-1"), &event_with(1, &json!({"guests": guests}))).await;
    send.until_sent(2).await;
    assert!(send.connect.sends().iter().all(|sent| sent.credential == UsedCredential::Jwt(0)));
    // The old secret is no longer valid.
    send.connect.set_credentials(accepted(&[NEW_SECRET]));
    let before = send.connect.counts().sms;
    send.rig.publish(3).await;
    let refused = send.connect.until(|connect| connect.counts().sms > before);
    testkit::soon("a refused call", refused).await;
    std::fs::write(&file, NEW_SECRET).unwrap();
    send.until_sent(3).await;
    worker.stop().await;
    assert!(!send.connect.arrivals(Endpoint::Sms).is_empty());
    send.rig.assert_queues_are_empty(&send.rig.amqp).await;
}

/// One HTTP request to `listener`, which is answered with 503.
async fn request(listener: &TcpListener) -> String {
    let (mut stream, _) = listener.accept().await.unwrap();
    let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
    while !text.windows(4).any(|end| end == b"\r\n\r\n") {
        let read = stream.read(&mut buffer).await.unwrap();
        assert!(read > 0, "the request ended early");
        text.extend_from_slice(&buffer[..read]);
    }
    stream.write_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await.unwrap();
    String::from_utf8(text).unwrap()
}

/// `jwcrypto` reads the JWT.
#[tokio::test]
async fn jwt_is_valid_for_another_implementation() {
    let send = SendRig::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let more = [
        &by_jwt("webex_connect.jwt_secret", CONNECT_JWT_SECRET)[..],
        &[("webex_connect.whatsapp_app_id", "")],
    ]
    .concat();
    let settings = settings(&url, &more);
    let check = send.rig.command(&["check", "--connect"], &settings);
    let (check, request) = tokio::join!(check, testkit::soon("a call", request(&listener)));
    let line = request.lines().find(|line| line.to_lowercase().starts_with("authorization:")).unwrap();
    let jwt = line.split_once("Bearer ").unwrap().1.trim();
    assert_eq!(python("service_jwt.py", &[jwt, SERVICE, CONNECT_JWT_SECRET]).await, "ok\n");
    assert!(!request.lines().any(|line| line.to_lowercase().starts_with("key:")), "one credential");
    assert!(!check.stdout.contains(jwt));
}

#[tokio::test]
async fn worker_with_two_credentials_does_not_start() {
    let send = SendRig::new().await;
    let url = send.connect.url();
    for (more, expected) in [
        (
            vec![
                ("webex_connect.key", CONNECT_KEY),
                ("webex_connect.jwt_issuer", SERVICE),
                ("webex_connect.jwt_secret", CONNECT_JWT_SECRET),
            ],
            "remove webex_connect.key",
        ),
        (vec![("webex_connect.key", ""), ("webex_connect.jwt_issuer", SERVICE)], "jwt_secret_file, too"),
        (
            vec![("webex_connect.key", ""), ("webex_connect.jwt_secret", CONNECT_JWT_SECRET)],
            "the id of the service",
        ),
        (by_jwt("webex_connect.jwt_secret", "not-base64").to_vec(), "in base64"),
        (vec![("webex_connect.key", "")], "ICW_WEBEX_CONNECT__JWT_SECRET_FILE"),
    ] {
        let run = send.rig.command(&["run"], &settings(url.as_str(), &more)).await;
        assert_eq!(run.status, Some(2), "{expected}: {}", run.stderr);
        assert!(run.stderr.contains(expected), "{}", run.stderr);
    }
}
