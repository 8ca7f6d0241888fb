//! The interfaces outside the tunnel: offloads, MTU, queues and interrupts.

use super::Plan;
use crate::cpu_list::CpuList;
use crate::doctor::facts::{Facts, Link, Mss, Use, Wishes};
use crate::doctor::finding::{Area, Change, Finding, Severity, Target, quoted};

/// What AES-GCM adds to a packet: opcode and peer-id, packet id, tag.
const SEAL: u32 = 4 + 4 + 16;
/// IP and UDP headers outside.
const OUTER_V4: u32 = 20 + 8;
const OUTER_V6: u32 = 40 + 8;

pub(super) fn judge(facts: &Facts, wishes: &Wishes, plan: &Plan, findings: &mut Vec<Finding>) {
    if facts.outer.is_empty() {
        let seen = "no interface leads outside: name one with --interface";
        findings.push(finding("outer", Severity::Info, seen));
    }
    for link in &facts.outer {
        match link.features {
            Some(_) => {
                findings.push(segmentation(link));
                findings.push(checksum(link, facts.kernel.version));
                findings.push(receive_offload(link));
                findings.push(forwarding(link, facts.stack.forwards));
            }
            None => findings.push(finding(
                "features",
                Severity::Info,
                format!("{}: its offloads are not visible here", link.name),
            )),
        }
        let v6 = wishes.remote.is_some_and(|remote| remote.is_ipv6());
        findings.push(mtu(link, wishes.config.as_ref(), v6));
        findings.push(queues(link, facts, plan));
        findings.push(interrupts(
            link,
            wishes.config.as_ref(),
            &facts.processor.allowed,
            plan,
        ));
        findings.extend(node(link, facts, wishes.config.as_ref()));
        findings.extend(drops(link));
    }
}

fn finding(id: &'static str, severity: Severity, seen: impl Into<String>) -> Finding {
    Finding::new(id, Area::Outer, severity, seen)
}

/// On, off and changeable, or off for good (also when the kernel does not know the name).
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    On,
    Off,
    Fixed,
}

fn state(link: &Link, name: &str) -> State {
    let feature = link.features.as_ref().and_then(|all| all.get(name));
    match feature {
        Some(feature) if feature.on => State::On,
        Some(feature) if feature.changeable => State::Off,
        _ => State::Fixed,
    }
}

fn switch(link: &Link, name: &'static str, on: bool) -> Change {
    let word = |on| if on { "on" } else { "off" };
    let link = link.name.clone();
    Change::new(Target::Feature { link, name }, word(!on), word(on))
}

fn segmentation(link: &Link) -> Finding {
    const NAME: &str = "tx-udp-segmentation";
    let about = |severity, what: &str| {
        finding(
            "udp-segmentation",
            severity,
            format!("{}: {NAME} is {what}", link.name),
        )
    };
    let cost = "the kernel cuts super-packets before the driver: 0.65 us a packet instead of 0.1; \
                over veth one TCP stream ran 5.4 instead of 10.2 Gbit/s, and CPU time per gigabyte doubled";
    match state(link, NAME) {
        State::On => about(Severity::Ok, "on"),
        State::Off => about(Severity::Worth, "off")
            .cost(cost)
            .change(switch(link, NAME, true)),
        State::Fixed => about(Severity::Info, "off, and the driver has no other way").cost(cost),
    }
}

fn checksum(link: &Link, version: Option<(u32, u32)>) -> Finding {
    const GENERIC: &str = "tx-checksum-ip-generic";
    let about = |severity, what: &str| {
        finding(
            "tx-checksum",
            severity,
            format!("{}: transmit checksums are {what}", link.name),
        )
    };
    let on = |name| state(link, name) == State::On;
    if on(GENERIC) || on("tx-checksum-ipv4") {
        return about(Severity::Ok, "made by the device");
    }
    // Since 6.11 the kernel makes them itself and still segments.
    let (severity, cost) = match version.is_some_and(|version| version >= (6, 11)) {
        true => (
            Severity::Info,
            "the processor sums every packet: 0.05-0.1 us each",
        ),
        false => (
            Severity::Worth,
            "the kernel refuses UDP segmentation without them: 1.3-1.8 us a packet instead of 0.1",
        ),
    };
    match state(link, GENERIC) {
        State::Off => about(severity.max(Severity::Worth), "switched off")
            .cost(cost)
            .fix(format!("ethtool -K {} tx on", quoted(&link.name))),
        _ => about(severity.min(Severity::Info), "not made by the device").cost(cost),
    }
}

