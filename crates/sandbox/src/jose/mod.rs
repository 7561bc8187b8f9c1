//! The ciphers: claims that are signed (JWS) and then encrypted with a password (JWE). No clock, no state.
//!
//! A cipher is a compact JWE (RFC 7516) with a key that is wrapped by PBES2 (RFC 7518, section 4.8). Its content is a
//! compact JWS (RFC 7515), with `"cty":"JWT"` as RFC 7519, section 5.2, requires for nested tokens. A reader needs two
//! values, both derived from the sandbox's password:
//!
//! - the password of the JWE: the UTF-8 bytes of the sandbox's password;
//! - the key of the JWS: [`signing_key`], the 64 bytes of the SHA-512 of the password. RFC 7518, section 3.2, requires
//!   a key that is as long as the hash, and strict libraries refuse a shorter key.
//!
//! Readers that limit the iterations of PBES2 must allow the Guide's 32,767. For example, Python's `jwcrypto` stops at
//! 16,384 unless `jwcrypto.jwa.default_max_pbkdf2_iterations` is raised.

mod algorithms;
mod content;

use aes_kw::{KwAes128, KwAes192, KwAes256};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use hmac::KeyInit;
use pbkdf2::pbkdf2_hmac;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, Sha384, Sha512};

pub(crate) use algorithms::{ContentEncryption, KeyEncryption, Signature};
pub(crate) use content::mac;

/// The Guide's range of `saltLength`, in octets.
pub(crate) const SALT_BYTES: std::ops::RangeInclusive<usize> = 8..=128;
/// The Guide's range of `iterations`.
pub(crate) const ITERATIONS: std::ops::RangeInclusive<u32> = 1000..=32767;

/// A cipher could not be created or opened.
#[derive(Debug, thiserror::Error)]
pub enum JoseError {
    /// The parts, the base64url or the header do not match RFC 7515 and RFC 7516.
    #[error("not a nested compact JWE: {0}")]
    Malformed(&'static str),
    /// The password is wrong, or the ciphertext was changed.
    #[error("decryption failed: wrong password or tampered ciphertext")]
    Refused,
    /// The length of a key or a buffer does not match the algorithm.
    #[error("a key or a buffer has the wrong length")]
    Length,
}

/// The key of the JWS: SHA-512 of the sandbox's password, 64 bytes, which every `jwsAlg` accepts.
#[must_use]
pub(crate) fn signing_key(password: &[u8]) -> [u8; 64] {
    Sha512::digest(password).into()
}

/// A key-encryption key, derived from a password by PBES2, with the parameters to derive it again.
#[derive(Clone)]
pub(crate) struct WrapKey {
    alg: KeyEncryption,
    salt: Vec<u8>,
    iterations: u32,
    key: Vec<u8>,
}

impl WrapKey {
    /// Derives the key; the cost grows with `iterations` (about 0.5 µs each in a release build).
    ///
    /// `salt` is the `p2s` of the header; the input of PBKDF2 is `alg || 0x00 || salt` (RFC 7518, 4.8.1.1).
    #[must_use]
    pub(crate) fn derive(password: &[u8], alg: KeyEncryption, salt: Vec<u8>, iterations: u32) -> Self {
        let input = [alg.name().as_bytes(), &[0], &salt].concat();
        let mut key = vec![0; alg.key_bytes()];
        match alg {
            KeyEncryption::Hs256A128 => pbkdf2_hmac::<Sha256>(password, &input, iterations, &mut key),
            KeyEncryption::Hs384A192 => pbkdf2_hmac::<Sha384>(password, &input, iterations, &mut key),
            KeyEncryption::Hs512A256 => pbkdf2_hmac::<Sha512>(password, &input, iterations, &mut key),
        }
        Self { alg, salt, iterations, key }
    }

    fn wrap(&self, cek: &[u8]) -> Result<Vec<u8>, JoseError> {
        let mut out = vec![0; cek.len() + aes_kw::IV_LEN];
        match self.alg {
            KeyEncryption::Hs256A128 => {
                KwAes128::new_from_slice(&self.key).map(|kw| kw.wrap_key(cek, &mut out).map(drop))
            }
            KeyEncryption::Hs384A192 => {
                KwAes192::new_from_slice(&self.key).map(|kw| kw.wrap_key(cek, &mut out).map(drop))
            }
            KeyEncryption::Hs512A256 => {
                KwAes256::new_from_slice(&self.key).map(|kw| kw.wrap_key(cek, &mut out).map(drop))
            }
        }
        .map_err(|_| JoseError::Length)?
        .map_err(|_| JoseError::Length)?;
        Ok(out)
    }

