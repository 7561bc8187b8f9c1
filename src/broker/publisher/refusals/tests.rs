//! Tests of the refusals in paused time.

use super::*;

fn key(routing_key: &str) -> MessageKey {
    MessageKey { exchange: "links".to_owned(), routing_key: routing_key.to_owned(), message_id: None }
}

#[tokio::test(start_paused = true)]
async fn channel_refusing_a_route_is_replaced_after_growing_waits() {
    let (sms, whatsapp) = (key("guest.sms"), key("guest.whatsapp"));
    let mut refusals = Refusals::default();
    for seconds in [1, 2, 4, 8, 16, 32, 64, 64] {
        refusals.reset();
        assert!(!refusals.take_due(), "the new channel refused nothing");
        refusals.record(&whatsapp, true);
        refusals.record(&sms, false);
        tokio::time::advance(Duration::from_millis(seconds * 1000 - 1)).await;
        refusals.record(&sms, false);
        assert!(!refusals.take_due());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(refusals.take_due());
    }
    refusals.reset();
    refusals.record(&sms, true);
    refusals.reset();
    refusals.record(&sms, false);
    tokio::time::advance(REFUSING).await;
    assert!(refusals.take_due(), "the route delivered in between");
}

#[tokio::test(start_paused = true)]
async fn channel_that_ever_delivered_on_a_route_is_kept() {
    for replies in [[true, false], [false, true]] {
        let mut refusals = Refusals::default();
        for delivered in replies {
            refusals.record(&key("guest.sms"), delivered);
        }
        tokio::time::advance(REFUSING_MAX).await;
        assert!(!refusals.take_due(), "{replies:?}");
    }
}
