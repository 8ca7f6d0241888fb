//! The program around the control channel: restarts, the interface, privileges, everyday chores.
//!
//! ```text
//!   run          configuration -> Program -> attempts until one says Exit
//!   attempt.rs   one connection: sockets, worker, Tunnel, event loop
//!   interface.rs the TUN device, its addresses, its routes, the scripts
//!   remotes.rs   where to connect next            keepalive.rs  pings and silence
//!   setup.rs     options -> what each part needs   report.rs     statistics, status file
//! ```

mod attempt;
mod credentials;
mod devices;
mod interface;
mod keepalive;
mod remotes;
mod report;
mod setup;
mod tls_setup;

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ringway_dataplane::command::Endpoint;
use ringway_dataplane::stats::{PeerStats, WorkerStats};
use ringway_dataplane::udp::UdpSocket;

use attempt::Attempt;
use credentials::CredentialStore;
use interface::Interface;
use remotes::{Remotes, Target};
use report::Totals;

use crate::cli::TunRequest;
use crate::config::diagnostic::Diagnostic;
use crate::config::options::{Connection, Options, RemapSignal};
use crate::config::pushed::PulledOptions;
use crate::config::{self, Loaded};
use crate::host::daemon;
use crate::host::env::ScriptEnv;
use crate::host::privileges::{self, PrivilegePlan};
use crate::host::script::{self, Hook};
use crate::host::signals::{Signal, Signals};
use crate::log;
use crate::proto::Now;
use crate::proto::push::AuthFailed;
use crate::proto::tunnel::{Mode, TunnelConfig};
use crate::tls::{TlsContext, TlsSession, cert_env};

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The program ends with this status.
    Exit(u8),
    /// A fault that no restart mends; the text is the one line for the person.
    Fatal(String),
    /// SIGUSR1: try again, with the next remote after `advance`.
    Restart {
        /// Why, for the log.
        reason: String,
        /// A wait the server asked for, seconds.
        backoff: Option<u64>,
    },
    /// SIGHUP: read the configuration again.
    Reload,
}

impl Ending {
    fn restart(reason: impl Into<String>) -> Self {
        Ending::Restart {
            reason: reason.into(),
            backoff: None,
        }
    }

    fn fatal(text: impl Into<String>) -> Self {
        Ending::Fatal(text.into())
    }
}

/// Runs with these command-line arguments until the end; the exit status of the process.
pub fn run(args: &[String]) -> u8 {
    let mut detached = false;
    loop {
        let loaded = match config::load(args) {
            Ok(loaded) => loaded,
            Err(error) => {
                log::error!("Options error: {error}");
                return 1;
            }
        };
        match run_configured(loaded, &mut detached) {
            Ending::Reload => log::notice!("SIGHUP received, restarting"),
            Ending::Exit(code) => return code,
            Ending::Fatal(text) => {
                log::error!("{text}");
                return 1;
            }
            Ending::Restart { .. } => {}
        }
    }
}

/// What `ringway check` has to say about certificates and keys.
pub fn certificate_findings(options: &Options) -> Vec<Diagnostic> {
    tls_setup::findings(options)
}

/// `--mktun`.
///
/// # Errors
/// One line for a person.
pub fn make_tun(request: &TunRequest) -> Result<(), String> {
    devices::make(request)
}

/// `--rmtun`.
///
/// # Errors
/// One line for a person.
pub fn remove_tun(request: &TunRequest) -> Result<(), String> {
    devices::remove(request)
}

fn run_configured(loaded: Loaded, detached: &mut bool) -> Ending {
    let options = loaded.options;
    if let Err(error) = options
        .cd
        .as_deref()
        .map_or(Ok(()), daemon::change_directory)
    {
        return Ending::fatal(error);
    }
    if let Err(error) = log::init(setup::log_config(&options)) {
        return Ending::fatal(format!("cannot open log: {error}"));
    }
    for warning in &loaded.warnings {
        log::warn!("WARNING: {warning}");
    }
    log::notice!("{}", crate::cli::first_line());
    if !*detached {
        if let Err(error) = start_process(&options) {
            return Ending::fatal(error);
        }
        *detached = true;
    }
    let mut program = match Program::new(options) {
        Ok(program) => program,
        Err(ending) => return ending,
    };
    let ending = program.run_attempts();
    program.close_interface(false);
    ending
}

