//! Settling in paused time, with scripted replies of the broker to each publish.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use futures_util::future::BoxFuture;
use serde_json::json;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use uuid::Uuid;

use super::{batch::RECORD_AFTER, *};
use crate::{
    breaker::Postponed,
    broker::{
        port::Settle,
        publisher::{PublishError, PublishJob},
        topology::TopologyConfig,
    },
    contract::{
        link::{GUEST_LINK_TYPE, ROUTES},
        outgoing::Outgoing,
        people::Channel,
        private::Private,
        time::WireTime,
    },
    outcome::{Batch, Cause, Class, Failure, Learn},
    stages,
    telemetry::metrics::Metrics,
};

const LONG: Duration = Duration::from_secs(3600);
const POSTPONED: Postponed = Postponed { wait: DELAYS[0], max: LONG };
const DELAYS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30)];

/// The broker's reply to one message.
enum FakeAnswer {
    Says(Result<(), PublishError>),
    ConfirmsAfter(Duration),
    Nothing,
}
use FakeAnswer::{ConfirmsAfter, Nothing, Says};

/// A delivery that is settled once, unless its channel is closed.
#[derive(Debug)]
struct FakeReceipt {
    closed: Arc<AtomicBool>,
    used: AtomicBool,
}

impl FakeReceipt {
    fn settle(&self) -> BoxFuture<'_, Result<bool, BrokerError>> {
        Box::pin(async { Ok(self.usable() && !self.used.swap(true, Ordering::Relaxed)) })
    }
}

impl Settle for FakeReceipt {
    fn usable(&self) -> bool {
        !self.closed.load(Ordering::Relaxed) && !self.used.load(Ordering::Relaxed)
    }

    fn ack(&self, _limit: Duration) -> BoxFuture<'_, Result<bool, BrokerError>> {
        self.settle()
    }

    fn requeue(&self, _limit: Duration) -> BoxFuture<'_, Result<bool, BrokerError>> {
        self.settle()
    }

    fn requeue_counted(&self, _limit: Duration) -> BoxFuture<'_, Result<bool, BrokerError>> {
        self.settle()
    }
}

struct Rig {
    settler: Settler,
    metrics: Metrics,
    /// True once the channel is closed.
    closed: Arc<AtomicBool>,
    /// The routing keys of published messages.
    published: Arc<Mutex<Vec<String>>>,
}

impl Rig {
    /// The broker replies with `answers` to the first messages and confirms the others.
    fn new(limit: Duration, answers: Vec<FakeAnswer>) -> Self {
        let (handle, jobs) = Publisher::queue();
        let metrics = Metrics::new(stages::ALL, &DELAYS).unwrap();
        let settler = settler(handle, limit, metrics.stage(&stages::LINK));
        let published = Arc::default();
        tokio::spawn(answer(jobs, answers, Arc::clone(&published)));
        Self { settler, metrics, closed: Arc::default(), published }
    }

    /// Lets the settler declare the queues of the links.
    fn with_declared_link_queues(mut self) -> Self {
        self.settler.topology = topology("create");
        self
    }

    /// Settles a delivery with a processing time of `keep`.
    async fn settle(&self, keep: Duration, outcome: Outcome) -> Settlement {
        self.settle_by(keep, outcome, BreakerVerdict::Postponed(POSTPONED)).await
    }

    async fn settle_by(&self, keep: Duration, outcome: Outcome, verdict: BreakerVerdict) -> Settlement {
        let context = DeliveryContext {
            receipt: Arc::new(FakeReceipt { closed: Arc::clone(&self.closed), used: AtomicBool::new(false) }),
            properties: BasicProperties::default(),
            event_id: "event".to_owned(),
            trace: TraceContext::begin(&Random::system()),
            keep_until: Instant::now() + keep,
            happened_at: Timestamp::now(),
            deadline: deadline().timestamp(),
        };
        self.settler.settle(&context, &Message::default(), outcome, verdict).await
    }

    /// Closes the delivery's channel while its messages are published.
    async fn closes_soon(&self) {
        sleep(Duration::from_millis(100)).await;
        self.closed.store(true, Ordering::Relaxed);
    }

    fn published(&self) -> Vec<String> {
        self.published.lock().unwrap().clone()
    }
}

