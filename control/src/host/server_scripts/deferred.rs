//! Decisions that come later, by a file: when to look, and what its first character says.

use std::io;
use std::time::Duration;

use super::files::ScriptFiles;

/// What a script has decided so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Nothing.
    None,
    /// `1`
    Yes,
    /// `0`
    No,
    /// `2`
    Later,
    /// Something else.
    Unknown(u8),
}

/// Reads the first character of a file of decisions.
pub(super) fn decision(files: &ScriptFiles, name: &str) -> io::Result<Decision> {
    Ok(match files.read(name, 1)?.first() {
        None => Decision::None,
        Some(b'1') => Decision::Yes,
        Some(b'0') => Decision::No,
        Some(b'2') => Decision::Later,
        Some(other) => Decision::Unknown(*other),
    })
}

/// How long to wait between two looks: 50 ms at first, doubling up to a second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pause(Duration);

impl Pause {
    const FIRST: Duration = Duration::from_millis(50);
    const LONGEST: Duration = Duration::from_secs(1);

    pub(super) fn new() -> Self {
        Pause(Self::FIRST)
    }

    pub(super) fn now(self) -> Duration {
        self.0
    }

    pub(super) fn lengthen(&mut self) {
        self.0 = (self.0 * 2).min(Self::LONGEST);
    }

    pub(super) fn restart(&mut self) {
        *self = Pause::new();
    }
}
