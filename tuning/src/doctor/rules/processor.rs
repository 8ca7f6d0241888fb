//! Processors: which cipher suits them, how many there are, how they are clocked.

use super::Plan;
use crate::doctor::facts::{Facts, Processor, Use};
use crate::doctor::finding::{Area, Change, Finding, Severity, Target};

pub(super) fn judge(facts: &Facts, config: Option<&Use>, plan: &Plan, findings: &mut Vec<Finding>) {
    let processor = &facts.processor;
    if processor.known {
        findings.push(cipher(processor, config));
    } else {
        findings.push(Finding::new(
            "cipher",
            Area::Processor,
            Severity::Info,
            "the processor's instructions are not visible here",
        ));
    }
    findings.push(cores(processor));
    findings.push(workers(config, plan));
    findings.push(governor(processor));
}

fn cipher(processor: &Processor, config: Option<&Use>) -> Finding {
    let features = processor.features;
    let first = config.and_then(|config| config.ciphers.first());
    let finding = |severity, seen: String| Finding::new("cipher", Area::Processor, severity, seen);
    let has = format!("the processor has: {features}");
    let fast_gcm = features.aes && features.pclmul;
    match (fast_gcm, first.map(String::as_str)) {
        (_, Some(name)) if name.ends_with("-CBC") => {
            finding(Severity::Worth, format!("{name} is the first of data-ciphers"))
                .cost(match features.sha {
                    true => "2.1 us a packet with HMAC-SHA1 in one stream, where AES-GCM takes 0.18",
                    false => "more than 2.1 us a packet (no SHA instructions), where AES-GCM takes 0.18",
                })
                .fix("data-ciphers AES-256-GCM:AES-128-GCM on both ends, where the peer has it")
        }
        (true, Some(name)) if name.starts_with("CHACHA20") => {
            finding(Severity::Worth, format!("{has}; {name} is the first of data-ciphers"))
                .cost("0.81 us a packet where AES-GCM takes 0.18")
                .fix("data-ciphers AES-256-GCM:CHACHA20-POLY1305 on the server")
        }
        (true, _) => {
            let wide = match (features.vaes && features.vpclmul, features.avx2) {
                (true, _) => "wide vectors: 0.18 us a packet",
                (false, true) | (false, false) => "no wide AES, about twice 0.18 us a packet",
            };
            finding(Severity::Ok, format!("{has}; prefer AES-256-GCM ({wide})"))
        }
        (false, Some(name)) if name.starts_with("AES") => {
            finding(Severity::Worth, format!("no AES instructions; {name} is the first of data-ciphers"))
                .cost("AES in software takes several times what ChaCha20-Poly1305 takes")
                .fix("data-ciphers CHACHA20-POLY1305:AES-256-GCM on the server; or show the processor's AES to this virtual machine")
        }
        (false, _) => finding(
            Severity::Info,
            format!("{has}; prefer CHACHA20-POLY1305"),
        )
        .cost("AES in software takes several times what ChaCha20-Poly1305 takes")
        .fix("data-ciphers CHACHA20-POLY1305:AES-256-GCM; or show the processor's AES to this virtual machine"),
    }
}

fn cores(processor: &Processor) -> Finding {
    let finding = |severity, seen: String| Finding::new("cores", Area::Processor, severity, seen);
    let Some(cores) = processor.cores else {
        return finding(
            Severity::Info,
            "the number of processors is not visible here".into(),
        );
    };
    let allowed = processor.allowed.len();
    let mut seen = format!(
        "{} of {} may be used",
        cores.usable,
        plural(allowed, "processor")
    );
    if let Some(physical) = cores.physical {
        seen += &format!(", on {}", plural(physical, "core"));
    }
    if processor.nodes.len() > 1 {
        seen += &format!(", {} NUMA nodes", processor.nodes.len());
    }
    match (cores.usable, allowed) {
        (usable, allowed) if usable < allowed => finding(Severity::Info, seen)
            .cost("a quota of the control group stops every thread for the rest of a period when it is used up: tail latency")
            .fix("give whole processors (cpuset.cpus, AllowedCPUs=) instead of a quota (cpu.max, CPUQuota=)"),
        (1, _) => finding(Severity::Info, seen)
            .cost("packets, interrupts and programs take turns on one processor"),
        _ => finding(Severity::Ok, seen),
    }
}

