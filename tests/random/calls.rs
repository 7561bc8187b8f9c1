//! Whole HTTP responses with mangled status, headers, framing and bodies, read by the clients of both APIs.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use fastrand::Rng;
use instant_connect_worker::{
    contract::{link::HostLink, message::Message, start_session::Session, trace::TraceContext},
    instant_connect::{
        self, Links,
        links_call::LinksCall,
        request::{Crypto, LinkOptions},
    },
    random::Random,
    stages,
    telemetry::metrics::Metrics,
    upstream::{Network, TokenSource, Upstream, UpstreamError, UpstreamLimits},
    webex_messages,
};
use jiff::Timestamp;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use url::Url;

use super::{
    Case, HANGS, answers, bodies, count, first_seed,
    mangle::{any_string, mangled},
    report,
};

/// Number of concurrent lanes, each with its own server.
const LANES: u64 = 8;
const TOKEN: &str = "random-token-that-must-not-be-shown";
const STATUSES: [u16; 20] =
    [100, 101, 199, 201, 202, 204, 206, 301, 302, 304, 400, 401, 403, 404, 408, 423, 429, 500, 503, 999];

/// The next response, and true if the connection can be reused.
#[derive(Clone, Default)]
struct Answer {
    bytes: Vec<u8>,
    keeps: bool,
}

fn any_answer(random: &mut Rng, body: serde_json::Value) -> Answer {
    let status = if random.u8(..4) > 0 { 200 } else { random.choice(STATUSES).unwrap_or(200) };
    let body = mangled(random, body);
    let mut head = format!("HTTP/1.1 {status} Because\r\n").into_bytes();
    let mut header = |name: &str, value: String| {
        head.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    };
    if random.u8(..8) == 0 {
        header("Retry-After", if random.bool() { "1".to_owned() } else { any_string(random) });
    }
    if random.bool() {
        header("Trackingid", any_string(random).replace(['\r', '\n', '\0'], ""));
    }
    let mut keeps = false;
    match random.u8(..8) {
        0 => {
            header("Transfer-Encoding", "chunked".to_owned());
            header("Connection", "close".to_owned());
        }
        1 => header("Content-Length", any_string(random)),
        2 => header("Content-Length", (body.len() + random.usize(..3)).saturating_sub(1).to_string()),
        _ => {
            header("Content-Length", body.len().to_string());
            keeps = true;
        }
    }
    head.extend_from_slice(b"\r\n");
    if random.u8(..16) == 0 {
        let at = random.usize(..head.len());
        head[at] = random.u8(..);
        keeps = false;
    }
    // These responses have no body, so the bytes would be read as the next response.
    keeps &= status >= 200 && !matches!(status, 204 | 304);
    Answer { bytes: [head, body].concat(), keeps }
}

/// Answers every request with the current response.
async fn serve(listener: TcpListener, answer: Arc<Mutex<Answer>>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(converse(stream, Arc::clone(&answer)));
    }
}

async fn converse(mut stream: TcpStream, answer: Arc<Mutex<Answer>>) -> std::io::Result<()> {
    let mut asked = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = request_end(&asked) {
                break end;
            }
            if stream.read_buf(&mut asked).await? == 0 {
                return Ok(());
            }
        };
        asked.drain(..end);
        let Answer { bytes, keeps } = answer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        stream.write_all(&bytes).await?;
        if !keeps {
            return stream.shutdown().await;
        }
    }
}

/// The end of the first request in `asked`.
fn request_end(asked: &[u8]) -> Option<usize> {
    let head = asked.windows(4).position(|bytes| bytes == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&asked[..head]).to_lowercase();
    let length = text
        .split_once("content-length: ")
        .map_or(0, |(_, rest)| rest.split("\r\n").next().and_then(|length| length.parse().ok()).unwrap_or(0));
    (asked.len() >= head + length).then_some(head + length)
}

/// Clients of both APIs at one server.
struct Clients {
    instant_connect: instant_connect::InstantConnectClient,
    webex: webex_messages::WebexClient,
}

