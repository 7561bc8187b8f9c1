//! JSON in, with errors that name the place and what was expected, and never what was found: that may be a
//! person's number, or say what they suffer from. A name that a publisher chose is as private as a value.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_path_to_error::Segment;

use super::places;
pub(crate) use super::places::{BY_PUBLISHER, is_ours};

/// What is wrong with a message: where (a JSON path) and what was expected there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    path: String,
    problem: String,
}

impl Invalid {
    /// `path` such as `guests[1].address`, empty for the whole body; `problem` such as `expected …`. Neither may
    /// hold anything that came with the message.
    pub fn new(path: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { path: path.into(), problem: problem.into() }
    }

    /// The same problem, one level further in: `data` before `guests[1]` gives `data.guests[1]`.
    #[must_use]
    pub fn within(self, outer: &str) -> Self {
        let path = if self.path.is_empty() { outer.to_owned() } else { format!("{outer}.{}", self.path) };
        Self { path, problem: self.problem }
    }

    /// The same problem, and what may be the reason.
    #[must_use]
    pub fn with_hint(self, hint: &str) -> Self {
        Self { problem: format!("{} ({hint})", self.problem), ..self }
    }

    /// What was expected.
    #[must_use]
    pub fn problem(&self) -> &str {
        &self.problem
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            write!(f, "body: {}", self.problem)
        } else {
            write!(f, "`{}`: {}", self.path, self.problem)
        }
    }
}

impl std::error::Error for Invalid {}

/// Reads a `T` from the whole of `body`.
///
/// # Errors
/// [`Invalid`] where it is not JSON or not a `T`.
pub fn from_json<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Invalid> {
    // A byte-order mark before it is nobody's intention, and no harm.
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    if body.starts_with(b"\xff\xfe") || body.starts_with(b"\xfe\xff") {
        return Err(Invalid::new("", "expected JSON in UTF-8, and this begins like UTF-16"));
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let Object(value) = serde_path_to_error::deserialize(&mut json).map_err(|error| invalid(body, &error))?;
    json.end().map_err(|error| not_json(&error))?;
    Ok(value)
}

/// A `T` that was written as an object. Derived types read themselves from an array too, field by field, which no
/// contract allows and no schema shows.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectFields<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectFields<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }

        deserializer.deserialize_map(ObjectFields(PhantomData)).map(Self)
    }
}

/// Reads a field that is an object.
pub(crate) fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Object::deserialize(deserializer).map(|Object(value)| value)
}

/// Reads a field that is a list of objects.
pub(crate) fn objects<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    let objects: Vec<Object<T>> = Vec::deserialize(deserializer)?;
    Ok(objects.into_iter().map(|Object(value)| value).collect())
}

/// Reads a field that is a list of objects, where `null` is an empty one.
pub(crate) fn objects_or_null<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    let objects: Option<Vec<Object<T>>> = Option::deserialize(deserializer)?;
    Ok(objects.into_iter().flatten().map(|Object(value)| value).collect())
}

/// Reads a map in which no key stands twice: of two values one would be lost silently.
pub(crate) fn unique<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<BTreeMap<String, T>>, D::Error> {
    struct Unique<T>(BTreeMap<String, T>);

    impl<'de, T: Deserialize<'de>> Deserialize<'de> for Unique<T> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct UniqueEntries<T>(PhantomData<T>);

            impl<'de, T: Deserialize<'de>> Visitor<'de> for UniqueEntries<T> {
                type Value = BTreeMap<String, T>;

                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("an object of strings")
                }

                fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                    let mut entries = BTreeMap::new();
                    while let Some((key, value)) = map.next_entry()? {
                        if entries.insert(key, value).is_some() {
                            return Err(A::Error::custom("expected each key once, and one is given twice"));
                        }
                    }
                    Ok(entries)
                }
            }

            deserializer.deserialize_map(UniqueEntries(PhantomData)).map(Self)
        }
    }

    Ok(Option::<Unique<T>>::deserialize(deserializer)?.map(|Unique(entries)| entries))
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
        // Somebody chose this name: it is shown only if it is one of ours, misspelt.
        let shown = if near.is_some_and(|near| is_misspelt(found, near)) {
            places::identifier(found)
        } else {
            let last = Segment::Map { key: found.to_owned() };
            places::hidden(body, &[parents, &[&last]].concat())
        };
        places::join(&mut path, &shown);
        return unknown_field(path, near, &known);
    }
    explain(&places::path(body, &segments), message)
}

