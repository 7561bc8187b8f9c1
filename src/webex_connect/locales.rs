//! Values by locale.

use std::collections::BTreeMap;

/// Greatest length of a locale that is looked up, in bytes.
pub(super) const LOCALE_BYTES_MAX: usize = 64;

/// The key of `values`, which are by locale in lower case, for the locale `range`: the same, or the same without its last parts
/// (`es-MX`, then `es`; RFC 4647, section 3.4).
pub(super) fn best_key<'a, T>(values: &'a BTreeMap<String, T>, range: &str) -> Option<&'a str> {
    if range.len() > LOCALE_BYTES_MAX {
        return None;
    }
    let mut range = range.to_ascii_lowercase();
    loop {
        if let Some((key, _)) = values.get_key_value(&range) {
            return Some(key);
        }
        range.truncate(range.rfind('-')?);
        // A single letter begins an extension, and is no locale without it.
        if let Some(rest) = range.len().checked_sub(2).filter(|rest| range.as_bytes()[*rest] == b'-') {
            range.truncate(rest);
        }
    }
}

/// One value for each locale, and the value of all other guests.
#[derive(Clone, Debug)]
pub struct Locales<T> {
    /// By locale, in lower case.
    values: BTreeMap<String, T>,
    default: T,
}

impl<T: Clone> Locales<T> {
    /// Values by locale, in any letter case; `None` if there is none for `default`.
    pub fn new(values: impl IntoIterator<Item = (String, T)>, default: &str) -> Option<Self> {
        let values = values.into_iter().map(|(locale, value)| (locale.to_ascii_lowercase(), value));
        let values: BTreeMap<_, _> = values.collect();
        let default = values.get(best_key(&values, default)?)?.clone();
        Some(Self { values, default })
    }
}

impl<T> Locales<T> {
    /// The value for `locale`, else the default.
    pub(crate) fn find(&self, locale: Option<&str>) -> &T {
        let key = locale.and_then(|locale| best_key(&self.values, locale));
        key.and_then(|key| self.values.get(key)).unwrap_or(&self.default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_known_beginning_of_a_locale_is_found() {
        let values = ["en", "es", "pt-BR", "zh-Hant"].map(|locale| (locale.to_owned(), locale));
        let locales = Locales::new(values, "EN-gb").unwrap();
        for (wanted, expected) in [
            (None, "en"),
            (Some("es"), "es"),
            (Some("ES-mx"), "es"),
            (Some("pt-br"), "pt-BR"),
            (Some("pt-PT"), "en"),
            (Some("zh-Hant-HK-x-private"), "zh-Hant"),
            (Some("fr"), "en"),
            (Some(""), "en"),
            (Some("-"), "en"),
        ] {
            assert_eq!(*locales.find(wanted), expected, "{wanted:?}");
        }
        assert!(Locales::new([("en".to_owned(), 1)], "es").is_none());
    }
}
