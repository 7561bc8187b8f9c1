//! Problems of texts: of files at startup, and of a guest's text.

use std::{fmt, io};

use minijinja::ErrorKind;

use super::{
    Encoding,
    engine::{Unshowable, VARIABLES},
    folder::{FILE_BYTES_MAX, FILES_MAX},
    output::UNITS_MAX,
};

/// All problems of the texts, one in each line.
#[derive(Debug)]
pub struct TextsError(pub(super) Vec<TextProblem>);

impl std::error::Error for TextsError {}

impl fmt::Display for TextsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            write!(f, "{}{problem}", if index == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

/// A problem of one file, or of the folder.
#[derive(Debug)]
pub(super) struct TextProblem {
    pub(super) file: String,
    pub(super) line: Option<usize>,
    pub(super) fault: TextFault,
}

impl fmt::Display for TextProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        write!(f, ": {}", self.fault)
    }
}

/// Reason that a file is not a text.
#[derive(Debug, thiserror::Error)]
pub(super) enum TextFault {
    #[error("{0}; hint: check the path and the permissions")]
    Unreadable(#[from] io::Error),
    #[error("not a file; hint: remove it, or replace it by a file")]
    NoFile,
    #[error(
        "no file link.LOCALE.txt in this folder; hint: add one, or leave the setting empty for the built-in texts"
    )]
    NoTexts,
    #[error("more than {FILES_MAX} texts in this folder; hint: remove some")]
    TooManyFiles,
    #[error("more than {FILE_BYTES_MAX} bytes; hint: shorten it")]
    TooLarge,
    #[error("not UTF-8; hint: save the file as UTF-8")]
    NotUtf8,
    #[error(
        "the file's name is not link.LOCALE.txt; hint: name the file like link.es.txt or link.es-MX.txt, or remove it"
    )]
    NoLocale,
    #[error("same locale as {0}; hint: remove one of the two files (upper and lower case are the same)")]
    SameLocale(String),
    #[error("no text for the default locale {locale}; hint: add link.{locale}.txt, or choose one of {known}")]
    NoDefault { locale: String, known: String },
    #[error("{0}; hint: a variable is written {{{{ name }}}}, a condition {{% if name %}} … {{% endif %}}")]
    Syntax(String),
    #[error("unknown variable {0}; hint: use one of {list}", list = VARIABLES.join(", "))]
    UnknownVariable(String),
    #[error("{0}; hint: use variables, conditions, and the filter time")]
    Engine(String),
    #[error(transparent)]
    Output(#[from] OutputFault),
}

/// Reason that a rendered text can't be sent. Contains no value of a guest.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OutputFault {
    #[error("the text is empty; hint: write one with {{{{ url }}}}")]
    Empty,
    #[error("control character U+{:04X}; hint: use spaces and line feeds only", u32::from(*.0))]
    Control(char),
    #[error("{}", unshowable(*.0))]
    Unshowable(Unshowable),
    #[error("the link is missing; hint: write {{{{ url }}}} outside of conditions")]
    NoLink,
    #[error(
        "the link touches other characters, which a phone may treat as part of the link; hint: put a space or a line feed before and after {{{{ url }}}}"
    )]
    TouchedLink,
    #[error("{parts} parts as {encoding}{}, at most {parts_max} allowed; hint: shorten the text, or raise send.sms_parts_max", because(*.outside))]
    TooManyParts { parts: usize, parts_max: usize, encoding: Encoding, outside: Option<char> },
    #[error("{0} characters, at most {UNITS_MAX} allowed; hint: shorten the text")]
    TooLong(usize),
}

fn unshowable(value: Unshowable) -> &'static str {
    match value {
        Unshowable::NoName => {
            "a guest may have no name; hint: use name only inside {% if name %} … {% endif %}"
        }
        Unshowable::NoStart => {
            "a session may have no start; hint: use starts only inside {% if starts %} … {% endif %}"
        }
        Unshowable::BareTime => "a time without a format; hint: write {{ ends | time(\"%H:%M\") }}",
    }
}

fn because(outside: Option<char>) -> String {
    outside.map(|c| format!(" because of {c:?} (U+{:04X})", u32::from(c))).unwrap_or_default()
}

/// Reason that a guest's text was not made. Contains no value of the guest.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TextError {
    /// The template failed.
    #[error("text {file}{}: {kind}", .line.map(|line| format!(", line {line}")).unwrap_or_default())]
    Template { file: String, line: Option<usize>, kind: ErrorKind },
    /// The text can't be sent, for example because the link makes it too long.
    #[error("text {file}: {fault}")]
    Output { file: String, fault: OutputFault },
}
