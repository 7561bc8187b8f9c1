//! The breaker in paused time.

use std::future::Future;

use super::*;
use crate::{
    contract::time::WireTime,
    outcome::{Batch, Death, Failure},
    telemetry::metrics::{Metrics, labels},
};

fn failure(cause: Cause, retry_after: Option<u64>) -> Outcome {
    Outcome::TryAgain(Failure {
        cause,
        reason: "it failed".into(),
        retry_after: retry_after.map(Duration::from_secs),
        deadline: WireTime::floor(jiff::Timestamp::MAX),
    })
}

fn event(number: u32) -> EventKey {
    EventKey::of(&number.to_string())
}

fn done() -> Outcome {
    Outcome::Done(Batch::default())
}

/// What a test has the breaker learn.
trait Learns {
    fn learn(&self, number: u32, outcome: &Outcome) -> Option<u64>;
    fn verdict(&self, number: u32, outcome: &Outcome) -> BreakerVerdict;
    fn probe_fails(&self, number: u32) -> impl Future<Output = Option<u64>>;
}

impl Learns for Breaker {
    /// The outcome of work on event `number` that began now; for how many seconds it is postponed.
    fn learn(&self, number: u32, outcome: &Outcome) -> Option<u64> {
        seconds(self.verdict(number, outcome))
    }

    fn verdict(&self, number: u32, outcome: &Outcome) -> BreakerVerdict {
        self.observe(event(number), Instant::now(), outcome)
    }

    async fn probe_fails(&self, number: u32) -> Option<u64> {
        tokio::time::sleep_until(self.probe_at().unwrap()).await;
        self.learn(number, &failure(Cause::Unavailable, None))
    }
}

fn seconds(verdict: BreakerVerdict) -> Option<u64> {
    if let BreakerVerdict::Postponed(postponed) = verdict { Some(postponed.wait.as_secs()) } else { None }
}

