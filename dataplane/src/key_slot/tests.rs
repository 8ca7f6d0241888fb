//! Published packets, round trips over every combination, tampering, epochs and slots.

use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::cipher::Segment;
use crate::error::DropReason;
use crate::wire::PING;

const FRAMINGS: [Framing; 4] = [Framing::None, Framing::Lzo, Framing::Stub, Framing::StubV2];

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b' ').collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn direction(key2: &[u8; 256], index: usize) -> DirectionKey {
    let half = &key2[index * 128..][..128];
    DirectionKey {
        cipher: half[..64].try_into().unwrap(),
        hmac: half[64..].try_into().unwrap(),
    }
}

/// Keys of a TLS client from 00..ff, or any other `key2`.
fn keys_from(key2: &[u8; 256], cipher: Cipher, digest: Digest, format: DataFormat) -> DataKeys {
    DataKeys {
        cipher,
        digest,
        format,
        send: direction(key2, 0),
        recv: direction(key2, 1),
    }
}

fn keys(cipher: Cipher, digest: Digest, format: DataFormat) -> DataKeys {
    keys_from(&std::array::from_fn(|i| i as u8), cipher, digest, format)
}

fn mirrored(keys: &DataKeys) -> DataKeys {
    DataKeys {
        send: keys.recv.clone(),
        recv: keys.send.clone(),
        ..keys.clone()
    }
}

fn published_keys(format: DataFormat) -> DataKeys {
    let pattern = b"abcdefgh01234567ABCDEFGHjkuchenl";
    let key2 = std::array::from_fn(|i| pattern[i % 32] ^ i as u8);
    keys_from(&key2, Cipher::Aes256Gcm, Digest::None, format)
}

fn receiver(keys: &DataKeys) -> RecvKey {
    RecvKey::new(&mirrored(keys), Framing::None, 64, 15).unwrap()
}

/// Seals one packet.
fn seal(key: &mut SendKey, inner: &[u8]) -> Option<Vec<u8>> {
    let escape = inner.first().map_or(&[][..], |&first| key.escape(first));
    let inner = [escape, inner].concat();
    let mut buf = vec![0xee; key.sealed_len(inner.len())];
    buf[key.headroom()..][..inner.len()].copy_from_slice(&inner);
    let segment = Segment {
        start: 0,
        len: inner.len(),
    };
    (key.seal(&mut buf, &[segment]) == 1).then_some(buf)
}

fn open(key: &mut RecvKey, datagram: &[u8]) -> Result<Vec<u8>, DropReason> {
    let mut datagram = datagram.to_vec();
    let range = key.open(100, &mut datagram)?;
    Ok(datagram[range].to_vec())
}

/// Every cipher with every digest that matters to it, in every format it has.
fn suites() -> Vec<(Cipher, Digest, DataFormat)> {
    let mut all = Vec::new();
    for cipher in Cipher::ALL {
        if cipher.is_aead() {
            all.push((cipher, Digest::None, DataFormat::Classic));
            all.push((cipher, Digest::None, DataFormat::Epoch));
        } else {
            all.extend(Digest::ALL.map(|digest| (cipher, digest, DataFormat::Classic)));
        }
    }
    all
}

#[test]
fn published_classic_packet() {
    let keys = published_keys(DataFormat::Classic);
    // Its header has no data opcode, so it is written as it is and not opened again.
    let mut key = SendKey::new(&keys, 0, Some(0), Framing::None).unwrap();
    key.set_header(hex("07000017").try_into().unwrap());
    let plain = b"The quick little fox jumps over the bureaucratic hurdles";
    assert_eq!(
        seal(&mut key, plain).unwrap(),
        hex("07000017 00000001 1fdd908f0e9dc25e79d832020d58e73f \
             2262f977d6bb2118fa0ea82e6b1706d949aefcb5efcbbacd5c09a9ab45f4d391\
             d3f68794cb0b82c3d33389b61622b3281598e2ff6d5cc38b")
    );
}

