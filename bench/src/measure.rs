//! The quantities, with their units and which way is better.

use serde::{Deserialize, Serialize};

/// One quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Measure {
    /// Received over TCP.
    TcpRate,
    /// CPU time of both VPN ends per gigabyte received over TCP.
    TcpCpu,
    /// 64-byte datagrams received, best of the offered rates.
    SmallRate,
    /// CPU time of both VPN ends per 64-byte datagram received.
    SmallCpu,
    /// 1200-byte datagrams received, best of the offered rates.
    UdpRate,
    /// CPU time of both VPN ends per gigabyte received in 1200-byte datagrams.
    UdpCpu,
    /// Round trip without load, median.
    IdleP50,
    /// Round trip without load, 99th percentile.
    IdleP99,
    /// Round trip without load, 99.9th percentile.
    IdleP999,
    /// Round trip beside one TCP stream, median.
    LoadedP50,
    /// Round trip beside one TCP stream, 99th percentile.
    LoadedP99,
    /// Round trip beside one TCP stream, 99.9th percentile.
    LoadedP999,
    /// Resident size of the receiving end after a load.
    Memory,
    /// The most it has been.
    MemoryPeak,
    /// How far the worst 100 ms around a change of keys stays below the others, median.
    RekeyDip,
    /// The same around moments at which nothing happens: the machine's own noise.
    QuietDip,
    /// The worst change of keys.
    RekeyWorst,
    /// The worst of the other moments.
    QuietWorst,
    /// What a change of keys costs: the median dip beyond that of the other moments.
    RekeyExcess,
    /// Datagrams lost while keys changed.
    RekeyLost,
    /// Sealing one 1400-byte packet.
    SealTime,
    /// Opening one 1400-byte packet.
    OpenTime,
    /// Logins for each second of processor time of a server.
    LoginRate,
    /// Resident size of a server, for each peer that is idle.
    PeerMemory,
    /// Processor time of a server whose peers are idle.
    KeepaliveLoad,
    /// TCP through the only peer of a server.
    AloneRate,
    /// TCP through one peer of many, the others idle.
    CrowdRate,
    /// The second as a part of the first.
    CrowdKept,
    /// From the start of a server to the last of its peers.
    StormTime,
    /// Round trip of an established peer while all others log in, 99th percentile.
    StormP99,
    /// The same as a multiple of that without.
    StormDelay,
    /// TCP of a peer beside a flood, as a part of that without.
    FloodKept,
    /// TCP of a peer beside a flood, as a part of that beside the same flood to an idle port.
    FloodKeptIdle,
    /// Packets of the flood.
    FloodRate,
    /// Growth of the server in a flood.
    FloodMemory,
    /// Packets received among peers of a server.
    MeshRate,
    /// Of these lost, without those that full receive buffers of the kernel have dropped.
    MeshLost,
    /// At the wrong peer, with another source, or damaged.
    MeshAstray,
    /// Behind a later one of their flow, or twice.
    MeshLate,
}

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Better {
    Higher,
    Lower,
}