/// What happens once, before any thread exists: background, priority, locked memory, pid file.
fn start_process(options: &Options) -> Result<(), String> {
    if options.daemon {
        daemon::daemonize()?;
        daemon::silence(options.log.is_some())?;
        if options.cd.is_none() {
            daemon::leave_directory()?;
        }
    }
    if let Some(nice) = options.nice {
        daemon::set_nice(nice)?;
    }
    if options.mlock {
        daemon::lock_memory()?;
    }
    if let Some(path) = &options.writepid {
        daemon::write_pid(path)?;
    }
    Ok(())
}

/// Everything that outlives one attempt.
pub(crate) struct Program {
    options: Arc<Options>,
    signals: Signals,
    tls: Arc<TlsContext>,
    credentials: CredentialStore,
    remotes: Remotes,
    privileges: Option<PrivilegePlan>,
    interface: Option<Interface>,
    env: ScriptEnv,
    /// The options the interface was opened with, pushed ones included; closing needs the same.
    interface_options: Option<Options>,
    /// Digest of the pushed options the interface was made for.
    pulled_digest: Option<[u8; 32]>,
    totals: Totals,
    last_status: Option<Instant>,
    last_reason: String,
    has_run: bool,
}

impl Program {
    fn new(options: Options) -> Result<Self, Ending> {
        let options = Arc::new(options);
        let signals =
            Signals::install().map_err(|e| Ending::fatal(format!("cannot catch signals: {e}")))?;
        let (tls, warnings) = tls_setup::context(&options).map_err(Ending::fatal)?;
        for warning in warnings {
            log::warn!("WARNING: {warning}");
        }
        let privileges = privileges::plan(
            options.user.as_deref(),
            options.group.as_deref(),
            options.chroot.as_deref(),
        )
        .map_err(Ending::fatal)?;
        let mut env = ScriptEnv::new();
        setup::base_environment(&options, &mut env);
        Ok(Program {
            credentials: CredentialStore::new(&options).map_err(Ending::fatal)?,
            remotes: Remotes::new(&options),
            options,
            signals,
            tls: Arc::new(tls),
            privileges: Some(privileges),
            interface: None,
            interface_options: None,
            env,
            pulled_digest: None,
            totals: Totals::default(),
            last_status: None,
            last_reason: String::new(),
            has_run: false,
        })
    }

    fn run_attempts(&mut self) -> Ending {
        loop {
            let target = match self.next_target() {
                Ok(target) => target,
                Err(ending) => return ending,
            };
            if let Err(error) = self.credentials.prepare(&self.options) {
                return Ending::fatal(error);
            }
            let ending = match Attempt::start(self, target) {
                Ok(attempt) => attempt.run(),
                Err(ending) => ending,
            };
            self.credentials.used();
            let Ending::Restart { reason, backoff } = ending else {
                return ending;
            };
            log::notice!("SIGUSR1[soft,{reason}] received, process restarting");
            if !self.options.persist_tun {
                self.close_interface(true);
            }
            if let Some(max) = self.options.connect_retry_max
                && self.remotes.round() >= max
            {
                return Ending::fatal(
                    "All connections have been connect-retry-max times unsuccessful, exiting",
                );
            }
            let pause =
                backoff.map_or_else(|| self.remotes.pause(&self.options), Duration::from_secs);
            log::info!("Restart pause, {} second(s)", pause.as_secs());
            if let Some(ending) = self.sleep(pause) {
                return ending;
            }
        }
    }