#[test]
fn published_epoch_tags() {
    let keys = published_keys(DataFormat::Epoch);
    let plain = b"The quick little fox jumps over the bureaucratic hurdles";
    for (epoch, tag) in [
        (1u16, "a0b54cdd93ff0b01a3265ecf19d56a06"),
        (4, "0ffff5913d39d75b18573b5748589a7d"),
    ] {
        let mut key = SendKey::new(&keys, 0, Some(0), Framing::None).unwrap();
        key.set_header(hex("07000017").try_into().unwrap());
        key.advance_epoch(epoch);
        let datagram = seal(&mut key, plain).unwrap();
        assert_eq!(datagram[4..6], epoch.to_be_bytes());
        assert_eq!(datagram[6..12], [0, 0, 0, 0, 0, 1]);
        assert_eq!(datagram[12 + plain.len()..], hex(tag));
    }
}

#[test]
fn ping_packets_of_every_format() {
    use Cipher::{Aes256Cbc, Aes256Gcm};
    use DataFormat::{Classic, Epoch};
    let gcm = keys(Aes256Gcm, Digest::None, Classic);
    let cbc = keys(Aes256Cbc, Digest::Sha256, Classic);
    let epoch = keys(Aes256Gcm, Digest::None, Epoch);
    for (keys, peer_id, expected) in [
        (
            gcm.clone(),
            Some(0),
            "48000000000000013be635445161de888fc6b8f0396368c1e1d3004e0fa812021253797dec29cf6b",
        ),
        (
            mirrored(&gcm),
            Some(0),
            "48000000000000010cacfa2985f32741676dbbafc19ac5d0935c53e2eadd3824275aa3759531edf7",
        ),
        (
            gcm,
            None,
            "300000000121555309ee48f8dad080917adf916bbee1d3004e0fa812021253797dec29cf6b",
        ),
        (
            epoch,
            Some(0),
            "480000000001000000000001c2fe07b4542687fb92a265089da510f77994d54b50bc82bcbf8269100e42f469",
        ),
        (
            cbc,
            Some(0),
            "480000009a0ca5c020a7e4d2452e2325c3f37e8f54e58b6479d890e199f6bda11730f314\
             0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f\
             a65ad730af2a070cc2d1d050b49e485b18acfaad81183fe7e1e078ab718d58e2",
        ),
    ] {
        let mut key = SendKey::new(&keys, 0, peer_id, Framing::None).unwrap();
        key.set_iv([0x0f; 16]);
        let expected = hex(expected);
        assert_eq!(seal(&mut key, &PING).unwrap(), expected, "{keys:?}");
        let mut peer = receiver(&keys);
        assert_eq!(open(&mut peer, &expected).unwrap(), PING, "{keys:?}");
        assert_eq!(open(&mut peer, &expected), Err(DropReason::Replay));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Batches of any sizes come back, byte for byte and in order, and no length lies.
    #[test]
    fn batches_round_trip(
        (cipher, digest, format) in select(suites()),
        framing in select(&FRAMINGS[..]),
        v2 in any::<bool>(),
        key_id in 0u8..8,
        first in prop_oneof![Just(0x50u8), Just(0x45), any::<u8>()],
        sizes in prop::collection::vec(prop_oneof![0usize..80, 1300usize..1500, 0usize..9000], 1..8),
        seed in any::<u8>(),
    ) {
        let peer_id = (v2 || format == DataFormat::Epoch).then_some(0x0012_3456);
        let keys = keys(cipher, digest, format);
        let mut tx = SendKey::new(&keys, key_id, peer_id, framing).unwrap();
        let mut rx = RecvKey::new(&mirrored(&keys), framing, 64, 15).unwrap();
        let mut buf = Vec::new();
        let mut segments = Vec::new();
        let mut inners = Vec::new();
        for (at, size) in sizes.into_iter().enumerate() {
            let mut inner: Vec<u8> = (0..size).map(|i| (i as u8).wrapping_mul(31) ^ seed ^ at as u8).collect();
            if let Some(byte) = inner.first_mut() {
                *byte = first;
            }
            let escape = inner.first().map_or(&[][..], |&byte| tx.escape(byte));
            let placed = [escape, &inner].concat();
            let start = buf.len();
            buf.resize(start + tx.sealed_len(placed.len()), 0xee);
            buf[start + tx.headroom()..][..placed.len()].copy_from_slice(&placed);
            segments.push(Segment { start, len: placed.len() });
            inners.push(inner);
        }
        prop_assert_eq!(tx.seal(&mut buf, &segments), segments.len());
        prop_assert_eq!(tx.packets(), segments.len() as u64);
        for (segment, inner) in segments.iter().zip(&inners) {
            let datagram = &mut buf[segment.start..][..tx.sealed_len(segment.len)];
            let parsed = crate::wire::parse(datagram);
            let len = if peer_id.is_some() { 4 } else { 1 };
            prop_assert_eq!(parsed, Ok(crate::wire::Header::Data { key_id, peer_id, len }));
            let opened = rx.open(100, datagram);
            if cipher.is_aead() && inner.is_empty() && matches!(framing, Framing::None | Framing::StubV2) {
                // The format has no empty payload.
                prop_assert_eq!(opened, Err(DropReason::Malformed));
            } else {
                let range = opened.unwrap();
                prop_assert_eq!(&datagram[range], &inner[..]);
            }
        }
        if cipher.is_aead() && inners.iter().all(|inner| !inner.is_empty()) {
            prop_assert!(tx.aead_usage() > 0);
            prop_assert_eq!(tx.aead_usage(), rx.aead_usage());
        }
    }

    #[test]
    fn max_inner_is_the_longest_that_fits(
        (cipher, digest, format) in select(suites()),
        framing in select(&FRAMINGS[..]),
        datagram_len in 0usize..2000,
    ) {
        let keys = keys(cipher, digest, format);
        let tx = SendKey::new(&keys, 0, Some(1), framing).unwrap();
        let inner = tx.max_inner(datagram_len);
        prop_assert!(tx.sealed_len(inner + 1) > datagram_len);
        prop_assert!(inner == 0 || tx.sealed_len(inner) <= datagram_len);
        prop_assert!(tx.sealed_len(0) >= tx.headroom());
    }

    /// Any bytes at all: a reason, never a panic, and afterwards the key works as before.
    #[test]
    fn noise_is_dropped(
        (cipher, digest, format) in select(suites()),
        framing in select(&FRAMINGS[..]),
        header in select(vec![0x30u8, 0x48, 0x4f, 0x38, 0x00]),
        noise in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        prop_assume!(digest != Digest::None || cipher.is_aead());
        let keys = keys(cipher, digest, format);
        let mut tx = SendKey::new(&keys, 0, Some(1), framing).unwrap();
        let mut rx = RecvKey::new(&mirrored(&keys), framing, 64, 15).unwrap();
        let mut datagram = vec![header];
        datagram.extend(&noise);
        prop_assert!(rx.open(100, &mut datagram).is_err());
        prop_assert_eq!(rx.packets(), 0);
        let sealed = seal(&mut tx, &PING).unwrap();
        prop_assert_eq!(open(&mut rx, &sealed).unwrap(), PING);
    }

    /// Without authentication at all noise may come through, but still never panics.
    #[test]
    fn noise_without_authentication_does_not_panic(
        cipher in select(vec![Cipher::None, Cipher::Aes128Cbc]),
        framing in select(&FRAMINGS[..]),
        noise in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let keys = keys(cipher, Digest::None, DataFormat::Classic);
        let mut rx = RecvKey::new(&keys, framing, 64, 15).unwrap();
        let mut datagram = vec![0x30];
        datagram.extend(&noise);
        if let Ok(range) = rx.open(100, &mut datagram) {
            prop_assert!(range.end <= datagram.len());
        }
    }
}

#[test]
fn every_flipped_byte_and_every_cut_is_noticed() {
    for (cipher, digest, format) in suites() {
        if digest == Digest::None && !cipher.is_aead() {
            continue;
        }
        let keys = keys(cipher, digest, format);
        for peer_id in [Some(5), None] {
            if peer_id.is_none() && format == DataFormat::Epoch {
                continue;
            }
            let mut tx = SendKey::new(&keys, 1, peer_id, Framing::None).unwrap();
            let mut rx = receiver(&keys);
            let sealed = seal(&mut tx, b"a payload of more than one block").unwrap();
            // The classic header is authenticated only in an AEAD's DATA_V2.
            let authentic_from = if cipher.is_aead() && peer_id.is_some() {
                1
            } else {
                tx.header_len()
            };
            for at in authentic_from..sealed.len() {
                for flip in [0x01, 0x80] {
                    let mut bad = sealed.clone();
                    bad[at] ^= flip;
                    let got = open(&mut rx, &bad);
                    assert!(
                        matches!(
                            got,
                            Err(DropReason::AuthFailed | DropReason::NoKey | DropReason::Replay)
                        ),
                        "{cipher:?} {digest:?} {format:?} byte {at}: {got:?}"
                    );
                }
            }
            for len in 0..sealed.len() {
                assert!(open(&mut rx, &sealed[..len]).is_err());
            }
            assert_eq!(rx.packets(), 0);
            assert!(rx.auth_failures() > 0);
            assert!(open(&mut rx, &sealed).is_ok(), "{cipher:?} {format:?}");
        }
    }
}

#[test]
fn unauthenticated_packets_do_not_move_the_window() {
    for (cipher, digest, format) in suites() {
        if digest == Digest::None && !cipher.is_aead() {
            continue;
        }
        let keys = keys(cipher, digest, format);
        let mut tx = SendKey::new(&keys, 0, Some(0), Framing::None).unwrap();
        let mut rx = receiver(&keys);
        let first = seal(&mut tx, &PING).unwrap();
        tx.ids_mut().skip_to(100_000);
        let mut far = seal(&mut tx, &PING).unwrap();
        let last = far.len() - 1;
        far[last] ^= 1;
        assert_eq!(open(&mut rx, &far), Err(DropReason::AuthFailed));
        assert_eq!(open(&mut rx, &first).unwrap(), PING);
        far[last] ^= 1;
        assert_eq!(open(&mut rx, &far).unwrap(), PING);
        assert_eq!(open(&mut rx, &first), Err(DropReason::Replay));
    }
}

#[test]
fn ids_stop_at_the_end_and_a_partial_batch_is_reported() {
    for (cipher, digest, format) in suites() {
        if format == DataFormat::Epoch {
            continue;
        }
        let keys = keys(cipher, digest, format);
        let mut tx = SendKey::new(&keys, 0, Some(0), Framing::None).unwrap();
        let mut rx = receiver(&keys);
        tx.ids_mut().skip_to(u64::from(u32::MAX) - 2);
        let stride = tx.sealed_len(16);
        let mut buf = vec![0; stride * 5];
        let segments: Vec<Segment> = (0..5)
            .map(|i| Segment {
                start: i * stride,
                len: 16,
            })
            .collect();
        assert_eq!(tx.seal(&mut buf, &segments), 3, "{cipher:?}");
        assert_eq!(tx.seal(&mut buf[3 * stride..], &segments[..2]), 0);
        for datagram in buf.chunks_mut(stride).take(3) {
            assert!(rx.open(0, datagram).is_ok());
        }
        assert_eq!(tx.packets(), u64::from(u32::MAX));
    }
}

#[test]
fn large_cbc_batches_have_distinct_ivs() {
    let keys = keys(Cipher::Aes256Cbc, Digest::Sha1, DataFormat::Classic);
    let mut tx = SendKey::new(&keys, 0, Some(0), Framing::None).unwrap();
    let mut rx = receiver(&keys);
    let stride = tx.sealed_len(20);
    let count = 300;
    let mut buf = vec![0; stride * count];
    let segments: Vec<Segment> = (0..count)
        .map(|i| Segment {
            start: i * stride,
            len: 20,
        })
        .collect();
    assert_eq!(tx.seal(&mut buf, &segments), count);
    let ivs: std::collections::HashSet<&[u8]> =
        buf.chunks(stride).map(|sealed| &sealed[24..40]).collect();
    assert_eq!(ivs.len(), count);
    for datagram in buf.chunks_mut(stride) {
        assert!(rx.open(0, datagram).is_ok());
    }
}

/// Replays, noise and foreign packets among good ones, whatever the format and the framing.
#[test]
fn a_batch_is_opened_as_its_datagrams_one_by_one() {
    for (cipher, digest, format) in suites() {
        for framing in FRAMINGS {
            let keys = keys(cipher, digest, format);
            let mut tx = SendKey::new(&keys, 0, Some(0), framing).unwrap();
            let mut buf = Vec::new();
            let mut datagrams: Vec<Segment> = Vec::new();
            for i in 0..150 {
                let mut datagram = seal(&mut tx, &vec![i as u8; i * 11 % 400]).unwrap();
                match i % 10 {
                    3 => datagram = buf[datagrams[i / 2].start..][..datagrams[i / 2].len].to_vec(),
                    5 => datagram[i % 8 + 4] ^= 0x80,
                    7 => datagram[0] = 0x20,
                    8 => datagram.truncate(i % 40),
                    _ => {}
                }
                let (start, len) = (buf.len(), datagram.len());
                buf.extend(datagram);
                datagrams.push(Segment { start, len });
            }
            let mirrored = mirrored(&keys);
            let single = RecvKey::new(&mirrored, framing, 64, 15);
            let batched = RecvKey::new(&mirrored, framing, 64, 15);
            let (mut single, mut batched) = (single.unwrap(), batched.unwrap());
            let mut one_by_one = buf.clone();
            let right: Vec<_> = datagrams
                .iter()
                .map(|at| single.open(7, &mut one_by_one[at.start..][..at.len]))
                .collect();
            let mut opened = vec![Ok(0..1)];
            batched.open_batch(7, &mut buf, &datagrams, &mut opened);
            assert_eq!(opened, right, "{cipher:?} {digest:?} {format:?}");
            assert!(right.iter().any(Result::is_ok));
            for (at, payload) in datagrams.iter().zip(right) {
                if let Ok(payload) = payload {
                    let payload = at.start + payload.start..at.start + payload.end;
                    assert_eq!(buf[payload.clone()], one_by_one[payload]);
                }
            }
            assert_eq!(batched.packets(), single.packets());
            assert_eq!(batched.auth_failures(), single.auth_failures());
        }
    }
}

#[test]
fn decrypted_text_without_room_for_an_id_is_dropped() {
    // Without an HMAC the IV can be bent until the one block is nothing but padding.
    let keys = keys(Cipher::Aes128Cbc, Digest::None, DataFormat::Classic);
    let mut tx = SendKey::new(&keys, 0, None, Framing::None).unwrap();
    let sealed = seal(&mut tx, &[]).unwrap();
    for padding in 13..=16u8 {
        let mut bent = sealed.clone();
        let was = [0, 0, 0, 1].into_iter().chain([12; 12]);
        for (byte, was) in bent[1..17].iter_mut().zip(was) {
            *byte ^= was ^ padding;
        }
        assert_eq!(
            open(&mut receiver(&keys), &bent),
            Err(DropReason::BadPayload)
        );
    }
    assert_eq!(open(&mut receiver(&keys), &sealed), Ok(vec![]));
}

#[test]
fn too_many_failures_retire_a_key() {
    for format in [DataFormat::Classic, DataFormat::Epoch] {
        let keys = keys(Cipher::Aes128Gcm, Digest::None, format);
        let mut tx = SendKey::new(&keys, 0, Some(0), Framing::None).unwrap();
        let mut rx = receiver(&keys);
        rx.set_failures(1 << 36);
        let first = seal(&mut tx, &PING).unwrap();
        assert_eq!(open(&mut rx, &first).unwrap(), PING);
        let mut second = seal(&mut tx, &PING).unwrap();
        second[20] ^= 1;
        assert_eq!(open(&mut rx, &second), Err(DropReason::AuthFailed));
        second[20] ^= 1;
        assert_eq!(open(&mut rx, &second), Err(DropReason::KeyExhausted));
        assert_eq!(rx.auth_failures(), (1 << 36) + 1);
    }
}

#[test]
fn unusable_keys_are_refused() {
    for (cipher, digest, format) in suites() {
        let mut zero = keys(cipher, digest, format);
        zero.send.cipher = [0; 64];
        zero.recv.cipher = [0; 64];
        let has_key = cipher != Cipher::None;
        let send = SendKey::new(&zero, 0, Some(0), Framing::None);
        let recv = RecvKey::new(&zero, Framing::None, 64, 15);
        assert_eq!(send.is_err(), has_key, "{cipher:?}");
        assert_eq!(recv.is_err(), has_key, "{cipher:?}");
    }
    // Only the bytes the cipher takes count.
    let mut keys = keys(Cipher::Aes128Gcm, Digest::None, DataFormat::Classic);
    keys.send.cipher[..16].fill(0);
    assert!(SendKey::new(&keys, 0, None, Framing::None).is_err());

    for cipher in [Cipher::Aes256Cbc, Cipher::None] {
        let keys = super::tests::keys(cipher, Digest::Sha1, DataFormat::Epoch);
        assert!(SendKey::new(&keys, 0, Some(0), Framing::None).is_err());
        assert!(RecvKey::new(&keys, Framing::None, 64, 15).is_err());
    }
    let keys = super::tests::keys(Cipher::Aes256Gcm, Digest::None, DataFormat::Epoch);
    assert!(SendKey::new(&keys, 0, None, Framing::None).is_err());
}

fn epoch_pair(cipher: Cipher) -> (SendKey, RecvKey) {
    let keys = keys(cipher, Digest::None, DataFormat::Epoch);
    let tx = SendKey::new(&keys, 0, Some(0), Framing::None).unwrap();
    (tx, receiver(&keys))
}

#[test]
fn the_receiver_follows_an_epoch_and_keeps_the_last_one() {
    let (mut tx, mut rx) = epoch_pair(Cipher::Aes256Gcm);
    let one: Vec<_> = (0..3).map(|_| seal(&mut tx, &PING).unwrap()).collect();
    tx.advance_epoch(2);
    let two = seal(&mut tx, &PING).unwrap();
    assert_eq!((tx.epoch(), rx.epoch()), (2, 1));
    assert!(open(&mut rx, &one[0]).is_ok());
    assert_eq!(rx.take_epoch_change(), None);
    assert!(open(&mut rx, &two).is_ok());
    assert_eq!(rx.take_epoch_change(), Some(2));
    assert_eq!(rx.take_epoch_change(), None);
    assert_eq!(rx.epoch(), 2);
    // The retired epoch has its own window.
    assert_eq!(open(&mut rx, &one[0]), Err(DropReason::Replay));
    assert!(open(&mut rx, &one[2]).is_ok());
    assert!(open(&mut rx, &one[1]).is_ok());
    assert_eq!(open(&mut rx, &two), Err(DropReason::Replay));
    // One epoch further, and epoch 1 is gone.
    tx.advance_epoch(3);
    assert!(open(&mut rx, &seal(&mut tx, &PING).unwrap()).is_ok());
    assert_eq!(open(&mut rx, &one[1]), Err(DropReason::NoKey));
    assert_eq!(open(&mut rx, &two), Err(DropReason::Replay));
}

#[test]
fn skipped_epochs_are_gone_and_far_ones_have_no_key() {
    let (mut tx, mut rx) = epoch_pair(Cipher::ChaCha20Poly1305);
    let one = seal(&mut tx, &PING).unwrap();
    tx.advance_epoch(5);
    let five = seal(&mut tx, &PING).unwrap();
    tx.advance_epoch(17);
    let seventeen = seal(&mut tx, &PING).unwrap();
    tx.advance_epoch(18);
    let eighteen = seal(&mut tx, &PING).unwrap();
    assert_eq!(open(&mut rx, &eighteen), Err(DropReason::NoKey));
    // Sixteen ahead is ready. Epoch 1 retires, 2 to 16 never were.
    assert!(open(&mut rx, &seventeen).is_ok());
    assert!(open(&mut rx, &one).is_ok());
    assert_eq!(open(&mut rx, &five), Err(DropReason::NoKey));
    assert!(open(&mut rx, &eighteen).is_ok());
    assert_eq!(rx.take_epoch_change(), Some(18));
    // Epoch 0 does not exist.
    let mut zero = eighteen;
    zero[4..6].fill(0);
    assert_eq!(open(&mut rx, &zero), Err(DropReason::NoKey));
}

#[test]
fn a_forged_future_epoch_changes_nothing() {
    let (mut tx, mut rx) = epoch_pair(Cipher::Aes128Gcm);
    let one = seal(&mut tx, &PING).unwrap();
    tx.advance_epoch(9);
    let mut nine = seal(&mut tx, &PING).unwrap();
    nine[15] ^= 1;
    assert_eq!(open(&mut rx, &nine), Err(DropReason::AuthFailed));
    assert_eq!((rx.epoch(), rx.take_epoch_change()), (1, None));
    // A counter of 0 is not even tried.
    let mut uncounted = nine.clone();
    uncounted[6..12].fill(0);
    assert_eq!(open(&mut rx, &uncounted), Err(DropReason::Replay));
    assert!(open(&mut rx, &one).is_ok());
    nine[15] ^= 1;
    assert!(open(&mut rx, &nine).is_ok());
}

#[test]
fn the_sender_moves_on_inside_a_batch_and_never_repeats_an_id() {
    let (mut tx, mut rx) = epoch_pair(Cipher::Aes192Gcm);
    // A ping costs two: three packets to an epoch.
    tx.epoch_mut().set_usage_limit(6);
    let stride = tx.sealed_len(PING.len());
    let segments: Vec<Segment> = (0..8)
        .map(|i| Segment {
            start: i * stride,
            len: PING.len(),
        })
        .collect();
    let mut buf = vec![0; 8 * stride];
    for segment in &segments {
        buf[segment.start + tx.headroom()..][..16].copy_from_slice(&PING);
    }
    assert_eq!(tx.seal(&mut buf, &segments), 8);
    let ids: Vec<&[u8]> = buf.chunks(stride).map(|sealed| &sealed[4..12]).collect();
    let expected = [1, 1, 1, 2, 2, 2, 3, 3]
        .iter()
        .zip([1, 2, 3, 1, 2, 3, 1, 2]);
    for (id, (epoch, counter)) in ids.iter().zip(expected) {
        assert_eq!(*id, [0, *epoch, 0, 0, 0, 0, 0, counter]);
    }
    assert_eq!((tx.epoch(), tx.packets(), tx.aead_usage()), (3, 8, 4));
    for datagram in buf.chunks_mut(stride) {
        assert!(rx.open(0, datagram).is_ok());
    }
    // Back is no direction.
    tx.advance_epoch(1);
    assert_eq!(tx.epoch(), 3);
    // And a spent counter moves on, too.
    tx.epoch_mut().set_usage_limit(u64::MAX);
    tx.ids_mut().skip_to((1 << 48) - 1);
    assert_eq!(&seal(&mut tx, &PING).unwrap()[4..6], [0, 3]);
    assert_eq!(
        &seal(&mut tx, &PING).unwrap()[4..12],
        [0, 4, 0, 0, 0, 0, 0, 1]
    );
}

#[test]
fn the_last_epochs_are_the_end() {
    let (mut tx, mut rx) = epoch_pair(Cipher::Aes256Gcm);
    rx.epoch_mut().skip_to_epoch(65_517);
    tx.advance_epoch(65_518);
    assert!(open(&mut rx, &seal(&mut tx, &PING).unwrap()).is_ok());
    tx.advance_epoch(65_519);
    let beyond = seal(&mut tx, &PING).unwrap();
    assert_eq!(open(&mut rx, &beyond), Err(DropReason::NoKey));
    tx.advance_epoch(u16::MAX);
    tx.epoch_mut().set_usage_limit(2);
    assert!(seal(&mut tx, &PING).is_some());
    assert_eq!(seal(&mut tx, &PING), None);
    assert_eq!(tx.epoch(), u16::MAX);
}

#[test]
fn a_worn_receive_key_asks_for_an_epoch() {
    let (mut tx, mut rx) = epoch_pair(Cipher::Aes256Gcm);
    rx.epoch_mut().set_usage_limit(4);
    assert!(open(&mut rx, &seal(&mut tx, &PING).unwrap()).is_ok());
    assert_eq!(rx.wants_epoch(), None);
    assert!(open(&mut rx, &seal(&mut tx, &PING).unwrap()).is_ok());
    assert_eq!(rx.wants_epoch(), Some(2));
    tx.advance_epoch(2);
    assert!(open(&mut rx, &seal(&mut tx, &PING).unwrap()).is_ok());
    assert_eq!(rx.wants_epoch(), None);
    rx.set_failures((1 << 35) + 1);
    assert_eq!(rx.wants_epoch(), Some(3));
}

#[test]
fn slots_install_switch_and_forget() {
    use DataFormat::Classic;
    let first = keys(Cipher::Aes256Gcm, Digest::None, Classic);
    let second = mirrored(&first);
    let mut slots = KeySlots::new();
    assert!(slots.sender().is_none());
    assert!(!slots.use_key(0));
    let install = |slots: &mut KeySlots, key_id, keys: &DataKeys| {
        slots.install(key_id, keys, Halves::BOTH, Some(1), Framing::None, (64, 15))
    };
    install(&mut slots, 0, &first).unwrap();
    assert!(slots.sender().is_none());
    assert!(slots.receiver(0).is_some());
    assert!(slots.receiver(1).is_none());
    assert!(slots.receiver(8).is_none());
    assert!(slots.use_key(0));
    assert_eq!(slots.sender_key_id(), Some(0));
    // The same key material again would repeat nonces.
    assert!(install(&mut slots, 0, &first).is_err());
    assert!(install(&mut slots, 1, &first).is_err());
    assert_eq!(slots.sender_key_id(), Some(0));
    install(&mut slots, 1, &second).unwrap();
    assert_eq!(slots.sender_key_id(), Some(0));
    assert!(slots.use_key(1));
    slots.remove(0);
    assert!(slots.receiver(0).is_none());
    assert!(slots.sender().is_some());
    // A new key in the sender's slot does not send before it is told to.
    install(&mut slots, 1, &first).unwrap();
    assert!(slots.sender().is_none());
    assert!(slots.use_key(1));
    slots.remove(1);
    assert!(slots.sender().is_none());
    slots.remove(99);
}

#[test]
fn reconfiguring_keeps_keys_and_counters() {
    let keys = keys(Cipher::Aes256Gcm, Digest::None, DataFormat::Classic);
    let mut slots = KeySlots::new();
    slots
        .install(3, &keys, Halves::BOTH, None, Framing::None, (64, 15))
        .unwrap();
    slots.use_key(3);
    let v1 = seal(slots.sender().unwrap(), &PING).unwrap();
    slots.reconfigure(Some(7), Framing::Lzo);
    let v2 = seal(slots.sender().unwrap(), &PING).unwrap();
    assert_eq!((v1[0], &v1[1..5]), (0x33, &[0, 0, 0, 1][..]));
    assert_eq!(v2[..8], [0x4b, 0, 0, 7, 0, 0, 0, 2]);
    let mut rx = RecvKey::new(&mirrored(&keys), Framing::Lzo, 64, 15).unwrap();
    assert_eq!(open(&mut rx, &v2).unwrap(), PING);
}

#[test]
fn limits_are_those_of_the_protocol_and_keys_can_change_threads() {
    fn sendable<T: Send>() {}
    sendable::<(SendKey, RecvKey, KeySlots)>();
    assert_eq!(AEAD_SOFT_LIMIT, 60_129_542_137);
}

#[test]
fn secrets_do_not_show_in_debug_output() {
    let keys = keys(Cipher::Aes256Gcm, Digest::None, DataFormat::Classic);
    let mut slots = KeySlots::new();
    slots
        .install(0, &keys, Halves::BOTH, None, Framing::None, (64, 15))
        .unwrap();
    let text = format!(
        "{keys:?} {slots:?} {:?} {:?}",
        slots.receiver(0).map(|key| format!("{key:?}")),
        SendKey::new(&keys, 0, None, Framing::None).unwrap()
    );
    assert!(!text.contains("[0, 1, 2"), "{text}");
}

/// An old key's receiver may be many epochs on when the next key begins with its first.
#[test]
fn an_epoch_moves_only_its_own_key() {
    let old = keys(Cipher::Aes256Gcm, Digest::None, DataFormat::Epoch);
    let key2 = std::array::from_fn(|i| (i * 3 + 1) as u8);
    let new = keys_from(&key2, Cipher::Aes256Gcm, Digest::None, DataFormat::Epoch);
    let mut slots = KeySlots::new();
    for (key_id, keys) in [(0, &old), (1, &new)] {
        slots
            .install(key_id, keys, Halves::BOTH, Some(7), Framing::None, (64, 15))
            .unwrap();
    }
    assert!(slots.use_key(1));
    slots.advance_epoch(0, 40);
    assert_eq!(slots.sender().unwrap().epoch(), 1);
    slots.advance_epoch(1, 2);
    assert_eq!(slots.sender().unwrap().epoch(), 2);
    assert!(slots.use_key(0));
    assert_eq!(slots.sender().unwrap().epoch(), 40);
}
