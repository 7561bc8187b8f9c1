use std::time::{Duration, SystemTime};

use axum::http::HeaderMap;
use jiff::Timestamp;

use super::{testing::*, *};
use crate::{ingress::rotating_lines::FRESH, telemetry::metrics::labels::AuthFailure};

/// The published test vector of Standard Webhooks.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
const SECONDS: &str = "1614265330";
const BODY: &[u8] = br#"{"test": 2432232314}"#;
const RIGHT: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

fn read_at(headers: &HeaderMap, seconds: i64) -> Result<GivenSignature, AuthFailure> {
    GivenSignature::read(headers, Timestamp::from_second(seconds).unwrap())
}

fn read(id: &str, seconds: &str, signature: &str) -> Result<GivenSignature, AuthFailure> {
    read_at(&headers(id, seconds, signature), 1_614_265_330)
}

fn accepts(secrets: &ClientSecrets, signature: &str) -> bool {
    secrets.match_signature(&read(ID, SECONDS, signature).unwrap(), BODY).into()
}

fn fixed(secret: &str) -> ClientSecrets {
    ClientSecrets::open(&secret.into(), None).unwrap()
}

#[test]
fn published_signature_is_accepted_also_among_others() {
    let wrong = format!("v1,{}", STANDARD.encode([7; 32]));
    for given in [
        RIGHT.to_owned(),
        format!("{wrong} {RIGHT}"),
        format!("{RIGHT} {wrong}"),
        format!("v1a,abc v2,{} {RIGHT}", &RIGHT[3..]),
        format!("  {RIGHT} v1,short"),
    ] {
        assert!(accepts(&fixed(SECRET), &given), "{given}");
    }
    assert!(!accepts(&fixed(SECRET), &wrong));
    assert!(!accepts(&fixed("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSx"), RIGHT));
    let given = read(ID, SECONDS, RIGHT).unwrap();
    assert!(!bool::from(fixed(SECRET).match_signature(&given, b"another body")));
    let other_id = read("msg_other", SECONDS, RIGHT).unwrap();
    assert!(!bool::from(fixed(SECRET).match_signature(&other_id, BODY)));
    assert!(!bool::from(fixed("").match_signature(&given, BODY)) && !fixed("").is_set());
}

#[test]
fn headers_that_cannot_be_right_are_refused_before_the_body() {
    for (id, seconds, signature, failure) in [
        ("", SECONDS, RIGHT, AuthFailure::Malformed),
        ("msg p5", SECONDS, RIGHT, AuthFailure::Malformed),
        ("msg.1614265330", SECONDS, RIGHT, AuthFailure::Malformed),
        (&*"m".repeat(256), SECONDS, RIGHT, AuthFailure::Malformed),
        (ID, "", RIGHT, AuthFailure::Malformed),
        (ID, "+1614265330", RIGHT, AuthFailure::Malformed),
        (ID, "1614265330.0", RIGHT, AuthFailure::Malformed),
        (ID, "99999999999999999999", RIGHT, AuthFailure::Malformed),
        (ID, "0", RIGHT, AuthFailure::Timestamp),
        (ID, "999999999999", RIGHT, AuthFailure::Timestamp),
        (ID, SECONDS, "", AuthFailure::Signature),
        (ID, SECONDS, &RIGHT[3..], AuthFailure::Signature),
        (ID, SECONDS, &RIGHT.replace("v1,", "v2,"), AuthFailure::Signature),
        (ID, SECONDS, "v1,", AuthFailure::Signature),
        (ID, SECONDS, &RIGHT[..40], AuthFailure::Signature),
    ] {
        assert_eq!(read(id, seconds, signature).unwrap_err(), failure, "{id} {seconds} {signature}");
    }
    for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
        let all = headers(ID, SECONDS, RIGHT);
        let mut twice = all.clone();
        twice.append(name, all[name].clone());
        assert_eq!(read_at(&twice, 1_614_265_330).unwrap_err(), AuthFailure::Malformed, "{name} twice");
        let mut without = all;
        without.remove(name);
        assert_eq!(read_at(&without, 1_614_265_330).unwrap_err(), AuthFailure::Malformed, "no {name}");
    }
}

#[test]
fn signature_is_valid_for_five_minutes_in_either_direction() {
    let headers = headers(ID, SECONDS, RIGHT);
    for (offset, valid) in [(-301, false), (-300, true), (0, true), (300, true), (301, false)] {
        assert_eq!(read_at(&headers, 1_614_265_330 + offset).is_ok(), valid, "{offset}");
    }
}

#[test]
fn secret_has_its_prefix_and_24_to_64_bytes() {
    let of = |bytes: usize| secret_of(&vec![7; bytes]);
    for (text, valid) in [
        (of(24), true),
        (of(32), true),
        (of(64), true),
        (of(23), false),
        (of(65), false),
        (SECRET[6..].to_owned(), false),
        (SECRET.replace("whsec_", "WHSEC_"), false),
        (format!("{SECRET}!"), false),
        (String::new(), false),
    ] {
        assert_eq!(is_signing_secret(&text), valid, "{text}");
    }
    assert!(fixed(SECRET).overlap(&fixed(SECRET)) && !fixed(SECRET).overlap(&fixed(&of(24))));
    assert!(!fixed("").overlap(&fixed("")));
    assert!(!format!("{:?}", fixed(SECRET)).contains("242"), "the first byte");
}

#[tokio::test(start_paused = true)]
async fn file_with_two_secrets_accepts_both_and_is_read_again() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let write = |text: &str| {
        std::fs::write(file.path(), text).unwrap();
        // A file that was changed a moment ago may be half written.
        file.as_file().set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
    };
    let new = secret_of(&[7; 32]);
    let of_new = signature(&new, ID, 1_614_265_330, BODY);
    write(&format!("{SECRET}\n"));
    let secrets = ClientSecrets::open(&"".into(), Some(file.path())).unwrap();
    assert!(secrets.is_set());
    for (text, old_valid, new_valid) in [
        (format!("{SECRET}\n{new}\n"), true, true),
        (format!("{new}\n"), false, true),
        ("not a secret".to_owned(), false, false),
        (String::new(), false, false),
        (SECRET.to_owned(), true, false),
    ] {
        write(&text);
        tokio::time::advance(FRESH).await;
        assert_eq!((accepts(&secrets, RIGHT), accepts(&secrets, &of_new)), (old_valid, new_valid), "{text}");
    }
}
