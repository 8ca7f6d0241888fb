//! No back end: what other architectures than x86-64 have.

use super::MAC_MAX;
use crate::cipher::Segment;
use crate::key_slot::Digest;

/// A back end; there is none.
#[derive(Clone, Copy)]
pub(crate) enum Tier {}

/// The name of what is used in its stead.
pub(crate) fn name() -> &'static str {
    "aws-lc, one packet at a time: there is nothing faster for this architecture"
}

/// The back end to use: none.
pub(crate) fn tier() -> Option<Tier> {
    None
}

#[cfg(test)]
impl Tier {
    pub(crate) fn all() -> impl Iterator<Item = Tier> {
        [].into_iter()
    }

    pub(crate) fn name(self) -> &'static str {
        match self {}
    }
}

pub(crate) struct Encrypt(Tier);

impl Encrypt {
    pub(crate) const WORTH: usize = 2;

    pub(crate) fn new(tier: Tier, _: &[u8]) -> Self {
        Encrypt(tier)
    }

    pub(crate) fn encrypt(&self, _: &mut [u8], _: &[Segment]) {
        match self.0 {}
    }
}

pub(crate) struct Decrypt(Tier);

impl Decrypt {
    pub(crate) fn new(tier: Tier, _: &[u8]) -> Option<Self> {
        Some(Decrypt(tier))
    }

    pub(crate) fn decrypt(&self, _: &mut [u8]) {
        match self.0 {}
    }
}

pub(crate) struct Hmac(Tier);

impl Hmac {
    pub(crate) fn new(tier: Tier, _: Digest, _: &[u8]) -> Option<Self> {
        Some(Hmac(tier))
    }

    pub(crate) fn worth(&self) -> usize {
        match self.0 {}
    }

    pub(crate) fn sign(&self, _: &[u8], _: &[Segment], _: &mut [[u8; MAC_MAX]]) {
        match self.0 {}
    }
}
