//! Data keys of one peer and their slots by key_id.

use zeroize::ZeroizeOnDrop;

/// A data-channel cipher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cipher {
    /// AES-128-GCM
    Aes128Gcm,
    /// AES-192-GCM
    Aes192Gcm,
    /// AES-256-GCM
    Aes256Gcm,
    /// CHACHA20-POLY1305
    ChaCha20Poly1305,
    /// AES-128-CBC, with an HMAC
    Aes128Cbc,
    /// AES-192-CBC, with an HMAC
    Aes192Cbc,
    /// AES-256-CBC, with an HMAC
    Aes256Cbc,
    /// `none`: no encryption, HMAC only (or nothing at all)
    None,
}

/// The digest of an HMAC (`auth`). Ignored for AEAD ciphers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Digest {
    /// `auth none`
    None,
    /// SHA1, 20 bytes
    Sha1,
    /// SHA224, 28 bytes
    Sha224,
    /// SHA256, 32 bytes
    Sha256,
    /// SHA384, 48 bytes
    Sha384,
    /// SHA512, 64 bytes
    Sha512,
}

/// Which packet format the keys are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DataFormat {
    /// 32-bit packet ids, tag first (protocol §7.2, §7.3).
    #[default]
    Classic,
    /// The epoch format of 2.7 (protocol §7.4); AEAD and DATA_V2 only.
    Epoch,
}

/// Key material for one direction: the 64-byte cipher slot and the 64-byte hmac slot of `key2`
/// (protocol §6). Algorithms take the leading bytes.
#[derive(Clone, ZeroizeOnDrop)]
pub struct DirectionKey {
    /// Cipher slot.
    pub cipher: [u8; 64],
    /// HMAC slot; its first 8 bytes are the implicit IV of the classic AEAD format.
    pub hmac: [u8; 64],
}

/// Everything needed to seal and open the data packets of one key_id.
#[derive(Clone)]
pub struct DataKeys {
    /// The cipher.
    pub cipher: Cipher,
    /// The HMAC digest; only used with CBC ciphers and `none`.
    pub digest: Digest,
    /// The packet format.
    pub format: DataFormat,
    /// For packets to the peer.
    pub send: DirectionKey,
    /// For packets from the peer.
    pub recv: DirectionKey,
}

impl std::fmt::Debug for DataKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataKeys")
            .field("cipher", &self.cipher)
            .field("digest", &self.digest)
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}
