//! AES-CBC over many packets at once.
//!
//! Encryption is serial inside a packet: each block waits for the one before it, through all the
//! rounds. Lanes with a packet each fill that wait. Decryption is not, and goes packet by packet.
//!
//! ```text
//!   text     | IV 16 | block | block | ...        what a Segment names, in place
//!   lane 0   packet 0 ............. packet 17 .......
//!   lane 1   packet 1 ... packet 16 ......... packet 18 ...
//! ```

use arrayvec::ArrayVec;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::cpu::{Aesni, Tier};
use super::{IV_LEN, aesni, vaes};
use crate::cipher::Segment;

/// Round keys, the first ones used first; as many as the key length makes.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(super) struct RoundKeys {
    pub(super) keys: [[u8; 16]; 15],
    pub(super) rounds: usize,
}

/// Round keys of encryption.
pub(crate) struct Encrypt {
    tier: Tier,
    keys: RoundKeys,
}

impl Encrypt {
    /// From how many packets on this is faster than aws-lc-rs on each of them.
    pub(crate) const WORTH: usize = 2;

    /// From a key of 16, 24 or 32 bytes.
    pub(crate) fn new(tier: Tier, key: &[u8]) -> Self {
        let keys = expand(tier.aesni(), key);
        Encrypt { tier, keys }
    }

    /// Encrypts each text in place: 16 bytes of IV, and whole blocks behind it.
    pub(crate) fn encrypt(&self, buf: &mut [u8], texts: &[Segment]) {
        match self.tier {
            Tier::Avx512(cpu) => encrypt(cpu, &self.keys, buf, texts),
            Tier::ShaNi(cpu) => encrypt(cpu.aesni(), &self.keys, buf, texts),
            Tier::Avx2(cpu) => encrypt(cpu.aesni(), &self.keys, buf, texts),
        }
    }
}

/// Round keys of decryption, where it is faster than aws-lc-rs.
pub(crate) struct Decrypt {
    cpu: super::cpu::Avx512,
    keys: RoundKeys,
}

impl Decrypt {
    /// From a key of 16, 24 or 32 bytes; `None` where it would be no faster.
    pub(crate) fn new(tier: Tier, key: &[u8]) -> Option<Self> {
        let Tier::Avx512(cpu) = tier else { return None };
        let mut keys = expand(tier.aesni(), key);
        aesni::invert(tier.aesni(), &mut keys);
        Some(Decrypt { cpu, keys })
    }

    /// Decrypts in place: 16 bytes of IV, and whole blocks behind it.
    pub(crate) fn decrypt(&self, text: &mut [u8]) {
        vaes::decrypt(self.cpu, &self.keys, text);
    }
}

/// Encrypts a few blocks of each lane.
pub(super) trait Kernel<const LANES: usize>: Copy {
    /// Bytes of each lane that one step takes, a multiple of 16.
    const STEP: usize;

    /// Takes `steps` steps, each of `take[lane]` bytes, from `at[lane]` on. `chains` are the blocks
    /// to chain to, and the next ones afterwards; only those of lanes that took `STEP` each time.
    fn run(
        self,
        keys: &RoundKeys,
        chains: &mut [[u8; 16]; LANES],
        buf: &mut [u8],
        at: &[usize; LANES],
        take: &[usize; LANES],
        steps: usize,
    );
}

fn encrypt<const LANES: usize, K: Kernel<LANES>>(
    kernel: K,
    keys: &RoundKeys,
    buf: &mut [u8],
    texts: &[Segment],
) {
    let mut waiting = texts.iter().filter(|text| text.len > IV_LEN);
    let mut chains = [[0; 16]; LANES];
    let (mut at, mut left) = ([0; LANES], [0; LANES]);
    loop {
        for lane in 0..LANES {
            if left[lane] == 0
                && let Some(text) = waiting.next()
            {
                at[lane] = text.start + IV_LEN;
                left[lane] = text.len - IV_LEN;
                chains[lane].copy_from_slice(&buf[text.start..at[lane]]);
            }
        }
        let Some(shortest) = left.iter().copied().filter(|&left| left > 0).min() else {
            return;
        };
        // As many whole steps as every lane has, or one in which some end.
        let steps = (shortest / K::STEP).max(1);
        let take = left.map(|left| left.min(K::STEP));
        kernel.run(keys, &mut chains, buf, &at, &take, steps);
        for (at, left) in at.iter_mut().zip(&mut left) {
            let taken = (*left).min(steps * K::STEP);
            *at += taken;
            *left -= taken;
        }
    }
}

/// The key schedule (FIPS 197 §5.2).
fn expand(cpu: Aesni, key: &[u8]) -> RoundKeys {
    let (words, _) = key.as_chunks::<4>();
    let rounds = words.len() + 6;
    let mut schedule = ArrayVec::<u32, 60>::new();
    schedule.extend(words.iter().map(|word| u32::from_le_bytes(*word)));
    let mut constant = 1u32;
    for i in words.len()..4 * (rounds + 1) {
        let mut word = schedule[i - 1];
        if i % words.len() == 0 {
            word = aesni::substitute(cpu, word).rotate_right(8) ^ constant;
            // Doubling in AES's field.
            constant = (constant << 1) ^ ((constant >> 7) * 0x11b);
        } else if words.len() == 8 && i % 8 == 4 {
            word = aesni::substitute(cpu, word);
        }
        schedule.push(word ^ schedule[i - words.len()]);
    }
    let mut keys = [[0; 16]; 15];
    for (bytes, word) in keys.as_flattened_mut().chunks_mut(4).zip(&schedule) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    schedule.as_mut_slice().zeroize();
    RoundKeys { keys, rounds }
}
