//! Webex Connect, which sends text messages to guests.

pub(crate) mod texts;
