//! The sandbox's web pages.

use instant_connect_sandbox::Text;
use jiff::Timestamp;
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{Served, request, serve};

async fn text_of(served: &Served, path: &str, status: StatusCode) -> String {
    let response = served.client.get(served.at(path)).send().await.unwrap();
    assert_eq!(response.status(), status);
    assert!(
        response.headers()["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'")
    );
    response.text().await.unwrap()
}

fn text(url: &str) -> Text {
    let (channel, to) = ("sms".to_owned(), "+34600111222".to_owned());
    let (name, url) = (Some("Ana".to_owned()), url.to_owned());
    Text { channel, to, name, url, body: None, button: None, at: Timestamp::now() }
}

#[tokio::test]
async fn visit_page_shows_role_and_devices_within_the_sandbox() {
    let served = serve().await;
    let flow = json!({"id": "sip-no-knock", "data": [{"uri": "room-12@example.rooms.webex.com"}]});
    let body = request(&json!({"provideShortUrls": true, "jwt": {"sub": "<b>visit</b>", "flow": flow}}));
    let answer: Value = served.ask(&body).await.json().await.unwrap();
    for role in ["host", "guest"] {
        let path = format!("/visit/{}", answer[role][0]["short"].as_str().unwrap());
        let visit = served.client.get(served.at(&path)).send().await.unwrap();
        let page = text_of(&served, visit.headers()["location"].to_str().unwrap(), StatusCode::OK).await;
        assert!(page.contains(&format!("<b>{role}</b>")));
        assert!(page.contains("room-12@example.rooms.webex.com"));
        assert!(page.contains("&lt;b&gt;visit&lt;/b&gt;") && !page.contains("<b>visit</b>"));
    }
}

#[tokio::test]
async fn expired_link_is_gone_and_unknown_link_is_not_found() {
    let served = serve().await;
    let body = request(&json!({"provideShortUrls": true, "jwt": {"sub": "x", "exp": 1_000_000_000}}));
    let answer: Value = served.ask(&body).await.json().await.unwrap();
    let path = format!("/visit/{}", answer["guest"][0]["short"].as_str().unwrap());
    assert!(text_of(&served, &path, StatusCode::GONE).await.contains("2001-09-09"));
    text_of(&served, "/visit/unknown", StatusCode::NOT_FOUND).await;
    text_of(&served, "/hc/v1/talk?int=jose&v=1&data=garbage", StatusCode::BAD_REQUEST).await;
    text_of(&served, "/hc/v1/talk", StatusCode::BAD_REQUEST).await;
}

#[tokio::test]
async fn page_loads_nothing_external_and_runs_only_its_own_script() {
    let served = serve().await;
    let response = served.client.get(served.url.clone()).send().await.unwrap();
    let policy = response.headers()["content-security-policy"].to_str().unwrap().to_owned();
    let page = response.text().await.unwrap();
    let nonce = policy.split("script-src 'nonce-").nth(1).unwrap().split('\'').next().unwrap();
    assert!(page.contains(&format!("<script nonce=\"{nonce}\">")));
    assert!(!policy.contains("unsafe") && !page.contains("src=") && !page.contains("innerHTML"));
}

#[tokio::test]
async fn state_shows_texts_and_marks_a_host_link_on_a_guests_phone() {
    let served = serve().await;
    let body = request(&json!({"provideShortUrls": true}));
    let answer: Value = served.ask(&body).await.json().await.unwrap();
    let changed = served.handle.changed();
    for role in ["host", "guest"] {
        let short = answer[role][0]["short"].as_str().unwrap();
        served.handle.deliver_text(text(&format!("{}{short}", answer["baseUrl"].as_str().unwrap())));
    }
    changed.await;
    served.handle.deliver_text(text("https://example.com/"));
    let state: Value = served.get("/sandbox/state").await.json().await.unwrap();
    let roles: Vec<&Value> =
        state["texts"].as_array().unwrap().iter().map(|text| &text["linkRole"]).collect();
    assert_eq!(roles, [&json!(null), &json!("guest"), &json!("host")]);
    assert_eq!(state["counts"]["texts"], 3);
    assert!(!state.to_string().contains(super::TOKEN) && !state.to_string().contains(super::PASSWORD));
}

/// `health --live` can query a sandbox like a worker.
#[tokio::test]
async fn livez_of_the_sandbox_responds_like_a_workers() {
    let served = serve().await;
    let answer = served.client.get(served.at("/livez")).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.json::<Value>().await.unwrap(), json!({"ok": true, "checks": {}}));
}
