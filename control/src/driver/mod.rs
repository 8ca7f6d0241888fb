//! The program around the control channel: restarts, the interface, privileges, everyday chores.
//!
//! ```text
//!   run          configuration -> Program -> attempts until one says Exit
//!   attempt.rs   one connection: sockets, worker, Tunnel, event loop
//!   interface.rs the TUN device, its addresses, its routes, the scripts
//!   remotes.rs   where to connect next            keepalive.rs  pings and silence
//!   dial.rs      TCP connections                  proxies.rs    and who lies between
//!   port.rs      ports that are still in use
//!   setup.rs     options -> what each part needs   report.rs     statistics, status file
//! ```

mod attempt;
mod credentials;
mod devices;
mod dial;
mod interface;
mod keepalive;
mod link;
mod port;
mod proxies;
mod remotes;
mod report;
mod server;
mod setup;
mod tls_setup;

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ringway_dataplane::command::Endpoint;
use ringway_dataplane::stats::PeerStats;
use ringway_dataplane::tun::TunDevice;
use ringway_dataplane::worker::GroupStats;
use sd_notify::NotifyState;

use attempt::Attempt;
use credentials::CredentialStore;
use interface::Interface;
use link::Link;
use proxies::ProxyLogins;
use remotes::{Remotes, Target, resolve_local};
use report::{StatusFile, Totals};
use server::Secrets;

use crate::cli::TunRequest;
use crate::config::diagnostic::Diagnostic;
use crate::config::dns::Dns;
use crate::config::options::{Connection, Options, RemapSignal, Wrap};
use crate::config::pushed::PulledOptions;
use crate::config::server::ServerOptions;
use crate::config::{self, Loaded};
use crate::host::daemon;
use crate::host::env::ScriptEnv;
use crate::host::privileges::{self, PrivilegePlan};
use crate::host::script::{self, Hook};
use crate::host::signals::{Signal, Signals};
use crate::log;
use crate::proto::push::{Advance, AuthFailed};
use crate::proto::tunnel::{Mode, Transport, TunnelConfig};
use crate::proto::wrap::{ClientWraps, WrapConfig};
use crate::proto::{Now, TlsRole};
use crate::tls::{TlsContext, TlsSession, cert_env};

/// How long a server waits before it begins anew.
const SERVER_PAUSE: Duration = Duration::from_secs(1);

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The program ends with this status.
    Exit(u8),
    /// A fault that no restart mends; the text is the one line for the person.
    Fatal(String),
    /// SIGUSR1: try again.
    Restart {
        /// A wait the server asked for, seconds.
        backoff: Option<u64>,
        /// Where to try next, if the server said so.
        advance: Option<Advance>,
    },
    /// SIGHUP: read the configuration again.
    Reload,
}

impl Ending {
    const RESTART: Ending = Ending::Restart {
        backoff: None,
        advance: None,
    };

    fn fatal(text: impl Into<String>) -> Self {
        Ending::Fatal(text.into())
    }
}

/// What brought the last end about: a signal from outside, or a reason of our own that is treated
/// like one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Somebody sent this signal.
    Signal(Signal),
    /// `ping-restart`, `tls-error`, ...
    Reason(&'static str),
}

impl Cause {
    /// The line that tells of an end, worded as OpenVPN does. `signal` is what the end amounts to.
    fn line(self, signal: &str, what: &str) -> String {
        match self {
            // A signal that `remap-usr1` turned into another keeps being somebody's.
            Cause::Signal(sent) if sent == Signal::Int && signal == Signal::Term.name() => {
                format!("{}[hard,] received, process {what}", sent.name())
            }
            Cause::Signal(_) => format!("{signal}[hard,] received, process {what}"),
            Cause::Reason(reason) => format!("{signal}[soft,{reason}] received, process {what}"),
        }
    }

