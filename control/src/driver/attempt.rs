//! One connection attempt, from opening the socket to its end: the event loop around the sans-IO
//! [`Tunnel`], the worker and the once-a-second chores.
//!
//! ```text
//!   poll: signals | worker events | next deadline
//!     worker control packet -> Tunnel -> transmits (UDP), events -> worker commands, interface
//! ```

mod update;

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ringway_dataplane::cipher::cbc_backend;
use ringway_dataplane::command::{
    Command, Endpoint, Event as WorkerEvent, PeerConfig, PeerHandle, Roles,
};
use ringway_dataplane::error::{DropReason, StartError};
use ringway_dataplane::key_slot::Cipher;
use ringway_dataplane::stats::PeerStats;
use ringway_dataplane::udp::UdpSocket;
use ringway_dataplane::wire::{OCC_EXIT, OCC_MAGIC, PING};
use ringway_dataplane::worker::{GroupStats, Workers};

use super::keepalive::{Due, Keepalive, Sample};
use super::link::{self, Link, Prepared};
use super::remotes::Target;
use super::{Cause, Ending, Program, report, setup};
use crate::config::options::{Connection, Options, Proto};
use crate::config::pushed::{self, PulledOptions, PushOutcome};
use crate::host::script::Hook;
use crate::host::signals::Signal;
use crate::host::socks_relay::SocksRelay;
use crate::log;
use crate::proto::Now;
use crate::proto::TlsRole;
use crate::proto::mssfix::WireShape;
use crate::proto::negotiate::Negotiated;
use crate::proto::peer_info::extensions;
use crate::proto::push::{Advance, ControlMessage};
use crate::proto::tunnel::{self, Mode, Transport, Tunnel, TunnelConfig};

/// The only peer of a point-to-point link or a client.
const PEER: PeerHandle = PeerHandle(0);
/// Chores that need no better clock than this.
const TICK: Duration = Duration::from_secs(1);
/// Shortest time between two warnings of packets that did not pass authentication.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);
/// Worker events handled before the other sources get a turn.
const EVENTS_PER_TURN: usize = 64;

/// A connection attempt in progress.
pub(super) struct Attempt<'p> {
    program: &'p mut Program,
    target: Target,
    /// The connection as it was configured.
    configured: Connection,
    /// What was configured, with what was pushed written over it; `target` likewise.
    options: Options,
    mode: Mode,
    link: Link,
    workers: Workers,
    tunnel: Tunnel,
    stats: Arc<PeerStats>,
    keepalive: Keepalive,
    worker_stats: GroupStats,
    /// Replays and forgeries that have been told of.
    warned: [u64; 2],
    next_warning: Instant,
    negotiated: Option<Negotiated>,
    pulled: Option<PulledOptions>,
    peer: Option<Endpoint>,
    common_name: String,
    next_tick: Instant,
    started: Instant,
    /// The last turn left worker events behind.
    more_events: bool,
    /// The data channel has come up once.
    up: bool,
    /// When routes are due (`route-delay`).
    routes_at: Option<Instant>,
    /// A wanted end that still tells the peer.
    leaving: Option<Leaving>,
    ending: Option<Ending>,
}

struct Leaving {
    until: Instant,
    ending: Ending,
    /// Over the control channel; otherwise OCC messages, one per tick.
    control: bool,
}

