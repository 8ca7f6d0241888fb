//! Targets: what a figure has to reach, and whether it does.

use serde::Serialize;

use crate::measure::Measure;
use crate::program::{RINGWAY, title};
use crate::results::Results;

/// One demand on Ringway.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    /// Key of the setting it is measured in.
    pub(crate) setting: &'static str,
    /// The quantity.
    pub(crate) measure: Measure,
    /// What it is compared with.
    pub(crate) against: Against,
    /// What has to hold.
    pub(crate) bound: Bound,
}

/// What Ringway's median is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Against {
    /// Another program's median in the same setting.
    Program(&'static str),
    /// The best median of all programs that were given with `--peer`.
    BestOther,
    /// Nothing: the bound is in the measure's own unit.
    Nothing,
}

/// What the ratio, or the value, has to keep to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Bound {
    /// This or more.
    AtLeast(f64),
    /// More than this.
    Above(f64),
    /// This or less.
    AtMost(f64),
    /// Less than this.
    Below(f64),
}

/// How a target came out.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "verdict")]
pub(crate) enum Outcome {
    /// It holds.
    Met(Figures),
    /// It does not.
    Missed(Figures),
    /// There are no figures, and why.
    Unmeasured {
        /// One line.
        reason: String,
    },
}

/// The medians behind a verdict.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Figures {
    /// Ringway's median.
    pub(crate) ours: f64,
    /// Key of the program it is compared with, and its median.
    pub(crate) theirs: Option<(String, f64)>,
    /// What the bound is about: `ours` divided by theirs, or `ours`.
    pub(crate) value: f64,
    /// The smallest and the largest ratio of one round, where every round has both figures.
    pub(crate) rounds: Option<(f64, f64)>,
}

impl Bound {
    /// The number in it.
    pub(crate) fn limit(self) -> f64 {
        match self {
            Self::AtLeast(limit)
            | Self::Above(limit)
            | Self::AtMost(limit)
            | Self::Below(limit) => limit,
        }
    }

    /// Whether `value` keeps to it; never for a value that is not a number.
    pub(crate) fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(limit) => value >= limit,
            Self::Above(limit) => value > limit,
            Self::AtMost(limit) => value <= limit,
            Self::Below(limit) => value < limit,
        }
    }
}

impl Target {
    /// What is asked, in words: `at least 5 times OpenVPN`.
    pub(crate) fn text(&self) -> String {
        let Against::Nothing = self.against else {
            let rival = match self.against {
                Against::Program(key) => title(key),
                Against::BestOther | Against::Nothing => "every other peer",
            };
            return match self.bound {
                Bound::AtLeast(limit) => format!("at least {} {rival}", times(limit)),
                Bound::Above(1.0) => format!("ahead of {rival}"),
                Bound::Above(limit) => format!("more than {} {rival}", times(limit)),
                Bound::AtMost(1.0) => format!("not above {rival}"),
                Bound::AtMost(limit) => format!("at most {} {rival}", times(limit)),
                Bound::Below(limit) => format!("below {} {rival}", times(limit)),
            };
        };
        let word = match self.bound {
            Bound::AtMost(0.0) => return "none".to_owned(),
            Bound::AtLeast(_) => "at least",
            Bound::Above(_) => "above",
            Bound::AtMost(_) => "at most",
            Bound::Below(_) => "below",
        };
        format!("{word} {} {}", self.bound.limit(), self.measure.unit())
    }

    /// The verdict.
    pub(crate) fn judge(&self, results: &Results) -> Outcome {
        let Some(ours) = results.median(self.setting, RINGWAY, self.measure) else {
            return self.unmeasured(results, RINGWAY);
        };
        let theirs = match self.against {
            Against::Nothing => None,
            Against::Program(key) => match results.median(self.setting, key, self.measure) {
                Some(median) => Some((key.to_owned(), median)),
                None => return self.unmeasured(results, key),
            },
            Against::BestOther => match results.best_other(self.setting, self.measure) {
                Some(best) => Some(best),
                None => {
                    return Outcome::Unmeasured {
                        reason: "no other peer was given (--peer NAME=FILE)".to_owned(),
                    };
                }
            },
        };
        let value = theirs.as_ref().map_or(ours, |(_, theirs)| ours / theirs);
        let rounds = theirs
            .as_ref()
            .and_then(|(key, _)| self.by_round(results, key));
        let figures = Figures {
            ours,
            theirs,
            value,
            rounds,
        };
        match self.bound.holds(value) {
            true => Outcome::Met(figures),
            false => Outcome::Missed(figures),
        }
    }

