//! Names of ciphers and digests as configurations spell them.

use ringway_dataplane::key_slot::{Cipher, Digest};

/// `data-ciphers` of 2.6 and later.
pub const DEFAULT_DATA_CIPHERS: [Cipher; 3] = [
    Cipher::Aes256Gcm,
    Cipher::Aes128Gcm,
    Cipher::ChaCha20Poly1305,
];

/// Every cipher with its name.
pub const CIPHERS: [(&str, Cipher); 8] = [
    ("AES-128-GCM", Cipher::Aes128Gcm),
    ("AES-192-GCM", Cipher::Aes192Gcm),
    ("AES-256-GCM", Cipher::Aes256Gcm),
    ("CHACHA20-POLY1305", Cipher::ChaCha20Poly1305),
    ("AES-128-CBC", Cipher::Aes128Cbc),
    ("AES-192-CBC", Cipher::Aes192Cbc),
    ("AES-256-CBC", Cipher::Aes256Cbc),
    ("none", Cipher::None),
];

/// Every digest with its name.
pub const DIGESTS: [(&str, Digest); 6] = [
    ("SHA1", Digest::Sha1),
    ("SHA224", Digest::Sha224),
    ("SHA256", Digest::Sha256),
    ("SHA384", Digest::Sha384),
    ("SHA512", Digest::Sha512),
    ("none", Digest::None),
];

/// The cipher of a name, upper and lower case alike. Also the spellings of OpenSSL.
pub fn cipher_from_name(name: &str) -> Option<Cipher> {
    let name = match name.to_ascii_lowercase().as_str() {
        "id-aes128-gcm" => "AES-128-GCM",
        "id-aes192-gcm" => "AES-192-GCM",
        "id-aes256-gcm" => "AES-256-GCM",
        _ => name,
    };
    CIPHERS
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|&(_, cipher)| cipher)
}

/// The name of a cipher as it goes on the wire.
pub fn cipher_name(cipher: Cipher) -> &'static str {
    CIPHERS
        .iter()
        .find(|&&(_, known)| known == cipher)
        .map_or("none", |&(name, _)| name)
}

/// The digest of a name, upper and lower case alike. `SHA-256` and `RSA-SHA256` are `SHA256`.
pub fn digest_from_name(name: &str) -> Option<Digest> {
    let upper = name.to_ascii_uppercase();
    let plain = upper.strip_prefix("RSA-").unwrap_or(&upper);
    let plain = match plain.strip_prefix("SHA-").or(plain.strip_prefix("SHA2-")) {
        Some(bits) => format!("SHA{bits}"),
        None => plain.to_owned(),
    };
    DIGESTS
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(&plain))
        .map(|&(_, digest)| digest)
}

/// The name of a digest as it goes on the wire.
pub fn digest_name(digest: Digest) -> &'static str {
    DIGESTS
        .iter()
        .find(|&&(_, known)| known == digest)
        .map_or("none", |&(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_in_any_case() {
        for (name, cipher) in CIPHERS {
            assert_eq!(cipher_from_name(&name.to_lowercase()), Some(cipher));
            assert_eq!(cipher_name(cipher), name);
        }
        for (name, digest) in DIGESTS {
            assert_eq!(digest_from_name(&name.to_lowercase()), Some(digest));
            assert_eq!(digest_name(digest), name);
        }
        assert_eq!(digest_from_name("sha-512"), Some(Digest::Sha512));
        assert_eq!(digest_from_name("RSA-SHA256"), Some(Digest::Sha256));
        assert_eq!(cipher_from_name("BF-CBC"), None);
        assert_eq!(digest_from_name("MD5"), None);
    }
}
