//! Sources of the tokens.

use std::path::Path;

use secrecy::{ExposeSecret, SecretString};

use super::{ConfigError, Loaded};
use crate::{
    clock::Clock,
    ingress::{
        IngressSettings, ReceiptSettings,
        clients::Clients,
        receipts::{key::ReceiptKeys, signature::HubSecrets},
    },
    masking,
    upstream::{Credential, TokenSource},
};

impl Loaded {
    /// The token for Instant Connect; a token file is read once as a test.
    ///
    /// # Errors
    /// [`ConfigError`] if no token is given or the file contains none.
    pub fn instant_connect_token(&self) -> Result<TokenSource, ConfigError> {
        let section = &self.config.instant_connect;
        self.token_source("instant_connect.token", &section.token, section.token_file.as_deref())?.ok_or_else(|| {
            ConfigError::new("instant_connect.token: expected a bot token; set ICW_INSTANT_CONNECT__TOKEN, or ICW_INSTANT_CONNECT__TOKEN_FILE to a file that contains the token")
        })
    }

    /// The token for messages: `hosts.token`, else Instant Connect's.
    ///
    /// # Errors
    /// As [`Loaded::instant_connect_token`].
    pub fn hosts_token(&self) -> Result<TokenSource, ConfigError> {
        let section = &self.config.hosts;
        match self.token_source("hosts.token", &section.token, section.token_file.as_deref())? {
            Some(source) => Ok(source),
            None => self.instant_connect_token(),
        }
    }

    /// The service key of Webex Connect or the signer of JWTs, and how requests carry it.
    ///
    /// # Errors
    /// As [`Loaded::instant_connect_token`]; or if the secret of JWTs is not in base64.
    pub(crate) fn connect_credential(&self) -> Result<(TokenSource, Credential), ConfigError> {
        let section = &self.config.webex_connect;
        if let Some(key) =
            self.token_source("webex_connect.key", &section.key, section.key_file.as_deref())?
        {
            return Ok((key, Credential::Key));
        }
        let file = section.jwt_secret_file.as_deref();
        let Some(secret) = self.token_source("webex_connect.jwt_secret", &section.jwt_secret, file)? else {
            if !section.jwt_issuer.is_empty() {
                let expected = "expected webex_connect.jwt_secret_file, too";
                return Err(self.settings.error("webex_connect.jwt_issuer", expected));
            }
            return Err(ConfigError::new(
                "webex_connect.key: expected a service key of Webex Connect; set ICW_WEBEX_CONNECT__KEY, or ICW_WEBEX_CONNECT__KEY_FILE to a file that contains the key, or ICW_WEBEX_CONNECT__JWT_ISSUER and ICW_WEBEX_CONNECT__JWT_SECRET_FILE",
            ));
        };
        let jwt = TokenSource::jwt(section.jwt_issuer.clone(), secret, Clock::system());
        let key = if file.is_some() { "webex_connect.jwt_secret_file" } else { "webex_connect.jwt_secret" };
        jwt.current().map_err(|error| self.settings.error(key, error))?;
        Ok((jwt, Credential::Bearer))
    }

    /// The ingress, if it is on; its clients' files are read once as a test.
    ///
    /// # Errors
    /// [`ConfigError`] if a file of tokens or secrets is unusable, or two clients have the same token or secret.
    pub(crate) fn ingress(&self) -> Result<Option<IngressSettings>, ConfigError> {
        let section = &self.config.ingress;
        let Some(listen) = section.listen else { return Ok(None) };
        let clients = Clients::open(&section.clients, section.in_flight_max.size())
            .map_err(|error| ConfigError::new(error.to_string()))?;
        Ok(Some(IngressSettings {
            listen,
            certificate: self.config.ingress_certificate(),
            client_ca: section.client_ca_file.clone(),
            connections_max: section.connections_max.size(),
            in_flight_max: section.in_flight_max.size(),
            drain: section.drain.get(),
            trusted_proxies: section.trusted_proxies.clone(),
            requires_key: section.require_idempotency_key,
            clients,
            receipts: self.receipts()?,
        }))
    }

    /// Receipts, if they are on; the files are read once as a test.
    ///
    /// # Errors
    /// [`ConfigError`] if the file of secrets or of keys is unusable.
    pub(crate) fn receipts(&self) -> Result<Option<ReceiptSettings>, ConfigError> {
        let section = &self.config.receipts;
        if !self.config.takes_receipts() {
            return Ok(None);
        }
        let secrets = HubSecrets::open(&section.secret, section.secret_file.as_deref(), section.algorithm)
            .map_err(|error| self.settings.error("receipts.secret_file", error))?;
        let keys = ReceiptKeys::open(&section.key_header, &section.key, section.key_file.as_deref())
            .map_err(|error| self.settings.error("receipts.key_file", error))?;
        Ok(Some(ReceiptSettings { secrets, keys }))
    }

    fn token_source(
        &self,
        key: &str,
        token: &SecretString,
        file: Option<&Path>,
    ) -> Result<Option<TokenSource>, ConfigError> {
        if !token.expose_secret().is_empty() {
            masking::remember(token.expose_secret());
            return Ok(Some(TokenSource::Value(token.clone())));
        }
        let Some(path) = file else { return Ok(None) };
        let source = TokenSource::file(path.to_owned());
        source.current().map_err(|error| self.settings.error(&format!("{key}_file"), error))?;
        Ok(Some(source))
    }
}