impl<'p> Attempt<'p> {
    /// Opens what is needed and starts the handshake.
    pub(super) fn start(program: &'p mut Program, mut target: Target) -> Result<Self, Ending> {
        let options = Options::clone(&program.options);
        let mode = if options.pull {
            Mode::Pull
        } else {
            Mode::PointToPoint
        };
        // First, since this is what fails when something is wrong.
        let local = program.local_address(&target)?;
        let prepared = Prepared::open(&options, &target, local).map_err(Ending::fatal)?;
        let kept = program.interface.is_some();
        if mode == Mode::PointToPoint && kept {
            program.note_restart(Hook::Up);
        } else if mode == Mode::PointToPoint && !options.up_delay {
            let remote = target.remote.map(|r| r.ip());
            program.open_interface(&options, &target.connection, remote)?;
        }
        let mut workers = start_workers(program, &prepared)?;
        // Capabilities belong to threads: a worker started before the drop keeps none it needs not.
        if mode == Mode::PointToPoint && program.interface.is_some() {
            program.drop_privileges()?;
        }
        log::info!(in Data, "packet engine: {}, {} worker(s)", workers.engine(), workers.count());
        let stats = Arc::new(PeerStats::default());
        let worker_stats = workers.stats();
        program.begin_statistics(stats.clone(), worker_stats.clone());
        let (link, tunnel_config) =
            match begin_link(program, prepared, &mut target, mode, &mut workers) {
                Ok(begun) => begun,
                Err(ending) => {
                    stop_workers(program, workers);
                    return Err(ending);
                }
            };
        let now = now();
        Ok(Attempt {
            tunnel: Tunnel::new(tunnel_config, now, rand::random()),
            keepalive: Keepalive::new(setup::keepalive(&options, None), now.instant),
            worker_stats,
            warned: [0; 2],
            next_warning: now.instant,
            program,
            configured: target.connection.clone(),
            target,
            options,
            mode,
            link,
            workers,
            stats,
            negotiated: None,
            pulled: None,
            peer: None,
            common_name: String::new(),
            next_tick: now.instant + TICK,
            started: now.instant,
            more_events: false,
            up: false,
            routes_at: None,
            leaving: None,
            ending: None,
        })
    }

    /// Runs until the attempt ends and says how.
    pub(super) fn run(mut self) -> Ending {
        let ending = loop {
            self.drain_tunnel();
            if let Some(ending) = self.ending.take() {
                break ending;
            }
            self.wait();
            for signal in self.program.signals.pending() {
                self.take_signal(signal);
            }
            self.take_worker_events();
            let now = now();
            if self.tunnel.poll_timeout().is_some_and(|t| t <= now.instant) {
                self.tunnel.handle_timeout(now);
            }
            if self.routes_at.is_some_and(|t| now.instant >= t) && self.leaving.is_none() {
                self.add_routes();
            }
            if now.instant >= self.next_tick {
                self.next_tick = now.instant + TICK;
                self.tick(now);
            }
        };
        self.finish(ending)
    }

    fn finish(mut self, ending: Ending) -> Ending {
        self.flush_transmits(now());
        if let Some(last) = self.keepalive.last_data() {
            self.program.last_data = Some(last);
        }
        let Attempt {
            program, workers, ..
        } = self;
        stop_workers(program, workers);
        ending
    }

    // ---- waiting and input ---------------------------------------------------------------------

    fn wait(&mut self) {
        let mut deadline = self.next_tick;
        let routes_at = self.routes_at.filter(|_| self.leaving.is_none());
        for other in [self.tunnel.poll_timeout(), routes_at]
            .into_iter()
            .flatten()
        {
            deadline = deadline.min(other);
        }
        // Rounded up: waking a little early would only spin.
        let mut wait =
            deadline.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
        if self.more_events {
            wait = Duration::ZERO;
        }
        let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
        let mut fds = [
            PollFd::new(self.program.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.workers.event_fd(), PollFlags::POLLIN),
        ];
        // EINTR and the like just mean another look.
        let _ = poll(&mut fds, timeout);
    }

    fn take_signal(&mut self, signal: Signal) {
        match signal {
            Signal::Usr2 => {
                let rows = self.tunnel.counters();
                report::log_statistics(self.program.totals(), &rows);
            }
            Signal::Usr1 => self.end(Ending::RESTART, Cause::Signal(signal)),
            Signal::Hup => self.end(Ending::Reload, Cause::Signal(signal)),
            Signal::Term | Signal::Int => {
                if self.leave(Ending::Exit(0), Cause::Signal(signal)) {
                    let name = signal.name();
                    log::notice!("{name} received, sending exit notification to peer");
                }
            }
        }
    }

