//! Any bytes from the queue, plain or as a CloudEvent, give a session or the reason of a dead letter, and never a
//! panic.

use instant_connect_worker::contract::{
    device::AllowList,
    message::Message,
    people::AllowedExperts,
    start_session::{Session, SessionRules, Vertical},
};
use jiff::{SignedDuration, Timestamp};

pub(crate) fn check(body: &[u8]) {
    let rules = SessionRules {
        subject_prefix: String::new(),
        vertical: Vertical::Hc,
        host_login: true,
        link_lifetime: SignedDuration::from_hours(2),
        devices: AllowList::default(),
        experts: AllowedExperts::default(),
        guests: None,
    };
    let now = Timestamp::from_second(1_795_255_200).expect("a time in 2026");
    for content_type in [None, Some("application/cloudevents+json".to_owned())] {
        let message = Message { body: body.to_vec(), content_type, ..Message::default() };
        if let Err(refusal) = Session::read(&message, &rules, now) {
            assert!(refusal.to_string().len() < 1000, "the reason must fit into a header and a log line");
        }
    }
}
