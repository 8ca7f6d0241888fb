//! Links by route netlink.

use std::io;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::{Netlink, Scope};

/// What the kernel says of one link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LinkState {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) address: Vec<u8>,
    pub(crate) mtu: u32,
    pub(crate) txqueuelen: u32,
    pub(crate) qdisc: String,
    /// A TUN or TAP device.
    pub(crate) is_tun: bool,
    pub(crate) rx_queues: u32,
    pub(crate) tx_queues: u32,
    pub(crate) tx_packets: u64,
    pub(crate) tx_dropped: u64,
    pub(crate) rx_dropped: u64,
}

/// All links of this network namespace.
pub(crate) fn links() -> io::Result<Vec<LinkState>> {
    let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let answers = Netlink::open(NETLINK_ROUTE)?.ask(request, Scope::All)?;
    Ok(answers
        .into_iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(message) => Some(state(message)),
            _ => None,
        })
        .collect())
}

/// Sets the transmit queue of a link, in packets.
pub(crate) fn set_txqueuelen(name: &str, packets: u32) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = nix::net::if_::if_nametoindex(name)?;
    message.attributes.push(LinkAttribute::TxQueueLen(packets));
    let request = RouteNetlinkMessage::SetLink(message);
    Netlink::open(NETLINK_ROUTE)?
        .ask(request, Scope::One)
        .map(drop)
}

fn state(message: LinkMessage) -> LinkState {
    let mut state = LinkState {
        index: message.header.index,
        ..LinkState::default()
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => state.name = name,
            LinkAttribute::Address(address) => state.address = address,
            LinkAttribute::Mtu(mtu) => state.mtu = mtu,
            LinkAttribute::TxQueueLen(packets) => state.txqueuelen = packets,
            LinkAttribute::Qdisc(name) => state.qdisc = name,
            LinkAttribute::NumRxQueues(queues) => state.rx_queues = queues,
            LinkAttribute::NumTxQueues(queues) => state.tx_queues = queues,
            LinkAttribute::Stats64(stats) => {
                state.tx_packets = stats.tx_packets;
                state.tx_dropped = stats.tx_dropped;
                state.rx_dropped = stats.rx_dropped;
            }
            LinkAttribute::LinkInfo(infos) => {
                state.is_tun = infos
                    .iter()
                    .any(|info| matches!(info, LinkInfo::Kind(InfoKind::Tun)));
            }
            _ => {}
        }
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_listed() {
        let links = links().unwrap();
        let lo = links.iter().find(|link| link.name == "lo").unwrap();
        assert!(lo.index > 0 && lo.mtu > 0 && !lo.is_tun);
        assert!(set_txqueuelen("no-such-link", 1).is_err());
    }
}