    fn take_worker_events(&mut self) {
        self.workers.clear_event_fd();
        self.more_events = true;
        for _ in 0..EVENTS_PER_TURN {
            let Ok(event) = self.workers.events().try_recv() else {
                self.more_events = false;
                return;
            };
            match event {
                WorkerEvent::Control {
                    from, mut datagram, ..
                } => {
                    self.program.totals.add_control_read(datagram.len());
                    self.tunnel.handle_datagram(now(), from, &mut datagram);
                    self.drain_tunnel();
                }
                WorkerEvent::Occ(_, message) => {
                    if message.first() == Some(&OCC_EXIT) {
                        self.peer_left();
                    }
                }
                WorkerEvent::Floated(_, endpoint) => self.floated(endpoint),
                // A server's alone.
                WorkerEvent::FloatConflict(..)
                | WorkerEvent::Learned { .. }
                | WorkerEvent::Forgotten(..) => {}
                WorkerEvent::StreamClosed(_, end) => {
                    log::notice!(in Link, "Connection reset, restarting: {}", link::end_text(end));
                    self.end(Ending::RESTART, Cause::Reason("connection-reset"));
                }
                WorkerEvent::Notice(text) => log::notice!(in Data, "{text}"),
                WorkerEvent::Failed(text) => {
                    log::error!("packet worker: {text}");
                    self.end(Ending::RESTART, Cause::Reason("worker-failed"));
                }
            }
        }
    }

    fn floated(&mut self, endpoint: Endpoint) {
        log::notice!("peer {} floated to {}", self.common_name, endpoint.remote);
        log_recovery(self.keepalive.last_data());
        self.peer = Some(endpoint);
        self.tunnel
            .handle_command(now(), tunnel::Command::Floated(endpoint));
        self.program.note_peer(endpoint);
        self.program.run_ipchange(endpoint);
    }

    // ---- the tunnel's output -------------------------------------------------------------------

    fn drain_tunnel(&mut self) {
        loop {
            self.flush_transmits(now());
            let Some(event) = self.tunnel.poll_event() else {
                return;
            };
            self.take_event(event);
        }
    }

    fn flush_transmits(&mut self, now: Now) {
        let mut datagram = Vec::with_capacity(1500);
        while let Some(endpoint) = self.tunnel.poll_transmit(now, &mut datagram) {
            match self.link.send(&endpoint, &datagram) {
                Ok(command) => {
                    self.program.totals.add_control_write(datagram.len());
                    if let Some(command) = command {
                        self.command(command);
                    }
                }
                Err(error) => log::notice!(in Link, "write to {}: {error}", endpoint.remote),
            }
        }
    }

    fn take_event(&mut self, event: tunnel::Event) {
        match event {
            tunnel::Event::Log(verb, text) => log::debug!(verb, Control, "{text}"),
            tunnel::Event::Connected {
                endpoint,
                common_name,
                tls,
            } => {
                self.connected(endpoint, common_name, &tls);
            }
            tunnel::Event::Negotiated(negotiated) => self.set_peer(negotiated),
            tunnel::Event::InstallKey(key_id, keys) => {
                self.command(Command::InstallKey(PEER, key_id, keys));
            }
            tunnel::Event::UseKey(key_id) => {
                self.command(Command::UseKey(PEER, key_id));
                if !self.up {
                    self.data_channel_up();
                }
            }
            tunnel::Event::RemoveKey(key_id) => self.command(Command::RemoveKey(PEER, key_id)),
            tunnel::Event::PushReply(lines) => self.take_push_reply(&lines),
            tunnel::Event::AuthToken(lines) => self.take_late_push(&lines),
            tunnel::Event::Message(message) => self.take_message(message),
            tunnel::Event::PushUpdate(lines) => self.take_push_update(&lines),
            tunnel::Event::PeerExit => self.peer_left(),
            // Those are about the clients of a server.
            tunnel::Event::ClientKey(_)
            | tunnel::Event::Authenticate(_)
            | tunnel::Event::Ready
            | tunnel::Event::CrResponse(_) => {}
            tunnel::Event::Failed { reason, text } => {
                log::error!("{text}");
                let ending = if self.options.tls_exit {
                    Ending::Exit(1)
                } else {
                    Ending::RESTART
                };
                self.end(ending, Cause::Reason(reason));
            }
        }
    }

