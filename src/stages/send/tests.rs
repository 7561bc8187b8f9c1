use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    clock::{Clock, testing::runtime_clock},
    contract::{
        people::{Channel, NumberPrefixes},
        trace::TraceContext,
    },
    instant_connect::response::LinkRules,
    ledger::testing,
    outcome::{Cause, Failure},
    random::Random,
    stages::{
        self, OnFailure, Retention,
        deduplicator::{Begun, WRITE_TIME},
    },
    telemetry::metrics::Metrics,
    upstream::{ErrorCause, UpstreamError},
    webex_connect::client::AcceptedMessage,
};

const MIN_REMAINING: Duration = Duration::from_secs(60);

/// What happens at a call, and its result.
type Call = Box<dyn FnOnce() -> Result<AcceptedMessage, SendError> + Send>;

/// An API that answers as a test says.
#[derive(Default)]
struct FakeSender {
    calls: Mutex<VecDeque<Call>>,
    /// Time left until the session's end, at each call.
    sends: Mutex<Vec<Duration>>,
    /// The API does not answer.
    is_away: AtomicBool,
    /// Happens when the API is tried, between the claim and the note.
    when_tried: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl GuestSender for Arc<FakeSender> {
    const DEF: &'static StageDef = &SMS;
    const CHANNEL: Channel = Channel::Sms;

    fn has_new_token(&self) -> bool {
        false
    }

    async fn try_api(&self) -> Result<(), UpstreamError> {
        if let Some(act) = self.when_tried.lock().unwrap().take() {
            act();
        }
        if self.is_away.load(Ordering::Relaxed) { Err(failed(ErrorCause::Transient, true)) } else { Ok(()) }
    }

    async fn send(
        &self,
        _: &GuestLink,
        _: &Uuid,
        _: &TraceContext,
        left: Duration,
    ) -> Result<AcceptedMessage, SendError> {
        self.sends.lock().unwrap().push(left);
        let call = self.calls.lock().unwrap().pop_front().expect("a call that the test expects");
        call()
    }
}

fn failed(cause: ErrorCause, unknown: bool) -> UpstreamError {
    UpstreamError { cause, status: None, unknown, reason: "failed".to_owned(), retry_after: None, code: None }
}

fn unknown() -> Call {
    Box::new(|| Err(SendError::Failed(failed(ErrorCause::Transient, true))))
}

fn accepted() -> Call {
    Box::new(|| Ok(AcceptedMessage { id: None }))
}

/// Stage `sms` over a fake API and a ledger that can fail.
struct TestBench {
    stage: SendStage<Arc<FakeSender>>,
    api: Arc<FakeSender>,
    fails: Arc<dyn Fn(bool) + Send + Sync>,
    clock: Clock,
}

impl TestBench {
    fn new(calls: Vec<Call>) -> Self {
        let clock = runtime_clock(Timestamp::UNIX_EPOCH);
        let (ledger, fails) = testing::ledger_with(clock.clone());
        let api = Arc::new(FakeSender { calls: Mutex::new(calls.into()), ..FakeSender::default() });
        let metrics = Metrics::new(stages::ALL, &[]).unwrap();
        let retention =
            Retention { margin: SignedDuration::from_hours(1), max: SignedDuration::from_hours(9) };
        let deduplicator =
            Deduplicator::new(ledger, OnFailure::Wait, retention, metrics.ledger(&SMS), Random::system());
        let rules = SendRules {
            links: LinkRules {
                allowed_base_urls: vec!["https://instant.example.com/visit/".to_owned()],
                long_url_base: "https://instant.example.com".to_owned(),
            },
            numbers: NumberPrefixes::try_from(vec!["*".to_owned()]).unwrap(),
            min_remaining: MIN_REMAINING,
            on_unknown: OnUnknown::Repeat,
            receipt_wait: None,
            sms_fallback: false,
            rate: None,
            per_address_per_hour: None,
        };
        Self {
            stage: SendStage::new(
                Arc::clone(&api),
                rules,
                deduplicator,
                metrics.receipts(),
                CancellationToken::new(),
            ),
            api,
            fails: Arc::new(fails),
            clock,
        }
    }

    /// Processes a delivery of the link, whose session ends an hour after the test's begin. `replayed_at`: seconds after the begin.
    async fn deliver(&self, replayed_at: Option<i64>) -> Outcome {
        let link = json!({
            "eventId": "event-1", "sessionId": "visit-1", "channel": "sms", "to": "+34600111222",
            "url": "https://instant.example.com/visit/ckmNR7I", "baseUrl": "https://instant.example.com/visit/",
            "short": "ckmNR7I", "expiresAt": "1970-01-01T01:00:00Z"
        });
        let link = self.stage.checked(serde_json::from_value(link).unwrap(), self.clock.now());
        let link = match link {
            Ok(link) => link,
            Err(death) => return Outcome::Dead(death),
        };
        let replayed_at = replayed_at.map(|at| Timestamp::from_second(at).unwrap());
        let mut context = JobContext {
            trace: TraceContext::begin(&Random::system()),
            deadline: self.stage.deadline(&link),
            effect: "send:1".to_owned(),
            digest: [1; 32],
        };
        let job = GuestJob { link, replayed_at, published_at: None, id: ids::hash(b"1") };
        self.stage.act(job, &mut context).await
    }

