//! `GET /v1/messages`, `GET /v1/messages/direct` and `GET /v1/messages/{id}`.

use axum::{
    Json,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{HeaderMap, header},
    response::{IntoResponse as _, Response},
};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;
use url::Url;

use super::ids;
use crate::{api::ApiError, records::RecordedMessage, state::Handle};

/// Default and maximum number of items on a page.
const PAGE: usize = 50;
const PAGE_MAX: usize = 1000;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RoomQuery {
    room_id: String,
    max: Option<usize>,
    before: Option<Timestamp>,
    before_message: Option<String>,
    mentioned_people: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PersonQuery {
    person_id: Option<String>,
    person_email: Option<String>,
}

/// Messages of a room, newest first, in pages; the `Link` header has the URL of the next page (RFC 8288).
pub(crate) async fn list(
    State(handle): State<Handle>,
    headers: HeaderMap,
    query: Result<Query<RoomQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) =
        query.map_err(|rejection| ApiError::bad("Invalid query").describe(rejection.body_text()))?;
    ids::check("ROOM", &query.room_id)?;
    let max = query.max.unwrap_or(PAGE);
    if !(1..=PAGE_MAX).contains(&max) {
        return Err(ApiError::bad("Invalid query").describe("max: expected an integer from 1 to 1000"));
    }
    let mut items = page(&handle, &query, max + 1);
    let more = items.len() > max;
    items.truncate(max);
    let next =
        items.last().filter(|_| more).map(|last| next_page(&handle, &headers, &query.room_id, max, &last.id));
    let mut response = Json(json!({"items": items})).into_response();
    if let Some(link) = next.and_then(|url| format!("<{url}>; rel=\"next\"").parse().ok()) {
        response.headers_mut().insert(header::LINK, link);
    }
    Ok(response)
}

fn page(handle: &Handle, query: &RoomQuery, max: usize) -> Vec<RecordedMessage> {
    let mut passed = query.before_message.is_none();
    handle.find_messages(max, |message| {
        let already_passed = passed;
        passed |= query.before_message.as_deref() == Some(&message.id);
        already_passed
            // No message mentions the bot.
            && query.mentioned_people.is_none()
            && message.room_id == query.room_id
            && query.before.is_none_or(|before| message.created < before)
    })
}

/// URL of the next page. The host is the one that the client used, which may differ because of a port mapping.
fn next_page(handle: &Handle, headers: &HeaderMap, room: &str, max: usize, last: &str) -> Url {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let base = host.and_then(|host| Url::parse(&format!("http://{host}/")).ok());
    let mut url = base.unwrap_or_else(|| handle.url().clone());
    url.set_path("/v1/messages");
    url.query_pairs_mut()
        .append_pair("roomId", room)
        .append_pair("max", &max.to_string())
        .append_pair("beforeMessage", last);
    url
}

/// The messages of the 1:1 room with a person, newest first.
pub(crate) async fn direct(
    State(handle): State<Handle>,
    query: Result<Query<PersonQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) =
        query.map_err(|rejection| ApiError::bad("Invalid query").describe(rejection.body_text()))?;
    let person = match (query.person_id, query.person_email) {
        (Some(id), None) => ids::check("PEOPLE", &id).map(|()| id)?,
        (None, Some(email)) => ids::person(&email),
        _ => {
            return Err(
                ApiError::bad("Invalid query").describe("expected exactly one of personId and personEmail")
            );
        }
    };
    let room = ids::direct_room(&person);
    let items = handle.find_messages(PAGE_MAX, |message| message.room_id == room);
    Ok(Json(json!({"items": items})).into_response())
}

/// One message.
pub(crate) async fn one(
    State(handle): State<Handle>,
    Path(id): Path<String>,
) -> Result<Json<RecordedMessage>, ApiError> {
    handle.find_messages(1, |message| message.id == id).pop().map(Json).ok_or_else(ApiError::not_found)
}
