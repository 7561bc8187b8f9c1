//! `POST /resources/v1/messaging`.

use serde_json::{Value, json};

use super::{serve, whatsapp};
use crate::{RefusalShape, SentContent, WhatsAppTemplate};

fn message(template: &str, parameters: &Value) -> Value {
    json!({"message": {"template": template, "parameters": parameters}})
}

#[tokio::test]
async fn accepted_template_is_filled_and_its_button_opens_the_link() {
    let probe = serve(|_| ()).await;
    let reply = probe.whatsapp(&whatsapp(&json!({"expiry": "2126-11-21T11:00:00Z"}))).await;
    assert_eq!(reply.status, 200);
    let answer = reply.json()["response"][0].clone();
    assert_eq!((&answer["code"], &answer["description"]), (&json!("1001"), &json!("Queued")));
    assert_eq!(answer["correlationid"], "0b5a8f7e-6f0f-5a53-9d0a-2a1f6d3f4c11");

    let send = probe.handle.sends().remove(0);
    assert_eq!((&answer["transid"], send.address.as_str()), (&json!(send.id), "34600111222"));
    assert_eq!(send.expiry.unwrap().to_string(), "2126-11-21T11:00:00Z");
    let link = format!("{}ckmNR7I", probe.phones.base_url());
    assert_eq!(send.url.as_deref(), Some(link.as_str()));
    assert_eq!(probe.handle.times_sent("+34600111222", &link), 1);
    let SentContent::Template { template, parameters, body, .. } = send.content else { panic!() };
    assert_eq!((template.as_str(), &parameters["name"]), ("link-es", &json!("Ana")));
    assert_eq!(body, "Hola Ana, su videollamada está lista.");

    let text = probe.phones.texts().remove(0);
    assert_eq!((text.channel.as_str(), text.to.as_str()), ("whatsapp", "+34600111222"));
    assert_eq!((text.url, text.button.as_deref()), (link, Some("Unirse")));
}

#[tokio::test]
async fn invalid_message_is_refused_with_its_code_in_200_as_object_and_array() {
    let probe = serve(|_| ()).await;
    let join = json!({"type": "url", "payload": "ckmNR7I"});
    let cases: Vec<(Value, &str)> = vec![
        (json!({"deliverychannel": null}), "7003"),
        (json!({"deliverychannel": "sms"}), "7004"),
        (json!({"appid": "another"}), "7104"),
        (json!({"destination": []}), "7003"),
        (json!({"destination": [{"waid": ["+34600111222"]}]}), "7102"),
        (json!({"correlationid": "x".repeat(51)}), "7004"),
        (json!({"message": null}), "7003"),
        (json!({"expiry": "2020-01-01T00:00:00Z"}), "7005"),
        (message("link-fr", &json!({"name": "Ana", "join": join})), "7108"),
        (message("link-es", &json!({"join": join})), "7804"),
        (message("link-es", &json!({"name": "Ana"})), "7804"),
        (message("link-es", &json!({"name": "Ana", "join": join, "more": "x"})), "7804"),
        (message("link-es", &json!({"name": "Ana\nEva", "join": join})), "7004"),
        (message("link-es", &json!({"name": "Ana     Eva", "join": join})), "7004"),
        (message("link-es", &json!({"name": "", "join": join})), "7004"),
        (message("link-es", &json!({"name": "x".repeat(1025), "join": join})), "7107"),
        (message("link-es", &json!({"name": "Ana", "join": "ckmNR7I"})), "7004"),
        (
            message("link-es", &json!({"name": "Ana", "join": {"type": "url", "payload": "https://a.b/c"}})),
            "7813",
        ),
    ];
    let mut arrays = 0;
    for (change, code) in &cases {
        let reply = probe.whatsapp(&whatsapp(change)).await;
        assert_eq!((reply.status, reply.code().as_str()), (200, *code), "{change}");
        arrays += usize::from(reply.json()["response"].is_array());
    }
    assert_eq!(arrays, cases.len() / 2);
    assert_eq!(probe.handle.counts().sends, 0);
    probe.handle.change_settings(|settings| settings.refusal_shape = Some(RefusalShape::Object));
    for _ in 0..2 {
        assert!(probe.whatsapp(&json!({})).await.json()["response"].is_object());
    }
    let spaces = message("link-es", &json!({"name": "Ana    Eva", "join": join}));
    assert_eq!(probe.whatsapp(&whatsapp(&spaces)).await.code(), "1001");
}

#[test]
fn text_form_of_a_template_names_its_parameters() {
    let template: WhatsAppTemplate = "link-fr:name,starts,button=join".parse().unwrap();
    assert_eq!(
        (template.id.as_str(), template.body.as_str()),
        ("link-fr", "name: {{name}}\nstarts: {{starts}}")
    );
    assert_eq!(template.button.unwrap().parameter, "join");
    for text in ["link-fr", ":name", "link-fr:", "link-fr:other=join", "link-fr:button=a,button=b"] {
        let error = text.parse::<WhatsAppTemplate>().unwrap_err().to_string();
        assert!(error.contains("button=NAME"), "{text}");
    }
}