    /// The variable `signal` of `down` scripts.
    fn script_name(self) -> &'static str {
        match self {
            Cause::Signal(signal) => signal.script_name(),
            Cause::Reason(reason) => reason,
        }
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
            Ending::Reload => {}
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
    // Before going to the background: passwords are asked for at the terminal, and whoever starts
    // the program learns from its exit status that a file cannot be used.
    let to_syslog = options.log.is_none() && options.syslog;
    let mut program = match Program::new(options) {
        Ok(program) => program,
        Err(ending) => {
            if let (false, true, Ending::Fatal(text)) = (*detached, to_syslog, &ending) {
                eprintln!("{text}");
            }
            return ending;
        }
    };
    if !*detached {
        if let Err(error) = start_process(&program.options) {
            return Ending::fatal(error);
        }
        *detached = true;
        program.base_env.set("daemon_pid", std::process::id());
    }
    // Ready means started: a peer that is away must not make a service manager give up.
    notify_service_manager(&[
        NotifyState::Ready,
        NotifyState::Status("Pre-connection initialization successful"),
        NotifyState::MainPid(std::process::id()),
    ]);
    let ending = program.run_attempts();
    program.close_interface();
    let signal = match ending {
        Ending::Exit(_) => Some((Signal::Term, "exiting")),
        Ending::Reload => Some((Signal::Hup, "restarting")),
        Ending::Fatal(_) | Ending::Restart { .. } => None,
    };
    if let Some((signal, what)) = signal {
        log::notice!("{}", program.cause.line(signal.name(), what));
    }
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
    proxies: ProxyLogins,
    remotes: Remotes,
    privileges: Option<PrivilegePlan>,
    interface: Option<Interface>,
    /// A device for the next interface: without privileges it could not be opened again.
    kept: Option<TunDevice>,
    env: ScriptEnv,
    /// The options the interface was opened with, pushed ones included; closing needs the same.
    interface_options: Option<Options>,
    /// When an earlier attempt saw its last data packet.
    last_data: Option<Instant>,
    /// Digest of the pushed options the interface was made for.
    pulled_digest: Option<[u8; 32]>,
    totals: Totals,
    last_status: Option<Instant>,
    /// Why the last attempt ended.
    cause: Cause,
    /// Key files of control packets, read at start: later they may be out of reach.
    wraps: Vec<(Wrap, WrapConfig)>,
    /// The same of a server.
    secrets: Option<Secrets>,
    /// What `local` resolved to (`persist-local-ip`).
    local: Option<(String, IpAddr)>,
    status: Option<StatusFile>,
    /// The environment before anything is known of a peer.
    base_env: ScriptEnv,
}

impl Program {
    fn new(options: Options) -> Result<Self, Ending> {
        let options = Arc::new(options);
        let signals =
            Signals::install().map_err(|e| Ending::fatal(format!("cannot catch signals: {e}")))?;
        let (tls, warnings) = tls_setup::context(&options).map_err(Ending::fatal)?;
        for warning in warnings {
            let warning = warning.strip_prefix("WARNING: ").unwrap_or(&warning);
            log::warn!("WARNING: {warning}");
        }
        let privileges = privileges::plan(
            options.user.as_deref(),
            options.group.as_deref(),
            options.chroot.as_deref(),
        )
        .map_err(Ending::fatal)?;
        let (wraps, secrets) = match &options.server {
            Some(settings) => (Vec::new(), Some(Secrets::read(&options, settings))),
            None => (setup::wrap_configs(&options).map_err(Ending::fatal)?, None),
        };
        let secrets = secrets.transpose().map_err(Ending::fatal)?;
        let mut env = ScriptEnv::new();
        setup::base_environment(&options, &mut env);
        Ok(Program {
            credentials: CredentialStore::new(&options).map_err(Ending::fatal)?,
            proxies: ProxyLogins::new(&options).map_err(Ending::fatal)?,
            remotes: Remotes::new(&options),
            signals,
            tls: Arc::new(tls),
            privileges: Some(privileges),
            interface: None,
            kept: None,
            interface_options: None,
            last_data: None,
            wraps,
            secrets,
            local: None,
            status: open_status(&options).map_err(Ending::fatal)?,
            options,
            base_env: env.clone(),
            env,
            pulled_digest: None,
            totals: Totals::default(),
            last_status: None,
            cause: Cause::Reason("unknown"),
        })
    }