    fn next_target(&mut self) -> Result<Target, Ending> {
        if self.options.persist_remote_ip
            && self.has_run
            && let Some(target) = self.remotes.current()
        {
            return Ok(target.clone());
        }
        self.has_run = true;
        let mut interrupted = None;
        let options = self.options.clone();
        let signals = &mut self.signals;
        let target = self.remotes.next(
            &options,
            &mut |wait| {
                interrupted = sleep_for_signal(signals, wait, &options);
                interrupted.is_none()
            },
            &mut |text| log::warn!(in Link, "{text}"),
        );
        match (target, interrupted) {
            (Some(target), _) => Ok(target),
            (None, Some(ending)) => Err(ending),
            (None, None) => Err(Ending::fatal("no remote could be resolved")),
        }
    }

    fn sleep(&mut self, wait: Duration) -> Option<Ending> {
        sleep_for_signal(&mut self.signals, wait, &self.options)
    }

    /// `remap-usr1`
    fn remapped(&self, ending: Ending) -> Ending {
        remap(&self.options, ending)
    }

    fn tunnel_config(&self, target: &Target, mode: Mode) -> Result<TunnelConfig, Ending> {
        let options = &self.options;
        let (username, password) = self.credentials.current();
        let reneg_sec = setup::reneg_sec(options);
        Ok(TunnelConfig {
            role: options.tls_role,
            mode,
            wrap: setup::wrap_config(options, &target.connection).map_err(Ending::fatal)?,
            tls: self.tls.clone(),
            remote: target.remote.map(Endpoint::new),
            float: target.connection.float || target.remote.is_none(),
            single_session: options.single_session,
            options: setup::options_string(options, &target.connection),
            peer_info: Some(setup::peer_info(options, &target.connection)),
            username,
            password,
            preferences: setup::preferences(options),
            tls_timeout: Duration::from_secs(options.tls_timeout),
            hand_window: Duration::from_secs(options.hand_window),
            tran_window: Duration::from_secs(options.tran_window),
            reneg_sec,
            reneg_bytes: options.reneg_bytes,
            reneg_pkts: options.reneg_pkts,
            max_packet_size: usize::from(options.max_packet_size),
        })
    }

    // ---- interface, scripts, privileges --------------------------------------------------------

    /// Opens the device with these effective options.
    fn open_interface(&mut self, options: &Options, connection: &Connection) -> Result<(), Ending> {
        let restart = self.interface_options.is_some();
        let interface =
            Interface::open(options, connection, &mut self.env, restart).map_err(Ending::fatal)?;
        self.interface = Some(interface);
        self.interface_options = Some(options.clone());
        Ok(())
    }

    fn close_interface(&mut self, restart: bool) {
        if let (Some(interface), Some(options)) = (self.interface.take(), &self.interface_options) {
            self.env.set("signal", &self.last_reason);
            interface.close(options, &mut self.env, restart);
        }
    }

    fn note_peer(&mut self, peer: Endpoint) {
        self.env.set_trusted(peer.remote);
        self.env.set_untrusted(peer.remote);
    }

    fn note_certificates(&mut self, common_name: &str, tls: Option<&TlsSession>) {
        self.env.set("common_name", common_name);
        if let Some(peer) = tls.and_then(|t| t.peer()) {
            for (name, value) in cert_env(&peer.chain) {
                self.env.set(&name, value);
            }
        }
    }

    fn note_pushed(&mut self, pulled: &PulledOptions) {
        self.env.clear_foreign_options();
        for option in &pulled.dhcp_option {
            self.env
                .add_foreign_option(&format!("dhcp-option {option}"));
        }
        for option in &pulled.dns {
            self.env.add_foreign_option(&format!("dns {option}"));
        }
        for (name, value) in &pulled.setenv {
            self.env.set(name, value);
        }
    }

