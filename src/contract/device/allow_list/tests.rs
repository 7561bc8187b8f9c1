use proptest::prelude::*;

use super::*;

fn device(text: &str) -> Device {
    Device::try_from(text.to_owned()).unwrap()
}

fn list(patterns: &[&str]) -> AllowList {
    AllowList(patterns.iter().map(|p| Pattern::try_from((*p).to_owned()).unwrap()).collect())
}

#[test]
fn default_allow_list_allows_no_device() {
    assert!(!AllowList::default().allows(&device("room-12@example.rooms.webex.com")));
}

#[test]
fn exact_entry_allows_only_that_device() {
    let allowed = list(&["room-12@example.rooms.webex.com"]);
    assert!(allowed.allows(&device("sip:ROOM-12@example.rooms.webex.com")));
    for other in [
        "room-1@example.rooms.webex.com",
        "room-122@example.rooms.webex.com",
        "room-12@example.rooms.webex.com.evil.example",
        "room-12@xexample.rooms.webex.com",
        "a.room-12@example.rooms.webex.com",
    ] {
        assert!(!allowed.allows(&device(other)), "{other}");
    }
}

#[test]
fn wildcard_matches_within_user_or_subdomains_only() {
    let allowed = list(&["ward-*@example.rooms.webex.com", "lab*2@*.clinic.example"]);
    for yes in [
        "ward-7@example.rooms.webex.com",
        "ward-@example.rooms.webex.com",
        "lab-22@a.clinic.example",
        "lab2@a.b.clinic.example",
    ] {
        assert!(allowed.allows(&device(yes)), "{yes}");
    }
    for no in [
        "ward@example.rooms.webex.com",
        "ward-7@other.example",
        "lab-2@clinic.example",
        "lab-2@evilclinic.example",
        "lab-3@a.clinic.example",
    ] {
        assert!(!allowed.allows(&device(no)), "{no}");
    }
}

#[test]
fn entry_that_matches_any_organisation_is_refused() {
    for wrong in [
        "*",
        "*@*",
        "room@*",
        "room@*.",
        "room@rooms.*",
        "room@a*.example",
        "",
        "@x",
        "*@*.com",
        "*@*.rooms.webex.com",
        "*@*.webex.com",
    ] {
        assert!(Pattern::try_from(wrong.to_owned()).is_err(), "{wrong}");
    }
}

#[test]
fn wildcard_on_shared_host_is_refused_with_reason() {
    for (wrong, reason) in [
        ("*@*.co.uk", EVERY_HOST),
        ("room-1@*.com.au", EVERY_HOST),
        ("*@*.foo.ck", EVERY_HOST),
        ("*@*.github.io", EVERY_HOST),
        ("*@*.xn--55qx5d.cn", EVERY_HOST),
        ("*@*.0.0.1", EVERY_HOST),
        ("*@*.Calls.Webex.com", EVERY_HOST),
        ("*@*.vc.webex.com", EVERY_HOST),
        ("*@*.webex.com.cn", EVERY_HOST),
        ("*@*.rooms.ciscospark.com", EVERY_HOST),
        ("*@*.room.wbx2.com", EVERY_HOST),
        ("*@*.ciscovideo.com", EVERY_HOST),
        ("*@*.rooms.gov.ciscospark.com", EVERY_HOST),
        ("*@*.webexgov.us", EVERY_HOST),
        ("*@webex.com", EVERY_USER),
        ("ward-*@rooms.webex.com", EVERY_USER),
        ("sip:*@room.ciscospark.com", EVERY_USER),
        ("*@co.uk", EVERY_USER),
    ] {
        assert_eq!(Pattern::try_from(wrong.to_owned()), Err(reason), "{wrong}");
    }
}

#[test]
fn wildcard_within_one_organisation_is_accepted() {
    for valid in [
        "*@example.rooms.webex.com",
        "*@*.example.rooms.webex.com",
        "*@example.webex.com",
        "*@*.example.calls.webex.com",
        "*@*.example.com",
        "*@*.clinic.co.uk",
        "*@www.ck",
        "*@notwebex.com",
        "*@*.notwebex.com",
        "*@pbx",
        "*@10.0.0.1",
        "room-12@rooms.webex.com",
    ] {
        assert!(Pattern::try_from(valid.to_owned()).is_ok(), "{valid}");
    }
}

proptest! {
    #[test]
    fn glob_agrees_with_the_recursive_definition(pattern in "[ab*]{0,6}", text in "[ab]{0,8}") {
        fn plain(p: &[u8], t: &[u8]) -> bool {
            match p.first() {
                None => t.is_empty(),
                Some(b'*') => (0..=t.len()).any(|i| plain(&p[1..], &t[i..])),
                Some(c) => t.first() == Some(c) && plain(&p[1..], &t[1..]),
            }
        }
        prop_assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), plain(pattern.as_bytes(), text.as_bytes()));
    }
}
