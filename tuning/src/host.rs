//! Kernel limits and memory, and the buffer sizes that follow from them.
//!
//! ```text
//!  wanted socket buffer = memory / 512, between 1 and 8 MiB, rounded down to a power of two
//!  wanted transmit queue = 1000 packets, 500 below 1 GiB of memory
//! ```
//!
//! 8 MiB hold about 13 ms of a 5 Gbit/s stream: more than a control thread's longest pause, less
//! than what would turn congestion into seconds of delay. The kernel counts its bookkeeping into
//! the buffer, so about half of that is payload.

use std::fs;
use std::path::Path;

/// Smallest and largest socket buffer asked for, in bytes.
const BUFFER_RANGE: (usize, usize) = (1 << 20, 8 << 20);

/// Memory per byte of socket buffer.
const MEMORY_SHARE: u64 = 512;

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
        }
    }
}

/// The socket buffers to ask for when the configuration does not say (`rcvbuf`, `sndbuf`).
///
/// The sizes are what is wanted, whatever the limits: with CAP_NET_ADMIN they can be had beyond the
/// limit (`SO_RCVBUFFORCE`), without it the kernel cuts them. A default that is larger than what is
/// wanted stays.
pub fn socket_buffers(limits: Limits) -> Choice {
    let wanted = wanted_buffer(limits.memory);
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
/// (`txqueuelen`). A packet may be a super-packet of 64 KiB, so small hosts get the kernel's usual
/// 500.
pub fn txqueuelen(limits: Limits) -> u32 {
    const SMALL: u64 = 1 << 30;
    match limits.memory {
        Some(memory) if memory >= SMALL => 1000,
        _ => 500,
    }
}

fn wanted_buffer(memory: Option<u64>) -> usize {
    let (smallest, largest) = BUFFER_RANGE;
    let share = memory.map_or(0, |memory| memory / MEMORY_SHARE);
    let share = usize::try_from(share)
        .unwrap_or(usize::MAX)
        .clamp(smallest, largest);
    1 << share.ilog2()
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
    fn queue_lengths() {
        assert_eq!(txqueuelen(Limits::default()), 500);
        assert_eq!(txqueuelen(memory(1)), 1000);
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