    fn unwrap(&self, wrapped: &[u8]) -> Result<Vec<u8>, JoseError> {
        let mut out = vec![0; wrapped.len().saturating_sub(aes_kw::IV_LEN)];
        match self.alg {
            KeyEncryption::Hs256A128 => {
                KwAes128::new_from_slice(&self.key).map(|kw| kw.unwrap_key(wrapped, &mut out).map(drop))
            }
            KeyEncryption::Hs384A192 => {
                KwAes192::new_from_slice(&self.key).map(|kw| kw.unwrap_key(wrapped, &mut out).map(drop))
            }
            KeyEncryption::Hs512A256 => {
                KwAes256::new_from_slice(&self.key).map(|kw| kw.unwrap_key(wrapped, &mut out).map(drop))
            }
        }
        .map_err(|_| JoseError::Length)?
        .map_err(|_| JoseError::Refused)?;
        Ok(out)
    }
}

/// The protected header of the JWE. `p2s` comes first, as in all ciphers in the Guide.
#[derive(Serialize, Deserialize)]
struct JweHeader {
    p2s: String,
    p2c: u32,
    alg: KeyEncryption,
    enc: ContentEncryption,
    cty: String,
}

/// The header of the JWS inside.
#[derive(Serialize, Deserialize)]
struct JwsHeader {
    alg: Signature,
    typ: String,
}

/// Signs the claims and encrypts the result; every call uses a new content key and initialisation vector.
pub(crate) fn seal(
    claims: &[u8],
    signing_key: &[u8],
    jws_alg: Signature,
    wrap: &WrapKey,
    enc: ContentEncryption,
) -> Result<String, JoseError> {
    let signed = sign(claims, signing_key, jws_alg)?;
    let header = encode_header(&JweHeader {
        p2s: BASE64URL.encode(&wrap.salt),
        p2c: wrap.iterations,
        alg: wrap.alg,
        enc,
        cty: "JWT".to_owned(),
    })?;
    let cek = random_bytes(enc.key_bytes());
    let iv = random_bytes(enc.iv_bytes());
    let (ciphertext, tag) = content::encrypt(enc, &cek, &iv, header.as_bytes(), signed.as_bytes())?;
    let parts = [&wrap.wrap(&cek)?, &iv, &ciphertext, &tag].map(|part| BASE64URL.encode(part));
    Ok(format!("{header}.{}", parts.join(".")))
}

/// Opens a cipher of [`seal`] and returns the claims, with their signature verified.
///
/// Salts and iterations outside the Guide's ranges are refused before the key is derived.
pub fn open(cipher: &str, password: &[u8]) -> Result<Vec<u8>, JoseError> {
    let parts: Vec<&str> = cipher.split('.').collect();
    let [protected, wrapped, iv, ciphertext, tag] = parts[..] else {
        return Err(JoseError::Malformed("a compact JWE has five parts"));
    };
    let header: JweHeader = decode_header(protected)?;
    let salt = decode(&header.p2s)?;
    if !SALT_BYTES.contains(&salt.len()) || !ITERATIONS.contains(&header.p2c) {
        return Err(JoseError::Malformed("p2s or p2c is outside the Guide's range"));
    }
    let wrap = WrapKey::derive(password, header.alg, salt, header.p2c);
    let cek = wrap.unwrap(&decode(wrapped)?)?;
    let signed = content::decrypt(
        header.enc,
        &cek,
        &decode(iv)?,
        protected.as_bytes(),
        &decode(ciphertext)?,
        &decode(tag)?,
    )?;
    let signed = std::str::from_utf8(&signed).map_err(|_| JoseError::Malformed("the JWS is not UTF-8"))?;
    verify(signed, &signing_key(password))
}

fn sign(claims: &[u8], key: &[u8], alg: Signature) -> Result<String, JoseError> {
    let header = encode_header(&JwsHeader { alg, typ: "JWT".to_owned() })?;
    let input = format!("{header}.{}", BASE64URL.encode(claims));
    let signature = mac(alg, key, &[input.as_bytes()])?;
    Ok(format!("{input}.{}", BASE64URL.encode(signature)))
}

fn verify(signed: &str, key: &[u8]) -> Result<Vec<u8>, JoseError> {
    let malformed = JoseError::Malformed("a compact JWS has three parts");
    let Some((input, signature)) = signed.rsplit_once('.') else { return Err(malformed) };
    let Some((header, claims)) = input.split_once('.') else { return Err(malformed) };
    let header: JwsHeader = decode_header(header)?;
    let signature = decode(signature)?;
    if signature.len() != header.alg.hash_bytes() {
        return Err(JoseError::Refused);
    }
    content::verify_mac(header.alg, key, &[input.as_bytes()], &signature)?;
    decode(claims)
}

fn encode_header<T: Serialize>(header: &T) -> Result<String, JoseError> {
    let json = serde_json::to_vec(header).map_err(|_| JoseError::Malformed("header"))?;
    Ok(BASE64URL.encode(json))
}

fn decode_header<T: for<'de> Deserialize<'de>>(part: &str) -> Result<T, JoseError> {
    serde_json::from_slice(&decode(part)?)
        .map_err(|_| JoseError::Malformed("a header is invalid or unsupported"))
}

fn decode(part: &str) -> Result<Vec<u8>, JoseError> {
    BASE64URL.decode(part).map_err(|_| JoseError::Malformed("a part is not base64url"))
}

/// Random bytes for the sandbox, whose password is not secret to its user. Not suitable for real keys.
pub(super) fn random_bytes(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::fill(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    const PASSWORD: &[u8] = b"correct horse";

    fn cipher(jwe: KeyEncryption, jws: Signature, enc: ContentEncryption) -> String {
        let wrap = WrapKey::derive(PASSWORD, jwe, random_bytes(8), 1000);
        seal(br#"{"sub":"x"}"#, &signing_key(PASSWORD), jws, &wrap, enc).unwrap()
    }

    #[test]
    fn every_combination_of_algorithms_can_be_opened() {
        for jwe in KeyEncryption::ALL {
            for jws in Signature::ALL {
                for enc in ContentEncryption::ALL {
                    assert_eq!(open(&cipher(jwe, jws, enc), PASSWORD).unwrap(), br#"{"sub":"x"}"#);
                }
            }
        }
    }

    #[test]
    fn wrong_password_is_refused() {
        for enc in ContentEncryption::ALL {
            let sealed = cipher(KeyEncryption::Hs256A128, Signature::Hs256, enc);
            assert!(matches!(open(&sealed, b"wrong"), Err(JoseError::Refused)));
        }
    }

    #[test]
    fn change_in_any_part_is_refused() {
        for enc in ContentEncryption::ALL {
            let sealed = cipher(KeyEncryption::Hs512A256, Signature::Hs384, enc);
            let starts = std::iter::once(0).chain(sealed.match_indices('.').map(|(at, _)| at + 1));
            for at in starts {
                let mut bytes = sealed.clone().into_bytes();
                bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
                assert!(open(&String::from_utf8(bytes).unwrap(), PASSWORD).is_err(), "{enc:?} at {at}");
            }
        }
    }

    #[test]
    fn header_outside_the_guides_range_is_refused() {
        let wrap = WrapKey::derive(PASSWORD, KeyEncryption::Hs256A128, random_bytes(8), 999);
        let sealed =
            seal(b"{}", &signing_key(PASSWORD), Signature::Hs256, &wrap, ContentEncryption::A128Gcm).unwrap();
        assert!(matches!(open(&sealed, PASSWORD), Err(JoseError::Malformed(_))));
    }

    #[test]
    fn cipher_starts_like_the_guides_examples() {
        assert!(
            cipher(KeyEncryption::Hs512A256, Signature::Hs512, ContentEncryption::A256Gcm)
                .starts_with("eyJwMnMiOi")
        );
    }

    #[test]
    fn invalid_text_is_an_error_without_a_panic() {
        for text in ["", ".", "....", "a.b.c.d.e", "eyJ9.....", "é.é.é.é.é"] {
            assert!(open(text, PASSWORD).is_err());
        }
    }
}