impl Measure {
    /// What it is, without the unit.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::TcpRate => "TCP received",
            Self::TcpCpu => "CPU time of both ends, TCP",
            Self::SmallRate => "64-byte UDP received, best rate",
            Self::SmallCpu => "CPU time of both ends, 64-byte UDP",
            Self::UdpRate => "1200-byte UDP received, best rate",
            Self::UdpCpu => "CPU time of both ends, 1200-byte UDP",
            Self::IdleP50 => "round trip, idle, p50",
            Self::IdleP99 => "round trip, idle, p99",
            Self::IdleP999 => "round trip, idle, p99.9",
            Self::LoadedP50 => "round trip, under TCP load, p50",
            Self::LoadedP99 => "round trip, under TCP load, p99",
            Self::LoadedP999 => "round trip, under TCP load, p99.9",
            Self::Memory => "resident size after load",
            Self::MemoryPeak => "resident size, peak",
            Self::RekeyDip => "dip at a rekey, median",
            Self::QuietDip => "dip without one, median",
            Self::RekeyWorst => "dip at a rekey, worst",
            Self::QuietWorst => "dip without one, worst",
            Self::RekeyExcess => "dip due to a rekey",
            Self::RekeyLost => "datagrams lost across rekeys",
            Self::SealTime => "sealing a 1400-byte packet",
            Self::OpenTime => "opening a 1400-byte packet",
            Self::LoginRate => "logins per second of a core",
            Self::PeerMemory => "memory of one idle peer",
            Self::KeepaliveLoad => "a core, for the keepalives of idle peers",
            Self::AloneRate => "TCP of one peer, alone",
            Self::CrowdRate => "TCP of one peer, all others connected",
            Self::CrowdKept => "throughput kept with all others connected",
            Self::StormTime => "all peers back after a restart",
            Self::StormP99 => "round trip while all others log in, p99",
            Self::StormDelay => "the same, as a multiple of the quiet p99",
            Self::FloodKept => "throughput kept beside a flood",
            Self::FloodKeptIdle => "the same, against a flood to an idle port",
            Self::FloodRate => "packets of the flood",
            Self::FloodMemory => "growth of the server in the flood",
            Self::MeshRate => "packets among 50 peers, received",
            Self::MeshLost => "packets lost",
            Self::MeshAstray => "packets to the wrong peer, or damaged",
            Self::MeshLate => "packets out of order in their flow",
        }
    }

    /// Unit of its values.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::TcpRate | Self::UdpRate => "Gbit/s",
            Self::TcpCpu | Self::UdpCpu => "s/GB",
            Self::SmallRate => "thousand/s",
            Self::SmallCpu => "µs/packet",
            Self::IdleP50
            | Self::IdleP99
            | Self::IdleP999
            | Self::LoadedP50
            | Self::LoadedP99
            | Self::LoadedP999 => "µs",
            Self::Memory | Self::MemoryPeak => "MiB",
            Self::RekeyDip
            | Self::QuietDip
            | Self::RekeyWorst
            | Self::QuietWorst
            | Self::RekeyExcess => "%",
            Self::RekeyLost => "datagrams",
            Self::SealTime | Self::OpenTime => "ns",
            Self::LoginRate => "logins/s",
            Self::PeerMemory => "KiB",
            Self::KeepaliveLoad | Self::CrowdKept | Self::FloodKept | Self::FloodKeptIdle => "%",
            Self::AloneRate | Self::CrowdRate => "Gbit/s",
            Self::StormTime => "s",
            Self::StormP99 => "µs",
            Self::StormDelay => "x",
            Self::FloodRate | Self::MeshRate => "thousand/s",
            Self::FloodMemory => "MiB",
            Self::MeshLost | Self::MeshAstray | Self::MeshLate => "packets",
        }
    }

    /// Which way is better.
    pub(crate) fn better(self) -> Better {
        match self {
            Self::TcpRate
            | Self::UdpRate
            | Self::SmallRate
            | Self::LoginRate
            | Self::AloneRate
            | Self::CrowdRate
            | Self::CrowdKept
            | Self::FloodKept
            | Self::FloodKeptIdle
            | Self::FloodRate
            | Self::MeshRate => Better::Higher,
            Self::TcpCpu
            | Self::UdpCpu
            | Self::SmallCpu
            | Self::IdleP50
            | Self::IdleP99
            | Self::IdleP999
            | Self::LoadedP50
            | Self::LoadedP99
            | Self::LoadedP999
            | Self::Memory
            | Self::MemoryPeak
            | Self::RekeyDip
            | Self::QuietDip
            | Self::RekeyWorst
            | Self::QuietWorst
            | Self::RekeyExcess
            | Self::RekeyLost
            | Self::SealTime
            | Self::OpenTime
            | Self::PeerMemory
            | Self::KeepaliveLoad
            | Self::StormTime
            | Self::StormP99
            | Self::StormDelay
            | Self::FloodMemory
            | Self::MeshLost
            | Self::MeshAstray
            | Self::MeshLate => Better::Lower,
        }
    }

    /// A value as text, without the unit: three digits that matter.
    pub(crate) fn show(self, value: f64) -> String {
        let digits = match value.abs() {
            _ if ["datagrams", "packets"].contains(&self.unit()) => 0,
            v if v >= 100.0 => 0,
            v if v >= 10.0 => 1,
            _ => 2,
        };
        format!("{value:.digits$}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_show_what_matters() {
        assert_eq!(Measure::TcpRate.show(9.876), "9.88");
        assert_eq!(Measure::IdleP99.show(1234.5), "1234");
        assert_eq!(Measure::Memory.show(12.34), "12.3");
        assert_eq!(Measure::RekeyLost.show(0.0), "0");
    }
}