    fn connected(&mut self, endpoint: Endpoint, common_name: String, tls: &str) {
        let outside = self.link.outside(endpoint);
        log::notice!("Control Channel: {tls}");
        log::notice!(
            "[{common_name}] Peer Connection Initiated with {}",
            setup::address_text(outside.remote)
        );
        self.peer = Some(endpoint);
        self.common_name = common_name;
        if self.up {
            log_recovery(self.keepalive.last_data());
        }
        self.program.note_peer(outside);
        self.program
            .note_certificates(&self.common_name, self.tunnel.tls());
        self.program.run_ipchange(outside);
    }

    fn set_peer(&mut self, negotiated: Negotiated) {
        let peer_id = match negotiated.peer_id {
            Some(id) => format!(", peer-id: {id}"),
            None => String::new(),
        };
        let digest = if negotiated.cipher.is_aead() {
            String::new()
        } else {
            format!(", auth '{}'", negotiated.digest.name())
        };
        log::notice!(
            "Data Channel: cipher '{}'{digest}{peer_id}{}",
            negotiated.cipher.name(),
            setup::features_text(&negotiated),
        );
        if !negotiated.cipher.is_aead() && negotiated.cipher != Cipher::None {
            log::info!(in Data, "AES-CBC with HMAC by {}", cbc_backend());
        }
        self.negotiated = Some(negotiated);
        self.configure_peer();
    }

    fn configure_peer(&mut self) {
        let (Some(negotiated), Some(endpoint)) = (&self.negotiated, self.peer) else {
            return;
        };
        let connection = &self.target.connection;
        let outside = self.link.outside(endpoint);
        let proxy_header = self.link.relay().map_or(0, SocksRelay::header_len);
        let shape = WireShape {
            proxy_header,
            ..setup::wire_shape(negotiated, connection, outside, self.options.dev_type)
        };
        let (mss_v4, mss_v6) = shape.mss(setup::mssfix(connection.mssfix));
        let config = PeerConfig {
            endpoint,
            float: connection.float,
            tx_peer_id: negotiated.peer_id,
            rx_peer_id: negotiated.peer_id,
            framing: negotiated.framing,
            fragment: setup::fragment(&shape, connection),
            mss_v4,
            mss_v6,
            segment_to: self.segment_to(negotiated, outside, proxy_header),
            replay_window: self.options.replay_window.packets,
            replay_time: self.options.replay_window.seconds,
            passtos: self.options.passtos,
            guard_recursion: self.mode == Mode::Pull && !self.options.allow_recursive_routing,
            block_ipv6: self.options.block_ipv6,
            listener: 0,
            roles: Roles::default(),
            stats: self.stats.clone(),
        };
        self.command(Command::SetPeer(PEER, Box::new(config)));
    }

    /// What the path to a peer that joins segments takes whole; 0 for any other peer.
    fn segment_to(&self, negotiated: &Negotiated, endpoint: Endpoint, proxy_header: usize) -> u16 {
        if endpoint.stream.is_some() || negotiated.extensions & extensions::JOINS_SEGMENTS == 0 {
            return 0;
        }
        let config = setup::udp_config(&self.options, &self.target, None);
        let headers = if endpoint.remote.is_ipv6() { 48 } else { 28 };
        // A route that is not known now only means that nothing is cut.
        let mtu = UdpSocket::path_mtu(&config, endpoint.remote).unwrap_or(0);
        let room = (mtu as usize).saturating_sub(headers + proxy_header);
        u16::try_from(room).unwrap_or(u16::MAX)
    }