impl Clients {
    fn new(url: &Url) -> Self {
        let limits = UpstreamLimits {
            connect_timeout: Duration::from_secs(20),
            timeout: Duration::from_secs(20),
            body_bytes_max: 64 * 1024,
            rate_limit_wait: Duration::from_secs(1),
        };
        let metrics = Metrics::new(stages::ALL, &[]).unwrap().upstream(stages::LINK.upstream);
        let token = || TokenSource::Value(TOKEN.into());
        let upstream =
            |name| Upstream::new(name, url, token(), limits, &Network::default(), metrics.clone()).unwrap();
        let options = LinkOptions { aud: "aud".to_owned(), short_urls: true, crypto: Crypto::default() };
        Self {
            instant_connect: instant_connect::InstantConnectClient::new(
                upstream("Instant Connect"),
                url.clone(),
                options,
                answers::rules(),
            ),
            webex: webex_messages::WebexClient::new(
                upstream("Webex Messages"),
                url.join("v1/messages").unwrap(),
            ),
        }
    }
}

/// A session with one guest, and its host link.
fn session() -> (Session, HostLink) {
    let event = json!({
        "sessionId": "visit-1", "guests": [{"channel": "sms", "address": "+34600111222"}],
        "experts": [{"email": "winnifred@example.com"}],
    });
    let message = Message { body: event.to_string().into_bytes(), ..Message::default() };
    let link = json!({
        "eventId": "event-1", "sessionId": "visit-1", "expert": {"email": "winnifred@example.com"}, "guests": [],
        "url": "https://instant.webex.com/visit/ckmNR7I", "expiresAt": "2026-11-21T14:00:00Z",
    });
    (
        Session::read(&message, &bodies::rules(), Timestamp::now()).unwrap(),
        serde_json::from_value(link).unwrap(),
    )
}

/// Makes one call. Returns Ok if the response was accepted.
async fn call(
    random: &mut Rng,
    clients: &Clients,
    set: impl FnOnce(Answer),
    session: &Session,
    link: &HostLink,
) -> Result<(), UpstreamError> {
    let address = link.expert.address().unwrap();
    let trace = TraceContext::begin(&Random::system());
    match random.u8(..4) {
        0 => {
            set(any_answer(random, json!({"id": "message-1", "roomId": "room-1"})));
            clients.webex.send(&address, link, &trace, Duration::from_secs(20)).await.map(drop)
        }
        1 => {
            let message =
                json!({"id": "message-1", "text": link.address.reveal(), "attachments": [{"content": {}}]});
            set(any_answer(random, json!({"items": [message]})));
            clients.webex.was_sent(&address, link, &trace).await.map(drop)
        }
        _ => {
            let asked = LinksCall { hosts: 0..1, guests: 0..1 };
            let short = random.u8(..4) > 0;
            set(any_answer(random, answers::answer(&asked, short)));
            let links = clients.instant_connect.next_call(session, Links::default(), &trace).await?;
            assert_eq!((links.hosts.len(), links.guests.len()), (1, 1));
            assert!(links.hosts[0].reveal() != links.guests[0].reveal());
            Ok(())
        }
    }
}

/// Runs every [`LANES`]th case from `lane` on. Returns the number of accepted responses.
async fn try_lane(first: u64, lane: u64, count: u64) -> u64 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url: Url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
    let answer = Arc::new(Mutex::new(Answer::default()));
    let server = tokio::spawn(serve(listener, Arc::clone(&answer)));
    let mut clients = Clients::new(&url);
    let (session, link) = session();
    let mut taken = 0;
    for case in (lane..count).step_by(usize::try_from(LANES).unwrap()) {
        let case = Case { name: "random calls", seed: first.wrapping_add(case) };
        let mut random = Rng::with_seed(case.seed);
        let set = |bytes| *answer.lock().unwrap_or_else(PoisonError::into_inner) = bytes;
        let called = timeout(HANGS, call(&mut random, &clients, set, &session, &link)).await;
        match called.expect("the call exceeded its own time limit") {
            Ok(()) => taken += 1,
            Err(error) => {
                let reason = error.to_string();
                assert!(
                    reason.len() < 1000 && !reason.contains("ckmNR7I") && !reason.contains(TOKEN),
                    "{reason}"
                );
                if error.retry_after.is_some() {
                    // A rate-limited client would skip the next call.
                    clients = Clients::new(&url);
                }
            }
        }
    }
    server.abort();
    taken
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_http_responses_are_accepted_or_refused() {
    let (first, count, since) = (first_seed(), count("ICW_CALLS", 1_000), Instant::now());
    println!("random calls: ICW_TEST_SEED={first}");
    let lanes: Vec<_> = (0..LANES).map(|lane| tokio::spawn(try_lane(first, lane, count))).collect();
    let mut taken = 0;
    for lane in lanes {
        taken += lane.await.unwrap();
    }
    report("random calls", count, taken, since);
}
