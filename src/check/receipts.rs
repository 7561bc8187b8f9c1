//! Receipts: if they are on, who may send them, and if the stages find them.

use super::{CheckGroup::Guests, Finding, on};
use crate::{
    config::{LedgerChoice, Loaded},
    ingress::ReceiptSettings,
};

pub(super) fn all(loaded: &Loaded) -> Vec<Finding> {
    let config = &loaded.config;
    if !config.takes_receipts() {
        let about = on(Guests, loaded, &["receipts.secret_file", "receipts.key_file"]);
        return vec![about.pass("receipts are off: only Webex Connect knows if a message arrived")];
    }
    let mut found = vec![place(loaded)];
    // Workers without the ingress need no secret.
    if config.ingress.listen.is_some() && !config.receipts.allow_unsigned {
        found.push(credentials(loaded));
    }
    if config.receipts.allow_unsigned {
        let about = on(Guests, loaded, &["receipts.allow_unsigned"]);
        found.push(about.warn(
            "anybody who reaches the ingress can send false receipts, which suppress the repeat of a message",
            "set receipts.secret_file and the same hub secret in Webex Connect, or receipts.key_file and the header with the same key",
        ));
    }
    if config.sends_to_guests() && config.wakes_flows() {
        let about = on(Guests, loaded, &["receipts.secret_file", "webex_connect.mode"]);
        found.push(about.warn(
            "receipts are on, but flows send the messages: the receipts have no event, and no message waits for them",
            "switch receipts off, or set webex_connect.mode messages",
        ));
    } else if config.sends_to_guests() {
        let about = on(Guests, loaded, &["send.unknown_wait"]);
        found.push(about.pass("a message that may have been sent waits so long for its receipt"));
    }
    found
}

/// The ingress that takes receipts: of this worker, or of another one with the same ledger.
fn place(loaded: &Loaded) -> Finding {
    let about = on(Guests, loaded, &["receipts.secret_file", "ingress.listen", "ledger.kind"]);
    let is_shared = loaded.config.ledger.kind == LedgerChoice::Redis;
    match loaded.config.ingress.listen {
        Some(_) if is_shared => about.pass("the ingress takes receipts at /v1/receipts/default"),
        Some(_) => about
            .pass("the ingress takes receipts at /v1/receipts/default; without Redis only with run --role all"),
        None if is_shared => {
            about.pass("another worker's ingress takes receipts, and this one looks for them in Redis; it needs run --role stages")
        }
        None => about.warn(
            "receipts are on, but this worker has no ingress, and its ledger is not shared: it finds no receipt",
            "set ingress.listen; or, with run --role stages, ledger.kind redis for this worker and for the one with the ingress",
        ),
    }
}

/// The secrets with which Webex Connect signs receipts, and the keys that it sends with them.
fn credentials(loaded: &Loaded) -> Finding {
    let keys = ["receipts.secret", "receipts.secret_file", "receipts.key", "receipts.key_file"];
    let about = on(Guests, loaded, &keys);
    match loaded.receipts() {
        Err(error) => {
            about.fail(error.to_string(), "write one, or the old and the new one, each on its own line")
        }
        Ok(Some(ReceiptSettings { secrets: Some(secrets), .. })) if secrets.is_empty() => about.warn(
            "the secret file has no secret: every receipt gets 401",
            "write the hub secret of Webex Connect to the file; the ingress reads it within a second",
        ),
        Ok(Some(ReceiptSettings { keys: Some(keys), .. })) if keys.is_empty() => about.warn(
            "the key file has no key: every receipt gets 401",
            "write the key that Webex Connect sends to the file; the ingress reads it within a second",
        ),
        Ok(Some(ReceiptSettings { secrets: Some(_), keys: Some(_) })) => {
            about.pass("the secret and the key of receipts are usable; a receipt needs both")
        }
        Ok(Some(ReceiptSettings { keys: Some(_), .. })) => about.pass("the key of receipts is usable"),
        Ok(_) => about.pass("the secret of receipts is usable"),
    }
}
