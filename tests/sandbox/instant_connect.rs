//! `joseencrypt`, as the Guide describes it.

use std::collections::HashSet;

use instant_connect_sandbox::{Endpoint, RecordedRole, jose};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{PASSWORD, TOKEN, refusal, request, serve};

fn open(made: &Value) -> Value {
    let claims = jose::open(made["cipher"].as_str().unwrap(), PASSWORD.as_bytes()).unwrap();
    serde_json::from_slice(&claims).unwrap()
}

#[tokio::test]
async fn smallest_request_gives_host_and_guest_cipher_for_15_minutes() {
    let served = serve().await;
    let response = served.ask(&request(&json!({}))).await;
    assert_eq!(response.status(), StatusCode::OK);
    let tracking_id = response.headers()["trackingid"].to_str().unwrap().to_owned();
    let answer: Value = response.json().await.unwrap();
    let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&answer), ["guest", "host"]);
    assert_eq!(names(&answer["host"][0]), ["cipher"]);
    let (host, guest) = (open(&answer["host"][0]), open(&answer["guest"][0]));
    assert_eq!((host["role"].as_str(), guest["role"].as_str()), (Some("host"), Some("guest")));
    assert_eq!(host["exp"].as_i64().unwrap() - host["iat"].as_i64().unwrap(), 900);
    assert_eq!(host["sub"], "visit-1");
    let calls = served.handle.calls();
    assert_eq!((calls.len(), calls[0].sub.as_str(), &calls[0].tracking_id), (1, "visit-1", &tracking_id));
}

#[tokio::test]
async fn short_links_are_unique_and_redirect_to_the_long_links() {
    let served = serve().await;
    let body =
        request(&json!({"provideShortUrls": true, "numHost": 2, "numGuest": 23, "verticalType": "gen"}));
    let answer: Value = served.ask(&body).await.json().await.unwrap();
    assert_eq!(answer["baseUrl"], served.at("/visit/").as_str());
    let links = served.handle.links();
    let mut codes = HashSet::new();
    for (role, name, page, count) in
        [(RecordedRole::Host, "host", "login", 2), (RecordedRole::Guest, "guest", "talk", 23)]
    {
        let made = answer[name].as_array().unwrap();
        assert_eq!(made.len(), count);
        for one in made {
            let code = one["short"].as_str().unwrap();
            assert!(code.len() == 7 && codes.insert(code.to_owned()));
            assert_eq!(links[code].role, role);
            let visit = served.client.get(served.at(&format!("/visit/{code}"))).send().await.unwrap();
            assert_eq!(visit.status(), StatusCode::FOUND);
            let target = format!("/gen/v1/{page}?int=jose&v=1&data={}", one["cipher"].as_str().unwrap());
            assert_eq!(visit.headers()["location"], target);
        }
    }
}

#[tokio::test]
async fn devices_times_and_options_are_in_cipher_and_record() {
    let served = serve().await;
    let body = request(&json!({
        "jwt": {"sub": "visit-1", "nbf": 2_000_000_000, "exp": 2_000_003_600, "Exp": "ignored",
                "flow": {"id": "sip-no-knock", "data": [{"uri": "room-12@example.rooms.webex.com"}]}},
        "jweAlg": "PBES2-HS256+A128KW", "saltLength": 8, "iterations": 1000, "enc": "A128CBC-HS256",
        "jwsAlg": "HS256", "loginUrlForHost": false, "provideShortUrls": true, "unknown": {"is": "ignored"},
    }));
    let answer: Value = served.ask(&body).await.json().await.unwrap();
    let claims = open(&answer["guest"][0]);
    assert_eq!((&claims["nbf"], &claims["exp"]), (&json!(2_000_000_000), &json!(2_000_003_600)));
    assert_eq!(claims["flow"], body["jwt"]["flow"]);
    let call = &served.handle.calls()[0];
    assert_eq!(call.devices, ["room-12@example.rooms.webex.com"]);
    assert_eq!(
        (call.nbf, call.exp, call.login_url_for_host),
        (Some(2_000_000_000), Some(2_000_003_600), false)
    );
    let host = served.handle.link(answer["host"][0]["short"].as_str().unwrap()).unwrap();
    assert!(host.target.starts_with("/hc/v1/talk?"), "a host without login must be sent to the talk page");
}

