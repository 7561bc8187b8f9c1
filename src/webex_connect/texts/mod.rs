//! Texts of messages to guests.
#![cfg_attr(not(test), expect(dead_code, reason = "the texts use it in the next commit"))]

mod encoding;
mod name;
