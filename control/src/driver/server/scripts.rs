//! Scripts run for clients, and what their ends lead to.
//!
//! A client waits for at most one script of its handshake and one of its admission at a time, besides
//! the decisions that scripts have put off.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ringway_dataplane::command::PeerHandle;
use ringway_dataplane::forward::mac_table::Station;

use super::Server;
use super::auth::Step;
use super::client::Client;
use crate::config::options::Script;
use crate::config::server::ServerOptions;
use crate::driver::setup;
use crate::host::jobs::{JobId, JobSpec};
use crate::host::script::Hook;
use crate::host::server_scripts::{
    AuthUserPassVerify, ClientCall, ClientConnect, ClientCrresponse, DeferredAuth, DeferredConnect,
    HookCall, HookFailure, LearnAddress, ScriptFiles, TlsCryptV2Verify, TlsVerify,
};
use crate::log;
use crate::server::routes::Address;

/// How long the last scripts of a server may take, all in all.
const LAST_SCRIPTS: Duration = Duration::from_secs(30);

/// Scripts in progress, by job.
#[derive(Default)]
pub(super) struct Running {
    clients: HashMap<JobId, PeerHandle>,
}

/// What a client waits for.
pub(super) enum Waiting {
    ClientKey(JobId, TlsCryptV2Verify),
    Certificate(JobId, usize, TlsVerify),
    Login(JobId, AuthUserPassVerify),
    Connect(JobId, ClientConnect),
    Learn(JobId, HookCall, LearnAddress, Address),
    Response(JobId, ClientCrresponse),
    Station(JobId, LearnAddress, Station),
}

/// A decision that a script has put off, and when to look for it.
pub(super) enum Deferred {
    Login(Instant, DeferredAuth),
    Connect(Instant, DeferredConnect),
}

impl Waiting {
    fn job(&self) -> JobId {
        match self {
            Waiting::ClientKey(job, _)
            | Waiting::Certificate(job, ..)
            | Waiting::Login(job, _)
            | Waiting::Connect(job, _)
            | Waiting::Learn(job, ..)
            | Waiting::Station(job, ..)
            | Waiting::Response(job, _) => *job,
        }
    }
}

impl Waiting {
    /// It belongs to a handshake, and ends with it.
    pub(super) fn is_of_handshake(&self) -> bool {
        match self {
            Waiting::ClientKey(..)
            | Waiting::Certificate(..)
            | Waiting::Login(..)
            | Waiting::Response(..) => true,
            Waiting::Connect(..) | Waiting::Learn(..) | Waiting::Station(..) => false,
        }
    }
}

impl Deferred {
    /// When to look.
    pub(super) fn due(&self) -> Instant {
        match self {
            Deferred::Login(at, _) | Deferred::Connect(at, _) => *at,
        }
    }
}

