//! Interfaces: netlink for what belongs to this network namespace, files for their hardware.

use std::fmt::Write as _;

use super::{names, number, text};
use crate::cpu_list::CpuList;
use crate::doctor::facts::Link;
use crate::netlink::{self, Ethtool, LinkState};
use crate::route;

/// All interfaces of this network namespace.
pub(super) struct Links(Vec<LinkState>);

impl Links {
    pub(super) fn read() -> Self {
        Links(netlink::links().unwrap_or_default())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|state| state.name == name)
    }

    pub(super) fn tun_names(&self) -> impl Iterator<Item = String> {
        let tuns = self.0.iter().filter(|state| state.is_tun);
        tuns.map(|state| state.name.clone())
    }

    /// Everything about one of them.
    pub(super) fn link(&self, name: &str) -> Option<Link> {
        let state = self.0.iter().find(|state| state.name == name)?;
        let mut ethtool = Ethtool::open().ok();
        let features = ethtool.as_mut().and_then(|e| e.features(name).ok());
        let channels = ethtool.as_mut().and_then(|e| e.channels(name).ok());
        let (now, most) = channels.unwrap_or((0, 0));
        let mut link = Link {
            name: state.name.clone(),
            mtu: state.mtu,
            txqueuelen: state.txqueuelen,
            qdisc: state.qdisc.clone(),
            features,
            rx_queues: if now > 0 { now } else { state.rx_queues },
            rx_queues_max: (most > 0).then_some(most),
            tx_packets: state.tx_packets,
            tx_dropped: state.tx_dropped,
            ..Link::default()
        };
        if files_belong_to(state) {
            link.rate = route::rate(name);
            hardware(&mut link);
        }
        Some(link)
    }
}

/// `/sys` may have been mounted in another network namespace, where the same name is another link.
fn files_belong_to(state: &LinkState) -> bool {
    let folder = format!("/sys/class/net/{}", state.name);
    let mut address = String::new();
    for (index, byte) in state.address.iter().enumerate() {
        // Writing to a string cannot fail.
        let _ = write!(address, "{}{byte:02x}", if index == 0 { "" } else { ":" });
    }
    number::<u32>(format!("{folder}/ifindex")) == Some(state.index)
        && text(format!("{folder}/address")) == Some(address)
}

fn hardware(link: &mut Link) {
    let folder = format!("/sys/class/net/{}", link.name);
    // -1 stands for "no node".
    link.node = number(format!("{folder}/device/numa_node"));
    link.rps = names(format!("{folder}/queues"))
        .iter()
        .filter(|queue| queue.starts_with("rx-"))
        .filter_map(|queue| {
            CpuList::parse_mask(&text(format!("{folder}/queues/{queue}/rps_cpus"))?)
        })
        .collect();
    let table = text("/proc/interrupts").unwrap_or_default();
    let device = std::fs::read_link(format!("{folder}/device"))
        .ok()
        .and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
    // The vectors of a PCI device; those of a virtio device are listed with its parent.
    let mut own: Vec<u32> = Vec::new();
    let is_virtio = device.as_deref().is_some_and(|d| d.starts_with("virtio"));
    let parent = is_virtio.then_some("device/../msi_irqs");
    for vectors in std::iter::once("device/msi_irqs").chain(parent) {
        let found = names(format!("{folder}/{vectors}"));
        own.extend(found.iter().filter_map(|name| name.parse::<u32>().ok()));
    }
    link.interrupts = queue_interrupts(&table, &link.name, device.as_deref(), &own)
        .into_iter()
        .filter_map(|number| {
            let folder = format!("/proc/irq/{number}");
            let cpus = text(format!("{folder}/effective_affinity_list"))
                .filter(|list| !list.is_empty())
                .or_else(|| text(format!("{folder}/smp_affinity_list")))?;
            Some((number, CpuList::parse(&cpus)?))
        })
        .collect();
}

/// Interrupts of a link's queues: those named after it or its device, and the vectors of its device
/// that have ever fired. Vectors for configuration changes are left out.
fn queue_interrupts(table: &str, link: &str, device: Option<&str>, own: &[u32]) -> Vec<u32> {
    let mut lines = table.lines();
    let columns = lines.next().unwrap_or_default().split_whitespace().count();
    let mut found = Vec::new();
    for line in lines {
        let Some((number, rest)) = line.trim_start().split_once(':') else {
            continue;
        };
        let Ok(number) = number.parse::<u32>() else {
            continue;
        };
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let fired = fields
            .iter()
            .take(columns)
            .any(|count| count.parse::<u64>().is_ok_and(|count| count > 0));
        let name = fields.last().copied().unwrap_or_default();
        let named = |prefix: &str| {
            name.strip_prefix(prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '@', ':', '.']))
        };
        let ours = named(link) || device.is_some_and(named) || (own.contains(&number) && fired);
        if ours && !name.ends_with("config") {
            found.push(number);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupts_of_queues() {
        let table = "           CPU0       CPU1\n \
            24:          1          0  IO-APIC   5-edge      ACPI:Ged\n \
            37:          0          0 PCI-MSIX-0000:00:03.0   0-edge      virtio2-config\n \
            38:          0       9276 PCI-MSIX-0000:00:03.0   1-edge      virtio2-input.0\n \
            39:       7087          0 PCI-MSIX-0000:00:03.0   2-edge      virtio2-output.0\n \
            40:          1          0 PCI-MSI 1-edge      eth0-TxRx-0\n \
            41:          1          0 PCI-MSI 1-edge      eth01-TxRx-0\n \
            42:          5          0 PCI-MSI 1-edge      mlx5_comp0@pci:0000:01:00.0\n \
            43:          0          0 PCI-MSI 1-edge      mlx5_comp1@pci:0000:01:00.0\n\
            NMI:          0          0   Non-maskable interrupts\n";
        assert_eq!(
            queue_interrupts(table, "wan0", Some("virtio2"), &[]),
            [38, 39]
        );
        assert_eq!(queue_interrupts(table, "eth0", None, &[]), [40]);
        assert_eq!(queue_interrupts(table, "eth9", None, &[42, 43]), [42]);
        assert!(queue_interrupts("", "eth0", None, &[1]).is_empty());
    }

    #[test]
    fn a_link_of_another_namespace_is_not_taken_for_ours() {
        let links = Links::read();
        let mut lo = links
            .0
            .iter()
            .find(|link| link.name == "lo")
            .unwrap()
            .clone();
        if number::<u32>("/sys/class/net/lo/ifindex").is_none() {
            return;
        }
        assert!(files_belong_to(&lo));
        lo.address[5] ^= 1;
        assert!(!files_belong_to(&lo));
    }
}
