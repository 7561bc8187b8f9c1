//! The keys of the ciphers, derived only once if the client sets no parameters.

use std::sync::OnceLock;

use secrecy::{ExposeSecret as _, SecretString};

use super::jose::{self, ITERATIONS, KeyEncryption, SALT_BYTES, WrapKey};

/// Number of shared keys per algorithm, in place of a random salt and count for each link. Host and guest mostly get
/// different keys, and a process derives all of them within its first calls.
const SHARED_KEYS: usize = 4;

/// Password and derived keys of one sandbox.
pub(super) struct Keys {
    password: SecretString,
    signing: [u8; 64],
    shared: [[OnceLock<WrapKey>; SHARED_KEYS]; KeyEncryption::ALL.len()],
}

impl Keys {
    pub(super) fn new(password: SecretString) -> Self {
        let signing = jose::signing_key(password.expose_secret().as_bytes());
        Self { password, signing, shared: Default::default() }
    }

    pub(super) fn password(&self) -> &[u8] {
        self.password.expose_secret().as_bytes()
    }

    pub(super) const fn signing(&self) -> &[u8] {
        &self.signing
    }

    /// Runs `then` with the wrapping key of one link: a key with the given parameters, or one of the shared keys if both
    /// are missing. A missing parameter is random within the Guide's range.
    ///
    /// Takes up to 32,767 rounds of PBKDF2, so call this only in blocking code.
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
        then(self.shared[alg as usize][fastrand::usize(..SHARED_KEYS)].get_or_init(derive))
    }
}
