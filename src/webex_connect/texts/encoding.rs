//! Encodings of SMS (3GPP TS 23.038), and the number of parts of a text.

use std::fmt;

/// The basic table of GSM-7 in the order of its codes, without code 0x1B, which announces a character of the extension table.
const BASIC: &str = "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?\
    ¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà";
/// The extension table of GSM-7. Each character counts as two.
const EXTENSION: &str = "\u{c}^{}\\[~]|€";

/// Encoding of an SMS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// 7 bits per character, for texts with the characters of GSM-7 only.
    Gsm7,
    /// 16 bits per unit of UTF-16, for all other texts.
    Ucs2,
}

impl Encoding {
    /// The encoding that `text` needs.
    pub(super) fn of(text: &str) -> Self {
        if outside_gsm7(text).is_some() { Self::Ucs2 } else { Self::Gsm7 }
    }

    /// The size of a character: septets, or units of UTF-16.
    fn units(self, c: char) -> usize {
        match self {
            Self::Gsm7 if EXTENSION.contains(c) => 2,
            Self::Gsm7 => 1,
            Self::Ucs2 => c.len_utf16(),
        }
    }

    /// The capacity of a message that has one part, in the units of [`Self::units`].
    const fn units_of_one(self) -> usize {
        match self {
            Self::Gsm7 => 160,
            Self::Ucs2 => 70,
        }
    }

    /// The capacity of each part of a message that has several. A header with the number of the part takes the rest.
    const fn units_of_each(self) -> usize {
        match self {
            Self::Gsm7 => 153,
            Self::Ucs2 => 67,
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gsm7 => "GSM-7",
            Self::Ucs2 => "UCS-2",
        })
    }
}

/// The first character of `text` that GSM-7 lacks.
pub(super) fn outside_gsm7(text: &str) -> Option<char> {
    text.chars().find(|c| !BASIC.contains(*c) && !EXTENSION.contains(*c))
}

