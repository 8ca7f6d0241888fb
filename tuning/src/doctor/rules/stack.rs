//! Socket buffers, and the queues between card and socket.

use super::outer::per_million;
use crate::doctor::facts::{Facts, Stack, Use};
use crate::doctor::finding::{Area, Change, Finding, Severity, Target};
use crate::host;

const BACKLOG: &str = "net.core.netdev_max_backlog";
const BUDGET: &str = "net.core.netdev_budget";

/// The kernel's own defaults; less is low.
const USUAL_BACKLOG: u64 = 1000;
const USUAL_BUDGET: u64 = 300;

/// Socket buffers.
pub(super) fn memory(facts: &Facts, config: Option<&Use>, findings: &mut Vec<Finding>) {
    let choice = host::socket_buffers(facts.limits);
    let wanted = |configured: Option<usize>, usual| configured.unwrap_or(usual);
    let receive = wanted(config.and_then(|config| config.rcvbuf), choice.rcvbuf);
    let send = wanted(config.and_then(|config| config.sndbuf), choice.sndbuf);
    let lost = facts.stack.udp.map_or(0, |udp| udp.receive_buffer);
    let limits = &facts.limits;
    for (name, limit, wanted, lost) in [
        ("net.core.rmem_max", limits.rmem_max, receive, lost > 0),
        ("net.core.wmem_max", limits.wmem_max, send, false),
    ] {
        findings.push(buffer(name, limit, wanted, facts.net_admin, lost));
    }
    findings.extend(losses(facts));
}

fn buffer(
    name: &'static str,
    limit: Option<usize>,
    wanted: usize,
    net_admin: bool,
    lost: bool,
) -> Finding {
    let id = match name {
        "net.core.rmem_max" => "rmem-max",
        _ => "wmem-max",
    };
    let finding = |severity, seen: String| Finding::new(id, Area::Memory, severity, seen);
    let Some(limit) = limit else {
        return finding(Severity::Info, format!("{name} is not visible here"));
    };
    if limit >= wanted {
        return finding(
            Severity::Ok,
            format!("{name} is {limit}, {wanted} is wanted"),
        );
    }
    // With the capability the limit does not bind; the next program without it still meets it.
    let severity = if lost || !net_admin {
        Severity::Worth
    } else {
        Severity::Info
    };
    finding(severity, format!("{name} is {limit}, {wanted} is wanted"))
        .cost(format!(
            "without CAP_NET_ADMIN a socket holds {} % of the burst it should, and loses the rest; with it (started as root) Ringway goes beyond the limit",
            limit * 100 / wanted
        ))
        .change(Change::new(Target::Sysctl(name), limit, wanted))
}

fn losses(facts: &Facts) -> Option<Finding> {
    let finding = |severity, seen: String| Finding::new("udp-losses", Area::Memory, severity, seen);
    let Some(udp) = facts.stack.udp else {
        let seen = "UDP's counters are not visible here";
        return Some(finding(Severity::Info, seen.into()));
    };
    let share = per_million(udp.receive_buffer, udp.received);
    let seen = format!(
        "{} datagrams were lost to full receive buffers ({share} in a million), {} to full send buffers",
        udp.receive_buffer, udp.send_buffer
    );
    Some(match share {
        0 => finding(Severity::Ok, seen),
        1..100 => finding(Severity::Info, seen).cost("of all programs together, since the start"),
        _ => finding(Severity::Worth, seen)
            .cost("of all programs together, since the start; each one of the tunnel slows TCP inside")
            .fix("see rmem-max; or a larger rcvbuf, more workers, interrupts on other processors"),
    })
}

/// Backlog, budget, connection tracking.
pub(super) fn judge(facts: &Facts, findings: &mut Vec<Finding>) {
    findings.push(backlog(&facts.stack));
    findings.push(budget(&facts.stack));
    findings.extend(conntrack(&facts.stack));
}

fn backlog(stack: &Stack) -> Finding {
    let finding = |severity, seen: String| Finding::new("backlog", Area::Stack, severity, seen);
    let (Some(backlog), Some(softnet)) = (stack.backlog, stack.softnet) else {
        return finding(
            Severity::Info,
            format!("{BACKLOG} or its losses are not visible here"),
        );
    };
    let share = per_million(softnet.dropped, softnet.processed);
    let seen = format!(
        "{BACKLOG} is {backlog}; {} packets were dropped ({share} in a million)",
        softnet.dropped
    );
    let wanted = match share {
        1.. => (backlog * 4).clamp(USUAL_BACKLOG, 16_000),
        0 => USUAL_BACKLOG,
    };
    if backlog >= wanted {
        return finding(Severity::Ok, seen);
    }
    finding(Severity::Worth, seen)
        .cost("packets are dropped between card and socket when one processor gets more than it can pass on")
        .change(Change::new(Target::Sysctl(BACKLOG), backlog, wanted))
}

