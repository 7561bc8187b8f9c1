//! Messages to guests: who sends them, to which numbers, with which texts.

use super::{CheckGroup::Guests, Finding, on};
use crate::{
    config::{LedgerChoice, Loaded},
    stages::{OnFailure, OnUnknown},
    upstream::Credential,
    webex_connect::texts::{Encoding, TextReport},
};

pub(super) fn all(loaded: &Loaded) -> Vec<Finding> {
    let config = &loaded.config;
    let about = on(Guests, loaded, &["guests.delivery"]);
    if !config.sends_to_guests() {
        let mut found = vec![about.pass("other programs send the links to the guests")];
        found.extend(unused(loaded));
        found.extend(fallback(loaded));
        return found;
    }
    let mut found =
        vec![about.pass("this worker sends the links to the guests"), numbers(loaded), hourly(loaded)];
    found.extend([key(loaded), unknown(loaded)]);
    found.extend(fallback(loaded));
    if config.wakes_flows() {
        let about = on(Guests, loaded, &["webex_connect.mode", "webex_connect.event_id"]);
        found.push(
            about.pass("flows send the messages; Webex Connect does not tell if a flow waited for its event"),
        );
        return found;
    }
    found.extend(channels(loaded));
    match loaded.texts() {
        Err(error) => {
            let about = on(Guests, loaded, &["webex_connect.templates_dir"]);
            found.push(about.fail(error.to_string(), "correct the texts; the worker does not start"));
        }
        Ok(texts) => found.extend(texts.report().into_iter().flat_map(|report| text(loaded, &report))),
    }
    found
}

fn unused(loaded: &Loaded) -> Option<Finding> {
    use secrecy::ExposeSecret;
    let section = &loaded.config.webex_connect;
    let secrets = [
        ("webex_connect.key_file", section.key_file.is_some()),
        ("webex_connect.key", !section.key.expose_secret().is_empty()),
        ("webex_connect.jwt_secret_file", section.jwt_secret_file.is_some()),
        ("webex_connect.jwt_secret", !section.jwt_secret.expose_secret().is_empty()),
    ];
    let key = secrets.into_iter().find(|(_, is_set)| *is_set).map(|(key, _)| key);
    key.map(|key| {
        let about = on(Guests, loaded, &[key, "guests.delivery"]);
        about.warn(
            format!("{key} is set but has no effect"),
            format!("remove {key}, or change guests.delivery"),
        )
    })
}

fn key(loaded: &Loaded) -> Finding {
    let what = "credential of Webex Connect";
    match loaded.connect_credential() {
        Ok((_, Credential::Key)) => Guests.pass(what, "a service key is given"),
        Ok((_, Credential::Bearer)) => Guests.pass(what, "JWTs can be signed"),
        Err(error) => Guests.fail(what, error.to_string()).advise(
            "set webex_connect.key_file, or webex_connect.jwt_issuer and .jwt_secret_file; the worker does not start without",
        ),
    }
}

fn numbers(loaded: &Loaded) -> Finding {
    let about = on(Guests, loaded, &["send.allowed_prefixes"]);
    if loaded.config.send.allowed_prefixes.allow_all() {
        return about.warn(
            "messages may be sent to every number: whoever can publish an event can send to expensive numbers",
            "list the prefixes of the countries whose guests you expect",
        );
    }
    about.pass("messages are sent to these numbers only")
}

/// The limit of messages to one number.
fn hourly(loaded: &Loaded) -> Finding {
    let ledger = &loaded.config.ledger;
    let about = on(Guests, loaded, &["send.per_address_per_hour", "ledger.on_failure"]);
    match loaded.config.send.per_address_per_hour.get() {
        0 => about.warn(
            "no limit for messages to one number: whoever can publish an event can send a guest any number of messages",
            "set send.per_address_per_hour (default 10)",
        ),
        _ if ledger.on_failure == OnFailure::Continue => {
            about.pass("messages to one number are limited while the ledger is available")
        }
        _ => about.pass("messages to one number are limited"),
    }
}

