//! Times on the wire, in RFC 3339.

use std::borrow::Cow;

use jiff::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A point in time, RFC 3339 on the wire, in whole seconds like the JWT claims `nbf` and `exp` (RFC 7519).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct WireTime(i64);

impl WireTime {
    /// Rounds `at` down to a whole second.
    #[must_use]
    pub fn floor(at: Timestamp) -> Self {
        Self(at.as_second() - i64::from(at.subsec_nanosecond() < 0))
    }

    /// Seconds since the Unix epoch.
    #[must_use]
    pub const fn unix_seconds(self) -> i64 {
        self.0
    }

    /// Converts to a timestamp.
    #[must_use]
    pub fn timestamp(self) -> Timestamp {
        Timestamp::from_second(self.0).unwrap_or(Timestamp::MAX)
    }
}

impl From<WireTime> for String {
    fn from(at: WireTime) -> Self {
        at.timestamp().to_string()
    }
}

impl TryFrom<String> for WireTime {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        parse(&text).ok_or("expected an RFC 3339 time such as 2026-11-21T10:00:00Z")
    }
}

/// Parses RFC 3339, section 5.6, only: the underlying parser accepts more formats. Fractions of a second are dropped.
fn parse(text: &str) -> Option<WireTime> {
    const DATE_TIME: &[u8] = b"dddd-dd-ddTdd:dd:dd";
    let (date_time, rest) = (text.get(..DATE_TIME.len())?, text.get(DATE_TIME.len()..)?);
    let fits = |text: &str, shape: &[u8]| {
        text.len() == shape.len()
            && text
                .bytes()
                .zip(shape)
                .all(|(b, s)| if *s == b'd' { b.is_ascii_digit() } else { b.eq_ignore_ascii_case(s) })
    };
    let offset = match rest.strip_prefix('.') {
        Some(fraction) => fraction.trim_start_matches(|c: char| c.is_ascii_digit()),
        None => rest,
    };
    let cut = rest.strip_suffix(offset)?;
    let hour = offset.get(1..3).and_then(|hour| hour.parse::<u8>().ok());
    let zone = fits(offset, b"Z")
        || ((fits(offset, b"+dd:dd") || fits(offset, b"-dd:dd")) && hour.is_some_and(|hour| hour < 24));
    if !fits(date_time, DATE_TIME) || !zone || cut == "." || text.len() > 64 {
        return None;
    }
    match format!("{date_time}{offset}").parse::<Timestamp>() {
        Ok(at) => Some(WireTime::floor(at)),
        // Some senders write this date for "never expires"; it is beyond the range of a timestamp.
        Err(_) if date_time.get(..10) == Some("9999-12-31") => Some(WireTime::floor(Timestamp::MAX)),
        Err(_) => None,
    }
}

impl JsonSchema for WireTime {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "WireTime".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "format": "date-time"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_time_accepts_only_rfc_3339() {
        let read = |text: &str| WireTime::try_from(text.to_owned()).map(WireTime::unix_seconds);
        assert_eq!(read("2026-11-21T10:00:00Z"), Ok(1_795_255_200));
        assert_eq!(read("2026-11-21T11:00:00.999+01:00"), Ok(1_795_255_200));
        assert_eq!(read("2026-11-21t10:00:00.12345678901234z"), Ok(1_795_255_200));
        assert!(read("9999-12-31T23:59:59Z").is_ok());
        for wrong in [
            "",
            "2026-11-21",
            "2026-11-21T10:00:00",
            "2026-11-21T10:00Z",
            "1795255200",
            "now",
            "2026-11-21T10:00:00+01:00[Europe/Madrid]x",
            "2026-11-21T11:00:00Z[UTC]",
            "2026-11-21T11:00:00+01",
            "2026-11-21T11:00:00+0100",
            "2026-11-21T11:00:00+01:00:30",
            "2026-11-21T11:00:00,5Z",
            "2026-11-21T11:00:00.Z",
            "2026-11-21T11:00:00+24:00",
            "2026-13-21T10:00:00Z",
            "éééééééééééééééé",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn wire_time_is_written_in_utc() {
        let at = WireTime::try_from("2026-11-21T11:00:00+01:00".to_owned()).unwrap();
        assert_eq!(String::from(at), "2026-11-21T10:00:00Z");
    }

    #[test]
    fn floor_before_the_epoch_is_the_earlier_second() {
        assert_eq!(WireTime::floor("1969-12-31T23:59:58.5Z".parse().unwrap()).unix_seconds(), -2);
    }
}
