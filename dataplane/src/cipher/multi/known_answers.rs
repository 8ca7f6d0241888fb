//! What a back end must get right before it is used: published vectors, and the same bytes as
//! aws-lc-rs for packets of many lengths.
//!
//! NIST SP 800-38A F.2 for CBC, RFC 2202 and RFC 4231 (cases 1 and 2) for HMAC.

use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;

use super::{Decrypt, Encrypt, Hmac, IV_LEN, MAC_MAX, Tier};
use crate::cipher::{Segment, hmac_key};
use crate::key_slot::Digest;

/// Packets compared at once: more than any back end has lanes, and no multiple of them.
const PACKETS: usize = 37;

/// Whether the back end gives the known answers.
pub(super) fn pass(tier: Tier) -> bool {
    published_cbc(tier) && published_hmac(tier) && same_as_aws_lc(tier)
}

const PLAIN: [u8; 64] = hex(
    "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51\
     30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710",
);
const KEY_128: [u8; 16] = hex("2b7e151628aed2a6abf7158809cf4f3c");
const KEY_192: [u8; 24] = hex("8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b");
const KEY_256: [u8; 32] = hex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4");
const CBC: [(&[u8], [u8; 64]); 3] = [
    (
        &KEY_128,
        hex(
            "7649abac8119b246cee98e9b12e9197d5086cb9b507219ee95db113a917678b2\
             73bed6b8e3c1743b7116e69e222295163ff1caa1681fac09120eca307586e1a7",
        ),
    ),
    (
        &KEY_192,
        hex(
            "4f021db243bc633d7178183a9fa071e8b4d9ada9ad7dedf4e5e738763f69145a\
             571b242012fb7ae07fa9baac3df102e008b0e27988598881d920a9e64f5615cd",
        ),
    ),
    (
        &KEY_256,
        hex(
            "f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d\
             39f23369a9d9bacfa530e26304231461b2eb05e2c39be9fcda6c19078c6a9d1b",
        ),
    ),
];

fn published_cbc(tier: Tier) -> bool {
    CBC.iter().all(|(key, cipher)| {
        let lengths = |i| 16 * (1 + i % 4);
        let (plain, texts) = packets(lengths, |text| {
            for (i, byte) in text.iter_mut().enumerate() {
                *byte = if i < IV_LEN {
                    i as u8
                } else {
                    PLAIN[i - IV_LEN]
                };
            }
        });
        let mut buf = plain.clone();
        Encrypt::new(tier, key).encrypt(&mut buf, &texts);
        let right = texts.iter().all(|text| {
            let len = text.len - IV_LEN;
            buf[text.start + IV_LEN..][..len] == cipher[..len]
        });
        right && decrypts(tier, key, &mut buf, &texts, &plain)
    })
}