/// A channel without a sender: its guests' events are refused.
fn channels(loaded: &Loaded) -> Vec<Finding> {
    let section = &loaded.config.webex_connect;
    let senders = [
        ("webex_connect.sms_from", &section.sms_from, "sms"),
        ("webex_connect.whatsapp_app_id", &section.whatsapp_app_id, "whatsapp"),
    ];
    let missing = senders.into_iter().filter(|(_, sender, _)| sender.is_empty());
    missing
        .map(|(key, _, channel)| {
            on(Guests, loaded, &[key]).warn(
                format!("events with a guest on channel {channel} are refused"),
                format!("set {key} if flows use this channel"),
            )
        })
        .collect()
}

fn unknown(loaded: &Loaded) -> Finding {
    let ledger = &loaded.config.ledger;
    let about = on(Guests, loaded, &["send.on_unknown", "ledger.kind", "ledger.on_failure"]);
    let may_forget = ledger.kind == LedgerChoice::Memory || ledger.on_failure == OnFailure::Continue;
    match (loaded.config.send.on_unknown, may_forget) {
        (OnUnknown::Repeat, false) => {
            about.pass("a message that may have been sent is sent again, at most twice")
        }
        (OnUnknown::Repeat, true) => about.warn(
            "a message that may have been sent is sent again, more than twice if the worker restarts without the ledger",
            "use a ledger that outlives the worker, and ledger.on_failure wait",
        ),
        (OnUnknown::Dead, true) => about.warn(
            "if the worker crashes without the ledger, the next one does not know that a message may have been sent: it is sent \
             again in spite of send.on_unknown",
            "use a ledger that outlives the worker, and ledger.on_failure wait",
        ),
        (OnUnknown::Dead, false) => {
            about.pass("a message that may have been sent becomes a dead letter: a guest may get none")
        }
    }
}

/// The link by SMS for guests whom `WhatsApp` does not reach.
fn fallback(loaded: &Loaded) -> Option<Finding> {
    let config = &loaded.config;
    if !config.send.sms_fallback {
        return None;
    }
    let setting = "send.sms_fallback";
    let (cause, detail, advice) = if !config.sends_to_guests() {
        (
            "guests.delivery",
            "no effect: other programs send the links",
            "remove send.sms_fallback, or change guests.delivery",
        )
    } else if config.wakes_flows() {
        (
            "webex_connect.mode",
            "no effect: flows send the messages",
            "remove send.sms_fallback, or set webex_connect.mode messages",
        )
    } else if config.webex_connect.whatsapp_app_id.is_empty() {
        (
            "webex_connect.whatsapp_app_id",
            "no effect: no message is sent by WhatsApp",
            "remove send.sms_fallback, or set webex_connect.whatsapp_app_id",
        )
    } else if !config.takes_receipts() {
        (
            "receipts.secret_file",
            "receipts are off: a guest gets the link by SMS only if Webex Connect refuses the WhatsApp message at once",
            "switch receipts on (docs/receipts.md): Webex Connect may learn later that WhatsApp does not reach a guest",
        )
    } else {
        let about = on(Guests, loaded, &[setting]);
        return Some(about.pass("a guest whom WhatsApp does not reach gets the link by SMS"));
    };
    Some(on(Guests, loaded, &[setting, cause]).warn(detail, advice))
}

fn text(loaded: &Loaded, report: &TextReport) -> Vec<Finding> {
    let max = loaded.config.send.sms_parts_max.size();
    let what = format!("text {}", report.file);
    let cost = |parts: usize| if parts == 1 { "1 part".to_owned() } else { format!("{parts} parts") };
    let mut found = Vec::new();
    if let (Encoding::Ucs2, Some(character)) = (report.encoding, report.outside_gsm7) {
        let detail = format!("costs {}, because ‘{character}’ is not in GSM-7", cost(report.parts));
        found.push(Guests.warn(what.clone(), detail, "replace the character, or accept the cost"));
    } else if report.parts > max {
        let detail =
            format!("costs {} with the longest name, so long names are left out", cost(report.parts));
        found.push(Guests.warn(what.clone(), detail, "shorten the text, or raise send.sms_parts_max"));
    } else {
        let other = report.parts_with_other_name;
        let other = if other == report.parts {
            String::new()
        } else {
            format!(", {} with a name that is not in GSM-7", cost(other.min(max)))
        };
        found.push(Guests.pass(what.clone(), format!("costs {}{other}", cost(report.parts))));
    }
    if report.lacks_zone {
        let advice = "add {{ zone }}, because guests may be in another time zone";
        found.push(Guests.warn(what, "shows a time without its zone", advice));
    }
    found
}
