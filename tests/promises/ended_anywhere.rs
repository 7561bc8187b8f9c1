//! A worker is killed, or told to end, between every two steps of both stages, and another one goes on: nothing is lost,
//! repeats carry the same id and the same link, and an expert has one message.
#![cfg(debug_assertions)]

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::process::ExitStatusExt,
    sync::{Arc, Mutex},
};

use instant_connect_worker::sandbox::{Endpoint, RecordedRole};
use serde_json::{Value, json};

use crate::support::{
    Rig,
    amqp::{Deliveries, Received, with_id},
    events::{DEVICE, event_with, number},
    poll, soon,
};

/// What becomes of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Two guests, an expert and a device are served.
    Served,
    /// The same, at the second attempt of a stage.
    LinkTriedAgain,
    HostTriedAgain,
    /// A stage makes it a dead letter.
    LinkDead,
    HostDead,
    /// More guests than one call serves, an expert and a device are served.
    ManyServed,
    /// The same, at the second attempt of the second call.
    ManyTriedAgain,
}

use Way::{HostDead, HostTriedAgain, LinkDead, LinkTriedAgain, ManyServed, ManyTriedAgain, Served};

/// Every point of `src/fault.rs`, on each way that leads over it: its name, and the passes.
const POINTS: [(Way, &str, &[u32]); 64] = [
    (Served, "sessions.taken", &[1]),
    (Served, "link.read", &[1]),
    (Served, "link.claimed", &[1]),
    (Served, "link.answered", &[1]),
    // The links. Then, in one commit or two: that they are published, and that the expert's message is about to be sent. At
    // last that it was.
    (Served, "ledger.asked", &[1, 2, 3]),
    (Served, "ledger.written", &[1, 2, 3]),
    (Served, "link.noted", &[1]),
    (Served, "sessions.decided", &[1]),
    // Two guests' links and an expert's.
    (Served, "publish.asked", &[1, 2, 3]),
    (Served, "publish.sent", &[1, 2, 3]),
    (Served, "publish.confirmed", &[1, 2, 3]),
    (Served, "sessions.published", &[1]),
    (Served, "sessions.acked", &[1]),
    (Served, "link.recorded", &[1]),
    (Served, "hosts.taken", &[1]),
    (Served, "host.read", &[1]),
    (Served, "host.claimed", &[1]),
    (Served, "host.noted", &[1]),
    (Served, "host.answered", &[1]),
    (Served, "host.recorded", &[1]),
    (Served, "hosts.decided", &[1]),
    (Served, "hosts.published", &[1]),
    (Served, "hosts.acked", &[1]),
    (LinkTriedAgain, "link.claimed", &[1, 2]),
    (LinkTriedAgain, "link.released", &[1]),
    (LinkTriedAgain, "sessions.decided", &[1]),
    (LinkTriedAgain, "publish.asked", &[1]),
    (LinkTriedAgain, "publish.sent", &[1]),
    (LinkTriedAgain, "publish.confirmed", &[1]),
    (LinkTriedAgain, "sessions.published", &[1]),
    (LinkTriedAgain, "sessions.acked", &[1]),
    (LinkTriedAgain, "sessions.taken", &[2]),
    (HostTriedAgain, "host.answered", &[1, 2]),
    (HostTriedAgain, "hosts.decided", &[1]),
    (HostTriedAgain, "publish.asked", &[4]),
    (HostTriedAgain, "publish.sent", &[4]),
    (HostTriedAgain, "publish.confirmed", &[4]),
    (HostTriedAgain, "hosts.published", &[1]),
    (HostTriedAgain, "hosts.acked", &[1]),
    (HostTriedAgain, "hosts.taken", &[2]),
    (HostTriedAgain, "host.looked", &[1]),
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
    (ManyServed, "link.answered", &[1, 2]),
    // The first call's links; all links.
    (ManyServed, "ledger.asked", &[1, 2]),
    (ManyServed, "ledger.written", &[1, 2]),
    (ManyServed, "link.noted", &[1, 2]),
    (ManyServed, "link.recorded", &[1]),
    (ManyTriedAgain, "link.noted", &[1]),
    (ManyTriedAgain, "sessions.decided", &[1]),
    (ManyTriedAgain, "sessions.acked", &[1]),
    (ManyTriedAgain, "link.claimed", &[2]),
    (ManyTriedAgain, "link.answered", &[2]),
    (ManyTriedAgain, "ledger.written", &[2]),
];

/// Passed before any message comes.
const BEFORE: [&str; 2] = ["worker.starting", "ledger.opening"];

