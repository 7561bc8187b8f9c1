//! A worker is killed or terminated between every two steps of both stages, and another worker continues. Nothing is
//! lost, repeats carry the same id and the same link, and each expert gets one message.
#![cfg(debug_assertions)]

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::process::ExitStatusExt,
    sync::{Arc, Mutex},
};

use instant_connect_sandbox::{Endpoint, RecordedRole};
use serde_json::{Value, json};

use testkit::{
    Rig,
    amqp::{Deliveries, Received, with_id},
    events::{DEVICE, event_with, number},
    poll, soon,
};

/// The path of an event through the stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EventPath {
    /// Two guests, an expert and a device are processed.
    Processed,
    /// The same, but a stage succeeds only at its second attempt.
    LinkRetried,
    HostRetried,
    /// A stage dead-letters the event or the host link.
    LinkDead,
    HostDead,
    /// An expert, a device, and more guests than one call can serve.
    ManyProcessed,
    /// The same, but the second call succeeds only at its second attempt.
    ManyRetried,
}

use EventPath::{HostDead, HostRetried, LinkDead, LinkRetried, ManyProcessed, ManyRetried, Processed};

/// Every point of `src/fault.rs` on each path that passes it: path, name, and numbers of the passes.
const POINTS: [(EventPath, &str, &[u32]); 64] = [
    (Processed, "sessions.taken", &[1]),
    (Processed, "link.read", &[1]),
    (Processed, "link.claimed", &[1]),
    (Processed, "link.answered", &[1]),
    // Writes: the links; then, in one or two commits, the publish and the note before the expert's message; last, its
    // result.
    (Processed, "ledger.asked", &[1, 2, 3]),
    (Processed, "ledger.written", &[1, 2, 3]),
    (Processed, "link.noted", &[1]),
    (Processed, "sessions.decided", &[1]),
    // Two guest links and one host link.
    (Processed, "publish.asked", &[1, 2, 3]),
    (Processed, "publish.sent", &[1, 2, 3]),
    (Processed, "publish.confirmed", &[1, 2, 3]),
    (Processed, "sessions.published", &[1]),
    (Processed, "sessions.acked", &[1]),
    (Processed, "link.recorded", &[1]),
    (Processed, "hosts.taken", &[1]),
    (Processed, "host.read", &[1]),
    (Processed, "host.claimed", &[1]),
    (Processed, "host.noted", &[1]),
    (Processed, "host.answered", &[1]),
    (Processed, "host.recorded", &[1]),
    (Processed, "hosts.decided", &[1]),
    (Processed, "hosts.published", &[1]),
    (Processed, "hosts.acked", &[1]),
    (LinkRetried, "link.claimed", &[1, 2]),
    (LinkRetried, "link.released", &[1]),
    (LinkRetried, "sessions.decided", &[1]),
    (LinkRetried, "publish.asked", &[1]),
    (LinkRetried, "publish.sent", &[1]),
    (LinkRetried, "publish.confirmed", &[1]),
    (LinkRetried, "sessions.published", &[1]),
    (LinkRetried, "sessions.acked", &[1]),
    (LinkRetried, "sessions.taken", &[2]),
    (HostRetried, "host.answered", &[1, 2]),
    (HostRetried, "hosts.decided", &[1]),
    (HostRetried, "publish.asked", &[4]),
    (HostRetried, "publish.sent", &[4]),
    (HostRetried, "publish.confirmed", &[4]),
    (HostRetried, "hosts.published", &[1]),
    (HostRetried, "hosts.acked", &[1]),
    (HostRetried, "hosts.taken", &[2]),
    (HostRetried, "host.looked", &[1]),
    (LinkDead, "link.released", &[1]),
    (LinkDead, "publish.asked", &[1]),
    (LinkDead, "publish.sent", &[1]),
    (LinkDead, "publish.confirmed", &[1]),
    (LinkDead, "sessions.published", &[1]),
    (LinkDead, "sessions.acked", &[1]),
    (HostDead, "host.released", &[1]),
    (HostDead, "publish.asked", &[4]),
    (HostDead, "publish.sent", &[4]),
    (HostDead, "publish.confirmed", &[4]),
    (HostDead, "hosts.published", &[1]),
    (HostDead, "hosts.acked", &[1]),
    (ManyProcessed, "link.answered", &[1, 2]),
    // The links of the first call; all links.
    (ManyProcessed, "ledger.asked", &[1, 2]),
    (ManyProcessed, "ledger.written", &[1, 2]),
    (ManyProcessed, "link.noted", &[1, 2]),
    (ManyProcessed, "link.recorded", &[1]),
    (ManyRetried, "link.noted", &[1]),
    (ManyRetried, "sessions.decided", &[1]),
    (ManyRetried, "sessions.acked", &[1]),
    (ManyRetried, "link.claimed", &[2]),
    (ManyRetried, "link.answered", &[2]),
    (ManyRetried, "ledger.written", &[2]),
];

