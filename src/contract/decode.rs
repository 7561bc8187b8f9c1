//! JSON in, with errors that name the place and what was expected, and never what was found: that may be a
//! person's number.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_path_to_error::Segment;

/// What is wrong with a message: where (a JSON path) and what was expected there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    path: String,
    problem: String,
}

impl Invalid {
    /// `path` such as `guests[1].address`, empty for the whole body; `problem` such as `expected …`. Neither may
    /// hold anything that came with the message, but names of fields.
    pub fn new(path: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { path: path.into(), problem: problem.into() }
    }

    /// The same problem, one level further in: `data` before `guests[1]` gives `data.guests[1]`.
    #[must_use]
    pub fn within(self, outer: &str) -> Self {
        let path = if self.path.is_empty() { outer.to_owned() } else { format!("{outer}.{}", self.path) };
        Self { path, problem: self.problem }
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
    let mut json = serde_json::Deserializer::from_slice(body);
    let Object(value) = serde_path_to_error::deserialize(&mut json).map_err(|error| invalid(&error))?;
    json.end().map_err(|error| not_json(&error))?;
    Ok(value)
}

/// A `T` that was written as an object. Derived types read themselves from an array too, field by field, which no
/// contract allows and no schema shows.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }

        deserializer.deserialize_map(Fields(PhantomData)).map(Self)
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
            struct Entries<T>(PhantomData<T>);

            impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
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

            deserializer.deserialize_map(Entries(PhantomData)).map(Self)
        }
    }

    Ok(Option::<Unique<T>>::deserialize(deserializer)?.map(|Unique(entries)| entries))
}

fn invalid(error: &serde_path_to_error::Error<serde_json::Error>) -> Invalid {
    if !error.inner().is_data() {
        return not_json(error.inner());
    }
    let message = error.inner().to_string();
    let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(text, _)| text);
    explain(&path(error.path().iter()), message)
}

fn not_json(error: &serde_json::Error) -> Invalid {
    Invalid::new(
        "",
        format!("expected JSON, which breaks off at line {} column {}", error.line(), error.column()),
    )
}

fn path<'a>(segments: impl Iterator<Item = &'a Segment>) -> String {
    use fmt::Write;
    let mut path = String::new();
    for segment in segments {
        match segment {
            Segment::Seq { index } => _ = write!(path, "[{index}]"),
            Segment::Map { key } => join(&mut path, &field_name(key)),
            Segment::Enum { variant } => join(&mut path, &field_name(variant)),
            Segment::Unknown => join(&mut path, "?"),
        }
    }
    path
}

fn join(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
}

/// A field's name as an error may show it: names come from outside too, and could be anything.
fn field_name(name: &str) -> String {
    let identifier = name.len() <= 40
        && name.bytes().filter(u8::is_ascii_digit).count() < 7
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if identifier { name.to_owned() } else { format!("(a name of {} bytes)", name.len()) }
}

/// Turns serde's own messages, which quote what they found, into ours, which don't.
pub(crate) fn explain(path: &str, message: &str) -> Invalid {
    let mut path = path.to_owned();
    let quoted = |prefix: &str| -> Option<&str> {
        let rest = message.strip_prefix(prefix)?;
        rest.split('`').nth(1)
    };
    if let Some(name) = quoted("missing field ") {
        join(&mut path, name);
        return Invalid::new(path, "required, and missing");
    }
    if let Some(name) = quoted("duplicate field ") {
        if !path.ends_with(name) {
            join(&mut path, name);
        }
        return Invalid::new(path, "expected once, and given twice");
    }
    if message.starts_with("unknown field ") {
        return unknown_field(path, message);
    }
    if message.starts_with("expected ") {
        return Invalid::new(path, message);
    }
    match message.rsplit_once(", expected ") {
        Some((_, expected)) => Invalid::new(path, format!("expected {}", expected.replace('`', ""))),
        None => Invalid::new(path, "not as expected"),
    }
}

fn unknown_field(path: String, message: &str) -> Invalid {
    // serde: unknown field `x`, expected one of `a`, `b`
    let (found, known) = message.rsplit_once(", expected ").unwrap_or((message, ""));
    let found = found.split_once('`').map_or("", |(_, name)| name.trim_end_matches('`'));
    let known: Vec<&str> = known.split('`').skip(1).step_by(2).collect();
    let shown = field_name(found);
    let path = match path.rsplit_once('.') {
        _ if path == shown || path.ends_with(&format!(".{shown}")) => path,
        _ if path.is_empty() => shown,
        _ => format!("{path}.{shown}"),
    };
    let near =
        known.iter().map(|name| (strsim::jaro_winkler(found, name), name)).max_by(|a, b| a.0.total_cmp(&b.0));
    let hint = match near {
        Some((score, name)) if score > 0.8 => format!(" (did you mean `{name}`?)"),
        _ => String::new(),
    };
    Invalid::new(path, format!("unknown field{hint}; known here: {}", known.join(", ")))
}
