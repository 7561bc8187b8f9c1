//! `POST /v1/messages`.

use axum::{
    Extension, Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::HeaderMap,
};
use email_address::EmailAddress;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::{BOT_EMAIL, ids};
use crate::{
    api::{self, ApiError, Context},
    records::RecordedMessage,
    state::Handle,
};

/// Webex's limit of `text` and of `markdown`, in bytes.
const TEXT_BYTES_MAX: usize = 7439;
/// Latest version of Adaptive Cards that Webex supports.
const CARD_VERSION_MAX: (u32, u32) = (1, 3);
/// "Cards may include up to five buttons (actions)": developer.webex.com, Buttons and Cards.
const CARD_ACTIONS_MAX: usize = 5;
const CARD_TYPE: &str = "application/vnd.microsoft.card.adaptive";

/// The request body. Unknown fields are ignored, as in the real service.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MessageBody {
    room_id: Option<String>,
    to_person_id: Option<String>,
    to_person_email: Option<String>,
    text: Option<String>,
    markdown: Option<String>,
    #[serde(default)]
    files: Vec<String>,
    #[serde(default)]
    attachments: Vec<Attachment>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Attachment {
    content_type: String,
    content: Value,
}

pub(crate) async fn post(
    State(handle): State<Handle>,
    Extension(context): Extension<Context>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<RecordedMessage>, ApiError> {
    let bytes = body.as_ref().map_or(0, Bytes::len);
    let body: MessageBody = api::parse(&headers, body)?;
    check_content(&body)?;
    let (room_id, room_type) = room(&handle, &body)?;
    let message = RecordedMessage {
        id: ids::new_message(),
        room_id,
        room_type,
        to_person_email: body.to_person_email,
        to_person_id: body.to_person_id,
        html: body.markdown.as_deref().map(html),
        text: body.text.or_else(|| body.markdown.clone()),
        markdown: body.markdown,
        files: body.files,
        person_id: ids::person(BOT_EMAIL),
        person_email: BOT_EMAIL.to_owned(),
        created: Timestamp::now(),
        attachments: body.attachments.into_iter().map(Attachment::into_value).collect(),
        fault: context.fault,
    };
    // Three fields contain the same markdown.
    handle.add_message(message.clone(), 3 * bytes);
    Ok(Json(message))
}

impl Attachment {
    fn into_value(self) -> Value {
        serde_json::json!({"contentType": self.content_type, "content": self.content})
    }

    fn check(&self) -> Result<(), ApiError> {
        if self.content_type != CARD_TYPE {
            return Err(refused(format!("attachments[0].contentType: expected {CARD_TYPE}")));
        }
        if self.content.get("type").and_then(Value::as_str) != Some("AdaptiveCard") {
            return Err(refused("attachments[0].content.type: expected AdaptiveCard"));
        }
        let version = self.content.get("version").and_then(Value::as_str).and_then(version);
        if version.is_none_or(|version| version > CARD_VERSION_MAX) {
            return Err(refused("attachments[0].content.version: expected a string, at most 1.3"));
        }
        let actions = self.content.get("actions").and_then(Value::as_array).map_or(0, Vec::len);
        if actions > CARD_ACTIONS_MAX {
            return Err(refused("attachments[0].content.actions: the limit is 5"));
        }
        Ok(())
    }
}

fn check_content(body: &MessageBody) -> Result<(), ApiError> {
    let given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let readable = given(&body.text) || given(&body.markdown);
    if !readable && !body.attachments.is_empty() {
        return Err(refused(
            "text or markdown is required with an attachment, for clients that do not show cards",
        ));
    }
    if !readable && body.files.is_empty() {
        return Err(refused("one of text, markdown, files and attachments is required"));
    }
    for (name, text) in [("text", &body.text), ("markdown", &body.markdown)] {
        if text.as_ref().is_some_and(|text| text.len() > TEXT_BYTES_MAX) {
            return Err(refused(format!("{name}: the limit is {TEXT_BYTES_MAX} bytes")));
        }
    }
    if body.files.len() > 1 || body.attachments.len() > 1 {
        return Err(refused("files, attachments: the limit is one"));
    }
    body.attachments.iter().try_for_each(Attachment::check)
}

/// The room of the message, and its type.
fn room(handle: &Handle, body: &MessageBody) -> Result<(String, &'static str), ApiError> {
    match (&body.room_id, &body.to_person_id, &body.to_person_email) {
        (Some(room), None, None) => {
            ids::check("ROOM", room)?;
            let known = handle.find_messages(1, |message| message.room_id == *room);
            Ok((room.clone(), known.first().map_or("group", |message| message.room_type)))
        }
        (None, Some(person), None) => {
            ids::check("PEOPLE", person).map(|()| (ids::direct_room(person), "direct"))
        }
        (None, None, Some(email)) if EmailAddress::is_valid(email) => {
            Ok((ids::direct_room(&ids::person(email)), "direct"))
        }
        (None, None, Some(_)) => Err(refused("toPersonEmail: expected an email address")),
        _ => Err(refused("exactly one of roomId, toPersonId and toPersonEmail is required")),
    }
}

fn version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn html(markdown: &str) -> String {
    format!("<p>{}</p>", crate::page::escape(markdown).replace('\n', "<br/>"))
}

fn refused(description: impl Into<String>) -> ApiError {
    ApiError::bad("The request could not be understood by the server due to malformed syntax.")
        .describe(description)
}