/// Points that are passed before the first delivery.
const BEFORE: [&str; 2] = ["worker.starting", "ledger.opening"];

/// Number of workers that are tested in parallel.
const LANES: usize = 6;
/// One message at a time, so that the passes are always counted alike. The attempts are just enough for these paths:
/// an event would be dead if a stopped worker counted one. The queues already exist.
const SETTINGS: [(&str, &str); 7] = [
    ("retry.attempts", "2"),
    ("devices.allowed", DEVICE),
    ("amqp.concurrency", "1"),
    ("retry.initial", "10ms"),
    ("retry.jitter", "0"),
    ("retry.delays", "10ms"),
    ("topology.declare", "off"),
];

/// A worker that stops at one point.
#[derive(Clone, Copy, Debug)]
struct Case {
    path: EventPath,
    point: &'static str,
    pass: u32,
}

impl Case {
    fn all() -> Vec<Self> {
        let passes = POINTS.iter().flat_map(|(path, point, passes)| {
            passes.iter().map(|pass| Self { path: *path, point, pass: *pass })
        });
        passes.collect()
    }

    /// The sandbox faults of the path.
    fn faults(self) -> &'static [&'static str] {
        match self.path {
            Processed | ManyProcessed => &[],
            LinkRetried => &["joseencrypt:status=503,times=1"],
            HostRetried => &["messages:status=503,times=1"],
            LinkDead => &["joseencrypt:status=400"],
            HostDead => &["messages:status=404"],
            ManyRetried => &["joseencrypt:delay=1ms,times=1", "joseencrypt:status=503,times=1"],
        }
    }

    fn has_many_guests(self) -> bool {
        matches!(self.path, ManyProcessed | ManyRetried)
    }

    fn guests(self) -> usize {
        if self.has_many_guests() { 26 } else { 2 }
    }

    /// The call whose links were made but not stored at the kill. These links are lost, so the call is repeated.
    fn lost_call(self) -> Option<u32> {
        let lost = matches!(self.point, "link.answered" | "ledger.asked")
            && (self.path == Processed && (self.point == "link.answered" || self.pass == 1)
                || self.has_many_guests());
        lost.then_some(self.pass)
    }

    /// True if the kill comes after the note and possibly after the message to the expert.
    fn has_note_at_kill(self) -> bool {
        matches!(self.point, "host.noted" | "host.answered")
    }

    /// True if the end comes after the expert's message was recorded.
    fn has_record_at_end(self) -> bool {
        self.path == Processed
            && matches!(self.point, "host.recorded" | "hosts.decided" | "hosts.published" | "hosts.acked")
    }

    /// True if a kill may repeat a publish: links are published, but not recorded.
    fn may_repeat_links(self) -> bool {
        !self.is_before_publishing() && self.point != "link.recorded"
    }

    /// True if nothing was published before the kill, so that nothing can be repeated.
    fn is_before_publishing(self) -> bool {
        let first = matches!(self.path, Processed | LinkRetried | LinkDead) && self.pass == 1;
        let stage = self.point.starts_with("link.") && self.point != "link.recorded"
            || matches!(
                self.point,
                "sessions.taken" | "sessions.decided" | "ledger.asked" | "ledger.written"
            );
        first && (stage || self.point == "publish.asked")
            || self.has_many_guests() && !self.point.starts_with("sessions.") && self.point != "link.recorded"
    }
}

/// Prints its case if the test panics, because a timeout does not name it. With several, the first one is meant.
struct NameOnPanic(Case);

impl Drop for NameOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("case in progress: {:?}", self.0);
        }
    }
}

/// Runs one case after another.
struct Lane {
    rig: Rig,
    guests: Deliveries,
    dead_sessions: Deliveries,
    dead_hosts: Deliveries,
    /// The names of the points that were passed.
    passed: BTreeSet<String>,
}

