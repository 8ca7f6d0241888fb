//! `auth-user-pass-verify` and `client-crresponse`: user names, passwords and what comes after.
//!
//! ```text
//!  exit 0 -> Accepted
//!  exit 2 -> Deferred -> check() -> auth_control_file '1' Accepted, '0' Refused
//!  other  -> Refused  |          -> auth_pending_file: a message for the client, then again
//!    \________________|____________ auth_failed_reason_file: what the client is told
//! ```
//!
//! Neither name nor password is ever logged.

use std::io;
use std::time::Duration;

use zeroize::Zeroizing;

use super::deferred::{Decision, Pause, decision};
use super::files::ScriptFiles;
use super::{ClientCall, HookFailure, Prepared, plain_verdict};
use crate::config::server::AuthVia;
use crate::host::env::{ScriptEnv, clean_value};
use crate::host::script::{Hook, ScriptCommand, ScriptError};

const CONTROL: &str = "acf";
const REASON: &str = "afr";
const PENDING: &str = "apf";
const CREDENTIALS: &str = "up";

/// The variables that name them.
const VARIABLES: [(&str, &str); 3] = [
    ("auth_control_file", CONTROL),
    ("auth_failed_reason_file", REASON),
    ("auth_pending_file", PENDING),
];

/// Bytes of a reason: with `AUTH_FAILED,` in front it fits every client's buffer.
const MAX_REASON: usize = 900;
/// Bytes of `auth_pending_file`.
const MAX_PENDING: usize = 1024;

/// A call of `auth-user-pass-verify`.
#[derive(Debug)]
pub struct AuthUserPassVerify {
    client: String,
    files: ScriptFiles,
}

/// What a call of `auth-user-pass-verify` means.
#[derive(Debug)]
pub enum AuthVerdict {
    /// The client is who it says.
    Accepted,
    /// It is not, or that could not be found out.
    Refused {
        /// For the log.
        failure: HookFailure,
        /// For the client, behind `AUTH_FAILED,`; may begin with `TEMP`.
        reason: Option<String>,
    },
    /// The script decides later.
    Deferred(DeferredAuth),
}

/// A decision that is still to come.
#[derive(Debug)]
pub struct DeferredAuth {
    client: String,
    files: ScriptFiles,
    paths: [String; 3],
    pause: Pause,
    /// A message was begun when last looked at.
    unfinished: bool,
}

/// What has become of a deferred decision.
#[derive(Debug, PartialEq, Eq)]
pub enum AuthState {
    /// Nothing yet.
    Pending,
    /// The client has to be told something; the decision is still to come.
    Message(AuthPending),
    /// As [`AuthVerdict::Accepted`].
    Accepted,
    /// As [`AuthVerdict::Refused`].
    Refused {
        /// For the log.
        failure: HookFailure,
        /// For the client, behind `AUTH_FAILED,`.
        reason: Option<String>,
    },
}

/// What `auth_pending_file` asks for: `AUTH_PENDING,timeout N`, then `INFO_PRE,message`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthPending {
    /// Seconds that the client shall wait, at least 1; the server has limits of its own.
    pub timeout: u32,
    /// What the client must be able to do, such as `crtext`.
    pub method: String,
    /// For the client, such as `CR_TEXT:E,R:enter the code`.
    pub message: String,
}

/// A call of `client-crresponse`.
#[derive(Debug)]
pub struct ClientCrresponse {
    client: String,
    _files: ScriptFiles,
}

