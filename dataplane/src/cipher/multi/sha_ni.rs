//! SHA-1 and SHA-256 with the CPU's own instructions, `N` texts interleaved.
//!
//! One text alone waits for each instruction's result; a second one fills the gaps.

use std::arch::x86_64::*;

use super::{BLOCK, sha_constants};

/// Takes `blocks` blocks of each text into its lane of the five words of `state`.
#[target_feature(enable = "avx,sha,ssse3,sse4.1")]
#[expect(clippy::needless_range_loop, reason = "one index into N texts")]
pub(super) fn sha1<const N: usize>(
    state: &mut [[u32; N]; 8],
    texts: &[&[[u8; BLOCK]]; N],
    blocks: usize,
) {
    let zero = _mm_setzero_si128();
    let (mut abcd, mut e) = ([zero; N], [zero; N]);
    for n in 0..N {
        abcd[n] = words([state[3][n], state[2][n], state[1][n], state[0][n]]);
        e[n] = words([0, 0, 0, state[4][n]]);
    }
    for block in 0..blocks {
        let before = (abcd, e);
        let mut w = [[zero; N]; 4];
        let mut last = abcd;
        // Four rounds. `last` is the state four rounds ago: its first word becomes `e`.
        macro_rules! four {
            ($f:literal, $($t:literal)*) => {$(
                for n in 0..N {
                    let i = $t % 4;
                    if $t < 4 {
                        w[i][n] = message(&texts[n][block], $t, SHA1_ORDER);
                    } else {
                        let mixed = _mm_sha1msg1_epu32(w[i][n], w[(i + 1) % 4][n]);
                        let mixed = _mm_xor_si128(mixed, w[(i + 2) % 4][n]);
                        w[i][n] = _mm_sha1msg2_epu32(mixed, w[(i + 3) % 4][n]);
                    }
                    let added = if $t == 0 {
                        _mm_add_epi32(e[n], w[i][n])
                    } else {
                        _mm_sha1nexte_epu32(last[n], w[i][n])
                    };
                    last[n] = abcd[n];
                    abcd[n] = _mm_sha1rnds4_epu32::<$f>(abcd[n], added);
                }
            )*};
        }
        four!(0, 0 1 2 3 4);
        four!(1, 5 6 7 8 9);
        four!(2, 10 11 12 13 14);
        four!(3, 15 16 17 18 19);
        for n in 0..N {
            abcd[n] = _mm_add_epi32(abcd[n], before.0[n]);
            e[n] = _mm_sha1nexte_epu32(last[n], before.1[n]);
        }
    }
    for n in 0..N {
        [state[3][n], state[2][n], state[1][n], state[0][n]] = unpacked(abcd[n]);
        [_, _, _, state[4][n]] = unpacked(e[n]);
    }
}

/// Takes `blocks` blocks of each text into its lane of `state`.
#[target_feature(enable = "avx,sha,ssse3,sse4.1")]
#[expect(clippy::needless_range_loop, reason = "one index into N texts")]
pub(super) fn sha256<const N: usize>(
    state: &mut [[u32; N]; 8],
    texts: &[&[[u8; BLOCK]]; N],
    blocks: usize,
) {
    let zero = _mm_setzero_si128();
    let (mut abef, mut cdgh) = ([zero; N], [zero; N]);
    for n in 0..N {
        abef[n] = words([state[5][n], state[4][n], state[1][n], state[0][n]]);
        cdgh[n] = words([state[7][n], state[6][n], state[3][n], state[2][n]]);
    }
    let (constants, _) = sha_constants::SHA256.as_chunks::<4>();
    for block in 0..blocks {
        let before = (abef, cdgh);
        let mut w = [[zero; N]; 4];
        macro_rules! four {
            ($($t:literal)*) => {$(
                let k = words(constants[$t]);
                for n in 0..N {
                    let i = $t % 4;
                    if $t < 4 {
                        w[i][n] = message(&texts[n][block], $t, SHA256_ORDER);
                    } else {
                        let mixed = _mm_sha256msg1_epu32(w[i][n], w[(i + 1) % 4][n]);
                        let shifted = _mm_alignr_epi8::<4>(w[(i + 3) % 4][n], w[(i + 2) % 4][n]);
                        let mixed = _mm_add_epi32(mixed, shifted);
                        w[i][n] = _mm_sha256msg2_epu32(mixed, w[(i + 3) % 4][n]);
                    }
                    let added = _mm_add_epi32(w[i][n], k);
                    cdgh[n] = _mm_sha256rnds2_epu32(cdgh[n], abef[n], added);
                    let added = _mm_shuffle_epi32::<0x0e>(added);
                    abef[n] = _mm_sha256rnds2_epu32(abef[n], cdgh[n], added);
                }
            )*};
        }
        four!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
        for n in 0..N {
            abef[n] = _mm_add_epi32(abef[n], before.0[n]);
            cdgh[n] = _mm_add_epi32(cdgh[n], before.1[n]);
        }
    }
    for n in 0..N {
        [state[5][n], state[4][n], state[1][n], state[0][n]] = unpacked(abef[n]);
        [state[7][n], state[6][n], state[3][n], state[2][n]] = unpacked(cdgh[n]);
    }
}

/// A register of four words, the lowest first.
#[inline]
#[target_feature(enable = "avx,sha,ssse3,sse4.1")]
fn words(words: [u32; 4]) -> __m128i {
    // SAFETY: four words are as long as the register, and the load needs no alignment.
    unsafe { _mm_loadu_si128(words.as_ptr().cast()) }
}

/// The four words of a register, the lowest first.
#[inline]
#[target_feature(enable = "avx,sha,ssse3,sse4.1")]
fn unpacked(register: __m128i) -> [u32; 4] {
    let mut words = [0; 4];
    // SAFETY: four words are as long as the register, and the store needs no alignment.
    unsafe { _mm_storeu_si128(words.as_mut_ptr().cast(), register) }
    words
}

/// Which byte of the message goes where: SHA-256 has the first word lowest, SHA-1 highest.
const SHA256_ORDER: [u32; 4] = [0x0001_0203, 0x0405_0607, 0x0809_0a0b, 0x0c0d_0e0f];
const SHA1_ORDER: [u32; 4] = [0x0c0d_0e0f, 0x0809_0a0b, 0x0405_0607, 0x0001_0203];

/// A quarter of a block.
#[inline]
#[target_feature(enable = "avx,sha,ssse3,sse4.1")]
fn message(block: &[u8; BLOCK], quarter: usize, order: [u32; 4]) -> __m128i {
    let (quarters, _) = block.as_chunks::<16>();
    let bytes = &quarters[quarter];
    // SAFETY: a quarter is as long as the register, and the load needs no alignment.
    let bytes = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
    _mm_shuffle_epi8(bytes, words(order))
}