impl Lane {
    async fn new() -> Self {
        let rig = Rig::new().await;
        let declared = rig.command(&["topology", "--declare"], &SETTINGS[..6]).await;
        assert_eq!(declared.status, Some(0), "{declared:?}");
        let (guests, dead_sessions, dead_hosts) =
            (rig.guest_links().await, rig.dead_letters("sessions").await, rig.dead_letters("hosts").await);
        Self { rig, guests, dead_sessions, dead_hosts, passed: BTreeSet::new() }
    }

    /// Publishes event `n` to a worker that gets `signal` at the point, then starts another worker.
    async fn try_case(&mut self, n: usize, case: Case, signal: &str) {
        let _name_on_panic = NameOnPanic(case);
        let requests_before = self.rig.sandbox.arrivals(Endpoint::Messages).len();
        let messages_before = self.rig.sandbox.counts().messages;
        for rule in case.faults() {
            self.rig.sandbox.fault(rule.parse().unwrap());
        }
        self.run_to_point(n, case, signal).await;
        let (links, letters) = self.run_to_end(n, case, messages_before).await;

        let killed = signal == "KILL";
        self.check_links(n, case, killed, &links);
        Self::check_letters(n, case, killed, &letters);
        self.check_messages(case, killed, messages_before, requests_before);
    }

    /// Publishes event `n` to a worker that gets `signal` at the point, and waits until the broker has all messages
    /// back.
    async fn run_to_point(&mut self, n: usize, case: Case, signal: &str) {
        let rig = &self.rig;
        let Case { point, pass, .. } = case;
        let worker = rig.launch_with_fault(&SETTINGS, &format!("{point}:{pass}:{signal}"));
        let output = Arc::clone(&worker.output);
        let guest = |guest| json!({"channel": "sms", "address": number(100 * n + guest)});
        let guests: Vec<_> = (0..case.guests()).map(guest).collect();
        let event = event_with(n, &json!({"guests": guests, "devices": [DEVICE]}));
        rig.publish_event(with_id(&format!("event-{n}")), &event).await;
        let status = worker.ended().await;
        let expected = if signal == "KILL" { (None, Some(9)) } else { (Some(0), None) };
        assert_eq!((status.code(), status.signal()), expected, "{case:?}");
        let said = output.text();
        let passed = said.lines().filter_map(|line| line.strip_prefix("fault point "));
        self.passed.extend(passed.map(str::to_owned));
        for queue in ["sessions", "hosts"] {
            let what = format!("{queue} to have no consumer and its messages back");
            let name = rig.name(queue);
            poll(&what, async || (rig.amqp.depth(&name).await?.1 == 0).then_some(())).await;
        }
    }

    /// Lets another worker finish event `n`. Returns all guest links and dead letters.
    async fn run_to_end(
        &mut self,
        n: usize,
        case: Case,
        messages_before: u64,
    ) -> (Vec<Received>, Vec<Received>) {
        let rig = &self.rig;
        let worker = rig.start(&SETTINGS).await;
        let mut letters = Vec::new();
        let mut links: Vec<Received> = Vec::new();
        if case.path == LinkDead {
            letters.push(self.dead_sessions.next().await);
        } else {
            while links.iter().map(Received::id).collect::<BTreeSet<_>>().len() < case.guests() {
                links.push(self.guests.next().await);
            }
            if case.path == HostDead {
                letters.push(self.dead_hosts.next().await);
            } else {
                let arrived = rig.sandbox.until(|sandbox| sandbox.counts().messages > messages_before);
                soon(&format!("the expert's message: {case:?}"), arrived).await;
            }
        }
        // An invalid message after all others, also in the delay queues, marks the end.
        let last = format!("last-{n}");
        for (name, dead) in [("sessions", &mut self.dead_sessions), ("hosts", &mut self.dead_hosts)] {
            rig.amqp.publish("", &rig.name(&format!("{name}.hold.10")), with_id(&last), b"no event").await;
            letters.extend(until(dead, &last).await);
        }
        rig.amqp.publish("", &rig.name("guests"), with_id(&last), b"no link").await;
        links.extend(until(&mut self.guests, &last).await);
        rig.sandbox.clear_faults();
        worker.stop().await;
        (links, letters)
    }

    fn check_messages(&self, case: Case, killed: bool, messages_before: u64, requests_before: usize) {
        let sandbox = &self.rig.sandbox;
        let messages = sandbox.counts().messages - messages_before;
        let expected = u64::from(!matches!(case.path, LinkDead | HostDead));
        assert_eq!(messages, expected, "number of messages to the expert: {case:?}");
        let requests = &sandbox.arrivals(Endpoint::Messages)[requests_before..];
        let listed = requests.iter().any(|request| request.method == "GET");
        assert!(listed || !killed || !case.has_note_at_kill(), "the sent messages were not listed: {case:?}");
        assert!(
            !listed || !case.has_record_at_end(),
            "the sent messages were listed although the result is recorded: {case:?}"
        );
    }