fn workers(config: Option<&Use>, plan: &Plan) -> Finding {
    let finding = |severity, seen: String| Finding::new("workers", Area::Processor, severity, seen);
    match config {
        Some(config) if !config.cpus.is_empty() && config.cpus.len() < config.workers => finding(
            Severity::Worth,
            format!(
                "{} workers share {}",
                config.workers,
                plural(config.cpus.len(), "processor")
            ),
        )
        .cost("workers on one processor take turns")
        .fix(format!("ringway-workers {}", config.cpus.len())),
        Some(config) if config.server && config.workers < plan.workers => finding(
            Severity::Info,
            format!(
                "ringway-workers is {}, {} would fit",
                config.workers, plan.workers
            ),
        )
        .cost("the other processors do not move packets")
        .fix(lines(plan)),
        _ => finding(Severity::Info, format!("suggested: {}", lines(plan))),
    }
}

fn lines(plan: &Plan) -> String {
    let mut text = format!("ringway-workers {}", plan.workers);
    if !plan.cpus.is_empty() {
        text += &format!(", ringway-cpus {}", plan.cpus);
    }
    text
}

fn governor(processor: &Processor) -> Finding {
    let finding =
        |severity, seen: String| Finding::new("governor", Area::Processor, severity, seen);
    let slow: Vec<_> = processor
        .governors
        .iter()
        .filter(|(_, governor, _)| governor != "performance")
        .collect();
    let Some((_, governor, available)) = slow.first() else {
        return match processor.governors.is_empty() {
            true => finding(
                Severity::Info,
                "the frequency governor is not visible here".into(),
            ),
            false => finding(Severity::Ok, "the frequency governor is performance".into()),
        };
    };
    let seen = format!(
        "the frequency governor of {} is {governor}",
        plural(slow.len(), "processor")
    );
    let slow_finding = finding(Severity::Worth, seen)
        .cost("the first packets after a pause are moved at a low clock: latency, and less throughput in bursts");
    if !available {
        return slow_finding.fix("set the machine to performance in its firmware");
    }
    slow.iter().fold(
        slow_finding.fix(
            "for g in /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor; do echo performance > $g; done",
        ),
        |finding, (cpu, governor, _)| {
            let file = format!("/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor");
            finding.change(Change::new(Target::File(file.into()), governor, "performance"))
        },
    )
}

fn plural(count: usize, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::{Cores, Features};
    use crate::cpu_list::CpuList;
    use crate::doctor::testing::{found, good_host, usual_config};

    #[test]
    fn ciphers_follow_the_processor() {
        let plain = Features::default();
        let aes = good_host().processor.features;
        for (features, first, severity, word) in [
            (aes, "AES-256-GCM", Severity::Ok, "prefer AES-256-GCM"),
            (aes, "CHACHA20-POLY1305", Severity::Worth, "CHACHA20"),
            (aes, "AES-256-CBC", Severity::Worth, "AES-256-CBC"),
            (plain, "AES-256-GCM", Severity::Worth, "no AES instructions"),
            (
                plain,
                "CHACHA20-POLY1305",
                Severity::Info,
                "prefer CHACHA20",
            ),
        ] {
            let mut facts = good_host();
            facts.processor.features = features;
            let config = Use {
                ciphers: vec![first.into()],
                ..usual_config()
            };
            let finding = found("cipher", &facts, Some(config));
            assert_eq!(finding.severity, severity, "{first}");
            assert!(finding.seen.contains(word), "{}", finding.seen);
        }
    }

    #[test]
    fn quotas_and_shared_processors_are_named() {
        let mut facts = good_host();
        facts.processor.cores = Some(Cores {
            usable: 2,
            physical: Some(4),
        });
        assert!(found("cores", &facts, None).fix.unwrap().contains("cpuset"));
        let config = Use {
            workers: 3,
            cpus: CpuList::parse("1").unwrap(),
            ..usual_config()
        };
        let finding = found("workers", &facts, Some(config));
        assert_eq!(finding.severity, Severity::Worth);
        let finding = found("workers", &good_host(), None);
        assert_eq!(
            finding.seen,
            "suggested: ringway-workers 2, ringway-cpus 2,3"
        );
    }

    #[test]
    fn each_processors_governor_is_changed() {
        let mut facts = good_host();
        facts.processor.governors = vec![
            (0, "powersave".into(), true),
            (1, "performance".into(), true),
            (2, "schedutil".into(), true),
        ];
        let finding = found("governor", &facts, None);
        let undo: Vec<_> = finding.changes.iter().map(Change::undo).collect();
        assert_eq!(
            undo,
            [
                "echo powersave > /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
                "echo schedutil > /sys/devices/system/cpu/cpu2/cpufreq/scaling_governor",
            ]
        );
        facts.processor.governors = vec![(0, "userspace".into(), false)];
        assert!(found("governor", &facts, None).changes.is_empty());
    }
}