    fn run_attempts(&mut self) -> Ending {
        if let Some(settings) = self.options.server.clone() {
            return self.run_server(&Arc::new(*settings));
        }
        loop {
            let target = match self.next_target() {
                Ok(target) => target,
                Err(ending) => return ending,
            };
            if self.interface.is_none() {
                self.env = self.base_env.clone();
            }
            if let Err(error) = self.credentials.prepare(&self.options) {
                return Ending::fatal(error);
            }
            let ending = match Attempt::start(self, target) {
                Ok(attempt) => attempt.run(),
                Err(ending) => ending,
            };
            self.credentials.used();
            let Ending::Restart { backoff, advance } = remap(&self.options, ending.clone()) else {
                return remap(&self.options, ending);
            };
            if self.persist_tun() {
                self.note_restart(Hook::Down);
            } else {
                self.close_interface();
            }
            log::notice!("{}", self.cause.line(Signal::Usr1.name(), "restarting"));
            if let Some(advance) = advance {
                self.remotes.steer(advance);
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

    /// Serves clients until the end; a soft restart begins anew with no clients.
    fn run_server(&mut self, settings: &Arc<ServerOptions>) -> Ending {
        loop {
            if self.interface.is_none() {
                self.env = self.base_env.clone();
            }
            let ending = server::run(self, settings.clone());
            let ending = remap(&self.options, ending);
            let Ending::Restart { .. } = ending else {
                return ending;
            };
            if self.persist_tun() {
                self.note_restart(Hook::Down);
            } else {
                self.close_interface();
            }
            log::notice!("{}", self.cause.line(Signal::Usr1.name(), "restarting"));
            if let Some(ending) = self.sleep(SERVER_PAUSE) {
                return ending;
            }
        }
    }

    fn next_target(&mut self) -> Result<Target, Ending> {
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
            (None, Some((ending, signal))) => {
                self.cause = Cause::Signal(signal);
                Err(ending)
            }
            (None, None) => Err(Ending::fatal("no remote could be resolved")),
        }
    }

    fn sleep(&mut self, wait: Duration) -> Option<Ending> {
        let (ending, signal) = sleep_for_signal(&mut self.signals, wait, &self.options)?;
        self.cause = Cause::Signal(signal);
        Some(ending)
    }

    fn wrap_config(&self, connection: &Connection) -> Result<WrapConfig, Ending> {
        let known = self.wraps.iter().find(|(wrap, _)| *wrap == connection.wrap);
        match known {
            Some((_, config)) => Ok(config.clone()),
            None => setup::wrap_config(&self.options, connection).map_err(Ending::fatal),
        }
    }

    /// The address `local` names, resolved anew for each attempt unless `persist-local-ip` keeps it.
    fn local_address(&mut self, target: &Target) -> Result<Option<IpAddr>, Ending> {
        let Some(name) = &target.connection.local else {
            return Ok(None);
        };
        if let Some((known, address)) = &self.local
            && self.options.persist_local_ip
            && known == name
            && target
                .remote
                .is_none_or(|r| r.is_ipv4() == address.is_ipv4())
        {
            return Ok(Some(*address));
        }
        let address =
            resolve_local(name, target.remote, target.connection.family).map_err(Ending::fatal)?;
        self.local = Some((name.clone(), address));
        Ok(Some(address))
    }

    fn tunnel_config(&self, target: &Target, mode: Mode) -> Result<TunnelConfig, Ending> {
        let options = &self.options;
        let (username, password) = self.credentials.current();
        let reneg_sec = setup::reneg_sec(options);
        Ok(TunnelConfig {
            role: options.tls_role,
            mode,
            transport: Transport::Udp,
            wrap: self.wrap_config(&target.connection)?,
            client_wraps: None,
            tls: self.tls.clone(),
            remote: target.remote.map(Endpoint::new),
            float: target.connection.float || target.remote.is_none(),
            single_session: options.single_session,
            options: setup::options_string(options, &target.connection),
            compare_options: !options.disable_occ,
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

    /// What the control channel of a server's client begins with.
    fn server_tunnel_config(
        &self,
        connection: &Connection,
        client_wraps: Arc<ClientWraps>,
    ) -> TunnelConfig {
        let options = &self.options;
        TunnelConfig {
            role: TlsRole::Server,
            mode: Mode::Server,
            transport: Transport::Udp,
            wrap: WrapConfig::None,
            client_wraps: Some(client_wraps),
            tls: self.tls.clone(),
            remote: None,
            float: false,
            single_session: options.single_session,
            options: setup::options_string(options, connection),
            compare_options: !options.disable_occ,
            peer_info: None,
            username: None,
            password: None,
            preferences: setup::preferences(options),
            tls_timeout: Duration::from_secs(options.tls_timeout),
            hand_window: Duration::from_secs(options.hand_window),
            tran_window: Duration::from_secs(options.tran_window),
            reneg_sec: setup::reneg_sec(options),
            reneg_bytes: options.reneg_bytes,
            reneg_pkts: options.reneg_pkts,
            max_packet_size: usize::from(options.max_packet_size),
        }
    }

    // ---- interface, scripts, privileges --------------------------------------------------------

    /// Opens the device with these effective options.
    fn open_interface(
        &mut self,
        options: &Options,
        connection: &Connection,
        remote: Option<IpAddr>,
    ) -> Result<(), Ending> {
        let interface =
            Interface::open(options, connection, remote, &mut self.env, self.kept.take())
                .map_err(Ending::fatal)?;
        self.interface = Some(interface);
        self.interface_options = Some(options.clone());
        Ok(())
    }

    fn close_interface(&mut self) {
        if let (Some(interface), Some(options)) = (self.interface.take(), &self.interface_options) {
            self.env.set("signal", self.cause.script_name());
            self.kept = interface.close(options, &mut self.env);
        }
    }

    /// The device stays over a restart: `persist-tun`, possibly pushed.
    fn persist_tun(&self) -> bool {
        self.options.persist_tun
            || self
                .interface_options
                .as_ref()
                .is_some_and(|o| o.persist_tun)
    }

    /// A device is kept over a restart: `up-restart` runs `down` before it and `up` after it.
    fn note_restart(&mut self, hook: Hook) {
        let (Some(interface), Some(options)) = (&self.interface, &self.interface_options) else {
            return;
        };
        if hook == Hook::Up {
            log::notice!("Preserving previous TUN/TAP instance: {}", interface.name());
            self.env.unset("signal");
        } else {
            self.env.set("signal", self.cause.script_name());
        }
        if options.up_restart {
            interface.run_restart(options, hook, &mut self.env);
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

    /// What was pushed, and the configuration it was written over.
    fn note_pushed(&mut self, pulled: &PulledOptions, options: &Options) {
        let dns = Dns::from_lines(&options.dns);
        self.env.set_foreign_options(&options.dhcp_option, &dns);
        self.env.set_dns(&dns);
        let own = Arc::make_mut(&mut self.options);
        own.persist_remote_ip |= pulled.persist_remote_ip;
        own.persist_local_ip |= pulled.persist_local_ip;
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

    fn log_links(&self, link: &Link, target: &Target) {
        let family = link.name(target);
        match link.local_addr() {
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

    fn begin_statistics(&mut self, peer: Arc<PeerStats>, workers: GroupStats) {
        self.totals.attach(peer, workers);
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
        let (Some(status), Some(file)) = (&self.options.status, &mut self.status) else {
            return;
        };
        let due = self
            .last_status
            .is_none_or(|last| now.instant >= last + Duration::from_secs(status.seconds.max(1)));
        if due {
            self.last_status = Some(now.instant);
            if let Err(error) = file.write(&self.totals) {
                log::warn!("status file {}: {error}", status.path.display());
            }
        }
    }

    /// The tunnel carries packets: tell a service manager.
    fn note_up(&mut self) {
        notify_service_manager(&[NotifyState::Status("Initialization Sequence Completed")]);
    }

    fn auth_failed(&mut self, failed: &AuthFailed) -> Ending {
        credentials::after_auth_failed(&mut self.credentials, &self.options, failed)
    }
}

/// The line everybody waits for.
fn log_completed(route_errors: usize) {
    match route_errors {
        0 => log::notice!("Initialization Sequence Completed"),
        n => log::notice!("Initialization Sequence Completed With Errors ({n} routes failed)"),
    }
}

fn open_status(options: &Options) -> Result<Option<StatusFile>, String> {
    let Some(status) = &options.status else {
        return Ok(None);
    };
    StatusFile::open(&status.path)
        .map(Some)
        .map_err(|error| format!("status '{}': {error}", status.path.display()))
}

/// Without a service manager this does nothing; a lost notice harms nobody.
fn notify_service_manager(states: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(states);
}

/// `remap-usr1`, for restarts of every cause.
fn remap(options: &Options, ending: Ending) -> Ending {
    if !matches!(ending, Ending::Restart { .. }) {
        return ending;
    }
    match options.remap_usr1 {
        Some(RemapSignal::Sighup) => Ending::Reload,
        Some(RemapSignal::Sigterm) => Ending::Exit(0),
        None => ending,
    }
}

/// Waits, or returns what a signal asks for, and which it was.
fn sleep_for_signal(
    signals: &mut Signals,
    wait: Duration,
    options: &Options,
) -> Option<(Ending, Signal)> {
    let end = Instant::now() + wait;
    loop {
        for signal in signals.pending() {
            match signal {
                Signal::Term | Signal::Int => return Some((Ending::Exit(0), signal)),
                Signal::Hup => return Some((Ending::Reload, signal)),
                Signal::Usr1 => {
                    return match remap(options, Ending::RESTART) {
                        Ending::Restart { .. } => None,
                        other => Some((other, signal)),
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
