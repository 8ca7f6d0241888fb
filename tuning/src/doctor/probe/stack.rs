//! The network stack's settings and loss counters.

use std::collections::BTreeMap;

use super::{number, text};
use crate::doctor::facts::{Softnet, Stack, UdpCounters};

pub(super) fn read() -> Stack {
    let core = |name: &str| number(format!("/proc/sys/net/core/{name}"));
    let netfilter = |name: &str| number(format!("/proc/sys/net/netfilter/{name}"));
    let on = |path: &str| number::<u32>(path).is_some_and(|value| value != 0);
    Stack {
        backlog: core("netdev_max_backlog"),
        budget: core("netdev_budget"),
        softnet: text("/proc/net/softnet_stat").and_then(|text| softnet(&text)),
        udp: udp(
            &text("/proc/net/snmp").unwrap_or_default(),
            &text("/proc/net/snmp6").unwrap_or_default(),
        ),
        conntrack: netfilter("nf_conntrack_count").zip(netfilter("nf_conntrack_max")),
        forwards: on("/proc/sys/net/ipv4/ip_forward")
            || on("/proc/sys/net/ipv6/conf/all/forwarding"),
    }
}

/// A line per processor; hexadecimal: processed, dropped, squeezed, ...
fn softnet(text: &str) -> Option<Softnet> {
    let mut sum = Softnet::default();
    for line in text.lines() {
        let mut fields = line
            .split_whitespace()
            .map(|field| u64::from_str_radix(field, 16).ok());
        sum.processed += fields.next()??;
        sum.dropped += fields.next()??;
        sum.squeezed += fields.next()??;
    }
    (!text.is_empty()).then_some(sum)
}

/// IPv4 as a line of names and a line of values, IPv6 as a name and a value a line.
fn udp(snmp: &str, snmp6: &str) -> Option<UdpCounters> {
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = lines.next().zip(lines.next())?;
    let v4: BTreeMap<&str, u64> = names
        .split_whitespace()
        .zip(
            values
                .split_whitespace()
                .map(|value| value.parse().unwrap_or(0)),
        )
        .collect();
    let v6: BTreeMap<&str, u64> = snmp6
        .lines()
        .filter_map(|line| {
            let (name, value) = line.split_once(char::is_whitespace)?;
            Some((name.strip_prefix("Udp6")?, value.trim().parse().ok()?))
        })
        .collect();
    let both = |name| v4.get(name).unwrap_or(&0) + v6.get(name).unwrap_or(&0);
    Some(UdpCounters {
        received: both("InDatagrams"),
        receive_buffer: both("RcvbufErrors"),
        send_buffer: both("SndbufErrors"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_summed() {
        let sum = softnet("0000000a 00000001 00000002 0\n00000010 0 0 0\n").unwrap();
        assert_eq!((sum.processed, sum.dropped, sum.squeezed), (26, 1, 2));
        assert_eq!(softnet("x y z"), None);
        assert_eq!(softnet(""), None);
        let snmp = "Ip: A\nIp: 1\nUdp: InDatagrams NoPorts RcvbufErrors\nUdp: 7 1 2\nUdpLite: InDatagrams\nUdpLite: 9\n";
        let snmp6 = "Ip6InReceives 1\nUdp6InDatagrams   \t3\nUdp6SndbufErrors 4\n";
        let counters = udp(snmp, snmp6).unwrap();
        assert_eq!(
            counters,
            UdpCounters {
                received: 10,
                receive_buffer: 2,
                send_buffer: 4
            }
        );
        assert_eq!(udp("", ""), None);
    }
}
