use proptest::prelude::*;
use serde_json::Value;

use super::*;

/// Replaces the value at `path` with `with`.
fn mutate(value: &mut Value, path: &[usize], with: &Value) {
    let Some((&first, rest)) = path.split_first() else { return *value = with.clone() };
    match value {
        Value::Array(items) if !items.is_empty() => {
            let index = first % items.len();
            mutate(&mut items[index], rest, with);
        }
        Value::Object(map) if !map.is_empty() => {
            let key = map.keys().nth(first % map.len()).unwrap().clone();
            mutate(&mut map[&key], rest, with);
        }
        _ => *value = with.clone(),
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "SECRET.{0,20}".prop_map(Value::from)
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("SECRET[ -~]{0,8}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_bytes_are_refused_without_panic(body: Vec<u8>) {
        let message = Message { body, ..Message::default() };
        prop_assert!(Session::read(&message, &rules(), NOW.parse().unwrap()).is_err());
    }

    #[test]
    fn refusal_of_any_changed_event_shows_no_value(
        path in prop::collection::vec(any::<usize>(), 1..4), with in any_json(),
    ) {
        let mut event: Value = serde_json::from_str(FULL).unwrap();
        mutate(&mut event, &path, &with);
        if let Err(reason) = read(&event.to_string()) {
            prop_assert!(!reason.contains("SECRET") && !reason.contains("34600111222") && !reason.contains("chat-99"), "{}", reason);
        }
    }
}
