//! Tests of the breaker in paused time.

use std::future::Future;

use super::{
    history::{DISPUTES_MAX, REMEMBERED_MAX},
    verdict::LEDGER_MAX,
    *,
};
use crate::{
    outcome::{Batch, Class, Death, Failure},
    stages,
    telemetry::metrics::Metrics,
};

fn failure(cause: Cause, retry_after: Option<u64>) -> Outcome {
    Outcome::TryAgain(Failure {
        cause,
        reason: "it failed".into(),
        retry_after: retry_after.map(Duration::from_secs),
    })
}

fn event(number: u32) -> EventKey {
    EventKey::of(&number.to_string())
}

fn done() -> Outcome {
    Outcome::Done(Batch::default())
}

/// Shorthands for outcomes that the breaker observes.
trait Learns {
    fn learn(&self, number: u32, outcome: &Outcome) -> Option<u64>;
    fn verdict(&self, number: u32, outcome: &Outcome) -> BreakerVerdict;
    fn probe_fails(&self, number: u32) -> impl Future<Output = Option<u64>>;
}

impl Learns for Breaker {
    /// Observes an outcome of event `number` whose work starts now; returns the wait in seconds if postponed.
    fn learn(&self, number: u32, outcome: &Outcome) -> Option<u64> {
        seconds(self.verdict(number, outcome))
    }

