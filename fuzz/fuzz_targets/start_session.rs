#![no_main]

#[path = "../checks/start_session.rs"]
mod start_session;

libfuzzer_sys::fuzz_target!(|body: &[u8]| start_session::check(body));
