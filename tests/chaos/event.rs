//! Start events of a run. Each follows from its number alone, so its record is small.

use serde_json::json;

/// The kind of an event, derived from its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Good,
    /// Has an unknown field.
    Invalid,
    /// Names a device that is not allowed.
    Forbidden,
}

/// The start event number `n`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start(pub(crate) u32);

impl Start {
    pub(crate) fn kind(self) -> Kind {
        match self.0 % 50 {
            7 => Kind::Invalid,
            23 => Kind::Forbidden,
            _ => Kind::Good,
        }
    }

    pub(super) fn guests(self) -> u32 {
        1 + self.0 % 2
    }

    /// `event-{n}`
    pub(crate) fn id(self) -> String {
        format!("event-{}", self.0)
    }

    pub(super) fn session(self) -> String {
        format!("chaos-{}", self.0)
    }

    pub(super) fn number(self, guest: u32) -> String {
        format!("+346{:08}", 2 * self.0 + guest)
    }

    /// The event and the guest with this number.
    pub(super) fn of_number(number: &str) -> Option<(Self, u32)> {
        let number: u32 = number.strip_prefix("+346")?.parse().ok()?;
        Some((Self(number / 2), number % 2))
    }

    pub(super) fn channel(guest: u32) -> &'static str {
        if guest == 0 { "whatsapp" } else { "sms" }
    }

    fn email(self) -> String {
        format!("expert-{}@example.com", self.0)
    }

    pub(super) fn devices(self) -> Vec<String> {
        let name = match self.kind() {
            Kind::Forbidden => "spy",
            _ if self.0.is_multiple_of(5) => "room",
            _ => return Vec::new(),
        };
        vec![format!("{name}-{}@example.rooms.webex.com", self.0)]
    }

    pub(crate) fn body(self) -> Vec<u8> {
        let guests: Vec<_> = (0..self.guests())
            .map(|guest| json!({"channel": Self::channel(guest), "address": self.number(guest), "name": "Guadalupe"}))
            .collect();
        let mut body = json!({
            "sessionId": self.session(), "guests": guests, "experts": [{"email": self.email()}], "devices": self.devices(),
        });
        if self.kind() == Kind::Invalid {
            body["devises"] = json!([]);
        }
        body.to_string().into_bytes()
    }

    pub(super) fn of(text: Option<&str>, prefix: &str) -> Option<Self> {
        text?.strip_prefix(prefix)?.parse().ok().map(Self)
    }
}
