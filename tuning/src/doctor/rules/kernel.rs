//! The kernel: what its version brings, what it allows.

use crate::doctor::facts::{Facts, Kernel, Offer, Use};
use crate::doctor::finding::{Area, Finding, Severity};

/// Features by the release that brought them, and what it costs to be without.
const FEATURES: [Brought; 7] = [
    Brought::new(
        (4, 18),
        "UDP segmentation",
        "sending costs 1.3-1.8 us a packet instead of 0.1",
        true,
    ),
    Brought::new(
        (5, 0),
        "UDP receive offload",
        "receiving costs 1.0 us a packet instead of 0.15",
        true,
    ),
    Brought::new(
        (6, 0),
        "io_uring multishot receive",
        "plain system calls are used instead",
        false,
    ),
    Brought::new(
        (6, 1),
        "io_uring without interruptions",
        "plain system calls are used instead",
        false,
    ),
    Brought::new(
        (6, 2),
        "UDP super-packets on TUN",
        "small packets move at about 0.6 of the rate",
        true,
    ),
    Brought::new(
        (6, 7),
        "io_uring multishot read",
        "one more request per packet from TUN",
        false,
    ),
    Brought::new((6, 9), "128 segments a send", "64 go at once", false),
];

/// Clocks that are read without entering the kernel.
const FAST_CLOCKS: [&str; 4] = [
    "tsc",
    "kvm-clock",
    "arch_sys_counter",
    "hyperv_clocksource_tsc_page",
];

struct Brought {
    version: (u32, u32),
    what: &'static str,
    cost: &'static str,
    matters: bool,
}

impl Brought {
    const fn new(
        version: (u32, u32),
        what: &'static str,
        cost: &'static str,
        matters: bool,
    ) -> Self {
        Brought {
            version,
            what,
            cost,
            matters,
        }
    }
}

pub(super) fn judge(facts: &Facts, config: Option<&Use>, findings: &mut Vec<Finding>) {
    findings.push(version(&facts.kernel));
    if config.is_none_or(|config| config.uring) {
        findings.extend(uring(facts));
    }
    findings.extend(tun(facts));
    findings.extend(udp(facts));
    findings.extend(clock(&facts.kernel));
    findings.extend(mitigations(&facts.kernel));
    if let Some(memlock) = facts.kernel.memlock {
        findings.push(locked(memlock, config.is_some_and(|config| config.mlock)));
    }
}

fn version(kernel: &Kernel) -> Finding {
    let finding = |severity, seen: String| Finding::new("kernel", Area::Kernel, severity, seen);
    let Some(version) = kernel.version else {
        return finding(
            Severity::Info,
            "the kernel's version is not visible here".into(),
        );
    };
    let missing: Vec<&Brought> = FEATURES
        .iter()
        .filter(|feature| feature.version > version)
        .collect();
    let Some(last) = missing.last() else {
        let seen = format!("Linux {}: has every feature Ringway uses", kernel.release);
        return finding(Severity::Ok, seen);
    };
    let matters = missing.iter().any(|feature| feature.matters);
    let severity = if matters {
        Severity::Worth
    } else {
        Severity::Info
    };
    let list = |of: fn(&Brought) -> String| {
        let parts: Vec<String> = missing.iter().map(|feature| of(feature)).collect();
        parts.join("; ")
    };
    let names = list(|f| format!("{} ({}.{})", f.what, f.version.0, f.version.1));
    let costs = list(|f| format!("{}: {}", f.what, f.cost));
    finding(
        severity,
        format!("Linux {} is too old for: {names}", kernel.release),
    )
    .cost(costs)
    .fix(format!(
        "install Linux {}.{} or later",
        last.version.0, last.version.1
    ))
}

