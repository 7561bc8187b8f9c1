//! `/v1/messages` and `/v1/people/me`: the part of the Webex API that an expert's message takes.
//!
//! Ids are the real ones' form, `ciscospark://us/KIND/<uuid>` in base64. A 1:1 room is derived from its person
//! and a person from its address, so that `toPersonEmail` and `toPersonId` lead to the same room. The sandbox
//! has every person and every room that is asked for; an id of another form it doesn't know (404).

mod ids;
mod list;
mod post;

pub(super) use list::{direct, list, one};
pub(super) use post::post;

use axum::Json;
use serde_json::{Value, json};

/// The sandbox's bot.
const BOT_EMAIL: &str = "instant-connect-sandbox@webex.bot";

/// `GET /v1/people/me`: whom the token belongs to.
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
