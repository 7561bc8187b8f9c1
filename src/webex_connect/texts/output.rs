//! Rendered texts: the rules for sending them, and their parts.

use super::{
    Encoding, SmsText,
    encoding::{outside_gsm7, parts},
    engine::Unshowable,
    fault::OutputFault,
};
use crate::contract::private::Private;

/// Maximum length of a text, in units of UTF-16 (the API's limit is 4000 characters).
pub(super) const UNITS_MAX: usize = 4000;

/// Returns a rendered text without white space around it.
///
/// # Errors
/// [`OutputFault`] if the text has something that can't be sent, or has no whole link between white space.
pub(super) fn sendable(rendered: &str, url: &str) -> Result<String, OutputFault> {
    if let Some(value) = Unshowable::found_in(rendered) {
        return Err(OutputFault::Unshowable(value));
    }
    let text = rendered.trim();
    if let Some(control) = text.chars().find(|c| c.is_control() && *c != '\n') {
        return Err(OutputFault::Control(control));
    }
    if text.is_empty() {
        return Err(OutputFault::Empty);
    }
    if url.is_empty() || !text.contains(url) {
        return Err(OutputFault::NoLink);
    }
    let is_free = |(at, url): (usize, &str)| {
        let (before, after) = (text[..at].chars().next_back(), text[at + url.len()..].chars().next());
        [before, after].into_iter().flatten().all(char::is_whitespace)
    };
    if text.match_indices(url).all(is_free) { Ok(text.to_owned()) } else { Err(OutputFault::TouchedLink) }
}

/// Counts the parts of `text`.
///
/// # Errors
/// [`OutputFault`] if the text is too long.
pub(super) fn limited(text: String, parts_max: usize) -> Result<SmsText, OutputFault> {
    let units = text.encode_utf16().count();
    if units > UNITS_MAX {
        return Err(OutputFault::TooLong(units));
    }
    let text = measured(text);
    let SmsText { encoding, parts, .. } = text;
    if parts > parts_max {
        let outside = outside_gsm7(text.text.reveal());
        return Err(OutputFault::TooManyParts { parts, parts_max, encoding, outside });
    }
    Ok(text)
}

pub(super) fn measured(text: String) -> SmsText {
    let encoding = Encoding::of(&text);
    SmsText { encoding, parts: parts(&text, encoding), text: Private::new(text) }
}
