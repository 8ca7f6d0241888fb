//! Every back end of this CPU against aws-lc-rs.

use proptest::prelude::*;
use proptest::sample::select;

use super::known_answers::{aws_lc_cbc, hex, pass};
use super::*;
use crate::cipher::{Segment, hmac_key};
use crate::key_slot::Digest;

#[test]
fn every_back_end_gives_the_known_answers() {
    for tier in Tier::all() {
        assert!(pass(tier), "{}", tier.name());
    }
}

/// RFC 2202 and RFC 4231, the cases beyond 1 and 2 with keys of at most a block.
#[test]
fn published_macs() {
    let counting: Vec<u8> = (1..=25).collect();
    let cases = [
        (
            &[0xaa; 20][..],
            [0xdd; 50],
            "125d7342b9ac11cd91a39af48aa17b4f63f175d3",
            "7fb3cb3588c6c1f6ffa9694d7d6ad2649365b0c1f65d69d1ec8333ea",
            "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe",
        ),
        (
            &counting,
            [0xcd; 50],
            "4c9007f4026250c6bc8414f9bf50c86c2d7235da",
            "6c11506874013cac6a2abc1bb382627cec6a90d86efc012de7afec5a",
            "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b",
        ),
    ];
    for tier in Tier::all() {
        for (key, text, sha1, sha224, sha256) in &cases {
            let mac = |digest| {
                let mut macs = [[0; MAC_MAX]; 1];
                let texts = [Segment { start: 0, len: 50 }];
                Hmac::new(tier, digest, key)
                    .unwrap()
                    .sign(text, &texts, &mut macs);
                macs[0]
            };
            assert_eq!(mac(Digest::Sha1)[..20], hex::<20>(sha1));
            assert_eq!(mac(Digest::Sha224)[..28], hex::<28>(sha224));
            assert_eq!(mac(Digest::Sha256)[..], hex::<32>(sha256));
        }
    }
}

#[test]
fn nothing_and_next_to_nothing_are_batches_too() {
    for tier in Tier::all() {
        let encrypt = Encrypt::new(tier, &[7; 32]);
        let hmac = Hmac::new(tier, Digest::Sha1, &[7; 20]).unwrap();
        encrypt.encrypt(&mut [], &[]);
        hmac.sign(&[], &[], &mut []);
        let mut iv = [3; 16];
        let only_iv = [Segment { start: 0, len: 16 }; 3];
        encrypt.encrypt(&mut iv, &only_iv);
        assert_eq!(iv, [3; 16]);
        let empty = [Segment::default(); 3];
        let mut macs = [[0; MAC_MAX]; 3];
        hmac.sign(&[], &empty, &mut macs);
        let key = hmac_key(Digest::Sha1, &[7; 64]).unwrap();
        let right = aws_lc_rs::hmac::sign(&key, &[]);
        assert!(macs.iter().all(|mac| mac[..20] == *right.as_ref()));
    }
}

/// Lengths in blocks: many of them the same, as in a super-packet, or all of them different.
fn lengths() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![
        proptest::collection::vec(0..=563usize, 1..=130),
        proptest::collection::vec(0..=9usize, 1..=130),
        (1..=130usize, 0..=100usize, 0..=100usize).prop_map(|(count, all, last)| {
            let mut lengths = vec![all; count];
            lengths[count - 1] = last;
            lengths
        }),
    ]
}

/// A buffer with gaps between packets of an IV and so many blocks, and where those are.
fn layout(lengths: &[usize], seed: u8) -> (Vec<u8>, Vec<Segment>) {
    let mut start = 5;
    let texts: Vec<Segment> = lengths
        .iter()
        .map(|blocks| {
            let segment = Segment {
                start,
                len: 16 + 16 * blocks,
            };
            start += segment.len + 3;
            segment
        })
        .collect();
    let mut word = u32::from(seed) + 1;
    let buf = (0..start)
        .map(|_| {
            word ^= word << 13;
            word ^= word >> 17;
            word ^= word << 5;
            word as u8
        })
        .collect();
    (buf, texts)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 48,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn cbc_is_that_of_aws_lc(
        lengths in lengths(),
        key in any::<[u8; 32]>(),
        key_len in select(vec![16usize, 24, 32]),
        seed: u8,
    ) {
        let (plain, texts) = layout(&lengths, seed);
        let key = &key[..key_len];
        let mut right = plain.clone();
        for text in &texts {
            prop_assert!(aws_lc_cbc(key, &mut right[text.start..][..text.len]));
        }
        for tier in Tier::all() {
            let mut buf = plain.clone();
            Encrypt::new(tier, key).encrypt(&mut buf, &texts);
            prop_assert!(buf == right, "{}", tier.name());
            if let Some(decrypt) = Decrypt::new(tier, key) {
                for text in &texts {
                    decrypt.decrypt(&mut buf[text.start..][..text.len]);
                }
                prop_assert!(buf == plain, "{}", tier.name());
            }
        }
    }

    #[test]
    fn macs_are_those_of_aws_lc(
        lengths in lengths(),
        key in any::<[u8; 32]>(),
        digest in select(vec![Digest::Sha1, Digest::Sha224, Digest::Sha256]),
        odd in 0..16usize,
        seed: u8,
    ) {
        let (buf, mut texts) = layout(&lengths, seed);
        for (i, text) in texts.iter_mut().enumerate() {
            text.len -= (i * odd) % 17;
        }
        let mut slot = [0; 64];
        slot[..32].copy_from_slice(&key);
        let right = hmac_key(digest, &slot).unwrap();
        for tier in Tier::all() {
            let mut macs = vec![[0; MAC_MAX]; texts.len()];
            Hmac::new(tier, digest, &slot[..digest.len()])
                .unwrap()
                .sign(&buf, &texts, &mut macs);
            for (text, mac) in texts.iter().zip(&macs) {
                let right = aws_lc_rs::hmac::sign(&right, &buf[text.start..][..text.len]);
                prop_assert_eq!(&mac[..digest.len()], right.as_ref(), "{}", tier.name());
            }
        }
    }
}
