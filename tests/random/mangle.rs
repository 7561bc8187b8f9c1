//! Mangles JSON: first its structure, then its text.

use fastrand::Rng;
use serde_json::{Map, Value, json};

/// Strings with a special meaning for some part of the program.
const STRINGS: [&str; 28] = [
    "",
    " ",
    "\u{0}",
    "\u{feff}",
    "\u{202e}x",
    "é",
    "👩‍⚕️",
    "ﷺ",
    "\r\nX: y",
    "[x](https://example.com)",
    "sms",
    "whatsapp",
    "hc",
    "gen",
    "+0",
    "+34600111222",
    "+999999999999999999999999",
    "visit-1",
    "sip:room-1@example.com",
    "*@*",
    "a@b",
    "@",
    "2026-11-21T10:00:00Z",
    "9999-12-31T23:59:60Z",
    "-009999-01-01T00:00:00+25:00",
    "true",
    "null",
    "https://instant.webex.com/visit/",
];
/// Texts that no serialiser would write.
const TEXTS: [&str; 24] = [
    "\"",
    "\\",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\\ud800",
    "\\udc00\\ud800",
    "\\u0000",
    "\"\\x\"",
    "1e999",
    "-",
    "0123",
    "NaN",
    "1e-999999999",
    "99999999999999999999999999",
    "\u{feff}",
    "//",
    "null",
    "\"sessionId\":\"\",",
    "\"host\":[],",
    "\n",
];
const KEYS: [&str; 17] = [
    "sessionId",
    "guests",
    "experts",
    "devices",
    "vertical",
    "attributes",
    "email",
    "personId",
    "name",
    "data",
    "id",
    "host",
    "guest",
    "baseUrl",
    "short",
    "cipher",
    "",
];

/// `value` with up to four changes, as text with up to three changes.
pub(super) fn mangled(random: &mut Rng, mut value: Value) -> Vec<u8> {
    for _ in 0..random.usize(..5) {
        let at = random.usize(..count(&value));
        spoil(random, nth(&mut value, at));
    }
    let mut text = value.to_string().into_bytes();
    for _ in 0..random.usize(..8).saturating_sub(4) {
        spoil_text(random, &mut text);
    }
    text
}

/// The number of values in `value`, including itself.
fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(fields) => fields.values().map(count).sum(),
        _ => 0,
    }
}

/// Value number `left` of `value`, depth first.
fn nth(mut value: &mut Value, mut left: usize) -> &mut Value {
    while left > 0 {
        left -= 1;
        let children: Vec<&mut Value> = match value {
            Value::Array(items) => items.iter_mut().collect(),
            Value::Object(fields) => fields.values_mut().collect(),
            _ => unreachable!("a value without children counts as one"),
        };
        let mut found = None;
        for child in children {
            let size = count(child);
            if left < size {
                found = Some(child);
                break;
            }
            left -= size;
        }
        value = found.expect("the value has fewer values than counted");
    }
    value
}

fn spoil(random: &mut Rng, value: &mut Value) {
    let other = any(random);
    match value {
        Value::Object(fields) if random.u8(..4) > 0 => spoil_fields(random, fields, other),
        Value::Array(items) if random.u8(..4) > 0 => match random.u8(..4) {
            0 => items.push(other),
            1 => _ = items.pop(),
            2 => items.clear(),
            _ => {
                let times = if random.u16(..500) == 0 { 1200 } else { 3 };
                *items = items.iter().cycle().take(items.len() * times).cloned().collect();
            }
        },
        Value::String(text) if random.bool() => match random.u8(..4) {
            0 => text.push_str(any_string(random).as_str()),
            1 => text.insert_str(0, any_string(random).as_str()),
            2 => *text = text.chars().filter(|_| random.u8(..4) > 0).collect(),
            _ => *text = text.to_uppercase(),
        },
        _ => *value = other,
    }
}

fn spoil_fields(random: &mut Rng, fields: &mut Map<String, Value>, other: Value) {
    let keys: Vec<_> = fields.keys().cloned().collect();
    let key = random.choice(keys).unwrap_or_default();
    match random.u8(..4) {
        0 => _ = fields.remove(&key),
        1 => _ = fields.insert(key, other),
        2 => _ = fields.insert((*random.choice(&KEYS).unwrap_or(&"")).to_owned(), other),
        _ => {
            // Swaps two values.
            let value = fields.remove(&key).unwrap_or_default();
            if let Some(place) = fields.values_mut().next() {
                let moved = std::mem::replace(place, value);
                fields.insert(key, moved);
            }
        }
    }
}

/// A random value of any type.
fn any(random: &mut Rng) -> Value {
    match random.u8(..10) {
        0 => Value::Null,
        1 => random.bool().into(),
        2 => json!(random.i64(..)),
        3 => json!(random.choice([0.1, -0.0, 1e308, 5e-324, -1.5e-9])),
        4 => json!(random.choice([0, 1, u64::MAX, u64::from(u32::MAX), 1 << 53])),
        5 => json!([]),
        6 => json!({}),
        7 => (0..depth(random)).fold(Value::Null, |inner, _| json!([inner])),
        8 => (0..depth(random)).fold(json!({}), |inner, _| json!({"data": inner})),
        _ => any_string(random).into(),
    }
}

/// A random depth; parsers may refuse a depth of 128.
fn depth(random: &mut Rng) -> usize {
    if random.u8(..20) == 0 { 120 + random.usize(..20) } else { random.usize(..5) }
}

/// A random string: a known one, one of random characters, or a long one.
pub(super) fn any_string(random: &mut Rng) -> String {
    match random.u8(..8) {
        0 => (0..random.usize(..20)).map(|_| random.char(..)).collect(),
        1 => (0..random.usize(..200)).map(|_| random.alphanumeric()).collect(),
        2 => {
            let longest = if random.u8(..20) == 0 { 6000 } else { 100 };
            "é".repeat(random.usize(..longest))
        }
        _ => (*random.choice(&STRINGS).unwrap_or(&"")).to_owned(),
    }
}

fn spoil_text(random: &mut Rng, text: &mut Vec<u8>) {
    let at = random.usize(..=text.len());
    let until = text.len().min(at + random.usize(..40));
    match random.u8(..8) {
        0 => text.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << random.u8(..8)),
        1 => text.iter_mut().skip(at).take(1).for_each(|byte| *byte = random.u8(..)),
        2 => _ = text.drain(at..until),
        3 => {
            let copy = text[at..until].to_vec();
            text.splice(at..at, copy);
        }
        4 => text.truncate(at),
        5 => {
            let deep = if random.u8(..20) == 0 { 100_000 } else { 150 };
            let byte = if random.bool() { b'[' } else { b' ' };
            text.splice(at..at, std::iter::repeat_n(byte, deep));
        }
        6 => {
            let noise: Vec<u8> = (0..random.usize(1..10)).map(|_| random.u8(..)).collect();
            text.splice(at..at, noise);
        }
        _ => {
            let token = random.choice(&TEXTS).unwrap_or(&"").bytes();
            text.splice(at..at, token);
        }
    }
}
