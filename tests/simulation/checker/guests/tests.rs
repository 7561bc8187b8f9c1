//! Each rule about messages to guests, receipts and start requests can be broken.

use fastrand::Rng;
use instant_connect_worker::{
    contract::receipt::MessageState,
    stages::{SMS, WHATSAPP},
};
use lapin::BasicProperties;
use tokio::time::advance;

use super::*;
use crate::{
    checker::CheckedRules,
    events::{self, Event},
    network::SimulatedRequest,
    plan::SendersPlan,
    time::clock_at,
};

const SHORT: &str = "guest1";
/// Time until the link's end.
const LIFE: SignedDuration = SignedDuration::from_hours(1);

/// A checker with one event and one guest link, and the request to send it.
struct CheckedGuest {
    checker: Checker,
    event: Event,
    links: BTreeMap<String, SimulatedLinks>,
    message: GuestMessage,
    id: Uuid,
}

impl CheckedGuest {
    fn new() -> Self {
        let begin: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        let senders = SendersPlan {
            min_remaining: Duration::ZERO,
            on_unknown: OnUnknown::Repeat,
            receipt_wait: Some(Duration::from_secs(45)),
            foreign: 2,
            ..SendersPlan::new(0)
        };
        let rules = CheckedRules {
            clock: clock_at(begin),
            begin,
            attempts: 3,
            total: Duration::MAX,
            lifetime: Duration::MAX,
            deliveries_max: 20,
            first_delay: Duration::ZERO,
            delivery_timeout: Duration::MAX,
            senders: Some(senders),
        };
        let event = events::plain(&mut Rng::with_seed(1), 1, Duration::ZERO, begin).over_http("flows");
        let mut checker = Checker::new(vec![event.clone()], rules);
        let wanted = event.links[0].clone();
        let (channel, name) =
            wanted.key.split_once('.').map_or(("", ""), |(_, channel)| (channel, wanted.key));
        let seen = SeenMessage {
            name: format!("{name} of s1"),
            key: wanted.to.clone(),
            deadline: Some(begin + LIFE),
            ..SeenMessage::default()
        };
        let seen = checker.guest_link(wanted.key, seen).unwrap();
        checker.seen.insert(wanted.message_id, seen);
        checker.links.insert(wanted.message_id, format!("{BASE_URL}{SHORT}"));
        let link = SimulatedLinks { session: "s1".to_owned(), role: Role::Guest, until: 0 };
        let links = BTreeMap::from([(SHORT.to_owned(), link)]);
        let content = if channel == "sms" { format!("Join: {BASE_URL}{SHORT}") } else { SHORT.to_owned() };
        let message = GuestMessage {
            id: wanted.message_id.to_string(),
            channel: if channel == "sms" { "sms" } else { "whatsapp" },
            to: wanted.to,
            content,
        };
        Self { checker, event, links, message, id: wanted.message_id }
    }

    fn seen(&mut self) -> &mut SeenMessage {
        self.checker.seen.get_mut(&self.id).unwrap()
    }

    fn note(&mut self, sends: u32) -> Result<(), String> {
        let note = SendNote { sends, sent_at: Some(self.checker.now()), ..SendNote::default() };
        let bytes = serde_json::to_vec(&note).unwrap();
        self.put(&send_key(&self.id), EntryState::Noted, &bytes)
    }

    fn put(&mut self, key: &str, state: EntryState, bytes: &[u8]) -> Result<(), String> {
        self.checker.request_noted(key, Some(state));
        self.checker.guest_noted(key, Some((state, bytes)))
    }

    /// Webex Connect gets the message; its answer is lost.
    fn send(&mut self) -> Result<(), String> {
        let stage = if self.message.channel == "sms" { &SMS } else { &WHATSAPP };
        self.checker.called(stage, &SimulatedRequest::ToGuest(self.message.clone()), false)?;
        self.checker.guest_message_sent(&self.links, &self.message)
    }

    fn receipt(body: &Value) -> Publication {
        Publication {
            exchange: "sim.receipts".to_owned(),
            routing_key: "receipt.sms".to_owned(),
            properties: BasicProperties::default(),
            body: body.to_string().into_bytes().into(),
        }
    }

    fn start(&self, id: &str) -> Publication {
        Publication {
            exchange: "sim.sessions".to_owned(),
            routing_key: "session.start".to_owned(),
            properties: BasicProperties::default().with_message_id(id.into()),
            body: self.event.body.clone().into(),
        }
    }
}

