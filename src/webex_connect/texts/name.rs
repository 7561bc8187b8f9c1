//! Names of guests within a text. A customer typed them, and nobody has read them before the text is sent.

use icu_normalizer::ComposingNormalizer;
use icu_properties::{
    CodePointMapData, CodePointSetData,
    props::{DefaultIgnorableCodePoint, GeneralCategory, GeneralCategoryGroup},
};

use crate::contract::people::NAME_CHARS_MAX;

/// Maximum length of a name within a text, in characters.
pub(super) const SHOWN_CHARS_MAX: usize = 40;
/// Maximum number of combining marks on one letter. No language needs more, and a pile of marks covers the lines around it.
const MARKS_MAX: usize = 3;
/// This many spaces in a row are refused, as in parameters of `WhatsApp` templates.
const SPACES: &str = "     ";

/// Returns `name` as a text may show it: letters, combining marks, spaces, `.`, `'` and `-`, in form NFC, at most
/// [`SHOWN_CHARS_MAX`] characters. `None` for a longer name, and for one with anything else in it, such as digits, a link, or
/// characters that hide others.
///
/// Spaces of other widths become spaces, typographic apostrophes and hyphens become `'` and `-`. Joiners and direction marks,
/// which names contain and which show nothing, are removed. A dot needs a space or a hyphen after it, because phones take letters
/// with a dot between them for a link.
pub(crate) fn cleaned_name(name: &str) -> Option<String> {
    if name.chars().nth(NAME_CHARS_MAX).is_some() {
        return None;
    }
    let simple: String = name.chars().filter(|c| !is_joiner_or_direction(*c)).map(simple).collect();
    let simple = nfc(&simple);
    if simple.contains(SPACES) {
        return None;
    }
    let cleaned = simple.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    (cleaned.chars().count() <= SHOWN_CHARS_MAX && is_name(&cleaned)).then_some(cleaned)
}

/// Composes letters and marks (Unicode form NFC): GSM-7 has `ñ`, and not its tilde alone.
pub(super) fn nfc(text: &str) -> String {
    ComposingNormalizer::new_nfc().normalize(text).into_owned()
}

/// Zero-width joiners, and the marks LRM, RLM and ALM.
fn is_joiner_or_direction(c: char) -> bool {
    matches!(c, '\u{200c}'..='\u{200f}' | '\u{61c}')
}

fn simple(c: char) -> char {
    match c {
        '\u{2018}' | '\u{2019}' | '\u{2bc}' => '\'',
        '\u{2010}' | '\u{2011}' => '-',
        c if category(c) == GeneralCategory::SpaceSeparator => ' ',
        c => c,
    }
}

fn category(c: char) -> GeneralCategory {
    CodePointMapData::<GeneralCategory>::new().get(c)
}

fn is_letter(c: char) -> bool {
    GeneralCategoryGroup::Letter.contains(category(c))
}

fn is_mark(c: char) -> bool {
    GeneralCategoryGroup::Mark.contains(category(c))
}

/// True for the characters that display as nothing, letters such as the Hangul fillers among them.
fn is_invisible(c: char) -> bool {
    CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c)
}

