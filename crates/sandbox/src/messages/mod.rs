//! `/v1/messages` and `/v1/people/me`: the part of the Webex API that messages to experts need.
//!
//! Ids have the form of real ids, `ciscospark://us/KIND/<uuid>` in base64. The id of a 1:1 room is derived from its
//! person, and the id of a person from the email address. Therefore `toPersonEmail` and `toPersonId` lead to the same
//! room. In the sandbox every person and every room exists; an id of another form returns 404.

mod ids;
mod list;
mod post;

pub(super) use list::{direct, list, one};
pub(super) use post::post;

use axum::Json;
use serde_json::{Value, json};

/// The sandbox's bot.
const BOT_EMAIL: &str = "instant-connect-sandbox@webex.bot";

/// `GET /v1/people/me`: the owner of the token.
pub(super) async fn me() -> Json<Value> {
    Json(json!({
        "id": ids::person(BOT_EMAIL),
        "emails": [BOT_EMAIL],
        "phoneNumbers": [],
        "displayName": "Instant Connect Sandbox",
        "nickName": "Instant Connect Sandbox",
        "userName": BOT_EMAIL,
        "orgId": ids::organisation(),
        "created": "2026-01-01T00:00:00.000Z",
        "type": "bot",
    }))
}
