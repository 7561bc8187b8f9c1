//! Finds private data in output.

use std::collections::HashSet;

use instant_connect_sandbox::Handle;

use super::{
    events::{DEVICE_NAME, NAMES, OPAQUE},
    rig::{NEW_TOKEN, PASSWORD, TOKEN},
};

/// All private data in `text`, each with its line. Links and short codes are those of `sandbox`.
pub(crate) fn leaks(text: &str, sandbox: &Handle) -> Vec<String> {
    let codes: HashSet<String> = sandbox.links().into_keys().collect();
    text.lines()
        .filter_map(|line| leak(line, &codes).map(|what| format!("{what} in this line: {line}")))
        .collect()
}

fn leak(line: &str, codes: &HashSet<String>) -> Option<String> {
    let lower = line.to_lowercase();
    let texts = NAMES.iter().map(|name| ("a name", name.to_lowercase())).chain(
        [
            ("a link", "/visit/"),
            ("a cipher", "eyj"),
            ("a device", DEVICE_NAME),
            ("a flow's opaque value", OPAQUE),
            ("a token", TOKEN),
            ("a token", NEW_TOKEN),
            ("a password", PASSWORD),
            ("the broker's password", "guest:guest"),
        ]
        .map(|(what, text)| (what, text.to_owned())),
    );
    for (what, text) in texts {
        if lower.contains(&text) {
            return Some(format!("{what} ({text})"));
        }
    }
    let mut words = line.split(|c: char| !c.is_ascii_alphanumeric());
    let word = words.find(|word| codes.contains(*word) || is_number(word))?;
    Some(format!("a short code or a phone number ({word})"))
}

/// Recognises the numbers of [`super::events::number`].
fn is_number(word: &str) -> bool {
    word.len() == 11 && word.starts_with("346") && word.bytes().all(|b| b.is_ascii_digit())
}

#[tokio::test]
async fn leak_search_finds_each_kind_of_private_data() {
    let rig = super::Rig::new().await;
    let worker = rig.start(&[]).await;
    rig.publish(1).await;
    rig.guest_links().await.next().await;
    worker.stop().await;
    let code = rig.sandbox.links().into_keys().next().unwrap();
    for line in [
        "name=Guadalupe",
        "to winnifred-1@example.com",
        "number 34600000001 called",
        super::events::DEVICE,
        "correlation flowsecret-flow-1",
        "https://elsewhere/visit/x",
        TOKEN,
        PASSWORD,
        &format!("short={code};"),
    ] {
        assert_eq!(leaks(line, &rig.sandbox).len(), 1, "{line}");
    }
    let fine = r#"{"timestamp":"2026-11-21T10:00:00.346000Z","session":"visit-1","trace_id":"34600000001a"}"#;
    assert_eq!(leaks(fine, &rig.sandbox), Vec::<String>::new());
}
