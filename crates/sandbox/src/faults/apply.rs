//! Execution of faults, before the request is processed or on its response.

use std::{convert::Infallible, io, time::Duration};

use axum::{
    Extension,
    body::{Body, Bytes},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use futures_util::stream::{self, StreamExt as _};
use serde_json::Value;

use super::{Fault, WrongShape};
use crate::{api::ApiError, control::Control};

/// Longer than any client should wait, but short enough for a forgotten sandbox to free the request.
const HANG: Duration = Duration::from_secs(600);
/// Larger than any response of the sandbox.
const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;
const MIB: usize = 1024 * 1024;

/// Applies `fault` before the request is processed. Returns a response if the fault replaces the processing.
pub(crate) async fn before(fault: &Fault, control: &Control) -> Option<Response> {
    match fault {
        Fault::Status { code, retry_after } => Some(status(*code, retry_after.as_deref())),
        Fault::Page { code } => Some(page(*code)),
        Fault::Delay(delay) => {
            control.pause(*delay).await;
            None
        }
        Fault::Hang => {
            control.pause(HANG).await;
            Some(cut(None))
        }
        Fault::CutBeforeEffect => Some(cut(None)),
        Fault::CutBody
        | Fault::CutAfterEffect
        | Fault::Garbage
        | Fault::WrongShape(_)
        | Fault::Huge { .. }
        | Fault::Empty
        | Fault::Refuse(_)
        | Fault::Receipt(_) => None,
    }
}

/// Applies `fault` to the response of a processed request; error responses are not changed.
pub(crate) async fn after(fault: Fault, response: Response) -> Response {
    if !response.status().is_success() {
        return response;
    }
    match fault {
        Fault::CutBody => match axum::body::to_bytes(response.into_body(), BODY_BYTES_MAX).await {
            Ok(body) => cut(Some(&body)),
            Err(_) => cut(None),
        },
        Fault::CutAfterEffect => cut(None),
        Fault::Garbage => {
            ([(header::CONTENT_TYPE, "text/html")], "<html><body>Bad gateway: {\"host\":").into_response()
        }
        Fault::Huge { mib } => huge(mib),
        Fault::Empty => StatusCode::OK.into_response(),
        Fault::WrongShape(shape) => distort(shape, response).await,
        Fault::Status { .. }
        | Fault::Page { .. }
        | Fault::Delay(_)
        | Fault::Hang
        | Fault::CutBeforeEffect
        | Fault::Refuse(_)
        | Fault::Receipt(_) => response,
    }
}

/// Marks a response of a proxy or load balancer, which has no tracking id.
#[derive(Clone, Copy)]
pub(crate) struct InBetween;

fn page(code: u16) -> Response {
    let code = StatusCode::from_u16(code).unwrap_or(StatusCode::BAD_GATEWAY);
    let text = format!("<html><body><h1>{code}</h1><p>Response of a proxy.</p></body></html>");
    (code, Extension(InBetween), [(header::CONTENT_TYPE, "text/html")], text).into_response()
}

fn status(code: u16, retry_after: Option<&str>) -> Response {
    let code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response =
        ApiError::new(code, code.canonical_reason().unwrap_or("Fault of the sandbox")).into_response();
    if let Some(value) = retry_after.and_then(|text| HeaderValue::from_str(text).ok()) {
        response.headers_mut().insert(header::RETRY_AFTER, value);
    }
    response
}

/// A response with a failing body, for which hyper closes the connection. If the body fails immediately, this happens
/// before the head is flushed. With half of a body, yielding once lets head and half go out first.
pub(crate) fn cut(body: Option<&Bytes>) -> Response {
    let reset = || io::Error::from(io::ErrorKind::ConnectionReset);
    let Some(whole) = body else {
        return Body::from_stream(stream::iter([Err::<Bytes, _>(reset())])).into_response();
    };
    let half = whole.slice(..whole.len() / 2);
    let fail = stream::once(async move {
        tokio::task::yield_now().await;
        Err(reset())
    });
    let headers = [
        (header::CONTENT_TYPE, "application/json".to_owned()),
        (header::CONTENT_LENGTH, whole.len().to_string()),
    ];
    (headers, Body::from_stream(stream::iter([Ok(half)]).chain(fail))).into_response()
}

fn huge(mib: u32) -> Response {
    let chunk = Bytes::from(vec![b' '; MIB]);
    let chunks = stream::iter(0..mib).map(move |_| Ok::<_, Infallible>(chunk.clone()));
    ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(chunks)).into_response()
}

async fn distort(shape: WrongShape, response: Response) -> Response {
    let (mut head, body) = response.into_parts();
    let body = axum::body::to_bytes(body, BODY_BYTES_MAX).await.unwrap_or_default();
    let mut json: Value = serde_json::from_slice(&body).unwrap_or_default();
    distort_json(shape, &mut json);
    head.headers.remove(header::CONTENT_LENGTH);
    (head, json.to_string()).into_response()
}

fn distort_json(shape: WrongShape, json: &mut Value) {
    let host_short = json.pointer("/host/0/short").cloned();
    match shape {
        WrongShape::HttpBase => json["baseUrl"] = "http://instant.webex.com/visit/".into(),
        WrongShape::ForeignBase => json["baseUrl"] = "https://instant.example.net/visit/".into(),
        WrongShape::FewerGuests => {
            json.get_mut("guest").and_then(Value::as_array_mut).and_then(Vec::pop);
        }
        WrongShape::HostAsGuest => {
            if let (Some(guest), Some(short)) = (json.pointer_mut("/guest/0/short"), host_short) {
                *guest = short;
            }
        }
        WrongShape::EmptyResponse if json.get("response").is_some() => {
            json["response"] = Value::Array(vec![]);
        }
        WrongShape::EmptyResponse => *json = Value::Array(vec![]),
        WrongShape::MissingResponse => {
            if let Some(object) = json.as_object_mut() {
                object.retain(|key, _| key != "response" && key != "messageId");
            }
        }
        WrongShape::MissingShort => {
            json.pointer_mut("/guest/0")
                .and_then(Value::as_object_mut)
                .and_then(|guest| guest.remove("short"));
        }
    }
}
