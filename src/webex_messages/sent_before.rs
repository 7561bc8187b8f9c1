//! Search in a list of messages, of which only the beginning may have been read.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;

use crate::contract::{
    decode::{self, Invalid},
    private::Private,
};

#[derive(Deserialize)]
struct Listed {
    #[serde(deserialize_with = "decode::objects")]
    items: Vec<Private<ListFields>>,
}

type ListFields = serde_json::Map<String, Value>;

/// True if one of the messages in `body` contains `text`. If `body` is only the beginning of the list, only complete
/// messages count; `None` if it has no complete message.
///
/// # Errors
/// [`Invalid`] if `body` is not a list of messages.
pub(super) fn holds(body: &[u8], is_whole: bool, text: &str) -> Result<Option<bool>, Invalid> {
    if is_whole {
        let Listed { items } = decode::from_json(body)?;
        let found = items.iter().any(|item| item.reveal().values().any(|value| is_in(value, text)));
        return Ok(Some(found));
    }
    let mut first = First { text, begun: false, items: 0, found: false };
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let mut json = serde_json::Deserializer::from_slice(body);
    // Fails at the end of the truncated body.
    let read = List(&mut first).deserialize(&mut json);
    match (first.items, read) {
        (1.., _) => Ok(Some(first.found)),
        (0, Err(error)) if first.begun && error.is_eof() => Ok(None),
        (0, _) => Err(Invalid::new("", "expected a list of messages")),
    }
}

/// True if any string in `message` contains `text`.
fn is_in(message: &Value, text: &str) -> bool {
    let mut left = vec![message];
    while let Some(value) = left.pop() {
        match value {
            Value::String(found) if found.contains(text) => return true,
            Value::Array(items) => left.extend(items),
            Value::Object(fields) => left.extend(fields.values()),
            _ => {}
        }
    }
    false
}

/// Result of the messages read so far.
struct First<'a> {
    text: &'a str,
    /// The list has begun.
    begun: bool,
    items: usize,
    found: bool,
}

/// The object around the list.
struct List<'a, 'b>(&'a mut First<'b>);

/// The list itself.
struct Items<'a, 'b>(&'a mut First<'b>);

impl<'de> DeserializeSeed<'de> for List<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for List<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key == "items" {
                map.next_value_seed(Items(self.0))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Items<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Items<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        self.0.begun = true;
        while let Some(item) = items.next_element::<ListFields>()? {
            self.0.items += 1;
            self.0.found |= item.values().any(|value| is_in(value, self.0.text));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn list(messages: &[&str]) -> String {
        let items: Vec<_> =
            messages.iter().map(|text| json!({"id": "1", "attachments": [{"text": text}]})).collect();
        json!({"notFound": [1], "items": items}).to_string()
    }

    #[test]
    fn text_is_found_in_the_whole_list() {
        assert_eq!(holds(list(&["a", "has link in it"]).as_bytes(), true, "link"), Ok(Some(true)));
        assert_eq!(holds(list(&["a"]).as_bytes(), true, "link"), Ok(Some(false)));
        for is_whole in [true, false] {
            let marked = format!("\u{feff}{}", list(&["a link"]));
            assert_eq!(holds(marked.as_bytes(), is_whole, "link"), Ok(Some(true)), "after a byte-order mark");
        }
        assert_eq!(holds(list(&[]).as_bytes(), true, "link"), Ok(Some(false)), "nothing was sent yet");
    }

    #[test]
    fn beginning_of_a_list_is_enough() {
        let list = list(&["first", "second link", "third"]);
        for end in 0..list.len() {
            let whole = |text: &str| list[..end].find(text).is_some_and(|at| list[at..end].contains('}'));
            let found = holds(&list.as_bytes()[..end], false, "link");
            if list[..end].contains("third") {
                assert_eq!(found, Ok(Some(true)), "{end}");
            } else if !list[..end].contains("items\":[") {
                assert!(found.is_err(), "{end}: {found:?}");
            } else if !whole("first") {
                assert_eq!(found, Ok(None), "{end}");
            }
        }
        assert_eq!(holds(&list.as_bytes()[..list.len() - 3], false, "fourth"), Ok(Some(false)));
    }

    #[test]
    fn body_without_a_message_list_is_an_error() {
        for body in
            ["", "{}", "[]", "null", r#"{"items":null}"#, r#"{"items":[1]}"#, r#"{"items":{}}"#, "<html>"]
        {
            assert!(holds(body.as_bytes(), true, "link").is_err(), "{body}");
            assert!(holds(body.as_bytes(), false, "link").is_err(), "{body}");
        }
    }
}
