//! JSON parsing. Errors name the place and the expected value, never the received value, which may be a person's number or a
//! diagnosis. Field names that a publisher chose are as private as values.

mod objects;

use std::{borrow::Cow, fmt};

use serde::Deserialize;
use serde_path_to_error::Segment;

use self::objects::Object;
pub(crate) use self::objects::{object, objects, objects_or_null, unique};
use super::places;
pub(crate) use super::places::{BY_PUBLISHER, is_ours};

/// A violation of the contract: a JSON path into the message, and the problem at that place. Neither contains values from the
/// message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    path: String,
    problem: Problem,
    hint: Option<&'static str>,
}

/// A problem at one place of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// A required field is missing.
    Missing,
    /// A field or a key is given more than once.
    Duplicate,
    /// The contract has no such field.
    UnknownField {
        /// The known field that was probably meant.
        near: Option<String>,
        /// The known fields at this place.
        known: Vec<String>,
    },
    /// The value exceeds its limit.
    TooLarge {
        /// Size of the value, in bytes.
        bytes: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// The texts that are copied into every link exceed their limit.
    EchoTooLarge {
        /// Total size of these texts in all links, in bytes.
        bytes: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// The body is not valid JSON; the error is at this place.
    NotJson {
        /// Line number, from 1.
        line: usize,
        /// Column number.
        column: usize,
    },
    /// The body is not valid JSON, and the place and this text explain why.
    BadSyntax(&'static str),
    /// The time is not in the future.
    NotInTheFuture,
    /// The event has no `expiresAt`, and its links would have expired by now.
    SessionOver,
    /// The value is not allowed. The text names the reason or the expected value.
    Expected(Cow<'static, str>),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("missing required field"),
            Self::Duplicate => f.write_str("duplicate field"),
            Self::UnknownField { near, known } => {
                f.write_str("unknown field")?;
                if let Some(near) = near {
                    write!(f, " (did you mean `{near}`?)")?;
                }
                write!(f, "; known here: {}", known.join(", "))
            }
            Self::TooLarge { bytes, max } => write!(f, "{bytes} bytes; the limit is {max}"),
            Self::EchoTooLarge { bytes, max } => write!(
                f,
                "correlationId, attributes and names are copied into every link; together that is {bytes} bytes, and the limit is \
                 {max}: shorten them, or split the session's people over several events"
            ),
            Self::NotJson { line, column } => write!(f, "invalid JSON at line {line}, column {column}"),
            Self::BadSyntax(text) => f.write_str(text),
            Self::NotInTheFuture => f.write_str("must be in the future"),
            Self::SessionOver => f.write_str(
                "missing, and the links would have expired by now, counted from the event's own time (CloudEvents time, AMQP \
                 timestamp) or its first attempt; set expiresAt, or correct the sender's clock",
            ),
            Self::Expected(text) => f.write_str(text),
        }
    }
}

impl From<&'static str> for Problem {
    fn from(expected: &'static str) -> Self {
        Self::Expected(expected.into())
    }
}

impl From<String> for Problem {
    fn from(expected: String) -> Self {
        Self::Expected(expected.into())
    }
}

impl Invalid {
    /// `problem` at `path`, such as `guests[1].address`; an empty path means the whole body.
    pub fn new(path: impl Into<String>, problem: impl Into<Problem>) -> Self {
        Self { path: path.into(), problem: problem.into(), hint: None }
    }

    /// The same problem one level further in: `data` before `guests[1]` gives `data.guests[1]`.
    #[must_use]
    pub fn within(self, outer: &str) -> Self {
        let path = if self.path.is_empty() { outer.to_owned() } else { format!("{outer}.{}", self.path) };
        Self { path, ..self }
    }

    /// The same problem, with a probable cause.
    #[must_use]
    pub fn with_hint(self, hint: &'static str) -> Self {
        Self { hint: Some(hint), ..self }
    }

    /// The problem.
    #[must_use]
    pub const fn problem(&self) -> &Problem {
        &self.problem
    }

    /// The problem and its probable cause, without the place.
    #[must_use]
    pub fn explanation(&self) -> String {
        self.hint.map_or_else(|| self.problem.to_string(), |hint| format!("{} ({hint})", self.problem))
    }

    /// The place as a JSON Pointer (RFC 6901). It ends before a key that a publisher chose.
    #[must_use]
    pub fn pointer(&self) -> String {
        places::pointer(&self.path)
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            write!(f, "body: {}", self.problem)?;
        } else {
            write!(f, "`{}`: {}", self.path, self.problem)?;
        }
        self.hint.map_or(Ok(()), |hint| write!(f, " ({hint})"))
    }
}

impl std::error::Error for Invalid {}