/// The number of parts of `text`. No character is split between two parts.
pub(super) fn parts(text: &str, encoding: Encoding) -> usize {
    let sizes = || text.chars().map(|c| encoding.units(c));
    if sizes().sum::<usize>() <= encoding.units_of_one() {
        return 1;
    }
    let (mut parts, mut used) = (1, 0);
    for size in sizes() {
        if used + size > encoding.units_of_each() {
            parts += 1;
            used = 0;
        }
        used += size;
    }
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The characters of both tables in the order of Unicode, as ranges. This is a second statement of the tables, which are in the
    /// order of their codes.
    const GSM7: [(char, char, usize); 33] = [
        ('\u{a}', '\u{a}', 1),       // line feed
        ('\u{c}', '\u{c}', 2),       // form feed
        ('\u{d}', '\u{d}', 1),       // carriage return
        ('\u{20}', '\u{5a}', 1),     // from space to Z: all of ASCII
        ('\u{5b}', '\u{5e}', 2),     // brackets, backslash, circumflex
        ('\u{5f}', '\u{5f}', 1),     // low line
        ('\u{61}', '\u{7a}', 1),     // from a to z, without the grave accent
        ('\u{7b}', '\u{7e}', 2),     // braces, vertical line, tilde
        ('\u{a1}', '\u{a1}', 1),     // inverted exclamation mark
        ('\u{a3}', '\u{a5}', 1),     // pound, currency, yen; not cent
        ('\u{a7}', '\u{a7}', 1),     // section
        ('\u{bf}', '\u{bf}', 1),     // inverted question mark
        ('\u{c4}', '\u{c7}', 1),     // A with diaeresis, A with ring, AE, C with cedilla
        ('\u{c9}', '\u{c9}', 1),     // E with acute
        ('\u{d1}', '\u{d1}', 1),     // N with tilde
        ('\u{d6}', '\u{d6}', 1),     // O with diaeresis
        ('\u{d8}', '\u{d8}', 1),     // O with stroke
        ('\u{dc}', '\u{dc}', 1),     // U with diaeresis
        ('\u{df}', '\u{e0}', 1),     // sharp s, a with grave
        ('\u{e4}', '\u{e6}', 1),     // a with diaeresis, a with ring, ae; not c with cedilla
        ('\u{e8}', '\u{e9}', 1),     // e with grave, e with acute
        ('\u{ec}', '\u{ec}', 1),     // i with grave; not with acute
        ('\u{f1}', '\u{f2}', 1),     // n with tilde, o with grave; not with acute
        ('\u{f6}', '\u{f6}', 1),     // o with diaeresis
        ('\u{f8}', '\u{f9}', 1),     // o with stroke, u with grave; not with acute
        ('\u{fc}', '\u{fc}', 1),     // u with diaeresis
        ('\u{393}', '\u{394}', 1),   // Gamma, Delta
        ('\u{398}', '\u{398}', 1),   // Theta
        ('\u{39b}', '\u{39b}', 1),   // Lambda
        ('\u{39e}', '\u{39e}', 1),   // Xi
        ('\u{3a0}', '\u{3a0}', 1),   // Pi
        ('\u{3a3}', '\u{3a9}', 1),   // Sigma, Phi, Psi, Omega: see below
        ('\u{20ac}', '\u{20ac}', 2), // euro
    ];
    /// Of the Greek letters between Sigma and Omega, those that look like Latin ones are absent.
    const ABSENT: [char; 3] = ['\u{3a4}', '\u{3a5}', '\u{3a7}'];

    #[test]
    fn tables_agree_with_their_statement_in_unicode_order() {
        assert_eq!((BASIC.chars().count(), EXTENSION.chars().count()), (127, 10));
        for c in '\0'..='\u{ffff}' {
            let range = GSM7.iter().find(|(first, last, _)| (*first..=*last).contains(&c));
            let expected = range.filter(|_| !ABSENT.contains(&c)).map(|(_, _, size)| *size);
            let found = (outside_gsm7(&c.to_string()).is_none()).then(|| Encoding::Gsm7.units(c));
            assert_eq!(found, expected, "{c:?}");
        }
    }

    #[test]
    fn text_is_split_at_the_limits_of_its_encoding() {
        for (text, encoding, expected) in [
            ("x".repeat(160), Encoding::Gsm7, 1),
            ("x".repeat(161), Encoding::Gsm7, 2),
            ("x".repeat(306), Encoding::Gsm7, 2),
            ("x".repeat(307), Encoding::Gsm7, 3),
            ("€".repeat(80), Encoding::Gsm7, 1),
            ("€".repeat(81), Encoding::Gsm7, 2),
            // 153 is odd, so each part has room for 76.
            ("€".repeat(152), Encoding::Gsm7, 2),
            ("€".repeat(153), Encoding::Gsm7, 3),
            ("í".repeat(70), Encoding::Ucs2, 1),
            ("í".repeat(71), Encoding::Ucs2, 2),
            ("í".repeat(134), Encoding::Ucs2, 2),
            ("í".repeat(135), Encoding::Ucs2, 3),
            ("😀".repeat(35), Encoding::Ucs2, 1),
            // 67 is odd, so each part has room for 33.
            ("😀".repeat(66), Encoding::Ucs2, 2),
            ("😀".repeat(67), Encoding::Ucs2, 3),
        ] {
            let found = Encoding::of(&text);
            assert_eq!((found, parts(&text, found)), (encoding, expected), "{text}");
        }
    }

    proptest! {
        /// A part is full, or lacks the one unit into which a character of two did not fit.
        #[test]
        fn parts_have_room_for_the_text_and_are_full(text in "([ -~€ñ\n]{0,700})|(\\PC{0,300})") {
            let encoding = Encoding::of(&text);
            let units: usize = text.chars().map(|c| encoding.units(c)).sum();
            let parts = parts(&text, encoding);
            let (one, each) = (encoding.units_of_one(), encoding.units_of_each());
            prop_assert_eq!(parts == 1, units <= one);
            if parts > 1 {
                prop_assert!(units <= parts * each, "{} units, {} parts", units, parts);
                prop_assert!(units > (parts - 1) * (each - 1), "{} units, {} parts", units, parts);
            }
        }
    }
}