async fn pass(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

fn breaker() -> Breaker {
    let policy = BreakerPolicy {
        failures: 3,
        probe_initial: Duration::from_secs(1),
        probe_max: Duration::from_secs(30),
    };
    let metrics = Metrics::new(&[]).unwrap().stage(labels::Stage::Link).breaker;
    Breaker::new("link", policy, metrics)
}

#[tokio::test(start_paused = true)]
async fn different_events_that_fail_in_a_row_open_it_and_a_success_closes_it() {
    let breaker = breaker();
    let unavailable = failure(Cause::Unavailable, None);
    for number in [1, 2] {
        breaker.learn(number, &unavailable);
    }
    breaker.learn(3, &done());
    for number in [4, 5] {
        breaker.learn(number, &unavailable);
    }
    assert_eq!(breaker.probe_at(), None);
    assert_eq!(breaker.learn(6, &unavailable), Some(1));
    assert!(breaker.probe_at().is_some());
    breaker.learn(7, &Outcome::Dead(Death::new(Class::Invalid, "says nothing of the API")));
    assert!(breaker.probe_at().is_some());
    breaker.learn(8, &Outcome::Dead(Death::new(Class::Rejected, "it answered")));
    assert_eq!(breaker.probe_at(), None);
}

#[tokio::test(start_paused = true)]
async fn event_that_fails_alone_opens_nothing_and_is_counted() {
    for (cause, spared) in [(Cause::Unavailable, 0), (Cause::Malformed, 0), (Cause::Token, 1)] {
        let breaker = breaker();
        let fails = failure(cause, None);
        breaker.learn(1, &fails);
        let mut opened = breaker.probe_at().is_some();
        for time in 0..50 {
            pass(10).await;
            breaker.learn(100 + time, &done());
            assert_eq!(breaker.probe_at(), None, "{cause:?}");
            pass(10).await;
            let verdict = breaker.verdict(1, &fails);
            assert_eq!(verdict != BreakerVerdict::Own, time < spared, "{cause:?} {time}");
            opened |= breaker.probe_at().is_some() && time > 0;
        }
        assert_eq!(opened, cause == Cause::Token, "a refused token opens at once, and once: {cause:?}");
    }
}

/// An outage may come in pieces, meet one event only, and begin again with each worker.
#[tokio::test(start_paused = true)]
async fn no_failure_is_counted_that_may_be_the_apis() {
    let unavailable = failure(Cause::Unavailable, None);
    for _restart in 0..3 {
        let breaker = breaker();
        let verdicts = [(); 2].map(|()| breaker.verdict(1, &unavailable));
        assert_eq!(verdicts, [BreakerVerdict::Unclear(1), BreakerVerdict::Unclear(2)]);
        for _ in 0..20 {
            pass(30_000).await;
            assert!(matches!(breaker.verdict(1, &unavailable), BreakerVerdict::Postponed(_)));
        }
        // Its own success proves nothing, and what another one met before neither.
        let breaker = self::breaker();
        breaker.learn(2, &done());
        pass(1).await;
        assert_eq!(breaker.verdict(1, &unavailable), BreakerVerdict::Unclear(1));
        pass(1).await;
        breaker.learn(1, &done());
        pass(1).await;
        assert_eq!(breaker.verdict(1, &unavailable), BreakerVerdict::Unclear(1));
        pass(1).await;
        breaker.learn(2, &done());
        pass(1).await;
        assert_eq!(breaker.verdict(1, &unavailable), BreakerVerdict::Own);
        assert_eq!(breaker.verdict(1, &unavailable), BreakerVerdict::Unclear(1));
    }
}

/// In an outage the API still refuses requests that are wrong: one flow that sends them must not have all others counted.
#[tokio::test(start_paused = true)]
async fn refused_event_is_no_event_that_was_served() {
    let breaker = breaker();
    let unavailable = failure(Cause::Unavailable, None);
    for round in 0..20 {
        for number in [1, 2] {
            assert_ne!(breaker.verdict(number, &unavailable), BreakerVerdict::Own, "{number} in round {round}");
        }
        pass(10).await;
        breaker.learn(100 + round, &Outcome::Dead(Death::new(Class::Rejected, "it answered")));
        pass(10).await;
    }
}

/// One call of five succeeds: no event is to blame for the others.
#[tokio::test(start_paused = true)]
async fn partial_outage_counts_against_no_event() {
    let breaker = breaker();
    let unavailable = failure(Cause::Unavailable, None);
    for round in 0..20 {
        for number in [1, 2, 3, 4] {
            assert_ne!(breaker.verdict(number, &unavailable), BreakerVerdict::Own, "{number} in round {round}");
        }
        pass(10).await;
        breaker.learn(100 + round, &done());
        pass(10).await;
    }
}

#[tokio::test(start_paused = true)]
async fn breaker_without_waiting_messages_is_shown_as_closed_until_the_next_failure() {
    let breaker = breaker();
    let unavailable = failure(Cause::Unavailable, None);
    for number in [1, 2, 3] {
        breaker.learn(number, &unavailable);
    }
    breaker.nothing_waits();
    assert!(breaker.metrics.is_open(), "no probe is due yet");
    tokio::time::sleep_until(breaker.probe_at().unwrap()).await;
    breaker.nothing_waits();
    assert!(!breaker.metrics.is_open() && breaker.probe_at().is_some());
    breaker.learn(4, &unavailable);
    assert!(breaker.metrics.is_open());
    breaker.learn(5, &failure(Cause::Token, None));
    tokio::time::sleep_until(breaker.probe_at().unwrap()).await;
    breaker.nothing_waits();
    assert!(breaker.metrics.is_open(), "the next event would meet the refused token");
}

/// Nobody can tell it from an outage: it is neither counted for ever nor does it hold up others.
#[tokio::test(start_paused = true)]
async fn single_event_that_fails_is_postponed_longer_each_time_and_not_counted() {
    let breaker = breaker();
    let unavailable = failure(Cause::Unavailable, None);
    let times: Vec<_> = (0..6).map(|_| breaker.learn(1, &unavailable)).collect();
    assert_eq!(times, [None, None, Some(1), Some(5), Some(25), Some(30)]);
    assert_eq!(breaker.probe_at(), None);
    pass(120_000).await;
    breaker.learn(1, &unavailable);
    for number in [1, 2] {
        assert!(breaker.is_due(), "shown as an outage by then, and another event is tried at once");
        breaker.learn(number, &unavailable);
    }
    breaker.learn(3, &unavailable);
    assert!(!breaker.is_due(), "as many as for any outage");
    pass(1).await;
    breaker.learn(4, &done());
    assert_eq!(breaker.probe_at(), None);
    pass(1).await;
    assert_ne!(breaker.verdict(1, &unavailable), BreakerVerdict::Own, "more failed than were served");
    pass(1).await;
    breaker.learn(5, &done());
    pass(1).await;
    assert_eq!(breaker.verdict(1, &unavailable), BreakerVerdict::Own, "others are served");
}

/// Whoever was served had been asked for before: that says nothing of what came after.
#[tokio::test(start_paused = true)]
async fn success_of_work_that_began_before_proves_and_closes_nothing() {
    let breaker = breaker();
    let unavailable = failure(Cause::Unavailable, None);
    let before = Instant::now();
    pass(1).await;
    for _ in 0..3 {
        breaker.learn(1, &unavailable);
    }
    breaker.observe(event(9), before, &done());
    for _ in 0..2 {
        assert_eq!(breaker.learn(1, &unavailable), None, "a row of its own, as before");
    }
    assert_eq!(breaker.learn(1, &unavailable), Some(1), "nothing proves that the API works");
    breaker.learn(2, &unavailable);
    breaker.learn(3, &unavailable);
    assert!(breaker.probe_at().is_some());
    breaker.observe(event(9), before, &done());
    assert!(breaker.probe_at().is_some(), "it began before the breaker opened");
    breaker.learn(9, &done());
    assert_eq!(breaker.probe_at(), None);
}

#[tokio::test(start_paused = true)]
async fn success_while_rate_limited_does_not_close_it() {
    let breaker = breaker();
    breaker.learn(1, &failure(Cause::RateLimited, Some(60)));
    let until = breaker.probe_at().unwrap();
    pass(1).await;
    breaker.learn(2, &done());
    assert_eq!(breaker.probe_at(), Some(until), "no call would be made before");
    assert!(breaker.metrics.is_open());
    tokio::time::sleep_until(until).await;
    breaker.learn(2, &done());
    assert_eq!(breaker.probe_at(), None);
    assert!(!breaker.metrics.is_open());
}

#[tokio::test(start_paused = true)]
async fn event_that_fails_as_a_probe_is_put_behind_the_others() {
    let breaker = breaker();
    for number in 1..=3 {
        breaker.learn(number, &failure(Cause::Unavailable, None));
    }
    let postponed =
        [breaker.probe_fails(1).await, breaker.probe_fails(1).await, breaker.probe_fails(2).await];
    assert_eq!(postponed, [Some(1), Some(5), Some(1)]);
}

/// Else each of many copies of one event would be a call more.
#[tokio::test(start_paused = true)]
async fn copies_of_a_postponed_event_wait_with_it() {
    let breaker = breaker();
    let unavailable = failure(Cause::Unavailable, None);
    let waits = || breaker.waits(event(1)).map(|postponed| postponed.wait.as_millis());
    for counted in [None, None, Some(1), Some(5)] {
        assert_eq!(waits(), None);
        assert_eq!(breaker.learn(1, &unavailable), counted);
        pass(if counted.is_some() { 1000 } else { 0 }).await;
    }
    assert_eq!(waits(), Some(3500), "of five seconds, less what clocks may differ by");
    assert_eq!(breaker.waits(event(2)), None);
    breaker.learn(2, &done());
    assert_eq!(waits(), None, "it works again");
}

#[tokio::test(start_paused = true)]
async fn few_of_many_events_that_failed_are_remembered() {
    let breaker = breaker();
    breaker.learn(0, &done());
    for number in 0..5_000 {
        breaker.learn(number, &failure(Cause::Unavailable, None));
    }
    let inner = breaker.inner();
    assert_eq!((inner.failed.len(), inner.failing.len()), (REMEMBERED_MAX, 3));
}

#[tokio::test(start_paused = true)]
async fn a_stage_without_an_outcome_is_a_failure() {
    let breaker = breaker();
    breaker.learn(1, &failure(Cause::Unavailable, None));
    breaker.overdue(event(2));
    assert_eq!(breaker.probe_at(), None);
    breaker.overdue(event(3));
    assert!(breaker.probe_at().is_some());
    breaker.learn(4, &done());
    assert_eq!(breaker.probe_at(), None);
}

#[tokio::test(start_paused = true)]
async fn what_the_ledger_answers_says_nothing_of_the_api() {
    let breaker = breaker();
    breaker.learn(1, &failure(Cause::Unavailable, None));
    breaker.learn(2, &failure(Cause::Unavailable, None));
    breaker.learn(3, &Outcome::DoneBefore(Batch::default()));
    breaker.learn(4, &failure(Cause::Unavailable, None));
    assert!(breaker.probe_at().is_some(), "it was the third failure in a row");
    breaker.learn(5, &Outcome::DoneBefore(Batch::default()));
    assert!(breaker.probe_at().is_some());
}

#[tokio::test(start_paused = true)]
async fn what_the_ledger_answers_ends_an_outage_of_the_ledger() {
    let breaker = breaker();
    breaker.learn(1, &failure(Cause::Ledger, None));
    assert!(breaker.probe_at().is_some());
    breaker.learn(2, &Outcome::DoneBefore(Batch::default()));
    assert_eq!(breaker.probe_at(), None);
    // Nor is one call that fails meanwhile an outage.
    breaker.learn(1, &failure(Cause::Ledger, None));
    breaker.learn(2, &failure(Cause::Unavailable, None));
    breaker.learn(3, &Outcome::DoneBefore(Batch::default()));
    assert_eq!(breaker.probe_at(), None);
    // What it was opened by the last time is no more, and not what also fails.
    breaker.learn(1, &failure(Cause::Token, None));
    breaker.learn(2, &failure(Cause::Ledger, None));
    breaker.learn(3, &Outcome::DoneBefore(Batch::default()));
    assert!(breaker.probe_at().is_some());
}

/// An event that meets each of many outages of the ledger is not to blame.
#[tokio::test(start_paused = true)]
async fn outages_of_the_ledger_count_against_no_event() {
    let breaker = breaker();
    for time in 0..20 {
        assert!(breaker.learn(1, &failure(Cause::Ledger, None)).is_some());
        pass(1).await;
        breaker.learn(100 + time, &done());
        assert_eq!(breaker.probe_at(), None);
        pass(1).await;
    }
}

#[tokio::test(start_paused = true)]
async fn only_a_refused_token_is_shown_as_one_and_until_it_works() {
    let breaker = breaker();
    breaker.learn(1, &failure(Cause::Unavailable, None));
    assert!(!breaker.metrics.is_token_refused());
    breaker.learn(2, &failure(Cause::Token, None));
    assert!(breaker.metrics.is_token_refused());
    breaker.learn(3, &done());
    assert!(!breaker.metrics.is_token_refused());
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_opens_it_for_at_least_that_long() {
    let breaker = breaker();
    breaker.learn(1, &failure(Cause::RateLimited, Some(7)));
    breaker.learn(2, &failure(Cause::RateLimited, Some(3)));
    let wait = breaker.probe_at().unwrap() - Instant::now();
    assert_eq!(wait, Duration::from_secs(7));
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_fails_waits_for_the_next_whatever_opened_it() {
    for (cause, retry_after) in [(Cause::RateLimited, Some(7)), (Cause::Token, None), (Cause::Ledger, None)] {
        let breaker = breaker();
        breaker.learn(1, &failure(cause, retry_after));
        let first = breaker.probe_at().unwrap();
        breaker.learn(2, &failure(Cause::Unavailable, None));
        assert_eq!(breaker.probe_at(), Some(first), "a straggler of before: {cause:?}");
        breaker.probe_fails(3).await;
        let second = breaker.probe_at().unwrap();
        assert!(second > Instant::now(), "{cause:?}");
        tokio::time::sleep_until(second).await;
        breaker.overdue(event(3));
        assert!(breaker.probe_at().unwrap() > Instant::now(), "{cause:?}");
        breaker.learn(4, &done());
        assert_eq!(breaker.probe_at(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn probes_come_further_and_further_apart_up_to_the_longest() {
    let breaker = breaker();
    let mut waits = Vec::new();
    for _ in 0..12 {
        breaker.learn(1, &failure(Cause::Token, None));
        breaker.learn(1, &failure(Cause::Token, None));
        waits.push(breaker.probe_at().unwrap() - Instant::now());
        tokio::time::sleep_until(breaker.probe_at().unwrap()).await;
    }
    assert!(waits[0] <= Duration::from_millis(1500), "{waits:?}");
    assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(30)));
    assert!(waits[11] >= Duration::from_secs(15), "{waits:?}");
}

/// However long the ledger was away, its return is noticed soon: probes and postponed events are at most some seconds late.
#[tokio::test(start_paused = true)]
async fn ledger_that_is_back_is_noticed_within_seconds() {
    let breaker = breaker();
    for _ in 0..20 {
        let postponed = breaker.learn(1, &failure(Cause::Ledger, None));
        assert!(postponed.is_some_and(|wait| wait <= 2), "{postponed:?}");
        let wait = breaker.probe_at().unwrap() - Instant::now();
        assert!(wait <= LEDGER_MAX, "{wait:?}");
        tokio::time::sleep_until(breaker.probe_at().unwrap()).await;
    }
    // An API that is down as well is asked as seldom as ever.
    breaker.learn(2, &failure(Cause::Unavailable, None));
    for _ in 0..10 {
        breaker.probe_fails(3).await;
    }
    assert!(breaker.probe_at().unwrap() - Instant::now() >= Duration::from_secs(15));
}
