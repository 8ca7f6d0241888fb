//! Keys and packets the fuzz targets and the seed maker share.
//!
//! Everything here is fixed, so that an input means the same in every run.

pub mod proxies;
pub mod server;
pub mod tunnels;

use ringway::proto::TlsRole;
use ringway::proto::wrap::{StaticKey, Wrap, WrapConfig};
use ringway_dataplane::framing::Framing;
use ringway_dataplane::key_slot::{
    Cipher, DataFormat, DataKeys, Digest, DirectionKey, RecvKey, SendKey,
};

/// Number of wraps [`wraps`] can make.
pub const WRAPS: u8 = 4;

/// A client's and a server's end of one wrap.
pub fn wraps(kind: u8) -> (Wrap, Wrap) {
    let mut bytes = [0u8; 256];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = (at as u8).wrapping_mul(7).wrapping_add(3);
    }
    let key = StaticKey::new(bytes);
    let config = |direction| match kind % WRAPS {
        0 => WrapConfig::None,
        1 => WrapConfig::TlsAuth {
            key: key.clone(),
            direction: Some(direction),
            digest: Digest::Sha256,
        },
        2 => WrapConfig::TlsAuth {
            key: key.clone(),
            direction: None,
            digest: Digest::Sha1,
        },
        _ => WrapConfig::TlsCrypt { key: key.clone() },
    };
    let now = 1_700_000_000;
    (
        Wrap::new(&config(1), TlsRole::Client, now),
        Wrap::new(&config(0), TlsRole::Server, now),
    )
}

/// Number of key kinds [`data_keys`] can make.
pub const DATA_KINDS: u8 = 8;

/// A sending key and the receiving key of its far end.
pub fn data_keys(kind: u8) -> (SendKey, RecvKey) {
    let (cipher, digest, format) = match kind % DATA_KINDS {
        0 => (Cipher::Aes256Gcm, Digest::None, DataFormat::Classic),
        1 => (Cipher::Aes128Gcm, Digest::None, DataFormat::Classic),
        2 => (Cipher::ChaCha20Poly1305, Digest::None, DataFormat::Classic),
        3 => (Cipher::Aes256Gcm, Digest::None, DataFormat::Epoch),
        4 => (Cipher::Aes256Cbc, Digest::Sha256, DataFormat::Classic),
        5 => (Cipher::Aes128Cbc, Digest::Sha1, DataFormat::Classic),
        6 => (Cipher::None, Digest::Sha512, DataFormat::Classic),
        _ => (Cipher::None, Digest::None, DataFormat::Classic),
    };
    let framing = match kind / DATA_KINDS % 4 {
        0 => Framing::None,
        1 => Framing::Lzo,
        2 => Framing::Stub,
        _ => Framing::StubV2,
    };
    let half = |first: u8| DirectionKey {
        cipher: [first; 64],
        hmac: [first + 1; 64],
    };
    let keys = |send, recv| DataKeys {
        cipher,
        digest,
        format,
        send: half(send),
        recv: half(recv),
    };
    let send = SendKey::new(&keys(1, 11), 0, Some(5), framing).expect("fixed keys");
    let recv = RecvKey::new(&keys(11, 1), framing, 1024, 15).expect("fixed keys");
    (send, recv)
}

/// Cuts `data` into pieces, each behind a two-byte length.
pub fn pieces(mut data: &[u8]) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    while let Some((len, rest)) = data.split_first_chunk::<2>() {
        let len = usize::from(u16::from_be_bytes(*len)).min(rest.len());
        let (piece, after) = rest.split_at(len);
        pieces.push(piece);
        data = after;
    }
    pieces
}

/// The other way round: each piece behind its length.
pub fn join(pieces: &[&[u8]]) -> Vec<u8> {
    let mut data = Vec::new();
    for piece in pieces {
        data.extend_from_slice(&(piece.len() as u16).to_be_bytes());
        data.extend_from_slice(piece);
    }
    data
}

/// A TCP or UDP packet with valid checksums.
pub fn ip_packet(v6: bool, tcp: bool, seq: u32, payload: &[u8]) -> Vec<u8> {
    let transport_len = if tcp { 20 } else { 8 } + payload.len();
    let protocol = if tcp { 6 } else { 17 };
    let mut packet = Vec::new();
    let addresses: Vec<u8> = if v6 {
        packet.extend_from_slice(&[0x60, 0, 0, 0]);
        packet.extend_from_slice(&(transport_len as u16).to_be_bytes());
        packet.extend_from_slice(&[protocol, 64]);
        let mut addresses = [0u8; 32];
        (addresses[0], addresses[15], addresses[16], addresses[31]) = (0xfd, 1, 0xfd, 2);
        addresses.to_vec()
    } else {
        packet.extend_from_slice(&[0x45, 0]);
        packet.extend_from_slice(&(20 + transport_len as u16).to_be_bytes());
        packet.extend_from_slice(&[0, 1, 0x40, 0, 64, protocol, 0, 0]);
        vec![10, 9, 0, 1, 10, 9, 0, 2]
    };
    packet.extend_from_slice(&addresses);
    if !v6 {
        let sum = checksum(&packet, 0);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    let mut transport = vec![0x14, 0xb4, 0x30, 0x39];
    if tcp {
        transport.extend_from_slice(&seq.to_be_bytes());
        transport.extend_from_slice(&[0, 0, 0, 9, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    } else {
        transport.extend_from_slice(&(transport_len as u16).to_be_bytes());
        transport.extend_from_slice(&[0, 0]);
    }
    transport.extend_from_slice(payload);
    let mut pseudo = addresses;
    pseudo.extend_from_slice(&[0, protocol]);
    pseudo.extend_from_slice(&(transport_len as u16).to_be_bytes());
    let sum = checksum(&transport, u32::from(!checksum(&pseudo, 0)));
    let field = if tcp { 16 } else { 6 };
    transport[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    packet.extend_from_slice(&transport);
    packet
}

/// The internet checksum (RFC 1071), added to `start`.
pub fn checksum(bytes: &[u8], start: u32) -> u16 {
    let mut sum = start;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
