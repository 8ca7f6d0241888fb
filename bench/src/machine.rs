//! The machine a run was made on.

use std::fs;

use ringway_lab::measure;
use serde::{Deserialize, Serialize};

/// What somebody needs to know to weigh the figures.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// Processor, cores, memory, kernel.
    pub(crate) summary: String,
    /// Processor features that matter for ciphers.
    pub(crate) features: String,
    /// Whether it is a virtual machine.
    pub(crate) virtual_machine: bool,
    /// Frequency governor, when the kernel shows one.
    pub(crate) governor: String,
    /// Distribution.
    pub(crate) system: String,
    /// Load average when the run began.
    pub(crate) load: String,
}

const FEATURES: [&str; 10] = [
    "aes",
    "pclmulqdq",
    "vaes",
    "vpclmulqdq",
    "avx2",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "sha_ni",
    "asimd",
];

impl Machine {
    /// Looks around.
    pub(crate) fn here() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let flags = flags(&cpuinfo);
        let features: Vec<&str> = FEATURES
            .into_iter()
            .filter(|feature| flags.contains(feature))
            .collect();
        Self {
            summary: measure::machine(),
            features: features.join(" "),
            virtual_machine: flags.contains(&"hypervisor"),
            governor: line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            system: system(&fs::read_to_string("/etc/os-release").unwrap_or_default()),
            load: line("/proc/loadavg")
                .split_whitespace()
                .next()
                .unwrap_or_default()
                .to_owned(),
        }
    }

    /// The lines of a report.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = vec![match self.virtual_machine {
            true => format!("{} (virtual machine)", self.summary),
            false => self.summary.clone(),
        }];
        let mut add = |name: &str, value: &str| {
            if !value.is_empty() {
                lines.push(format!("{name}: {value}"));
            }
        };
        add("processor features", &self.features);
        add("system", &self.system);
        add("frequency governor", &self.governor);
        add("load average at the start", &self.load);
        lines
    }
}

/// Words of the first `flags` (x86) or `Features` (Arm) line.
fn flags(cpuinfo: &str) -> Vec<&str> {
    cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| ["flags", "Features"].contains(&name.trim()))
        .map(|(_, words)| words.split_whitespace().collect())
        .unwrap_or_default()
}

fn system(os_release: &str) -> String {
    os_release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map(|name| name.trim_matches('"').to_owned())
        .unwrap_or_default()
}

fn line(file: &str) -> String {
    fs::read_to_string(file)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_understood() {
        let cpuinfo = "processor\t: 0\nflags\t\t: fpu aes vaes\nflags\t\t: other\n";
        assert_eq!(flags(cpuinfo), ["fpu", "aes", "vaes"]);
        assert_eq!(
            system("ID=x\nPRETTY_NAME=\"Some Linux 1\"\n"),
            "Some Linux 1"
        );
        let here = Machine::here();
        assert!(here.lines()[0].contains("cores"));
    }
}
