//! Content encryption (RFC 7518, section 5) and the HMACs that it shares with signing.

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

use super::{Enc, Error, JwsAlg};

/// All of the Guide's GCM values have a tag of 128 bits.
const GCM_TAG_BYTES: usize = 16;

type Aes192Gcm = AesGcm<Aes192, U12>;

/// Gives back the ciphertext and its authentication tag.
pub(super) fn encrypt(
    enc: Enc,
    cek: &[u8],
    iv: &[u8],
    aad: &[u8],
    plain: &[u8],
) -> Result<(Vec<u8>, Vec<u8>), Error> {
    let (mac_key, key) = halves(cek);
    let ciphertext = match enc {
        Enc::A128Gcm => return gcm_encrypt::<Aes128Gcm>(cek, iv, aad, plain),
        Enc::A192Gcm => return gcm_encrypt::<Aes192Gcm>(cek, iv, aad, plain),
        Enc::A256Gcm => return gcm_encrypt::<Aes256Gcm>(cek, iv, aad, plain),
        Enc::A128CbcHs256 => cbc_encrypt::<Encryptor<Aes128>>(key, iv, plain)?,
        Enc::A192CbcHs384 => cbc_encrypt::<Encryptor<Aes192>>(key, iv, plain)?,
        Enc::A256CbcHs512 => cbc_encrypt::<Encryptor<Aes256>>(key, iv, plain)?,
    };
    let mut tag = mac(hash_of(enc), mac_key, &[aad, iv, &ciphertext, &bits(aad)])?;
    tag.truncate(tag.len() / 2);
    Ok((ciphertext, tag))
}

/// The inverse of [`encrypt`]; whatever doesn't fit is [`Error::Refused`], without saying which part.
pub(super) fn decrypt(
    enc: Enc,
    cek: &[u8],
    iv: &[u8],
    aad: &[u8],
    ciphertext: &[u8],
    tag: &[u8],
) -> Result<Vec<u8>, Error> {
    if cek.len() != enc.key_bytes() || iv.len() != enc.iv_bytes() {
        return Err(Error::Refused);
    }
    let (mac_key, key) = halves(cek);
    match enc {
        Enc::A128Gcm => return gcm_decrypt::<Aes128Gcm>(cek, iv, aad, ciphertext, tag),
        Enc::A192Gcm => return gcm_decrypt::<Aes192Gcm>(cek, iv, aad, ciphertext, tag),
        Enc::A256Gcm => return gcm_decrypt::<Aes256Gcm>(cek, iv, aad, ciphertext, tag),
        Enc::A128CbcHs256 | Enc::A192CbcHs384 | Enc::A256CbcHs512 => {}
    }
    // A shorter tag would be compared on fewer bytes, and an empty one on none.
    if tag.len() != mac_key.len() {
        return Err(Error::Refused);
    }
    verify_mac(hash_of(enc), mac_key, &[aad, iv, ciphertext, &bits(aad)], tag)?;
    match enc {
        Enc::A128CbcHs256 => cbc_decrypt::<Decryptor<Aes128>>(key, iv, ciphertext),
        Enc::A192CbcHs384 => cbc_decrypt::<Decryptor<Aes192>>(key, iv, ciphertext),
        _ => cbc_decrypt::<Decryptor<Aes256>>(key, iv, ciphertext),
    }
}

/// HMAC over the parts, one after the other.
pub(super) fn mac(alg: JwsAlg, key: &[u8], parts: &[&[u8]]) -> Result<Vec<u8>, Error> {
    match alg {
        JwsAlg::Hs256 => Ok(hmac::<Hmac<Sha256>>(key, parts)?.finalize().into_bytes().to_vec()),
        JwsAlg::Hs384 => Ok(hmac::<Hmac<Sha384>>(key, parts)?.finalize().into_bytes().to_vec()),
        JwsAlg::Hs512 => Ok(hmac::<Hmac<Sha512>>(key, parts)?.finalize().into_bytes().to_vec()),
    }
}

/// Compares with the leftmost bytes of the HMAC, in constant time; an empty tag is refused.
pub(super) fn verify_mac(alg: JwsAlg, key: &[u8], parts: &[&[u8]], tag: &[u8]) -> Result<(), Error> {
    match alg {
        JwsAlg::Hs256 => hmac::<Hmac<Sha256>>(key, parts)?.verify_truncated_left(tag),
        JwsAlg::Hs384 => hmac::<Hmac<Sha384>>(key, parts)?.verify_truncated_left(tag),
        JwsAlg::Hs512 => hmac::<Hmac<Sha512>>(key, parts)?.verify_truncated_left(tag),
    }
    .map_err(|_| Error::Refused)
}

fn hmac<M: Mac + KeyInit>(key: &[u8], parts: &[&[u8]]) -> Result<M, Error> {
    let mut mac = <M as KeyInit>::new_from_slice(key).map_err(|_| Error::Length)?;
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

fn hash_of(enc: Enc) -> JwsAlg {
    match enc {
        Enc::A128CbcHs256 | Enc::A128Gcm => JwsAlg::Hs256,
        Enc::A192CbcHs384 | Enc::A192Gcm => JwsAlg::Hs384,
        Enc::A256CbcHs512 | Enc::A256Gcm => JwsAlg::Hs512,
    }
}

fn gcm_encrypt<C: KeyInit + Aead>(
    cek: &[u8],
    iv: &[u8],
    aad: &[u8],
    plain: &[u8],
) -> Result<(Vec<u8>, Vec<u8>), Error> {
    let cipher = C::new_from_slice(cek).map_err(|_| Error::Length)?;
    let nonce = <&Nonce<C>>::try_from(iv).map_err(|_| Error::Length)?;
    let mut sealed = cipher.encrypt(nonce, Payload { msg: plain, aad }).map_err(|_| Error::Length)?;
    let tag = sealed.split_off(plain.len());
    Ok((sealed, tag))
}

fn gcm_decrypt<C: KeyInit + Aead>(
    cek: &[u8],
    iv: &[u8],
    aad: &[u8],
    ciphertext: &[u8],
    tag: &[u8],
) -> Result<Vec<u8>, Error> {
    if tag.len() != GCM_TAG_BYTES {
        return Err(Error::Refused);
    }
    let cipher = C::new_from_slice(cek).map_err(|_| Error::Refused)?;
    let nonce = <&Nonce<C>>::try_from(iv).map_err(|_| Error::Refused)?;
    let sealed = [ciphertext, tag].concat();
    cipher.decrypt(nonce, Payload { msg: &sealed, aad }).map_err(|_| Error::Refused)
}

fn cbc_encrypt<M: KeyIvInit + BlockModeEncrypt>(
    key: &[u8],
    iv: &[u8],
    plain: &[u8],
) -> Result<Vec<u8>, Error> {
    Ok(M::new_from_slices(key, iv).map_err(|_| Error::Length)?.encrypt_padded_vec::<Pkcs7>(plain))
}

fn cbc_decrypt<M: KeyIvInit + BlockModeDecrypt>(
    key: &[u8],
    iv: &[u8],
    sealed: &[u8],
) -> Result<Vec<u8>, Error> {
    M::new_from_slices(key, iv)
        .map_err(|_| Error::Refused)?
        .decrypt_padded_vec::<Pkcs7>(sealed)
        .map_err(|_| Error::Refused)
}
