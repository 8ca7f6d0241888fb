//! Private keys from PEM, also encrypted ones.
//!
//! PKCS#8 (plain, and encrypted with PBES2), PKCS#1 and SEC1; the latter two also in the old form
//! where the PEM headers name a cipher:
//! ```text
//!   Proc-Type: 4,ENCRYPTED
//!   DEK-Info: AES-256-CBC,<iv in hex>     key = MD5 chain over password and iv[0..8)
//! ```
//! Everything secret in here is wiped when dropped. Keys and passwords never get into messages.

use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockModeDecrypt as _, KeyIvInit as _};
use md5::{Digest as _, Md5};
use pkcs8::EncryptedPrivateKeyInfoRef;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};
use zeroize::Zeroizing;

use super::TlsError;
use super::certs::{PemBlock, pem_blocks};

/// Whether the first private key in `pem` is encrypted, so that a password is needed.
#[must_use]
pub fn is_encrypted(pem: &[u8]) -> bool {
    first_key(pem).is_ok_and(|block| {
        block.label == "ENCRYPTED PRIVATE KEY" || encryption_header(&block).is_some()
    })
}

/// The first private key in `pem`, decrypted with `password` where it is encrypted.
///
/// # Errors
/// [`TlsError::KeyPasswordMissing`], [`TlsError::KeyPasswordWrong`], or
/// [`TlsError::Settings`] naming why there is no usable key.
pub fn private_key(pem: &[u8], password: Option<&str>) -> Result<PrivateKeyDer<'static>, TlsError> {
    let block = first_key(pem)?;
    if block.label == "ENCRYPTED PRIVATE KEY" {
        let password = password.ok_or(TlsError::KeyPasswordMissing)?;
        return decrypt_pkcs8(&block.data, password);
    }
    let der = match encryption_header(&block) {
        Some(info) => {
            let password = password.ok_or(TlsError::KeyPasswordMissing)?;
            decrypt_legacy(info, &block.data, password)?
        }
        None => block.data.clone(),
    };
    let bytes = der.to_vec();
    Ok(match block.label.as_str() {
        "RSA PRIVATE KEY" => PrivatePkcs1KeyDer::from(bytes).into(),
        "EC PRIVATE KEY" => PrivateSec1KeyDer::from(bytes).into(),
        _ => PrivatePkcs8KeyDer::from(bytes).into(),
    })
}

fn first_key(pem: &[u8]) -> Result<PemBlock, TlsError> {
    let blocks = pem_blocks(pem).map_err(|err| TlsError::Settings(format!("key: {err}")))?;
    let block = blocks
        .into_iter()
        .find(|block| block.label.ends_with("PRIVATE KEY"))
        .ok_or_else(|| TlsError::Settings("key: no private key found in it".to_owned()))?;
    match block.label.as_str() {
        "PRIVATE KEY" | "ENCRYPTED PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY" => Ok(block),
        other => Err(TlsError::Settings(format!(
            "key: a \"{other}\" is not supported; RSA, ECDSA and Ed25519 keys are"
        ))),
    }
}

/// The value of `DEK-Info` when the block says it is encrypted.
fn encryption_header(block: &PemBlock) -> Option<&str> {
    let header = |name: &str| {
        let found = block.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    };
    header("Proc-Type")?.contains("ENCRYPTED").then_some(())?;
    Some(header("DEK-Info").unwrap_or(""))
}

