//! Any Retry-After header gives a delay or nothing, and never a panic, at any time of the clock.

use std::time::Duration;

use instant_connect_worker::upstream::parse_retry_after;
use jiff::Timestamp;

pub(crate) fn check((second, header): (i64, &str)) {
    let Ok(now) = Timestamp::from_second(second) else { return };
    let _: Option<Duration> = parse_retry_after(header, now);
}
