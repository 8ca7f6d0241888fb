//! TUN/TAP devices: open or attach, probe offloads, make persistent ones.
//!
//! A queue carries a virtio-net header in front of every packet where the kernel allows it, so that
//! super-packets (TSO, USO) pass both ways; each offload is asked for on its own and given up on its
//! own. Attaching is exclusive: a device that another process already holds is refused, because two
//! readers of one tunnel both lose packets.
//!
//! Own ioctls, not the `tun` crate: that one offers neither the virtio header, nor the offload mask,
//! nor exclusive creation, nor another device node.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::error::StartError;
use crate::offload::coalesce::TunCaps;
use crate::offload::vnet_hdr::VnetHdr;
use crate::sys::ioctl;

const TUN_F_CSUM: u32 = 0x01;
const TUN_F_TSO4: u32 = 0x02;
const TUN_F_TSO6: u32 = 0x04;
const TUN_F_TSO_ECN: u32 = 0x08;
const TUN_F_USO4: u32 = 0x20;
const TUN_F_USO6: u32 = 0x40;

/// What kind of packets a device carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DeviceKind {
    /// IP packets.
    #[default]
    Tun,
    /// Ethernet frames.
    Tap,
}

/// How to open a device.
#[derive(Clone, Debug)]
pub struct TunConfig {
    /// The name: exact (`tun0`), or a prefix without a number (`tun`), to which the kernel adds the
    /// next free one; at most 15 bytes.
    pub name: String,
    /// IP packets or frames.
    pub kind: DeviceKind,
    /// The clone device (`dev-node`); `/dev/net/tun` when `None`.
    pub node: Option<PathBuf>,
    /// How many queues to open, at least 1. More than one makes a multi-queue device.
    pub queues: usize,
    /// Ask for the virtio header and offloads.
    pub offload: bool,
}

impl TunConfig {
    /// A TUN device with this name, one queue, offloads on.
    pub fn new(name: impl Into<String>) -> Self {
        TunConfig {
            name: name.into(),
            kind: DeviceKind::Tun,
            node: None,
            queues: 1,
            offload: true,
        }
    }
}

/// An open device: its name and queues.
#[derive(Debug)]
pub struct TunDevice {
    /// The kernel's name for it.
    pub name: String,
    /// Its interface index.
    pub ifindex: u32,
    /// One per configured queue.
    pub queues: Vec<TunQueue>,
}

impl TunDevice {
    /// Opens a device, creating it when it does not exist.
    ///
    /// # Errors
    /// The node cannot be opened, the device may not be used by this user, somebody else is attached
    /// (`EBUSY`), or it is of the other kind.
    pub fn open(config: &TunConfig) -> Result<Self, StartError> {
        let (name, dynamic) = device_name(&config.name);
        let fail = |error| StartError::io(format!("cannot open the device {}", config.name), error);
        let existed = !dynamic && nix::net::if_::if_nametoindex(name.as_str()).is_ok();
        let mut flags = libc::IFF_NO_PI
            | match config.kind {
                DeviceKind::Tun => libc::IFF_TUN,
                DeviceKind::Tap => libc::IFF_TAP,
            };
        if config.queues > 1 {
            flags |= libc::IFF_MULTI_QUEUE;
        }
        let exclusive = if existed || dynamic {
            0
        } else {
            libc::IFF_TUN_EXCL
        };

        let file = open_node(config.node.as_deref())?;
        let (name, vnet, flags) =
            attach(&file, &name, flags, exclusive, config.offload).map_err(fail)?;
        if existed && flags & libc::IFF_MULTI_QUEUE != 0 && attached_queues(&name) > Some(1) {
            return Err(fail(io::Error::from_raw_os_error(libc::EBUSY)));
        }
        let mut files = vec![file];
        for _ in 1..config.queues {
            let file = open_node(config.node.as_deref())?;
            let vnet = if vnet { libc::IFF_VNET_HDR } else { 0 };
            ioctl::tun_set_iff(file.as_fd(), &name, flags | vnet).map_err(fail)?;
            files.push(file);
        }

        let mut caps = TunCaps {
            tso: false,
            uso: false,
        };
        if vnet {
            for file in &files {
                ioctl::tun_set_vnet_hdr_len(file.as_fd(), VnetHdr::LEN as i32).map_err(fail)?;
            }
            caps = probe_offload(files[0].as_fd());
        }
        let ifindex = nix::net::if_::if_nametoindex(name.as_str())
            .map_err(|errno| fail(io::Error::from(errno)))?;
        let queues = files
            .into_iter()
            .map(|file| TunQueue {
                file,
                kind: config.kind,
                vnet,
                caps,
                reads: true,
            })
            .collect();
        Ok(TunDevice {
            name,
            ifindex,
            queues,
        })
    }
}

