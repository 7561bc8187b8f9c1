#![no_main]

#[path = "../checks/retry_after.rs"]
mod retry_after;

libfuzzer_sys::fuzz_target!(|input: (i64, &str)| retry_after::check(input));
