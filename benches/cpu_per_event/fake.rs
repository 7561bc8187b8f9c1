//! A fake of both APIs with fixed responses, in a process of its own. It is leaner than the sandbox (no ciphers, no
//! records), so its own CPU time takes less from the contender's throughput.

use std::{
    io::{self, Read as _},
    process,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, SystemTime},
};

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    routing::{get, post},
    serve::ListenerExt as _,
};
use serde_json::json;
use tokio::{net::TcpListener, sync::watch};

/// The argument that starts the fake instead of the benchmark. The next argument is the delay of each response, in
/// milliseconds.
pub(crate) const FLAG: &str = "--serve-apis";
/// The part of an expert's address before the event's number.
pub(crate) const EXPERT: &str = "expert-";

const JSON: [(&str, &str); 1] = [("content-type", "application/json")];
type Response = ([(&'static str, &'static str); 1], String);

struct Fake {
    delay: Duration,
    /// Arrival of each expert's message, by the event's number; 0 if it has not arrived.
    arrivals: Mutex<Vec<u64>>,
    /// The number of different events whose message arrived.
    served: watch::Sender<usize>,
    /// As long as a real one.
    cipher: String,
    message: String,
}

/// Serves until standard input ends, which is when the benchmark ends. Prints its URL.
pub(crate) async fn run(delay_ms: u64) {
    thread::spawn(|| {
        _ = io::stdin().read_to_end(&mut Vec::new());
        process::exit(0);
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("http://{}", listener.local_addr().unwrap());
    let fake = Fake {
        delay: Duration::from_millis(delay_ms),
        arrivals: Mutex::default(),
        served: watch::Sender::new(0),
        cipher: ["eyJ".repeat(80), "a".repeat(54), "b".repeat(16), "c".repeat(400), "d".repeat(22)].join("."),
        message: message(),
    };
    let router = Router::new()
        .route("/api/v2/joseencrypt", post(links))
        .route("/v1/messages", post(send))
        .route("/bench/until/{served}", get(until))
        .route("/bench/arrivals", get(arrivals))
        .with_state(Arc::new(fake));
    let listener = listener.tap_io(|stream| _ = stream.set_nodelay(true));
    axum::serve(listener, router).await.unwrap();
}

/// Nanoseconds since 1970, the same clock in all processes.
pub(crate) fn now_ns() -> u64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    u64::try_from(since.as_nanos()).unwrap()
}

/// The number that follows `before` in `body`.
pub(crate) fn number_after(body: &[u8], before: &str) -> Option<usize> {
    let at = body.windows(before.len()).position(|part| part == before.as_bytes())?;
    let rest = &body[at + before.len()..];
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()
}

fn message() -> String {
    let id = |kind: &str| format!("Y2lzY29zcGFyazovL3VzL{kind}{}", "x".repeat(48));
    json!({
        "id": id("01"), "roomId": id("02"), "roomType": "direct", "toPersonEmail": "expert@example.com",
        "text": "t".repeat(300), "markdown": "m".repeat(300), "html": "h".repeat(300),
        "personId": id("03"), "personEmail": "bot@webex.bot", "created": "2026-12-01T08:00:00.000Z",
    })
    .to_string()
}

async fn wait(delay: Duration) {
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
}

/// `POST /api/v2/joseencrypt`, for one guest and one expert.
async fn links(State(fake): State<Arc<Fake>>, _: Bytes) -> Response {
    wait(fake.delay).await;
    let (cipher, [host, guest]) = (&fake.cipher, [(); 2].map(|()| fastrand::u32(..)));
    let body = format!(
        r#"{{"host":[{{"cipher":"{cipher}","short":"h{host:08x}"}}],"guest":[{{"cipher":"{cipher}","short":"g{guest:08x}"}}],"baseUrl":"https://instant.webex.com/visit/"}}"#
    );
    (JSON, body)
}

/// `POST /v1/messages`. The message counts when it arrives, before the delay.
async fn send(State(fake): State<Arc<Fake>>, body: Bytes) -> Response {
    let now = now_ns();
    let event = number_after(&body, EXPERT).expect("a message names its expert");
    let is_new = {
        let mut arrivals = fake.arrivals.lock().unwrap();
        if arrivals.len() <= event {
            arrivals.resize(event + 1, 0);
        }
        let is_new = arrivals[event] == 0;
        if is_new {
            arrivals[event] = now;
        }
        is_new
    };
    if is_new {
        fake.served.send_modify(|served| *served += 1);
    }
    wait(fake.delay).await;
    (JSON, fake.message.clone())
}

/// Responds when the messages of this number of events have arrived.
async fn until(State(fake): State<Arc<Fake>>, Path(enough): Path<usize>) {
    fake.served.subscribe().wait_for(|served| *served >= enough).await.unwrap();
}

async fn arrivals(State(fake): State<Arc<Fake>>) -> Response {
    (JSON, json!(*fake.arrivals.lock().unwrap()).to_string())
}