    /// Smallest and largest ratio of the rounds, when there are several.
    fn by_round(&self, results: &Results, theirs: &str) -> Option<(f64, f64)> {
        let ours = results
            .series(self.setting, RINGWAY, self.measure)?
            .values();
        let theirs = results.series(self.setting, theirs, self.measure)?.values();
        if ours.len() < 2 || ours.len() != theirs.len() {
            return None;
        }
        let ratios = || ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs);
        Some((
            ratios().fold(f64::INFINITY, f64::min),
            ratios().fold(0.0, f64::max),
        ))
    }

    fn unmeasured(&self, results: &Results, program: &str) -> Outcome {
        let reason = match results.failure(self.setting, program) {
            Some(reason) => format!("{program}: {reason}"),
            None => format!("{program} was not measured"),
        };
        Outcome::Unmeasured { reason }
    }
}

/// A factor in words: `5 times`, `half of`, `1/6 of`, `80 % of`.
fn times(factor: f64) -> String {
    let inverse = 1.0 / factor;
    if factor >= 1.0 {
        format!("{factor} times")
    } else if factor == 0.5 {
        "half of".to_owned()
    } else if (inverse - inverse.round()).abs() < 1e-9 {
        format!("1/{inverse:.0} of")
    } else {
        format!("{:.0} % of", factor * 100.0)
    }
}

/// A ratio for people: `12.3 x`, and below one also as a fraction, `0.25 x (1/4.0)`.
pub(crate) fn ratio(value: f64) -> String {
    if value >= 10.0 {
        format!("{value:.1} x")
    } else if value >= 0.8 {
        format!("{value:.2} x")
    } else {
        format!("{value:.2} x (1/{:.1})", 1.0 / value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPU: Target = Target {
        setting: "gcm",
        measure: Measure::TcpCpu,
        against: Against::Program("openvpn"),
        bound: Bound::AtMost(1.0 / 6.0),
    };

    fn results(ours: f64, theirs: f64) -> Results {
        let mut results = Results::default();
        results.push("gcm", RINGWAY, Measure::TcpCpu, ours);
        results.push("gcm", "openvpn", Measure::TcpCpu, theirs);
        results
    }

    #[test]
    fn a_ratio_is_ours_by_theirs() {
        assert!(matches!(CPU.judge(&results(1.0, 6.0)), Outcome::Met(f) if f.value < 0.17));
        assert!(matches!(CPU.judge(&results(1.1, 6.0)), Outcome::Missed(_)));
        // No figure is no success.
        assert!(matches!(
            CPU.judge(&results(f64::NAN, 6.0)),
            Outcome::Missed(_)
        ));
    }

    #[test]
    fn rounds_are_compared_with_each_other() {
        let mut results = results(1.0, 8.0);
        let spread = |results: &Results| match CPU.judge(results) {
            Outcome::Met(figures) => figures.rounds,
            other => panic!("{other:?}"),
        };
        assert_eq!(spread(&results), None);
        results.push("gcm", RINGWAY, Measure::TcpCpu, 1.0);
        // One has failed a round: nothing to pair.
        assert_eq!(spread(&results), None);
        results.push("gcm", "openvpn", Measure::TcpCpu, 16.0);
        assert_eq!(spread(&results), Some((1.0 / 16.0, 1.0 / 8.0)));
    }

    #[test]
    fn what_is_missing_is_named() {
        let mut only_ours = Results::default();
        only_ours.push("gcm", RINGWAY, Measure::TcpCpu, 1.0);
        only_ours.fail("gcm", "openvpn", "it said no\nand more");
        assert_eq!(
            CPU.judge(&only_ours),
            Outcome::Unmeasured {
                reason: "openvpn: it said no".to_owned()
            }
        );
    }

    #[test]
    fn ahead_means_ahead() {
        let ahead = Target {
            against: Against::BestOther,
            bound: Bound::Above(1.0),
            measure: Measure::SmallRate,
            setting: "small",
        };
        let mut results = Results::default();
        results.push("small", RINGWAY, Measure::SmallRate, 100.0);
        assert!(matches!(ahead.judge(&results), Outcome::Unmeasured { .. }));
        results.other("slow");
        results.other("fast");
        results.push("small", "slow", Measure::SmallRate, 50.0);
        results.push("small", "fast", Measure::SmallRate, 100.0);
        let Outcome::Missed(figures) = ahead.judge(&results) else {
            panic!("equal is not ahead");
        };
        assert_eq!(figures.theirs, Some(("fast".to_owned(), 100.0)));
    }

    #[test]
    fn bounds_read_well() {
        let text = |against, bound| {
            Target {
                against,
                bound,
                ..CPU
            }
            .text()
        };
        let openvpn = Against::Program("openvpn");
        assert_eq!(CPU.text(), "at most 1/6 of OpenVPN");
        assert_eq!(
            text(openvpn, Bound::AtLeast(2.5)),
            "at least 2.5 times OpenVPN"
        );
        assert_eq!(
            text(openvpn, Bound::AtLeast(0.8)),
            "at least 80 % of OpenVPN"
        );
        assert_eq!(text(Against::Nothing, Bound::Below(64.0)), "below 64 s/GB");
        assert_eq!(ratio(0.25), "0.25 x (1/4.0)");
        assert_eq!(
            (ratio(12.34), ratio(1.0)),
            ("12.3 x".into(), "1.00 x".into())
        );
    }
}
