//! One thing worth saying, and one thing that can be changed.

use std::path::PathBuf;

use serde::Serialize;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Good to know; costs nothing much, or cannot be helped.
    Info,
    /// Worth doing.
    Worth,
    /// The tunnel does not work, or loses packets, until this is done.
    Problem,
}

/// Which part of the host a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Area {
    /// The kernel and what it allows.
    Kernel,
    /// Processors.
    Processor,
    /// Memory and buffers.
    Memory,
    /// Interfaces outside the tunnel.
    Outer,
    /// The tunnel's device.
    Device,
    /// The network stack between them.
    Stack,
}

/// One thing worth saying.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// A short name that stays the same, e.g. `udp-segmentation`.
    pub id: &'static str,
    /// What it is about.
    pub area: Area,
    /// How much it matters.
    pub severity: Severity,
    /// What was seen.
    pub seen: String,
    /// What that costs, or why it is as it should be.
    pub cost: Option<String>,
    /// What to type, one command a line.
    pub fix: Option<String>,
    /// What `--apply` would change; empty when that is for a person to decide.
    #[serde(skip)]
    pub changes: Vec<Change>,
}

impl Finding {
    /// A finding without cost and fix.
    pub fn new(id: &'static str, area: Area, severity: Severity, seen: impl Into<String>) -> Self {
        Finding {
            id,
            area,
            severity,
            seen: seen.into(),
            cost: None,
            fix: None,
            changes: Vec::new(),
        }
    }

    /// Says what it costs.
    #[must_use]
    pub fn cost(mut self, cost: impl Into<String>) -> Self {
        self.cost = Some(cost.into());
        self
    }

    /// Says what to type.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    /// Says what `--apply` changes; its command is the fix unless there is one already.
    #[must_use]
    pub fn change(mut self, change: Change) -> Self {
        if self.changes.is_empty() && self.fix.is_none() {
            self.fix = Some(change.command());
        }
        self.changes.push(change);
        self
    }
}

/// A setting of the running kernel.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// A number below `/proc/sys`, by its dotted name.
    Sysctl(&'static str),
    /// A file below `/sys`.
    File(PathBuf),
    /// A feature of a link, `on` or `off`.
    Feature {
        /// The link.
        link: String,
        /// The kernel's name of the feature.
        name: &'static str,
    },
    /// The transmit queue of a link, in packets.
    TxQueueLen {
        /// The link.
        link: String,
    },
}

/// One setting, its value now, and a better one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What is changed.
    pub target: Target,
    /// The value now.
    pub from: String,
    /// The value wanted.
    pub to: String,
}

impl Change {
    /// From one value to another.
    pub fn new(target: Target, from: impl ToString, to: impl ToString) -> Self {
        Change {
            target,
            from: from.to_string(),
            to: to.to_string(),
        }
    }

    /// The command that makes the change.
    pub fn command(&self) -> String {
        self.target.command(&self.to)
    }

    /// The command that takes it back.
    pub fn undo(&self) -> String {
        match &self.target {
            // Needs no program, wherever the script runs.
            Target::Sysctl(name) => {
                format!("echo {} > /proc/sys/{}", self.from, name.replace('.', "/"))
            }
            target => target.command(&self.from),
        }
    }
}

impl Target {
    fn command(&self, value: &str) -> String {
        match self {
            Target::Sysctl(name) => format!("sysctl -w {name}={value}"),
            Target::File(path) => format!("echo {value} > {}", path.display()),
            Target::Feature { link, name } => {
                format!("ethtool -K {} {name} {value}", quoted(link))
            }
            Target::TxQueueLen { link } => {
                format!("ip link set dev {} txqueuelen {value}", quoted(link))
            }
        }
    }
}

/// A name as a shell takes it: the kernel allows nearly everything in names of interfaces.
pub(crate) fn quoted(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@:".contains(&byte);
    match !name.is_empty() && name.bytes().all(plain) {
        true => name.to_owned(),
        false => format!("'{}'", name.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_names_stay_one_word() {
        assert_eq!(quoted("eth0.5"), "eth0.5");
        assert_eq!(quoted("$(id)"), "'$(id)'");
        assert_eq!(quoted("a'b"), "'a'\\''b'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn commands_and_their_undoing() {
        let link = "eth0".to_owned();
        let name = "tx-udp-segmentation";
        let change = Change::new(Target::Feature { link, name }, "off", "on");
        assert_eq!(change.command(), "ethtool -K eth0 tx-udp-segmentation on");
        assert_eq!(change.undo(), "ethtool -K eth0 tx-udp-segmentation off");
        let sysctl = Change::new(Target::Sysctl("net.core.rmem_max"), 1, 2);
        assert_eq!(sysctl.undo(), "echo 1 > /proc/sys/net/core/rmem_max");
        let finding = Finding::new("x", Area::Outer, Severity::Worth, "seen")
            .change(change)
            .change(sysctl);
        assert_eq!(
            finding.fix.as_deref(),
            Some("ethtool -K eth0 tx-udp-segmentation on")
        );
        assert!(Severity::Problem > Severity::Worth && Severity::Info > Severity::Ok);
    }
}
