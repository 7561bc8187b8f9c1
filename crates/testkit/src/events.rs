//! Start events with recognisable private values, so that [`crate::leaks`] finds them in any output.

use serde_json::{Value, json};

/// Each name and each expert's e-mail address begins with one of these.
pub const NAMES: [&str; 2] = ["Guadalupe", "Winnifred"];
/// Part of every opaque value of a flow.
pub const OPAQUE: &str = "flowsecret";

/// Part of every device address.
pub const DEVICE_NAME: &str = "salon-4711";
/// A room device.
pub const DEVICE: &str = "salon-4711@example.rooms.webex.com";
/// A space of Webex: `ciscospark://us/ROOM/1`, in base64.
pub const SPACE: &str = "Y2lzY29zcGFyazovL3VzL1JPT00vMQ";

/// A guest's number: 11 digits, the first three always the same.
pub fn number(n: usize) -> String {
    format!("+346{n:08}")
}

/// An expert's address.
pub fn email(n: usize) -> String {
    format!("winnifred-{n}@example.com")
}

/// The number of the event to which an expert's address belongs.
pub fn event_of(email: &str) -> usize {
    email.strip_prefix("winnifred-").and_then(|rest| rest.split('@').next()).unwrap().parse().unwrap()
}

/// Start event number `n` with a guest on SMS, an expert, and no devices.
pub fn event(n: usize) -> Value {
    json!({
        "sessionId": format!("visit-{n}"),
        "guests": [{"channel": "sms", "address": number(n), "name": format!("Guadalupe {n}")}],
        "experts": [{"email": email(n), "name": format!("Winnifred {n}")}],
        "correlationId": format!("{OPAQUE}-flow-{n}"),
        "attributes": {"resumeKey": format!("{OPAQUE}-{n}")},
    })
}

/// Start event number `n` with its fields replaced by those of `more`; `null` removes a field.
pub fn event_with(n: usize, more: &Value) -> Value {
    let mut event = event(n);
    for (name, value) in more.as_object().unwrap() {
        if value.is_null() {
            event.as_object_mut().unwrap().remove(name);
        } else {
            event[name] = value.clone();
        }
    }
    event
}
