//! Texts without a visible character, which count as absent.

use serde::{Deserialize, Deserializer};

use crate::contract::private::Private;

/// Reads a text. A blank one counts as absent, because flow templates write an empty string for a missing value.
pub(super) fn non_blank<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(from)?.filter(|text| !is_blank(text)))
}

pub(super) fn non_blank_id<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Private<String>>, D::Error> {
    Ok(non_blank(from)?.map(Private::new))
}

/// True for characters that change how the text around a name is displayed: controls, line separators, and bidirectional
/// embeddings, overrides and isolates. The marks LRM, RLM and ALM and the joiners are kept, because names contain them.
pub(super) fn is_format_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The characters of [`is_blank`] for a class in a regular expression of a schema.
macro_rules! blanks {
    () => {
        r"\s\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff"
    };
}
pub(super) use blanks;

/// True if `text` has no visible character.
pub(in crate::contract) fn is_blank(text: &str) -> bool {
    let is_invisible = |c: char| {
        c.is_whitespace()
            || is_format_control(c)
            || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}')
    };
    text.chars().all(is_invisible)
}