#[tokio::test]
async fn invalid_field_is_refused_by_name_without_effect() {
    let served = serve().await;
    let flow = |flow: Value| json!({"jwt": {"sub": "x", "flow": flow}});
    for (field, more) in [
        ("aud", json!({"aud": 7})),
        ("aud", json!({"aud": "not-a-uuid"})),
        ("jwt", json!({"jwt": "x"})),
        ("sub", json!({"jwt": {}})),
        ("jwt.sub", json!({"jwt": {"sub": 7}})),
        ("jwt.sub", json!({"jwt": {"sub": ""}})),
        ("jwt.exp", json!({"jwt": {"sub": "x", "exp": "tomorrow"}})),
        ("jwt.exp", json!({"jwt": {"sub": "x", "exp": 1_671_480_433_000_i64}})),
        ("jwt.nbf", json!({"jwt": {"sub": "x", "nbf": 1.5}})),
        ("jwt.flow.id", flow(json!({"id": "sip-knock", "data": []}))),
        ("jwt.flow", flow(json!({"id": "sip-no-knock"}))),
        ("jwt.flow.data.uri", flow(json!({"id": "sip-no-knock", "data": [{"uri": "sip:a@b.example"}]}))),
        ("jwt.flow.data.uri", flow(json!({"id": "sip-no-knock", "data": [{"uri": "a"}]}))),
        ("numHost", json!({"numHost": 26})),
        ("numGuest", json!({"numGuest": -1})),
        ("25 together", json!({"numHost": 13, "numGuest": 13})),
        ("provideShortUrls", json!({"provideShortUrls": "true"})),
        ("verticalType", json!({"verticalType": "HC"})),
        ("loginUrlForHost", json!({"loginUrlForHost": 0})),
        ("jweAlg", json!({"jweAlg": "dir"})),
        ("saltLength", json!({"saltLength": 7})),
        ("saltLength", json!({"saltLength": 129})),
        ("iterations", json!({"iterations": 999})),
        ("iterations", json!({"iterations": 32768})),
        ("enc", json!({"enc": "A512GCM"})),
        ("jwsAlg", json!({"jwsAlg": "none"})),
    ] {
        let description = refusal(served.ask(&request(&more)).await, StatusCode::BAD_REQUEST).await;
        assert!(description.contains(field), "{more}: {description}");
    }
    assert!(served.handle.calls().is_empty() && served.handle.links().is_empty());
    assert_eq!(served.handle.requests(Endpoint::JoseEncrypt), 26);
}

#[tokio::test]
async fn request_for_no_links_gets_empty_lists() {
    let served = serve().await;
    let answer: Value =
        served.ask(&request(&json!({"numHost": 0, "numGuest": 0}))).await.json().await.unwrap();
    assert_eq!(answer, json!({"host": [], "guest": []}));
}

#[tokio::test]
async fn wrong_token_is_refused_and_rotated_token_accepted() {
    let served = serve().await;
    let body = request(&json!({}));
    let bare = served.client.post(served.at("/api/v2/joseencrypt")).json(&body).send().await.unwrap();
    assert_eq!(bare.headers()["www-authenticate"], "Bearer");
    refusal(bare, StatusCode::UNAUTHORIZED).await;
    served.handle.set_token("new".into());
    let old: Value = served.ask(&body).await.json().await.unwrap();
    assert_eq!(old["error_description"], "The access token expired");
    let ask = served.client.post(served.at("/api/v2/joseencrypt")).json(&body);
    assert_eq!(ask.bearer_auth("new").send().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn invalid_requests_get_errors_in_ciscos_form() {
    let served = serve().await;
    let post = || served.client.post(served.at("/api/v2/joseencrypt")).bearer_auth(TOKEN);
    let json = || post().header("content-type", "application/json");
    refusal(json().body("{").send().await.unwrap(), StatusCode::BAD_REQUEST).await;
    refusal(post().body("{}").send().await.unwrap(), StatusCode::UNSUPPORTED_MEDIA_TYPE).await;
    let large = format!("\"{}\"", "x".repeat(300_000));
    refusal(json().body(large).send().await.unwrap(), StatusCode::PAYLOAD_TOO_LARGE).await;
    refusal(served.get("/api/v2/joseencrypt").await, StatusCode::METHOD_NOT_ALLOWED).await;
    refusal(served.get("/api/v1/joseencrypt").await, StatusCode::NOT_FOUND).await;
}
