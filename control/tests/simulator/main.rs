//! The control channel over bad links, in virtual time: two sans-IO cores, real TLS, and a link that
//! loses, duplicates, delays, reorders and corrupts. Everything but TLS's own randomness follows from
//! a seed; RINGWAY_SEEDS sets how many are tried.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, in which a surprise should end the test"
)]

mod capability;
mod crowd;
mod handshake;
mod hostile;
mod pair;
mod pull;
mod rekey;
mod restart;
mod server;
