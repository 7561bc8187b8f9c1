//! Any Retry-After header becomes a wait or nothing, never a panic, whatever the clock says.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (i64, &str)| {
    let (second, header) = input;
    let Ok(now) = jiff::Timestamp::from_second(second) else {
        return;
    };
    let _: Option<std::time::Duration> = instant_connect_worker::retry::parse_retry_after(header, now);
});
