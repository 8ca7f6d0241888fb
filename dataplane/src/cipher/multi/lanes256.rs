//! Eight 32-bit lanes in an AVX2 register: the operations the hashes are made of.

use std::arch::x86_64::*;

use super::BLOCK;

pub(super) const LANES: usize = 8;
pub(super) type Vector = __m256i;

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn splat(word: u32) -> Vector {
    _mm256_set1_epi32(word.cast_signed())
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn add(a: Vector, b: Vector) -> Vector {
    _mm256_add_epi32(a, b)
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn xor(a: Vector, b: Vector) -> Vector {
    _mm256_xor_si256(a, b)
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn xor3(a: Vector, b: Vector, c: Vector) -> Vector {
    _mm256_xor_si256(_mm256_xor_si256(a, b), c)
}

/// `b` where `a` has ones, `c` elsewhere.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn choose(a: Vector, b: Vector, c: Vector) -> Vector {
    _mm256_xor_si256(c, _mm256_and_si256(a, _mm256_xor_si256(b, c)))
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn majority(a: Vector, b: Vector, c: Vector) -> Vector {
    _mm256_or_si256(
        _mm256_and_si256(a, b),
        _mm256_and_si256(c, _mm256_or_si256(a, b)),
    )
}

/// Rotates each lane left; `RIGHT` is `32 - LEFT`.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn rotate<const LEFT: i32, const RIGHT: i32>(a: Vector) -> Vector {
    _mm256_or_si256(_mm256_slli_epi32::<LEFT>(a), _mm256_srli_epi32::<RIGHT>(a))
}

/// Shifts each lane right.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn shift<const RIGHT: i32>(a: Vector) -> Vector {
    _mm256_srli_epi32::<RIGHT>(a)
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load(words: &[u32; LANES]) -> Vector {
    // SAFETY: the array is as long as the register, and the load needs no alignment.
    unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn store(words: &mut [u32; LANES], vector: Vector) {
    // SAFETY: the array is as long as the register, and the store needs no alignment.
    unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), vector) }
}

/// The words of one block of each lane: word `i` of all of them in vector `i`.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn words(texts: &[&[[u8; BLOCK]]; LANES], block: usize) -> [Vector; 16] {
    let mut out = [_mm256_setzero_si256(); 16];
    for half in 0..2 {
        let columns = half_words(texts, block, half);
        out[8 * half..][..8].copy_from_slice(&columns);
    }
    out
}

/// The first or the last eight words of one block of each lane.
#[inline]
#[target_feature(enable = "avx2")]
fn half_words(texts: &[&[[u8; BLOCK]]; LANES], block: usize, half: usize) -> [Vector; 8] {
    let zero = _mm256_setzero_si256();
    let swap =
        _mm256_broadcastsi128_si256(_mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203));
    let mut rows = [zero; 8];
    for (row, text) in rows.iter_mut().zip(texts) {
        let (halves, _) = text[block].as_chunks::<32>();
        let bytes = &halves[half];
        // SAFETY: half a block is as long as the register, and the load needs no alignment.
        *row = unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) };
        *row = _mm256_shuffle_epi8(*row, swap);
    }
    // Pairs of rows, then fours of rows: each half of `fours[4 * g + c]` has column c of its half,
    // of rows 4g to 4g + 3.
    let (mut pairs, mut fours, mut out) = ([zero; 8], [zero; 8], [zero; 8]);
    for i in 0..4 {
        pairs[2 * i] = _mm256_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm256_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    for g in 0..2 {
        let i = 4 * g;
        fours[i] = _mm256_unpacklo_epi64(pairs[i], pairs[i + 2]);
        fours[i + 1] = _mm256_unpackhi_epi64(pairs[i], pairs[i + 2]);
        fours[i + 2] = _mm256_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
        fours[i + 3] = _mm256_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
    }
    for c in 0..4 {
        out[c] = _mm256_permute2x128_si256::<0x20>(fours[c], fours[c + 4]);
        out[c + 4] = _mm256_permute2x128_si256::<0x31>(fours[c], fours[c + 4]);
    }
    out
}