impl Server<'_> {
    /// What every call for this client has in common.
    pub(super) fn client_call<'a>(
        &'a self,
        client: &'a Client,
        label: &'a str,
        lane: Option<&'a str>,
    ) -> ClientCall<'a> {
        ClientCall {
            client: label,
            env: &client.env,
            lane,
            deadline: Some(Instant::now() + self.tunnel_config.hand_window),
            tmp_dir: &self.settings.tmp_dir,
        }
    }

    /// Runs a script for a client; its end comes to [`Server::take_script_results`].
    pub(super) fn run_script(
        &mut self,
        client: &mut Client,
        hook: Hook,
        job: JobSpec,
        waiting: impl FnOnce(JobId) -> Waiting,
    ) -> Result<(), HookFailure> {
        let id = self
            .jobs
            .spawn(Instant::now(), job)
            .map_err(|error| HookFailure::not_run(&client.label(), hook, &error))?;
        self.running.clients.insert(id, client.handle);
        client.waiting.push(waiting(id));
        Ok(())
    }

    /// Runs a script whose result nobody needs.
    pub(super) fn tell_script(&mut self, job: JobSpec) {
        // What is refused has been logged.
        let _ = self.jobs.spawn(Instant::now(), job);
    }

    /// Takes in the scripts that have ended.
    pub(super) fn take_script_results(&mut self) {
        self.jobs.handle_ready(Instant::now());
        while let Some((job, result)) = self.jobs.next_finished() {
            let Some(handle) = self.running.clients.remove(&job) else {
                continue;
            };
            self.with_client(handle, |server, client| {
                let found = client.waiting.iter().position(|w| w.job() == job);
                let Some(found) = found else { return };
                let waiting = client.waiting.swap_remove(found);
                match waiting {
                    Waiting::ClientKey(_, hook) => {
                        let verdict = hook.finish(result);
                        server.passed(client, Step::Key, HookCall::TlsCryptV2Verify, verdict);
                    }
                    Waiting::Certificate(_, depth, hook) => {
                        let verdict = hook.finish(result);
                        let call = HookCall::TlsVerify(depth);
                        server.passed(client, Step::Certificates, call, verdict);
                    }
                    Waiting::Login(_, hook) => server.login_judged(client, hook.finish(result)),
                    Waiting::Connect(_, hook) => server.connect_judged(client, hook.finish(result)),
                    Waiting::Learn(_, call, hook, address) => {
                        server.address_judged(client, call, address, hook.finish(result));
                    }
                    Waiting::Station(_, hook, station) => {
                        server.station_judged(client, station, hook.finish(result));
                    }
                    Waiting::Response(_, hook) => {
                        server.response_taken(client, hook.finish(result))
                    }
                }
            });
        }
    }

    /// Looks for decisions that were put off.
    pub(super) fn check_deferred(&mut self) {
        let now = Instant::now();
        for handle in self.deferrals.due(now) {
            self.with_client(handle, |server, client| {
                let (due, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut client.deferred)
                    .into_iter()
                    .partition(|deferred| deferred.due() <= now);
                client.deferred = rest;
                for deferred in due {
                    match deferred {
                        Deferred::Login(_, login) => server.look_for_login(client, login),
                        Deferred::Connect(_, connect) => server.look_for_connect(client, connect),
                    }
                }
            });
        }
    }

    /// A client is gone: nobody waits for its scripts.
    pub(super) fn forget_scripts(&mut self, client: &mut Client) {
        self.forget_scripts_if(client, |_| true);
    }

    /// Nobody waits for these of its scripts.
    pub(super) fn forget_scripts_if(
        &mut self,
        client: &mut Client,
        forget: impl Fn(&Waiting) -> bool,
    ) {
        for waiting in client.waiting.extract_if(.., |waiting| forget(waiting)) {
            let job = waiting.job();
            self.running.clients.remove(&job);
            self.jobs.cancel(Instant::now(), job);
        }
    }

    /// Waits for the scripts that tell of the clients' end (they end with the server otherwise), up to
    /// [`LAST_SCRIPTS`], or until the next signal.
    pub(super) fn finish_scripts(&mut self) {
        self.workers.wake();
        let until = Instant::now() + LAST_SCRIPTS;
        while !self.jobs.is_idle() && Instant::now() < until {
            let next = self.jobs.next_timeout().map_or(until, |at| at.min(until));
            let wait = next.saturating_duration_since(Instant::now());
            let wait = wait + Duration::from_micros(999);
            let mut fds = [
                PollFd::new(self.jobs.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.program.signals.as_fd(), PollFlags::POLLIN),
            ];
            let _ = poll(
                &mut fds,
                PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX),
            );
            if fds[1].any().unwrap_or(false) {
                break;
            }
            self.jobs.handle_ready(Instant::now());
            while self.jobs.next_finished().is_some() {}
        }
        if !self.jobs.is_idle() {
            log::warn!("scripts of clients that are gone have not ended, and are ended now");
        }
    }
}

/// Tries the folder of `tls-export-cert`, with the rights and the root that scripts' files are made with.
///
/// # Errors
/// One line: it cannot be used.
pub(super) fn check_export(settings: &ServerOptions) -> Result<(), String> {
    let (Some(folder), Some(_)) = (&settings.tls_export_cert, &settings.tls_verify) else {
        return Ok(());
    };
    match ScriptFiles::new(&folder.path) {
        Ok(_) => Ok(()),
        Err(error) => {
            let (position, path) = (&folder.position, folder.path.display());
            Err(format!(
                "{position}: tls-export-cert: no file can be made in '{path}': {error}"
            ))
        }
    }
}

/// The command of an option.
pub(super) fn command(script: &Script) -> crate::host::script::ScriptCommand {
    setup::script(script)
}

/// Tells of a script that did not let a client pass.
pub(super) fn log_failure(failure: &HookFailure) {
    log::warn!(in Script, "{failure}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse_text;

    /// What is said of this folder, and of the same without `tls-verify`.
    fn said(folder: &str) -> [Result<(), String>; 2] {
        ["tls-verify /bin/true\n", ""].map(|script| {
            let text = format!(
                "dev tun\nserver 10.8.0.0 255.255.255.0\nca a\ncert c\nkey k\n\
                 tls-export-cert {folder}\n{script}"
            );
            let loaded = parse_text("t", text.as_bytes()).unwrap();
            check_export(&loaded.options.server.unwrap())
        })
    }

    #[test]
    fn a_folder_for_certificates_must_be_usable() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display().to_string();
        assert_eq!(said(&path), [Ok(()), Ok(())]);
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0);
        let [fault, unused] = said(&format!("{path}/none"));
        let expected = format!("t:6: tls-export-cert: no file can be made in '{path}/none': ");
        assert!(fault.unwrap_err().starts_with(&expected));
        assert_eq!(unused, Ok(()));
    }
}
