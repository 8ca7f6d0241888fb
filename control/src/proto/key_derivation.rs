//! From secrets to data keys (protocol document §6).
//!
//! ```text
//!  TLS exporter ------------------------------------------------> key2 256
//!  client.pre_master, randoms --PRF--> master 48, sids --PRF----> key2 256
//!  key2 = c2s.cipher 64 | c2s.hmac 64 | s2c.cipher 64 | s2c.hmac 64
//! ```
//! A TLS client encrypts with the first half and a TLS server with the second: the opposite of the
//! control-channel wrapping.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;
use ringway_dataplane::key_slot::{Cipher, DataFormat, DataKeys, Digest, DirectionKey};
use sha1::Sha1;
use zeroize::{ZeroizeOnDrop, Zeroizing};

use super::TlsRole;
use super::packet::SessionId;

/// Exporter label of the data keys, 256 bytes, no context.
pub const LABEL_DATA_KEYS: &str = "EXPORTER-OpenVPN-datakeys";
/// Exporter label of dynamic tls-crypt, 256 bytes, no context.
pub const LABEL_DYNAMIC_TLS_CRYPT: &str = "EXPORTER-OpenVPN-dynamic-tls-crypt";
/// Exporter label of the peer-id between two point-to-point peers, 3 bytes, no context.
pub const LABEL_P2P_PEER_ID: &str = "EXPORTER-OpenVPN-p2p-peerid";

/// One side's random contribution, exchanged in the key-method-2 messages.
#[derive(Clone, ZeroizeOnDrop)]
pub struct KeySource {
    /// Only the client has one; zero for the server.
    pub pre_master: [u8; 48],
    /// For the master secret.
    pub random1: [u8; 32],
    /// For the key expansion.
    pub random2: [u8; 32],
}

impl KeySource {
    /// Fresh randomness. To be sent even when keys come from the TLS exporter.
    pub fn random(rng: &mut impl rand::CryptoRng, role: TlsRole) -> Self {
        let mut source = KeySource {
            pre_master: [0; 48],
            random1: [0; 32],
            random2: [0; 32],
        };
        if role == TlsRole::Client {
            rng.fill_bytes(&mut source.pre_master);
        }
        rng.fill_bytes(&mut source.random1);
        rng.fill_bytes(&mut source.random2);
        source
    }
}

impl fmt::Debug for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeySource")
    }
}

/// Data keys of both directions, before any algorithm takes its share.
#[derive(Clone, PartialEq, Eq, ZeroizeOnDrop)]
pub struct Key2([u8; 256]);

impl Key2 {
    /// Keys from the TLS exporter ([`LABEL_DATA_KEYS`]).
    pub fn from_exporter(exported: [u8; 256]) -> Self {
        Key2(exported)
    }

    /// All 256 bytes.
    pub fn as_bytes(&self) -> &[u8; 256] {
        &self.0
    }

    /// Whether the leading 16 bytes of both cipher slots (the shortest key) are other than zero:
    /// no key exchange gives that but a broken one, and such keys must not be used.
    pub fn is_usable(&self) -> bool {
        [0, 128].iter().all(|&at| self.0[at..at + 16] != [0; 16])
    }

    /// The keys of one end for the packet path.
    pub fn data_keys(
        &self,
        role: TlsRole,
        cipher: Cipher,
        digest: Digest,
        format: DataFormat,
    ) -> DataKeys {
        let (client, server) = (self.direction(0), self.direction(128));
        let (send, recv) = match role {
            TlsRole::Client => (client, server),
            TlsRole::Server => (server, client),
        };
        DataKeys {
            cipher,
            digest,
            format,
            send,
            recv,
        }
    }

    fn direction(&self, at: usize) -> DirectionKey {
        let mut key = DirectionKey {
            cipher: [0; 64],
            hmac: [0; 64],
        };
        key.cipher.copy_from_slice(&self.0[at..at + 64]);
        key.hmac.copy_from_slice(&self.0[at + 64..at + 128]);
        key
    }
}

impl fmt::Debug for Key2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key2")
    }
}

/// The legacy derivation, for peers without TLS exporter keys.
pub fn prf_key2(
    client: &KeySource,
    server: &KeySource,
    client_sid: SessionId,
    server_sid: SessionId,
) -> Key2 {
    let master = master_secret(client, server);
    let mut key2 = Key2([0; 256]);
    tls1_prf(
        &*master,
        &[
            b"OpenVPN key expansion",
            &client.random2,
            &server.random2,
            &client_sid.0,
            &server_sid.0,
        ],
        &mut key2.0,
    );
    key2
}

/// The PRF of TLS 1.0 and 1.1 (RFC 2246 §5). The seed is given in parts, the label being the first.
pub fn tls1_prf(secret: &[u8], seed: &[&[u8]], out: &mut [u8]) {
    let half = secret.len().div_ceil(2);
    out.fill(0);
    p_hash::<Hmac<Md5>>(&secret[..half], seed, out);
    p_hash::<Hmac<Sha1>>(&secret[secret.len() - half..], seed, out);
}

fn master_secret(client: &KeySource, server: &KeySource) -> Zeroizing<[u8; 48]> {
    let mut master = Zeroizing::new([0; 48]);
    tls1_prf(
        &client.pre_master,
        &[b"OpenVPN master secret", &client.random1, &server.random1],
        &mut *master,
    );
    master
}

