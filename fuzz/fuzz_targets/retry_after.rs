//! Any Retry-After header gives a delay or nothing, and never a panic, at any time of the clock.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (i64, &str)| {
    let (second, header) = input;
    let Ok(now) = jiff::Timestamp::from_second(second) else {
        return;
    };
    let _: Option<std::time::Duration> = instant_connect_worker::upstream::parse_retry_after(header, now);
});
