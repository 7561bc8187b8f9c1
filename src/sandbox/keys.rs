//! The keys that every cipher needs, derived once where deriving them again would teach nobody anything.

use std::sync::OnceLock;

use secrecy::{ExposeSecret as _, SecretString};

use super::jose::{self, ITERATIONS, KeyEncryption, SALT_BYTES, WrapKey};

/// So many keys per algorithm stand in for "a random salt and count for each link": enough that host and
/// guest mostly differ, few enough that a process has derived them all within its first calls.
const STANDING: usize = 4;

/// Password and derived keys of one sandbox.
pub(super) struct Keys {
    password: SecretString,
    signing: [u8; 64],
    standing: [[OnceLock<WrapKey>; STANDING]; KeyEncryption::ALL.len()],
}

impl Keys {
    pub(super) fn new(password: SecretString) -> Self {
        let signing = jose::signing_key(password.expose_secret().as_bytes());
        Self { password, signing, standing: Default::default() }
    }

    pub(super) fn password(&self) -> &[u8] {
        self.password.expose_secret().as_bytes()
    }

    pub(super) const fn signing(&self) -> &[u8] {
        &self.signing
    }

    /// The wrapping key of one link: as the caller asked, or one of the standing ones where it left both
    /// parameters to the service. A missing parameter is random within the Guide's range either way.
    ///
    /// Costs up to 32,767 rounds of PBKDF2: call it where blocking is allowed.
    pub(super) fn with_wrap<T>(
        &self,
        alg: KeyEncryption,
        salt_bytes: Option<usize>,
        iterations: Option<u32>,
        then: impl FnOnce(&WrapKey) -> T,
    ) -> T {
        let derive = || {
            let salt = jose::random_bytes(salt_bytes.unwrap_or_else(|| fastrand::usize(SALT_BYTES)));
            let iterations = iterations.unwrap_or_else(|| fastrand::u32(ITERATIONS));
            WrapKey::derive(self.password(), alg, salt, iterations)
        };
        if salt_bytes.is_some() || iterations.is_some() {
            return then(&derive());
        }
        then(self.standing[alg as usize][fastrand::usize(..STANDING)].get_or_init(derive))
    }
}
