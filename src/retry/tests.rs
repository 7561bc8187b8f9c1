use proptest::prelude::*;

use super::*;

fn policy() -> RetryPolicy {
    RetryPolicy {
        initial: Duration::from_secs(1),
        max: Duration::from_secs(30),
        multiplier: 2.0,
        jitter: 0.2,
        attempts: 5,
        total: Duration::from_secs(300),
        delays: vec![Duration::from_secs(1)].try_into().unwrap(),
    }
}

fn now() -> Timestamp {
    "2026-11-21T09:00:00Z".parse().unwrap()
}

/// A failure, and the deadline of its session.
fn failure(retry_after: Option<Duration>, left: i64) -> (Failure, Timestamp) {
    let deadline = now() + SignedDuration::from_secs(left);
    (Failure { cause: Cause::Unavailable, reason: "it failed".into(), retry_after }, deadline)
}

fn decided(
    policy: &RetryPolicy,
    (failure, deadline): &(Failure, Timestamp),
    history: AttemptHistory,
    now: Timestamp,
    random: f64,
) -> Decision {
    decide(policy, failure, history, *deadline, now, random)
}

fn first() -> AttemptHistory {
    AttemptHistory { attempts: 0, waited: Duration::ZERO }
}

#[test]
fn waits_double_up_to_the_maximum() {
    let policy = RetryPolicy { jitter: 0.0, attempts: 99, total: Duration::from_secs(3600), ..policy() };
    let waits: Vec<_> = (0..8)
        .map(|attempts| {
            match decided(&policy, &failure(None, 3600), AttemptHistory { attempts, ..first() }, now(), 0.7) {
                Decision::Again { at, .. } => at.duration_since(now()).as_secs(),
                Decision::GiveUp(death) => panic!("{death:?}"),
            }
        })
        .collect();
    assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30, 30]);
}

#[test]
fn waits_follow_each_attempt_but_the_last() {
    assert_eq!(waits(&policy()).map(|wait| wait.as_secs()).collect::<Vec<_>>(), [1, 2, 4, 8]);
}

#[test]
fn postponed_message_returns_in_time_or_early() {
    let delays = [1, 5, 30, 120].map(Duration::from_secs);
    let seconds = |wait, max, left| {
        let [wait, max, left] = [wait, max, left].map(Duration::from_secs);
        postponed_for(&delays, wait, max, left).map(|(wait, delay)| (wait.as_secs(), delay.as_secs()))
    };
    assert_eq!(
        [1, 2, 25, 30].map(|wait| seconds(wait, 30, 3600)),
        [(1, 1), (5, 5), (30, 30), (30, 30)].map(Some)
    );
    assert_eq!(seconds(31, 31, 3600), Some((31, 30)), "not the delay of two minutes");
    assert_eq!(seconds(20, 20, 3600), Some((20, 5)));
    assert_eq!(
        [31, 30, 5, 1, 0].map(|left| seconds(30, 30, left)),
        [(30, 30), (5, 5), (1, 1), (1, 1), (1, 1)].map(Some)
    );
    assert_eq!(seconds(0, 0, 3600), Some((1, 1)), "the shortest delay");
    assert_eq!(postponed_for(&[], Duration::ZERO, Duration::MAX, Duration::MAX), None);
}

#[test]
fn waits_grow_to_any_maximum() {
    let policy = RetryPolicy { max: Duration::from_secs(7200), multiplier: 3.0, ..policy() };
    assert_eq!(
        [1, 2, 8, 9, 99]
            .map(|attempt| interval(policy.initial, policy.max, policy.multiplier, attempt).as_secs()),
        [1, 3, 2187, 6561, 7200]
    );
}

#[test]
fn jitter_varies_waits_both_ways_and_a_retry_after_only_later() {
    let asked = Some(Duration::from_secs(7));
    let wait =
        |retry_after, random| match decided(&policy(), &failure(retry_after, 3600), first(), now(), random) {
            Decision::Again { at, .. } => at.duration_since(now()).as_millis(),
            Decision::GiveUp(death) => panic!("{death:?}"),
        };
    assert_eq!([0.0, 0.25, 0.5, 1.0].map(|random| wait(None, random)), [800, 900, 1000, 1200]);
    assert_eq!([0.0, 0.5, 1.0].map(|random| wait(asked, random)), [7000, 7100, 7200]);
}

