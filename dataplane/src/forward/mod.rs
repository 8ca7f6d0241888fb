//! Which peers an inner packet goes to.
//!
//! ```text
//!   from the device    destination -> longest prefix -> one peer
//!                      multicast ------------------> every peer
//!   from a peer        source -> longest prefix -> must be that very peer
//!                      then, with client-to-client:
//!                      destination -> another peer  -> that peer, not the device
//!                      multicast                    -> the device and every other peer
//!                      anything else                -> the device
//! ```
//!
//! On a TAP server frames go by hardware address: see the module `switch`.
//!
//! Only maps and decisions are here: nothing in this module moves a packet or counts it.

pub mod mac_table;
mod prefix_map;
mod routes;
mod switch;
pub mod vlan;

pub(crate) use routes::{Destination, Routes, Way};
pub(crate) use switch::{News, Receivers, Switch};
