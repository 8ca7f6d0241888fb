//! AES-CBC with 512-bit instructions, four blocks in a register: sixteen packets at once to
//! encrypt, sixteen blocks of one packet at once to decrypt.

use std::arch::x86_64::*;

use super::IV_LEN;
use super::aes::{Kernel, RoundKeys};
use super::cpu::Avx512;
use super::lanes512::transpose_quarters;

/// Registers of four lanes each.
const GROUPS: usize = 4;
const LANES: usize = 4 * GROUPS;
/// Bytes in a register.
const WIDTH: usize = 64;

type Run = unsafe fn(
    &RoundKeys,
    &mut [[u8; 16]; LANES],
    &mut [u8],
    &[usize; LANES],
    &[usize; LANES],
    usize,
);

impl Kernel<LANES> for Avx512 {
    const STEP: usize = WIDTH;

    fn run(
        self,
        keys: &RoundKeys,
        chains: &mut [[u8; 16]; LANES],
        buf: &mut [u8],
        at: &[usize; LANES],
        take: &[usize; LANES],
        steps: usize,
    ) {
        let run = match keys.rounds {
            10 => run::<10>,
            12 => run::<12>,
            _ => run::<14> as Run,
        };
        // SAFETY: there is an `Avx512` only where the CPU has these instructions.
        unsafe { run(keys, chains, buf, at, take, steps) }
    }
}

#[target_feature(enable = "avx512f,avx512bw,vaes")]
fn run<const ROUNDS: usize>(
    keys: &RoundKeys,
    chains: &mut [[u8; 16]; LANES],
    buf: &mut [u8],
    at: &[usize; LANES],
    take: &[usize; LANES],
    steps: usize,
) {
    let zero = _mm512_setzero_si512();
    let mut chained = [zero; GROUPS];
    for (chained, chains) in chained.iter_mut().zip(chains.as_chunks::<4>().0) {
        *chained = load(chains.as_flattened());
    }
    for step in 0..steps {
        // Four blocks of a lane in each register, transposed to one block of four lanes.
        let mut texts = [[zero; 4]; GROUPS];
        for (group, texts) in texts.iter_mut().enumerate() {
            for (i, text) in texts.iter_mut().enumerate() {
                let lane = 4 * group + i;
                let at = at[lane] + take[lane] * step;
                *text = load(&buf[at..at + take[lane]]);
            }
            *texts = transpose_quarters(*texts);
        }
        for block in 0..4 {
            let first = round_key(&keys.keys[0]);
            for (chained, texts) in chained.iter_mut().zip(&texts) {
                *chained = _mm512_ternarylogic_epi32::<0x96>(*chained, texts[block], first);
            }
            for key in &keys.keys[1..ROUNDS] {
                let key = round_key(key);
                for chained in &mut chained {
                    *chained = _mm512_aesenc_epi128(*chained, key);
                }
            }
            let last = round_key(&keys.keys[ROUNDS]);
            for (chained, texts) in chained.iter_mut().zip(&mut texts) {
                *chained = _mm512_aesenclast_epi128(*chained, last);
                texts[block] = *chained;
            }
        }
        for (group, texts) in texts.iter().enumerate() {
            for (i, text) in transpose_quarters(*texts).into_iter().enumerate() {
                let lane = 4 * group + i;
                let at = at[lane] + take[lane] * step;
                store(&mut buf[at..at + take[lane]], text);
            }
        }
    }
    for (chained, chains) in chained.iter().zip(chains.as_chunks_mut::<4>().0) {
        store(chains.as_flattened_mut(), *chained);
    }
}

/// Decrypts in place: 16 bytes of IV, and whole blocks behind it.
pub(super) fn decrypt(_: Avx512, keys: &RoundKeys, text: &mut [u8]) {
    let decrypt = match keys.rounds {
        10 => decrypt_rounds::<10>,
        12 => decrypt_rounds::<12>,
        _ => decrypt_rounds::<14> as unsafe fn(&RoundKeys, &mut [u8]),
    };
    // SAFETY: there is an `Avx512` only where the CPU has these instructions.
    unsafe { decrypt(keys, text) }
}

#[target_feature(enable = "avx512f,avx512bw,vaes")]
fn decrypt_rounds<const ROUNDS: usize>(keys: &RoundKeys, text: &mut [u8]) {
    // From the end, so that the ciphertext each block is chained to is still there.
    let mut end = text.len();
    while end > IV_LEN {
        let start = end.saturating_sub(4 * WIDTH).max(IV_LEN);
        let mut blocks = [_mm512_setzero_si512(); 4];
        let mut chained = blocks;
        let first = round_key(&keys.keys[0]);
        for (i, (block, chained)) in blocks.iter_mut().zip(&mut chained).enumerate() {
            let (from, to) = part(start, end, i);
            *block = _mm512_xor_si512(load(&text[from..to]), first);
            *chained = load(&text[from - IV_LEN..to - IV_LEN]);
        }
        for key in &keys.keys[1..ROUNDS] {
            let key = round_key(key);
            for block in &mut blocks {
                *block = _mm512_aesdec_epi128(*block, key);
            }
        }
        let last = round_key(&keys.keys[ROUNDS]);
        for (i, (block, chained)) in blocks.iter().zip(&chained).enumerate() {
            let plain = _mm512_xor_si512(_mm512_aesdeclast_epi128(*block, last), *chained);
            let (from, to) = part(start, end, i);
            store(&mut text[from..to], plain);
        }
        end = start;
    }
}

/// Where register `i` of a range is; the last ones may be short or empty.
#[inline]
fn part(start: usize, end: usize, i: usize) -> (usize, usize) {
    let from = (start + WIDTH * i).min(end);
    (from, (from + WIDTH).min(end))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn round_key(key: &[u8; 16]) -> __m512i {
    // SAFETY: the array is as long as the register, and the load needs no alignment.
    _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(key.as_ptr().cast()) })
}

/// Whole blocks, at most four, and zeros.
#[inline]
#[target_feature(enable = "avx512f")]
fn load(bytes: &[u8]) -> __m512i {
    if bytes.len() == WIDTH {
        // SAFETY: there are as many bytes as the register has, and the load needs no alignment.
        unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
    } else {
        // SAFETY: the mask leaves out what is not in `bytes`.
        unsafe { _mm512_maskz_loadu_epi64(mask(bytes.len()), bytes.as_ptr().cast()) }
    }
}

/// As many bytes as there is room for.
#[inline]
#[target_feature(enable = "avx512f")]
fn store(bytes: &mut [u8], blocks: __m512i) {
    if bytes.len() == WIDTH {
        // SAFETY: there is room for the whole register, and the store needs no alignment.
        unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), blocks) }
    } else {
        // SAFETY: the mask leaves out what is not in `bytes`.
        unsafe {
            _mm512_mask_storeu_epi64(bytes.as_mut_ptr().cast(), mask(bytes.len()), blocks);
        }
    }
}

/// A bit for each eight of the bytes that are there, of eight at most.
#[inline]
fn mask(bytes: usize) -> u8 {
    ((1u32 << (bytes / 8).min(8)) - 1) as u8
}
