//! The scripts of a server: what each is given, and what its end means.
//!
//! Each hook has a small type. Its `prepare` gathers arguments, variables and files into a
//! [`JobSpec`] for [`Jobs`](super::jobs::Jobs); its `finish` takes the job's result and says what it
//! means. Whoever drops the type, for whatever reason, removes the files. Nothing here waits, logs or
//! decides about a client: failures are values that read as one log line.
//!
//! ```text
//!   prepare -> Prepared { job, hook }     hook is kept beside the JobId
//!                 |
//!   Jobs::spawn(job) ... Jobs::next_finished -> hook.finish(result) -> verdict
//!                                                       |
//!                                      Deferred: check() now and then, until it says more
//! ```
//!
//! | hook | given | verdict |
//! |---|---|---|
//! | [`TlsCryptV2Verify`] | metadata of the client's key in a file | passed or not |
//! | [`TlsVerify`] | depth, subject; one call per certificate, the root first | passed or not |
//! | [`AuthUserPassVerify`] | name and password, in variables or a file | accepted, refused, deferred |
//! | [`ClientCrresponse`] | answer to a question, in a file | passed or not |
//! | [`ClientConnect`] | a file for options of this client | accepted with options, refused, deferred |
//! | [`LearnAddress`] | `add` or `update`, address, name | the address is taken or not |
//! | [`learn_address_delete`] | `delete`, address | nobody asks |
//! | [`client_disconnect`] | totals of the session | nobody asks |
//!
//! The order of the calls is that of [`ClientHooks`].

mod auth;
mod connect;
mod deferred;
mod disconnect;
mod files;
mod learn;
mod order;
#[cfg(test)]
mod tests;
mod variables;
mod verify;

use std::fmt;
use std::io;
use std::path::Path;
use std::time::Instant;

use super::env::ScriptEnv;
use super::jobs::{JobKind, JobSpec};
use super::script::{Hook, ScriptCommand, ScriptError};

pub use auth::{
    AuthPending, AuthState, AuthUserPassVerify, AuthVerdict, ClientCrresponse, DeferredAuth,
};
pub use connect::{ClientConnect, ConnectState, ConnectVerdict, DeferredConnect};
pub use disconnect::client_disconnect;
pub use files::ScriptFiles;
pub use learn::{LearnAddress, LearnOperation, learn_address_delete};
pub use order::{ClientHooks, Configured, HookCall, Next, Stage};
pub use variables::{SessionTotals, VirtualAddress, VirtualAddress6};
pub use verify::{TlsCryptV2Verify, TlsVerify};

/// What every call for a client has in common.
#[derive(Clone, Copy, Debug)]
pub struct ClientCall<'a> {
    /// The client as log lines name it, such as `branch1/192.0.2.2:1194`.
    pub client: &'a str,
    /// Its variables.
    pub env: &'a ScriptEnv,
    /// Calls with the same word here never run beside each other; the common name, say, where it
    /// means one client.
    pub lane: Option<&'a str>,
    /// When the call is of no use any more.
    pub deadline: Option<Instant>,
    /// `tmp-dir`
    pub tmp_dir: &'a Path,
}

/// A call that can be made.
#[derive(Debug)]
pub struct Prepared<H> {
    /// To be run.
    pub job: JobSpec,
    /// To be kept until its result is there; removes its files when it is dropped.
    pub hook: H,
}

/// Why a script does not let a client pass: one line for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookFailure {
    client: String,
    hook: Hook,
    what: String,
}

impl HookFailure {
    /// The script that is the reason.
    pub fn hook(&self) -> Hook {
        self.hook
    }

    /// A job that was not even taken by [`Jobs::spawn`](super::jobs::Jobs::spawn).
    pub fn not_run(client: &str, hook: Hook, error: &ScriptError) -> Self {
        HookFailure::new(client, hook, error)
    }

    fn new(client: &str, hook: Hook, what: impl fmt::Display) -> Self {
        HookFailure {
            client: client.to_owned(),
            hook,
            what: what.to_string(),
        }
    }

    /// A file for a script could not be made or used.
    fn file(client: &str, hook: Hook, tmp_dir: &Path, error: &io::Error) -> Self {
        let what = format!("no file in '{}': {error}", tmp_dir.display());
        HookFailure::new(client, hook, what)
    }
}

/// `CLIENT: HOOK: what happened`
impl fmt::Display for HookFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.client, self.hook.name(), self.what)
    }
}

impl std::error::Error for HookFailure {}

impl ClientCall<'_> {
    /// A job with the variables as they are, no arguments, whose result matters.
    fn job(&self, hook: Hook, command: &ScriptCommand) -> JobSpec {
        JobSpec {
            hook,
            client: self.client.to_owned(),
            command: command.clone(),
            arguments: Vec::new(),
            env: self.env.clone(),
            lane: self.lane.map(str::to_owned),
            deadline: self.deadline,
            kind: JobKind::Verdict,
        }
    }

    fn files(&self, hook: Hook) -> Result<ScriptFiles, HookFailure> {
        ScriptFiles::new(self.tmp_dir).map_err(|error| self.file_failure(hook, &error))
    }

    fn file_failure(&self, hook: Hook, error: &io::Error) -> HookFailure {
        HookFailure::file(self.client, hook, self.tmp_dir, error)
    }
}

/// The verdict of a script whose exit status says everything.
fn plain_verdict(
    client: &str,
    hook: Hook,
    result: Result<(), ScriptError>,
) -> Result<(), HookFailure> {
    result.map_err(|error| HookFailure::new(client, hook, error))
}
