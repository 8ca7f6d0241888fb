//! What is said about a configuration: one line each, with file, line and option.

use std::fmt;

use super::position::Position;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing; the configuration works.
    Warning,
    /// The configuration cannot be used.
    Error,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// File, or `command line`; empty when it concerns no place in particular.
    pub file: String,
    /// Line from 1 (on the command line: argument); 0 when there is none.
    pub line: usize,
    /// Option name without dashes; empty when it concerns no option in particular.
    pub option: String,
    /// What is the matter and what to do.
    pub message: String,
}

impl Diagnostic {
    /// A warning about an option.
    pub fn warning(position: &Position, option: &str, message: impl Into<String>) -> Self {
        Diagnostic::new(Severity::Warning, Some(position), option, message.into())
    }

    /// An error about an option.
    pub fn error(position: &Position, option: &str, message: impl Into<String>) -> Self {
        Diagnostic::new(Severity::Error, Some(position), option, message.into())
    }

    /// An error about the configuration as a whole.
    pub fn general(message: impl Into<String>) -> Self {
        Diagnostic::new(Severity::Error, None, "", message.into())
    }

    fn new(
        severity: Severity,
        position: Option<&Position>,
        option: &str,
        message: String,
    ) -> Diagnostic {
        Diagnostic {
            severity,
            file: position.map_or_else(String::new, |position| position.file.to_string()),
            line: position.map_or(0, |position| position.line),
            option: option.to_owned(),
            message,
        }
    }
}

impl fmt::Display for Diagnostic {
    /// `file:line: option: message`, without what is absent; no line breaks or other control
    /// characters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = String::new();
        if !self.file.is_empty() {
            line.push_str(&format!("{}:{}: ", self.file, self.line));
        }
        if !self.option.is_empty() {
            line.push_str(&format!("{}: ", self.option));
        }
        line.push_str(&self.message);
        for c in line.chars() {
            let shown = if c.is_control() { '?' } else { c };
            write!(f, "{shown}")?;
        }
        Ok(())
    }
}

/// Why a configuration cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub Diagnostic);

impl From<Diagnostic> for ConfigError {
    fn from(diagnostic: Diagnostic) -> Self {
        ConfigError(diagnostic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_is_one_line() {
        let at = Position::new("a.conf", 7);
        let finding = Diagnostic::error(&at, "de\nv", "bad \u{1b}[0m value");
        assert_eq!(finding.to_string(), "a.conf:7: de?v: bad ?[0m value");
        assert_eq!(Diagnostic::general("no dev").to_string(), "no dev");
    }
}