#[test]
fn failure_of_the_last_attempt_is_exhausted() {
    let last = AttemptHistory { attempts: 4, ..first() };
    let Decision::GiveUp(death) = decided(&policy(), &failure(None, 3600), last, now(), 0.5) else {
        panic!()
    };
    assert_eq!((death.class, death.reason.as_str()), (Class::Exhausted, "it failed (attempt 5 of 5)"));
}

#[test]
fn failure_beyond_the_total_wait_is_exhausted() {
    let old = AttemptHistory { attempts: 1, waited: Duration::from_millis(298_001) };
    let Decision::GiveUp(death) = decided(&policy(), &failure(None, 3600), old, now(), 0.5) else { panic!() };
    assert_eq!(death.class, Class::Exhausted);
    let just = AttemptHistory { attempts: 0, ..old };
    let decision = decided(&policy(), &failure(None, 3600), just, now(), 0.5);
    assert_eq!(
        decision,
        Decision::Again {
            at: now() + SignedDuration::from_secs(1),
            attempts: 1,
            waited: Duration::from_millis(299_001)
        }
    );
}

#[test]
fn wait_beyond_the_deadline_is_half_of_the_time_that_is_left() {
    let history = AttemptHistory { attempts: 3, waited: Duration::ZERO };
    let policy = RetryPolicy { multiplier: 100.0, max: Duration::from_secs(600), ..policy() };
    let Decision::Again { at, .. } = decided(&policy, &failure(None, 300), history, now(), 0.5) else {
        panic!()
    };
    assert_eq!(at, now() + SignedDuration::from_secs(150));
    let shortly = decided(&policy, &failure(None, 1), history, now(), 0.5);
    assert!(matches!(shortly, Decision::GiveUp(Death { class: Class::Expired, .. })), "{shortly:?}");
}

#[test]
fn retry_after_beyond_the_deadline_expires_at_once() {
    let Decision::GiveUp(death) =
        decided(&policy(), &failure(Some(Duration::from_secs(60)), 60), first(), now(), 0.0)
    else {
        panic!()
    };
    assert_eq!(death.class, Class::Expired);
}

#[test]
fn retry_after_costs_no_attempt() {
    // It also does not count towards the total wait.
    let worn = AttemptHistory { attempts: 4, waited: policy().total };
    let decision = decided(&policy(), &failure(Some(Duration::from_secs(7)), 3600), worn, now(), 0.0);
    assert_eq!(
        decision,
        Decision::Again { at: now() + SignedDuration::from_secs(7), attempts: 4, waited: policy().total }
    );
}

#[test]
fn postponed_message_is_not_counted_and_expires_with_its_session() {
    let (wait, asked) = (Duration::from_secs(5), Some(Duration::from_secs(60)));
    let worn = AttemptHistory { attempts: 99, waited: Duration::MAX };
    let postponed = |retry_after, left| {
        let (failure, deadline) = failure(retry_after, left);
        postpone(&failure, worn, deadline, now(), wait)
    };
    let short = Some(Duration::from_secs(1));
    let (failure, deadline) = failure(short, 99);
    let for_all = Failure { cause: Cause::RateLimited, ..failure };
    let again = |after| Decision::Again {
        at: now() + SignedDuration::from_secs(after),
        attempts: 99,
        waited: Duration::MAX,
    };
    assert_eq!([postponed(None, 6), postponed(asked, 61), postponed(short, 6)], [5, 60, 5].map(again));
    assert_eq!(postpone(&for_all, worn, deadline, now(), wait), again(1));
    for over in [postponed(None, 5), postponed(asked, 60)] {
        assert!(matches!(&over, Decision::GiveUp(death) if death.class == Class::Expired), "{over:?}");
    }
}

