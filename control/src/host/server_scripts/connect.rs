//! `client-connect`: may a client come in, and with which options.
//!
//! ```text
//!  exit 0, deferred file empty or '1' -> Accepted(options)
//!  exit 0, deferred file '2'          -> Deferred -> check() -> '1' Accepted, '0' Refused
//!  exit 0, deferred file '0'          -> Refused
//!  any other exit                     -> Refused
//! ```

use std::time::Duration;

use super::deferred::{Decision, Pause, decision};
use super::files::ScriptFiles;
use super::{ClientCall, HookFailure, Prepared};
use crate::host::script::{Hook, ScriptCommand, ScriptError};

const CONFIG: &str = "cc";
const DECISION: &str = "ccr";

/// Bytes of a client's options: many times what can be pushed.
const MAX_CONFIG: usize = 64 * 1024;

/// A call of `client-connect`.
#[derive(Debug)]
pub struct ClientConnect {
    client: String,
    files: ScriptFiles,
}

/// What a call of `client-connect` means.
#[derive(Debug)]
pub enum ConnectVerdict {
    /// The client may come in, with these options, in the syntax of a file in `client-config-dir`.
    Accepted(String),
    /// It may not.
    Refused(HookFailure),
    /// The script decides later.
    Deferred(DeferredConnect),
}

/// A decision that is still to come.
#[derive(Debug)]
pub struct DeferredConnect {
    call: ClientConnect,
    pause: Pause,
}

/// What has become of a deferred decision.
#[derive(Debug, PartialEq, Eq)]
pub enum ConnectState {
    /// Nothing yet.
    Pending,
    /// As [`ConnectVerdict::Accepted`].
    Accepted(String),
    /// As [`ConnectVerdict::Refused`].
    Refused(HookFailure),
}

impl ClientConnect {
    /// Asks a script. The client's variables should have its addresses
    /// ([`ScriptEnv::set_virtual_address`](crate::host::env::ScriptEnv::set_virtual_address)) and
    /// times.
    ///
    /// # Errors
    ///
    /// A file cannot be written; the client is to be refused.
    pub fn prepare(
        call: &ClientCall<'_>,
        command: &ScriptCommand,
    ) -> Result<Prepared<Self>, HookFailure> {
        const HOOK: Hook = Hook::ClientConnect;
        let files = call.files(HOOK)?;
        let failed = |error| call.file_failure(HOOK, &error);
        let config = files.create(CONFIG, b"").map_err(failed)?;
        let decision = files.create(DECISION, b"").map_err(failed)?;
        let mut job = call.job(HOOK, command);
        job.env.set("client_connect_config_file", &config);
        job.env.set("client_connect_deferred_file", decision);
        job.arguments.push(config);
        let hook = ClientConnect {
            client: call.client.to_owned(),
            files,
        };
        Ok(Prepared { job, hook })
    }

    /// What the script's end means.
    pub fn finish(self, result: Result<(), ScriptError>) -> ConnectVerdict {
        if let Err(error) = result {
            return ConnectVerdict::Refused(self.failure(error));
        }
        match decision(&self.files, DECISION) {
            Ok(Decision::Later) => ConnectVerdict::Deferred(DeferredConnect {
                call: self,
                pause: Pause::new(),
            }),
            Ok(Decision::None | Decision::Yes) => match self.options() {
                Ok(options) => ConnectVerdict::Accepted(options),
                Err(failure) => ConnectVerdict::Refused(failure),
            },
            Ok(Decision::No) => ConnectVerdict::Refused(self.failure("refused")),
            Ok(Decision::Unknown(byte)) => ConnectVerdict::Refused(self.unknown(byte)),
            Err(error) => ConnectVerdict::Refused(self.failure(error)),
        }
    }

    fn options(&self) -> Result<String, HookFailure> {
        let text = self
            .files
            .read(CONFIG, MAX_CONFIG)
            .map_err(|error| self.failure(error))?;
        if text.len() > MAX_CONFIG {
            let what = format!("its options are longer than {MAX_CONFIG} bytes");
            return Err(self.failure(what));
        }
        String::from_utf8(text).map_err(|_| self.failure("its options are not UTF-8"))
    }

    fn unknown(&self, byte: u8) -> HookFailure {
        let shown = byte.escape_ascii();
        self.failure(format_args!(
            "client_connect_deferred_file: '{shown}' is none of 0, 1 and 2"
        ))
    }

    fn failure(&self, what: impl std::fmt::Display) -> HookFailure {
        HookFailure::new(&self.client, Hook::ClientConnect, what)
    }
}

impl DeferredConnect {
    /// Looks whether the script has decided; to be called after each [`DeferredConnect::pause`].
    pub fn check(&mut self) -> ConnectState {
        match decision(&self.call.files, DECISION) {
            Ok(Decision::None | Decision::Later) => {
                self.pause.lengthen();
                ConnectState::Pending
            }
            Ok(Decision::Yes) => match self.call.options() {
                Ok(options) => ConnectState::Accepted(options),
                Err(failure) => ConnectState::Refused(failure),
            },
            Ok(Decision::No) => ConnectState::Refused(self.call.failure("refused")),
            Ok(Decision::Unknown(byte)) => ConnectState::Refused(self.call.unknown(byte)),
            Err(error) => ConnectState::Refused(self.call.failure(error)),
        }
    }

    /// How long to wait before the next [`DeferredConnect::check`]: 50 ms at first, a second later
    /// on.
    pub fn pause(&self) -> Duration {
        self.pause.now()
    }

    /// No decision came while the client could wait.
    pub fn expired(self) -> HookFailure {
        self.call.failure("no decision in time")
    }
}
