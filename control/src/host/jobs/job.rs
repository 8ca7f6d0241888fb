//! One running script.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Child;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open};

use super::output::ScriptOutput;
use crate::host::env::ScriptEnv;
use crate::host::script::{Hook, Output, ScriptCommand, ScriptError, outcome};

/// A script that runs, in a process group of its own. Its descriptor becomes readable when it ends.
/// Dropping it kills the whole group.
#[derive(Debug)]
pub struct Job {
    child: Child,
    pidfd: OwnedFd,
    ended: bool,
}

impl Job {
    /// Starts a script as [`ScriptCommand::run`] does. What it prints is to be read from the second
    /// part; `label` is for its log lines. `security` is `script-security`.
    pub fn spawn(
        hook: Hook,
        command: &ScriptCommand,
        arguments: &[String],
        env: &ScriptEnv,
        security: u8,
        label: String,
    ) -> Result<(Self, ScriptOutput), ScriptError> {
        let (reader, writer) = io::pipe().map_err(ScriptError::Start)?;
        let output = ScriptOutput::new(reader, label).map_err(ScriptError::Start)?;
        let mut child = command.start(hook, arguments, env, security, Output::Pipe(writer))?;
        // The number stays this child's until it is waited for, so nothing else can be meant.
        match pidfd_open(
            rustix::process::Pid::from_child(&child),
            PidfdFlags::empty(),
        ) {
            Ok(pidfd) => Ok((
                Job {
                    child,
                    pidfd,
                    ended: false,
                },
                output,
            )),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(ScriptError::Start(error.into()))
            }
        }
    }

    /// Asks the script and all in its group to end (SIGTERM).
    pub fn stop(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// Ends the script and all in its group (SIGKILL).
    pub fn kill(&self) {
        self.signal(Signal::SIGKILL);
    }

    /// The result, if the script has ended. With `all`, what is left of its group is killed too:
    /// what a script that ended by itself leaves in the background is there on purpose.
    pub fn try_end(&mut self, all: bool) -> Option<Result<(), ScriptError>> {
        if !self.has_ended(PollTimeout::ZERO) {
            return None;
        }
        if all && !self.ended {
            // Before the wait, while the group's number cannot be another's.
            self.kill();
        }
        let status = self.child.wait();
        self.ended = true;
        Some(status.map_err(ScriptError::Start).and_then(outcome))
    }

    fn has_ended(&self, timeout: PollTimeout) -> bool {
        let mut fds = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut fds, timeout), Ok(1..))
    }

    /// Signals the group. Once the script has been waited for its number may be another's.
    fn signal(&self, signal: Signal) {
        if self.ended {
            return;
        }
        if let Ok(group) = i32::try_from(self.child.id()) {
            // A script that has become another user cannot be ended; its slot waits for it.
            let _ = killpg(Pid::from_raw(group), signal);
        }
    }
}

impl AsFd for Job {
    /// Readable when the script has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        /// Time for the kernel to end a killed process, which takes longer only in a stuck system
        /// call.
        const PATIENCE_MS: u16 = 1000;
        if self.ended {
            return;
        }
        self.kill();
        if self.has_ended(PollTimeout::from(PATIENCE_MS)) {
            let _ = self.child.wait();
        }
    }
}
