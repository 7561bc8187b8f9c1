//! Rules for the settings of receipts.

use secrecy::ExposeSecret;

use crate::{
    config::{
        ReceiptsConfig,
        settings::{ConfigError, Settings},
    },
    ingress::receipts::signature::{HUB_SECRET, is_hub_secret},
};

/// Validates the settings of receipts.
pub(super) fn validate(section: &ReceiptsConfig, settings: &Settings) -> Result<(), ConfigError> {
    for (name, value, file) in [
        ("receipts.secret", &section.secret, &section.secret_file),
        ("receipts.key", &section.key, &section.key_file),
    ] {
        let text = value.expose_secret();
        if !text.is_empty() && file.is_some() {
            let problem = format!("expected only one of {name} and {name}_file, but both are given");
            return Err(settings.error(name, problem));
        }
        if !text.is_empty() && !is_hub_secret(text) {
            return Err(settings.error(name, HUB_SECRET));
        }
    }
    if section.allow_unsigned && (section.has_secret() || section.has_key()) {
        let problem =
            "expected false, because a secret or a key is given: receipts without it would be accepted, too";
        return Err(settings.error("receipts.allow_unsigned", problem));
    }
    Ok(())
}