fn budget(stack: &Stack) -> Finding {
    let finding = |severity, seen: String| Finding::new("budget", Area::Stack, severity, seen);
    let (Some(budget), Some(softnet)) = (stack.budget, stack.softnet) else {
        return finding(
            Severity::Info,
            format!("{BUDGET} or its use is not visible here"),
        );
    };
    let share = per_million(softnet.squeezed, softnet.processed);
    let seen = format!(
        "{BUDGET} is {budget}; it was used up {} times ({share} in a million packets)",
        softnet.squeezed
    );
    let wanted = match share {
        1000.. => (budget * 2).clamp(USUAL_BUDGET, 1200),
        _ => USUAL_BUDGET,
    };
    if budget >= wanted {
        return finding(Severity::Ok, seen);
    }
    finding(Severity::Worth, seen)
        .cost(
            "packets wait in the card for another round: latency, and losses when its ring is full",
        )
        .change(Change::new(Target::Sysctl(BUDGET), budget, wanted))
}

fn conntrack(stack: &Stack) -> Option<Finding> {
    let (count, most) = stack.conntrack?;
    let percent = count.saturating_mul(100).checked_div(most)?;
    let seen = format!("connection tracking holds {count} of {most} entries");
    let finding = |severity| Finding::new("conntrack", Area::Stack, severity, seen.clone());
    let full = |severity| {
        finding(severity)
            .cost("when it is full, packets of new connections are dropped, the tunnel's own among them")
            .fix(format!(
                "sysctl -w net.netfilter.nf_conntrack_max={}",
                most.saturating_mul(2)
            ))
    };
    Some(match percent {
        0..80 => finding(Severity::Ok),
        80..95 => full(Severity::Worth),
        _ => full(Severity::Problem),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::facts::{Softnet, UdpCounters};
    use crate::doctor::testing::{found, good_host, usual_config};

    #[test]
    fn low_limits_weigh_more_without_the_capability() {
        let mut facts = good_host();
        facts.limits.rmem_max = Some(212_992);
        facts.net_admin = true;
        let finding = found("rmem-max", &facts, None);
        assert_eq!(finding.severity, Severity::Info);
        assert_eq!(finding.changes[0].to, "8388608");
        facts.net_admin = false;
        assert_eq!(found("rmem-max", &facts, None).severity, Severity::Worth);
        let config = Use {
            rcvbuf: Some(100_000),
            ..usual_config()
        };
        assert_eq!(
            found("rmem-max", &facts, Some(config)).severity,
            Severity::Ok
        );
    }

    #[test]
    fn losses_are_weighed() {
        for (lost, severity) in [
            (0, Severity::Ok),
            (10, Severity::Info),
            (1000, Severity::Worth),
        ] {
            let mut facts = good_host();
            facts.stack.udp = Some(UdpCounters {
                received: 1_000_000,
                receive_buffer: lost,
                send_buffer: 0,
            });
            assert_eq!(
                found("udp-losses", &facts, None).severity,
                severity,
                "{lost}"
            );
        }
    }

    #[test]
    fn queues_that_overflowed_grow_and_low_ones_become_usual() {
        let mut facts = good_host();
        facts.stack.softnet = Some(Softnet {
            processed: 1_000_000,
            dropped: 10,
            squeezed: 2000,
        });
        assert_eq!(found("backlog", &facts, None).changes[0].to, "4000");
        assert_eq!(found("budget", &facts, None).changes[0].to, "600");
        facts.stack.backlog = Some(16_000);
        assert_eq!(found("backlog", &facts, None).severity, Severity::Ok);
        let mut low = good_host();
        low.stack.budget = Some(64);
        assert_eq!(found("budget", &low, None).changes[0].to, "300");
    }

    #[test]
    fn a_full_table_is_a_problem() {
        let mut facts = good_host();
        for (count, severity) in [
            (10, Severity::Ok),
            (85, Severity::Worth),
            (100, Severity::Problem),
        ] {
            facts.stack.conntrack = Some((count, 100));
            assert_eq!(found("conntrack", &facts, None).severity, severity);
        }
        facts.stack.conntrack = Some((0, 0));
        assert!(conntrack(&facts.stack).is_none());
    }
}