/// One queue of a device. Reads give one packet or super-packet each; dropping it detaches.
#[derive(Debug)]
pub struct TunQueue {
    file: File,
    kind: DeviceKind,
    vnet: bool,
    caps: TunCaps,
    reads: bool,
}

impl TunQueue {
    /// A queue on any descriptor that keeps message boundaries (a test's socket pair, or a TUN
    /// descriptor handed over by another program). `vnet` says that packets carry a 10-byte
    /// virtio-net header.
    pub fn from_file(file: File, kind: DeviceKind, vnet: bool, caps: TunCaps) -> Self {
        TunQueue {
            file,
            kind,
            vnet,
            caps,
            reads: true,
        }
    }

    /// A second handle on the same queue that is only written to.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn writer(&self) -> io::Result<Self> {
        Ok(TunQueue {
            file: self.file.try_clone()?,
            reads: false,
            ..*self
        })
    }

    /// Makes this queue of a multi-queue device one that is only written to. The kernel reads flows
    /// where they were last written, unless that was such a queue: then each stays where its hash puts
    /// it, and its order is kept.
    ///
    /// # Errors
    /// The kernel refuses it for a reason of its own.
    pub fn into_writer(mut self) -> io::Result<Self> {
        match ioctl::tun_detach_queue(self.file.as_fd()) {
            // Detached already through another handle, or the only queue there can be.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            result => result?,
        }
        self.reads = false;
        Ok(self)
    }

    /// Packets are read from it as well as written to it.
    pub fn is_read(&self) -> bool {
        self.reads
    }

    /// A second handle on the same queue, which keeps the device alive when the first is closed.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(TunQueue {
            file: self.file.try_clone()?,
            ..*self
        })
    }

    /// IP packets or frames.
    pub fn kind(&self) -> DeviceKind {
        self.kind
    }

    /// Packets carry a virtio-net header.
    pub fn has_vnet_header(&self) -> bool {
        self.vnet
    }

    /// Which super-packets may be written.
    pub fn caps(&self) -> TunCaps {
        self.caps
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Makes reads and writes return `EAGAIN` instead of waiting, or wait.
    pub(crate) fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        let flags = OFlag::from_bits_retain(fcntl(&self.file, FcntlArg::F_GETFL)?);
        let mut wanted = flags;
        wanted.set(OFlag::O_NONBLOCK, nonblocking);
        if wanted != flags {
            fcntl(&self.file, FcntlArg::F_SETFL(wanted))?;
        }
        Ok(())
    }
}

impl AsRawFd for TunQueue {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl AsFd for TunQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Makes a device that outlives this process (`--mktun`), usable by this user and group. Returns
/// its name.
///
/// # Errors
/// As [`TunDevice::open`]; also when owner or group cannot be set.
pub fn make_persistent(
    config: &TunConfig,
    owner: Option<u32>,
    group: Option<u32>,
) -> Result<String, StartError> {
    let device = TunDevice::open(config)?;
    let fail = |error| StartError::io(format!("cannot set up the device {}", device.name), error);
    let fd = device.queues[0].as_fd();
    if let Some(uid) = owner {
        ioctl::tun_set_owner(fd, uid).map_err(fail)?;
    }
    if let Some(gid) = group {
        ioctl::tun_set_group(fd, gid).map_err(fail)?;
    }
    ioctl::tun_set_persist(fd, true).map_err(fail)?;
    Ok(device.name.clone())
}

/// Removes a persistent device (`--rmtun`).
///
/// # Errors
/// As [`TunDevice::open`]; a device that does not exist is an error too.
pub fn remove_persistent(config: &TunConfig) -> Result<(), StartError> {
    let fail = |error| StartError::io(format!("cannot remove the device {}", config.name), error);
    nix::net::if_::if_nametoindex(config.name.as_str())
        .map_err(|errno| fail(io::Error::from(errno)))?;
    let device = TunDevice::open(config)?;
    ioctl::tun_set_persist(device.queues[0].as_fd(), false).map_err(fail)
}

/// A name without a digit at its end lets the kernel choose the number.
fn device_name(name: &str) -> (String, bool) {
    let dynamic = !name.contains('%') && !name.ends_with(|c: char| c.is_ascii_digit());
    // `tun` and `tap` mean "the next free one"; any other name is meant as it is.
    if dynamic && (name == "tun" || name == "tap") {
        (format!("{name}%d"), true)
    } else {
        (name.to_owned(), name.contains('%'))
    }
}

fn open_node(node: Option<&Path>) -> Result<File, StartError> {
    let node = node.unwrap_or(Path::new("/dev/net/tun"));
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_CLOEXEC)
        .open(node)
        .map_err(|error| StartError::io(format!("cannot open {}", node.display()), error))
}

