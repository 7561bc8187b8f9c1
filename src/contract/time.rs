//! Times on the wire: RFC 3339, as instants.

use std::borrow::Cow;

use jiff::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// An instant, RFC 3339 on the wire, whole seconds (what a JWT's `nbf` and `exp` can carry, RFC 7519).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Instant(i64);

impl Instant {
    /// The last whole second not after `at`.
    #[must_use]
    pub fn floor(at: Timestamp) -> Self {
        Self(at.as_second() - i64::from(at.subsec_nanosecond() < 0))
    }

    /// Seconds since the epoch.
    #[must_use]
    pub const fn unix_seconds(self) -> i64 {
        self.0
    }

    /// As a timestamp.
    #[must_use]
    pub fn timestamp(self) -> Timestamp {
        Timestamp::from_second(self.0).unwrap_or(Timestamp::MAX)
    }
}

impl From<Instant> for String {
    fn from(at: Instant) -> Self {
        at.timestamp().to_string()
    }
}

impl TryFrom<String> for Instant {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        // The parser knows more forms than RFC 3339 (section 5.6), which wants a full time and an offset.
        let bytes = text.as_bytes();
        let shape = bytes.len() >= 20
            && bytes.len() <= 40
            && [4, 7].iter().all(|&i| bytes[i] == b'-')
            && [13, 16].iter().all(|&i| bytes[i] == b':')
            && matches!(bytes[10], b'T' | b't')
            && bytes[0].is_ascii_digit();
        let parsed = if shape { text.parse::<Timestamp>().ok() } else { None };
        parsed.map(Self::floor).ok_or("expected an RFC 3339 time such as 2026-11-21T10:00:00Z")
    }
}

impl JsonSchema for Instant {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Instant".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "format": "date-time"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_3339_is_read_and_other_forms_are_not() {
        let read = |text: &str| Instant::try_from(text.to_owned()).map(Instant::unix_seconds);
        assert_eq!(read("2026-11-21T10:00:00Z"), Ok(1_795_255_200));
        assert_eq!(read("2026-11-21T11:00:00.999+01:00"), Ok(1_795_255_200));
        for wrong in [
            "",
            "2026-11-21",
            "2026-11-21T10:00:00",
            "2026-11-21T10:00Z",
            "1795255200",
            "now",
            "2026-11-21T10:00:00+01:00[Europe/Madrid]x",
            "2026-13-21T10:00:00Z",
            "éééééééééééééééé",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn it_is_written_in_utc() {
        let at = Instant::try_from("2026-11-21T11:00:00+01:00".to_owned()).unwrap();
        assert_eq!(String::from(at), "2026-11-21T10:00:00Z");
    }

    #[test]
    fn before_the_epoch_the_floor_is_the_earlier_second() {
        assert_eq!(Instant::floor("1969-12-31T23:59:58.5Z".parse().unwrap()).unix_seconds(), -2);
    }
}
