//! Any bytes from the queue become a session or a dead letter's reason, never a panic.
#![no_main]

libfuzzer_sys::fuzz_target!(|body: &[u8]| instant_connect_worker::contract::start_session::fuzz(body));