    fn data_channel_up(&mut self) {
        self.up = true;
        self.program.remotes.succeeded();
        if self.program.interface.is_some() {
            if self.mode == Mode::Pull {
                self.program.note_restart(Hook::Up);
            }
        } else if let Err(ending) = self.open_interface() {
            self.ending = Some(ending);
            return;
        }
        let delay = Duration::from_secs(self.options.route_delay.unwrap_or(0));
        self.routes_at = Some(Instant::now() + delay);
        if delay.is_zero() {
            self.add_routes();
        }
    }

    fn open_interface(&mut self) -> Result<(), Ending> {
        let remote = self.peer.map(|e| self.link.outside(e).remote.ip());
        self.program
            .open_interface(&self.options, &self.target.connection, remote)?;
        self.attach_interface();
        self.program.drop_privileges()
    }

    fn attach_interface(&mut self) {
        let Some(interface) = &mut self.program.interface else {
            return;
        };
        let queues = interface.take_queues();
        if let Err(error) = self.workers.attach_tun(queues) {
            log::error!("{error}");
            self.end(Ending::RESTART, Cause::Reason("worker-failed"));
        }
    }

    fn add_routes(&mut self) {
        self.routes_at = None;
        self.install_routes();
        log::info!(
            "tunnel up after {:.1} s",
            self.started.elapsed().as_secs_f64()
        );
        log_recovery(self.program.last_data.take());
        self.program.note_up();
    }

    fn install_routes(&mut self) {
        let remote = self.peer.map(|e| self.link.outside(e).remote.ip());
        let errors = match &mut self.program.interface {
            Some(interface) => interface.add_routes(&self.options, remote, &mut self.program.env),
            None => 0,
        };
        super::log_completed(errors);
    }

    // ---- push ----------------------------------------------------------------------------------

    fn take_push_reply(&mut self, lines: &[String]) {
        log::notice!(in Negotiation, "PUSH: Received control message: 'PUSH_REPLY,{}'",
            setup::without_secrets(lines)
        );
        let mut pulled = PulledOptions::new(&self.options);
        for line in lines {
            if !self.apply_pushed(line, &mut pulled) {
                return;
            }
        }
        pulled.apply_to(&mut self.options, &mut self.target.connection);
        self.options.verb = pulled.verb.unwrap_or(self.options.verb);
        log::set_verb(self.options.verb);
        log::set_mute(self.options.mute);
        self.take_token(&pulled);
        self.keepalive.reconfigure(
            setup::keepalive(&self.options, Some(&pulled)),
            Instant::now(),
        );
        self.link.set_buffers(pulled.sndbuf, pulled.rcvbuf);
        self.program.note_pushed(&pulled, &self.options);
        self.reopen_if_changed(&pulled);
        let pushed = setup::pushed(&pulled);
        self.pulled = Some(pulled);
        self.tunnel
            .handle_command(now(), tunnel::Command::Pulled(pushed));
    }

    fn take_token(&mut self, pulled: &PulledOptions) {
        let Some(token) = &pulled.auth_token else {
            return;
        };
        self.program
            .credentials
            .use_token(pulled.auth_token_user.clone(), token.as_str().to_owned());
        let (username, password) = self.program.credentials.current();
        self.tunnel
            .handle_command(now(), tunnel::Command::Credentials { username, password });
    }

