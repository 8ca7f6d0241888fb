//! HMAC (RFC 2104) with SHA-1, SHA-224 and SHA-256 over many packets at once.
//!
//! Hashing is serial inside a packet. Each lane takes a packet through three stages, and then the
//! next packet:
//!
//! ```text
//!   inner state ─> Data: whole blocks, in place ─> Tail: the rest, padded ─┐
//!   outer state ─> Outer: the inner digest, padded <───────────────────────┘ ─> MAC
//! ```
//!
//! The states are those behind the padded key, so neither key block is hashed again.

use arrayvec::ArrayVec;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::cpu::{Avx2, Avx512, ShaNi, Tier};
use super::{BLOCK, MAC_MAX, sha_constants, sha_ni, sha_wide};
use crate::cipher::Segment;
use crate::key_slot::Digest;

/// An HMAC key.
pub(crate) struct Hmac {
    tier: Tier,
    key: Key,
}

#[derive(Zeroize, ZeroizeOnDrop)]
struct Key {
    #[zeroize(skip)]
    hash: Hash,
    /// Words of the digest.
    words: usize,
    inner: [u32; 8],
    outer: [u32; 8],
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Hash {
    Sha1,
    Sha256,
}

impl Hmac {
    /// From a key of at most 64 bytes; `None` for digests that are no faster here.
    pub(crate) fn new(tier: Tier, digest: Digest, key: &[u8]) -> Option<Self> {
        let (hash, start) = match digest {
            Digest::Sha1 => (Hash::Sha1, sha_constants::SHA1_START),
            Digest::Sha224 => (Hash::Sha256, sha_constants::SHA224_START),
            Digest::Sha256 => (Hash::Sha256, sha_constants::SHA256_START),
            Digest::None | Digest::Sha384 | Digest::Sha512 => return None,
        };
        let padded = |with: u8| {
            let mut block = [with; BLOCK];
            for (byte, key) in block.iter_mut().zip(key) {
                *byte ^= key;
            }
            let mut state = start;
            tier.hash_block(hash, &mut state, &block);
            block.zeroize();
            state
        };
        let key = Key {
            hash,
            words: digest.len() / 4,
            inner: padded(0x36),
            outer: padded(0x5c),
        };
        Some(Hmac { tier, key })
    }

    /// From how many packets on this is faster than aws-lc-rs on each of them.
    pub(crate) fn worth(&self) -> usize {
        match (self.tier, self.key.hash) {
            (Tier::Avx512(_) | Tier::ShaNi(_), _) => 2,
            (Tier::Avx2(_), Hash::Sha1) => 3,
            (Tier::Avx2(_), Hash::Sha256) => 4,
        }
    }

