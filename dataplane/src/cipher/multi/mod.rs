//! AES-CBC and HMAC over the packets of a batch at once, with the CPU's vector instructions.
//!
//! Both are serial inside one packet, which leaves most of a core waiting. Here each lane of a
//! vector, or each of several interleaved chains, has a packet of its own; a lane whose packet ends
//! takes the next one, so lengths may differ.
//!
//! ```text
//!   cpu            which back ends this CPU has; proofs that it does
//!   aes            key schedule, lanes of packets      -> vaes (512 bits), aesni (128 bits)
//!   hmac           stages and lanes of packets         -> sha_wide (lanes512, lanes256), sha_ni
//!   known_answers  compared with published vectors and aws-lc-rs before a back end is used
//! ```
//!
//! A back end is used only after it gave the known answers; else, and on other CPUs, there is none
//! and [`aws_lc_rs`] does one packet at a time. All `unsafe` of packet cryptography is here.

mod aes;
mod aesni;
mod cpu;
mod hmac;
mod known_answers;
mod lanes256;
mod lanes512;
mod sha_constants;
mod sha_ni;
mod sha_wide;
#[cfg(test)]
mod tests;
mod vaes;

use std::sync::OnceLock;

pub(crate) use aes::{Decrypt, Encrypt};
pub(crate) use cpu::Tier;
pub(crate) use hmac::Hmac;

/// Bytes of a hash block.
const BLOCK: usize = 64;
/// Bytes of an IV, as of every AES block.
const IV_LEN: usize = 16;
/// Bytes of the longest MAC made here.
pub(crate) const MAC_MAX: usize = 32;

/// The back end of this process, and what to call it.
struct Chosen {
    tier: Option<Tier>,
    name: &'static str,
}

/// The back end to use: the fastest one of this CPU that gives the known answers.
pub(crate) fn tier() -> Option<Tier> {
    chosen().tier
}

/// What [`tier`] chose, in words.
pub(crate) fn name() -> &'static str {
    chosen().name
}

fn chosen() -> &'static Chosen {
    static CHOSEN: OnceLock<Chosen> = OnceLock::new();
    CHOSEN.get_or_init(|| match Tier::all().next() {
        Some(tier) if known_answers::pass(tier) => Chosen {
            tier: Some(tier),
            name: tier.name(),
        },
        Some(_) => Chosen {
            tier: None,
            name: "aws-lc, one packet at a time: this CPU's vector instructions gave wrong answers",
        },
        None => Chosen {
            tier: None,
            name: "aws-lc, one packet at a time: this CPU lacks AES-NI with AVX2 or SHA extensions",
        },
    })
}
