//! Handshakes between two sessions, by topic.

mod handshake;
mod inspection;
mod revocation;
mod rules;
