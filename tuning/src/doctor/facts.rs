//! What is known of the host, and what is wanted of it. Plain data: rules are functions of it.
//!
//! Everywhere `None` means that the host does not show it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::cpu::{Cores, Features};
use crate::cpu_list::CpuList;
use crate::host::Limits;
pub(crate) use crate::netlink::Feature;

/// What the person at the keyboard, or the configuration, cares for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// TUN devices whose settings may be judged and changed.
    pub devices: Vec<String>,
    /// Outer interfaces; when empty, the one towards `remote`, else those with a default route.
    pub interfaces: Vec<String>,
    /// The peer.
    pub remote: Option<IpAddr>,
    /// What a configuration uses; `None` looks at everything.
    pub config: Option<Use>,
}

/// What a configuration uses of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// MTU of the device, in bytes.
    pub tun_mtu: u32,
    /// Limit on TCP inside.
    pub mssfix: Mss,
    /// `txqueuelen`, in packets.
    pub txqueuelen: Option<u32>,
    /// `sndbuf`, in bytes.
    pub sndbuf: Option<usize>,
    /// `rcvbuf`, in bytes.
    pub rcvbuf: Option<usize>,
    /// `ringway-workers`.
    pub workers: usize,
    /// `ringway-cpus`; empty when not given.
    pub cpus: CpuList,
    /// io_uring may be used (`ringway-io`).
    pub uring: bool,
    /// Names of the data ciphers, preferred first.
    pub ciphers: Vec<String>,
    /// `mlock`.
    pub mlock: bool,
    /// Many peers instead of one.
    pub server: bool,
}

/// `mssfix`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mss {
    /// TCP is left alone.
    Off,
    /// Largest outer packet, in bytes, outer headers included.
    Outer(u32),
    /// Largest inner packet, in bytes.
    Inner(u32),
}

/// The answer to something tried.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Offer<T> {
    /// It was not tried, and why.
    Untried(String),
    /// Not relevant here.
    #[default]
    Unasked,
    /// It works.
    Works(T),
    /// It was refused, with the kernel's words.
    Refused(String),
}

/// What only the packet path can try out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offers {
    /// The ring of a worker.
    pub uring: Offer<()>,
    /// A TUN device.
    pub tun: Offer<TunFeatures>,
    /// A UDP socket.
    pub udp: Offer<UdpFeatures>,
}

/// What a TUN device accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunFeatures {
    /// TCP super-packets.
    pub tso: bool,
    /// UDP super-packets.
    pub uso: bool,
    /// More than one queue.
    pub multi_queue: bool,
}

/// What a UDP socket accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpFeatures {
    /// One send becomes many datagrams.
    pub segmentation: bool,
    /// One receive returns many datagrams.
    pub receive_offload: bool,
}

/// Everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// What was tried.
    pub offers: Offers,
    /// The kernel.
    pub kernel: Kernel,
    /// The processors.
    pub processor: Processor,
    /// Limits and defaults of sockets, and memory.
    pub limits: Limits,
    /// The network stack's queues and what they lost.
    pub stack: Stack,
    /// Outer interfaces.
    pub outer: Vec<Link>,
    /// TUN and TAP devices.
    pub devices: Vec<Link>,
    /// Interfaces asked for that do not exist.
    pub missing: Vec<String>,
    /// This process has CAP_NET_ADMIN.
    pub net_admin: bool,
}

/// The kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kernel {
    /// As `uname -r` shows it.
    pub release: String,
    /// Major and minor number.
    pub version: Option<(u32, u32)>,
    /// `kernel.io_uring_disabled`: 0 allowed, 1 for a group only, 2 for nobody.
    pub uring_disabled: Option<u32>,
    /// The clock in use, and those that could be.
    pub clocksource: Option<(String, Vec<String>)>,
    /// Vulnerabilities that the kernel mitigates.
    pub mitigations: Vec<String>,
    /// Soft limit on locked memory in bytes; `u64::MAX` for none.
    pub memlock: Option<u64>,
}

/// The processors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Processor {
    /// Instructions.
    pub features: Features,
    /// x86-64 or another known architecture: `features` means something.
    pub known: bool,
    /// How many threads may run.
    pub cores: Option<Cores>,
    /// Where this process may run.
    pub allowed: CpuList,
    /// Hardware threads of each physical core.
    pub siblings: Vec<CpuList>,
    /// Processors of each NUMA node.
    pub nodes: BTreeMap<usize, CpuList>,
    /// Processor, governor in use, `performance` is available.
    pub governors: Vec<(usize, String, bool)>,
}

/// The network stack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stack {
    /// `net.core.netdev_max_backlog`, in packets.
    pub backlog: Option<u64>,
    /// `net.core.netdev_budget`, in packets.
    pub budget: Option<u64>,
    /// Packets processed, dropped for a full backlog, and rounds that ended for lack of budget.
    pub softnet: Option<Softnet>,
    /// UDP of both families, since boot or since the namespace exists.
    pub udp: Option<UdpCounters>,
    /// Connections tracked, and the limit.
    pub conntrack: Option<(u64, u64)>,
    /// `net.ipv4.ip_forward` or its IPv6 sibling.
    pub forwards: bool,
}

/// Sums over `/proc/net/softnet_stat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Softnet {
    /// Packets.
    pub processed: u64,
    /// Packets.
    pub dropped: u64,
    /// Rounds.
    pub squeezed: u64,
}

/// Sums over `/proc/net/snmp` and `/proc/net/snmp6`, in datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpCounters {
    /// Delivered.
    pub received: u64,
    /// Lost because a receive buffer was full.
    pub receive_buffer: u64,
    /// Not sent because a send buffer was full.
    pub send_buffer: u64,
}

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Largest packet, in bytes.
    pub mtu: u32,
    /// Transmit queue, in packets.
    pub txqueuelen: u32,
    /// Queueing discipline.
    pub qdisc: String,
    /// In Mbit/s.
    pub rate: Option<u64>,
    /// Features by the kernel's names.
    pub(crate) features: Option<BTreeMap<String, Feature>>,
    /// Receive queues in use.
    pub rx_queues: u32,
    /// Receive queues the hardware has.
    pub rx_queues_max: Option<u32>,
    /// NUMA node.
    pub node: Option<usize>,
    /// Interrupts and the processors that serve them.
    pub interrupts: Vec<(u32, CpuList)>,
    /// Processors of receive packet steering, one per queue.
    pub rps: Vec<CpuList>,
    /// Packets sent.
    pub tx_packets: u64,
    /// Packets lost on the way out.
    pub tx_dropped: u64,
}