/// As many workers are tried at once.
const LANES: usize = 6;
/// One message at a time, so that passes are counted alike each time. As many attempts as the ways here take: an event of which
/// an end counted one would be dead. The queues are there.
const SETTINGS: [(&str, &str); 7] = [
    ("retry.attempts", "2"),
    ("devices.allowed", DEVICE),
    ("amqp.concurrency", "1"),
    ("retry.initial", "10ms"),
    ("retry.jitter", "0"),
    ("retry.delays", "10ms"),
    ("topology.declare", "off"),
];

/// A worker that ends at one point.
#[derive(Clone, Copy, Debug)]
struct Case {
    way: Way,
    point: &'static str,
    pass: u32,
}

impl Case {
    fn all() -> Vec<Self> {
        let passes = POINTS.iter().flat_map(|(way, point, passes)| {
            passes.iter().map(|pass| Self { way: *way, point, pass: *pass })
        });
        passes.collect()
    }

    /// What the sandbox does about it.
    fn faults(self) -> &'static [&'static str] {
        match self.way {
            Served | ManyServed => &[],
            LinkTriedAgain => &["joseencrypt:status=503,times=1"],
            HostTriedAgain => &["messages:status=503,times=1"],
            LinkDead => &["joseencrypt:status=400"],
            HostDead => &["messages:status=404"],
            ManyTriedAgain => &["joseencrypt:delay=1ms,times=1", "joseencrypt:status=503,times=1"],
        }
    }

    fn is_of_many(self) -> bool {
        matches!(self.way, ManyServed | ManyTriedAgain)
    }

    fn guests(self) -> usize {
        if self.is_of_many() { 26 } else { 2 }
    }

    /// The call whose links were made and not yet kept when it is killed: nobody can know them, so others are made.
    fn forgets_call(self) -> Option<u32> {
        let forgets = matches!(self.point, "link.answered" | "ledger.asked")
            && (self.way == Served && (self.point == "link.answered" || self.pass == 1) || self.is_of_many());
        forgets.then_some(self.pass)
    }

    /// Whether it is killed when a message to the expert was noted, and may have been sent.
    fn leaves_a_note(self) -> bool {
        matches!(self.point, "host.noted" | "host.answered")
    }

    /// Whether it ends when it was recorded that the expert has the message.
    fn leaves_a_record(self) -> bool {
        self.way == Served
            && matches!(self.point, "host.recorded" | "hosts.decided" | "hosts.published" | "hosts.acked")
    }

    /// Whether a link may be published twice if it is killed here: it is published, and that is not recorded.
    fn may_repeat_links(self) -> bool {
        !self.is_before_publishing() && self.point != "link.recorded"
    }

    /// Whether it is killed before it published anything: then nothing can come twice.
    fn is_before_publishing(self) -> bool {
        let first = matches!(self.way, Served | LinkTriedAgain | LinkDead) && self.pass == 1;
        let stage = self.point.starts_with("link.") && self.point != "link.recorded"
            || matches!(
                self.point,
                "sessions.taken" | "sessions.decided" | "ledger.asked" | "ledger.written"
            );
        first && (stage || self.point == "publish.asked")
            || self.is_of_many() && !self.point.starts_with("sessions.") && self.point != "link.recorded"
    }
}

/// Names its case when the test fails while it is tried: what is waited for in vain does not. Of several the first is meant.
struct Named(Case);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("tried at that moment: {:?}", self.0);
        }
    }
}

/// Where one case after the other is tried.
struct Lane {
    rig: Rig,
    guests: Deliveries,
    dead_sessions: Deliveries,
    dead_hosts: Deliveries,
    /// Names of points that were passed.
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

    /// An event number `n`, with a worker that gets `signal` on its way and another one that goes on.
    async fn try_case(&mut self, n: usize, case: Case, signal: &str) {
        let _named = Named(case);
        let rig = &self.rig;
        let requests_before = rig.sandbox.arrivals(Endpoint::Messages).len();
        let messages_before = rig.sandbox.counts().messages;
        for rule in case.faults() {
            rig.sandbox.fault(rule.parse().unwrap());
        }
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
            let what = format!("{queue} to be left alone, with what the worker had taken back in it");
            let name = rig.name(queue);
            poll(&what, async || (rig.amqp.depth(&name).await?.1 == 0).then_some(())).await;
        }