    fn sends(&self) -> usize {
        self.api.sends.lock().unwrap().len()
    }
}

/// Makes the ledger fail for a minute.
fn fail_for_a_minute(fails: Arc<dyn Fn(bool) + Send + Sync>) {
    fails(true);
    tokio::spawn(async move {
        sleep(Duration::from_secs(60)).await;
        fails(false);
    });
}

fn is_again(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::TryAgain(Failure { cause: Cause::Unavailable, .. }))
}

fn class(outcome: &Outcome) -> Option<Class> {
    if let Outcome::Dead(death) = outcome { Some(death.class) } else { None }
}

#[tokio::test(start_paused = true)]
async fn copies_that_were_replayed_at_different_times_share_a_count() {
    let bench = TestBench::new((0..9).map(|_| unknown()).collect());
    for replayed_at in [None, Some(10), None, Some(20), Some(10), None] {
        assert!(is_again(&bench.deliver(replayed_at).await), "{replayed_at:?}");
    }
    for replayed_at in [None, Some(10), Some(20)] {
        assert_eq!(class(&bench.deliver(replayed_at).await), Some(Class::Exhausted), "{replayed_at:?}");
    }
    // Once before a replay, twice after the first replay, three times after the second.
    assert_eq!(bench.sends(), 6);
}

#[tokio::test(start_paused = true)]
async fn message_that_waits_for_its_turn_at_a_stop_keeps_the_note_of_an_earlier_send() {
    let mut bench = TestBench::new(vec![unknown()]);
    assert!(is_again(&bench.deliver(None).await));
    bench.stage.pace = Some(SendPace::new(1));
    bench.stage.stop.cancel();
    // A replay begins a new count, but the note belongs to the copies of the message, too.
    let outcome = bench.deliver(Some(10)).await;
    assert!(matches!(outcome, Outcome::TryAgain(Failure { cause: Cause::Busy, .. })), "{outcome:?}");
    assert_eq!(bench.sends(), 1);
    let Begun::Act(Some(lease)) = bench.stage.deduplicator.begin("send:1", [1; 32]).await else {
        panic!("the claim is free");
    };
    assert_eq!(unknown::noted(lease.note(), None).sends, 1);
}

#[tokio::test(start_paused = true)]
async fn message_that_may_have_been_sent_waits_until_the_api_answers() {
    let bench = TestBench::new(vec![unknown(), accepted()]);
    assert!(is_again(&bench.deliver(None).await));
    bench.api.is_away.store(true, Ordering::Relaxed);
    for _ in 0..9 {
        assert!(is_again(&bench.deliver(None).await));
    }
    assert_eq!(bench.sends(), 1);
    bench.api.is_away.store(false, Ordering::Relaxed);
    assert!(matches!(bench.deliver(None).await, Outcome::Done(_)));
    assert_eq!(bench.sends(), 2);
}

#[tokio::test(start_paused = true)]
async fn sent_message_is_done_although_the_ledger_does_not_record_it() {
    let bench = TestBench::new(Vec::new());
    let fails = Arc::clone(&bench.fails);
    bench.api.calls.lock().unwrap().push_back(Box::new(move || {
        fails(true);
        Ok(AcceptedMessage { id: None })
    }));
    let begun = Instant::now();
    assert!(matches!(bench.deliver(None).await, Outcome::Done(_)));
    assert_eq!(begun.elapsed(), WRITE_TIME);
}

#[tokio::test(start_paused = true)]
async fn message_that_was_not_sent_counts_nothing_although_the_ledger_failed() {
    let bench = TestBench::new(Vec::new());
    let fails = Arc::clone(&bench.fails);
    bench.api.calls.lock().unwrap().push_back(Box::new(move || {
        fail_for_a_minute(fails);
        Err(SendError::Failed(failed(ErrorCause::Transient, false)))
    }));
    bench.api.calls.lock().unwrap().extend([unknown(), unknown(), accepted()]);
    for _ in 0..3 {
        assert!(is_again(&bench.deliver(None).await));
    }
    assert!(matches!(bench.deliver(None).await, Outcome::Done(_)));
}

#[tokio::test(start_paused = true)]
async fn message_is_too_late_after_a_long_wait_for_the_ledger() {
    let bench = TestBench::new(vec![unknown()]);
    assert!(is_again(&bench.deliver(None).await));
    sleep(Duration::from_secs(3600 - 90)).await;
    let fails = Arc::clone(&bench.fails);
    *bench.api.when_tried.lock().unwrap() = Some(Box::new(move || fail_for_a_minute(fails)));
    assert_eq!(class(&bench.deliver(None).await), Some(Class::Expired));
    assert_eq!(bench.sends(), 1);
}