    /// Writes the MAC of each text to the front of the element of `macs` at its place.
    pub(crate) fn sign(&self, buf: &[u8], texts: &[Segment], macs: &mut [[u8; MAC_MAX]]) {
        let mut work = Work {
            key: &self.key,
            buf,
            texts: texts.iter().zip(macs),
            begun: ArrayVec::new(),
        };
        match self.tier {
            Tier::Avx512(cpu) => {
                // With fewer packets than this the SHA extensions are faster.
                let worth = match self.key.hash {
                    Hash::Sha1 => 7,
                    Hash::Sha256 => 8,
                };
                work.run(cpu, worth);
                work.run_interleaved(cpu.sha_ni());
            }
            Tier::ShaNi(cpu) => work.run_interleaved(cpu),
            Tier::Avx2(cpu) => work.run(cpu, 1),
        }
    }
}

impl Tier {
    fn hash_block(self, hash: Hash, state: &mut [u32; 8], block: &[u8; BLOCK]) {
        let block = std::slice::from_ref(block);
        match self {
            Tier::Avx512(cpu) => hash_alone::<1>(cpu.sha_ni(), hash, state, block),
            Tier::ShaNi(cpu) => hash_alone::<1>(cpu, hash, state, block),
            Tier::Avx2(cpu) => hash_alone::<8>(cpu, hash, state, block),
        }
    }
}

fn hash_alone<const LANES: usize>(
    kernel: impl Kernel<LANES>,
    hash: Hash,
    state: &mut [u32; 8],
    blocks: &[[u8; BLOCK]],
) {
    let mut lanes = state.map(|word| [word; LANES]);
    kernel.run(hash, &mut lanes, &[blocks; LANES], blocks.len());
    *state = lanes.map(|words| words[0]);
    lanes.as_flattened_mut().zeroize();
}

/// Hashes blocks of each lane.
trait Kernel<const LANES: usize>: Copy {
    /// Takes `blocks` blocks of each text into its lane of `state`: word, then lane.
    fn run(
        self,
        hash: Hash,
        state: &mut [[u32; LANES]; 8],
        texts: &[&[[u8; BLOCK]]; LANES],
        blocks: usize,
    );
}

type Run<const LANES: usize> = unsafe fn(&mut [[u32; LANES]; 8], &[&[[u8; BLOCK]]; LANES], usize);

impl Kernel<16> for Avx512 {
    fn run(
        self,
        hash: Hash,
        state: &mut [[u32; 16]; 8],
        texts: &[&[[u8; BLOCK]]; 16],
        blocks: usize,
    ) {
        let run = match hash {
            Hash::Sha1 => sha_wide::lanes512::sha1,
            Hash::Sha256 => sha_wide::lanes512::sha256 as Run<16>,
        };
        // SAFETY: there is an `Avx512` only where the CPU has these instructions.
        unsafe { run(state, texts, blocks) }
    }
}

impl Kernel<8> for Avx2 {
    fn run(
        self,
        hash: Hash,
        state: &mut [[u32; 8]; 8],
        texts: &[&[[u8; BLOCK]]; 8],
        blocks: usize,
    ) {
        let run = match hash {
            Hash::Sha1 => sha_wide::lanes256::sha1,
            Hash::Sha256 => sha_wide::lanes256::sha256 as Run<8>,
        };
        // SAFETY: there is an `Avx2` only where the CPU has these instructions.
        unsafe { run(state, texts, blocks) }
    }
}

impl<const LANES: usize> Kernel<LANES> for ShaNi {
    fn run(
        self,
        hash: Hash,
        state: &mut [[u32; LANES]; 8],
        texts: &[&[[u8; BLOCK]]; LANES],
        blocks: usize,
    ) {
        let run = match hash {
            Hash::Sha1 => sha_ni::sha1,
            Hash::Sha256 => sha_ni::sha256 as Run<LANES>,
        };
        // SAFETY: there is a `ShaNi` only where the CPU has these instructions.
        unsafe { run(state, texts, blocks) }
    }
}

/// Packets whose MACs are still to be made.
struct Work<'a, T> {
    key: &'a Key,
    buf: &'a [u8],
    /// Those not begun, and where their MACs go.
    texts: T,
    /// Those begun and given back by a kernel that has too few of them.
    begun: ArrayVec<Lane<'a>, 16>,
}

/// A packet on its way.
struct Lane<'a> {
    stage: Stage,
    /// The state so far, kept here only while no kernel has it.
    state: [u32; 8],
    /// What is still to be read in place, whole blocks; nothing after the first stage.
    data: &'a [[u8; BLOCK]],
    /// Less than a block behind it.
    rest: &'a [u8],
    /// Blocks of the later stages, the last `left` of them still to be read.
    made: [[u8; BLOCK]; 2],
    left: usize,
    /// Bytes of the packet.
    len: usize,
    mac: &'a mut [u8; MAC_MAX],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Data,
    Tail,
    Outer,
}