fn uring(facts: &Facts) -> Option<Finding> {
    let finding = |severity, seen: String| Finding::new("io-uring", Area::Kernel, severity, seen);
    let reason = match &facts.offers.uring {
        Offer::Unasked => return None,
        Offer::Untried(why) => {
            return Some(finding(
                Severity::Info,
                format!("io_uring was not tried: {why}"),
            ));
        }
        Offer::Works(()) => {
            return Some(finding(Severity::Ok, "io_uring works".into()));
        }
        Offer::Refused(reason) => reason,
    };
    let refused = finding(Severity::Info, format!("io_uring is refused: {reason}")).cost(
        "plain system calls are used: the same cost per super-packet, more wake-ups when packets are small",
    );
    Some(match facts.kernel.uring_disabled {
        Some(2) => refused.fix("sysctl -w kernel.io_uring_disabled=0"),
        Some(1) => refused.fix(
            "run in the group of kernel.io_uring_group, or: sysctl -w kernel.io_uring_disabled=0",
        ),
        _ if facts.kernel.version.is_some_and(|version| version < (6, 1)) => {
            refused.fix("install Linux 6.1 or later")
        }
        // Allowed by the kernel, so a filter of system calls is in between.
        _ => refused.fix("allow io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp profile"),
    })
}

fn tun(facts: &Facts) -> Option<Finding> {
    let finding = |severity, seen: String| Finding::new("tun", Area::Kernel, severity, seen);
    Some(match &facts.offers.tun {
        Offer::Unasked => return None,
        Offer::Untried(why) => finding(Severity::Info, format!("TUN was not tried: {why}")),
        Offer::Refused(reason) => finding(Severity::Problem, reason.clone())
            .cost("no tunnel without a device")
            .fix("modprobe tun; in a container: --device /dev/net/tun --cap-add NET_ADMIN"),
        Offer::Works(tun) if tun.tso && tun.uso => {
            finding(Severity::Ok, "TUN takes TCP and UDP super-packets".into())
        }
        Offer::Works(tun) if tun.tso => finding(
            Severity::Worth,
            "TUN takes TCP super-packets, but none of UDP".into(),
        )
        .cost("small UDP packets move one by one, at about 0.6 of the rate")
        .fix("install Linux 6.2 or later"),
        Offer::Works(_) => finding(Severity::Worth, "TUN takes no super-packets".into())
            .cost("reading costs 0.85 us a packet instead of 0.17, writing 0.5-1.1 instead of 0.1")
            .fix("install a kernel with CONFIG_TUN and without limits on TUNSETOFFLOAD"),
    })
}

fn udp(facts: &Facts) -> Option<Finding> {
    let finding = |severity, seen: &str| Finding::new("udp-offloads", Area::Kernel, severity, seen);
    Some(match &facts.offers.udp {
        Offer::Unasked | Offer::Untried(_) => return None,
        Offer::Refused(reason) => finding(Severity::Problem, reason)
            .cost("no tunnel without a socket")
            .fix("allow UDP sockets"),
        Offer::Works(udp) if udp.segmentation && udp.receive_offload => {
            finding(Severity::Ok, "UDP sockets segment and join datagrams")
        }
        Offer::Works(udp) => finding(
            Severity::Worth,
            match udp.segmentation {
                true => "UDP sockets do not join received datagrams",
                false => "UDP sockets do not segment",
            },
        )
        .cost("up to 15 times the cost per datagram in the kernel")
        .fix("install Linux 5.0 or later"),
    })
}

fn clock(kernel: &Kernel) -> Option<Finding> {
    let finding =
        |severity, seen: String| Finding::new("clocksource", Area::Kernel, severity, seen);
    let Some((current, available)) = &kernel.clocksource else {
        let seen = "the clock source is not visible here";
        return Some(finding(Severity::Info, seen.into()));
    };
    if FAST_CLOCKS.contains(&current.as_str()) {
        return Some(finding(
            Severity::Ok,
            format!("the clock source is {current}"),
        ));
    }
    let slow = finding(Severity::Worth, format!("the clock source is {current}"))
        .cost("every look at the clock enters the kernel and takes up to 1 us instead of 0.03");
    let better = available
        .iter()
        .find(|name| FAST_CLOCKS.contains(&name.as_str()));
    Some(match better {
        Some(name) => slow.fix(format!(
            "echo {name} > /sys/devices/system/clocksource/clocksource0/current_clocksource"
        )),
        None => slow.fix("enable a stable TSC in the firmware or the hypervisor"),
    })
}