/// XORs P_hash of RFC 2246 §5 into `out`.
fn p_hash<M: Mac + KeyInit>(secret: &[u8], seed: &[&[u8]], out: &mut [u8]) {
    let keyed = || {
        #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
        <M as KeyInit>::new_from_slice(secret).expect("HMAC key")
    };
    let mut a = {
        let mut mac = keyed();
        seed.iter().for_each(|part| mac.update(part));
        mac.finalize().into_bytes()
    };
    let mut chunks = out.chunks_mut(a.len()).peekable();
    while let Some(chunk) = chunks.next() {
        let mut mac = keyed();
        mac.update(&a);
        seed.iter().for_each(|part| mac.update(part));
        let block = Zeroizing::new(mac.finalize().into_bytes().to_vec());
        for (byte, flip) in chunk.iter_mut().zip(block.iter()) {
            *byte ^= flip;
        }
        if chunks.peek().is_some() {
            let mut mac = keyed();
            mac.update(&a);
            a = mac.finalize().into_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::wrap::tests::hex;
    use proptest::prelude::*;

    fn prf(secret: &[u8], seed: &[u8], len: usize) -> Vec<u8> {
        let mut out = vec![0xff; len];
        tls1_prf(secret, &[seed], &mut out);
        out
    }

    #[test]
    fn published_prf() {
        // protocol document §16.1
        let secret = b"Lorem ipsum dolor sit amet, consectetur adipisici elit, sed eiusmod \
            tempor incidunt ut labore et dolore magna aliqua.";
        let seed = b"Quis aute iure reprehenderit in voluptate velit esse cillum dolore";
        let expected = "d98c8518c85e946927916acfc2d592fbb1567e4b4b1459e6a904ac2ddab72d67";
        assert_eq!(prf(secret, seed, 32), hex(expected));
        let out = prf(b"tls1-prf-test-secret", b"tls1-prf-test", 8);
        assert_eq!(out, hex("7144fe2540737595"));
    }

    fn sources() -> (KeySource, KeySource) {
        let client = KeySource {
            pre_master: std::array::from_fn(|n| n as u8),
            random1: [0x11; 32],
            random2: [0x22; 32],
        };
        let server = KeySource {
            pre_master: [0; 48],
            random1: [0x33; 32],
            random2: [0x44; 32],
        };
        (client, server)
    }

    #[test]
    fn full_legacy_derivation() {
        // protocol document §16.1
        let (client, server) = sources();
        let master = "7c7d0aa80f877d74f501c2ea05659ec1e9c43e7f245177a047cd1915d2d348c7\
            4033f9abecf460388499d42ed73346f5";
        assert_eq!(master_secret(&client, &server).to_vec(), hex(master));
        let sids = (SessionId([0x55; 8]), SessionId([0x66; 8]));
        let key2 = prf_key2(&client, &server, sids.0, sids.1);
        assert!(key2.is_usable());
        let c2s = "1100f655886b1afbafdf91bce00adb9138e02c0649049ea5f5a007e546fe3cf5";
        let s2c = "bf50d01f8ea79e6b43c84b95ad94e2dcac934d7894f5db84220dbe65c48345b1";
        let keys =
            |role| key2.data_keys(role, Cipher::Aes256Gcm, Digest::None, DataFormat::Classic);
        let ours = keys(TlsRole::Client);
        assert_eq!(ours.send.cipher[..32], hex(c2s));
        assert_eq!(ours.send.hmac[..8], hex("b3dda1fb8db76925"));
        assert_eq!(ours.recv.cipher[..32], hex(s2c));
        assert_eq!(ours.recv.hmac[..8], hex("e18601e8a10e478a"));
        let theirs = keys(TlsRole::Server);
        assert_eq!(theirs.send.cipher, ours.recv.cipher);
        assert_eq!(theirs.recv.cipher, ours.send.cipher);
        assert_eq!(theirs.send.hmac, ours.recv.hmac);
        assert_eq!(theirs.recv.hmac, ours.send.hmac);
    }

    #[test]
    fn exporter_layout() {
        let key2 = Key2::from_exporter(std::array::from_fn(|n| n as u8));
        let keys = key2.data_keys(
            TlsRole::Client,
            Cipher::Aes128Cbc,
            Digest::Sha256,
            DataFormat::Classic,
        );
        assert_eq!(keys.send.cipher[0], 0);
        assert_eq!(keys.send.hmac[0], 64);
        assert_eq!(keys.recv.cipher[0], 128);
        assert_eq!(keys.recv.hmac[0], 192);
        assert!(key2.is_usable());
        assert!(!Key2::from_exporter([0; 256]).is_usable());
    }

    #[test]
    fn client_alone_has_a_pre_master() {
        use rand::SeedableRng;
        let mut rng = rand::rngs::StdRng::seed_from_u64(3);
        let client = KeySource::random(&mut rng, TlsRole::Client);
        let server = KeySource::random(&mut rng, TlsRole::Server);
        assert_ne!(client.pre_master, [0; 48]);
        assert_eq!(server.pre_master, [0; 48]);
        assert_ne!(client.random1, server.random1);
        assert_ne!(client.random1, client.random2);
    }

    proptest! {
        #[test]
        fn shorter_output_is_a_prefix_and_seed_parts_join(
            secret in proptest::collection::vec(any::<u8>(), 0..100),
            seed in proptest::collection::vec(any::<u8>(), 0..60),
            cut in 0usize..60,
            len in 0usize..120,
        ) {
            let long = prf(&secret, &seed, 120);
            prop_assert_eq!(&prf(&secret, &seed, len)[..], &long[..len]);
            let (head, tail) = seed.split_at(cut.min(seed.len()));
            let mut out = vec![0; 120];
            tls1_prf(&secret, &[head, tail], &mut out);
            prop_assert_eq!(out, long);
        }
    }
}
