//! Segmentation offload of the TUN device, both ways.
//!
//! With `IFF_VNET_HDR` the kernel hands over one super-packet of up to 64 KiB where the wire needs
//! many packets, and takes one back. [`split`] turns a super-packet into packets, each written once
//! at its final place; [`coalesce`] turns received packets of one flow into super-packets without
//! moving their payload. Neither does any I/O and neither allocates per packet.
//!
//! ```text
//!   | vnet header | IP | TCP | payload ............................... |   from TUN
//!                   split |  ^ coalesce
//!                         v  |
//!   | IP | TCP | payload |   | IP | TCP | payload |   | IP | TCP | pay |   to and from the cipher
//! ```

pub mod checksum;
pub mod coalesce;
pub mod split;
pub mod vnet_hdr;

#[cfg(test)]
mod differential;
#[cfg(test)]
pub(crate) mod reference;
#[cfg(test)]
pub(crate) mod sample;

pub use coalesce::{Coalescer, TunCaps, TunWrite};
pub use split::{Plan, plan};
pub use vnet_hdr::VnetHdr;
