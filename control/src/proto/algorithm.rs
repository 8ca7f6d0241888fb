//! Names and sizes of the data-channel algorithms, as OpenVPN spells and counts them.

use ringway_dataplane::key_slot::{Cipher, Digest};

/// Every cipher a name exists for, preferred spellings first.
const CIPHERS: [(&str, Cipher); 8] = [
    ("AES-128-GCM", Cipher::Aes128Gcm),
    ("AES-192-GCM", Cipher::Aes192Gcm),
    ("AES-256-GCM", Cipher::Aes256Gcm),
    ("CHACHA20-POLY1305", Cipher::ChaCha20Poly1305),
    ("AES-128-CBC", Cipher::Aes128Cbc),
    ("AES-192-CBC", Cipher::Aes192Cbc),
    ("AES-256-CBC", Cipher::Aes256Cbc),
    ("none", Cipher::None),
];

const DIGESTS: [(&str, Digest); 6] = [
    ("SHA1", Digest::Sha1),
    ("SHA224", Digest::Sha224),
    ("SHA256", Digest::Sha256),
    ("SHA384", Digest::Sha384),
    ("SHA512", Digest::Sha512),
    ("none", Digest::None),
];

/// The name of a cipher as it is written in files and on the wire.
pub fn cipher_name(cipher: Cipher) -> &'static str {
    CIPHERS
        .iter()
        .find(|(_, known)| *known == cipher)
        .map_or("none", |(name, _)| name)
}

/// The cipher with this name, in any case; `None` for one that is unknown or not supported.
pub fn cipher_by_name(name: &str) -> Option<Cipher> {
    let canonical = match () {
        () if name.eq_ignore_ascii_case("id-aes128-GCM") => "AES-128-GCM",
        () if name.eq_ignore_ascii_case("id-aes192-GCM") => "AES-192-GCM",
        () if name.eq_ignore_ascii_case("id-aes256-GCM") => "AES-256-GCM",
        () if name.eq_ignore_ascii_case("[null-cipher]") => "none",
        () => name,
    };
    CIPHERS
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(canonical))
        .map(|(_, cipher)| *cipher)
}

/// The name of a digest as it is written in files and on the wire.
pub fn digest_name(digest: Digest) -> &'static str {
    DIGESTS
        .iter()
        .find(|(_, known)| *known == digest)
        .map_or("none", |(name, _)| name)
}

/// The digest with this name, in any case and with or without a hyphen or `RSA-` prefix.
pub fn digest_by_name(name: &str) -> Option<Digest> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("RSA-").unwrap_or(&upper);
    let bare = match bare.strip_prefix("SHA-") {
        Some(bits) => format!("SHA{bits}"),
        None => bare.to_owned(),
    };
    DIGESTS
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(&bare))
        .map(|(_, digest)| *digest)
}

/// Whether a cipher authenticates by itself and needs no HMAC.
pub fn is_aead(cipher: Cipher) -> bool {
    match cipher {
        Cipher::Aes128Gcm | Cipher::Aes192Gcm | Cipher::Aes256Gcm | Cipher::ChaCha20Poly1305 => {
            true
        }
        Cipher::Aes128Cbc | Cipher::Aes192Cbc | Cipher::Aes256Cbc | Cipher::None => false,
    }
}

/// Length of a cipher's key in bits; 0 for `none`.
pub fn cipher_key_bits(cipher: Cipher) -> u32 {
    match cipher {
        Cipher::Aes128Gcm | Cipher::Aes128Cbc => 128,
        Cipher::Aes192Gcm | Cipher::Aes192Cbc => 192,
        Cipher::Aes256Gcm | Cipher::Aes256Cbc | Cipher::ChaCha20Poly1305 => 256,
        Cipher::None => 0,
    }
}

/// Length of a digest in bytes; 0 for `none`.
pub fn digest_len(digest: Digest) -> usize {
    match digest {
        Digest::None => 0,
        Digest::Sha1 => 20,
        Digest::Sha224 => 28,
        Digest::Sha256 => 32,
        Digest::Sha384 => 48,
        Digest::Sha512 => 64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for (name, cipher) in CIPHERS {
            assert_eq!(cipher_by_name(name), Some(cipher));
            assert_eq!(cipher_by_name(&name.to_lowercase()), Some(cipher));
            assert_eq!(cipher_name(cipher), name);
        }
        for (name, digest) in DIGESTS {
            assert_eq!(digest_by_name(name), Some(digest));
            assert_eq!(digest_name(digest), name);
        }
        assert_eq!(digest_by_name("sha-256"), Some(Digest::Sha256));
        assert_eq!(digest_by_name("RSA-SHA512"), Some(Digest::Sha512));
        assert_eq!(cipher_by_name("BF-CBC"), None);
        assert_eq!(digest_by_name("MD5"), None);
    }
}