fn receive_offload(link: &Link) -> Finding {
    let about = |severity, what: &str| {
        let seen = format!("{}: generic-receive-offload is {what}", link.name);
        finding("gro", severity, seen)
    };
    match state(link, "rx-gro") {
        State::On => about(Severity::Ok, "on"),
        State::Off => about(Severity::Worth, "off")
            .cost("datagrams arrive one by one: 1.0 us each instead of 0.15")
            .fix(format!("ethtool -K {} gro on", quoted(&link.name))),
        State::Fixed => about(Severity::Info, "not to be had"),
    }
}

/// For traffic that is forwarded into the tunnel. The tunnel's own datagrams are joined without it,
/// because their socket asks for that; and lists of fragments would have to be cut again for TUN.
fn forwarding(link: &Link, forwards: bool) -> Finding {
    const FORWARDING: &str = "rx-udp-gro-forwarding";
    const LIST: &str = "rx-gro-list";
    let about = |severity, what: &str| {
        finding("gro-forwarding", severity, format!("{}: {what}", link.name))
    };
    let (join, list) = (state(link, FORWARDING), state(link, LIST));
    if !forwards {
        return about(
            Severity::Ok,
            "nothing is forwarded, so UDP need not be joined for that",
        );
    }
    if join == State::Fixed {
        return about(Severity::Info, "forwarded UDP cannot be joined")
            .cost("UDP from behind this host enters the tunnel packet by packet");
    }
    if join == State::On && list != State::On {
        return about(Severity::Ok, "forwarded UDP is joined");
    }
    let mut changes = Vec::new();
    if join == State::Off {
        changes.push(switch(link, FORWARDING, true));
    }
    if list == State::On {
        changes.push(switch(link, LIST, false));
    }
    let commands: Vec<String> = changes.iter().map(Change::command).collect();
    let found = about(Severity::Worth, "forwarded UDP is not joined for the tunnel")
        .cost("UDP from behind this host (QUIC) enters the tunnel packet by packet: 0.85 us for each read instead of 0.17")
        .fix(commands.join("\n"));
    changes.into_iter().fold(found, Finding::change)
}

fn mtu(link: &Link, config: Option<&Use>, v6: bool) -> Finding {
    let outer = if v6 { OUTER_V6 } else { OUTER_V4 };
    let overhead = SEAL + outer;
    let tun_mtu = config.map_or(1500, |config| config.tun_mtu);
    let mss = config.map_or(Mss::Outer(1492), |config| config.mssfix);
    let full = tun_mtu + overhead;
    let tcp = match mss {
        Mss::Off => full,
        Mss::Outer(size) => size.min(full),
        Mss::Inner(size) => size.min(tun_mtu) + overhead,
    };
    let about = |severity, what: String| {
        finding(
            "outer-mtu",
            severity,
            format!("{}: MTU {}: {what}", link.name, link.mtu),
        )
    };
    if tcp > link.mtu {
        return about(
            Severity::Worth,
            format!("TCP inside makes packets of {tcp} bytes outside"),
        )
        .cost("each is sent as two fragments: no segmentation, twice the packets, and many networks drop fragments")
        .fix(format!("mssfix {} mtu", link.mtu));
    }
    if full > link.mtu {
        return about(
            Severity::Info,
            format!("TCP inside fits (at most {tcp} bytes outside); other packets of tun-mtu {tun_mtu} make {full} with AES-GCM"),
        )
        .cost("large UDP inside is sent as fragments")
        .fix(format!("tun-mtu {} on both ends", link.mtu.saturating_sub(overhead)));
    }
    let room = link.mtu - overhead;
    if link.mtu > 2000 && room > tun_mtu + 500 {
        return about(
            Severity::Info,
            format!("tun-mtu {tun_mtu} leaves room for {room}"),
        )
        .cost("smaller packets than the link carries; worth it only if the whole path carries them")
        .fix(format!("tun-mtu {room} on both ends"));
    }
    about(
        Severity::Ok,
        format!("tun-mtu {tun_mtu} fits with AES-GCM ({full} bytes outside)"),
    )
}

