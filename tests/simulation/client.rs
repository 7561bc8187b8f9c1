//! Clients of the ingress: flows that start sessions, and Webex Connect with its receipts. Requests go to the service of the
//! real ingress, without a socket.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::Request,
};
use instant_connect_worker::ingress::RequestOrigin;
use tokio::time::{sleep, timeout};

use crate::{
    events::Event,
    worker::CLIENT_TOKEN,
    world::{World, WorldState},
};

/// Time after which a client does not wait any longer.
const CLIENT_MAX: Duration = Duration::from_secs(10);
/// Larger than every answer.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// An answer of the ingress.
pub(crate) struct IngressAnswer {
    pub(crate) status: u16,
    pub(crate) body: Bytes,
}

/// Sends `request` to the worker that runs now. `None`: no worker runs, or the client gets no answer, whether or not the ingress
/// accepts the request.
pub(crate) async fn ask(world: &World, request: Request<Body>) -> Option<IngressAnswer> {
    world.wait().await;
    let ingress = Arc::clone(world.lock().ingress.as_ref()?);
    let origin = RequestOrigin { peer: Ipv4Addr::LOCALHOST.into(), busy: Arc::default() };
    let life = world.lock().life();
    // The request goes on without its client, as if the connection stayed open.
    let answer = tokio::spawn(async move { ingress.answer(request, &origin).await });
    let answer = timeout(CLIENT_MAX, answer).await.ok()?.ok()?;
    let lost = {
        let mut state = world.lock();
        let share = state.plan.bad_answer / 4.0;
        state.life() != life || state.chance(share)
    };
    let status = answer.status().as_u16();
    let body = axum::body::to_bytes(answer.into_body(), ANSWER_BYTES_MAX).await.ok()?;
    (!lost).then_some(IngressAnswer { status, body })
}

/// Sends `event` to the ingress, once for each time at which it is sent, with the same key. Each client repeats its request
/// until it is answered.
pub(crate) fn send(world: &World, event: &Event) {
    for at in event.sent.clone() {
        world.lock().requests += 1;
        let (world, event) = (world.clone(), event.clone());
        tokio::spawn(async move {
            sleep(at).await;
            while !request(&world, &event).await {
                let wait = world.lock().random.u64(200..5_000);
                sleep(Duration::from_millis(wait)).await;
            }
            world.lock().requests -= 1;
        });
    }
}

/// Sends a start request. Returns true if its answer is final.
async fn request(world: &World, event: &Event) -> bool {
    let request = Request::post("/v1/sessions")
        .header("authorization", format!("Bearer {CLIENT_TOKEN}"))
        .header("content-type", event.content_type)
        .header("idempotency-key", event.key.as_deref().unwrap_or_default())
        .body(Body::from(event.body.clone()));
    let answer = ask(world, request.unwrap_or_else(|_| unreachable!("valid headers"))).await;
    let mut state = world.lock();
    state.log(format_args!("{}: start request answered {:?}", event.session, status_of(answer.as_ref())));
    answer.is_some_and(|answer| is_final(&mut state, event, &answer))
}

fn status_of(answer: Option<&IngressAnswer>) -> Option<u16> {
    answer.map(|answer| answer.status)
}

fn is_final(state: &mut WorldState, event: &Event, answer: &IngressAnswer) -> bool {
    let rule = match answer.status {
        202 => state.checker.request_accepted(event, &answer.body),
        422 => state.checker.request_refused(event),
        // Unavailable, or another request with the same key is in progress.
        409 | 503 => return false,
        status => Err(format!("{}: start request answered {status}", event.session)),
    };
    state.must(rule);
    true
}
