use super::*;

fn guest(name: &str, locale: &str) -> Result<Guest, String> {
    let json = serde_json::json!(
        {"channel": "sms", "address": "+34600111222", "name": name, "locale": locale});
    serde_json::from_value(json).map_err(|error| error.to_string())
}

#[test]
fn name_drops_controls_and_blank_name_is_absent() {
    for (given, read) in [
        ("Ana\0 Garc\u{ed}a\r\n", Some("Ana Garc\u{ed}a")),
        ("\nAna\r\nGarc\u{ed}a\u{2028}Ruiz", Some("Ana Garc\u{ed}a Ruiz")),
        ("\u{202e}anA\u{202c}", Some("anA")),
        ("\u{2066}Ana\u{2069}\u{2028}\u{85}", Some("Ana")),
        ("\u{5d0}\u{200f}\u{5d1}\u{200d}", Some("\u{5d0}\u{200f}\u{5d1}\u{200d}")),
        ("", None),
        (" \t\u{a0}", None),
        ("\u{200b}\u{feff}\u{202e}", None),
    ] {
        let name = guest(given, "es").unwrap().name;
        assert_eq!(name.as_ref().map(Name::reveal), read, "{given:?}");
        let json = serde_json::json!({"email": "a@b.co", "name": given});
        assert_eq!(serde_json::from_value::<Expert>(json).unwrap().name, name);
    }
    assert_eq!(format!("{:?}", guest("Ana", "es").unwrap().name), "Some(Name([private]))");
}

#[test]
fn locale_must_be_a_language_tag_and_blank_is_absent() {
    for (given, read) in [
        ("es", Some("es")),
        ("pt-BR", Some("pt-BR")),
        ("en_US", Some("en-US")),
        ("zh_Hant_TW", Some("zh-Hant-TW")),
        ("de-DE-u-co-phonebk", Some("de-DE-u-co-phonebk")),
        ("", None),
        (" \n", None),
        ("\u{9b}\u{200b}", None),
    ] {
        assert_eq!(guest("Ana", given).unwrap().locale.as_ref().map(Locale::as_str), read, "{given:?}");
    }
    let blank = regex::Regex::new(concat!("^[", blanks!(), "]*$")).unwrap();
    for c in '\0'..='\u{ffff}' {
        assert_eq!(blank.is_match(&c.to_string()), is_blank(&c.to_string()), "the schemas' class: {c:?}");
    }
    let long = format!("en{}", "-abcdefgh".repeat(8));
    for wrong in ["e", "en_US.UTF-8", "English (US)", "es\n", "en--US", "-", "espa\u{f1}ol", long.as_str()] {
        assert!(guest("Ana", wrong).unwrap_err().contains("BCP 47"), "{wrong:?}");
    }
}

#[test]
fn time_zone_must_be_known_and_blank_is_absent() {
    let read = |zone: &str| {
        let json = serde_json::json!({"channel": "sms", "address": "+34600111222", "timeZone": zone});
        serde_json::from_value::<Guest>(json).map(|guest| guest.time_zone).map_err(|error| error.to_string())
    };
    for (given, name) in [
        ("Europe/Madrid", Some("Europe/Madrid")),
        ("america/new_york", Some("America/New_York")),
        ("Etc/GMT+3", Some("Etc/GMT+3")),
        ("UTC", Some("UTC")),
        ("", None),
        (" \n", None),
    ] {
        assert_eq!(read(given).unwrap().as_ref().map(ZoneName::as_str), name, "{given:?}");
    }
    let long = "Europe/Madrid".repeat(100);
    for wrong in
        ["Europe/Atlantis", "CEST", "+02:00", "../etc/passwd", "Etc/Unknown", "Europe/Madrid ", &long]
    {
        assert!(read(wrong).unwrap_err().contains("Europe/Madrid"), "{wrong:?}");
    }
    let schema = ZoneName::json_schema(&mut schemars::SchemaGenerator::default());
    let schema = regex::Regex::new(schema.get("pattern").unwrap().as_str().unwrap()).unwrap();
    for name in jiff::tz::db().available() {
        assert!(schema.is_match(name.as_str()), "{name}");
    }
}

#[test]
fn expert_needs_one_destination_and_blank_is_absent() {
    let destination = |json: serde_json::Value| {
        let expert: Expert = serde_json::from_value(json).map_err(|error| error.to_string())?;
        expert.address().map(drop).map_err(|invalid| invalid.to_string())
    };
    for good in [
        serde_json::json!({"email": "a@b.co", "personId": "", "roomId": " "}),
        serde_json::json!({"email": "", "personId": "Y2lz_-=/"}),
        serde_json::json!({"roomId": "Y2lz", "name": "Team"}),
    ] {
        assert_eq!(destination(good), Ok(()));
    }
    for (wrong, reason) in [
        (serde_json::json!({}), "expected exactly one of"),
        (serde_json::json!({"email": "", "roomId": "\n"}), "expected exactly one of"),
        (serde_json::json!({"email": "a@b.co", "personId": "Y2lz"}), "expected exactly one of"),
        (serde_json::json!({"personId": "Y2\nlz"}), "`personId`: expected a Webex id"),
        (serde_json::json!({"roomId": "Y2lz "}), "`roomId`: expected a Webex id"),
        (serde_json::json!({"roomId": "\u{e9}"}), "`roomId`: expected a Webex id"),
    ] {
        let error = destination(wrong).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn duplicate_people_are_removed_and_others_are_kept() {
    let guests = |json: serde_json::Value| unique_guests(serde_json::from_value(json).unwrap()).len();
    let (sms, number) = ("sms", "+34600111222");
    assert_eq!(
        guests(serde_json::json!([
            {"channel": sms, "address": number, "name": "Ana"},
            {"channel": sms, "address": number, "name": "A\u{0}na", "locale": "es"},
            {"channel": sms, "address": number, "name": "Luis"},
            {"channel": "whatsapp", "address": number, "name": "Ana"},
            {"channel": sms, "address": number},
            {"channel": sms, "address": number, "name": " "},
        ])),
        4
    );
    let experts = serde_json::json!([
        {"email": "Lee@Example.com"}, {"email": "lee@example.COM", "name": ""}, {"personId": "A"}, {"personId": "a"},
        {"roomId": "A"}, {"roomId": "A"}, {"roomId": "A", "name": "Team"},
    ]);
    let experts = unique_experts(serde_json::from_value(experts).unwrap());
    assert_eq!(experts.len(), 5);
    assert_eq!(experts[0].email.as_ref().unwrap().reveal(), "Lee@Example.com");
}
