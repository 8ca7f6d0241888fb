//! Frames of one's own making, from a TAP device that this process holds: a host on a bridge, as it
//! were, that may send anything.

use std::fs::File;
use std::io::{Read as _, Write as _, stdin};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ringway_dataplane::tun::{DeviceKind, TunConfig, TunDevice};

use super::{ready, report};

/// Largest frame that is looked at.
const MAX_FRAME: usize = 70_000;

pub(super) fn send(device: &str, frame: &str) -> Result<()> {
    let frame = bytes(frame)?;
    let mut device = open(device)?;
    ready()?;
    let mut line = String::new();
    stdin().read_line(&mut line)?;
    let mut sent = 0u64;
    for _ in 0..5 {
        device.write_all(&frame)?;
        sent += 1;
        std::thread::sleep(Duration::from_millis(30));
    }
    report(&sent)
}

pub(super) fn receive(device: &str, frame: &str, wait: Duration) -> Result<()> {
    let frame = bytes(frame)?;
    let mut device = open(device)?;
    ready()?;
    let end = Instant::now() + wait;
    let mut buffer = vec![0; MAX_FRAME];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(device.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::try_from(left)?)? == 0 {
            bail!("the frame did not arrive");
        }
        let len = device.read(&mut buffer)?;
        if buffer[..len] == frame[..] {
            return report(&len);
        }
    }
}

fn open(name: &str) -> Result<File> {
    let config = TunConfig {
        kind: DeviceKind::Tap,
        offload: false,
        ..TunConfig::new(name)
    };
    let device = TunDevice::open(&config)?;
    let queue = device.queues.first().context("a device without a queue")?;
    Ok(File::from(queue.as_fd().try_clone_to_owned()?))
}

fn bytes(digits: &str) -> Result<Vec<u8>> {
    ensure!(digits.len().is_multiple_of(2), "an odd number of digits");
    let pairs = digits.as_bytes().chunks(2);
    pairs
        .map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?))
        .collect()
}
