//! What a person sees.

use instant_connect_worker::sandbox::Text;
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
    Text { channel, to, name: Some("Ana".to_owned()), url: url.to_owned(), at: Timestamp::now() }
}

#[tokio::test]
async fn whoever_follows_a_link_sees_who_they_are_and_which_devices_ring_without_leaving_the_sandbox() {
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
async fn a_link_that_is_over_is_gone_and_one_that_never_was_is_not_found() {
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
async fn the_page_loads_nothing_from_elsewhere_and_runs_its_own_script_only() {
    let served = serve().await;
    let response = served.client.get(served.url.clone()).send().await.unwrap();
    let policy = response.headers()["content-security-policy"].to_str().unwrap().to_owned();
    let page = response.text().await.unwrap();
    let nonce = policy.split("script-src 'nonce-").nth(1).unwrap().split('\'').next().unwrap();
    assert!(page.contains(&format!("<script nonce=\"{nonce}\">")));
    assert!(!policy.contains("unsafe") && !page.contains("src=") && !page.contains("innerHTML"));
}

#[tokio::test]
async fn the_state_shows_texts_and_marks_a_host_link_on_a_guests_phone() {
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

/// So that `health --live` can ask it, as it asks a worker.
#[tokio::test]
async fn livez_of_a_sandbox_answers_as_a_worker_does() {
    let served = serve().await;
    let answer = served.client.get(served.at("/livez")).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.json::<Value>().await.unwrap(), json!({"ok": true, "checks": {}}));
}
