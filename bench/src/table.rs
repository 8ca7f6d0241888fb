//! RESULTS.md, and what a run says at its end.

use std::fmt::Write as _;

use crate::measure::Measure;
use crate::results::Results;
use crate::suite::{self, Row, Setting};
use crate::target::{Against, Figures, Outcome, Target, ratio};

/// How every figure is taken; the page and the table say the same.
pub(crate) const METHOD: &[&str] = &[
    "Both tunnel ends and both ends of the load run on this machine, in two network namespaces \
     joined by a veth pair, and share its processors.",
    "In every round each program takes its turn with fresh processes on a fresh path; the order \
     rotates from round to round. A figure is the median of the rounds, a ratio is Ringway's \
     median divided by the other's.",
    "TCP is iperf3, measured after a second of warm-up. CPU time is what the kernel accounts to the \
     two VPN processes; work in soft interrupts and kernel threads belongs to nobody and is in no \
     figure.",
    "64-byte UDP: five offered loads, the same for everybody (one and two senders as fast as they \
     go, then 1.3, 1.1 and 1.02 times the best received rate so far); the best received rate counts.",
    "Round trips: a thousand small datagrams a second, echoed by the other end; first alone, then \
     beside one TCP stream.",
    "Rekeys: received bytes are counted every 100 ms while keys change every 4 seconds. A dip is how \
     far the worst 100 ms around a change stays below the median of the quiet ones near it. On a \
     shared machine the worst of a few slices is always below the median, so the same is done where \
     no key changes; what a rekey costs is the median of the first beyond the median of the second, \
     and both are shown with their worst. Loss is counted in a second run, with numbered datagrams \
     at a rate the link carries easily.",
    "Every program keeps its own default tunnel MTU (OpenVPN and Ringway 1500 with mssfix, \
     WireGuard 1420) unless a setting says otherwise.",
    "A veth pair hands super-packets over whole, which flatters whoever sends them; the settings \
     with transmit segmentation off show what is left without.",
    "Servers: their peers are light clients, all in one thread of the measuring program: real TLS and \
     keys, a port each, one certificate, no device. Logins per second of a core are logins divided by \
     the processor time of the server's process; memory is the slope of its resident size over a \
     quarter, half and all of the peers. The thread of a storm is niced by 10, since it stands for \
     many machines. A flood takes a processor from the tunnel whatever the server does with it, so \
     its second figure compares with the same flood to a port that nobody reads.",
];

/// The whole file.
pub(crate) fn page(results: &Results) -> String {
    let mut text = String::from("# Results\n\n");
    let _ = writeln!(
        text,
        "Made by `{}` on {}; every value is in results.json, report.html draws them.\n",
        results.command, results.made
    );
    for line in results.machine.lines() {
        let _ = writeln!(text, "- {line}");
    }
    for program in results.programs.iter().filter(|p| !p.version.is_empty()) {
        let _ = writeln!(text, "- {}: {}", program.title, program.version);
    }
    let _ = writeln!(
        text,
        "- {}; some settings take fewer rounds\n",
        results.rounds_text()
    );
    text.push_str("## Targets\n\n");
    text.push_str(&targets(results));
    text.push_str(
        "\nWhy a target is missed, with the profile, is in docs/performance.md, \"What limits now\" and \
         \"Missed targets\".\n",
    );
    text.push_str("\n## Figures\n\nMedian (smallest - largest).\n");
    for setting in suite::SETTINGS {
        text.push_str(&figures(results, setting));
    }
    if !results.failures.is_empty() {
        text.push_str("\n## What did not work\n\n");
        for failure in &results.failures {
            let title = results.title(&failure.program);
            let _ = writeln!(text, "- {}, {title}: {}", failure.setting, failure.reason);
        }
    }
    text.push_str("\n## How it is measured\n\n");
    for line in METHOD {
        let _ = writeln!(text, "- {line}");
    }
    text
}

/// Verdicts and figures for the screen.
pub(crate) fn summary(results: &Results) -> String {
    let mut text = String::new();
    for setting in suite::SETTINGS {
        text.push_str(&figures(results, setting));
    }
    text.push('\n');
    for (_, target) in judged_rows(results) {
        let outcome = target.judge(results);
        let title = suite::setting(target.setting).map_or(target.setting, |s| s.title);
        let _ = writeln!(
            text,
            "{:12} {title}, {}: {} ({})",
            word(&outcome),
            target.measure.title(),
            target.text(),
            result(&target, &outcome),
        );
    }
    text
}

/// Targets that have at least one figure in a setting that was run.
fn judged_rows(results: &Results) -> Vec<(&'static Row, Target)> {
    suite::ROWS
        .iter()
        .flat_map(|row| row.targets.iter().map(move |target| (row, *target)))
        .filter(|(_, target)| !results.measures(target.setting).is_empty())
        .collect()
}

