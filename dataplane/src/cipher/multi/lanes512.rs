//! Sixteen 32-bit lanes in an AVX-512 register: the operations the hashes are made of.

use std::arch::x86_64::*;

use super::BLOCK;

pub(super) const LANES: usize = 16;
pub(super) type Vector = __m512i;

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn splat(word: u32) -> Vector {
    _mm512_set1_epi32(word.cast_signed())
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn add(a: Vector, b: Vector) -> Vector {
    _mm512_add_epi32(a, b)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn xor(a: Vector, b: Vector) -> Vector {
    _mm512_xor_si512(a, b)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn xor3(a: Vector, b: Vector, c: Vector) -> Vector {
    _mm512_ternarylogic_epi32::<0x96>(a, b, c)
}

/// `b` where `a` has ones, `c` elsewhere.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn choose(a: Vector, b: Vector, c: Vector) -> Vector {
    _mm512_ternarylogic_epi32::<0xca>(a, b, c)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn majority(a: Vector, b: Vector, c: Vector) -> Vector {
    _mm512_ternarylogic_epi32::<0xe8>(a, b, c)
}

/// Rotates each lane left; `RIGHT` is `32 - LEFT`, for those who have to shift twice.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn rotate<const LEFT: i32, const RIGHT: i32>(a: Vector) -> Vector {
    _mm512_rol_epi32::<LEFT>(a)
}

/// Shifts each lane right.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn shift<const RIGHT: u32>(a: Vector) -> Vector {
    _mm512_srli_epi32::<RIGHT>(a)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn load(words: &[u32; LANES]) -> Vector {
    // SAFETY: the array is as long as the register, and the load needs no alignment.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn store(words: &mut [u32; LANES], vector: Vector) {
    // SAFETY: the array is as long as the register, and the store needs no alignment.
    unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), vector) }
}

/// The words of one block of each lane: word `i` of all of them in vector `i`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn words(texts: &[&[[u8; BLOCK]]; LANES], block: usize) -> [Vector; 16] {
    let zero = _mm512_setzero_si512();
    let swap = _mm512_broadcast_i32x4(_mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203));
    let mut rows = [zero; 16];
    for (row, text) in rows.iter_mut().zip(texts) {
        let block = &text[block];
        // SAFETY: a block is as long as the register, and the load needs no alignment.
        *row = unsafe { _mm512_loadu_si512(block.as_ptr().cast()) };
        *row = _mm512_shuffle_epi8(*row, swap);
    }
    // Pairs of rows, then fours of rows: each quarter of `fours[4 * g + c]` has column c of its
    // quarter, of rows 4g to 4g + 3.
    let (mut pairs, mut fours, mut out) = ([zero; 16], [zero; 16], [zero; 16]);
    for i in 0..8 {
        pairs[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    for g in 0..4 {
        let i = 4 * g;
        fours[i] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);
        fours[i + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
        fours[i + 2] = _mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
        fours[i + 3] = _mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
    }
    for c in 0..4 {
        let column = [fours[c], fours[c + 4], fours[c + 8], fours[c + 12]];
        [out[c], out[c + 4], out[c + 8], out[c + 12]] = transpose_quarters(column);
    }
    out
}

/// Makes columns of rows, each row four 128-bit quarters. It is its own inverse.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn transpose_quarters(rows: [Vector; 4]) -> [Vector; 4] {
    let even_low = _mm512_shuffle_i32x4::<0x88>(rows[0], rows[1]);
    let odd_low = _mm512_shuffle_i32x4::<0xdd>(rows[0], rows[1]);
    let even_high = _mm512_shuffle_i32x4::<0x88>(rows[2], rows[3]);
    let odd_high = _mm512_shuffle_i32x4::<0xdd>(rows[2], rows[3]);
    [
        _mm512_shuffle_i32x4::<0x88>(even_low, even_high),
        _mm512_shuffle_i32x4::<0x88>(odd_low, odd_high),
        _mm512_shuffle_i32x4::<0xdd>(even_low, even_high),
        _mm512_shuffle_i32x4::<0xdd>(odd_low, odd_high),
    ]
}
