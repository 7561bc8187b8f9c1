//! Receipts, which Webex Connect sends about each message: late, twice, in any order or never. It repeats a receipt that is not
//! answered with 200 a few times, and then gives it up.

use std::time::Duration;

use axum::{body::Body, http::Request};
use serde_json::json;
use tokio::time::sleep;

use super::GuestMessage;
use crate::{
    client,
    world::{World, WorldState},
};

/// Codes of receipts: submitted, delivered, failed.
const SUBMITTED: &str = "7501";
const DELIVERED: &str = "7500";
const FAILED: &str = "7203";

/// Waits before each attempt to send a receipt.
const ATTEMPTS: [u64; 4] = [0, 30, 60, 90];

/// Sends the receipts of `message` from now on.
pub(super) fn promise(world: &World, state: &mut WorldState, message: &GuestMessage) {
    let Some(senders) = state.plan.senders.clone().filter(|senders| senders.receipt_wait.is_some()) else {
        return;
    };
    if state.chance(senders.no_receipt) {
        return;
    }
    let transaction = state.random.u64(..);
    let random = &mut state.random;
    let mut receipts = vec![(random.u64(..4_000), SUBMITTED)];
    match random.u32(..8) {
        0 => {}
        1 => receipts.push((random.u64(..60_000), FAILED)),
        2 => receipts = vec![(random.u64(..120_000), DELIVERED)],
        _ => receipts.push((random.u64(..30_000), DELIVERED)),
    }
    if random.u32(..4) == 0 {
        let twice = receipts[random.usize(..receipts.len())].1;
        receipts.push((random.u64(..60_000), twice));
    }
    for (after, code) in receipts {
        let body = json!({"deliveryInfoNotification": {
            "deliveryInfo": {
                "timeStamp": state.now().to_string(), "code": code, "deliveryChannel": message.channel,
                "destination": message.to,
            },
            "transid": transaction.to_string(), "correlationid": message.id,
        }});
        let receipt = SimulatedReceiptBody { id: message.id.clone(), code, body: body.to_string() };
        tokio::spawn(deliver(world.clone(), Duration::from_millis(after), receipt));
    }
}

/// A receipt to send.
struct SimulatedReceiptBody {
    /// The id of the message.
    id: String,
    code: &'static str,
    body: String,
}

async fn deliver(world: World, after: Duration, receipt: SimulatedReceiptBody) {
    sleep(after).await;
    for wait in ATTEMPTS {
        sleep(Duration::from_secs(wait)).await;
        let request = Request::post("/v1/receipts/default").body(Body::from(receipt.body.clone()));
        let answer = client::ask(&world, request.unwrap_or_else(|_| unreachable!("a constant"))).await;
        let status = answer.map(|answer| answer.status);
        let mut state = world.lock();
        state.log(format_args!("receipt {} of {}: answered {status:?}", receipt.code, receipt.id));
        if status == Some(200) {
            let rule = state.checker.receipt_accepted(&receipt.id);
            return state.must(rule);
        }
    }
}
