//! A proxy, a load balancer or a captive portal answers in Webex's place. Its response is neither a success nor a
//! refusal.

use instant_connect_sandbox::Endpoint;

use testkit::{Rig, program::Program, soon};

const QUICK: [(&str, &str); 5] = [
    ("retry.initial", "10ms"),
    ("retry.max", "50ms"),
    ("retry.attempts", "4"),
    ("retry.jitter", "0"),
    ("retry.delays", "10ms,50ms,1s,5s"),
];

async fn started() -> (Rig, Program) {
    let rig = Rig::new().await;
    let worker = rig.start(&QUICK).await;
    (rig, worker)
}

fn fault(rig: &Rig, rule: &str) {
    rig.sandbox.fault(rule.parse().unwrap());
}

/// A login page with status 200 does not mean that a message was sent or that links were made.
#[tokio::test]
async fn html_page_with_status_2xx_is_not_a_success() {
    let (rig, worker) = started().await;
    for (n, status) in [200, 201, 204].into_iter().enumerate() {
        fault(&rig, &format!("joseencrypt:page={status},times=1"));
        fault(&rig, &format!("messages:page={status},times=1"));
        rig.publish(n).await;
        rig.until_experts_have(n as u64 + 1).await;
    }
    worker.stop().await;
    rig.assert_queues_are_empty(&rig.amqp).await;
    let counts = rig.sandbox.counts();
    // The page, the list request, the message.
    assert_eq!((counts.joseencrypt, counts.message_requests, counts.messages), (6, 9, 3));
}

#[tokio::test]
async fn html_page_with_status_4xx_kills_no_event() {
    const OPENED: &str = "breaker opened; consuming paused (attempts are not counted while it is open)";

    let (rig, worker) = started().await;
    let mut guests = rig.guest_links().await;
    let statuses = [400, 401, 403, 404, 405, 407, 409, 411, 413, 414, 421, 422, 431, 451];
    for (n, status) in statuses.into_iter().enumerate() {
        fault(&rig, &format!("joseencrypt:page={status},times=1"));
        fault(&rig, &format!("messages:page={status},times=1"));
        rig.publish(n).await;
        guests.next().await;
        rig.until_experts_have(n as u64 + 1).await;
        worker.output.until(&format!("responded with {status}; not a Webex response"), 2).await;
    }
    assert!(worker.output.logged(OPENED).is_empty(), "no token was refused");
    worker.stop().await;
    rig.assert_queues_are_empty(&rig.amqp).await;
    assert_eq!(rig.sandbox.counts().messages, statuses.len() as u64);
}

/// Webex answers 404 if it never sent the person a message. A load balancer may answer 404 to anything.
#[tokio::test]
async fn html_page_for_the_message_list_does_not_mean_nothing_was_sent() {
    let (rig, worker) = started().await;
    for (n, status) in [404, 403, 200].into_iter().enumerate() {
        fault(&rig, "messages:cut=body,times=1");
        fault(&rig, &format!("messages:page={status},times=1"));
        rig.publish(n).await;
        let looked =
            rig.sandbox.until(move |sandbox| sandbox.requests(Endpoint::Messages) == 3 * (n as u64 + 1));
        soon("a second list request", looked).await;
    }
    worker.stop().await;
    rig.assert_queues_are_empty(&rig.amqp).await;
    let counts = rig.sandbox.counts();
    assert_eq!((counts.messages, counts.message_requests), (3, 9), "each message was sent once");
}
