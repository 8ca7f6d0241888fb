//! What the host offers, and what Ringway should make of it.
//!
//! Every recommendation is a pure function of figures read beforehand, so that it can be tested and
//! explained; nothing here changes the host.
#![forbid(unsafe_code)]

pub mod cpu;
pub mod host;

pub use host::{Choice, Limits, socket_buffers, txqueuelen};
