//! Webex Connect, which sends messages to guests, or wakes the flows that send them.
//!
//! - [`client`]: the call; `answer`: what a response means; `codes`: Webex Connect's own codes
//! - [`sms`], [`whatsapp`]: the messages of each channel; [`event`]: the custom event that wakes a flow
//! - [`locales`]: values by locale
//! - [`texts`]: the words of SMS
//! - [`receipt`]: the body of a receipt; `receipt_codes`: what its code means

mod answer;
pub(crate) mod client;
mod codes;
pub(crate) mod event;
pub(crate) mod locales;
pub(crate) mod receipt;
mod receipt_codes;
pub(crate) mod sms;
pub mod texts;
pub(crate) mod whatsapp;

pub use client::{AcceptedMessage, ConnectClient};
pub use codes::ConnectApi;
pub use locales::Locales;