fn queues(link: &Link, facts: &Facts, plan: &Plan) -> Finding {
    let about =
        |severity, what: String| finding("queues", severity, format!("{}: {what}", link.name));
    let now = link.rx_queues;
    let processors = facts.processor.allowed.len().max(1) as u32;
    let wanted = link.rx_queues_max.unwrap_or(now).min(processors);
    let steered = link.rps.iter().any(|cpus| !cpus.is_empty());
    match now {
        0 => about(Severity::Info, "its queues are not visible here".into()),
        _ if now < wanted => about(
            Severity::Info,
            format!("{now} of {wanted} receive queues that could be in use"),
        )
        .cost("fewer processors serve the card; matters for many peers, since one peer's datagrams share a queue")
        .fix(format!("ethtool -L {} combined {wanted}", quoted(&link.name))),
        1 if processors > 1 && !steered && !plan.interrupts.is_empty() => {
            let cpus: CpuList = plan.interrupts.clone();
            about(Severity::Info, "one receive queue, no packet steering (RPS)".into())
                .cost("one processor receives for all; worth changing when it is also a worker's and softirq takes much of it")
                .fix(format!(
                    "echo {} > /sys/class/net/{}/queues/rx-0/rps_cpus",
                    cpus.mask(),
                    quoted(&link.name)
                ))
        }
        _ => about(Severity::Ok, format!("{now} receive queue(s)")),
    }
}

fn interrupts(link: &Link, config: Option<&Use>, allowed: &CpuList, plan: &Plan) -> Finding {
    let about =
        |severity, what: String| finding("interrupts", severity, format!("{}: {what}", link.name));
    if link.interrupts.is_empty() {
        return about(Severity::Info, "its interrupts are not visible here".into());
    }
    let serving: CpuList = link
        .interrupts
        .iter()
        .flat_map(|(_, cpus)| cpus.0.iter().copied())
        .collect();
    let seen = format!("{} interrupts on {serving}", link.interrupts.len());
    if plan.interrupts.is_empty() {
        return about(Severity::Ok, seen);
    }
    let pinned = config
        .map(|config| &config.cpus)
        .filter(|cpus| !cpus.is_empty());
    if let Some(cpus) = pinned.filter(|cpus| cpus.overlaps(&serving)) {
        let free: CpuList = allowed.0.difference(&cpus.0).copied().collect();
        let fix = match free.is_empty() {
            true => format!("ringway-cpus {}", plan.cpus),
            false => moving(link, &free),
        };
        return about(Severity::Worth, format!("{seen}; ringway-cpus is {cpus}"))
            .cost("a worker waits while its processor serves the card")
            .fix(fix);
    }
    let crowded = link.interrupts.len() > 2 && link.rx_queues > 1 && serving.len() == 1;
    if crowded && plan.interrupts.len() > 1 {
        return about(Severity::Worth, seen)
            .cost("one processor serves all queues")
            .fix(moving(link, &plan.interrupts));
    }
    about(Severity::Ok, seen)
}

/// The commands that deal a link's interrupts out to these processors.
fn moving(link: &Link, to: &CpuList) -> String {
    let mut commands: Vec<String> = link
        .interrupts
        .iter()
        .zip(to.0.iter().cycle())
        .map(|((number, _), cpu)| format!("echo {cpu} > /proc/irq/{number}/smp_affinity_list"))
        .collect();
    commands.push("(and keep irqbalance away from them)".to_owned());
    commands.join("\n")
}

