//! What the host offers, and what Ringway should make of it.
//!
//! Every recommendation is a pure function of figures read beforehand, so that it can be tested and
//! explained. Only [`doctor::apply`] changes the host, and only when asked to.
#![forbid(unsafe_code)]

pub mod cpu;
pub mod cpu_list;
pub mod doctor;
pub mod host;
mod netlink;
pub mod route;

pub use host::{Choice, Limits, socket_buffers, txqueuelen};
