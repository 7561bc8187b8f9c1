//! The wait that a response requires: its Retry-After headers.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};

use crate::retry::RETRY_AFTER_MAX;

/// Minimum wait after a Retry-After; the same as in Cisco's SDK.
pub(in crate::upstream) const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);

/// The longest wait of all Retry-After headers; `unreadable` for a header that cannot be parsed. A date is relative to
/// the Date header of the response, because our clock may differ; without that header, it is relative to `now`.
pub(in crate::upstream) fn requested_wait(
    headers: &HeaderMap,
    now: Timestamp,
    unreadable: Duration,
) -> Option<Duration> {
    let now = date(headers).unwrap_or(now);
    let values = headers.get_all(RETRY_AFTER).iter();
    values.map(|value| value.to_str().ok().and_then(|value| longest(value, now)).unwrap_or(unreadable)).max()
}

/// The longest wait in a header value. A proxy may have joined two headers with a comma.
fn longest(value: &str, now: Timestamp) -> Option<Duration> {
    let parts: Vec<_> = value.split(',').map(str::trim).collect();
    // A date also contains a comma.
    let dates = parts.windows(2).map(|pair| pair.join(", "));
    let waits = parts.iter().map(|part| (*part).to_owned()).chain(dates);
    waits.filter_map(|wait| parse_retry_after(&wait, now)).max()
}

/// Parses a Retry-After header (RFC 9110, section 10.2.3): seconds, or a date relative to `now`. A past date is no
/// wait. `None` for anything else.
#[must_use]
pub fn parse_retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // Digits that overflow an integer mean a very long time, not an error.
        let seconds = value.parse().unwrap_or(u64::MAX);
        return Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
    }
    let at = Timestamp::try_from(httpdate::parse_http_date(value).ok()?).ok()?;
    Some(Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO).min(RETRY_AFTER_MAX))
}

/// Time of a response, by the API's clock.
pub(in crate::upstream) fn date(headers: &HeaderMap) -> Option<Timestamp> {
    let date = headers.get(DATE)?.to_str().ok()?;
    Timestamp::try_from(httpdate::parse_http_date(date).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use reqwest::header::{HeaderName, HeaderValue};

    use super::*;

    fn now() -> Timestamp {
        "2026-11-21T09:00:00Z".parse().unwrap()
    }

    #[test]
    fn retry_after_is_parsed_as_seconds_or_date() {
        let read = |text: &str| parse_retry_after(text, now()).map(|wait| wait.as_secs());
        assert_eq!(read("7"), Some(7));
        assert_eq!(read(" 0 "), Some(0));
        assert_eq!(read("Sat, 21 Nov 2026 09:00:07 GMT"), Some(7));
        assert_eq!(read("Sat, 21 Nov 2026 08:00:00 GMT"), Some(0));
        assert_eq!(read("99999999999999999999999"), Some(3600), "at most an hour");
        assert_eq!(read("Sun, 21 Nov 2027 09:00:00 GMT"), Some(3600));
        for wrong in ["", "-1", "1.5", "soon", "7 s", "Sat, 21 Nov 2026", "\u{0663}"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn retry_after_of_any_text_is_handled(text in ".{0,64}") {
            if let Some(wait) = parse_retry_after(&text, now()) {
                prop_assert!(wait <= RETRY_AFTER_MAX);
            }
        }
    }

    #[test]
    fn retry_after_date_is_relative_to_the_response_date() {
        let minute = Duration::from_secs(60);
        let wait = |headers: &[(&'static str, String)]| {
            let headers = headers
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()));
            requested_wait(&headers.collect(), Timestamp::now(), minute)
        };
        let date = |seconds: i64| {
            let at = Timestamp::from_second(Timestamp::now().as_second() + seconds).unwrap();
            httpdate::fmt_http_date(at.into())
        };
        // Clocks that are an hour slow and an hour fast.
        for wrong in [-3600, 3600] {
            let headers = [("date", date(wrong)), ("retry-after", date(wrong + 30))];
            assert_eq!(wait(&headers), Some(Duration::from_secs(30)));
        }
        let without = wait(&[("retry-after", date(30))]).unwrap();
        assert!((28..=30).contains(&without.as_secs()), "{without:?}");
        assert_eq!(wait(&[("date", date(0)), ("retry-after", "7".to_owned())]), Some(Duration::from_secs(7)));
        assert_eq!(wait(&[("retry-after", "soon".to_owned())]), Some(minute));
        assert_eq!(wait(&[("date", date(0))]), None);
        assert_eq!(wait(&[("retry-after", String::new())]), Some(minute));
    }

    #[test]
    fn longest_of_several_waits_applies() {
        let minute = Duration::from_secs(60);
        let in_90 = "Sat, 21 Nov 2026 12:01:30 GMT";
        for (values, seconds) in [
            (vec!["2", "40"], 40),
            (vec!["40", "2"], 40),
            (vec!["2, 40"], 40),
            (vec!["2", "soon"], 60),
            (vec!["2", in_90], 90),
            (vec![&format!("2, {in_90}")], 90),
            (vec![&format!("{in_90}, Sat, 21 Nov 2026 12:00:05 GMT"), "7"], 90),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(DATE, HeaderValue::from_static("Sat, 21 Nov 2026 12:00:00 GMT"));
            for value in &values {
                headers.append(RETRY_AFTER, HeaderValue::from_str(value).unwrap());
            }
            assert_eq!(
                requested_wait(&headers, Timestamp::now(), minute),
                Some(Duration::from_secs(seconds)),
                "{values:?}"
            );
        }
    }
}