fn decrypt_pkcs8(der: &[u8], password: &str) -> Result<PrivateKeyDer<'static>, TlsError> {
    let info = EncryptedPrivateKeyInfoRef::try_from(der).map_err(|err| {
        TlsError::Settings(format!(
            "key: its encryption is not understood ({err}); rewrite it with \
             \"openssl pkcs8 -topk8\""
        ))
    })?;
    match info.decrypt(password) {
        Ok(document) => Ok(PrivatePkcs8KeyDer::from(document.as_bytes().to_vec()).into()),
        Err(pkcs8::Error::EncryptedPrivateKey(err)) => Err(match err {
            pkcs8::pkcs5::Error::DecryptFailed => TlsError::KeyPasswordWrong,
            pkcs8::pkcs5::Error::NoPbes1CryptSupport => TlsError::Settings(
                "key: it is encrypted in the outdated PBES1 way; rewrite it with \
                 \"openssl pkcs8 -topk8 -v2 aes256\""
                    .to_owned(),
            ),
            other => TlsError::Settings(format!(
                "key: its encryption is not supported ({other}); rewrite it with \
                 \"openssl pkcs8 -topk8 -v2 aes256\""
            )),
        }),
        // The padding came out right by chance, the contents did not.
        Err(_) => Err(TlsError::KeyPasswordWrong),
    }
}

fn decrypt_legacy(info: &str, data: &[u8], password: &str) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let unusable = || TlsError::Settings("key: its DEK-Info header is not valid".to_owned());
    let (cipher, iv) = info.split_once(',').ok_or_else(unusable)?;
    let iv = unhex(iv.trim()).ok_or_else(unusable)?;
    let cipher = cipher.trim();
    let (key_len, iv_len) = match cipher {
        "AES-128-CBC" => (16, 16),
        "AES-192-CBC" => (24, 16),
        "AES-256-CBC" => (32, 16),
        "DES-EDE3-CBC" => (24, 8),
        other => {
            return Err(TlsError::Settings(format!(
                "key: encryption with {other} is not supported; rewrite it with \
                 \"openssl pkcs8 -topk8\""
            )));
        }
    };
    if iv.len() != iv_len || data.is_empty() || !data.len().is_multiple_of(iv_len) {
        return Err(unusable());
    }
    let key = legacy_key(password.as_bytes(), &iv[..8], key_len);
    let mut buffer = Zeroizing::new(data.to_vec());
    macro_rules! decrypt {
        ($cipher:ty) => {
            cbc::Decryptor::<$cipher>::new_from_slices(&key, &iv)
                .map_err(|_| unusable())?
                .decrypt_padded::<Pkcs7>(&mut buffer)
                .map_err(|_| TlsError::KeyPasswordWrong)?
                .len()
        };
    }
    let length = match cipher {
        "AES-128-CBC" => decrypt!(aes::Aes128),
        "AES-192-CBC" => decrypt!(aes::Aes192),
        "AES-256-CBC" => decrypt!(aes::Aes256),
        _ => decrypt!(des::TdesEde3),
    };
    // A wrong password leaves a valid padding once in about 256 tries; a key is a SEQUENCE that
    // fills the buffer.
    if !is_sequence_of(&buffer[..length]) {
        return Err(TlsError::KeyPasswordWrong);
    }
    Ok(Zeroizing::new(buffer[..length].to_vec()))
}

/// The key of the old PEM encryption: blocks `MD5(previous block ‖ password ‖ salt)`.
fn legacy_key(password: &[u8], salt: &[u8], length: usize) -> Zeroizing<Vec<u8>> {
    let mut key = Zeroizing::new(Vec::with_capacity(length + 16));
    let mut block: Option<Zeroizing<[u8; 16]>> = None;
    while key.len() < length {
        let mut hash = Md5::new();
        if let Some(previous) = &block {
            hash.update(previous.as_slice());
        }
        hash.update(password);
        hash.update(salt);
        let next: Zeroizing<[u8; 16]> = Zeroizing::new(hash.finalize().into());
        key.extend_from_slice(&next[..]);
        block = Some(next);
    }
    key.truncate(length);
    key
}