    fn check_links(&self, n: usize, case: Case, killed: bool, links: &[Received]) {
        let rig = &self.rig;
        let calls: Vec<_> =
            rig.sandbox.calls().into_iter().filter(|call| call.sub == format!("visit-{n}")).collect();
        let lost = case.lost_call().filter(|_| killed);
        // Calls with the expert and the device; calls with guests only.
        let calls_expected = match case.path {
            LinkDead => (0, 0),
            _ if case.has_many_guests() => {
                (1 + usize::from(lost == Some(1)), 1 + usize::from(lost == Some(2)))
            }
            _ => (1 + usize::from(lost.is_some()), 0),
        };
        let (first, others): (Vec<_>, Vec<_>) = calls.iter().partition(|call| call.hosts > 0);
        assert_eq!((first.len(), others.len()), calls_expected, "calls of Instant Connect: {case:?}");
        assert!(first.iter().all(|call| call.devices == [DEVICE]), "{case:?}");
        assert!(others.iter().all(|call| call.devices.is_empty()), "{case:?}");
        let mut copies: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for link in links {
            copies.entry(link.id()).or_default().push(link.json());
        }
        assert_eq!(copies.len(), if case.path == LinkDead { 0 } else { case.guests() }, "{case:?}");
        let most = if killed && case.may_repeat_links() { 2 } else { 1 };
        for (id, bodies) in copies {
            assert!(bodies.len() <= most, "{} copies of {id}: {case:?}", bodies.len());
            assert!(bodies.iter().all(|body| *body == bodies[0]), "repeats are equal: {case:?}");
            assert_eq!(bodies[0]["eventId"], format!("event-{n}"), "{case:?}");
            let link = rig.sandbox.link(bodies[0]["short"].as_str().unwrap()).unwrap();
            assert_eq!((link.role, link.sub), (RecordedRole::Guest, format!("visit-{n}")), "{case:?}");
        }
    }

    fn check_letters(n: usize, case: Case, killed: bool, letters: &[Received]) {
        if !matches!(case.path, LinkDead | HostDead) {
            assert!(letters.is_empty(), "{case:?}: {}", letters[0].header("x-dead-reason"));
            return;
        }
        let most = if killed && !case.is_before_publishing() { 2 } else { 1 };
        assert!((1..=most).contains(&letters.len()), "{} dead letters: {case:?}", letters.len());
        for letter in letters {
            assert_eq!(letter.header("x-dead-class"), "rejected", "{case:?}");
            assert_eq!((letter.id(), &letter.body), (letters[0].id(), &letters[0].body), "{case:?}");
        }
        assert!(case.path == HostDead || letters[0].id() == format!("event-{n}"), "{case:?}");
    }
}

/// The messages before the one with this id.
async fn until(deliveries: &mut Deliveries, id: &str) -> Vec<Received> {
    let mut before = Vec::new();
    loop {
        let next = deliveries.next().await;
        if next.id() == id {
            return before;
        }
        before.push(next);
    }
}

async fn try_all(signal: &str) {
    let cases: Vec<_> = Case::all().into_iter().enumerate().collect();
    let count = cases.len();
    let left = Mutex::new(cases.into_iter());
    let next = || left.lock().unwrap().next();
    let lanes = (0..LANES).map(|_| async {
        let mut lane = Lane::new().await;
        while let Some((n, case)) = next() {
            lane.try_case(n, case, signal).await;
        }
        lane.rig.assert_queues_are_empty(&lane.rig.amqp).await;
        lane.passed
    });
    let passed: BTreeSet<_> = futures_util::future::join_all(lanes).await.into_iter().flatten().collect();
    let known = POINTS.iter().map(|(_, point, _)| *point).chain(BEFORE);
    let known: BTreeSet<_> = known.map(str::to_owned).collect();
    assert_eq!(passed, known, "passed points and listed points differ");
    eprintln!("{count} cases at {} points", known.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn worker_killed_at_any_point_loses_nothing_and_keeps_links() {
    try_all("KILL").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn worker_terminated_at_any_point_finishes_and_repeats_nothing() {
    try_all("TERM").await;
}