/// Attaches with the virtio header or else without it. A persistent device that was made with
/// several queues wants that flag, whoever attaches. Returns name, header, flags without header.
fn attach(
    file: &File,
    name: &str,
    flags: i32,
    exclusive: i32,
    offload: bool,
) -> io::Result<(String, bool, i32)> {
    let mut result = Err(io::Error::from_raw_os_error(libc::EINVAL));
    for queues in [0, libc::IFF_MULTI_QUEUE] {
        for header in [libc::IFF_VNET_HDR, 0] {
            if header != 0 && !offload {
                continue;
            }
            let base = flags | queues;
            match ioctl::tun_set_iff(file.as_fd(), name, base | header | exclusive) {
                Ok(name) => return Ok((name, header != 0, base)),
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => result = Err(error),
                Err(error) => return Err(error),
            }
        }
    }
    result
}

/// Queues attached to a device, ours included, as sysfs shows them; `None` where it does not.
fn attached_queues(name: &str) -> Option<usize> {
    let entries = std::fs::read_dir(format!("/sys/class/net/{name}/queues")).ok()?;
    Some(
        entries
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("rx-"))
            .count(),
    )
}

/// Asks for as much as the kernel gives. The mask belongs to the device, not to the queue.
fn probe_offload(fd: BorrowedFd<'_>) -> TunCaps {
    let tso = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
    let uso = TUN_F_USO4 | TUN_F_USO6;
    for mask in [
        tso | TUN_F_TSO_ECN | uso,
        tso | TUN_F_TSO_ECN,
        tso | uso,
        tso,
        TUN_F_CSUM,
        0,
    ] {
        if ioctl::tun_set_offload(fd, mask).is_ok() {
            return TunCaps {
                tso: mask & tso == tso,
                uso: mask & uso == uso,
            };
        }
    }
    TunCaps {
        tso: false,
        uso: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::testing::in_network_namespace;

    #[test]
    fn names_say_whether_the_kernel_numbers_them() {
        assert_eq!(device_name("tun"), ("tun%d".into(), true));
        assert_eq!(device_name("tap"), ("tap%d".into(), true));
        assert_eq!(device_name("tun7"), ("tun7".into(), false));
        assert_eq!(device_name("office"), ("office".into(), false));
        assert_eq!(device_name("x%d"), ("x%d".into(), true));
    }

    #[test]
    fn opening_is_exclusive_and_reopening_works() {
        in_network_namespace(|| {
            let device = TunDevice::open(&TunConfig::new("tun")).unwrap();
            assert_eq!(device.name, "tun0");
            assert!(device.ifindex > 0);
            assert!(device.queues[0].has_vnet_header());
            assert!(device.queues[0].caps().tso);
            let error = TunDevice::open(&TunConfig::new("tun0")).unwrap_err();
            assert!(error.to_string().contains("busy"), "{error}");
            drop(device);
            let plain = TunConfig {
                offload: false,
                ..TunConfig::new("tun0")
            };
            let device = TunDevice::open(&plain).unwrap();
            assert!(!device.queues[0].has_vnet_header());
        });
    }

    #[test]
    fn persistent_devices_are_made_attached_and_removed() {
        in_network_namespace(|| {
            let config = TunConfig {
                kind: DeviceKind::Tap,
                ..TunConfig::new("keep0")
            };
            assert_eq!(make_persistent(&config, Some(0), Some(0)).unwrap(), "keep0");
            assert!(TunDevice::open(&TunConfig::new("keep0")).is_err());
            let device = TunDevice::open(&config).unwrap();
            assert_eq!(device.queues[0].kind(), DeviceKind::Tap);
            drop(device);
            remove_persistent(&config).unwrap();
            assert!(remove_persistent(&config).is_err());
        });
    }

    #[test]
    fn several_queues_open_and_a_bad_node_is_named() {
        in_network_namespace(|| {
            let config = TunConfig {
                queues: 2,
                ..TunConfig::new("many0")
            };
            let mut device = TunDevice::open(&config).unwrap();
            assert_eq!(device.queues.len(), 2);
            // Through either handle, and again.
            let queue = device.queues.pop().unwrap();
            let other = queue.try_clone().unwrap();
            assert!(!queue.into_writer().unwrap().is_read());
            assert!(!other.into_writer().unwrap().is_read());
            drop(device);
            let config = TunConfig {
                node: Some("/nonexistent".into()),
                ..TunConfig::new("tun")
            };
            let error = TunDevice::open(&config).unwrap_err().to_string();
            assert!(error.contains("/nonexistent"), "{error}");
            let config = TunConfig::new("a-name-that-is-too-long");
            assert!(TunDevice::open(&config).is_err());
        });
    }
}