        let worker = rig.start(&SETTINGS).await;
        let mut letters = Vec::new();
        let mut links: Vec<Received> = Vec::new();
        if case.way == LinkDead {
            letters.push(self.dead_sessions.next().await);
        } else {
            while links.iter().map(Received::id).collect::<BTreeSet<_>>().len() < case.guests() {
                links.push(self.guests.next().await);
            }
            if case.way == HostDead {
                letters.push(self.dead_hosts.next().await);
            } else {
                let arrived = rig.sandbox.until(|sandbox| sandbox.counts().messages > messages_before);
                soon(&format!("the expert's message: {case:?}"), arrived).await;
            }
        }
        // What is no event comes after all that was left, also in the hold queues, and shows that it has ended.
        let last = format!("last-{n}");
        for (name, dead) in [("sessions", &mut self.dead_sessions), ("hosts", &mut self.dead_hosts)] {
            rig.amqp.publish("", &rig.name(&format!("{name}.hold.10")), with_id(&last), b"no event").await;
            letters.extend(until(dead, &last).await);
        }
        rig.amqp.publish("", &rig.name("guests"), with_id(&last), b"no link").await;
        links.extend(until(&mut self.guests, &last).await);
        rig.sandbox.clear_faults();
        worker.stop().await;

        let killed = signal == "KILL";
        self.check_links(n, case, killed, &links);
        Self::check_letters(n, case, killed, &letters);
        let messages = rig.sandbox.counts().messages - messages_before;
        let expected = u64::from(!matches!(case.way, LinkDead | HostDead));
        assert_eq!(messages, expected, "an expert's messages: {case:?}");
        let requests = &rig.sandbox.arrivals(Endpoint::Messages)[requests_before..];
        let looked = requests.iter().any(|request| request.method == "GET");
        assert!(looked || !killed || !case.leaves_a_note(), "nobody looked for the message: {case:?}");
        assert!(
            !looked || !case.leaves_a_record(),
            "looked for a message that is known to be sent: {case:?}"
        );
    }

    fn check_links(&self, n: usize, case: Case, killed: bool, links: &[Received]) {
        let rig = &self.rig;
        let calls: Vec<_> =
            rig.sandbox.calls().into_iter().filter(|call| call.sub == format!("visit-{n}")).collect();
        let forgets = case.forgets_call().filter(|_| killed);
        // Those with the expert, and then the device; those without.
        let calls_expected = match case.way {
            LinkDead => (0, 0),
            _ if case.is_of_many() => {
                (1 + usize::from(forgets == Some(1)), 1 + usize::from(forgets == Some(2)))
            }
            _ => (1 + usize::from(forgets.is_some()), 0),
        };
        let (first, others): (Vec<_>, Vec<_>) = calls.iter().partition(|call| call.hosts > 0);
        assert_eq!((first.len(), others.len()), calls_expected, "calls of Instant Connect: {case:?}");
        assert!(first.iter().all(|call| call.devices == [DEVICE]), "{case:?}");
        assert!(others.iter().all(|call| call.devices.is_empty()), "{case:?}");
        let mut copies: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for link in links {
            copies.entry(link.id()).or_default().push(link.json());
        }
        assert_eq!(copies.len(), if case.way == LinkDead { 0 } else { case.guests() }, "{case:?}");
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
        if !matches!(case.way, LinkDead | HostDead) {
            assert!(letters.is_empty(), "{case:?}: {}", letters[0].header("x-dead-reason"));
            return;
        }
        let most = if killed && !case.is_before_publishing() { 2 } else { 1 };
        assert!((1..=most).contains(&letters.len()), "{} dead letters: {case:?}", letters.len());
        for letter in letters {
            assert_eq!(letter.header("x-dead-class"), "rejected", "{case:?}");
            assert_eq!((letter.id(), &letter.body), (letters[0].id(), &letters[0].body), "{case:?}");
        }
        assert!(case.way == HostDead || letters[0].id() == format!("event-{n}"), "{case:?}");
    }
}

/// What comes before the message with this id.
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
        lane.rig.assert_all_is_done(&lane.rig.amqp).await;
        lane.passed
    });
    let passed: BTreeSet<_> = futures_util::future::join_all(lanes).await.into_iter().flatten().collect();
    let known = POINTS.iter().map(|(_, point, _)| *point).chain(BEFORE);
    let known: BTreeSet<_> = known.map(str::to_owned).collect();
    assert_eq!(passed, known, "points that were passed, and those that are listed here");
    eprintln!("{count} ends at {} points", known.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_killed_at_any_point_loses_nothing_and_repeats_the_same_links() {
    try_all("KILL").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_told_to_end_at_any_point_finishes_its_work_and_repeats_nothing() {
    try_all("TERM").await;
}
