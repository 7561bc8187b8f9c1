//! Content encryption (RFC 7518, section 5), and the HMACs that encryption and signing use.

use aes::{Aes128, Aes192, Aes256};
use aes_gcm::{
    Aes128Gcm, Aes256Gcm, AesGcm, KeyInit,
    aead::{Aead, Nonce, Payload, consts::U12},
};
use cbc::{
    Decryptor, Encryptor,
    cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit, block_padding::Pkcs7},
};
use hmac::{Hmac, Mac};
use sha2::{Sha256, Sha384, Sha512};

use super::{ContentEncryption, JoseError, Signature};

/// All of the Guide's GCM values have a tag of 128 bits.
const GCM_TAG_BYTES: usize = 16;

type Aes192Gcm = AesGcm<Aes192, U12>;

/// Returns the ciphertext and its authentication tag.
pub(super) fn encrypt(
    enc: ContentEncryption,
    cek: &[u8],
    iv: &[u8],
    aad: &[u8],
    plain: &[u8],
) -> Result<(Vec<u8>, Vec<u8>), JoseError> {
    let (mac_key, key) = halves(cek);
    let ciphertext = match enc {
        ContentEncryption::A128Gcm => return gcm_encrypt::<Aes128Gcm>(cek, iv, aad, plain),
        ContentEncryption::A192Gcm => return gcm_encrypt::<Aes192Gcm>(cek, iv, aad, plain),
        ContentEncryption::A256Gcm => return gcm_encrypt::<Aes256Gcm>(cek, iv, aad, plain),
        ContentEncryption::A128CbcHs256 => cbc_encrypt::<Encryptor<Aes128>>(key, iv, plain)?,
        ContentEncryption::A192CbcHs384 => cbc_encrypt::<Encryptor<Aes192>>(key, iv, plain)?,
        ContentEncryption::A256CbcHs512 => cbc_encrypt::<Encryptor<Aes256>>(key, iv, plain)?,
    };
    let mut tag = mac(hash_of(enc), mac_key, &[aad, iv, &ciphertext, &bits(aad)])?;
    tag.truncate(tag.len() / 2);
    Ok((ciphertext, tag))
}

/// The inverse of [`encrypt`]. Any mismatch is [`JoseError::Refused`], without the failed part.
pub(super) fn decrypt(
    enc: ContentEncryption,
    cek: &[u8],
    iv: &[u8],
    aad: &[u8],
    ciphertext: &[u8],
    tag: &[u8],
) -> Result<Vec<u8>, JoseError> {
    if cek.len() != enc.key_bytes() || iv.len() != enc.iv_bytes() {
        return Err(JoseError::Refused);
    }
    let (mac_key, key) = halves(cek);
    match enc {
        ContentEncryption::A128Gcm => return gcm_decrypt::<Aes128Gcm>(cek, iv, aad, ciphertext, tag),
        ContentEncryption::A192Gcm => return gcm_decrypt::<Aes192Gcm>(cek, iv, aad, ciphertext, tag),
        ContentEncryption::A256Gcm => return gcm_decrypt::<Aes256Gcm>(cek, iv, aad, ciphertext, tag),
        ContentEncryption::A128CbcHs256
        | ContentEncryption::A192CbcHs384
        | ContentEncryption::A256CbcHs512 => {}
    }
    // Only the bytes of the tag are compared, so a shorter tag would be weaker and an empty tag would always match.
    if tag.len() != mac_key.len() {
        return Err(JoseError::Refused);
    }
    verify_mac(hash_of(enc), mac_key, &[aad, iv, ciphertext, &bits(aad)], tag)?;
    match enc {
        ContentEncryption::A128CbcHs256 => cbc_decrypt::<Decryptor<Aes128>>(key, iv, ciphertext),
        ContentEncryption::A192CbcHs384 => cbc_decrypt::<Decryptor<Aes192>>(key, iv, ciphertext),
        _ => cbc_decrypt::<Decryptor<Aes256>>(key, iv, ciphertext),
    }
}

/// HMAC over the concatenated parts.
pub(crate) fn mac(alg: Signature, key: &[u8], parts: &[&[u8]]) -> Result<Vec<u8>, JoseError> {
    match alg {
        Signature::Hs256 => Ok(hmac::<Hmac<Sha256>>(key, parts)?.finalize().into_bytes().to_vec()),
        Signature::Hs384 => Ok(hmac::<Hmac<Sha384>>(key, parts)?.finalize().into_bytes().to_vec()),
        Signature::Hs512 => Ok(hmac::<Hmac<Sha512>>(key, parts)?.finalize().into_bytes().to_vec()),
    }
}

