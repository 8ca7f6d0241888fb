//! The tunnel's devices: queue and losses.

use super::outer::per_million;
use crate::doctor::facts::{Facts, Link, Wishes};
use crate::doctor::finding::{Area, Change, Finding, Severity, Target};
use crate::host;

pub(super) fn judge(facts: &Facts, wishes: &Wishes, findings: &mut Vec<Finding>) {
    let configured = wishes.config.as_ref().and_then(|config| config.txqueuelen);
    let wanted = configured.unwrap_or_else(|| host::txqueuelen(facts.limits));
    for link in &facts.devices {
        findings.push(queue(link, wanted, wishes.devices.contains(&link.name)));
    }
}

/// Only a device that was named is changed: others may be another program's.
fn queue(link: &Link, wanted: u32, named: bool) -> Finding {
    let share = per_million(link.tx_dropped, link.tx_packets);
    let seen = format!(
        "{}: {}, queue of {} packets, {} dropped ({share} in a million)",
        link.name, link.qdisc, link.txqueuelen, link.tx_dropped
    );
    let finding = |severity| Finding::new("device-queue", Area::Device, severity, seen.clone());
    if link.txqueuelen >= wanted {
        return match share {
            0..100 => finding(Severity::Ok),
            _ => finding(Severity::Info)
                .cost("packets came faster than the tunnel sent them; a longer queue would only add delay")
                .fix("more or faster workers, or a faster cipher"),
        };
    }
    let severity = if share >= 100 {
        Severity::Worth
    } else {
        Severity::Info
    };
    let found = finding(severity).cost(format!(
        "bursts beyond {} packets are dropped, and TCP inside slows down",
        link.txqueuelen
    ));
    let target = Target::TxQueueLen {
        link: link.name.clone(),
    };
    let change = Change::new(target, link.txqueuelen, wanted);
    match named {
        true => found.change(change),
        false => found.fix(change.command()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::rules::judge as judge_all;
    use crate::doctor::testing::good_host;

    #[test]
    fn only_a_named_device_is_changed() {
        let mut facts = good_host();
        facts.devices[0].txqueuelen = 100;
        facts.devices[0].tx_dropped = 500;
        let device = |named: &[&str]| {
            let wishes = Wishes {
                devices: named.iter().map(|&name| name.to_owned()).collect(),
                ..Wishes::default()
            };
            let (findings, _) = judge_all(&facts, &wishes);
            findings
                .into_iter()
                .find(|f| f.id == "device-queue")
                .unwrap()
        };
        let other = device(&[]);
        assert_eq!((other.severity, other.changes.len()), (Severity::Worth, 0));
        let ours = device(&["tun0"]);
        assert_eq!(
            ours.fix.as_deref(),
            Some("ip link set dev tun0 txqueuelen 1000")
        );
        assert_eq!(
            ours.changes[0].undo(),
            "ip link set dev tun0 txqueuelen 100"
        );
    }

    #[test]
    fn a_long_queue_that_drops_is_not_made_longer() {
        let mut facts = good_host();
        facts.devices[0].tx_dropped = 100_000;
        let (findings, _) = judge_all(&facts, &Wishes::default());
        let finding = findings.iter().find(|f| f.id == "device-queue").unwrap();
        assert_eq!(finding.severity, Severity::Info);
        assert!(finding.changes.is_empty());
    }
}
