//! Frames of one's own making, from a TAP device that this process holds: a host on a bridge, as it
//! were, that may send anything. Tried frames have an ethertype that nobody else uses, behind a VLAN
//! tag or not.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read as _, Write as _, stdin};
use std::os::fd::AsFd as _;
use std::sync::mpsc::TryRecvError;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ringway_dataplane::tun::{DeviceKind, TunConfig, TunDevice};

use super::{bytes, ready, report, stdin_lines};

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

/// Ethertype of tried frames: local experimental (IEEE 802).
const TRIED: [u8; 2] = [0x88, 0xb5];
/// Ethertype of a VLAN tag (IEEE 802.1Q).
const VLAN: [u8; 2] = [0x81, 0x00];

pub(super) fn port(device: &str, last: &str, wait: Duration) -> Result<()> {
    let mut device = open(device)?;
    let lines = stdin_lines();
    ready()?;
    let end = Instant::now() + wait;
    let mut seen = BTreeSet::new();
    let mut buffer = vec![0; MAX_FRAME];
    let mut told_all = false;
    while !(told_all && seen.contains(last)) {
        ensure!(Instant::now() < end, "saw {seen:?}, and no {last}");
        match lines.try_recv() {
            Ok(frame) => device.write_all(&bytes(&frame)?)?,
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => told_all = true,
        }
        let mut fds = [PollFd::new(device.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::from(20u8))? == 0 {
            continue;
        }
        let len = device.read(&mut buffer)?;
        let frame = &buffer[..len];
        let inside = frame
            .get(12..14)
            .map(|kind| if kind == VLAN { 16 } else { 12 });
        if inside.and_then(|at| frame.get(at..at + 2)) == Some(&TRIED) {
            seen.insert(
                frame
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect::<String>(),
            );
        }
    }
    report(&seen)
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