async fn answer(
    mut jobs: mpsc::Receiver<PublishJob>,
    answers: Vec<FakeAnswer>,
    published: Arc<Mutex<Vec<String>>>,
) {
    let (mut answers, mut unanswered) = (answers.into_iter(), Vec::new());
    while let Some(PublishJob { publication, reply, turn, .. }) = jobs.recv().await {
        if reply.is_closed() || !turn.take() {
            continue;
        }
        published.lock().unwrap().push(publication.routing_key);
        let answer = match answers.next().unwrap_or(Says(Ok(()))) {
            Says(answer) => answer,
            ConfirmsAfter(wait) => {
                sleep(wait).await;
                Ok(())
            }
            Nothing => {
                unanswered.push(reply);
                continue;
            }
        };
        _ = reply.send(answer);
    }
}

fn topology(declare: &str) -> Topology {
    let said = json!({"prefix": "sim", "declare": declare, "queue_length_max": 1000});
    let config: TopologyConfig = serde_json::from_value(said).unwrap();
    Topology::new(&config, stages::ALL, &DELAYS)
}

fn settler(publisher: Publisher, limit: Duration, metrics: StageMetrics) -> Settler {
    let retry = RetryPolicy {
        initial: Duration::from_secs(1),
        max: LONG,
        multiplier: 2.0,
        jitter: 0.0,
        attempts: 5,
        total: LONG,
        delays: DELAYS.to_vec().try_into().unwrap(),
    };
    Settler {
        publisher,
        tracer: Tracer::default(),
        topology: topology("off"),
        queue: "sim.sessions".to_owned(),
        limit,
        retry,
        clock: Clock::system(),
        random: Random::system(),
        metrics,
    }
}

fn deadline() -> WireTime {
    WireTime::floor(Timestamp::now() + LONG)
}

fn link(channel: Channel) -> Outgoing {
    Outgoing {
        route: *ROUTES.iter().find(|route| route.channel == channel.as_str()).unwrap(),
        kind: GUEST_LINK_TYPE,
        message_id: Uuid::new_v4(),
        correlation_id: Private::new("flow".to_owned()),
        body: Private::new(b"{}".to_vec()),
        deadline: deadline(),
    }
}

/// Keeps every record that it receives.
#[derive(Clone, Default)]
struct RecordingLedger(Arc<Mutex<Vec<Vec<Uuid>>>>);

impl Learn for RecordingLedger {
    fn confirmed(&mut self, message_ids: Vec<Uuid>) -> BoxFuture<'_, ()> {
        self.0.lock().unwrap().push(message_ids);
        Box::pin(async {})
    }
}

impl RecordingLedger {
    fn learned(&self) -> Vec<Vec<Uuid>> {
        self.0.lock().unwrap().clone()
    }
}

fn fails() -> Outcome {
    let reason = "it failed".to_owned();
    Outcome::TryAgain(Failure { cause: Cause::Token, reason, retry_after: None })
}

#[test]
fn settlement_has_its_outcome_name_and_class() {
    let ends = [
        (Settled::Done, "done", None),
        (Settled::Dead(Class::Invalid), "dead", Some("invalid")),
        (Settled::TryAgain(Cause::Busy), "try-again", Some("busy")),
        (Settled::Wait(Cause::Token), "wait", Some("token")),
        (Settled::Early, "early", None),
        (Settled::Requeued, "requeued", None),
        (Settled::Unfulfilled, "unfulfilled", None),
        (Settled::Lost, "lost", None),
    ];
    assert_eq!(ends, ends.map(|(settled, ..)| (settled, settled.as_str(), settled.class())));
}

#[tokio::test(start_paused = true)]
async fn deferred_message_reports_its_delay() {
    let rig = Rig::new(LONG, Vec::new());
    assert_eq!(rig.settler.shortest_delay(), Duration::from_secs(1));
    let settled = Settled::Wait(Cause::Token);
    let (reason, hold) = (Some("it failed".to_owned()), Some(Duration::from_secs(1)));
    assert_eq!(rig.settle(LONG, fails()).await, Settlement { settled, reason, hold });
    assert_eq!(rig.published(), ["sim.sessions.hold.1000"]);
}

