//! Finds private data in output.

use std::collections::HashSet;

use instant_connect_sandbox::Handle;

use crate::{
    events::{DEVICE_NAME, NAMES, OPAQUE},
    rig::{
        CLIENT_TOKEN, CONNECT_JWT_SECRET, CONNECT_KEY, HUB_SECRET, NEW_CLIENT_TOKEN, NEW_TOKEN, PASSWORD,
        TOKEN,
    },
};

/// All private data in `text`, each with its line. Links and short codes are those of `sandbox`.
pub fn leaks(text: &str, sandbox: &Handle) -> Vec<String> {
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
            ("a service key", CONNECT_KEY),
            ("a webhook's secret", HUB_SECRET),
            ("a secret of JWTs", CONNECT_JWT_SECRET),
            ("a client's token", CLIENT_TOKEN),
            ("a client's token", NEW_CLIENT_TOKEN),
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

/// Recognises the numbers of [`crate::events::number`].
fn is_number(word: &str) -> bool {
    word.len() == 11 && word.starts_with("346") && word.bytes().all(|b| b.is_ascii_digit())
}
