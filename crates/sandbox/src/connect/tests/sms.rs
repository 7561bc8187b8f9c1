//! `POST /v2/messages`.

use serde_json::{Value, json};

use super::{KEY, serve, sms};
use crate::SentContent;

#[tokio::test]
async fn accepted_sms_is_recorded_and_shown_on_its_phone() {
    let probe = serve(|_| ()).await;
    let reply = probe.sms(&sms(&json!({}))).await;
    assert_eq!(reply.status, 201);
    let answer = reply.json();
    assert_eq!(answer["status"], "queued");
    assert_eq!(answer["correlationId"], "0b5a8f7e-6f0f-5a53-9d0a-2a1f6d3f4c11");
    assert!(answer["requestTimestamp"].as_str().unwrap().ends_with('Z'));

    let sends = probe.handle.sends();
    let [send] = sends.as_slice() else { panic!("{sends:?}") };
    assert_eq!(answer["messageId"], send.id);
    assert_eq!((send.address.as_str(), send.validity_s), ("+34600111222", Some(3480)));
    assert!((3400..=3480).contains(&send.expiry.unwrap().duration_since(send.at).as_secs()));
    assert!(matches!(&send.content, SentContent::Text { text } if text.starts_with("Ana, ")));
    let link = "https://instant.webex.com/visit/ckmNR7I";
    assert_eq!(send.url.as_deref(), Some(link));
    probe.sms(&sms(&json!({}))).await;
    assert_eq!(probe.handle.times_sent("34600111222", link), 2);
    assert_eq!(probe.handle.times_sent("+34600111222", "https://example.com/"), 0);

    let texts = probe.phones.texts();
    assert_eq!((texts.len(), texts[0].channel.as_str()), (2, "sms"));
    assert_eq!((texts[0].to.as_str(), texts[0].url.as_str()), ("+34600111222", link));
    assert_eq!(texts[0].body.as_deref(), Some("Ana, su consulta: https://instant.webex.com/visit/ckmNR7I."));
}

#[tokio::test]
async fn invalid_sms_is_refused_with_its_code_and_nothing_is_sent() {
    let probe = serve(|settings| settings.senders = vec!["34900123123".to_owned()]).await;
    let to = |number: &str| json!({"to": [{"msisdn": [number], "correlationId": "1"}]});
    let content = |kind: &str, text: &str| json!({"content": {"type": kind, "text": text}});
    let cases: Vec<(Value, &str)> = vec![
        (json!({"channel": null}), "7003"),
        (json!({"channel": "pigeon"}), "7004"),
        (json!({"from": null}), "7003"),
        (json!({"from": "+34900123123"}), "7101"),
        (json!({"from": "34900123124"}), "7101"),
        (json!({"to": []}), "7003"),
        (json!({"to": "+34600111222"}), "7004"),
        (to("34600111222"), "7102"),
        (to("+34 600 111"), "7102"),
        (json!({"to": [{"msisdn": vec!["+34600111222"; 1001]}]}), "7009"),
        (json!({"to": [{"msisdn": ["+34600111222"], "correlationId": "x".repeat(51)}]}), "7004"),
        (content("html", "hello"), "7126"),
        (content("text", ""), "7003"),
        (content("unicode", &"ñ".repeat(4001)), "7107"),
        (json!({"validity": 0}), "7004"),
        (json!({"validity": 259_201}), "7004"),
        (json!({"expireAt": "2126-01-01T00:00:00Z"}), "7004"),
        (json!({"validity": null, "expireAt": "2126-01-01T00:00:00Z"}), "7004"),
        (json!({"validity": null, "expireAt": "2020-01-01T00:00:00Z"}), "7005"),
        (json!({"requestedReceipts": ["READ"]}), "7004"),
        (json!({"sendAt": "2126-01-01T00:00:00Z"}), "7004"),
        (json!({"callbackData": "x".repeat(2001)}), "7004"),
    ];
    for (change, code) in cases {
        let reply = probe.sms(&sms(&change)).await;
        assert_eq!((reply.status, reply.code().as_str()), (400, code), "{change}");
        assert!(reply.json()["message"].is_string());
    }
    assert_eq!(probe.sms(&sms(&content("unicode", &"ñ".repeat(4000)))).await.status, 201);
    let reply = probe.send("/v2/messages", &[("key", KEY)], "{").await.unwrap();
    assert_eq!((reply.status, reply.code().as_str()), (400, "7000"));
    assert_eq!(probe.handle.counts().sends, 1);
}

#[tokio::test]
async fn debug_form_of_records_and_settings_has_no_private_value() {
    let probe = serve(|_| ()).await;
    probe.sms(&sms(&json!({}))).await;
    probe.whatsapp(&super::whatsapp(&json!({}))).await;
    let mut texts = vec![format!("{:?}", probe.handle.sends())];
    probe.handle.change_settings(|settings| texts.push(format!("{settings:?}")));
    for private in ["34600111222", "Ana", "ckmNR7I", KEY] {
        assert!(texts.iter().all(|text| !text.contains(private)), "{private}: {texts:?}");
    }
}
