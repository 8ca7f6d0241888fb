//! AES with the CPU's 128-bit instructions: eight packets at once, and what key schedules need.

use std::arch::x86_64::*;

use super::aes::{Kernel, RoundKeys};
use super::cpu::Aesni;

const LANES: usize = 8;

type Run = unsafe fn(
    &RoundKeys,
    &mut [[u8; 16]; LANES],
    &mut [u8],
    &[usize; LANES],
    &[usize; LANES],
    usize,
);

impl Kernel<LANES> for Aesni {
    const STEP: usize = 16;

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
        // SAFETY: there is an `Aesni` only where the CPU has these instructions.
        unsafe { run(keys, chains, buf, at, take, steps) }
    }
}

#[target_feature(enable = "aes,avx")]
fn run<const ROUNDS: usize>(
    keys: &RoundKeys,
    chains: &mut [[u8; 16]; LANES],
    buf: &mut [u8],
    at: &[usize; LANES],
    take: &[usize; LANES],
    steps: usize,
) {
    let mut blocks = [_mm_setzero_si128(); LANES];
    for (block, chain) in blocks.iter_mut().zip(&*chains) {
        *block = load(chain);
    }
    for step in 0..steps {
        let first = load(&keys.keys[0]);
        for lane in 0..LANES {
            let at = at[lane] + take[lane] * step;
            // A lane without a packet goes through the rounds with what it has.
            if let [text] = buf[at..at + take[lane]].as_chunks().0 {
                blocks[lane] = _mm_xor_si128(blocks[lane], load(text));
            }
            blocks[lane] = _mm_xor_si128(blocks[lane], first);
        }
        for key in &keys.keys[1..ROUNDS] {
            let key = load(key);
            for block in &mut blocks {
                *block = _mm_aesenc_si128(*block, key);
            }
        }
        let last = load(&keys.keys[ROUNDS]);
        for lane in 0..LANES {
            blocks[lane] = _mm_aesenclast_si128(blocks[lane], last);
            let at = at[lane] + take[lane] * step;
            if let [text] = buf[at..at + take[lane]].as_chunks_mut().0 {
                store(text, blocks[lane]);
            }
        }
    }
    for (block, chain) in blocks.iter().zip(chains) {
        store(chain, *block);
    }
}

/// The S-box on each byte of a word.
pub(super) fn substitute(_: Aesni, word: u32) -> u32 {
    #[target_feature(enable = "aes,avx")]
    fn inner(word: u32) -> u32 {
        let word = _mm_set1_epi32(word.cast_signed());
        _mm_cvtsi128_si32(_mm_aeskeygenassist_si128::<0>(word)).cast_unsigned()
    }
    // SAFETY: there is an `Aesni` only where the CPU has these instructions.
    unsafe { inner(word) }
}

/// Makes round keys of decryption of those of encryption (FIPS 197 §5.3.5).
pub(super) fn invert(_: Aesni, keys: &mut RoundKeys) {
    #[target_feature(enable = "aes,avx")]
    fn inner(keys: &mut RoundKeys) {
        keys.keys[..=keys.rounds].reverse();
        for key in &mut keys.keys[1..keys.rounds] {
            let mixed = _mm_aesimc_si128(load(key));
            store(key, mixed);
        }
    }
    // SAFETY: there is an `Aesni` only where the CPU has these instructions.
    unsafe { inner(keys) }
}

#[inline]
#[target_feature(enable = "avx")]
fn load(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: the array is as long as the register, and the load needs no alignment.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx")]
fn store(bytes: &mut [u8; 16], block: __m128i) {
    // SAFETY: the array is as long as the register, and the store needs no alignment.
    unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), block) }
}
