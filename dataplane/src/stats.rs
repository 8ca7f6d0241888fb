//! Counters a worker publishes for the control thread.
//!
//! Each counter has exactly one writer, a worker, which adds its local sums once per batch with
//! relaxed stores; readers may be a batch behind. Nothing here is read back by the packet path.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::error::DropReason;

/// Counters of one peer, in bytes and packets. "Wire" counts UDP payload, or packets in a TCP stream
/// without their lengths; "tun" counts inner packets.
#[derive(Debug, Default)]
pub struct PeerStats {
    /// UDP payload bytes of data packets sent.
    pub wire_tx_bytes: AtomicU64,
    /// Data packets sent.
    pub wire_tx_packets: AtomicU64,
    /// UDP payload bytes of data packets received and authenticated.
    pub wire_rx_bytes: AtomicU64,
    /// Data packets received and authenticated.
    pub wire_rx_packets: AtomicU64,
    /// Bytes of inner packets read from the TUN device.
    pub tun_rx_bytes: AtomicU64,
    /// Bytes of inner packets written to the TUN device (pings and other magic payloads not counted).
    pub tun_tx_bytes: AtomicU64,
    /// Packets sent with the current sending key since it was installed (its packet id).
    pub key_tx_packets: AtomicU64,
    /// Sent under the current sending key's key_id.
    pub key_tx: KeyStats,
    /// Received under that key_id.
    pub key_rx: KeyStats,
    /// Failed decryptions under that key.
    pub key_auth_failures: AtomicU64,
    /// The epoch of the sending key in the epoch format; 0 otherwise.
    pub epoch: AtomicU64,
    /// Largest inner packet dropped because it did not fit the outer path, and so on: current outer
    /// path MTU as last reported by the kernel, 0 if never.
    pub path_mtu: AtomicU64,
}

/// Counters of one direction of a key.
#[derive(Debug, Default)]
pub struct KeyStats {
    /// UDP payload bytes (for `reneg-bytes`).
    pub bytes: AtomicU64,
    /// Packets (for `reneg-pkts`).
    pub packets: AtomicU64,
    /// AEAD usage in 16-byte blocks plus packets.
    pub aead_usage: AtomicU64,
}

impl PeerStats {
    /// Bytes under the current key_id, both ways.
    pub fn key_bytes(&self) -> u64 {
        self.key_tx.bytes.load(Relaxed) + self.key_rx.bytes.load(Relaxed)
    }

    /// Packets under the current key_id, both ways.
    pub fn key_packets(&self) -> u64 {
        self.key_tx.packets.load(Relaxed) + self.key_rx.packets.load(Relaxed)
    }

    /// The larger AEAD usage of the two directions of the current key_id.
    pub fn key_aead_usage(&self) -> u64 {
        let [tx, rx] = [&self.key_tx, &self.key_rx].map(|key| key.aead_usage.load(Relaxed));
        tx.max(rx)
    }
}

/// Counters of one worker.
#[derive(Debug, Default)]
pub struct WorkerStats {
    /// One counter per [`DropReason`], indexed by its discriminant.
    pub drops: [AtomicU64; DropReason::ALL.len()],
    /// UDP send calls (each may carry many datagrams).
    pub udp_tx_calls: AtomicU64,
    /// UDP receive completions (each may carry many datagrams).
    pub udp_rx_calls: AtomicU64,
    /// Writes to TCP connections (each may carry many packets).
    pub stream_tx_calls: AtomicU64,
    /// Reads from TCP connections (each may carry many packets).
    pub stream_rx_calls: AtomicU64,
    /// TUN reads (each may carry a super-packet).
    pub tun_rx_calls: AtomicU64,
    /// TUN writes (each may carry a super-packet).
    pub tun_tx_calls: AtomicU64,
    /// Batches handled (wake-ups that found work).
    pub batches: AtomicU64,
    /// Times a kernel feature failed at run time and its fallback took over.
    pub fallbacks: AtomicU64,
    /// Control packets handed to the control thread.
    pub control_packets: AtomicU64,
}

impl WorkerStats {
    /// The counter of one drop reason.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize].load(Relaxed)
    }
}

/// Adds to a counter that has a single writer: a plain load and store, no locked instruction.
pub fn add(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(count), Relaxed);
}