fn is_name(text: &str) -> bool {
    let mut before = ' ';
    let mut marks = 0;
    let is_allowed = |c: char| {
        marks = if is_mark(c) { marks + 1 } else { 0 };
        let fits = match c {
            ' ' | '-' => true,
            '.' | '\'' => before != '.',
            c if is_invisible(c) => false,
            c if is_mark(c) => marks <= MARKS_MAX && (is_letter(before) || is_mark(before)),
            c => is_letter(c) && before != '.',
        };
        before = c;
        fits
    };
    text.chars().all(is_allowed) && text.chars().any(is_letter)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regex::Regex;

    use super::*;

    #[test]
    fn name_of_a_person_is_kept_and_simplified() {
        for (given, cleaned) in [
            ("Ana García", "Ana García"),
            ("  Ana   García ", "Ana García"),
            ("Begon\u{303}a", "Begoña"),
            ("Seán O\u{2019}Brien-Smith", "Seán O'Brien-Smith"),
            ("Jean\u{2011}Luc", "Jean-Luc"),
            ("Dr. J. R. Smith Jr.", "Dr. J. R. Smith Jr."),
            ("J.-P. Martin", "J.-P. Martin"),
            ("山田\u{3000}太郎", "山田 太郎"),
            ("علی\u{200c}رضا", "علیرضا"),
            (
                "\u{200f}\u{5d3}\u{5bc}\u{5b8}\u{5d5}\u{5b4}\u{5d3}",
                "\u{5d3}\u{5bc}\u{5b8}\u{5d5}\u{5b4}\u{5d3}",
            ),
            ("प्रिया", "प्रिया"),
            ("สมศักดิ์", "สมศักดิ์"),
            ("Nguyễn Thị Hồng", "Nguyễn Thị Hồng"),
        ] {
            // Hebrew marks have an order of their own in NFC.
            assert_eq!(cleaned_name(given).as_deref(), Some(nfc(cleaned).as_str()), "{given:?}");
        }
        let longest = "x".repeat(40);
        assert_eq!(cleaned_name(&longest), Some(longest));
    }

    #[test]
    fn name_that_could_be_a_link_or_hides_text_is_left_out() {
        let too_long = "x".repeat(41);
        let longer_than_any = format!("Ana{}", " ".repeat(NAME_CHARS_MAX));
        for name in [
            "",
            " ",
            "-",
            "'.'",
            "https://evil.example",
            "evil.example",
            "evil .example",
            "evil.\u{200d}example",
            "evil.\u{301}example",
            "evil..example",
            "evil.'example",
            "evil\u{ff0e}example",
            "evil\u{3002}example",
            "J.R. Smith",
            "ana@evil",
            "Ana/Luis",
            "Ana: call us",
            "Ana, win (now)",
            "+34 600 111 222",
            "Ana 2",
            "Ana\u{661}",
            "Ana\nLuis",
            "Ana\r",
            "Ana\tLuis",
            "Ana\u{2028}Luis",
            "Ana     Luis",
            "Ana\u{a0}\u{2003}   Luis",
            "\u{202e}anA",
            "\u{2066}Ana\u{2069}",
            "A\u{200b}na",
            "A\u{ad}na",
            "\u{feff}Ana",
            "Ana\u{3164}\u{115f}",
            "Ana\u{fe0f}",
            "\u{301}Ana",
            "Ana \u{301}",
            "A\u{301}\u{302}\u{303}\u{304}\u{305}na",
            "Ana 😀",
            "{{ url }}",
            "<b>Ana</b>",
            too_long.as_str(),
            longer_than_any.as_str(),
        ] {
            assert_eq!(cleaned_name(name), None, "{name:?}");
        }
    }

    proptest! {
        /// The expression finds more than phones make links of.
        #[test]
        fn cleaned_name_is_never_like_a_link(name in "(\\PC{0,12})|([a-zA-Zñ.' \u{301}\u{200d}\u{2019}:/@0-9-]{0,50})|((https?://)?(www\\.)?[a-z-]{1,9} ?\\. ?[a-z]{2,4}(/[a-z]*)?)|(.{0,80})") {
            let link = Regex::new(r"\.[^ .'-]|[:/@\\\d\n\r]|     ").unwrap();
            if let Some(cleaned) = cleaned_name(&name) {
                prop_assert!(!link.is_match(&cleaned), "{:?}", cleaned);
                prop_assert!((1..=SHOWN_CHARS_MAX).contains(&cleaned.chars().count()), "{:?}", cleaned);
                prop_assert!(!cleaned.chars().any(|c| c.is_control() || is_invisible(c)), "{:?}", cleaned);
                prop_assert_eq!(cleaned.trim(), &cleaned);
                let again = cleaned_name(&cleaned);
                prop_assert_eq!(again, Some(cleaned));
            }
        }
    }
}