fn is_sequence_of(der: &[u8]) -> bool {
    let length = match der {
        [0x30, short, ..] if *short < 0x80 => 2 + usize::from(*short),
        [0x30, 0x81, a, ..] => 3 + usize::from(*a),
        [0x30, 0x82, a, b, ..] => 4 + (usize::from(*a) << 8 | usize::from(*b)),
        _ => return false,
    };
    length == der.len()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len() / 2)
        .map(|index| u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWORD: &str = "correct horse";

    fn pkcs8_of(pem: &[u8], password: Option<&str>) -> Result<Vec<u8>, TlsError> {
        private_key(pem, password).map(|key| key.secret_der().to_vec())
    }

    /// Files made by `openssl rsa -traditional`, `openssl ec` and `openssl pkcs8 -topk8`
    /// from the same two plain keys.
    #[test]
    fn decrypts_what_openssl_encrypts() {
        let rsa = pkcs8_of(include_bytes!("testdata/rsa_pkcs1.pem"), None).unwrap();
        let ec = pkcs8_of(include_bytes!("testdata/ec_sec1.pem"), None).unwrap();
        for file in [
            &include_bytes!("testdata/rsa_legacy_aes128.pem")[..],
            include_bytes!("testdata/rsa_legacy_aes192.pem"),
            include_bytes!("testdata/rsa_legacy_aes256.pem"),
            include_bytes!("testdata/rsa_legacy_des3.pem"),
        ] {
            assert!(is_encrypted(file));
            assert_eq!(pkcs8_of(file, Some(PASSWORD)).unwrap(), rsa);
            assert_eq!(
                pkcs8_of(file, Some("wrong")),
                Err(TlsError::KeyPasswordWrong)
            );
            assert_eq!(pkcs8_of(file, None), Err(TlsError::KeyPasswordMissing));
        }
        let file = include_bytes!("testdata/ec_legacy_aes256.pem");
        assert_eq!(pkcs8_of(file, Some(PASSWORD)).unwrap(), ec);

        let plain = pkcs8_of(include_bytes!("testdata/ec_pkcs8.pem"), None).unwrap();
        for file in [
            &include_bytes!("testdata/ec_pkcs8_aes256.pem")[..],
            include_bytes!("testdata/ec_pkcs8_aes128_sha1.pem"),
            include_bytes!("testdata/ec_pkcs8_des3.pem"),
            include_bytes!("testdata/ec_pkcs8_scrypt.pem"),
        ] {
            assert!(is_encrypted(file));
            assert_eq!(pkcs8_of(file, Some(PASSWORD)).unwrap(), plain);
            assert_eq!(
                pkcs8_of(file, Some("wrong")),
                Err(TlsError::KeyPasswordWrong)
            );
            assert_eq!(pkcs8_of(file, None), Err(TlsError::KeyPasswordMissing));
        }
    }

    #[test]
    fn names_what_it_cannot_read() {
        let pbes1 = include_bytes!("testdata/ec_pkcs8_pbes1.pem");
        let err = pkcs8_of(pbes1, Some(PASSWORD)).unwrap_err().to_string();
        assert!(err.contains("openssl pkcs8 -topk8"), "{err}");
        let err = pkcs8_of(b"nothing", None).unwrap_err().to_string();
        assert!(err.contains("no private key"), "{err}");
        let dsa = b"-----BEGIN DSA PRIVATE KEY-----\nMAA=\n-----END DSA PRIVATE KEY-----\n";
        let err = pkcs8_of(dsa, None).unwrap_err().to_string();
        assert!(err.contains("DSA PRIVATE KEY"), "{err}");
        let cut = b"-----BEGIN PRIVATE KEY-----\nMAA=\n";
        let err = pkcs8_of(cut, None).unwrap_err().to_string();
        assert!(err.contains("has no end"), "{err}");
    }

    #[test]
    fn damaged_headers_are_refused() {
        let block = |info: &str| {
            format!(
                "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: {info}\n\n\
                 AAAAAAAAAAAAAAAAAAAAAA==\n-----END RSA PRIVATE KEY-----\n"
            )
        };
        for info in [
            "",
            "AES-128-CBC",
            "AES-128-CBC,00",
            "AES-128-CBC,zz",
            "RC2-CBC,00",
        ] {
            let result = private_key(block(info).as_bytes(), Some("x"));
            assert!(
                matches!(result, Err(TlsError::Settings(_))),
                "{info}: {result:?}"
            );
        }
    }
}