/// Compares `tag` with the leftmost bytes of the HMAC, in constant time; an empty tag is refused.
pub(super) fn verify_mac(alg: Signature, key: &[u8], parts: &[&[u8]], tag: &[u8]) -> Result<(), JoseError> {
    match alg {
        Signature::Hs256 => hmac::<Hmac<Sha256>>(key, parts)?.verify_truncated_left(tag),
        Signature::Hs384 => hmac::<Hmac<Sha384>>(key, parts)?.verify_truncated_left(tag),
        Signature::Hs512 => hmac::<Hmac<Sha512>>(key, parts)?.verify_truncated_left(tag),
    }
    .map_err(|_| JoseError::Refused)
}

fn hmac<M: Mac + KeyInit>(key: &[u8], parts: &[&[u8]]) -> Result<M, JoseError> {
    let mut mac = <M as KeyInit>::new_from_slice(key).map_err(|_| JoseError::Length)?;
    for part in parts {
        mac.update(part);
    }
    Ok(mac)
}

/// RFC 7518, section 5.2.2.1: the first half of the key is for the MAC, the second for the cipher.
fn halves(cek: &[u8]) -> (&[u8], &[u8]) {
    cek.split_at(cek.len() / 2)
}

/// The length of the additional data in bits, as 64 bits, big-endian (RFC 7518, section 5.2.2.1).
fn bits(aad: &[u8]) -> [u8; 8] {
    (aad.len() as u64 * 8).to_be_bytes()
}

fn hash_of(enc: ContentEncryption) -> Signature {
    match enc {
        ContentEncryption::A128CbcHs256 | ContentEncryption::A128Gcm => Signature::Hs256,
        ContentEncryption::A192CbcHs384 | ContentEncryption::A192Gcm => Signature::Hs384,
        ContentEncryption::A256CbcHs512 | ContentEncryption::A256Gcm => Signature::Hs512,
    }
}

fn gcm_encrypt<C: KeyInit + Aead>(
    cek: &[u8],
    iv: &[u8],
    aad: &[u8],
    plain: &[u8],
) -> Result<(Vec<u8>, Vec<u8>), JoseError> {
    let cipher = C::new_from_slice(cek).map_err(|_| JoseError::Length)?;
    let nonce = <&Nonce<C>>::try_from(iv).map_err(|_| JoseError::Length)?;
    let mut sealed = cipher.encrypt(nonce, Payload { msg: plain, aad }).map_err(|_| JoseError::Length)?;
    let tag = sealed.split_off(plain.len());
    Ok((sealed, tag))
}

fn gcm_decrypt<C: KeyInit + Aead>(
    cek: &[u8],
    iv: &[u8],
    aad: &[u8],
    ciphertext: &[u8],
    tag: &[u8],
) -> Result<Vec<u8>, JoseError> {
    if tag.len() != GCM_TAG_BYTES {
        return Err(JoseError::Refused);
    }
    let cipher = C::new_from_slice(cek).map_err(|_| JoseError::Refused)?;
    let nonce = <&Nonce<C>>::try_from(iv).map_err(|_| JoseError::Refused)?;
    let sealed = [ciphertext, tag].concat();
    cipher.decrypt(nonce, Payload { msg: &sealed, aad }).map_err(|_| JoseError::Refused)
}

fn cbc_encrypt<M: KeyIvInit + BlockModeEncrypt>(
    key: &[u8],
    iv: &[u8],
    plain: &[u8],
) -> Result<Vec<u8>, JoseError> {
    Ok(M::new_from_slices(key, iv).map_err(|_| JoseError::Length)?.encrypt_padded_vec::<Pkcs7>(plain))
}

fn cbc_decrypt<M: KeyIvInit + BlockModeDecrypt>(
    key: &[u8],
    iv: &[u8],
    sealed: &[u8],
) -> Result<Vec<u8>, JoseError> {
    M::new_from_slices(key, iv)
        .map_err(|_| JoseError::Refused)?
        .decrypt_padded_vec::<Pkcs7>(sealed)
        .map_err(|_| JoseError::Refused)
}
