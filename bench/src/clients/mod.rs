//! Thousands of OpenVPN clients in one thread, for loading a server.
//!
//! Each is a client by its wire: a socket with a port of its own, the control channel of
//! `ringway::proto`, TLS with a real certificate, data keys, keepalive, renegotiation. Only the device
//! is missing: packets are made and judged here ([`packet`]).
//!
//! ```text
//!   Swarm (handle) -- orders --> thread:  epoll over all sockets, a heap of deadlines
//!         <-- report, counts ---          client 0 .. n:  Tunnel | KeySlots | Flow
//! ```
//!
//! What it costs itself is in each [`Report`] (`cpu_seconds`), so that a measurement can say whether
//! the clients were the bottleneck. An idle client has one deadline per keepalive interval and holds
//! about 30 KiB.

mod client;
pub mod command;
mod events;
pub mod packet;
mod report;
mod swarm;

pub use client::{Flow, Goal, Settings};
pub use report::Report;
pub use swarm::Swarm;
