//! The description of the ingress in OpenAPI 3.1, generated from the types on the wire.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};
use strum::VariantArray;

use crate::contract::{
    http::{AcceptedBody, MEDIA_TYPES, ProblemBody, ProblemKind},
    schemas::define,
    start_session::StartSession,
};

/// An `Idempotency-Key`: bare, or in quotation marks.
const KEY: &str = r#"^([!#-~][!-~]*|"([!#-\[\]-~]|\\["\\])+")$"#;

/// The second kind of authentication.
const SIGNATURE: &str = "Standard Webhooks: v1, and the base64 of the HMAC-SHA-256 of webhook-id.webhook-timestamp.body, keyed with the bytes of the client's whsec_ secret. Several signatures have spaces between them; one must be right. Needs the headers webhook-id and webhook-timestamp. Ignored if the request has an Authorization header.";

/// The document that the ingress serves on `/openapi.json`.
#[must_use]
pub fn document() -> Value {
    let mut schemas = Map::new();
    let draft = SchemaSettings::draft2020_12;
    define::<StartSession>("StartSession", draft().for_deserialize(), &mut schemas);
    define::<AcceptedBody>("Accepted", draft().for_serialize(), &mut schemas);
    define::<ProblemBody>("Problem", draft().for_serialize(), &mut schemas);
    schemas.insert("CloudEvent".into(), cloud_event());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Instant Connect ingress",
            "version": "1",
            "summary": "Starts video sessions: each guest and each expert gets a link.",
            "license": {"name": "MIT", "identifier": "MIT"}
        },
        "servers": [{"url": "/"}],
        "paths": {
            "/v1/sessions": {"post": start()},
            "/v1/receipts/default": {"head": receipt_test(), "post": receipt()},
            "/openapi.json": {"get": description()}
        },
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "signature": {"type": "apiKey", "in": "header", "name": "webhook-signature", "description": SIGNATURE}
            }
        }
    })
}

/// A CloudEvent in structured mode.
fn cloud_event() -> Value {
    json!({
        "title": "CloudEvent",
        "description": "A CloudEvent 1.0 in structured mode, whose data is the start event.",
        "type": "object",
        "required": ["specversion", "id", "source", "type", "data"],
        "properties": {
            "specversion": {"const": "1.0"},
            "id": {"type": "string", "minLength": 1},
            "source": {"type": "string", "minLength": 1},
            "type": {"type": "string", "minLength": 1},
            "time": {"type": "string"},
            "data": {"$ref": "#/components/schemas/StartSession"}
        }
    })
}

fn start() -> Value {
    let body = |schema: &str| json!({"schema": {"$ref": format!("#/components/schemas/{schema}")}});
    let mut responses = Map::new();
    let mut headers = json!({
        "Location": {"required": true, "schema": {"type": "string"}, "description": "The path of the session. It has no GET yet."},
        "Idempotent-Replayed": {"required": true, "schema": {"enum": ["true", "false"]}, "description": "As `replayed`."}
    });
    responses.insert(
        "202".into(),
        json!({
            "description": "The start event is in a queue. The links follow by message.",
            "headers": headers.take(),
            "content": {"application/json": body("Accepted")}
        }),
    );
    for kind in ProblemKind::VARIANTS.iter().filter(|kind| **kind != ProblemKind::NotFound) {
        add_problem(&mut responses, *kind);
    }
    responses.insert(
        "431".into(),
        json!({"description": "The head of the request is too large. Without a body."}),
    );
    json!({
        "operationId": "startSession",
        "summary": "Start a video session",
        "description": "Responds within 8 seconds. A request may be repeated with the same Idempotency-Key (or webhook-id) and the same body: it has one effect. The ingress remembers a named request for 24 hours, any other until shortly after its session's end, and the worker's ledger an event until its links have expired.",
        "security": [{"token": []}, {"signature": []}],
        "parameters": [{
            "name": "Idempotency-Key", "in": "header", "required": false,
            "description": "Names the request, with or without quotation marks. Without it, a CloudEvent is named by its source and id, any other request by its body, so equal bodies are one session.",
            "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": KEY}
        }, {
            "name": "webhook-id", "in": "header", "required": false,
            "description": "Only with webhook-signature: names the request as an Idempotency-Key does. 1 to 255 visible ASCII characters without a full stop. An Idempotency-Key must then be absent or the same.",
            "schema": {"type": "string"}
        }, {
            "name": "webhook-timestamp", "in": "header", "required": false,
            "description": "Only with webhook-signature: Unix time in seconds, at most 5 minutes from now.",
            "schema": {"type": "string"}
        }, {
            "name": "traceparent", "in": "header", "required": false,
            "description": "W3C Trace Context.", "schema": {"type": "string"}
        }],
        "requestBody": {
            "required": true,
            "description": "A start event of at most 256 KiB, alone or as the data of a CloudEvent (structured, or binary with ce- headers if the request is not signed).",
            "content": {MEDIA_TYPES[0]: body("StartSession"), MEDIA_TYPES[1]: body("CloudEvent")}
        },
        "responses": responses
    })
}