/// Nothing where all memory is equally near.
fn node(link: &Link, facts: &Facts, config: Option<&Use>) -> Option<Finding> {
    let nodes = &facts.processor.nodes;
    if nodes.len() < 2 {
        return None;
    }
    let about =
        |severity, what: String| finding("numa", severity, format!("{}: {what}", link.name));
    let Some((node, near)) = link.node.and_then(|node| Some((node, nodes.get(&node)?))) else {
        return Some(about(
            Severity::Info,
            "its NUMA node is not visible here".into(),
        ));
    };
    let seen = format!("on NUMA node {node} (processors {near})");
    let cpus = config
        .map(|config| &config.cpus)
        .filter(|cpus| !cpus.is_empty());
    Some(match cpus {
        Some(cpus) if !cpus.0.is_subset(&near.0) => {
            about(Severity::Worth, format!("{seen}; ringway-cpus is {cpus}"))
                .cost("every packet crosses to the other node's memory")
                .fix(format!("ringway-cpus with processors out of {near}"))
        }
        _ => about(Severity::Ok, seen),
    })
}

fn drops(link: &Link) -> Option<Finding> {
    let share = per_million(link.tx_dropped, link.tx_packets);
    (share > 0).then(|| {
        let seen = format!(
            "{}: {} packets dropped on the way out, {share} in a million",
            link.name, link.tx_dropped
        );
        let severity = if share >= 100 {
            Severity::Worth
        } else {
            Severity::Info
        };
        finding("outer-drops", severity, seen)
            .cost("each one is a lost tunnel packet: TCP inside slows down")
            .fix(format!(
                "ip link set dev {} txqueuelen {}",
                quoted(&link.name),
                (link.txqueuelen * 2).max(1000)
            ))
    })
}

