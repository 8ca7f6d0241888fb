//! What a run found out, and its JSON.
//!
//! The file holds every value; medians and verdicts in it are for readers and are made anew when
//! it is read, so that a page can be drawn again from it.

use std::path::Path;

use anyhow::{Context as _, Result};
use ringway_lab::measure::Series;
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::measure::{Better, Measure};
use crate::suite;
use crate::target::Outcome;

/// Everything about one run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Results {
    /// Where.
    pub(crate) machine: Machine,
    /// When it ended, UTC.
    pub(crate) made: String,
    /// The command line, for whoever repeats it.
    pub(crate) command: String,
    /// Rounds asked for.
    pub(crate) rounds: u32,
    /// Seconds of one measurement.
    pub(crate) seconds: u32,
    /// Who took part.
    pub(crate) programs: Vec<Participant>,
    /// All values.
    pub(crate) records: Vec<Record>,
    /// What did not work.
    pub(crate) failures: Vec<Failure>,
}

/// A program that took part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Participant {
    /// Its key.
    pub(crate) key: String,
    /// Its name for people.
    pub(crate) title: String,
    /// What it said to `--version`.
    pub(crate) version: String,
    /// Given with `--peer`.
    pub(crate) other: bool,
}

/// The values of one program for one measure in one setting, in the order of the rounds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Key of the setting.
    pub(crate) setting: String,
    /// Key of the program.
    pub(crate) program: String,
    /// The quantity.
    pub(crate) measure: Measure,
    /// The values.
    pub(crate) series: Series,
}

/// A turn that came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// Key of the setting.
    pub(crate) setting: String,
    /// Key of the program.
    pub(crate) program: String,
    /// One line.
    pub(crate) reason: String,
}

/// The file's form: the results, and what follows from them.
#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    results: &'a Results,
    summary: Vec<Summary<'a>>,
    targets: Vec<Judged>,
}

#[derive(Serialize)]
struct Summary<'a> {
    setting: &'a str,
    program: &'a str,
    measure: &'static str,
    unit: &'static str,
    median: f64,
    min: f64,
    max: f64,
}

#[derive(Serialize)]
struct Judged {
    row: &'static str,
    setting: &'static str,
    measure: Measure,
    target: String,
    #[serde(flatten)]
    outcome: Outcome,
}

impl Results {
    /// Adds a value.
    pub(crate) fn push(&mut self, setting: &str, program: &str, measure: Measure, value: f64) {
        if let Some(record) = self.records.iter_mut().find(|record| {
            record.setting == setting && record.program == program && record.measure == measure
        }) {
            record.series.push(value);
            return;
        }
        let mut series = Series::default();
        series.push(value);
        self.records.push(Record {
            setting: setting.to_owned(),
            program: program.to_owned(),
            measure,
            series,
        });
    }

    /// Notes a turn that came to nothing; of a long reason the line that says most.
    pub(crate) fn fail(&mut self, setting: &str, program: &str, reason: &str) {
        let failure = Failure {
            setting: setting.to_owned(),
            program: program.to_owned(),
            reason: gist(reason).to_owned(),
        };
        if !self.failures.contains(&failure) {
            self.failures.push(failure);
        }
    }

    /// `3 rounds of 2 s each`.
    pub(crate) fn rounds_text(&self) -> String {
        match self.rounds {
            1 => format!("one round of {} s each", self.seconds),
            rounds => format!("{rounds} rounds of {} s each", self.seconds),
        }
    }

    /// The values of one program for one measure in one setting.
    pub(crate) fn series(&self, setting: &str, program: &str, measure: Measure) -> Option<&Series> {
        self.records
            .iter()
            .find(|record| {
                record.setting == setting && record.program == program && record.measure == measure
            })
            .map(|record| &record.series)
    }

    /// Their median.
    pub(crate) fn median(&self, setting: &str, program: &str, measure: Measure) -> Option<f64> {
        self.series(setting, program, measure).map(Series::median)
    }

    /// The first reason a program gave for having no figures in a setting.
    pub(crate) fn failure(&self, setting: &str, program: &str) -> Option<&str> {
        self.failures
            .iter()
            .find(|failure| failure.setting == setting && failure.program == program)
            .map(|failure| failure.reason.as_str())
    }

