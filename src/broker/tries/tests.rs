//! Tests of recorded tries.

use super::*;
use crate::ledger::{LedgerKind, testing};

async fn memory() -> Tries {
    Tries::new(Ledger::open(LedgerKind::Memory).await.unwrap(), Random::system())
}

#[tokio::test]
async fn try_is_counted_only_if_it_does_not_end() {
    let tries = memory().await;
    let begin = async || tries.begin("k").await.unwrap();
    begin().await.end().await;
    assert_eq!(tries.unfinished("k").await, Ok(0));
    drop(begin().await);
    tries.idle().await;
    assert_eq!(tries.unfinished("k").await, Ok(0));
    for deaths in 1..=3 {
        begin().await.count_as_death();
        begin().await.end().await;
        assert_eq!(tries.unfinished("k").await, Ok(deaths));
    }
    assert_eq!(tries.unfinished("other").await, Ok(0));
    begin().await.end_and_forget().await;
    assert_eq!(tries.unfinished("k").await, Ok(0), "the message is settled");
    begin().await.count_as_death();
    tries.forget("k").await;
    assert_eq!(tries.unfinished("k").await, Ok(0));
}

#[tokio::test(start_paused = true)]
async fn try_that_ends_while_the_ledger_is_down_is_not_a_death() {
    let (ledger, disk_is_out) = testing::ledger();
    let tries = Tries::new(ledger, Random::system());
    let died = tries.begin("k").await.unwrap();
    died.count_as_death();
    let one = tries.begin("k").await.unwrap();
    disk_is_out(true);
    one.end().await;
    assert!(tries.unfinished("k").await.is_err());
    assert!(tries.begin("k").await.is_err());
    disk_is_out(false);
    tries.idle().await;
    for _ in 0..2 {
        assert_eq!(tries.unfinished("k").await, Ok(1));
    }
    assert!(locked(&tries.0.ended).is_empty() && locked(&tries.0.live).is_empty());
}

/// A shutdown or `amqp.delivery_timeout` can drop a delivery while its try is being recorded.
#[tokio::test(start_paused = true)]
async fn try_whose_begin_is_aborted_is_taken_back() {
    let tries = memory().await;
    for polls in 0..20 {
        let mut begin = Box::pin(tries.begin("k"));
        for _ in 0..polls {
            if futures_util::poll!(&mut begin).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(begin);
        tries.idle().await;
        assert_eq!(
            Tries::new(tries.0.ledger.clone(), Random::system()).unfinished("k").await,
            Ok(0),
            "after {polls} polls"
        );
        assert!(locked(&tries.0.live).is_empty());
    }
}

#[tokio::test]
async fn copies_of_one_message_count_as_one_try() {
    let tries = memory().await;
    let begin = async || tries.begin("k").await.unwrap();
    let (one, two) = (begin().await, begin().await);
    assert_eq!(tries.unfinished("k").await, Ok(0), "the tries are in progress");
    // The view of the next worker.
    let next = Tries::new(tries.0.ledger.clone(), Random::system());
    assert_eq!(next.unfinished("k").await, Ok(1));
    one.end().await;
    assert_eq!(next.unfinished("k").await, Ok(1));
    two.end().await;
    assert_eq!(next.unfinished("k").await, Ok(0));
    assert!(locked(&tries.0.live).is_empty());
}

#[test]
fn key_identifies_one_message_and_reveals_nothing() {
    let message = |id: Option<&str>, body: &str| Message {
        message_id: id.map(str::to_owned),
        body: body.into(),
        ..Message::default()
    };
    let keys = [(None, "a"), (None, "b"), (Some("+34600111222"), "a"), (Some("m"), "a")]
        .map(|(id, body)| key("link", &message(id, body)));
    let different: std::collections::BTreeSet<_> = keys.iter().collect();
    assert_eq!(different.len(), 4);
    assert!(keys.iter().all(|key| key.starts_with("tried:link:") && !key.contains("34600111222")));
    assert_eq!(key("link", &message(Some("m"), "b")), keys[3]);
    assert_ne!(key("host", &message(Some("m"), "b")), keys[3]);
}