/// Reads a `T` from the whole of `body`.
///
/// # Errors
/// [`Invalid`] if `body` is not JSON or not a `T`.
pub fn from_json<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Invalid> {
    // Some libraries write a UTF-8 byte-order mark, which is ignored.
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    if body.starts_with(b"\xff\xfe") || body.starts_with(b"\xfe\xff") {
        let problem = "expected JSON in UTF-8; the body begins with a UTF-16 byte-order mark";
        return Err(Invalid::new("", Problem::BadSyntax(problem)));
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let Object(value) = serde_path_to_error::deserialize(&mut json).map_err(|error| invalid(body, &error))?;
    json.end().map_err(|error| not_json(&error))?;
    Ok(value)
}

fn invalid(body: &[u8], error: &serde_path_to_error::Error<serde_json::Error>) -> Invalid {
    let segments: Vec<&Segment> = error.path().iter().collect();
    let message = error.inner().to_string();
    let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(text, _)| text);
    if !error.inner().is_data() {
        return syntax(body, &segments, message).unwrap_or_else(|| not_json(error.inner()));
    }
    if let Some((found, known)) = unknown(message) {
        let parents = match segments.split_last() {
            Some((Segment::Map { key }, parents)) if key == found => parents,
            _ => &segments,
        };
        let (mut path, near) = (places::path(body, parents), nearest(found, &known));
        // A publisher chose this name, so it is shown only if it is close to a known field.
        let shown = if near.is_some_and(|near| is_misspelt(found, near)) {
            places::identifier(found)
        } else {
            let last = Segment::Map { key: found.to_owned() };
            places::key_position(body, &[parents, &[&last]].concat())
        };
        places::join(&mut path, &shown);
        return unknown_field(path, near, &known);
    }
    explain(&places::path(body, &segments), message)
}

/// Explains a syntax error by its field, for errors that a line and a column would not explain.
fn syntax(body: &[u8], segments: &[&Segment], message: &str) -> Option<Invalid> {
    let problem = match message {
        "lone leading surrogate in hex escape" | "unexpected end of hex escape" => {
            "incomplete Unicode escape: a surrogate such as \\ud83d has no second half (a truncated emoji?)"
        }
        "invalid unicode code point" => "expected text in UTF-8",
        "recursion limit exceeded" => "nested too deeply",
        text if text.starts_with("control character") => {
            "unescaped line break or control character in a string; write it as an escape such as \\n"
        }
        _ => return None,
    };
    Some(Invalid::new(places::path(body, segments), Problem::BadSyntax(problem)))
}

fn not_json(error: &serde_json::Error) -> Invalid {
    Invalid::new("", Problem::NotJson { line: error.line(), column: error.column() })
}

/// Converts serde's messages, which quote the received value, into messages without it.
pub(crate) fn explain(path: &str, message: &str) -> Invalid {
    let mut path = path.to_owned();
    let quoted = |prefix: &str| -> Option<&str> {
        let rest = message.strip_prefix(prefix)?;
        rest.split('`').nth(1)
    };
    if let Some(name) = quoted("missing field ") {
        places::join(&mut path, name);
        return Invalid::new(path, Problem::Missing);
    }
    if let Some(name) = quoted("duplicate field ") {
        if !path.ends_with(name) {
            places::join(&mut path, name);
        }
        return Invalid::new(path, Problem::Duplicate);
    }
    if let Some((found, known)) = unknown(message) {
        places::join(&mut path, &places::identifier(found));
        return unknown_field(path, nearest(found, &known), &known);
    }
    if message.starts_with("expected ") {
        return Invalid::new(path, message.to_owned());
    }
    match message.rsplit_once(", expected ") {
        Some((_, expected)) => Invalid::new(path, format!("expected {}", expected.replace('`', ""))),
        None => Invalid::new(path, "invalid value"),
    }
}

/// Extracts the unknown field and the known fields from serde's message.
fn unknown(message: &str) -> Option<(&str, Vec<&str>)> {
    // serde: unknown field `x`, expected one of `a`, `b`
    let rest = message.strip_prefix("unknown field `")?;
    let (found, known) = rest.rsplit_once(", expected ").unwrap_or((rest, ""));
    Some((found.strip_suffix('`').unwrap_or(found), known.split('`').skip(1).step_by(2).collect()))
}

fn unknown_field(path: String, near: Option<&str>, known: &[&str]) -> Invalid {
    let known = known.iter().map(|name| (*name).to_owned()).collect();
    Invalid::new(path, Problem::UnknownField { near: near.map(str::to_owned), known })
}

/// The known name most similar to `found`, if any is similar enough.
fn nearest<'a>(found: &str, known: &[&'a str]) -> Option<&'a str> {
    let scored = known.iter().map(|name| (strsim::jaro_winkler(found, name), *name));
    scored.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(score, _)| *score > 0.8).map(|(_, name)| name)
}

/// True if `found` is a misspelt `name`: at most one typing error, or two from 8 characters on, ignoring letter case and
/// separators.
fn is_misspelt(found: &str, name: &str) -> bool {
    let plain = |text: &str| text.replace(['_', '-'], "").to_ascii_lowercase();
    let typos_max = if name.len() < 8 { 1 } else { 2 };
    strsim::damerau_levenshtein(&plain(found), &plain(name)) <= typos_max
}
