//! From facts to findings: pure, one file per part of the host.
//!
//! The figures are those of `bench/RESULTS.md` and of the measurements behind the design: CPU time
//! for packets of 1400 bytes on one core of a current server.

mod device;
mod kernel;
mod outer;
mod processor;
mod stack;

use super::facts::{Facts, Wishes};
use super::finding::Finding;
use super::plan::{Plan, plan};

/// What there is to say, and the plan for workers and interrupts.
pub fn judge(facts: &Facts, wishes: &Wishes) -> (Vec<Finding>, Plan) {
    let config = wishes.config.as_ref();
    let plan = plan(
        &facts.processor,
        facts.outer.first(),
        config.is_none_or(|config| config.server),
    );
    let mut findings = Vec::new();
    kernel::judge(facts, config, &mut findings);
    processor::judge(facts, config, &plan, &mut findings);
    stack::memory(facts, config, &mut findings);
    outer::judge(facts, wishes, &plan, &mut findings);
    device::judge(facts, wishes, &mut findings);
    stack::judge(facts, &mut findings);
    findings.sort_by_key(|finding| finding.area);
    (findings, plan)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Severity;
    use crate::doctor::testing::good_host;

    #[test]
    fn a_good_host_has_nothing_worth_doing() {
        let (findings, plan) = judge(&good_host(), &Wishes::default());
        let worse: Vec<_> = findings
            .iter()
            .filter(|finding| finding.severity >= Severity::Worth)
            .collect();
        assert!(worse.is_empty(), "{worse:#?}");
        assert!(findings.len() > 10);
        assert_eq!(plan.cpus.to_string(), "2,3");
    }

    #[test]
    fn a_host_that_shows_nothing_has_no_problem() {
        let (findings, plan) = judge(&Facts::default(), &Wishes::default());
        let worse: Vec<_> = findings
            .iter()
            .filter(|finding| finding.severity >= Severity::Worth)
            .collect();
        assert!(worse.is_empty(), "{worse:#?}");
        assert!(findings.iter().any(|f| f.seen.contains("not visible here")));
        assert_eq!(plan.workers, 1);
    }

    #[test]
    fn every_change_comes_with_its_fix_and_its_cost() {
        let (findings, _) = judge(&crate::doctor::testing::bad_host(), &Wishes::default());
        let changes: usize = findings.iter().map(|finding| finding.changes.len()).sum();
        assert!(changes >= 7, "{changes}");
        for finding in findings {
            assert!(
                finding.changes.is_empty() || finding.fix.is_some(),
                "{finding:?}"
            );
            assert!(
                finding.severity < Severity::Worth || finding.cost.is_some(),
                "{finding:?}"
            );
        }
    }
}