/// Digest, key, message, MAC.
type Mac = (Digest, &'static [u8], &'static [u8], &'static [u8]);

const HMAC: [Mac; 6] = [
    (
        Digest::Sha1,
        &[0x0b; 20],
        b"Hi There",
        &hex::<20>("b617318655057264e28bc0b6fb378c8ef146be00"),
    ),
    (
        Digest::Sha1,
        b"Jefe",
        b"what do ya want for nothing?",
        &hex::<20>("effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
    ),
    (
        Digest::Sha224,
        &[0x0b; 20],
        b"Hi There",
        &hex::<28>("896fb1128abbdf196832107cd49df33f47b4b1169912ba4f53684b22"),
    ),
    (
        Digest::Sha224,
        b"Jefe",
        b"what do ya want for nothing?",
        &hex::<28>("a30e01098bc6dbbf45690f3a7e9e6d0f8bbea2a39e6148008fd05e44"),
    ),
    (
        Digest::Sha256,
        &[0x0b; 20],
        b"Hi There",
        &hex::<32>("b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
    ),
    (
        Digest::Sha256,
        b"Jefe",
        b"what do ya want for nothing?",
        &hex::<32>("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
    ),
];

fn published_hmac(tier: Tier) -> bool {
    HMAC.iter().all(|(digest, key, text, mac)| {
        let texts = [Segment {
            start: 0,
            len: text.len(),
        }; PACKETS];
        let mut macs = [[0; MAC_MAX]; PACKETS];
        Hmac::new(tier, *digest, key).is_some_and(|hmac| {
            hmac.sign(text, &texts, &mut macs);
            macs.iter().all(|made| made.starts_with(mac))
        })
    })
}

fn same_as_aws_lc(tier: Tier) -> bool {
    let (plain, texts) = packets(
        |i| 16 * (1 + i * 31 % 94),
        |text| {
            for (i, byte) in text.iter_mut().enumerate() {
                *byte = ((i * i) >> 3) as u8 ^ i as u8;
            }
        },
    );
    let ciphers = [&KEY_128[..], &KEY_192, &KEY_256].iter().all(|key| {
        let (mut ours, mut theirs) = (plain.clone(), plain.clone());
        Encrypt::new(tier, key).encrypt(&mut ours, &texts);
        texts
            .iter()
            .all(|text| aws_lc_cbc(key, &mut theirs[text.start..][..text.len]))
            && ours == theirs
            && decrypts(tier, key, &mut ours, &texts, &plain)
    });
    let digests = [Digest::Sha1, Digest::Sha224, Digest::Sha256];
    let digests = digests.into_iter().all(|digest| {
        let key: [u8; 64] = std::array::from_fn(|i| 3 * i as u8);
        let mut macs = [[0; MAC_MAX]; PACKETS];
        let ours = Hmac::new(tier, digest, &key[..digest.len()]);
        ours.zip(hmac_key(digest, &key))
            .is_some_and(|(ours, theirs)| {
                ours.sign(&plain, &texts, &mut macs);
                texts.iter().zip(&macs).all(|(text, mac)| {
                    let text = &plain[text.start..][..text.len];
                    mac.starts_with(aws_lc_rs::hmac::sign(&theirs, text).as_ref())
                })
            })
    });
    ciphers && digests
}

/// Whether it decrypts to that; where it leaves decryption to aws-lc-rs, it does.
fn decrypts(tier: Tier, key: &[u8], buf: &mut [u8], texts: &[Segment], plain: &[u8]) -> bool {
    Decrypt::new(tier, key).is_none_or(|decrypt| {
        for text in texts {
            decrypt.decrypt(&mut buf[text.start..][..text.len]);
        }
        buf == plain
    })
}

/// Packets of an IV and that many bytes, one behind the other.
fn packets(len: impl Fn(usize) -> usize, fill: impl Fn(&mut [u8])) -> (Vec<u8>, Vec<Segment>) {
    let mut start = 0;
    let texts: Vec<Segment> = (0..PACKETS)
        .map(|i| {
            let len = IV_LEN + len(i);
            start += len;
            let start = start - len;
            Segment { start, len }
        })
        .collect();
    let mut buf = vec![0; start];
    for text in &texts {
        fill(&mut buf[text.start..][..text.len]);
    }
    (buf, texts)
}

/// What aws-lc-rs makes of an IV and blocks; whether it can.
pub(super) fn aws_lc_cbc(key: &[u8], text: &mut [u8]) -> bool {
    let algorithm = match key.len() {
        16 => &AES_128,
        24 => &AES_192,
        _ => &AES_256,
    };
    let Some((iv, text)) = text.split_first_chunk_mut::<IV_LEN>() else {
        return false;
    };
    let context = EncryptionContext::Iv128(FixedLength::from(*iv));
    UnboundCipherKey::new(algorithm, key)
        .and_then(EncryptingKey::cbc)
        .and_then(|key| key.less_safe_encrypt(text, context))
        .is_ok()
}

/// Bytes from hexadecimal digits.
pub(super) const fn hex<const N: usize>(text: &str) -> [u8; N] {
    const fn digit(byte: u8) -> u8 {
        match byte {
            b'0'..=b'9' => byte - b'0',
            _ => byte - b'a' + 10,
        }
    }
    let text = text.as_bytes();
    assert!(text.len() == 2 * N, "two digits for each byte");
    let mut bytes = [0; N];
    let mut i = 0;
    while i < N {
        bytes[i] = digit(text[2 * i]) << 4 | digit(text[2 * i + 1]);
        i += 1;
    }
    bytes
}
