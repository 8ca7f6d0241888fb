//! What `ringway-bench` measures with, as a library: the load generator for two hosts, round trips
//! and what a rekey costs, also inside the namespaces of a lab; and thousands of light clients for one
//! server.

#![forbid(unsafe_code)]

pub mod clients;
pub mod load;