#[tokio::test(start_paused = true)]
async fn refused_message_is_published_again_after_growing_waits() {
    let rig = Rig::new(LONG, (0..6).map(|_| Says(Err(PublishError::Nacked))).collect());
    let begun = Instant::now();
    let settlement = rig.settle(LONG, Outcome::Done(vec![link(Channel::Sms)].into())).await;
    assert_eq!(settlement, Settlement::of(Settled::Done, None));
    assert_eq!(rig.published(), ["guest.sms"; 7]);
    // The minimum after jitter of 50, 100, 200, 400, 800 and 1600 ms.
    assert!(begun.elapsed() >= Duration::from_millis(1575), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn only_unconfirmed_messages_are_published_again() {
    let rig = Rig::new(LONG, vec![Says(Ok(())), Says(Err(PublishError::Unknown))]);
    let links = Vec::from([Channel::Sms, Channel::Whatsapp].map(link)).into();
    assert_eq!(rig.settle(LONG, Outcome::Done(links)).await.settled, Settled::Done);
    assert_eq!(rig.published(), ["guest.sms", "guest.whatsapp", "guest.whatsapp"]);
}

/// One queue is full or does not reply when the worker is told to stop, and the work is dropped.
#[tokio::test(start_paused = true)]
async fn links_confirmed_before_the_work_is_dropped_are_recorded_once() {
    let refused = || (0..1000).map(|_| Says(Err(PublishError::Nacked)));
    for (others, confirmed) in [
        ([Says(Ok(()))].into_iter().chain(refused()).collect::<Vec<_>>(), 0),
        ([Says(Err(PublishError::Nacked)), Says(Ok(()))].into_iter().chain(refused()).collect(), 1),
        (vec![Says(Ok(())), Nothing], 0),
        (vec![Nothing, Says(Ok(()))], 1),
    ] {
        let rig = Rig::new(LONG, others);
        let links = Vec::from([Channel::Sms, Channel::Whatsapp].map(link));
        let (ids, ledger) = ([links[0].message_id, links[1].message_id], RecordingLedger::default());
        let batch = Batch::followed_by(links, ledger.clone());
        let dropped = timeout(Duration::from_secs(20), rig.settle(LONG, Outcome::Done(batch))).await;
        assert!(dropped.is_err(), "{dropped:?}");
        assert_eq!(ledger.learned(), [[ids[confirmed]]], "once");
    }
}

#[tokio::test(start_paused = true)]
async fn links_confirmed_before_the_session_ends_are_recorded() {
    let rig = Rig::new(LONG, vec![Says(Ok(())), Nothing]);
    let mut links = Vec::from([Channel::Sms, Channel::Whatsapp].map(link));
    links[1].deadline = WireTime::floor(Timestamp::now() + Duration::from_secs(20));
    let (id, ledger) = (links[0].message_id, RecordingLedger::default());
    let settlement = rig.settle(LONG, Outcome::Done(Batch::followed_by(links, ledger.clone()))).await;
    assert_eq!(settlement.settled, Settled::Dead(Class::Expired));
    assert_eq!(ledger.learned(), [[id]]);
}

#[tokio::test(start_paused = true)]
async fn links_confirmed_soon_are_recorded_once() {
    let rig = Rig::new(LONG, vec![Says(Ok(())), ConfirmsAfter(RECORD_AFTER / 2)]);
    let links = Vec::from([Channel::Sms, Channel::Whatsapp].map(link));
    let (ids, ledger) =
        (links.iter().map(|link| link.message_id).collect::<Vec<_>>(), RecordingLedger::default());
    let settlement = rig.settle(LONG, Outcome::Done(Batch::followed_by(links, ledger.clone()))).await;
    assert_eq!(settlement.settled, Settled::Done);
    assert_eq!(ledger.learned(), [ids]);
}

/// The ledger does not respond: a record is awaited for the rest of the processing time.
#[tokio::test(start_paused = true)]
async fn unresponsive_ledger_is_awaited_for_the_processing_time() {
    struct Away;
    impl Learn for Away {
        fn confirmed(&mut self, _: Vec<Uuid>) -> BoxFuture<'_, ()> {
            Box::pin(std::future::pending())
        }
    }
    let rig = Rig::new(Duration::from_secs(30), Vec::new());
    let begun = Instant::now();
    let links = Batch::followed_by(vec![link(Channel::Sms)], Away);
    assert_eq!(rig.settle(Duration::from_secs(600), Outcome::Done(links)).await.settled, Settled::Done);
    assert_eq!(begun.elapsed(), Duration::from_secs(600));
}

#[tokio::test(start_paused = true)]
async fn unroutable_link_is_dead_lettered_with_its_routing_key() {
    let rig = Rig::new(LONG, vec![Says(Ok(())), Says(Err(PublishError::Unroutable))]);
    let links = Vec::from([Channel::Sms, Channel::Whatsapp].map(link)).into();
    let settlement = rig.settle(LONG, Outcome::Done(links)).await;
    let reason = "no queue is bound to exchange sim.links for guest.whatsapp".to_owned();
    assert_eq!(settlement, Settlement::of(Settled::Dead(Class::Unroutable), reason));
    assert_eq!(rig.published(), ["guest.sms", "guest.whatsapp", "sim.sessions.dead"]);
}

#[tokio::test(start_paused = true)]
async fn unroutable_link_is_retried_once_if_we_declare_its_queue() {
    let unroutable = || Says(Err(PublishError::Unroutable));
    let links = || Vec::from([Channel::Sms, Channel::Whatsapp].map(link)).into();
    let rig = Rig::new(LONG, vec![Says(Ok(())), unroutable()]).with_declared_link_queues();
    assert_eq!(rig.settle(LONG, Outcome::Done(links())).await.settled, Settled::Done);
    assert_eq!(rig.published(), ["guest.sms", "guest.whatsapp", "guest.whatsapp"]);

    let rig = Rig::new(LONG, vec![Says(Ok(())), unroutable(), unroutable()]).with_declared_link_queues();
    let settlement = rig.settle(LONG, Outcome::Done(links())).await;
    let dead = Settlement::of(
        Settled::Dead(Class::Unroutable),
        "no queue is bound to exchange sim.links for guest.whatsapp".to_owned(),
    );
    assert_eq!(settlement, dead);
    assert_eq!(rig.published(), ["guest.sms", "guest.whatsapp", "guest.whatsapp", "sim.sessions.dead"]);

    // No time is left for a retry.
    let rig = Rig::new(LONG, vec![Says(Ok(())), unroutable()]).with_declared_link_queues();
    assert_eq!(rig.settle(Duration::from_millis(10), Outcome::Done(links())).await, dead);
}

#[tokio::test(start_paused = true)]
async fn publish_to_missing_delay_queue_is_retried() {
    let rig = Rig::new(LONG, vec![Says(Err(PublishError::Unroutable))]);
    assert_eq!(rig.settle(LONG, fails()).await.settled, Settled::Wait(Cause::Token));
    assert_eq!(rig.published(), ["sim.sessions.hold.1000"; 2]);
}

#[tokio::test(start_paused = true)]
async fn publish_without_time_left_awaits_its_confirm_and_is_not_retried() {
    let rig = Rig::new(LONG, vec![ConfirmsAfter(Duration::from_secs(1))]);
    let links = || vec![link(Channel::Sms)];
    assert_eq!(rig.settle(Duration::ZERO, Outcome::Done(links().into())).await.settled, Settled::Done);
    let rig = Rig::new(LONG, vec![Says(Err(PublishError::Nacked))]);
    let settlement = rig.settle(Duration::from_millis(10), Outcome::Done(links().into())).await;
    assert_eq!(settlement, Settlement::of(Settled::Unfulfilled, PublishError::Nacked.to_string()));
    assert_eq!(rig.published(), ["guest.sms"]);
}

#[tokio::test(start_paused = true)]
async fn expired_links_are_not_published() {
    let rig = Rig::new(LONG, Vec::new());
    let ended = Outgoing { deadline: WireTime::floor(Timestamp::now()), ..link(Channel::Sms) };
    let settlement = rig.settle(LONG, Outcome::DoneBefore(vec![link(Channel::Sms), ended].into())).await;
    let reason = "the session ended before its messages could be published".to_owned();
    assert_eq!(settlement, Settlement::of(Settled::Dead(Class::Expired), reason));
    assert_eq!(rig.published(), ["sim.sessions.dead"]);
}

#[tokio::test(start_paused = true)]
async fn settling_ends_at_once_without_publisher_time_or_channel() {
    let links = || Outcome::Done(vec![link(Channel::Sms)].into());
    let begun = Instant::now();
    let mut ended = Rig::new(LONG, Vec::new());
    ended.settler.publisher = Publisher::queue().0;
    let settlement = ended.settle(LONG, links()).await;
    assert_eq!(settlement, Settlement::of(Settled::Unfulfilled, PublishError::Ended.to_string()));

    let kept_too_long = Rig::new(Duration::ZERO, vec![Nothing]);
    let before = Instant::now();
    let settlement = kept_too_long.settle(Duration::ZERO, links()).await;
    assert_eq!(settlement, Settlement::of(Settled::Unfulfilled, PublishError::Unknown.to_string()));
    assert_eq!(before.elapsed(), Duration::ZERO);

    // The publisher has not taken the message.
    let mut cut = Rig::new(LONG, Vec::new());
    let (publisher, _jobs) = Publisher::queue();
    cut.settler.publisher = publisher;
    let (settlement, ()) = tokio::join!(cut.settle(LONG, links()), cut.closes_soon());
    let reason = "the channel is closed; intended outcome: unfulfilled".to_owned();
    assert_eq!(settlement, Settlement::of(Settled::Lost, reason.clone()));

    // The redelivered message is copied again.
    let copied = Rig::new(LONG, vec![Nothing]);
    let (settlement, ()) = tokio::join!(copied.settle(LONG, fails()), copied.closes_soon());
    assert_eq!(settlement, Settlement::of(Settled::Lost, reason));
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
}

/// The connections of consumer and publisher are independent: the broker confirms what it stored although the delivery is lost.
#[tokio::test(start_paused = true)]
async fn links_confirmed_after_the_channel_closed_are_recorded() {
    let late = Duration::from_secs(120);
    let refused = Says(Err(PublishError::Nacked));
    for (answers, intended, confirmed, published) in [
        (vec![Says(Ok(())), ConfirmsAfter(late)], "done", vec![0, 1], 2),
        (vec![refused, ConfirmsAfter(late)], "unfulfilled", vec![1], 2),
        // The publisher takes the second message later, and does not publish it.
        (vec![ConfirmsAfter(late)], "unfulfilled", vec![0], 1),
    ] {
        let rig = Rig::new(LONG, answers);
        let links = Vec::from([Channel::Sms, Channel::Whatsapp].map(link));
        let (ids, ledger) = ([links[0].message_id, links[1].message_id], RecordingLedger::default());
        let outcome = Outcome::Done(Batch::followed_by(links, ledger.clone()));
        let (settlement, ()) = tokio::join!(rig.settle(LONG, outcome), rig.closes_soon());
        let reason = format!("the channel is closed; intended outcome: {intended}");
        assert_eq!(settlement, Settlement::of(Settled::Lost, reason));
        let learned = ledger.learned().pop().unwrap_or_default();
        assert_eq!(learned, confirmed.iter().map(|link| ids[*link]).collect::<Vec<_>>());
        assert_eq!(rig.published(), ["guest.sms", "guest.whatsapp"][..published], "once");
    }
}

#[tokio::test(start_paused = true)]
async fn event_done_before_is_measured_only_if_links_are_published() {
    for (links, measured) in [(vec![], 0), (vec![link(Channel::Sms)], 1)] {
        let rig = Rig::new(LONG, Vec::new());
        assert_eq!(rig.settle(LONG, Outcome::DoneBefore(links.into())).await.settled, Settled::Done);
        let line = format!("instant_connect_event_to_link_seconds_count {measured}");
        assert!(rig.metrics.render().unwrap().lines().any(|said| said == line), "{line}");
    }
}

/// Half of the first retries waited 5 s instead of 1 s, and a Retry-After of 7 s became 30 s.
#[tokio::test(start_paused = true)]
async fn delay_of_a_retry_is_never_the_next_longer_one() {
    let fails = |retry_after| {
        let reason = "it failed".to_owned();
        Outcome::TryAgain(Failure { cause: Cause::Unavailable, reason, retry_after })
    };
    let mut rig = Rig::new(LONG, Vec::new());
    rig.settler.retry.jitter = 0.2;
    for _ in 0..50 {
        let settlement = rig.settle_by(LONG, fails(None), BreakerVerdict::Unclear(1)).await;
        assert_eq!(settlement.hold, Some(DELAYS[0]));
    }
    let asked = Some(Duration::from_secs(7));
    let settlement = rig.settle_by(LONG, fails(asked), BreakerVerdict::Own).await;
    assert_eq!(settlement.hold, Some(DELAYS[1]));
}
