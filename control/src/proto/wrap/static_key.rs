//! Static key files and what is cut from them (protocol document §4.1).
//!
//! ```text
//!  256 bytes = keys[0].cipher 64 | keys[0].hmac 64 | keys[1].cipher 64 | keys[1].hmac 64
//! ```

use std::fmt::{self, Write};

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::proto::error::KeyFileError;

const LABEL: &str = "OpenVPN Static key V1";

/// A 2048-bit static key, for tls-auth or tls-crypt.
#[derive(Clone, PartialEq, Eq, ZeroizeOnDrop)]
pub struct StaticKey([u8; 256]);

impl StaticKey {
    /// The key with these bytes.
    pub fn new(bytes: [u8; 256]) -> Self {
        StaticKey(bytes)
    }

    /// A new key.
    pub fn generate(rng: &mut impl rand::CryptoRng) -> Self {
        let mut key = StaticKey([0; 256]);
        rng.fill_bytes(&mut key.0);
        key
    }

    /// Parses a key file: hexadecimal between the BEGIN and END lines, white space and everything
    /// outside ignored.
    ///
    /// # Errors
    /// [`KeyFileError`], also for a key that is not exactly 256 bytes long.
    pub fn parse(text: &str) -> Result<Self, KeyFileError> {
        let bytes = hex_body(text)?;
        Self::from_slice(&bytes, 256)
    }

    /// As [`StaticKey::parse`], but also takes a key of 128 bytes: enough for tls-auth without a
    /// direction, which uses the first half only.
    ///
    /// # Errors
    /// [`KeyFileError`], also for a key that is neither 128 nor 256 bytes long.
    pub fn parse_bidirectional(text: &str) -> Result<Self, KeyFileError> {
        let mut bytes = hex_body(text)?;
        if bytes.len() == 128 {
            bytes.extend_from_within(..);
        }
        Self::from_slice(&bytes, 128)
    }

    /// The key as a file.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(700));
        text.push_str("#\n# 2048 bit OpenVPN static key\n#\n");
        text.push_str("-----BEGIN OpenVPN Static key V1-----\n");
        for line in self.0.chunks(16) {
            for byte in line {
                let _ = write!(*text, "{byte:02x}");
            }
            text.push('\n');
        }
        text.push_str("-----END OpenVPN Static key V1-----\n");
        text
    }

    /// All 256 bytes.
    pub fn as_bytes(&self) -> &[u8; 256] {
        &self.0
    }

    /// `keys[index].cipher`; only the lowest bit of `index` counts.
    pub fn cipher_slot(&self, index: usize) -> &[u8] {
        &self.0[(index & 1) * 128..][..64]
    }

    /// `keys[index].hmac`; only the lowest bit of `index` counts.
    pub fn hmac_slot(&self, index: usize) -> &[u8] {
        &self.0[(index & 1) * 128 + 64..][..64]
    }

    /// This key with every bit of `other` flipped in it (dynamic tls-crypt, §4.5).
    pub fn xor(&self, other: &[u8; 256]) -> Self {
        let mut key = self.clone();
        for (byte, flip) in key.0.iter_mut().zip(other) {
            *byte ^= flip;
        }
        key
    }

    fn from_slice(bytes: &[u8], expected: usize) -> Result<Self, KeyFileError> {
        let mut key = StaticKey([0; 256]);
        if bytes.len() != key.0.len() {
            return Err(KeyFileError::BadLength {
                found: bytes.len(),
                expected,
            });
        }
        key.0.copy_from_slice(bytes);
        Ok(key)
    }
}

impl fmt::Debug for StaticKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StaticKey")
    }
}

/// The text between the BEGIN and END lines of `label`, without those lines.
pub(super) fn armored<'a>(text: &'a str, label: &'static str) -> Result<&'a str, KeyFileError> {
    let begin = format!("-----BEGIN {label}-----");
    let end = format!("-----END {label}-----");
    let (_, body) = text
        .split_once(&begin)
        .ok_or(KeyFileError::NoBegin(label))?;
    let (body, _) = body.split_once(&end).ok_or(KeyFileError::NoEnd(label))?;
    Ok(body)
}

fn hex_body(text: &str) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    let body = armored(text, LABEL)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(256));
    let mut high = None;
    for ch in body.chars().filter(|ch| !ch.is_ascii_whitespace()) {
        let digit = ch
            .to_digit(16)
            .ok_or(KeyFileError::BadCharacter("hexadecimal"))? as u8;
        match high.take() {
            None => high = Some(digit),
            Some(high) => bytes.push(high << 4 | digit),
        }
    }
    high.zeroize();
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::wrap::tests::static_key_s;
    use proptest::prelude::*;
    use rand::SeedableRng;

    #[test]
    fn text_round_trip() {
        let key = static_key_s();
        let text = key.to_text();
        assert_eq!(StaticKey::parse(&text).as_ref(), Ok(&key));
        assert_eq!(StaticKey::parse_bidirectional(&text), Ok(key));
        assert!(text.lines().all(|line| line.len() <= 40));
    }

    #[test]
    fn white_space_case_and_surroundings_do_not_matter() {
        let key = static_key_s();
        let text = key.to_text().replace('\n', "\r\n\t ").to_uppercase();
        let text = text
            .replace("OPENVPN STATIC KEY V1", LABEL)
            .replace("-----END", "\n-----END");
        assert_eq!(StaticKey::parse(&format!("noise {text} noise")), Ok(key));
    }

    #[test]
    fn slots() {
        let mut bytes = [0; 256];
        for (n, byte) in bytes.iter_mut().enumerate() {
            *byte = n as u8;
        }
        let key = StaticKey::new(bytes);
        assert_eq!(key.cipher_slot(0)[0], 0);
        assert_eq!(key.hmac_slot(0)[0], 64);
        assert_eq!(key.cipher_slot(1)[0], 128);
        assert_eq!(key.hmac_slot(1)[0], 192);
        assert_eq!(key.hmac_slot(1).len(), 64);
    }

    #[test]
    fn errors_say_what_is_wrong() {
        assert_eq!(StaticKey::parse(""), Err(KeyFileError::NoBegin(LABEL)));
        let text = static_key_s().to_text().to_string();
        let no_end = text.replace("END", "FIN");
        assert_eq!(StaticKey::parse(&no_end), Err(KeyFileError::NoEnd(LABEL)));
        let bad = text.replace("37", "3x");
        assert_eq!(
            StaticKey::parse(&bad),
            Err(KeyFileError::BadCharacter("hexadecimal"))
        );
        let half: String = text
            .lines()
            .enumerate()
            .filter(|(n, _)| !(4..12).contains(n))
            .map(|(_, line)| format!("{line}\n"))
            .collect();
        assert_eq!(
            StaticKey::parse(&half),
            Err(KeyFileError::BadLength {
                found: 128,
                expected: 256
            })
        );
        let key = StaticKey::parse_bidirectional(&half).expect("128 bytes are enough here");
        assert_eq!(key.cipher_slot(0), key.cipher_slot(1));
    }

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", static_key_s()), "StaticKey");
    }

    #[test]
    fn generated_keys_differ() {
        let mut rng = rand::rngs::StdRng::seed_from_u64(1);
        assert_ne!(StaticKey::generate(&mut rng), StaticKey::generate(&mut rng));
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text: String) {
            let framed = format!("-----BEGIN {LABEL}-----{text}-----END {LABEL}-----");
            let _ = StaticKey::parse(&framed);
            let _ = StaticKey::parse_bidirectional(&text);
        }
    }
}
