//! The OpenVPN control channel, without I/O.
//!
//! Nothing in here opens a socket, reads a clock or asks the operating system for anything but
//! randomness: time, datagrams and commands come in, transmissions, events and a deadline go out.

pub mod acceptor;
pub mod cookie;
mod data_keys;
pub mod error;
pub mod key_derivation;
pub mod key_exchange;
mod key_state;
pub mod mssfix;
pub mod negotiate;
pub mod occ;
pub mod packet;
pub mod peer_info;
pub mod proxy;

pub mod push;
pub mod rate;
pub mod reliable;
mod session;
pub mod tunnel;
pub mod wrap;

use std::time::Instant;

/// A point in time, as the driver saw it.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Monotonic, for timers.
    pub instant: Instant,
    /// Seconds since 1970, for replay ids, cookies and certificates.
    pub unix: u64,
}

/// Which side of the TLS handshake this end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlsRole {
    /// `tls-client`
    Client,
    /// `tls-server`
    Server,
}