    /// Key and median of the best of the programs given with `--peer`.
    pub(crate) fn best_other(&self, setting: &str, measure: Measure) -> Option<(String, f64)> {
        let medians = self
            .programs
            .iter()
            .filter(|program| program.other)
            .filter_map(|program| {
                let median = self.median(setting, &program.key, measure)?;
                Some((program.key.clone(), median))
            });
        match measure.better() {
            Better::Higher => medians.max_by(|a, b| a.1.total_cmp(&b.1)),
            Better::Lower => medians.min_by(|a, b| a.1.total_cmp(&b.1)),
        }
    }

    /// Name of a program for people.
    pub(crate) fn title<'a>(&'a self, key: &'a str) -> &'a str {
        self.programs
            .iter()
            .find(|program| program.key == key)
            .map_or(key, |program| &program.title)
    }

    /// Programs with values in a setting, in the order of the list of participants.
    pub(crate) fn present(&self, setting: &str, measure: Measure) -> Vec<(&Participant, &Series)> {
        self.programs
            .iter()
            .filter_map(|program| Some((program, self.series(setting, &program.key, measure)?)))
            .collect()
    }

    /// Measures with values in a setting, in their own order.
    pub(crate) fn measures(&self, setting: &str) -> Vec<Measure> {
        let mut measures: Vec<Measure> = self
            .records
            .iter()
            .filter(|record| record.setting == setting)
            .map(|record| record.measure)
            .collect();
        measures.sort_unstable();
        measures.dedup();
        measures
    }

    /// The JSON text.
    ///
    /// # Errors
    /// Never in practice: the form is plain.
    pub(crate) fn json(&self) -> Result<String> {
        let summary = self
            .records
            .iter()
            .map(|record| Summary {
                setting: &record.setting,
                program: &record.program,
                measure: record.measure.title(),
                unit: record.measure.unit(),
                median: record.series.median(),
                min: record.series.min(),
                max: record.series.max(),
            })
            .collect();
        let mut targets = Vec::new();
        for row in suite::ROWS {
            for target in row.targets {
                targets.push(Judged {
                    row: row.title,
                    setting: target.setting,
                    measure: target.measure,
                    target: target.text(),
                    outcome: target.judge(self),
                });
            }
        }
        let document = Document {
            results: self,
            summary,
            targets,
        };
        Ok(serde_json::to_string_pretty(&document)? + "\n")
    }

    /// Reads a file that [`Results::json`] made.
    ///
    /// # Errors
    /// When it cannot be read or has another form.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text)
            .with_context(|| format!("{} is not a result file of this program", path.display()))
    }

    /// Adds a participant given with `--peer`, for tests.
    #[cfg(test)]
    pub(crate) fn other(&mut self, key: &str) {
        self.programs.push(Participant {
            key: key.to_owned(),
            title: key.to_owned(),
            version: String::new(),
            other: true,
        });
    }
}

/// The line of a program's complaint in a log, without time and file, or else the first line.
fn gist(reason: &str) -> &str {
    let complaint = reason.lines().find_map(|line| {
        let (_, what) = line.split_once("rror: ")?;
        Some(what.rsplit_once(".conf:").map_or(what, |(_, what)| what))
    });
    complaint.unwrap_or_else(|| reason.lines().next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_is_found_in_a_log() {
        let log = "title\nended\n--- client\n2026 Options error: /x/client.conf:11: no\n---";
        assert_eq!(gist(log), "11: no");
        assert_eq!(gist("x: error: unknown flag\nmore"), "unknown flag");
        assert_eq!(gist("plain\nlog"), "plain");
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut results = Results::default();
        results.other("wireguard-go");
        results.push("gcm", "ringway", Measure::TcpRate, 10.5);
        results.push("gcm", "ringway", Measure::TcpRate, 11.5);
        results.fail("gcm", "openvpn", "why\nlog");
        let text = results.json().unwrap();
        assert!(text.contains("\"verdict\": \"unmeasured\""));
        let again: Results = serde_json::from_str(&text).unwrap();
        assert_eq!(again.median("gcm", "ringway", Measure::TcpRate), Some(11.0));
        assert_eq!(again.failure("gcm", "openvpn"), Some("why"));
        assert_eq!(again.programs, results.programs);
        assert_eq!(again.measures("gcm"), [Measure::TcpRate]);
    }
}