    fn run_ipchange(&mut self, peer: Endpoint) {
        let Some(command) = &self.options.ipchange else {
            return;
        };
        let arguments = script::ipchange_arguments(peer.remote);
        let policy = setup::script_policy(&self.options);
        let result = setup::script(command).run(Hook::IpChange, &arguments, &self.env, policy);
        if let Err(error) = result {
            log::warn!(in Script, "{}: ipchange: {error}", command.position);
        }
    }

    /// `user`, `group`, `chroot`: once, when everything that needs root has been done.
    fn drop_privileges(&mut self) -> Result<(), Ending> {
        let Some(plan) = self.privileges.take().filter(|p| !p.is_empty()) else {
            return Ok(());
        };
        privileges::drop(&plan, &setup::capabilities_kept(&self.options)).map_err(Ending::fatal)?;
        log::notice!("privileges dropped: {}", plan.describe());
        Ok(())
    }

    // ---- everyday ------------------------------------------------------------------------------

    fn log_links(&self, udp: &UdpSocket, target: &Target) {
        let family = match udp.local_addr() {
            Ok(address) if address.is_ipv6() => "UDPv6",
            _ => "UDPv4",
        };
        match udp.local_addr() {
            Ok(address) if target.connection.bind => log::notice!(
                in Link, "{family} link local (bound): {}", setup::address_text(address)
            ),
            _ => log::notice!(in Link, "{family} link local: (not bound)"),
        }
        match target.remote {
            Some(remote) => {
                log::notice!(in Link, "{family} link remote: {}", setup::address_text(remote));
            }
            None => log::notice!(in Link, "{family} link remote: [AF_UNSPEC]"),
        }
    }

    fn begin_statistics(&mut self, peer: Arc<PeerStats>, worker: Arc<WorkerStats>) {
        self.totals.attach(peer, worker);
    }

    fn end_statistics(&mut self) {
        self.totals.detach();
    }

    fn totals(&self) -> &Totals {
        &self.totals
    }

    /// What is looked at once a second: the status file, a changed CRL, suppressed log lines.
    fn chores(&mut self, now: Now) {
        log::report_suppressed();
        match self.tls.reload_crl_if_changed() {
            Some(Ok(text)) => log::notice!(in Tls, "{text}"),
            Some(Err(text)) => log::error!(in Tls, "{text}"),
            None => {}
        }
        let Some(status) = &self.options.status else {
            return;
        };
        let due = self
            .last_status
            .is_none_or(|last| now.instant >= last + Duration::from_secs(status.seconds.max(1)));
        if due {
            self.last_status = Some(now.instant);
            if let Err(error) = report::write_status(&status.path, &self.totals) {
                log::warn!("status file {}: {error}", status.path.display());
            }
        }
    }

    /// The tunnel carries packets: tell a service manager, once.
    fn note_up(&mut self) {
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    }

    fn auth_failed(&mut self, failed: &AuthFailed) -> Ending {
        credentials::after_auth_failed(&mut self.credentials, &self.options, failed)
    }
}

fn remap(options: &Options, ending: Ending) -> Ending {
    match options.remap_usr1 {
        Some(RemapSignal::Sighup) => Ending::Reload,
        Some(RemapSignal::Sigterm) => Ending::Exit(0),
        None => ending,
    }
}

/// Waits, or returns what a signal asks for.
fn sleep_for_signal(signals: &mut Signals, wait: Duration, options: &Options) -> Option<Ending> {
    let end = Instant::now() + wait;
    loop {
        for signal in signals.pending() {
            match signal {
                Signal::Term | Signal::Int => {
                    log::notice!("event: {} received, exiting", signal.name());
                    return Some(Ending::Exit(0));
                }
                Signal::Hup => return Some(Ending::Reload),
                Signal::Usr1 => {
                    return match remap(options, Ending::restart("usr1")) {
                        Ending::Restart { .. } => None,
                        other => Some(other),
                    };
                }
                Signal::Usr2 => log::notice!("no tunnel is up; no statistics"),
            }
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let _ = poll(
            &mut [PollFd::new(signals.as_fd(), PollFlags::POLLIN)],
            timeout,
        );
    }
}
