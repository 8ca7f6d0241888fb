//! Kernel limits and memory, and the buffer sizes that follow from them.
//!
//! ```text
//!  wanted socket buffer  = 20 ms of the outer link's rate, 8 MiB where the rate is unknown;
//!                          at most memory / 512, between 1 and 32 MiB, a power of two
//!  wanted transmit queue = 5 ms of the rate in packets of 1500 bytes, 1000 where it is unknown;
//!                          at most memory / 16 in packets of 64 KiB, between 500 and 4000
//! ```
//!
//! 20 ms are more than the longest pause of a worker that shares its core, and less than what would
//! turn congestion into noticeable delay. The kernel doubles what is asked for and counts its
//! bookkeeping into that.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use crate::route;

/// Smallest and largest socket buffer asked for, in bytes.
const BUFFER_RANGE: (usize, usize) = (1 << 20, 32 << 20);

/// Socket buffer for a link of unknown rate, in bytes.
const BUFFER_USUAL: u64 = 8 << 20;

/// Time a socket buffer shall hold, in milliseconds.
const BUFFER_MS: u64 = 20;

/// Memory per byte of socket buffer.
const BUFFER_SHARE: u64 = 512;

/// Shortest and longest transmit queue, in packets.
const QUEUE_RANGE: (u64, u64) = (500, 4000);

/// Transmit queue for a link of unknown rate, in packets.
const QUEUE_USUAL: u64 = 1000;

/// Time a transmit queue of plain packets shall hold, in milliseconds.
const QUEUE_MS: u64 = 5;

/// Memory per byte of a transmit queue full of super-packets.
const QUEUE_SHARE: u64 = 16;

/// Figures of this host. `None` where the kernel does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// `net.core.rmem_max`: largest receive buffer without privilege, in bytes.
    pub rmem_max: Option<usize>,
    /// `net.core.wmem_max`: largest send buffer without privilege, in bytes.
    pub wmem_max: Option<usize>,
    /// `net.core.rmem_default`: receive buffer of a new socket, in bytes.
    pub rmem_default: Option<usize>,
    /// `net.core.wmem_default`: send buffer of a new socket, in bytes.
    pub wmem_default: Option<usize>,
    /// Memory of the host, in bytes.
    pub memory: Option<u64>,
    /// Rate of the outer link, in Mbit/s.
    pub rate: Option<u64>,
}

/// Socket buffers to ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Receive buffer (`SO_RCVBUF`), in bytes.
    pub rcvbuf: usize,
    /// Send buffer (`SO_SNDBUF`), in bytes.
    pub sndbuf: usize,
    /// One line for the log when the kernel grants less to a process without CAP_NET_ADMIN.
    pub hint: Option<String>,
}

impl Limits {
    /// Reads the figures of this host.
    pub fn read() -> Self {
        Self::read_from(Path::new("/proc"))
    }

    /// The same, with the rate of the link that leads to `remote`, or to the rest of the world.
    pub fn read_towards(remote: Option<IpAddr>) -> Self {
        let interface = match remote {
            Some(remote) => route::interface_towards(remote),
            None => route::default_interfaces().into_iter().next(),
        };
        Limits {
            rate: interface.as_deref().and_then(route::rate),
            ..Self::read()
        }
    }

    fn read_from(proc: &Path) -> Self {
        let number = |name: &str| -> Option<usize> {
            let text = fs::read_to_string(proc.join("sys/net/core").join(name)).ok()?;
            text.trim().parse().ok()
        };
        Limits {
            rmem_max: number("rmem_max"),
            wmem_max: number("wmem_max"),
            rmem_default: number("rmem_default"),
            wmem_default: number("wmem_default"),
            memory: fs::read_to_string(proc.join("meminfo"))
                .ok()
                .and_then(|text| total_memory(&text)),
            rate: None,
        }
    }
}

/// The socket buffers to ask for when the configuration does not say (`rcvbuf`, `sndbuf`).
///
/// The sizes are what is wanted, whatever the limits: with CAP_NET_ADMIN they can be had beyond the
/// limit (`SO_RCVBUFFORCE`), without it the kernel cuts them. A default that is larger than what is
/// wanted stays.
pub fn socket_buffers(limits: Limits) -> Choice {
    let wanted = wanted_buffer(limits);
    let rcvbuf = wanted.max(limits.rmem_default.unwrap_or(0));
    let sndbuf = wanted.max(limits.wmem_default.unwrap_or(0));
    let short = |name: &str, limit: Option<usize>, wanted: usize| {
        limit
            .filter(|limit| *limit < wanted)
            .map(|limit| format!("net.core.{name} is {limit}, {wanted} would be better"))
    };
    let shortages: Vec<String> = [
        short("rmem_max", limits.rmem_max, rcvbuf),
        short("wmem_max", limits.wmem_max, sndbuf),
    ]
    .into_iter()
    .flatten()
    .collect();
    Choice {
        rcvbuf,
        sndbuf,
        hint: (!shortages.is_empty())
            .then(|| format!("socket buffers are limited: {}", shortages.join("; "))),
    }
}

