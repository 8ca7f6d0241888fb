//! What the doctor says: text for people, JSON for programs.

use std::fmt::Write as _;

use serde::Serialize;

use super::apply::Outcome;
use super::finding::{Area, Finding, Severity};
use super::plan::Plan;

/// Everything found, and everything changed.
#[derive(Clone, Debug)]
pub struct Report {
    /// By area, in the order of the rules. After changes: how it is then.
    pub findings: Vec<Finding>,
    /// The proposal for workers and interrupts.
    pub plan: Plan,
    /// What `--apply` did; `None` without it.
    pub applied: Option<Applied>,
}

/// What `--apply` did.
#[derive(Clone, Debug, Serialize)]
pub struct Applied {
    /// One per change tried.
    pub changes: Vec<Outcome>,
    /// The script that takes back what was changed; `None` when nothing was.
    pub undo: Option<String>,
}

/// The JSON document.
#[derive(Serialize)]
struct Document<'a> {
    ok: bool,
    problems: usize,
    worth: usize,
    findings: Vec<Entry<'a>>,
    plan: &'a Plan,
    #[serde(skip_serializing_if = "Option::is_none")]
    applied: Option<&'a Applied>,
}

#[derive(Serialize)]
struct Entry<'a> {
    #[serde(flatten)]
    finding: &'a Finding,
    /// `--apply` would change it.
    apply: bool,
}

impl Report {
    /// True if there is nothing worth doing, and every change that was tried succeeded.
    pub fn is_good(&self) -> bool {
        let failed =
            |applied: &Applied| applied.changes.iter().any(|change| change.error.is_some());
        self.count(Severity::Problem) + self.count(Severity::Worth) == 0
            && !self.applied.as_ref().is_some_and(failed)
    }

    /// 0 or 1, for the end of the program.
    pub fn exit_code(&self) -> u8 {
        u8::from(!self.is_good())
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut area = None;
        for finding in &self.findings {
            if area.replace(finding.area) != Some(finding.area) {
                add(&mut text, heading(finding.area));
            }
            show(&mut text, finding, self.applied.is_none());
        }
        if let Some(applied) = &self.applied {
            changes(&mut text, applied);
        }
        add(&mut text, &format!("plan: {}", plan_line(&self.plan)));
        add(&mut text, &self.summary());
        text
    }

    /// For programs: an object with `ok`, `problems`, `worth`, `findings`, `plan` and, after
    /// changes, `applied`.
    pub fn json(&self) -> String {
        let document = Document {
            ok: self.is_good(),
            problems: self.count(Severity::Problem),
            worth: self.count(Severity::Worth),
            findings: self
                .findings
                .iter()
                .map(|finding| Entry {
                    finding,
                    apply: !finding.changes.is_empty(),
                })
                .collect(),
            plan: &self.plan,
            applied: self.applied.as_ref(),
        };
        // Plain structs with string keys: nothing in them can fail.
        let mut text = serde_json::to_string_pretty(&document).unwrap_or_default();
        text.push('\n');
        text
    }

    fn count(&self, severity: Severity) -> usize {
        let alike = |finding: &&Finding| finding.severity == severity;
        self.findings.iter().filter(alike).count()
    }

    fn summary(&self) -> String {
        let problems = match self.count(Severity::Problem) {
            0 => "no problem".to_owned(),
            1 => "1 problem".to_owned(),
            count => format!("{count} problems"),
        };
        let can = self.findings.iter().any(|f| !f.changes.is_empty()) && self.applied.is_none();
        let hint = if can {
            "; --apply changes what is marked so"
        } else {
            ""
        };
        let worth = match self.count(Severity::Worth) {
            0 => "nothing".to_owned(),
            count => count.to_string(),
        };
        format!("{problems}, {worth} worth doing{hint}")
    }
}

fn show(text: &mut String, finding: &Finding, may_apply: bool) {
    let word = match finding.severity {
        Severity::Ok => "ok",
        Severity::Info => "info",
        Severity::Worth => "worth",
        Severity::Problem => "PROBLEM",
    };
    add(text, &format!("  {word:<8}{}", finding.seen));
    if let Some(cost) = &finding.cost {
        add(text, &format!("          costs: {cost}"));
    }
    let mark = match may_apply && !finding.changes.is_empty() {
        true => "   [--apply]",
        false => "",
    };
    let mut label = "fix:";
    for line in finding.fix.iter().flat_map(|fix| fix.lines()) {
        add(text, &format!("          {label:<5}  {line}{mark}"));
        label = "";
    }
}