#[test]
fn longest_wait_covers_each_wait() {
    let policy = policy();
    for probe_max in [1, 30, 4 * 3600].map(Duration::from_secs) {
        let longest = longest_wait(&policy, probe_max);
        assert!(longest > probe_max.max(policy.max).max(RETRY_AFTER_MAX), "{longest:?}");
    }
}

#[test]
fn delay_is_never_much_longer_than_the_wait() {
    let delays = [1, 5, 30].map(Duration::from_secs);
    let pick = |wait_ms: i64, left_s: i64| {
        let (at, deadline) =
            (now() + SignedDuration::from_millis(wait_ms), now() + SignedDuration::from_secs(left_s));
        delay_for(&delays, now(), at, deadline).unwrap().as_secs()
    };
    assert_eq!([pick(0, 99), pick(800, 99), pick(1000, 99)], [1, 1, 1]);
    assert_eq!([pick(1001, 99), pick(1200, 99), pick(7000, 99)], [1, 1, 5], "the worker waits for the rest");
    assert_eq!([pick(4000, 99), pick(25_000, 99)], [5, 30], "a little late");
    assert_eq!(pick(29_000, 30), 5, "30 s would end with the session");
    assert_eq!(pick(3_600_000, 9999), 30, "longer than every delay");
}

#[test]
fn reconnect_wait_never_exceeds_the_maximum() {
    let max = Duration::from_secs(5);
    let wait = |attempt, random| reconnect_wait(Duration::from_millis(100), max, attempt, random);
    assert!((0..200).all(|attempt| wait(attempt, 1.0) <= max));
    let waits = [wait(1, 0.5), wait(3, 0.5), wait(3, 0.0), wait(3, 1.0), wait(99, 0.5)];
    assert_eq!(waits, [100, 400, 200, 600, 5000].map(Duration::from_millis));
}

prop_compose! {
    fn any_policy()(
        initial_ms in 0u64..120_000, max_ms in 0u64..3_600_000, multiplier in 1.0f64..10.0, jitter in 0.0f64..=1.0,
        attempts in 1u32..200, total_s in 0u64..1_000_000,
    ) -> RetryPolicy {
        RetryPolicy {
            initial: Duration::from_millis(initial_ms), max: Duration::from_millis(max_ms), multiplier, jitter, attempts,
            total: Duration::from_secs(total_s), ..policy()
        }
    }
}

proptest! {
    #[test]
    fn decision_keeps_all_limits(
        policy in any_policy(), asked_s in prop::option::of(0u64..u64::MAX / 2), left_s in -1000i64..1_000_000,
        attempts: u32, waited_s in 0u64..1_000_000, random in 0.0f64..=1.0,
    ) {
        let failure = failure(asked_s.map(Duration::from_secs), left_s);
        let history = AttemptHistory { attempts, waited: Duration::from_secs(waited_s) };
        if let Decision::Again { at, attempts: counted, waited } = decided(&policy, &failure, history, now(), random) {
            prop_assert!(at >= now() && at < failure.1);
            prop_assert!(counted < policy.attempts);
            if let Some(asked) = failure.0.retry_after {
                prop_assert_eq!((counted, waited), (attempts, history.waited));
                prop_assert!(at.duration_since(now()) >= SignedDuration::try_from(asked).unwrap());
            } else {
                prop_assert_eq!(counted, attempts + 1);
                prop_assert!(waited <= policy.total);
                let longest = policy.max.mul_f64(1.0 + policy.jitter) + Duration::from_millis(1);
                prop_assert!(at.duration_since(now()) <= SignedDuration::try_from(longest).unwrap());
            }
        }
    }

    #[test]
    fn chain_of_failures_always_ends(policy in any_policy(), random in 0.0f64..=1.0) {
        let mut history = first();
        let mut at = now();
        for _ in 0..=policy.attempts {
            let failure = failure(None, 10_000_000);
            match decided(&policy, &failure, history, at, random) {
                Decision::Again { at: next, attempts, waited } => { at = next; history = AttemptHistory { attempts, waited }; }
                Decision::GiveUp(_) => return Ok(()),
            }
        }
        prop_assert!(false, "no end after {} attempts", history.attempts);
    }
}
