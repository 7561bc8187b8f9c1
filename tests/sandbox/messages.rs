//! The part of the Messages API that an expert's message needs.

use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

use super::{Served, refusal, serve};

fn card(version: &str) -> Value {
    json!([{"contentType": "application/vnd.microsoft.card.adaptive", "content": {
        "type": "AdaptiveCard", "version": version, "body": [],
        "actions": [{"type": "Action.OpenUrl", "title": "Join", "url": "https://instant.webex.com/visit/oCVp2LD"}]}}])
}

async fn items(served: &Served, path: &str) -> Vec<String> {
    texts(served.get(path).await).await
}

async fn texts(response: Response) -> Vec<String> {
    let body: Value = response.json().await.unwrap();
    let text = |item: &Value| item["text"].as_str().unwrap().to_owned();
    body["items"].as_array().unwrap().iter().map(text).collect()
}

#[tokio::test]
async fn card_is_posted_and_read_back_unchanged() {
    let served = serve().await;
    let body = json!({"toPersonEmail": "expert@example.com", "markdown": "Join **now**", "attachments": card("1.3")});
    let response = served.message(&body).await;
    assert_eq!(response.status(), StatusCode::OK);
    let posted: Value = response.json().await.unwrap();
    assert_eq!(posted["attachments"], card("1.3"));
    assert_eq!((&posted["roomType"], &posted["text"]), (&json!("direct"), &json!("Join **now**")));
    let again: Value =
        served.get(&format!("/v1/messages/{}", posted["id"].as_str().unwrap())).await.json().await.unwrap();
    assert_eq!(again, posted);
    assert_eq!(served.handle.messages()[0].to_person_email.as_deref(), Some("expert@example.com"));
    refusal(served.get("/v1/messages/unknown").await, StatusCode::NOT_FOUND).await;
}

#[tokio::test]
async fn address_and_id_of_a_person_lead_to_the_same_room() {
    let served = serve().await;
    let me: Value = served.get("/v1/people/me").await.json().await.unwrap();
    assert_eq!(me["type"], "bot");
    let (id, email) = (me["id"].as_str().unwrap(), me["emails"][0].as_str().unwrap());
    served.message(&json!({"toPersonEmail": email.to_uppercase(), "text": "by address"})).await;
    served.message(&json!({"toPersonId": id, "text": "by id"})).await;
    served.message(&json!({"toPersonEmail": "other@example.com", "text": "to another"})).await;
    assert_eq!(
        items(&served, &format!("/v1/messages/direct?personEmail={email}")).await,
        ["by id", "by address"]
    );
    assert_eq!(items(&served, &format!("/v1/messages/direct?personId={id}")).await, ["by id", "by address"]);
    refusal(served.get("/v1/messages/direct").await, StatusCode::BAD_REQUEST).await;
}

#[tokio::test]
async fn room_is_listed_in_pages_newest_first() {
    let served = serve().await;
    let room = "Y2lzY29zcGFyazovL3VzL1JPT00vMTIz";
    for n in 0..5 {
        served.message(&json!({"roomId": room, "text": n.to_string()})).await;
    }
    let (mut path, mut pages) = (format!("/v1/messages?roomId={room}&max=2"), Vec::new());
    loop {
        let response = served.get(&path).await;
        let link = response.headers().get("link").map(|link| link.to_str().unwrap().to_owned());
        pages.push(texts(response).await.join(""));
        let Some(link) = link else { break };
        path = link.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap().to_owned();
    }
    assert_eq!(pages, ["43", "21", "0"]);
    for max in ["0", "1001", "many"] {
        refusal(served.get(&format!("/v1/messages?roomId={room}&max={max}")).await, StatusCode::BAD_REQUEST)
            .await;
    }
}

#[tokio::test]
async fn invalid_message_is_refused_and_not_posted() {
    let served = serve().await;
    let two = Value::Array([card("1.3"), card("1.3")].iter().map(|card| card[0].clone()).collect());
    for (hint, body) in [
        ("exactly one", json!({"text": "x"})),
        ("exactly one", json!({"toPersonEmail": "a@b.example", "roomId": "Y2lz", "text": "x"})),
        ("email address", json!({"toPersonEmail": "nobody", "text": "x"})),
        ("one of text", json!({"toPersonEmail": "a@b.example"})),
        ("7439 bytes", json!({"toPersonEmail": "a@b.example", "markdown": "é".repeat(3720)})),
        ("not show cards", json!({"toPersonEmail": "a@b.example", "attachments": card("1.3")})),
        ("at most 1.3", json!({"toPersonEmail": "a@b.example", "text": "x", "attachments": card("1.4")})),
        ("the limit is one", json!({"toPersonEmail": "a@b.example", "text": "x", "attachments": two})),
        (
            "contentType",
            json!({"toPersonEmail": "a@b.example", "text": "x", "attachments": [{"contentType": "text/plain", "content": {}}]}),
        ),
    ] {
        let description = refusal(served.message(&body).await, StatusCode::BAD_REQUEST).await;
        assert!(description.contains(hint), "{body}: {description}");
    }
    refusal(served.message(&json!({"roomId": "room-1", "text": "x"})).await, StatusCode::NOT_FOUND).await;
    assert!(served.handle.messages().is_empty());
}

#[tokio::test]
async fn longest_text_is_posted() {
    let served = serve().await;
    let body = json!({"toPersonEmail": "a@b.example", "markdown": "x".repeat(7439)});
    assert_eq!(served.message(&body).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn wrong_token_can_neither_read_nor_post() {
    let served = serve().await;
    served.handle.set_token("another".into());
    refusal(
        served.message(&json!({"toPersonEmail": "a@b.example", "text": "x"})).await,
        StatusCode::UNAUTHORIZED,
    )
    .await;
    for path in ["/v1/people/me", "/v1/messages/direct?personEmail=a@b.example", "/v1/messages/x"] {
        refusal(served.get(path).await, StatusCode::UNAUTHORIZED).await;
    }
    assert!(served.handle.messages().is_empty());
}