/// How many of a million; 0 when there were none at all.
pub(super) fn per_million(part: u64, whole: u64) -> u64 {
    part.saturating_mul(1_000_000)
        .checked_div(whole.saturating_add(part))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::facts::Feature;
    use crate::doctor::testing::{found, good_host, usual_config};

    fn with(name: &str, on: bool, changeable: bool) -> Facts {
        let mut facts = good_host();
        let features = facts.outer[0].features.as_mut().unwrap();
        features.insert(name.into(), Feature { on, changeable });
        facts
    }

    #[test]
    fn segmentation_is_switched_on_where_it_can_be() {
        let name = "tx-udp-segmentation";
        assert_eq!(
            found("udp-segmentation", &with(name, true, true), None).severity,
            Severity::Ok
        );
        let off = found("udp-segmentation", &with(name, false, true), None);
        assert_eq!(off.severity, Severity::Worth);
        assert_eq!(
            off.changes[0].undo(),
            "ethtool -K eth0 tx-udp-segmentation off"
        );
        let fixed = found("udp-segmentation", &with(name, false, false), None);
        assert_eq!((fixed.severity, fixed.changes.len()), (Severity::Info, 0));
    }

    #[test]
    fn checksums_matter_more_on_older_kernels() {
        let name = "tx-checksum-ip-generic";
        let mut facts = with(name, false, true);
        assert_eq!(found("tx-checksum", &facts, None).severity, Severity::Worth);
        facts = with(name, false, false);
        assert_eq!(found("tx-checksum", &facts, None).severity, Severity::Info);
        facts.kernel.version = Some((6, 1));
        let cost = found("tx-checksum", &facts, None).cost.unwrap();
        assert!(cost.contains("refuses UDP segmentation"), "{cost}");
    }

    #[test]
    fn forwarded_udp_is_joined_only_where_something_is_forwarded() {
        let mut facts = with("rx-udp-gro-forwarding", false, true);
        let features = facts.outer[0].features.as_mut().unwrap();
        let list = Feature {
            on: true,
            changeable: true,
        };
        features.insert("rx-gro-list".into(), list);
        facts.stack.forwards = false;
        assert_eq!(found("gro-forwarding", &facts, None).severity, Severity::Ok);
        facts.stack.forwards = true;
        let finding = found("gro-forwarding", &facts, None);
        assert_eq!(
            finding.fix.as_deref(),
            Some("ethtool -K eth0 rx-udp-gro-forwarding on\nethtool -K eth0 rx-gro-list off")
        );
        assert_eq!(finding.changes.len(), 2);
    }

    #[test]
    fn packets_must_fit() {
        for (mtu, mssfix, tun_mtu, severity, fix) in [
            (
                1500,
                Mss::Outer(1492),
                1500,
                Severity::Info,
                "tun-mtu 1448 on both ends",
            ),
            (
                1400,
                Mss::Outer(1492),
                1500,
                Severity::Worth,
                "mssfix 1400 mtu",
            ),
            (1500, Mss::Off, 1500, Severity::Worth, "mssfix 1500 mtu"),
            (
                1500,
                Mss::Inner(1460),
                1500,
                Severity::Worth,
                "mssfix 1500 mtu",
            ),
            (1500, Mss::Inner(1448), 1448, Severity::Ok, ""),
            (
                9000,
                Mss::Outer(1492),
                1500,
                Severity::Info,
                "tun-mtu 8948 on both ends",
            ),
        ] {
            let mut facts = good_host();
            facts.outer[0].mtu = mtu;
            let config = Use {
                mssfix,
                tun_mtu,
                ..usual_config()
            };
            let finding = found("outer-mtu", &facts, Some(config));
            assert_eq!(finding.severity, severity, "{mtu} {mssfix:?}");
            assert_eq!(finding.fix.unwrap_or_default(), fix);
        }
    }

    #[test]
    fn interrupts_keep_away_from_workers() {
        let facts = good_host();
        let config = Use {
            cpus: CpuList::parse("0,1").unwrap(),
            ..usual_config()
        };
        let finding = found("interrupts", &facts, Some(config));
        assert_eq!(finding.severity, Severity::Worth);
        let fix = finding.fix.unwrap();
        assert!(
            fix.starts_with("echo 2 > /proc/irq/30/") && fix.contains("echo 3 > /proc/irq/31/")
        );
        let config = Use {
            cpus: CpuList::parse("0-3").unwrap(),
            ..usual_config()
        };
        let finding = found("interrupts", &facts, Some(config));
        assert_eq!(finding.fix.as_deref(), Some("ringway-cpus 2,3"));
        let mut one = good_host();
        for (_, cpus) in &mut one.outer[0].interrupts {
            *cpus = CpuList::parse("0").unwrap();
        }
        assert_eq!(found("interrupts", &one, None).severity, Severity::Worth);
        one.outer[0].rx_queues = 1;
        one.outer[0].rx_queues_max = None;
        assert_eq!(found("interrupts", &one, None).severity, Severity::Ok);
        assert!(
            found("queues", &one, None)
                .fix
                .unwrap()
                .contains("rps_cpus")
        );
    }

    #[test]
    fn workers_stay_on_the_cards_node() {
        let mut facts = good_host();
        let cpu = |text: &str| CpuList::parse(text).unwrap();
        facts.processor.nodes = [(0, cpu("0,1")), (1, cpu("2,3"))].into();
        assert_eq!(found("numa", &facts, None).severity, Severity::Info);
        facts.outer[0].node = Some(1);
        assert_eq!(found("numa", &facts, None).severity, Severity::Ok);
        let config = Use {
            cpus: cpu("1,2"),
            ..usual_config()
        };
        assert_eq!(
            found("numa", &facts, Some(config)).severity,
            Severity::Worth
        );
    }

    #[test]
    fn drops_are_weighed() {
        let mut facts = good_host();
        facts.outer[0].tx_dropped = 1000;
        assert_eq!(found("outer-drops", &facts, None).severity, Severity::Worth);
        facts.outer[0].tx_packets = 1_000_000_000;
        facts.outer[0].tx_dropped = 2000;
        assert_eq!(found("outer-drops", &facts, None).severity, Severity::Info);
        assert_eq!(per_million(0, 0), 0);
        assert_eq!(per_million(1, 0), 1_000_000);
    }
}
