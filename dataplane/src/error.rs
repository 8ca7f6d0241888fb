//! Why packets are dropped, and why a worker cannot start.

use std::io;

/// Why one packet was dropped. Every reason has a counter in [`crate::stats`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum DropReason {
    /// Shorter than its header, or an opcode that does not exist.
    Malformed,
    /// No peer is known for this source address or peer-id.
    UnknownPeer,
    /// No usable key with this key_id (or, in the epoch format, this epoch).
    NoKey,
    /// The authentication tag or HMAC did not match.
    AuthFailed,
    /// The packet id was seen before, or is older than the replay window.
    Replay,
    /// The packet authenticated, but what is inside is not well formed (padding, framing, IP header).
    BadPayload,
    /// Real compression, which Ringway does not do.
    Compressed,
    /// The source address is not the one the session's key is bound to.
    WrongSource,
    /// The sending key has no packet ids left, or may not be used any more.
    KeyExhausted,
    /// For a peer: none is up to send this packet to; for all peers: there is nobody else.
    NoRoute,
    /// For a peer: larger than can be sent to it; whoever sent it, a peer or a host behind the device, was
    /// told where possible.
    TooBig,
    /// From TUN: the outer destination is the peer itself (a routing loop).
    RecursiveRouting,
    /// The kernel refused to send or write the packet.
    IoError,
    /// The kernel's socket or device queue was full.
    QueueFull,
    /// A control packet found the queue to the control thread full.
    ControlQueueFull,
    /// A super-packet from TUN with a virtio header that contradicts the packet.
    BadOffload,
    /// From TUN: IPv6, which the configuration blocks; answered with "no route" where possible.
    BlockedIpv6,
    /// Another worker holds the session and has fallen behind: its queue is full.
    HandoverFull,
    /// From a peer: the inner source address is not one of that peer's; on a TAP server a hardware
    /// address that it may not have, or not yet.
    InnerSource,
    /// From a peer: the inner source is an IPv6 link-local address, which no peer owns. Every host sends
    /// such packets of itself, so they have a counter of their own.
    LinkLocalSource,
    /// It authenticated, but came from an address that another peer has.
    FloatConflict,
    /// As many packets as may wait already for a TCP connection whose socket is full.
    StreamFull,
    /// With `fragment`: a header or a part that cannot be right, or that is there already.
    BadFragment,
    /// With `fragment`: a part whose packet was given up, because other parts did not come in time.
    LostFragment,
    /// With `vlan-tagging`: a frame with a tag that may not be, or for a device that does not take its
    /// VLAN.
    Vlan,
}

impl DropReason {
    /// Every reason, in the order of the counters.
    pub const ALL: [DropReason; 25] = [
        DropReason::Malformed,
        DropReason::UnknownPeer,
        DropReason::NoKey,
        DropReason::AuthFailed,
        DropReason::Replay,
        DropReason::BadPayload,
        DropReason::Compressed,
        DropReason::WrongSource,
        DropReason::KeyExhausted,
        DropReason::NoRoute,
        DropReason::TooBig,
        DropReason::RecursiveRouting,
        DropReason::IoError,
        DropReason::QueueFull,
        DropReason::ControlQueueFull,
        DropReason::BadOffload,
        DropReason::BlockedIpv6,
        DropReason::HandoverFull,
        DropReason::InnerSource,
        DropReason::LinkLocalSource,
        DropReason::FloatConflict,
        DropReason::StreamFull,
        DropReason::BadFragment,
        DropReason::LostFragment,
        DropReason::Vlan,
    ];

    /// A short name for statistics: lower case, words joined by `-`.
    pub fn name(self) -> &'static str {
        match self {
            DropReason::Malformed => "malformed",
            DropReason::UnknownPeer => "unknown-peer",
            DropReason::NoKey => "no-key",
            DropReason::AuthFailed => "auth-failed",
            DropReason::Replay => "replay",
            DropReason::BadPayload => "bad-payload",
            DropReason::Compressed => "compressed",
            DropReason::WrongSource => "wrong-source",
            DropReason::KeyExhausted => "key-exhausted",
            DropReason::NoRoute => "no-route",
            DropReason::TooBig => "too-big",
            DropReason::RecursiveRouting => "recursive-routing",
            DropReason::IoError => "io-error",
            DropReason::QueueFull => "queue-full",
            DropReason::ControlQueueFull => "control-queue-full",
            DropReason::BadOffload => "bad-offload",
            DropReason::BlockedIpv6 => "blocked-ipv6",
            DropReason::HandoverFull => "handover-full",
            DropReason::InnerSource => "inner-source",
            DropReason::LinkLocalSource => "link-local-source",
            DropReason::FloatConflict => "float-conflict",
            DropReason::StreamFull => "stream-full",
            DropReason::BadFragment => "bad-fragment",
            DropReason::LostFragment => "lost-fragment",
            DropReason::Vlan => "vlan",
        }
    }
}

/// Why a worker, a TUN queue or a socket could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A system call failed; `what` says what was being done, in words for a person.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, e.g. `cannot open /dev/net/tun`.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Key material of the wrong length, an all-zero key, or an algorithm this build lacks.
    #[error("{0}")]
    Key(String),
}

impl StartError {
    /// Wraps the kernel's answer with what was being done.
    pub fn io(what: impl Into<String>, source: io::Error) -> Self {
        StartError::Io {
            what: what.into(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::DropReason;

    #[test]
    fn every_reason_has_its_own_counter_and_name() {
        for (index, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
            for other in &DropReason::ALL[..index] {
                assert_ne!(reason.name(), other.name());
            }
        }
    }
}