#[track_caller]
fn breaks(result: Result<(), String>, rule: &str) {
    let broken = result.unwrap_err();
    assert!(broken.contains(rule), "{broken}");
}

#[tokio::test(start_paused = true)]
async fn noted_message_breaks_no_rule_and_one_without_a_note_does() {
    let mut guest = CheckedGuest::new();
    breaks(guest.send(), "without a note");
    guest.note(1).unwrap();
    guest.send().unwrap();
    breaks(guest.send(), "without a note");
}

#[tokio::test(start_paused = true)]
async fn wrong_recipient_link_or_time_breaks_a_rule() {
    for (change, rule) in [
        ((|guest| guest.message.to = "+34600002000".to_owned()) as fn(&mut CheckedGuest), "unexpected"),
        (|guest| guest.message.content = guest.message.content.replace(SHORT, "guest2"), "wrong link"),
        (|guest| guest.links.get_mut(SHORT).unwrap().role = Role::Host, "wrong link"),
        (|guest| guest.seen().guest.as_mut().unwrap().ends_at -= LIFE, "late"),
    ] {
        let mut guest = CheckedGuest::new();
        guest.note(1).unwrap();
        change(&mut guest);
        breaks(guest.send(), rule);
    }
    let mut guest = CheckedGuest::new();
    guest.note(1).unwrap();
    guest.checker.rules.senders.as_mut().unwrap().foreign = 1;
    breaks(guest.send(), "without an allowed prefix");
}

#[tokio::test(start_paused = true)]
async fn repeat_is_allowed_three_times_after_the_wait_while_nothing_is_known() {
    let mut guest = CheckedGuest::new();
    for sends in 1..=3 {
        guest.note(sends).unwrap();
        guest.send().unwrap();
        advance(Duration::from_secs(46)).await;
    }
    guest.note(4).unwrap();
    breaks(guest.send(), "for the 4. time");

    let mut early = CheckedGuest::new();
    early.note(1).unwrap();
    early.send().unwrap();
    breaks(early.note(2), "while its receipt may come");

    let mut known = CheckedGuest::new();
    known.note(2).unwrap();
    known.send().unwrap();
    known.seen().unknown_effect = false;
    breaks(known.send(), "for the 2. time");
}

#[tokio::test(start_paused = true)]
async fn repeat_with_a_receipt_breaks_a_rule() {
    let mut guest = CheckedGuest::new();
    guest.note(2).unwrap();
    guest.send().unwrap();
    let note = ReceiptNote { state: MessageState::Submitted, at: guest.checker.now() };
    guest.put(&receipt_key(&guest.id), EntryState::Noted, &serde_json::to_vec(&note).unwrap()).unwrap();
    advance(Duration::from_secs(1)).await;
    let now = guest.checker.now();
    guest.seen().open = 1;
    guest.seen().delivered_at.push(now);
    breaks(guest.send(), "the ledger has its receipt");
}

#[tokio::test(start_paused = true)]
async fn receipt_is_kept_before_its_answer_and_shows_nothing_private() {
    let mut guest = CheckedGuest::new();
    let id = guest.message.id.clone();
    let receipt = CheckedGuest::receipt(&serde_json::json!({"messageId": id}));
    guest.checker.receipt_stored(&receipt).unwrap();
    breaks(guest.checker.receipt_accepted(&id), "not kept");
    let private = CheckedGuest::receipt(&serde_json::json!({"messageId": id, "to": guest.message.to}));
    breaks(guest.checker.receipt_stored(&private), "a number or a link");
}

#[tokio::test(start_paused = true)]
async fn accepted_request_is_in_the_queue_once_with_the_id_of_its_key() {
    let mut guest = CheckedGuest::new();
    let (event, id) = (guest.event.clone(), guest.event.id.as_str().to_owned());
    let answer = serde_json::json!({"eventId": id}).to_string();
    breaks(guest.checker.request_accepted(&event, answer.as_bytes()), "in no queue");
    guest.checker.start_stored(&guest.start(&id)).unwrap();
    guest.checker.request_accepted(&event, answer.as_bytes()).unwrap();
    breaks(guest.checker.request_accepted(&event, b"{}"), "another id");
    breaks(guest.checker.start_stored(&guest.start("m1")), "another id");
    guest.put(&format!("ingress/{id}"), EntryState::Recorded, b"{}").unwrap();
    breaks(guest.checker.start_stored(&guest.start(&id)), "although its request was accepted");
    breaks(guest.checker.request_refused(&event), "although it is valid");
}