impl AuthUserPassVerify {
    /// Gives name and password to a script. Control characters in them become `_`.
    ///
    /// # Errors
    ///
    /// The client is to be refused: `via` is [`AuthVia::Env`] without `security` 3, or a file
    /// cannot be written.
    pub fn prepare(
        call: &ClientCall<'_>,
        command: &ScriptCommand,
        via: AuthVia,
        security: u8,
        username: &str,
        password: &str,
    ) -> Result<Prepared<Self>, HookFailure> {
        const HOOK: Hook = Hook::AuthUserPassVerify;
        if via == AuthVia::Env && security < 3 {
            let what = "not run: via-env needs script-security 3";
            return Err(HookFailure::new(call.client, HOOK, what));
        }
        let files = call.files(HOOK)?;
        let failed = |error: io::Error| call.file_failure(HOOK, &error);
        let mut job = call.job(HOOK, command);
        job.env.set("username", username);
        for (variable, name) in VARIABLES {
            job.env
                .set(variable, files.create(name, b"").map_err(failed)?);
        }
        match via {
            AuthVia::Env => job.env.set("password", password),
            AuthVia::File => {
                let password = Zeroizing::new(clean_value(password));
                let lines = Zeroizing::new(format!("{}\n{}\n", clean_value(username), *password));
                let path = files
                    .create(CREDENTIALS, lines.as_bytes())
                    .map_err(failed)?;
                job.arguments.push(path);
            }
        }
        let hook = AuthUserPassVerify {
            client: call.client.to_owned(),
            files,
        };
        Ok(Prepared { job, hook })
    }

    /// What the script's end means.
    pub fn finish(self, result: Result<(), ScriptError>) -> AuthVerdict {
        let error = match result {
            Ok(()) => return AuthVerdict::Accepted,
            Err(error) => error,
        };
        match error {
            ScriptError::Failed(status) if status.code() == Some(2) => {
                match DeferredAuth::new(self) {
                    Ok(deferred) => AuthVerdict::Deferred(deferred),
                    Err(failure) => AuthVerdict::Refused {
                        failure,
                        reason: None,
                    },
                }
            }
            error => AuthVerdict::Refused {
                failure: failure(&self.client, error),
                reason: reason(&self.files),
            },
        }
    }
}

impl DeferredAuth {
    fn new(call: AuthUserPassVerify) -> Result<Self, HookFailure> {
        let AuthUserPassVerify { client, files } = call;
        // The password is not needed any more.
        let removed = files.remove(CREDENTIALS);
        let paths = removed.and_then(|()| {
            Ok([
                files.path(CONTROL)?,
                files.path(REASON)?,
                files.path(PENDING)?,
            ])
        });
        match paths {
            Ok(paths) => Ok(DeferredAuth {
                client,
                files,
                paths,
                pause: Pause::new(),
                unfinished: false,
            }),
            Err(error) => Err(failure(&client, error)),
        }
    }

    /// Looks at what the script has written since. To be called at once, then after each
    /// [`DeferredAuth::pause`] until there is a decision, and when `client-crresponse` has run.
    pub fn check(&mut self) -> AuthState {
        let decision = match decision(&self.files, CONTROL) {
            Ok(decision) => decision,
            Err(error) => return self.refused(error),
        };
        match decision {
            Decision::Yes => return AuthState::Accepted,
            Decision::No => return self.refused("refused"),
            Decision::None | Decision::Later | Decision::Unknown(_) => {}
        }
        match self.message() {
            Ok(Some(message)) => {
                self.pause.restart();
                AuthState::Message(message)
            }
            Ok(None) => {
                self.pause.lengthen();
                AuthState::Pending
            }
            Err(what) => self.refused(what),
        }
    }

    /// How long to wait before the next [`DeferredAuth::check`]: 50 ms at first, a second later on.
    pub fn pause(&self) -> Duration {
        self.pause.now()
    }

    /// The names of the files by which `client-crresponse` tells its decision.
    pub fn set_variables(&self, env: &mut ScriptEnv) {
        for ((variable, _), path) in VARIABLES.iter().zip(&self.paths) {
            env.set(variable, path);
        }
    }

    /// No decision came while the client could wait.
    pub fn expired(self) -> HookFailure {
        failure(&self.client, "no decision in time")
    }

    /// A complete message in `auth_pending_file`, which is taken out. One that is not complete may
    /// still be written to, but not for longer than one look.
    fn message(&mut self) -> Result<Option<AuthPending>, String> {
        let text = self
            .files
            .read(PENDING, MAX_PENDING)
            .map_err(|error| error.to_string())?;
        if text.is_empty() {
            self.unfinished = false;
            return Ok(None);
        }
        match AuthPending::parse(&text) {
            Ok(message) => {
                self.unfinished = false;
                self.files
                    .clear(PENDING)
                    .map_err(|error| error.to_string())?;
                Ok(Some(message))
            }
            Err(_) if !self.unfinished => {
                self.unfinished = true;
                Ok(None)
            }
            Err(what) => Err(format!("auth_pending_file: {what}")),
        }
    }

