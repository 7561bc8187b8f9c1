//! Service keys and JWTs.

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD as BASE64URL},
};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{ConnectProbe, serve, sms};
use crate::{
    ServiceCredentials, UsedCredential,
    jose::{Signature, mac},
};

const SECRETS: [&[u8]; 2] = [b"first secret", b"second secret"];

async fn probe() -> ConnectProbe {
    let credentials = ServiceCredentials {
        keys: ["first-key", "second-key", "third-key"].map(Into::into).to_vec(),
        service_id: "service-1".to_owned(),
        jwt_secrets: SECRETS.map(|secret| BASE64.encode(secret).into()).to_vec(),
    };
    serve(|settings| settings.credentials = credentials).await
}

fn jwt(secret: &[u8], claims: &Value) -> String {
    let encode = |json: Value| BASE64URL.encode(json.to_string());
    let signed = format!("{}.{}", encode(json!({"alg": "HS256", "typ": "JWT"})), encode(claims.clone()));
    let signature = mac(Signature::Hs256, secret, &[signed.as_bytes()]).unwrap();
    format!("Bearer {signed}.{}", BASE64URL.encode(signature))
}

async fn status(probe: &ConnectProbe, headers: &[(&str, &str)]) -> u16 {
    let reply = probe.send("/v2/messages", headers, &sms(&json!({})).to_string()).await.unwrap();
    assert!(reply.status != 401 || reply.text.is_empty());
    reply.status
}

#[tokio::test]
async fn two_keys_are_valid_at_once_and_rotate() {
    let probe = probe().await;
    for (key, expected) in [("first-key", 201), ("second-key", 201), ("third-key", 401), ("", 401)] {
        assert_eq!(status(&probe, &[("key", key)]).await, expected, "{key}");
    }
    assert_eq!(status(&probe, &[]).await, 401);
    let used: Vec<_> = probe.handle.sends().iter().map(|send| send.credential).collect();
    assert_eq!(used, [UsedCredential::Key(0), UsedCredential::Key(1)]);
    let next = ServiceCredentials { keys: vec!["third-key".into()], ..ServiceCredentials::default() };
    probe.handle.set_credentials(next);
    assert_eq!(status(&probe, &[("key", "first-key")]).await, 401);
    assert_eq!(status(&probe, &[("key", "third-key")]).await, 201);
}

#[tokio::test]
async fn jwt_is_valid_for_an_hour_and_wins_over_a_key() {
    let probe = probe().await;
    let now = Timestamp::now().as_second();
    let claims = |iat: i64| json!({"iss": "service-1", "iat": iat});
    for secret in SECRETS {
        assert_eq!(status(&probe, &[("authorization", &jwt(secret, &claims(now)))]).await, 201);
    }
    let used: Vec<_> = probe.handle.sends().iter().map(|send| send.credential).collect();
    assert_eq!(used, [UsedCredential::Jwt(0), UsedCredential::Jwt(1)]);
    let wrong = [
        jwt(b"another secret", &claims(now)),
        jwt(SECRETS[0], &claims(now - 3601)),
        jwt(SECRETS[0], &claims(now * 1000)),
        jwt(SECRETS[0], &json!({"iss": "service-2", "iat": now})),
        jwt(SECRETS[0], &json!({"iss": "service-1", "iat": now, "exp": now - 1})),
        jwt(BASE64.encode(SECRETS[0]).as_bytes(), &claims(now)),
        "Bearer garbage".to_owned(),
    ];
    for token in &wrong {
        let both = [("authorization", token.as_str()), ("key", "first-key")];
        assert_eq!(status(&probe, &both).await, 401, "{token}");
    }
    assert_eq!(probe.handle.counts().sends, 2);
}

#[tokio::test]
async fn wrong_key_of_the_v1_apis_is_7001_in_200_or_403() {
    let probe = probe().await;
    for (forbidden, expected) in [(false, 200), (true, 403)] {
        probe.handle.change_settings(|settings| settings.wrong_key_is_403 = forbidden);
        for path in ["/resources/v1/messaging", "/resources/v1/events/externalevent/"] {
            for (headers, code) in [(&[("key", "x")][..], "7001"), (&[][..], "7002")] {
                let reply = probe.send(path, headers, "{}").await.unwrap();
                assert_eq!((reply.status, reply.code().as_str()), (expected, code), "{path}");
            }
        }
    }
}
