//! Placeholder.

pub mod checksum;
