//! Everything that needs `unsafe`, but for the vector code of packet cryptography: the kernel's
//! structures behind safe functions.
//!
//! Each block does one operation and says why it is sound. Nothing here knows a packet format,
//! a key or a peer; what the calls mean is said by [`crate::tun`], [`crate::udp`] and
//! [`crate::worker`].

pub(crate) mod buf_ring;
pub mod checksum;
pub(crate) mod cmsg;
pub(crate) mod ioctl;
pub(crate) mod mmsg;
pub(crate) mod ring;
pub(crate) mod sched;
pub(crate) mod socket;