/// The target table: every row, whether or not it was measured.
fn targets(results: &Results) -> String {
    let mut text = String::from(
        "| measured | quantity | target | Ringway | compared with | result | verdict |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for target in suite::ROWS.iter().flat_map(|row| row.targets) {
        let outcome = target.judge(results);
        let title = suite::setting(target.setting).map_or(target.setting, |s| s.title);
        let (ours, theirs) = match &outcome {
            Outcome::Met(figures) | Outcome::Missed(figures) => sides(results, target, figures),
            Outcome::Unmeasured { .. } => (String::new(), String::new()),
        };
        let _ = writeln!(
            text,
            "| {title} | {} | {} | {ours} | {theirs} | {} | {} |",
            target.measure.title(),
            target.text(),
            result(target, &outcome) + &spread(&outcome),
            match &outcome {
                Outcome::Met(_) => "met",
                Outcome::Missed(_) => "**missed**",
                Outcome::Unmeasured { .. } => "*not measured*",
            }
        );
    }
    text
}

/// Both figures with their unit.
pub(crate) fn sides(results: &Results, target: &Target, figures: &Figures) -> (String, String) {
    let show = |value| {
        let measure = target.measure;
        format!("{} {}", measure.show(value), measure.unit())
    };
    let theirs = figures
        .theirs
        .as_ref()
        .map(|(key, value)| format!("{}: {}", results.title(key), show(*value)));
    (show(figures.ours), theirs.unwrap_or_default())
}

/// `met`, `MISSED` or `not measured`.
fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Met(_) => "met",
        Outcome::Missed(_) => "MISSED",
        Outcome::Unmeasured { .. } => "not measured",
    }
}

/// The ratio, or the value where nothing is compared, or why there is none.
pub(crate) fn result(target: &Target, outcome: &Outcome) -> String {
    match outcome {
        Outcome::Met(figures) | Outcome::Missed(figures) => match target.against {
            Against::Nothing => format!(
                "{} {}",
                target.measure.show(figures.value),
                target.measure.unit()
            ),
            Against::Program(_) | Against::BestOther => ratio(figures.value),
        },
        Outcome::Unmeasured { reason } => reason.replace('|', "/"),
    }
}

/// The ratios of the single rounds, `, 4.8 - 5.3 by round`; empty without several.
pub(crate) fn spread(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Met(figures) | Outcome::Missed(figures) => figures
            .rounds
            .map(|(min, max)| format!(", {min:.2} - {max:.2} by round"))
            .unwrap_or_default(),
        Outcome::Unmeasured { .. } => String::new(),
    }
}

/// One setting: programs down, measures across.
fn figures(results: &Results, setting: &Setting) -> String {
    let measures = results.measures(setting.key);
    let mut text = String::new();
    if measures.is_empty() {
        return text;
    }
    let _ = writeln!(text, "\n### {}\n", setting.title);
    let heads: Vec<String> = measures
        .iter()
        .map(|measure| format!("{}, {}", measure.title(), measure.unit()))
        .collect();
    let _ = writeln!(text, "| | {} |", heads.join(" | "));
    let _ = writeln!(text, "|---|{}", "---|".repeat(measures.len()));
    for program in &results.programs {
        let cells: Vec<String> = measures
            .iter()
            .map(|&measure| cell(results, setting.key, &program.key, measure))
            .collect();
        if cells.iter().any(|cell| !cell.is_empty()) {
            let _ = writeln!(text, "| {} | {} |", program.title, cells.join(" | "));
        }
    }
    text
}

fn cell(results: &Results, setting: &str, program: &str, measure: Measure) -> String {
    results
        .series(setting, program, measure)
        .map(|series| {
            let median = measure.show(series.median());
            if series.values().len() < 2 {
                return format!("**{median}**");
            }
            format!(
                "**{median}** ({} - {})",
                measure.show(series.min()),
                measure.show(series.max())
            )
        })
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results() -> Results {
        let mut results = Results::default();
        for key in ["ringway", "openvpn"] {
            results.other(key);
        }
        for value in [9.0, 11.0, 10.0] {
            results.push("gcm", "ringway", Measure::TcpRate, value);
        }
        results.push("gcm", "openvpn", Measure::TcpRate, 4.0);
        results.fail("gcm", "veth", "no | wire");
        results
    }

    #[test]
    fn every_target_has_a_line_and_a_missed_one_says_so() {
        let page = page(&results());
        let all: usize = suite::ROWS.iter().map(|row| row.targets.len()).sum();
        let verdicts = page
            .lines()
            .filter(|line| {
                line.ends_with("| met |")
                    || line.ends_with("| **missed** |")
                    || line.ends_with("| *not measured* |")
            })
            .count();
        assert_eq!(verdicts, all);
        assert!(page.contains("at least 5 times OpenVPN | 10.0 Gbit/s | openvpn: 4.00 Gbit/s | 2.50 x | **missed** |"), "{page}");
        assert!(page.contains("veth: no / wire"));
    }

    #[test]
    fn a_range_shows_the_middle_and_both_ends() {
        let text = figures(&results(), suite::setting("gcm").unwrap());
        assert!(
            text.contains("| ringway | **10.0** (9.00 - 11.0) |"),
            "{text}"
        );
        assert!(text.contains("| openvpn | **4.00** |"), "{text}");
    }
}
