//! `GET /` with the phones and the expert's inbox, `GET /sandbox/state` with its data, and `GET /livez`.
//!
//! All received data is shown as text: the script of the page adds only text nodes, and the pages created here escape
//! the data. In addition, a content security policy without other sources blocks loading and running anything else.

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::state::Handle;

/// Maximum number of entries of each kind on the page; the counters include all entries.
const SHOWN: usize = 100;
const PAGE: &str = include_str!("page.html");
const NOTICE: &str = include_str!("notice.html");

/// `GET /`
pub(super) async fn index() -> Response {
    respond(StatusCode::OK, PAGE)
}

/// `GET /livez`, with the same response as a worker's, so that `health --live` also works for a sandbox in a container.
pub(super) async fn live() -> Json<Value> {
    Json(json!({"ok": true, "checks": {}}))
}

/// `GET /sandbox/state`: the data of the page, newest first.
pub(super) async fn state(State(handle): State<Handle>) -> Json<Value> {
    let version = handle.control().version();
    let (calls, texts) = handle.latest(SHOWN);
    let role =
        |url: &str| url.strip_prefix(handle.base_url().as_str()).and_then(|code| handle.link_role(code));
    let texts: Vec<Value> = texts
        .iter()
        .map(|text| {
            let mut value = serde_json::to_value(text).unwrap_or_default();
            // Makes a host link on a guest's phone visible immediately, because that must never happen.
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
        "faults": handle.control().shown_faults(),
    }))
}

/// A small page of the sandbox. `title` is escaped here; `body` must be HTML.
pub(super) fn html(status: StatusCode, title: &str, body: &str) -> Response {
    respond(status, &NOTICE.replace("{{title}}", &escape(title)).replace("{{body}}", body))
}

/// Escapes `text` for element content and for quoted attributes.
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

/// Adds the nonce and the headers. The nonce replaces `nonce=""`, which only the templates can contain, because escaped
/// text has no quotes.
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
