//! The control side of Ringway: configuration, TLS, the OpenVPN control channel, routes and
//! everyday operations. The packet path is in `ringway_dataplane`.
#![forbid(unsafe_code)]

pub mod check;
pub mod cli;
pub mod config;
pub mod doctor;
pub mod driver;
pub mod host;
pub mod log;
pub mod proto;
pub mod server;
pub mod tls;