    fn apply_pushed(&mut self, line: &str, pulled: &mut PulledOptions) -> bool {
        match pushed::apply(line, &self.options.pull_filter, pulled) {
            PushOutcome::Accepted => true,
            PushOutcome::Ignored => {
                log::info!(in Negotiation, "pushed option ignored: '{line}'");
                true
            }
            PushOutcome::Warning(text) => {
                log::notice!(in Negotiation, "WARNING: {text}");
                true
            }
            PushOutcome::Reject(text) => {
                log::notice!(in Negotiation, "{text}");
                self.end(Ending::RESTART, Cause::Reason("pull-filter"));
                false
            }
        }
    }

    /// A device kept over a restart must fit what is pushed now (protocol §8.3).
    fn reopen_if_changed(&mut self, pulled: &PulledOptions) {
        let digest = pulled.tun_digest();
        if self.program.interface.is_some() && self.program.pulled_digest != Some(digest) {
            log::notice!("NOTE: pulled options changed on restart, the TUN device is reopened");
            self.command(Command::DetachTun);
            self.program.close_interface();
        }
        self.program.pulled_digest = Some(digest);
    }

    fn take_late_push(&mut self, lines: &[String]) {
        let Some(mut pulled) = self.pulled.take() else {
            return;
        };
        for line in lines.iter().filter(|l| l.starts_with("auth-token")) {
            self.apply_pushed(line, &mut pulled);
        }
        self.take_token(&pulled);
        self.pulled = Some(pulled);
    }

    fn take_message(&mut self, message: ControlMessage) {
        match message {
            ControlMessage::AuthFailed(failed) => {
                log::error!(
                    "AUTH: Received control message: {}",
                    setup::auth_failed_text(&failed)
                );
                let ending = self.program.auth_failed(&failed);
                self.end(ending, Cause::Reason("auth-failure"));
            }
            ControlMessage::Restart {
                next_remote,
                keep_credentials,
                text,
            } => {
                log::notice!("Connection reset command was pushed by server ('{text}')");
                if !keep_credentials {
                    self.program.credentials.purge();
                }
                let ending = Ending::Restart {
                    backoff: None,
                    advance: next_remote.then_some(Advance::Remote),
                };
                self.end(ending, Cause::Reason("server-pushed-connection-reset"));
            }
            ControlMessage::Halt { text } => {
                log::notice!("Halt command was pushed by server ('{text}')");
                self.end(Ending::Exit(0), Cause::Reason("server-pushed-halt"));
            }
            ControlMessage::AuthPending { timeout } => {
                log::notice!("AUTH_PENDING received, extending handshake timeout {timeout:?}");
            }
            ControlMessage::Info(text) | ControlMessage::InfoPre(text) => {
                log::notice!("Info command was pushed by server ('{text}')");
            }
            other => log::notice!(in Negotiation, "ignoring control message {other:?}"),
        }
    }

    // ---- once a second -------------------------------------------------------------------------

    fn tick(&mut self, now: Now) {
        self.program.chores(now);
        self.warn_of_drops(now.instant);
        if self.link.relay().is_some_and(SocksRelay::has_ended) {
            log::notice!(in Link, "the proxy has closed its connection and forwards no more, restarting");
            self.end(Ending::RESTART, Cause::Reason("proxy-error"));
            return;
        }
        if let Some(leaving) = &self.leaving {
            let over = now.instant >= leaving.until || (leaving.control && self.tunnel.all_acked());
            if over {
                self.ending = self.leaving.take().map(|l| l.ending);
            } else if !leaving.control {
                self.send_occ_exit();
            }
            return;
        }
        self.tunnel
            .handle_command(now, tunnel::Command::Usage(setup::key_usage(&self.stats)));
        let first_packet_missing = self.tunnel.counters().accepted == 0
            && self.target.remote.is_some()
            && (self.mode == Mode::Pull || self.options.connections.len() > 1);
        let limit = Duration::from_secs(self.target.connection.connect_timeout);
        // Whoever has called must say something, or keeps others from calling.
        let silent = self.target.connection.proto == Proto::TcpServer
            && self.tunnel.counters().accepted == 0
            && now.instant >= self.started + Duration::from_secs(self.options.hand_window);
        if silent {
            log::notice!(in Link, "the peer has called, but says nothing");
            self.end(Ending::RESTART, Cause::Reason("tls-error"));
            return;
        }
        if first_packet_missing && now.instant >= self.started + limit {
            log::notice!(in Link, "Server poll timeout, trying next remote entry");
            self.end(Ending::RESTART, Cause::Reason("server_poll"));
            return;
        }
        if let Some(due) = self.keepalive.tick(now.instant, self.sample()) {
            self.take_due(due);
        }
    }

