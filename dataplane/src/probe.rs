//! What this kernel lets the packet path use, found out by trying and leaving nothing behind.
//!
//! The ring is set up exactly as a worker would and dropped. The device is made in a network
//! namespace of a thread's own, so that neither the host's list of devices nor its udev sees it.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;

use nix::sched::{CloneFlags, unshare};
use nix::sys::eventfd::EventFd;

use crate::error::StartError;
use crate::sys::ring::Uring;
use crate::tun::{TunConfig, TunDevice};
use crate::udp::{Family, UdpConfig, UdpSocket};

/// What a TUN device of this kernel accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunOffer {
    /// Packets carry a virtio header.
    pub vnet_header: bool,
    /// TCP super-packets.
    pub tso: bool,
    /// UDP super-packets.
    pub uso: bool,
    /// More than one queue.
    pub multi_queue: bool,
}

/// What a UDP socket of this kernel accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpOffer {
    /// One send becomes many datagrams.
    pub segmentation: bool,
    /// One receive returns many datagrams.
    pub receive_offload: bool,
}

/// Sets up the ring of a worker.
///
/// # Errors
/// The kernel or its policy refuses io_uring, or lacks a feature the engine builds on.
pub fn uring() -> Result<(), StartError> {
    let socket = Arc::new(UdpSocket::open(&loopback())?);
    let fail = |error: io::Error| StartError::io("io_uring", error);
    let wake = EventFd::new().map_err(|errno| fail(errno.into()))?;
    Uring::new(Some(socket), Arc::new(wake))
        .map(drop)
        .map_err(fail)
}

/// Opens a UDP socket on the loopback address.
///
/// # Errors
/// No socket can be opened at all.
pub fn udp() -> Result<UdpOffer, StartError> {
    let socket = UdpSocket::open(&loopback())?;
    Ok(UdpOffer {
        segmentation: socket.has_gso(),
        // Two names are possible, and segmentation is the first of them.
        receive_offload: socket.missing_offloads().count() == usize::from(!socket.has_gso()),
    })
}

/// Opens a device through `node` (`/dev/net/tun` when `None`) in a namespace of its own.
///
/// # Errors
/// `Ok(Err(..))` when the device cannot be had; `Err` when there can be no namespace, so that
/// nothing was tried.
pub fn tun(node: Option<PathBuf>) -> io::Result<Result<TunOffer, StartError>> {
    let probe = move || -> io::Result<Result<TunOffer, StartError>> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        Ok(offer(node))
    };
    std::thread::Builder::new()
        .name("probe".into())
        .spawn(probe)?
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the probe panicked")))
}

fn offer(node: Option<PathBuf>) -> Result<TunOffer, StartError> {
    let mut config = TunConfig::new("probe0");
    config.node = node;
    let device = TunDevice::open(&config)?;
    let vnet_header = device.queues[0].has_vnet_header();
    let caps = device.queues[0].caps();
    drop(device);
    config.queues = 2;
    Ok(TunOffer {
        vnet_header,
        tso: caps.tso,
        uso: caps.uso,
        multi_queue: TunDevice::open(&config).is_ok(),
    })
}

fn loopback() -> UdpConfig {
    UdpConfig {
        local: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        ..UdpConfig::new(Family::V4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn udp_offloads_are_told_apart() {
        let offer = udp().unwrap();
        let socket = UdpSocket::open(&loopback()).unwrap();
        assert_eq!(offer.segmentation, socket.has_gso());
        let plain = UdpConfig {
            offload: false,
            ..loopback()
        };
        assert!(!UdpSocket::open(&plain).unwrap().has_gso());
    }

    #[test]
    fn a_probed_device_is_never_seen_here() {
        let Ok(probed) = tun(None) else {
            eprintln!("skipped: no network namespace of our own");
            return;
        };
        assert!(probed.is_ok_and(|offer| offer.vnet_header && offer.multi_queue));
        assert!(nix::net::if_::if_nametoindex("probe0").is_err());
        let error = tun(Some("/nonexistent".into())).unwrap().unwrap_err();
        assert!(error.to_string().contains("/nonexistent"), "{error}");
    }
}