/// Adds `kind` to the response of its status.
fn add_problem(responses: &mut Map<String, Value>, kind: ProblemKind) {
    let about = format!("`{}`: {}.", kind.as_str(), kind.title());
    let status = kind.status().to_string();
    if let Some(known) = responses.get_mut(&status) {
        let text = known["description"].as_str().unwrap_or_default();
        known["description"] = format!("{text} {about}").into();
        return;
    }
    let mut response = json!({
        "description": about,
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    });
    if let Some((name, description)) = header(kind) {
        let header = json!({"required": true, "schema": {"type": "string"}, "description": description});
        response["headers"] = json!({name: header});
    }
    responses.insert(status, response);
}

/// The header that a problem of `kind` always has.
const fn header(kind: ProblemKind) -> Option<(&'static str, &'static str)> {
    match kind {
        ProblemKind::Slow
        | ProblemKind::InFlight
        | ProblemKind::RateLimited
        | ProblemKind::Internal
        | ProblemKind::Unavailable => Some(("Retry-After", "Seconds until a repeat may help.")),
        ProblemKind::Unauthenticated => Some(("WWW-Authenticate", "Always Bearer.")),
        ProblemKind::Method => Some(("Allow", "The methods of the path.")),
        ProblemKind::MediaType => Some(("Accept-Post", "The media types of a body.")),
        _ => None,
    }
}

/// The test that Webex Connect makes when a webhook is saved.
fn receipt_test() -> Value {
    let mut responses = Map::new();
    responses.insert("200".into(), json!({"description": "Receipts are accepted."}));
    responses.insert("404".into(), json!({"description": "Receipts are off. Without a body."}));
    json!({"operationId": "testReceipts", "summary": "Test the webhook for receipts", "responses": responses})
}

fn receipt() -> Value {
    let mut responses = Map::new();
    let description = "The receipt is published, or it is not one of this worker's messages. Without a body.";
    responses.insert("200".into(), json!({"description": description}));
    for kind in [
        ProblemKind::Malformed,
        ProblemKind::Unauthenticated,
        ProblemKind::NotFound,
        ProblemKind::TooLarge,
        ProblemKind::RateLimited,
        ProblemKind::Internal,
        ProblemKind::Unavailable,
    ] {
        add_problem(&mut responses, kind);
    }
    json!({
        "operationId": "takeReceipt",
        "summary": "Accept a receipt of Webex Connect",
        "description": "Called by Webex Connect only. 404 if receipts are off (section receipts of the configuration).",
        "parameters": [{
            "name": "x-hub-signature", "in": "header", "required": false,
            "description": "HMAC of the body in hexadecimal, with or without sha256= or sha512=. Required if the configuration has a hub secret.",
            "schema": {"type": "string"}
        }, {
            "name": "x-api-key", "in": "header", "required": false,
            "description": "The key of receipts. Required if the configuration has one, which can also name another header (receipts.key_header).",
            "schema": {"type": "string"}
        }],
        "requestBody": {
            "required": false,
            "description": "At most 64 KiB, as Webex Connect sends it. Anything else, also no body, gets 200 and is not published: an error would only repeat it.",
            "content": {"application/json": {"schema": {}}}
        },
        "responses": responses
    })
}

fn description() -> Value {
    let mut responses = Map::new();
    responses.insert(
        "200".into(),
        json!({"description": "This document.", "content": {"application/json": {"schema": {"type": "object"}}}}),
    );
    add_problem(&mut responses, ProblemKind::Unavailable);
    json!({"operationId": "describe", "summary": "This document", "responses": responses})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openapi_json_is_up_to_date() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config/openapi.json");
        let text = format!("{:#}\n", document());
        if std::env::var_os("ICW_WRITE_OPENAPI").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        assert!(
            std::fs::read_to_string(path).unwrap_or_default() == text,
            "config/openapi.json is outdated: run `make openapi`"
        );
    }

    #[test]
    fn every_reference_has_its_definition() {
        fn check(value: &Value, document: &Value) {
            if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
                assert!(document.pointer(&reference[1..]).is_some(), "{reference}");
            }
            match value {
                Value::Object(fields) => fields.values().for_each(|value| check(value, document)),
                Value::Array(items) => items.iter().for_each(|value| check(value, document)),
                _ => {}
            }
        }
        let document = document();
        check(&document, &document);
        assert!(document["components"]["schemas"]["StartSession"]["properties"]["guests"].is_object());
    }
}