    fn verdict(&self, number: u32, outcome: &Outcome) -> BreakerVerdict {
        self.observe(event(number), Instant::now(), outcome, Timestamp::MAX)
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
    let metrics = Metrics::off().stage(&stages::LINK).breaker;
    Breaker::new("link", policy, BreakerState::default(), metrics, Clock::system(), Random::system())
}

#[tokio::test(start_paused = true)]
async fn breaker_opens_after_failed_events_in_a_row_and_closes_on_success() {
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
    breaker.learn(7, &Outcome::Dead(Death::new(Class::Invalid, "unrelated to the API")));
    assert!(breaker.probe_at().is_some());
    breaker.learn(8, &Outcome::Dead(Death::new(Class::Rejected, "it answered")));
    assert_eq!(breaker.probe_at(), None);
}

#[tokio::test(start_paused = true)]
async fn event_failing_alone_is_counted_and_keeps_the_breaker_closed() {
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

/// An outage may be intermittent, affect one event only, and start again with each worker.
#[tokio::test(start_paused = true)]
async fn failure_that_the_api_may_have_caused_is_not_counted() {
    let unavailable = failure(Cause::Unavailable, None);
    for _restart in 0..3 {
        let breaker = breaker();
        let verdicts = [(); 2].map(|()| breaker.verdict(1, &unavailable));
        assert_eq!(verdicts, [BreakerVerdict::Unclear(1), BreakerVerdict::Unclear(2)]);
        for _ in 0..20 {
            pass(30_000).await;
            assert!(matches!(breaker.verdict(1, &unavailable), BreakerVerdict::Postponed(_)));
        }
        // A success of the event itself proves nothing, nor does an earlier success of another event.
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

/// During an outage the API still rejects wrong requests. One flow that sends them must not make the failures of others count.
#[tokio::test(start_paused = true)]
async fn rejected_event_is_no_success_of_others() {
    let breaker = breaker();
    let unavailable = failure(Cause::Unavailable, None);
    for round in 0..20 {
        for number in [1, 2] {
            assert_ne!(
                breaker.verdict(number, &unavailable),
                BreakerVerdict::Own,
                "{number} in round {round}"
            );
        }
        pass(10).await;
        breaker.learn(100 + round, &Outcome::Dead(Death::new(Class::Rejected, "it answered")));
        pass(10).await;
    }
}

/// One call of five succeeds, and no event is to blame for the failures. An event that goes on to fail is given up all the same.
#[tokio::test(start_paused = true)]
async fn partial_outage_counts_against_no_event_for_a_while() {
    let breaker = breaker();
    let unavailable = failure(Cause::Unavailable, None);
    for round in 0..20 {
        for number in [1, 2, 3, 4] {
            let counted = breaker.verdict(number, &unavailable) == BreakerVerdict::Own;
            assert_eq!(counted, round > DISPUTES_MAX, "{number} in round {round}");
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
    assert!(breaker.state.is_open(), "no probe is due yet");
    tokio::time::sleep_until(breaker.probe_at().unwrap()).await;
    breaker.nothing_waits();
    assert!(!breaker.state.is_open() && breaker.probe_at().is_some());
    breaker.learn(4, &unavailable);
    assert!(breaker.state.is_open());
    // Opened by one event that failed for two minutes, and hidden when that event was over.
    let few = self::breaker();
    for _ in 0..3 {
        few.learn(1, &unavailable);
    }
    pass(120_000).await;
    few.learn(1, &unavailable);
    few.nothing_waits();
    assert!(!few.state.is_open());
    few.learn(2, &unavailable);
    assert!(few.state.is_open());
    breaker.learn(5, &failure(Cause::Token, None));
    tokio::time::sleep_until(breaker.probe_at().unwrap()).await;
    breaker.nothing_waits();
    assert!(breaker.state.is_open(), "the next event would meet the refused token");
    breaker.token_replaced();
    assert!(!breaker.state.is_open() && !breaker.state.is_token_refused() && breaker.is_due());
    breaker.learn(6, &failure(Cause::Token, None));
    assert!(breaker.state.is_open() && breaker.state.is_token_refused());
}

/// This looks like an outage: the failures are not counted, and other events are not delayed.
#[tokio::test(start_paused = true)]
async fn single_failing_event_is_postponed_longer_and_not_counted() {
    let breaker = breaker();
    let unavailable = failure(Cause::Unavailable, None);
    let times: Vec<_> = (0..6).map(|_| breaker.learn(1, &unavailable)).collect();
    assert_eq!(times, [None, None, Some(1), Some(5), Some(25), Some(30)]);
    assert_eq!(breaker.probe_at(), None);
    pass(120_000).await;
    breaker.learn(1, &unavailable);
    for number in [1, 2] {
        assert!(breaker.is_due(), "an outage by now, and another event probes at once");
        breaker.learn(number, &unavailable);
    }
    breaker.learn(3, &unavailable);
    assert!(!breaker.is_due(), "as many events as for any outage");
    pass(1).await;
    breaker.learn(4, &done());
    assert_eq!(breaker.probe_at(), None);
    pass(1).await;
    assert_ne!(breaker.verdict(1, &unavailable), BreakerVerdict::Own, "more failed than succeeded");
    pass(1).await;
    breaker.learn(5, &done());
    pass(1).await;
    assert_eq!(breaker.verdict(1, &unavailable), BreakerVerdict::Own, "another event succeeded");
}

/// The successful call started earlier, so it proves nothing about later times.
#[tokio::test(start_paused = true)]
async fn success_of_earlier_work_does_not_close_the_breaker() {
    let breaker = breaker();
    let unavailable = failure(Cause::Unavailable, None);
    let before = Instant::now();
    pass(1).await;
    for _ in 0..3 {
        breaker.learn(1, &unavailable);
    }
    breaker.observe(event(9), before, &done(), Timestamp::MAX);
    for _ in 0..2 {
        assert_eq!(breaker.learn(1, &unavailable), None, "its own failures in a row, as before");
    }
    assert_eq!(breaker.learn(1, &unavailable), Some(1), "nothing proves that the API works");
    breaker.learn(2, &unavailable);
    breaker.learn(3, &unavailable);
    assert!(breaker.probe_at().is_some());
    breaker.observe(event(9), before, &done(), Timestamp::MAX);
    assert!(breaker.probe_at().is_some(), "its work started before the breaker opened");
    breaker.learn(9, &done());
    assert_eq!(breaker.probe_at(), None);
}

#[tokio::test(start_paused = true)]
async fn success_while_rate_limited_does_not_close_the_breaker() {
    let breaker = breaker();
    breaker.learn(1, &failure(Cause::RateLimited, Some(60)));
    let until = breaker.probe_at().unwrap();
    pass(1).await;
    breaker.learn(2, &done());
    assert_eq!(breaker.probe_at(), Some(until), "no call would be made before");
    assert!(breaker.state.is_open());
    tokio::time::sleep_until(until).await;
    breaker.learn(2, &done());
    assert_eq!(breaker.probe_at(), None);
    assert!(!breaker.state.is_open());
}

#[tokio::test(start_paused = true)]
async fn event_that_fails_as_a_probe_waits_longer_than_others() {
    let breaker = breaker();
    for number in 1..=3 {
        breaker.learn(number, &failure(Cause::Unavailable, None));
    }
    let postponed =
        [breaker.probe_fails(1).await, breaker.probe_fails(1).await, breaker.probe_fails(2).await];
    assert_eq!(postponed, [Some(1), Some(5), Some(1)]);
}

/// Otherwise each of many copies of one event would cost another call.
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
    assert_eq!(waits(), Some(3500), "of five seconds, minus the clock tolerance");
    assert_eq!(breaker.waits(event(2)), None);
    breaker.learn(2, &done());
    assert_eq!(waits(), None, "it works again");
}

#[tokio::test(start_paused = true)]
async fn number_of_kept_failed_events_is_limited() {
    let breaker = breaker();
    breaker.learn(0, &done());
    for number in 0..5_000 {
        breaker.learn(number, &failure(Cause::Unavailable, None));
    }
    let inner = breaker.inner();
    assert_eq!((inner.failed.len(), inner.failing.len()), (REMEMBERED_MAX, 3));
}

#[tokio::test(start_paused = true)]
async fn overdue_stage_counts_as_a_failure() {
    let breaker = breaker();
    breaker.learn(1, &failure(Cause::Unavailable, None));
    breaker.overdue(event(2), Instant::now());
    assert_eq!(breaker.probe_at(), None);
    breaker.overdue(event(3), Instant::now());
    assert!(breaker.probe_at().is_some());
    breaker.learn(4, &done());
    assert_eq!(breaker.probe_at(), None);
}

#[tokio::test(start_paused = true)]
async fn ledger_answer_does_not_close_the_breaker_of_an_api() {
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
async fn ledger_answer_ends_an_outage_of_the_ledger() {
    let breaker = breaker();
    breaker.learn(1, &failure(Cause::Ledger, None));
    assert!(breaker.probe_at().is_some());
    breaker.learn(2, &Outcome::DoneBefore(Batch::default()));
    assert_eq!(breaker.probe_at(), None);
    // A single failed call meanwhile is not an outage.
    breaker.learn(1, &failure(Cause::Ledger, None));
    breaker.learn(2, &failure(Cause::Unavailable, None));
    breaker.learn(3, &Outcome::DoneBefore(Batch::default()));
    assert_eq!(breaker.probe_at(), None);
    // The ledger is not the cause if the token was refused too.
    breaker.learn(1, &failure(Cause::Token, None));
    breaker.learn(2, &failure(Cause::Ledger, None));
    breaker.learn(3, &Outcome::DoneBefore(Batch::default()));
    assert!(breaker.probe_at().is_some());
}

/// An event that is affected by many outages of the ledger is not to blame.
#[tokio::test(start_paused = true)]
async fn ledger_outages_are_not_counted_against_an_event() {
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
async fn token_refusal_is_shown_until_the_token_works() {
    let breaker = breaker();
    breaker.learn(1, &failure(Cause::Unavailable, None));
    assert!(!breaker.state.is_token_refused());
    let begun = Instant::now();
    pass(10).await;
    breaker.learn(2, &failure(Cause::Token, None));
    assert!(breaker.state.is_token_refused());
    breaker.observe(event(3), begun, &failure(Cause::Unavailable, None), Timestamp::MAX);
    assert!(breaker.state.is_token_refused(), "this call began before the refusal");
    breaker.learn(3, &done());
    assert!(!breaker.state.is_token_refused());
}

/// With a new token, the API may be down. The alert must then say so, and not that the token is refused.
#[tokio::test(start_paused = true)]
async fn token_refusal_is_not_shown_if_the_probe_fails_for_another_reason() {
    let breaker = breaker();
    breaker.learn(1, &failure(Cause::Token, None));
    assert!(breaker.state.is_token_refused());
    pass(60_000).await;
    breaker.learn(2, &failure(Cause::Unavailable, None));
    assert!(!breaker.state.is_token_refused() && breaker.state.is_open());
    pass(60_000).await;
    breaker.learn(2, &failure(Cause::Token, None));
    assert!(breaker.state.is_token_refused());
    pass(60_000).await;
    breaker.learn(2, &failure(Cause::RateLimited, Some(1)));
    assert!(!breaker.state.is_token_refused() && breaker.state.is_open());
}

/// Calls that hang began before the refusal, and fail when a probe is due.
#[tokio::test(start_paused = true)]
async fn token_refusal_outlasts_failures_of_earlier_calls() {
    let breaker = breaker();
    let begun = Instant::now();
    pass(10).await;
    breaker.learn(1, &failure(Cause::Token, None));
    pass(60_000).await;
    breaker.observe(event(2), begun, &failure(Cause::Unavailable, None), Timestamp::MAX);
    breaker.overdue(event(3), begun);
    assert!(breaker.state.is_token_refused());
    pass(60_000).await;
    breaker.nothing_waits();
    assert!(breaker.state.is_open(), "the cause is still the token");
    breaker.token_replaced();
    assert!(!breaker.state.is_token_refused() && !breaker.state.is_open());
}

#[tokio::test(start_paused = true)]
async fn retry_after_opens_the_breaker_for_at_least_that_long() {
    let breaker = breaker();
    breaker.learn(1, &failure(Cause::RateLimited, Some(7)));
    breaker.learn(2, &failure(Cause::RateLimited, Some(3)));
    let wait = breaker.probe_at().unwrap() - Instant::now();
    assert_eq!(wait, Duration::from_secs(7));
}

#[tokio::test(start_paused = true)]
async fn failed_probe_delays_the_next_for_every_opening_cause() {
    for (cause, retry_after) in [(Cause::RateLimited, Some(7)), (Cause::Token, None), (Cause::Ledger, None)] {
        let breaker = breaker();
        breaker.learn(1, &failure(cause, retry_after));
        let first = breaker.probe_at().unwrap();
        breaker.learn(2, &failure(Cause::Unavailable, None));
        assert_eq!(breaker.probe_at(), Some(first), "earlier work: {cause:?}");
        breaker.probe_fails(3).await;
        let second = breaker.probe_at().unwrap();
        assert!(second > Instant::now(), "{cause:?}");
        tokio::time::sleep_until(second).await;
        breaker.overdue(event(3), Instant::now());
        assert!(breaker.probe_at().unwrap() > Instant::now(), "{cause:?}");
        breaker.learn(4, &done());
        assert_eq!(breaker.probe_at(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn probe_interval_grows_up_to_its_maximum() {
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

/// The ledger's recovery is noticed within seconds even after a long outage: probes and postponed events wait no
/// longer.
#[tokio::test(start_paused = true)]
async fn ledger_recovery_is_noticed_within_seconds() {
    let breaker = breaker();
    for _ in 0..20 {
        let postponed = breaker.learn(1, &failure(Cause::Ledger, None));
        assert!(postponed.is_some_and(|wait| wait <= 2), "{postponed:?}");
        let wait = breaker.probe_at().unwrap() - Instant::now();
        assert!(wait <= LEDGER_MAX, "{wait:?}");
        tokio::time::sleep_until(breaker.probe_at().unwrap()).await;
    }
    // If an API is down too, it is still probed rarely.
    breaker.learn(2, &failure(Cause::Unavailable, None));
    for _ in 0..10 {
        breaker.probe_fails(3).await;
    }
    assert!(breaker.probe_at().unwrap() - Instant::now() >= Duration::from_secs(15));
}

/// The token is replaced while two calls are in progress. The call with the new token succeeds, and then the other one is refused.
#[tokio::test(start_paused = true)]
async fn refusal_of_a_replaced_token_does_not_open_the_breaker_again() {
    let breaker = breaker();
    let refused = failure(Cause::Token, None);
    breaker.learn(1, &refused);
    pass(1000).await;
    let begun = Instant::now();
    pass(10).await;
    breaker.learn(2, &done());
    assert_eq!(breaker.probe_at(), None);
    pass(10).await;
    let verdict = breaker.observe(event(3), begun, &refused, Timestamp::MAX);
    assert_eq!((seconds(verdict), breaker.probe_at()), (Some(1), None), "it is postponed, no attempt counts");
    assert!(!breaker.state.is_token_refused());
    breaker.learn(4, &refused);
    assert!(breaker.probe_at().is_some(), "a later refusal is one of the new token");
}

/// Another stage takes the message over.
#[tokio::test(start_paused = true)]
async fn rejection_does_not_show_that_the_api_works_for_others() {
    let rejection = || Outcome::Done(Batch { is_rejection: true, ..Batch::default() });
    for (outcome, expected) in [(done(), BreakerVerdict::Own), (rejection(), BreakerVerdict::Unclear(1))] {
        let breaker = breaker();
        let unavailable = failure(Cause::Unavailable, None);
        breaker.learn(1, &unavailable);
        for number in [2, 3] {
            pass(10).await;
            breaker.learn(number, &outcome);
        }
        pass(10).await;
        assert_eq!(breaker.verdict(1, &unavailable), expected);
    }
}