    fn refused(&self, what: impl std::fmt::Display) -> AuthState {
        AuthState::Refused {
            failure: failure(&self.client, what),
            reason: reason(&self.files),
        }
    }
}

impl AuthPending {
    /// Reads the three lines: seconds, method, message. Further lines are for later versions.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        if text.len() > MAX_PENDING {
            return Err(format!("longer than {MAX_PENDING} bytes"));
        }
        let text = std::str::from_utf8(text).map_err(|_| "not UTF-8".to_owned())?;
        let mut lines = text.lines().map(|line| line.trim_end_matches('\r'));
        let (Some(timeout), Some(method), Some(message)) =
            (lines.next(), lines.next(), lines.next())
        else {
            return Err("fewer than three lines".into());
        };
        let timeout = timeout
            .trim()
            .parse()
            .ok()
            .filter(|seconds| *seconds > 0)
            .ok_or_else(|| format!("'{}' is not a number of seconds", clean_value(timeout)))?;
        if method.is_empty() {
            return Err("the method is empty".into());
        }
        Ok(AuthPending {
            timeout,
            method: clean_value(method),
            message: clean_value(message),
        })
    }

    /// Whether a client with this `IV_SSO` (methods, comma separated) can do what is asked for.
    ///
    /// # Errors
    ///
    /// The reason to refuse it with, for the log and for the client.
    pub fn check_method(&self, iv_sso: Option<&str>) -> Result<(), String> {
        let mut methods = iv_sso.unwrap_or_default().split(',');
        if methods.any(|method| method == self.method) {
            Ok(())
        } else {
            Err(format!(
                "Authentication failed, required pending auth method '{}' not supported",
                self.method
            ))
        }
    }
}

impl ClientCrresponse {
    /// Gives a client's answer to a script, unchanged: that it is base64, for example, is for the
    /// script to check. `deferred` is the decision the answer is for.
    ///
    /// # Errors
    ///
    /// A file cannot be written; the client is to be refused.
    pub fn prepare(
        call: &ClientCall<'_>,
        command: &ScriptCommand,
        deferred: Option<&DeferredAuth>,
        response: &str,
    ) -> Result<Prepared<Self>, HookFailure> {
        const HOOK: Hook = Hook::ClientCrresponse;
        let files = call.files(HOOK)?;
        let line = Zeroizing::new(format!("{response}\n"));
        let path = files
            .create("cr", line.as_bytes())
            .map_err(|error| call.file_failure(HOOK, &error))?;
        let mut job = call.job(HOOK, command);
        job.arguments.push(path);
        if let Some(deferred) = deferred {
            deferred.set_variables(&mut job.env);
        }
        let hook = ClientCrresponse {
            client: call.client.to_owned(),
            _files: files,
        };
        Ok(Prepared { job, hook })
    }

    /// Success means that the decision is where [`DeferredAuth::check`] finds it, now or later.
    ///
    /// # Errors
    ///
    /// The client is to be refused.
    pub fn finish(self, result: Result<(), ScriptError>) -> Result<(), HookFailure> {
        plain_verdict(&self.client, Hook::ClientCrresponse, result)
    }
}

fn failure(client: &str, what: impl std::fmt::Display) -> HookFailure {
    HookFailure::new(client, Hook::AuthUserPassVerify, what)
}

/// The first line of `auth_failed_reason_file`.
fn reason(files: &ScriptFiles) -> Option<String> {
    let text = files.read(REASON, MAX_REASON).ok()?;
    let text = String::from_utf8_lossy(&text[..text.len().min(MAX_REASON)]);
    let line = clean_value(text.lines().next()?.trim_end());
    (!line.is_empty()).then_some(line)
}