    fn take_due(&mut self, due: Due) {
        match due {
            Due::Ping => {
                if self.up {
                    self.command(Command::SendPayload(PEER, PING.to_vec()));
                }
            }
            Due::Restart => {
                log::notice!(
                    "[{}] Inactivity timeout (--ping-restart), restarting",
                    self.common_name
                );
                self.end(Ending::RESTART, Cause::Reason("ping-restart"));
            }
            Due::Exit => {
                log::notice!(
                    "[{}] Inactivity timeout (--ping-exit), exiting",
                    self.common_name
                );
                self.leave(Ending::Exit(0), Cause::Reason("ping-exit"));
            }
            Due::Inactive => {
                log::notice!("Inactivity timeout (--inactive), exiting");
                self.leave(Ending::Exit(0), Cause::Reason("inactive"));
            }
            Due::SessionTimeout => {
                log::notice!("Session timeout, exiting");
                self.leave(Ending::Exit(0), Cause::Reason("session-timeout"));
            }
        }
    }

    /// Tells of packets that did not pass authentication, in one line for many: somebody's noise
    /// must not fill the log.
    fn warn_of_drops(&mut self, now: Instant) {
        if now < self.next_warning {
            return;
        }
        for (index, reason) in [DropReason::Replay, DropReason::AuthFailed]
            .into_iter()
            .enumerate()
        {
            let count = self.worker_stats.drops(reason);
            let new = count - std::mem::replace(&mut self.warned[index], count);
            let replay = reason == DropReason::Replay;
            if new == 0 || (replay && self.options.mute_replay_warnings) {
                continue;
            }
            self.next_warning = now + WARNING_INTERVAL;
            let what = match replay {
                true => "bad packet ID (may be a replay); see replay-window, mute-replay-warnings",
                false => "packet HMAC authentication failed",
            };
            log::warn!(in Data, "Authenticate/Decrypt packet error: {what}: {new} dropped");
        }
    }

    fn sample(&self) -> Sample {
        let s = &self.stats;
        Sample {
            tx_packets: s.wire_tx_packets.load(Relaxed),
            rx_packets: s.wire_rx_packets.load(Relaxed),
            tun_bytes: s.tun_rx_bytes.load(Relaxed) + s.tun_tx_bytes.load(Relaxed),
            peer_known: self.peer.is_some() || self.target.remote.is_some(),
            control_tx: self.tunnel.last_tx(),
            control_rx: self.tunnel.last_rx(),
        }
    }

    // ---- ends ----------------------------------------------------------------------------------

    fn peer_left(&mut self) {
        log::notice!(
            "[{}] remote-exit: the peer leaves, restarting",
            self.common_name
        );
        self.end(Ending::RESTART, Cause::Reason("remote-exit"));
    }

    fn end(&mut self, ending: Ending, cause: Cause) {
        if self.ending.is_none() {
            self.program.cause = cause;
            self.ending = Some(ending);
        }
    }

