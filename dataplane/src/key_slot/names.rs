//! Names and sizes of ciphers and digests, in OpenVPN's spelling.

use super::{Cipher, Digest};

impl Cipher {
    /// Every cipher, the preferred ones first.
    pub const ALL: [Cipher; 8] = [
        Cipher::Aes256Gcm,
        Cipher::Aes128Gcm,
        Cipher::ChaCha20Poly1305,
        Cipher::Aes192Gcm,
        Cipher::Aes256Cbc,
        Cipher::Aes192Cbc,
        Cipher::Aes128Cbc,
        Cipher::None,
    ];

    /// The name as configurations, options strings and negotiation spell it.
    pub fn name(self) -> &'static str {
        match self {
            Cipher::Aes128Gcm => "AES-128-GCM",
            Cipher::Aes192Gcm => "AES-192-GCM",
            Cipher::Aes256Gcm => "AES-256-GCM",
            Cipher::ChaCha20Poly1305 => "CHACHA20-POLY1305",
            Cipher::Aes128Cbc => "AES-128-CBC",
            Cipher::Aes192Cbc => "AES-192-CBC",
            Cipher::Aes256Cbc => "AES-256-CBC",
            Cipher::None => "none",
        }
    }

    /// Finds a cipher by name, in any case; also knows `id-aes256-GCM` and its like, and the
    /// `[null-cipher]` of options strings.
    pub fn from_name(name: &str) -> Option<Self> {
        let alias = [
            ("id-aes128-GCM", Cipher::Aes128Gcm),
            ("id-aes192-GCM", Cipher::Aes192Gcm),
            ("id-aes256-GCM", Cipher::Aes256Gcm),
            ("[null-cipher]", Cipher::None),
        ];
        find(name, Cipher::ALL.map(|cipher| (cipher.name(), cipher))).or_else(|| find(name, alias))
    }

    /// Whether it authenticates by itself, so that `auth` does not matter.
    pub fn is_aead(self) -> bool {
        match self {
            Cipher::Aes128Gcm
            | Cipher::Aes192Gcm
            | Cipher::Aes256Gcm
            | Cipher::ChaCha20Poly1305 => true,
            Cipher::Aes128Cbc | Cipher::Aes192Cbc | Cipher::Aes256Cbc | Cipher::None => false,
        }
    }

    /// Key length in bytes; 0 for `none`.
    pub fn key_len(self) -> usize {
        match self {
            Cipher::Aes128Gcm | Cipher::Aes128Cbc => 16,
            Cipher::Aes192Gcm | Cipher::Aes192Cbc => 24,
            Cipher::Aes256Gcm | Cipher::Aes256Cbc | Cipher::ChaCha20Poly1305 => 32,
            Cipher::None => 0,
        }
    }
}

impl Digest {
    /// Every digest, longest last.
    pub const ALL: [Digest; 6] = [
        Digest::None,
        Digest::Sha1,
        Digest::Sha224,
        Digest::Sha256,
        Digest::Sha384,
        Digest::Sha512,
    ];

    /// The name as configurations and options strings spell it.
    pub fn name(self) -> &'static str {
        match self {
            Digest::None => "none",
            Digest::Sha1 => "SHA1",
            Digest::Sha224 => "SHA224",
            Digest::Sha256 => "SHA256",
            Digest::Sha384 => "SHA384",
            Digest::Sha512 => "SHA512",
        }
    }

    /// Finds a digest by name, in any case; also knows `SHA-256`, `SHA2-256`, `RSA-SHA256` and
    /// their like, `RSA-SHA1-2`, and the `[null-digest]` of options strings.
    pub fn from_name(name: &str) -> Option<Self> {
        let plain = strip_prefix(name, "RSA-").unwrap_or(name);
        let plain = strip_prefix(plain, "SHA2-")
            .or_else(|| strip_prefix(plain, "SHA-"))
            .or_else(|| strip_prefix(plain, "SHA"));
        match plain {
            Some("1" | "1-2") => Some(Digest::Sha1),
            Some("224") => Some(Digest::Sha224),
            Some("256") => Some(Digest::Sha256),
            Some("384") => Some(Digest::Sha384),
            Some("512") => Some(Digest::Sha512),
            _ => find(
                name,
                [("none", Digest::None), ("[null-digest]", Digest::None)],
            ),
        }
    }

    /// Length of the HMAC, and of its key, in bytes; 0 for `none`.
    // "Empty" would mean nothing for a digest.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(self) -> usize {
        match self {
            Digest::None => 0,
            Digest::Sha1 => 20,
            Digest::Sha224 => 28,
            Digest::Sha256 => 32,
            Digest::Sha384 => 48,
            Digest::Sha512 => 64,
        }
    }
}

fn find<T, const N: usize>(name: &str, known: [(&str, T); N]) -> Option<T> {
    known
        .into_iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, found)| found)
}

fn strip_prefix<'a>(name: &'a str, prefix: &str) -> Option<&'a str> {
    let (head, tail) = name.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_in_any_case() {
        for cipher in Cipher::ALL {
            assert_eq!(Cipher::from_name(cipher.name()), Some(cipher));
            assert_eq!(
                Cipher::from_name(&cipher.name().to_lowercase()),
                Some(cipher)
            );
        }
        for digest in Digest::ALL {
            assert_eq!(Digest::from_name(digest.name()), Some(digest));
            assert_eq!(
                Digest::from_name(&digest.name().to_lowercase()),
                Some(digest)
            );
        }
    }

    #[test]
    fn aliases_are_known_and_other_names_are_not() {
        assert_eq!(Cipher::from_name("id-aes256-gcm"), Some(Cipher::Aes256Gcm));
        assert_eq!(Cipher::from_name("[null-cipher]"), Some(Cipher::None));
        for (name, digest) in [
            ("RSA-SHA256", Digest::Sha256),
            ("rsa-sha512", Digest::Sha512),
            ("SHA-1", Digest::Sha1),
            ("RSA-SHA1-2", Digest::Sha1),
            ("SHA2-384", Digest::Sha384),
            ("[null-digest]", Digest::None),
        ] {
            assert_eq!(Digest::from_name(name), Some(digest), "{name}");
        }
        for name in [
            "",
            "AES",
            "BF-CBC",
            "AES-256-GCM ",
            "SHA",
            "MD5",
            "SHA2561",
            "é",
        ] {
            assert_eq!(Cipher::from_name(name), None, "{name}");
            assert_eq!(Digest::from_name(name), None, "{name}");
        }
    }
}