impl<'a, T> Work<'a, T>
where
    T: Iterator<Item = (&'a Segment, &'a mut [u8; MAC_MAX])>,
{
    /// Makes the MACs of two at a time, and of the last one alone.
    fn run_interleaved(&mut self, cpu: ShaNi) {
        self.run::<2>(cpu, 2);
        self.run::<1>(cpu, 1);
    }

    /// Makes MACs as long as there are at least `worth` packets to work on, of `LANES` at once.
    fn run<const LANES: usize>(&mut self, kernel: impl Kernel<LANES>, worth: usize) {
        let mut lanes: [Option<Lane<'a>>; LANES] = [const { None }; LANES];
        let mut state = [[0; LANES]; 8];
        loop {
            for (n, lane) in lanes.iter_mut().enumerate() {
                if lane.is_none() {
                    *lane = self.next();
                    if let Some(lane) = lane {
                        put(&mut state, n, &lane.state);
                    }
                }
            }
            let busy = lanes.iter().flatten();
            let (busy, shortest) = busy.fold((0, usize::MAX), |(busy, shortest), lane| {
                (busy + 1, shortest.min(lane.blocks().len()))
            });
            if busy == 0 || busy < worth {
                break;
            }
            // A lane without a packet reads another's.
            let any = lanes.iter().flatten().next().map_or(&[][..], Lane::blocks);
            let mut texts = [any; LANES];
            for (text, lane) in texts.iter_mut().zip(&lanes) {
                *text = lane.as_ref().map_or(any, Lane::blocks);
            }
            kernel.run(self.key.hash, &mut state, &texts, shortest);
            for (n, lane) in lanes.iter_mut().enumerate() {
                if let Some(busy) = lane
                    && busy.advance(shortest, self.key, &mut state, n)
                {
                    *lane = None;
                }
            }
        }
        for (n, lane) in lanes.into_iter().enumerate() {
            if let Some(mut lane) = lane {
                lane.state = state.map(|words| words[n]);
                self.begun.push(lane);
            }
        }
    }

    fn next(&mut self) -> Option<Lane<'a>> {
        self.begun.pop().or_else(|| {
            let (text, mac) = self.texts.next()?;
            let text = &self.buf[text.start..text.start + text.len];
            Some(Lane::new(self.key, text, mac))
        })
    }
}

impl<'a> Lane<'a> {
    fn new(key: &Key, text: &'a [u8], mac: &'a mut [u8; MAC_MAX]) -> Self {
        let (data, rest) = text.as_chunks();
        let mut lane = Lane {
            stage: Stage::Data,
            state: key.inner,
            data,
            rest,
            made: [[0; BLOCK]; 2],
            left: 0,
            len: text.len(),
            mac,
        };
        if data.is_empty() {
            lane.begin_tail();
        }
        lane
    }

    /// What the stage has still to read.
    fn blocks(&self) -> &[[u8; BLOCK]] {
        match self.stage {
            Stage::Data => self.data,
            Stage::Tail | Stage::Outer => &self.made[2 - self.left..],
        }
    }

    /// Notes that so many blocks were read; returns whether the MAC is made.
    fn advance<const LANES: usize>(
        &mut self,
        blocks: usize,
        key: &Key,
        state: &mut [[u32; LANES]; 8],
        lane: usize,
    ) -> bool {
        match self.stage {
            Stage::Data => {
                self.data = &self.data[blocks..];
                if self.data.is_empty() {
                    self.begin_tail();
                }
                return false;
            }
            Stage::Tail | Stage::Outer => self.left -= blocks,
        }
        if self.left > 0 {
            return false;
        }
        let words = state.iter().take(key.words).map(|words| words[lane]);
        if self.stage == Stage::Outer {
            write(self.mac, words);
            return true;
        }
        let mut digest = [0; MAC_MAX];
        write(&mut digest, words);
        self.pad(&digest[..4 * key.words], BLOCK + 4 * key.words);
        self.stage = Stage::Outer;
        put(state, lane, &key.outer);
        false
    }

    fn begin_tail(&mut self) {
        self.pad(self.rest, BLOCK + self.len);
        self.stage = Stage::Tail;
    }

    /// Makes the last blocks of a message of `len` bytes that ends with these.
    fn pad(&mut self, end: &[u8], len: usize) {
        // A byte of padding at least, and eight of the length in bits.
        self.left = if end.len() + 9 <= BLOCK { 1 } else { 2 };
        let made = self.made[2 - self.left..].as_flattened_mut();
        made.fill(0);
        made[..end.len()].copy_from_slice(end);
        made[end.len()] = 0x80;
        let bits_at = made.len() - 8;
        made[bits_at..].copy_from_slice(&(8 * len as u64).to_be_bytes());
    }
}

fn put<const LANES: usize>(state: &mut [[u32; LANES]; 8], lane: usize, words: &[u32; 8]) {
    for (lanes, word) in state.iter_mut().zip(words) {
        lanes[lane] = *word;
    }
}

fn write(bytes: &mut [u8; MAC_MAX], words: impl Iterator<Item = u32>) {
    for (bytes, word) in bytes.chunks_mut(4).zip(words) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
}