/// Transmit queue length for the TUN device, in packets, when the configuration does not say
/// (`txqueuelen`). A packet may be a super-packet of 64 KiB, so memory limits it.
pub fn txqueuelen(limits: Limits) -> u32 {
    const SUPER_PACKET: u64 = 64 << 10;
    let (shortest, longest) = QUEUE_RANGE;
    let wanted = limits.rate.map_or(QUEUE_USUAL, |rate| {
        bytes_in(rate, QUEUE_MS).div_ceil(1500).min(longest)
    });
    let room = limits.memory.unwrap_or(0) / QUEUE_SHARE / SUPER_PACKET;
    // At most 4000, so it fits.
    wanted.min(room).max(shortest) as u32
}

fn wanted_buffer(limits: Limits) -> usize {
    let (smallest, largest) = BUFFER_RANGE;
    let wanted = limits.rate.map_or(BUFFER_USUAL, |rate| {
        bytes_in(rate, BUFFER_MS)
            .checked_next_power_of_two()
            .unwrap_or(u64::MAX)
    });
    let room = limits.memory.unwrap_or(0) / BUFFER_SHARE;
    let bytes = usize::try_from(wanted.min(room))
        .unwrap_or(usize::MAX)
        .clamp(smallest, largest);
    1 << bytes.ilog2()
}

/// Bytes that a link of this rate (Mbit/s) carries in this time.
fn bytes_in(rate: u64, milliseconds: u64) -> u64 {
    rate.saturating_mul(1000 / 8).saturating_mul(milliseconds)
}

/// `MemTotal` of `/proc/meminfo`, in bytes.
fn total_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn memory(gib: u64) -> Limits {
        Limits {
            memory: Some(gib << 30),
            ..Limits::default()
        }
    }

    #[test]
    fn buffers_follow_memory_within_bounds() {
        for (limits, expected) in [
            (Limits::default(), MIB),
            (memory(0), MIB),
            (memory(1), 2 * MIB),
            (memory(3), 4 * MIB),
            (memory(4), 8 * MIB),
            (memory(1024), 8 * MIB),
        ] {
            let choice = socket_buffers(limits);
            assert_eq!((choice.rcvbuf, choice.sndbuf), (expected, expected));
            assert_eq!(choice.hint, None);
        }
    }

    #[test]
    fn low_limits_are_named() {
        let choice = socket_buffers(Limits {
            rmem_max: Some(212_992),
            wmem_max: Some(64 * MIB),
            ..memory(1)
        });
        assert_eq!(choice.rcvbuf, 2 * MIB);
        assert_eq!(
            choice.hint.as_deref(),
            Some(
                "socket buffers are limited: net.core.rmem_max is 212992, 2097152 would be better"
            )
        );
    }

    #[test]
    fn a_larger_default_stays() {
        let choice = socket_buffers(Limits {
            rmem_default: Some(16 * MIB),
            wmem_default: Some(212_992),
            ..memory(64)
        });
        assert_eq!((choice.rcvbuf, choice.sndbuf), (16 * MIB, 8 * MIB));
    }

    #[test]
    fn buffers_follow_the_rate_as_far_as_memory_goes() {
        for (gib, rate, expected) in [
            (64, 10, MIB),
            (64, 1_000, 4 * MIB),
            (64, 5_000, 16 * MIB),
            (64, 10_000, 32 * MIB),
            (64, u64::MAX, 32 * MIB),
            (4, 10_000, 8 * MIB),
            (0, 10_000, MIB),
        ] {
            let limits = Limits {
                rate: Some(rate),
                ..memory(gib)
            };
            assert_eq!(socket_buffers(limits).rcvbuf, expected, "{gib} {rate}");
        }
    }

    #[test]
    fn queue_lengths() {
        assert_eq!(txqueuelen(Limits::default()), 500);
        assert_eq!(txqueuelen(memory(1)), 1000);
        for (gib, rate, expected) in [
            (64, 100, 500),
            (64, 2_500, 1042),
            (64, 100_000, 4000),
            (64, u64::MAX, 4000),
            (2, 10_000, 2048),
            (0, 10_000, 500),
        ] {
            let limits = Limits {
                rate: Some(rate),
                ..memory(gib)
            };
            assert_eq!(txqueuelen(limits), expected, "{gib} {rate}");
        }
    }

    #[test]
    fn figures_are_read() {
        assert_eq!(
            total_memory("MemTotal:       16 kB\nMemFree: 1 kB\n"),
            Some(16384)
        );
        for bad in ["", "MemTotal: x kB", "MemTotal: 1", "MemFree: 1 kB"] {
            assert_eq!(total_memory(bad), None, "{bad}");
        }
        assert!(Limits::read().memory.is_some_and(|memory| memory > 0));
        assert_eq!(
            Limits::read_from(Path::new("/nonexistent")),
            Limits::default()
        );
    }
}