fn mitigations(kernel: &Kernel) -> Option<Finding> {
    (!kernel.mitigations.is_empty()).then(|| {
        let seen = format!("the kernel mitigates {}", kernel.mitigations.join(", "));
        Finding::new("mitigations", Area::Kernel, Severity::Info, seen)
            .cost("dearer system calls, which batches make few; no advice to change this")
    })
}

fn locked(memlock: u64, mlock: bool) -> Finding {
    const ENOUGH: u64 = 256 << 20;
    let finding = |severity, seen: String| Finding::new("memlock", Area::Memory, severity, seen);
    match (memlock, mlock) {
        (u64::MAX, _) => finding(Severity::Ok, "locked memory is not limited".into()),
        (limit, false) => {
            let seen = format!("locked memory is limited to {} KiB", limit >> 10);
            finding(
                Severity::Ok,
                format!("{seen}; only `mlock` would need more"),
            )
        }
        (limit, true) if limit >= ENOUGH => {
            finding(Severity::Ok, format!("{} MiB may be locked", limit >> 20))
        }
        (limit, true) => finding(
            Severity::Worth,
            format!(
                "`mlock` is configured and {} KiB may be locked",
                limit >> 10
            ),
        )
        .cost("the program cannot lock its memory, unless it starts as root")
        .fix("ulimit -l unlimited; for a service: LimitMEMLOCK=infinity"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::facts::TunFeatures;
    use crate::doctor::testing::{found, good_host, usual_config};

    #[test]
    fn versions_name_what_is_missing() {
        for (version, severity, word) in [
            ((4, 14), Severity::Worth, "UDP segmentation (4.18)"),
            ((5, 15), Severity::Worth, "UDP super-packets on TUN (6.2)"),
            ((6, 6), Severity::Info, "multishot read (6.7)"),
            ((6, 9), Severity::Ok, "every feature"),
            ((7, 0), Severity::Ok, "every feature"),
        ] {
            let mut facts = good_host();
            facts.kernel.version = Some(version);
            let finding = found("kernel", &facts, None);
            assert_eq!(finding.severity, severity, "{version:?}");
            assert!(finding.seen.contains(word), "{}", finding.seen);
        }
    }

    #[test]
    fn a_refused_ring_is_explained_by_its_cause() {
        for (disabled, version, word) in [
            (Some(2), (6, 6), "io_uring_disabled=0"),
            (Some(1), (6, 6), "io_uring_group"),
            (Some(0), (6, 6), "seccomp"),
            (None, (5, 10), "6.1"),
        ] {
            let mut facts = good_host();
            facts.offers.uring = Offer::Refused("not permitted".into());
            facts.kernel.uring_disabled = disabled;
            facts.kernel.version = Some(version);
            let finding = found("io-uring", &facts, None);
            assert_eq!(finding.severity, Severity::Info);
            assert!(finding.fix.unwrap().contains(word), "{word}");
            assert!(finding.changes.is_empty());
        }
        let config = Use {
            uring: false,
            ..usual_config()
        };
        let mut findings = Vec::new();
        judge(&good_host(), Some(&config), &mut findings);
        assert!(findings.iter().all(|finding| finding.id != "io-uring"));
    }

    #[test]
    fn devices_and_clocks() {
        let mut facts = good_host();
        facts.offers.tun = Offer::Works(TunFeatures {
            tso: true,
            uso: false,
            multi_queue: true,
        });
        facts.kernel.clocksource = Some(("hpet".into(), vec!["hpet".into(), "tsc".into()]));
        assert_eq!(found("tun", &facts, None).severity, Severity::Worth);
        let clock = found("clocksource", &facts, None);
        assert!(clock.fix.unwrap().starts_with("echo tsc > "));
        facts.offers.tun = Offer::Refused("cannot open /dev/net/tun".into());
        assert_eq!(found("tun", &facts, None).severity, Severity::Problem);
        facts.kernel.memlock = Some(64 << 10);
        assert_eq!(found("memlock", &facts, None).severity, Severity::Ok);
        let config = Use {
            mlock: true,
            ..usual_config()
        };
        let finding = found("memlock", &facts, Some(config));
        assert_eq!(finding.severity, Severity::Worth);
    }
}
