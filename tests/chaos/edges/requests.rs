//! Clients of the ingress: each repeats a request with the same key until one of the ingresses answers for good.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use testkit::rig::CLIENT_TOKEN;
use tokio::{sync::watch, task::JoinSet, time::sleep};
use uuid::Uuid;

use crate::chaos::{event::Start, history::History};

/// Number of clients. One ingress takes 32 requests of one client at the same time.
const CLIENTS: usize = 24;
/// Maximum time of a request. An ingress answers within 8 s.
const REQUEST_LIMIT: Duration = Duration::from_secs(20);
/// Pause after a request without an answer.
const PAUSE: Duration = Duration::from_millis(100);
/// Maximum pause after an answer with `Retry-After`, so that the run does not last longer than the faults.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The answer to a request.
enum Answer {
    Accepted {
        event_id: Uuid,
        replayed: bool,
    },
    /// The kind of the problem.
    Refused(String),
    /// The request is to be repeated.
    Later(Duration),
}

/// Sends requests to the ingresses.
struct Requests {
    http: reqwest::Client,
    ingresses: Vec<String>,
    history: Arc<History>,
}

/// Requests each event, while fewer than `window` of them are unfinished and they are `allowed`.
pub(in crate::chaos) async fn request_all(
    ingresses: Vec<String>,
    history: Arc<History>,
    events: u32,
    window: u32,
    allowed: watch::Receiver<u32>,
) {
    // Err means that a provider is installed already, which is fine.
    _ = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::builder().no_proxy().timeout(REQUEST_LIMIT).build().unwrap();
    let requests = Arc::new(Requests { http, ingresses, history });
    let next = Arc::new(AtomicU32::new(0));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (requests, next, mut allowed) = (Arc::clone(&requests), Arc::clone(&next), allowed.clone());
        clients.spawn(async move {
            loop {
                let start = Start(next.fetch_add(1, Ordering::Relaxed));
                if start.0 >= events {
                    return;
                }
                requests.history.until_fewer_than(window).await;
                // The wait fails only when the run is over.
                _ = allowed.wait_for(|allowed| *allowed > start.0).await;
                requests.start(start).await;
            }
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
}

impl Requests {
    /// Requests `start`: some events twice one after the other, and some twice at the same time.
    async fn start(&self, start: Start) {
        match start.0 % 10 {
            3 => {
                self.until_answered(start).await;
                self.until_answered(start).await;
            }
            6 => _ = tokio::join!(self.until_answered(start), self.until_answered(start)),
            _ => self.until_answered(start).await,
        }
    }

    async fn until_answered(&self, start: Start) {
        loop {
            self.history.published(start);
            match self.request(start).await {
                Answer::Accepted { event_id, replayed } => {
                    return self.history.accepted(start, event_id, replayed);
                }
                Answer::Refused(kind) => return self.history.refused(start, &kind),
                Answer::Later(pause) => sleep(pause).await,
            }
        }
    }

    async fn request(&self, start: Start) -> Answer {
        let ingress = fastrand::choice(&self.ingresses).unwrap();
        let request = self
            .http
            .post(format!("http://{ingress}/v1/sessions"))
            .bearer_auth(CLIENT_TOKEN)
            .header("content-type", "application/json")
            .header("idempotency-key", start.id())
            .body(start.body());
        let Ok(response) = request.send().await else { return Answer::Later(PAUSE) };
        let status = response.status().as_u16();
        let retry_after =
            response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        // The connection may end within the answer.
        let Ok(body) = response.json::<Value>().await else { return Answer::Later(PAUSE) };
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        match status {
            202 => {
                assert_eq!(text("sessionId"), start.session());
                let replayed = body["replayed"].as_bool().unwrap();
                Answer::Accepted { event_id: text("eventId").parse().unwrap(), replayed }
            }
            409 | 429 | 503 => {
                let pause = retry_after.map_or(PAUSE, Duration::from_secs);
                Answer::Later(pause.min(PAUSE_MAX))
            }
            _ => Answer::Refused(text("type")),
        }
    }
}
