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
    let secret = section.secret.expose_secret();
    if !secret.is_empty() && section.secret_file.is_some() {
        let problem = "expected only one of receipts.secret and receipts.secret_file, but both are given";
        return Err(settings.error("receipts.secret", problem));
    }
    if !secret.is_empty() && !is_hub_secret(secret) {
        return Err(settings.error("receipts.secret", HUB_SECRET));
    }
    if section.allow_unsigned && (!secret.is_empty() || section.secret_file.is_some()) {
        let problem =
            "expected false, because a secret is given: receipts without a signature would be taken, too";
        return Err(settings.error("receipts.allow_unsigned", problem));
    }
    Ok(())
}
