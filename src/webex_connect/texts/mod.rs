//! Texts of messages to guests: one template for each locale.
//!
//! A template is written in the language Jinja, with variables and conditions. `name`, `url` and `zone` are texts. `starts` and
//! `ends` are times in the zone, which the filter `time` formats by strftime: `{{ ends | time("%H:%M") }}`. `name` and
//! `starts` may be absent, so they stand inside of conditions: `{% if name %} … {% endif %}`.

mod encoding;
mod engine;
mod fault;
mod folder;
mod name;
mod output;
mod trial;

use std::{collections::BTreeMap, fmt, path::Path, sync::Arc};

use jiff::{Timestamp, tz::TimeZone};

pub use self::fault::TextsError;
pub(crate) use self::{encoding::Encoding, fault::TextError, name::cleaned_name};
use self::{
    engine::Engine,
    fault::{TextFault, TextProblem},
    folder::TextFile,
    output::{limited, sendable},
    trial::TextTrial,
};
use super::locales::best_key;
use crate::contract::private::Private;

/// Settings of the texts.
#[derive(Debug)]
pub struct TextOptions<'a> {
    /// The folder with files `link.LOCALE.txt`, which replace the built-in texts or add locales.
    pub folder: Option<&'a Path>,
    /// The locale of guests without one, and of those whose locale has no text.
    pub default_locale: &'a str,
    /// Maximum number of parts of a text.
    pub parts_max: usize,
    /// Length of the longest usual link, in characters.
    pub longest_url: usize,
    /// The zone of the times in texts for guests without one.
    pub zone: TimeZone,
}

/// Values of the variables of a text.
#[derive(Clone, Copy)]
pub(crate) struct LinkValues<'a> {
    /// The guest's name as in the message. The text gets it by [`cleaned_name`].
    pub(crate) name: Option<&'a str>,
    /// The guest's link.
    pub(crate) url: &'a str,
    /// When the link becomes valid.
    pub(crate) starts: Option<Timestamp>,
    /// When the link expires.
    pub(crate) ends: Timestamp,
    /// The guest's time zone. An unknown one counts as none.
    pub(crate) zone: Option<&'a str>,
}

/// A text for a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SmsText {
    /// At most 4000 characters. The only control characters are line feeds.
    pub(crate) text: Private<String>,
    /// The encoding that the text needs.
    pub(crate) encoding: Encoding,
    /// Number of parts of the text, which are billed one by one.
    pub(crate) parts: usize,
}

/// Properties of one text with the longest values, for `check`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TextReport {
    /// The locale as in the file's name.
    pub(crate) locale: String,
    /// Path of the file, or the built-in text's name.
    pub(crate) file: String,
    /// Encoding with a name that GSM-7 has.
    pub(crate) encoding: Encoding,
    /// Number of parts with such a name. More than allowed means that the longest names are left out.
    pub(crate) parts: usize,
    /// Number of parts with a name that GSM-7 lacks, such as one with `í`.
    pub(crate) parts_with_other_name: usize,
    /// The first character of the text that GSM-7 lacks.
    pub(crate) outside_gsm7: Option<char>,
    /// The text shows a time, and not its zone.
    pub(crate) lacks_zone: bool,
}

/// The texts of all locales. Clones share them.
#[derive(Clone)]
pub struct Texts(Arc<LoadedTexts>);

struct LoadedTexts {
    engine: Engine,
    /// By locale in lower case, which is also the template's key.
    files: BTreeMap<String, TextFile>,
    default_key: String,
    parts_max: usize,
    reports: Vec<TextReport>,
}

impl fmt::Debug for Texts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Texts").field(&self.0.reports).finish()
    }
}

impl Texts {
    /// Reads the texts: the built-in ones in English and Spanish, and those of the folder, at most 64 files of at most 16 KiB.
    /// Renders each with the longest values, with and without what may be absent.
    ///
    /// # Errors
    /// All problems of all files: a text that can't be read or rendered, is longer than `parts_max` parts even without the name,
    /// or has no link between spaces; a file's name without a locale; no text for the default locale.
    pub fn load(options: &TextOptions<'_>) -> Result<Self, TextsError> {
        let mut problems = Vec::new();
        let files = folder::files(options.folder, &mut problems);
        let mut engine = Engine::new(options.zone.clone());
        let mut reports = Vec::new();
        for (key, file) in files.iter().filter(|(_, file)| !file.source.is_empty()) {
            let mut trial = TextTrial { engine: &mut engine, options, key, file, problems: &mut problems };
            reports.extend(trial.run());
        }
        let default_key = best_key(&files, options.default_locale);
        if default_key.is_none() {
            let locale = options.default_locale.to_owned();
            let known = files.values().map(|file| file.locale.as_str()).collect::<Vec<_>>().join(", ");
            let fault = TextFault::NoDefault { locale, known };
            problems.push(TextProblem { file: "texts".to_owned(), line: None, fault });
        }
        let default_key = default_key.unwrap_or_default().to_owned();
        if !problems.is_empty() {
            return Err(TextsError(problems));
        }
        Ok(Self(Arc::new(LoadedTexts { engine, files, default_key, parts_max: options.parts_max, reports })))
    }

    /// The text with a guest's link, in the best locale: the guest's, the same without its last parts (`es-MX`, then `es`; RFC 4647,
    /// section 3.4), or the default. A name with which the text is too long or can't be
    /// rendered is left out, and so is the guest's time zone if that is not enough.
    ///
    /// # Errors
    /// [`TextError`] if the text can't be sent even without both.
    pub(crate) fn link(&self, locale: Option<&str>, values: &LinkValues<'_>) -> Result<SmsText, TextError> {
        let loaded = &*self.0;
        let key = locale.and_then(|locale| best_key(&loaded.files, locale)).unwrap_or(&loaded.default_key);
        if let Some(name) = values.name.and_then(cleaned_name)
            && let Ok(text) = loaded.text(key, &LinkValues { name: Some(&name), ..*values })
        {
            return Ok(text);
        }
        let unnamed = LinkValues { name: None, ..*values };
        loaded.text(key, &unnamed).or_else(|_| loaded.text(key, &LinkValues { zone: None, ..unnamed }))
    }

    /// The properties of each text, ascending by locale.
    pub(crate) fn report(&self) -> Vec<TextReport> {
        self.0.reports.clone()
    }
}

impl LoadedTexts {
    fn text(&self, key: &str, values: &LinkValues<'_>) -> Result<SmsText, TextError> {
        let file = || self.files.get(key).map(|file| file.file.clone()).unwrap_or_default();
        let rendered = self.engine.render(key, values).map_err(|error| TextError::Template {
            file: file(),
            line: error.line(),
            kind: error.kind(),
        })?;
        let text = sendable(&rendered, values.url)
            .and_then(|text| limited(text, self.parts_max))
            .map_err(|fault| TextError::Output { file: file(), fault })?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests;
