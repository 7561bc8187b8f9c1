//! What a person sees: `GET /` with the phones and the expert's inbox, and `GET /sandbox/state` beneath it; and `GET /livez`.
//!
//! Everything that came over the wire is shown as text: the page's script sets `textContent` only, the pages made
//! here escape, and a policy without any other source keeps whatever slips through from loading or running.

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::state::Handle;

/// Entries of each kind on the page; the counters tell the rest.
const SHOWN: usize = 100;
const PAGE: &str = include_str!("page.html");
const NOTICE: &str = include_str!("notice.html");

/// `GET /`
pub(super) async fn index() -> Response {
    respond(StatusCode::OK, PAGE)
}

/// `GET /livez`: the sandbox serves. A worker's own answer, so that `health --live` can ask a sandbox in a container, too.
pub(super) async fn live() -> Json<Value> {
    Json(json!({"ok": true, "checks": {}}))
}

/// `GET /sandbox/state`: what the page shows, newest first.
pub(super) async fn state(State(handle): State<Handle>) -> Json<Value> {
    let version = handle.version();
    let (calls, texts) = handle.latest(SHOWN);
    let role =
        |url: &str| url.strip_prefix(handle.base_url().as_str()).and_then(|code| handle.link_role(code));
    let texts: Vec<Value> = texts
        .iter()
        .map(|text| {
            let mut value = serde_json::to_value(text).unwrap_or_default();
            // So that a host link on a guest's phone, the one thing that must not be, is seen at once.
            value["linkRole"] = json!(role(&text.url));
            value
        })
        .collect();
    Json(json!({
        "version": version,
        "counts": handle.counts(),
        "texts": texts,
        "messages": handle.find_messages(SHOWN, |_| true),
        "calls": calls,
        "faults": handle.shown_faults(),
    }))
}

/// A small page of the sandbox; `title` is escaped here, `body` is HTML already.
pub(super) fn html(status: StatusCode, title: &str, body: &str) -> Response {
    respond(status, &NOTICE.replace("{{title}}", &escape(title)).replace("{{body}}", body))
}

/// Makes text of what could be markup, for element content and for quoted attributes.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(c),
        }
    }
    escaped
}

/// Only the templates can have the empty attribute that the nonce goes into: escaped text has no quotes.
fn respond(status: StatusCode, page: &str) -> Response {
    let nonce = Uuid::new_v4().simple().to_string();
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let page = page.replace("nonce=\"\"", &format!("nonce=\"{nonce}\""));
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, policy.as_str()),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (status, headers, page).into_response()
}
