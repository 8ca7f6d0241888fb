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
//!   choice         the fastest back end that gives the known answers
//!   known_answers  compared with published vectors and aws-lc-rs before a back end is used
//! ```
//!
//! A back end is used only after it gave the known answers; else, and on other CPUs, there is none
//! and [`aws_lc_rs`] does one packet at a time. All `unsafe` of packet cryptography is here.

#[cfg(target_arch = "x86_64")]
mod aes;
#[cfg(target_arch = "x86_64")]
mod aesni;
#[cfg(target_arch = "x86_64")]
mod choice;
#[cfg(target_arch = "x86_64")]
mod cpu;
#[cfg(not(target_arch = "x86_64"))]
mod elsewhere;
#[cfg(target_arch = "x86_64")]
mod hmac;
#[cfg(target_arch = "x86_64")]
mod known_answers;
#[cfg(target_arch = "x86_64")]
mod lanes256;
#[cfg(target_arch = "x86_64")]
mod lanes512;
#[cfg(target_arch = "x86_64")]
mod sha_constants;
#[cfg(target_arch = "x86_64")]
mod sha_ni;
#[cfg(target_arch = "x86_64")]
mod sha_wide;
#[cfg(all(test, target_arch = "x86_64"))]
mod tests;
#[cfg(target_arch = "x86_64")]
mod vaes;

#[cfg(not(target_arch = "x86_64"))]
pub(crate) use elsewhere::{Decrypt, Encrypt, Hmac, Tier, name, tier};
#[cfg(target_arch = "x86_64")]
pub(crate) use {
    aes::{Decrypt, Encrypt},
    choice::{name, tier},
    cpu::Tier,
    hmac::Hmac,
};

/// Bytes of a hash block.
#[cfg(target_arch = "x86_64")]
const BLOCK: usize = 64;
/// Bytes of an IV, as of every AES block.
#[cfg(target_arch = "x86_64")]
const IV_LEN: usize = 16;
/// Bytes of the longest MAC made here.
pub(crate) const MAC_MAX: usize = 32;