fn changes(text: &mut String, applied: &Applied) {
    add(text, "changed");
    for outcome in &applied.changes {
        match &outcome.error {
            None => {
                add(text, &format!("  done    {}", outcome.command));
                add(text, &format!("          undo:  {}", outcome.undo));
            }
            Some(error) => {
                add(text, &format!("  FAILED  {}", outcome.command));
                add(text, &format!("          {error}"));
            }
        }
    }
    if applied.changes.is_empty() {
        add(text, "  nothing: there was nothing to change");
    }
    if let Some(undo) = &applied.undo {
        add(
            text,
            &format!("  sh {undo} takes it back; a restart of the host does too"),
        );
    }
}

fn plan_line(plan: &Plan) -> String {
    let mut line = format!("ringway-workers {}", plan.workers);
    // Writing to a string cannot fail.
    if !plan.cpus.is_empty() {
        let _ = write!(line, ", ringway-cpus {}", plan.cpus);
    }
    if let (Some(interface), false) = (&plan.interface, plan.interrupts.is_empty()) {
        let _ = write!(line, "; interrupts of {interface} on {}", plan.interrupts);
    }
    line
}

fn heading(area: Area) -> &'static str {
    match area {
        Area::Kernel => "kernel",
        Area::Processor => "processor",
        Area::Memory => "memory",
        Area::Outer => "outer interface",
        Area::Device => "tunnel device",
        Area::Stack => "network stack",
    }
}

fn add(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::facts::Wishes;
    use crate::doctor::rules::judge;
    use crate::doctor::testing::{bad_host, good_host};

    fn report(facts: &crate::doctor::Facts) -> Report {
        let (findings, plan) = judge(facts, &Wishes::default());
        Report {
            findings,
            plan,
            applied: None,
        }
    }

    #[test]
    fn a_good_host_in_words() {
        let report = report(&good_host());
        let text = report.text();
        assert_eq!(report.exit_code(), 0);
        assert!(text.starts_with("kernel\n  ok      Linux 6.18.0"), "{text}");
        assert_eq!(text.matches("\nmemory\n").count(), 1, "{text}");
        assert!(
            text.ends_with(
                "plan: ringway-workers 2, ringway-cpus 2,3; interrupts of eth0 on 0,1\n\
                 no problem, nothing worth doing\n"
            ),
            "{text}"
        );
    }

    #[test]
    fn a_bad_host_for_both() {
        let report = report(&bad_host());
        assert_eq!(report.exit_code(), 1);
        let text = report.text();
        assert!(
            text.contains("fix:   ethtool -K eth0 tx-udp-segmentation on   [--apply]"),
            "{text}"
        );
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(json["ok"], false);
        assert_eq!(json["problems"], 1);
        assert_eq!(json["plan"]["cpus"], "2,3");
        let findings = json["findings"].as_array().unwrap();
        let of = |id: &str| findings.iter().find(|f| f["id"] == id).unwrap();
        assert_eq!(of("udp-segmentation")["severity"], "worth");
        assert_eq!(of("udp-segmentation")["apply"], true);
        assert_eq!(of("conntrack")["apply"], false);
        assert!(of("udp-segmentation")["cost"].is_string());
        assert!(json.get("applied").is_none());
    }

    #[test]
    fn a_failed_change_is_shown_and_is_not_good() {
        let mut report = report(&good_host());
        let outcome = |error: Option<&str>| Outcome {
            command: "do it".into(),
            undo: "undo it".into(),
            error: error.map(str::to_owned),
        };
        report.applied = Some(Applied {
            changes: vec![outcome(None)],
            undo: Some("/run/x".into()),
        });
        assert!(report.is_good());
        assert!(
            report
                .text()
                .contains("undo:  undo it\n  sh /run/x takes it back")
        );
        report.applied = Some(Applied {
            changes: vec![outcome(Some("refused"))],
            undo: None,
        });
        assert!(!report.is_good());
        assert!(report.text().contains("FAILED  do it\n          refused"));
    }
}