/// What the writer of a text could not know from a line and a column alone, with the field that it is in.
fn syntax(body: &[u8], segments: &[&Segment], message: &str) -> Option<Invalid> {
    let problem = match message {
        "lone leading surrogate in hex escape" | "unexpected end of hex escape" => {
            "expected whole characters, and an escape such as \\ud83d has no second half (half an emoji?)"
        }
        "invalid unicode code point" => "expected text in UTF-8",
        "recursion limit exceeded" => "expected less nesting",
        text if text.starts_with("control character") => {
            "expected each line break and control character in a string to be escaped, such as \\n"
        }
        _ => return None,
    };
    Some(Invalid::new(places::path(body, segments), problem))
}

fn not_json(error: &serde_json::Error) -> Invalid {
    Invalid::new(
        "",
        format!("expected JSON, which breaks off at line {} column {}", error.line(), error.column()),
    )
}

/// Turns serde's own messages, which quote what they found, into ours, which don't.
pub(crate) fn explain(path: &str, message: &str) -> Invalid {
    let mut path = path.to_owned();
    let quoted = |prefix: &str| -> Option<&str> {
        let rest = message.strip_prefix(prefix)?;
        rest.split('`').nth(1)
    };
    if let Some(name) = quoted("missing field ") {
        places::join(&mut path, name);
        return Invalid::new(path, "required, and missing");
    }
    if let Some(name) = quoted("duplicate field ") {
        if !path.ends_with(name) {
            places::join(&mut path, name);
        }
        return Invalid::new(path, "expected once, and given twice");
    }
    if let Some((found, known)) = unknown(message) {
        places::join(&mut path, &places::identifier(found));
        return unknown_field(path, nearest(found, &known), &known);
    }
    if message.starts_with("expected ") {
        return Invalid::new(path, message);
    }
    match message.rsplit_once(", expected ") {
        Some((_, expected)) => Invalid::new(path, format!("expected {}", expected.replace('`', ""))),
        None => Invalid::new(path, "not as expected"),
    }
}

/// The field that a type does not have, and those that it has, of serde's message.
fn unknown(message: &str) -> Option<(&str, Vec<&str>)> {
    // serde: unknown field `x`, expected one of `a`, `b`
    let rest = message.strip_prefix("unknown field `")?;
    let (found, known) = rest.rsplit_once(", expected ").unwrap_or((rest, ""));
    Some((found.strip_suffix('`').unwrap_or(found), known.split('`').skip(1).step_by(2).collect()))
}

fn unknown_field(path: String, near: Option<&str>, known: &[&str]) -> Invalid {
    let hint = near.map(|name| format!(" (did you mean `{name}`?)")).unwrap_or_default();
    Invalid::new(path, format!("unknown field{hint}; known here: {}", known.join(", ")))
}

/// The known name that was meant, perhaps.
fn nearest<'a>(found: &str, known: &[&'a str]) -> Option<&'a str> {
    let scored = known.iter().map(|name| (strsim::jaro_winkler(found, name), *name));
    scored.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(score, _)| *score > 0.8).map(|(_, name)| name)
}

/// Whether `found` is `name` with a slip or two: letter case and separators aside.
fn is_misspelt(found: &str, name: &str) -> bool {
    let plain = |text: &str| text.replace(['_', '-'], "").to_ascii_lowercase();
    let slips = if name.len() < 8 { 1 } else { 2 };
    strsim::damerau_levenshtein(&plain(found), &plain(name)) <= slips
}
