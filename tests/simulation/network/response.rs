//! The responses of the simulated APIs.

use std::{
    io,
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll},
};

use axum::Error as BodyError;
use axum::{
    body::{Body, Bytes},
    http::{Response as HttpResponse, response::Builder},
};
use futures_util::stream::{self, StreamExt};
use instant_connect_worker::random::Random;
use reqwest::Response;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use super::{BODY_BYTES_MAX, fate::CallFate};

/// Larger than the worker's limit.
const HUGE: usize = BODY_BYTES_MAX + 8_000;

impl CallFate {
    /// The response with the body `answer`, changed as this fate says; `random` chooses how it is wrong. An endless body lasts
    /// until `until`.
    pub(super) fn response(self, answer: String, until: Instant, random: &Random) -> Response {
        let mut head = HttpResponse::builder();
        if !matches!(self, Self::Page(..)) {
            head = head.header("trackingid", "SIM_1");
        }
        let body = match self {
            Self::Page(status, _) => {
                head = head.status(status);
                Body::from("<html>a page of the proxy</html>")
            }
            Self::Status(status, retry_after, _) => {
                head = head.status(status);
                if let Some(retry_after) = retry_after {
                    head = head.header("retry-after", retry_after.to_string());
                }
                Body::empty()
            }
            Self::Code(status, code, _) => {
                head = head.status(status);
                Body::from(json!({"code": code.to_string()}).to_string())
            }
            Self::Cut => broken_off(&answer, stream::once(async { io::ErrorKind::ConnectionReset })),
            Self::Endless => {
                let late = async move {
                    sleep_until(until).await;
                    io::ErrorKind::TimedOut
                };
                broken_off(&answer, stream::once(late))
            }
            Self::Garbage => Body::from("<html>it works</html>"),
            Self::Huge => Body::from(answer + &" ".repeat(HUGE)),
            Self::Wrong => Body::from(wrong(&answer, random)),
            _ => Body::from(answer),
        };
        response(head, body)
    }
}

/// Half of `answer`, followed by an error.
fn broken_off(answer: &str, error: impl stream::Stream<Item = io::ErrorKind> + Send + 'static) -> Body {
    let half = Bytes::from(answer[..answer.len() / 2].to_owned());
    let error = error.map(|kind| Err(io::Error::from(kind)));
    Body::from_stream(stream::once(async { Ok(half) }).chain(error))
}

fn response(head: Builder, body: Body) -> Response {
    // The status and the headers are valid constants.
    head.body(reqwest::Body::wrap(SimulatedRest(Mutex::new(body))))
        .map_or_else(|_| unreachable!(), Response::from)
}

/// A body that is `Sync`, as `reqwest` demands.
struct SimulatedRest(Mutex<Body>);

impl http_body::Body for SimulatedRest {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, BodyError>>> {
        let body = self.get_mut().0.get_mut().unwrap_or_else(PoisonError::into_inner);
        Pin::new(body).poll_frame(context)
    }
}

fn len(list: &Value) -> usize {
    list.as_array().map_or(0, Vec::len)
}

/// A response that does not fit the request: roles swapped, a link repeated, another base URL, or no links.
fn wrong(answer: &str, random: &Random) -> String {
    let Ok(mut answer) = serde_json::from_str::<Value>(answer) else { return answer.to_owned() };
    let Some(fields) = answer.as_object_mut() else { return answer.to_string() };
    let host = fields.get("host").cloned();
    let guest = fields.get("guest").cloned();
    match (host, guest) {
        (Some(host), Some(guest)) => match random.u32(..4) {
            // With equal counts, swapped lists could not be detected.
            0 if len(&host) != len(&guest) => {
                fields.extend([("host".to_owned(), guest), ("guest".to_owned(), host)]);
            }
            1 if len(&host) > 0 => _ = fields.insert("guest".to_owned(), host),
            2 => _ = fields.insert("baseUrl".to_owned(), json!("https://example.com/visit/")),
            _ => fields.clear(),
        },
        _ => fields.clear(),
    }
    answer.to_string()
}