    /// Ends, after telling the peer if `explicit-exit-notify` wants that. True if the peer is told.
    fn leave(&mut self, ending: Ending, cause: Cause) -> bool {
        let notify = self.exit_notify();
        if !self.up || notify == 0 || self.leaving.is_some() {
            self.end(ending, cause);
            return false;
        }
        let control = self.negotiated.as_ref().is_some_and(|n| n.cc_exit);
        if control {
            self.tunnel
                .handle_command(now(), tunnel::Command::NotifyExit);
        } else {
            self.send_occ_exit();
        }
        let until = Instant::now() + Duration::from_secs(u64::from(notify));
        self.program.cause = Cause::Reason("exit-with-notification");
        self.leaving = Some(Leaving {
            until,
            ending,
            control,
        });
        // Acks usually arrive within a round trip: look again soon.
        self.next_tick = Instant::now() + Duration::from_millis(100);
        true
    }

    /// How often the peer is told of the end; over TCP it sees the end of the connection.
    fn exit_notify(&self) -> u32 {
        match self.link.endpoint() {
            Some(_) => 0,
            None => self.target.connection.explicit_exit_notify,
        }
    }

    fn send_occ_exit(&mut self) {
        let mut payload = OCC_MAGIC.to_vec();
        payload.push(OCC_EXIT);
        self.command(Command::SendPayload(PEER, payload));
    }

    fn command(&mut self, command: Command) {
        if self.workers.send(command).is_err() {
            log::error!("packet worker does not answer, restarting");
            self.end(Ending::RESTART, Cause::Reason("worker-failed"));
        }
    }
}

/// Says how long an interrupted link carried nothing, to the second.
fn log_recovery(last_data: Option<Instant>) {
    if let Some(last) = last_data {
        let silence = last.elapsed().as_secs_f64();
        log::notice!("link recovered; the last packet before came {silence:.1} s ago");
    }
}

fn start_workers(program: &mut Program, prepared: &Prepared) -> Result<Workers, Ending> {
    let fatal = |error: StartError| Ending::fatal(error.to_string());
    let options = &program.options;
    let config = setup::worker_options(options);
    let mut workers = match prepared {
        Prepared::Udp(sockets) | Prepared::Relayed(sockets, ..) => {
            let clones = sockets.iter().map(UdpSocket::try_clone);
            let clones = clones
                .collect::<Result<_, _>>()
                .map_err(|e| Ending::fatal(format!("cannot share the socket: {e}")))?;
            Workers::start(clones, &config)
        }
        Prepared::Call(_) | Prepared::Listen(_) => {
            Workers::start_without_udp(setup::workers(options), &config)
        }
    }
    .map_err(fatal)?;
    if let Some(interface) = &mut program.interface {
        workers.attach_tun(interface.take_queues()).map_err(fatal)?;
    }
    Ok(workers)
}

fn stop_workers(program: &mut Program, workers: Workers) {
    program.end_statistics();
    let queues = workers.stop();
    if let Some(interface) = &mut program.interface {
        interface.give_back(queues);
    }
}

/// Waits for the connection, if there is to be one, and gives it to the workers.
fn begin_link(
    program: &mut Program,
    prepared: Prepared,
    target: &mut Target,
    mode: Mode,
    workers: &mut Workers,
) -> Result<(Link, TunnelConfig), Ending> {
    let link = prepared.establish(program, target)?;
    program.log_links(&link, target);
    let mut config = program.tunnel_config(target, mode)?;
    if let Some(endpoint) = link.endpoint() {
        config.transport = Transport::Tcp;
        // Who is called says nothing before the client of TLS has (protocol §2.4).
        let waits = config.role == TlsRole::Server && target.connection.proto == Proto::TcpServer;
        config.remote = Some(endpoint).filter(|_| !waits);
        config.float |= waits;
    }
    if let Some(relay) = link.relay() {
        config.remote = Some(Endpoint::new(relay.entrance()));
    }
    let command = link
        .hand_over(target)
        .map_err(|error| Ending::fatal(format!("cannot share the connection: {error}")))?;
    if let Some(command) = command
        && workers.send(command).is_err()
    {
        return Err(Ending::fatal("packet workers do not answer"));
    }
    Ok((link, config))
}

pub(super) fn now() -> Now {
    let unix = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    Now {
        instant: Instant::now(),
        unix,
    }
}
