//! Ringway's packet path: everything between a TUN/TAP queue and a UDP socket.
//!
//! A pinned [`worker`] thread owns its TUN queue, its UDP socket, its buffers and the data half of
//! its peers' sessions. The control thread tells it what to do with a [`command::Command`] and hears
//! back through [`command::Event`]s and the counters in [`stats`]; nothing is shared under a lock.
//!
//! ```text
//!  TUN -> wire   read super-packet -> split -> seal in place -> one UDP GSO send
//!  wire -> TUN   UDP GRO receive -> replay look -> open in place -> coalesce -> one vectored TUN write
//! ```
//!
//! This crate depends on nothing else of Ringway and parses neither TLS nor configuration.

pub mod cipher;
pub mod command;
pub mod control_socket;
mod device;
pub mod error;
pub mod forward;
pub mod fragment;
pub mod frame;
pub mod framing;
pub mod icmp;
pub mod ip;
pub mod key_slot;
pub mod mss;
pub mod offload;
pub mod packet_id;
pub mod peer;
pub mod pool;
pub mod probe;
pub mod replay;
pub mod stats;
mod steering;
pub mod stream;
#[allow(unsafe_code)]
pub mod sys;
pub mod tun;
pub mod udp;
pub mod wire;
pub mod worker;
