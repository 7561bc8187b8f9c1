//! Rules between the settings for messages to guests.

use std::collections::BTreeSet;

use secrecy::ExposeSecret;

use super::{http_url, token};
use crate::{
    config::{
        Config, WebexConnectConfig,
        settings::{ConfigError, Settings},
    },
    stages::{LINK_PARAMETER, NAME_PARAMETER},
    webex_connect::event::PARAMETERS,
};

/// Maximum length of an event's id and of an attribute's name, in bytes.
const NAME_BYTES_MAX: usize = 128;

/// Validates the settings for messages to guests.
pub(super) fn validate(config: &Config, settings: &Settings) -> Result<(), ConfigError> {
    let section = &config.webex_connect;
    http_url(settings, "webex_connect.url", &section.url, section.allow_insecure)?;
    credentials(section, settings)?;
    if jiff::tz::TimeZone::get(section.time_zone.as_str()).is_err() {
        return Err(settings.error("webex_connect.time_zone", "expected a time zone such as Europe/Madrid"));
    }
    let parameters: BTreeSet<_> = section.whatsapp_parameters.iter().map(String::as_str).collect();
    let are_known = parameters.iter().all(|name| [LINK_PARAMETER, NAME_PARAMETER].contains(name));
    if !are_known
        || parameters.len() < section.whatsapp_parameters.len()
        || !parameters.contains(LINK_PARAMETER)
    {
        let expected = format!("expected {LINK_PARAMETER}, or {LINK_PARAMETER} and {NAME_PARAMETER}");
        return Err(settings.error("webex_connect.whatsapp_parameters", expected));
    }
    events(section, settings)?;
    if !is_sender(&section.sms_from) {
        let expected = "expected a number without +, a short code, or a name of letters, digits, spaces, -, _ and ., at most 20 characters";
        return Err(settings.error("webex_connect.sms_from", expected));
    }
    if !config.sends_to_guests() {
        return Ok(());
    }
    if config.send.allowed_prefixes.is_empty() {
        let expected = "expected at least one prefix such as +34, because no message can be sent otherwise";
        return Err(settings.error("send.allowed_prefixes", expected));
    }
    if config.wakes_flows() && section.event_id.is_empty() {
        let expected =
            "expected the id of a custom event of Webex Connect, because webex_connect.mode is event";
        return Err(settings.error("webex_connect.event_id", expected));
    }
    let sends_messages = !config.wakes_flows();
    if sends_messages && section.sms_from.is_empty() && section.whatsapp_app_id.is_empty() {
        let expected = "expected a sender of SMS, or webex_connect.whatsapp_app_id";
        return Err(settings.error("webex_connect.sms_from", expected));
    }
    if config.falls_back_to_sms() && section.sms_from.is_empty() {
        let expected = "expected false, because webex_connect.sms_from is empty";
        return Err(settings.error("send.sms_fallback", expected));
    }
    if config.send.min_remaining.get() >= config.instant_connect.link_lifetime.get() {
        let expected =
            "expected less than instant_connect.link_lifetime, because every message would be too late";
        return Err(settings.error("send.min_remaining", expected));
    }
    if !sends_messages || section.whatsapp_app_id.is_empty() {
        return Ok(());
    }
    whatsapp(config, settings)
}

/// Validates that at most one of a service key and JWTs is given, and no secret without its issuer.
fn credentials(section: &WebexConnectConfig, settings: &Settings) -> Result<(), ConfigError> {
    token(settings, "webex_connect.key", &section.key, section.key_file.as_deref())?;
    token(settings, "webex_connect.jwt_secret", &section.jwt_secret, section.jwt_secret_file.as_deref())?;
    let has_key = !section.key.expose_secret().is_empty() || section.key_file.is_some();
    let has_secret = !section.jwt_secret.expose_secret().is_empty() || section.jwt_secret_file.is_some();
    let has_issuer = !section.jwt_issuer.is_empty();
    // An ingress of its own has the issuer, but neither key nor secret.
    let expected = match (has_key, has_issuer, has_secret) {
        (true, true, _) | (true, _, true) => {
            "expected either a service key or JWTs, but both are given: remove webex_connect.key and .key_file, or .jwt_issuer, .jwt_secret and .jwt_secret_file"
        }
        (_, false, true) => "expected the id of the service, because a secret of JWTs is given",
        _ => return Ok(()),
    };
    Err(settings.error("webex_connect.jwt_issuer", expected))
}

/// Validates the custom event's id and the names of its attributes.
fn events(section: &WebexConnectConfig, settings: &Settings) -> Result<(), ConfigError> {
    let is_name = |text: &str| text.len() <= NAME_BYTES_MAX && text.bytes().all(|b| b.is_ascii_graphic());
    if !is_name(&section.event_id) {
        let expected = "expected the id of a custom event: at most 128 printable characters without spaces";
        return Err(settings.error("webex_connect.event_id", expected));
    }
    let names = &section.event_attributes;
    let unique: BTreeSet<_> = names.iter().collect();
    let are_names = names.iter().all(|name| is_name(name) && !name.is_empty());
    if !are_names || unique.len() < names.len() {
        let expected = "expected different names of at most 128 printable characters without spaces";
        return Err(settings.error("webex_connect.event_attributes", expected));
    }
    if names.iter().any(|name| PARAMETERS.contains(&name.as_str())) {
        let expected = format!("expected no name that is a parameter already: {}", PARAMETERS.join(", "));
        return Err(settings.error("webex_connect.event_attributes", expected));
    }
    Ok(())
}

/// True if `text` is empty, or can be the sender of SMS.
fn is_sender(text: &str) -> bool {
    let characters = |b: u8| b.is_ascii_alphanumeric() || b" -_.".contains(&b);
    text.len() <= 20 && text.bytes().all(characters) && text.trim() == text
}

/// Validates the settings for `WhatsApp` messages.
fn whatsapp(config: &Config, settings: &Settings) -> Result<(), ConfigError> {
    let section = &config.webex_connect;
    if !config.instant_connect.short_urls {
        let expected =
            "expected true, because a WhatsApp template needs a short link (webex_connect.whatsapp_app_id)";
        return Err(settings.error("instant_connect.short_urls", expected));
    }
    let base = section.whatsapp_base_url.as_str();
    if !config.instant_connect.allowed_base_urls.iter().any(|allowed| allowed.as_str() == base) {
        let expected = "expected one of instant_connect.allowed_base_urls";
        return Err(settings.error("webex_connect.whatsapp_base_url", expected));
    }
    if section.templates().is_none() {
        let expected =
            "expected a template for webex_connect.locale, such as ICW_WEBEX_CONNECT__WHATSAPP_TEMPLATES__EN";
        return Err(settings.error("webex_connect.whatsapp_app_id", expected));
    }
    Ok(())
}
