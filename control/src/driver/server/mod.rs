//! `mode server`: the event loop around all clients' control channels.
//!
//! ```text
//!   poll: signals | worker events | control sockets | TCP listeners | scripts | next deadline
//!     packet of a client      -> its Tunnel -> events -> auth.rs, connect.rs -> commands to the workers
//!     packet of nobody known  -> Acceptor -> an answer, or a new client
//!
//!   listeners.rs  ports and sockets          clients.rs  the table          client.rs  one of them
//!   auth.rs       who it is, who says so     connect.rs  options, addresses, routes, the way out
//!   scripts.rs    scripts in progress        settings.rs options -> what each part needs
//!   client_files.rs  client-config-dir       update.rs   what changes in there meanwhile
//!   timers.rs     deadlines                  status.rs   status file and statistics
//!   secrets.rs    key files
//!   tap.rs        hardware addresses
//! ```

mod auth;
mod client;
mod client_files;
mod clients;
mod connect;
mod listeners;
mod scripts;
mod secrets;
mod settings;
mod status;
mod tap;
mod timers;
mod update;

use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ringway_dataplane::command::{
    Command, Endpoint, Event as WorkerEvent, PeerHandle, StreamConfig,
};
use ringway_dataplane::control_socket::Batch;
use ringway_dataplane::error::StartError;
use ringway_dataplane::wire::{self, Header, OCC_EXIT, PING};
use ringway_dataplane::worker::{GroupStats, Workers};

use self::client::{Client, Stage};
use self::clients::{Clients, Place};
use self::listeners::{Listeners, WorkerSockets};
use self::scripts::Deferred;
use self::timers::Timers;
use super::attempt::now;
use super::keepalive::{Due, Keepalive};
use super::{Cause, Ending, Program, link, setup};
use crate::config::options::Options;
use crate::config::server::{ClientConfig, ServerOptions};
use crate::host::daemon::allow_open_files;
use crate::host::jobs::{JobLimits, Jobs};
use crate::host::port_share::PortShare;
use crate::host::script::Hook;
use crate::host::server_scripts::ClientHooks;
use crate::host::signals::Signal;
use crate::log;
use crate::proto::Now;
use crate::proto::acceptor::{Accepted, Acceptor, Verdict};
use crate::proto::peer_info::PeerInfo;
use crate::proto::tunnel::{self, Transport, Tunnel, TunnelConfig};
use crate::server::addresses::Addresses;

/// Chores that need no better clock than this.
const TICK: Duration = Duration::from_secs(1);
/// Worker events handled before the other sources get a turn.
const EVENTS_PER_TURN: usize = 256;
/// Batches of datagrams taken from one control socket before the others get a turn.
const BATCHES_PER_TURN: usize = 2;
/// How long a control socket rests after noise: looking for each packet of a flood as it comes would
/// take a good part of a processor, and its buffer has room for a hundred times as much.
const NOISE_REST: Duration = Duration::from_millis(2);
/// TCP connections accepted in one turn.
const ACCEPTS_PER_TURN: usize = 64;
/// How long a server that tells its clients of its end waits for them (protocol §9).
const SHUTDOWN_WAIT: Duration = Duration::from_secs(2);

/// A running server.
pub(super) struct Server<'p> {
    program: &'p mut Program,
    options: Arc<Options>,
    settings: Arc<ServerOptions>,
    listeners: Listeners,
    workers: Workers,
    worker_stats: GroupStats,
    acceptor: Acceptor,
    /// What every client's control channel begins with.
    tunnel_config: TunnelConfig,
    clients: Clients,
    timers: Timers,
    /// When to look for decisions that scripts have put off.
    deferrals: Timers,
    jobs: Jobs,
    running: scripts::Running,
    state: connect::State,
    auth: auth::State,
    status: status::State,
    stale_check: tap::StaleCheck,
    looks: update::Looks,
    next_tick: Instant,
    /// The last turn left something behind.
    more: bool,
    /// An end that still tells the clients, and when it comes.
    leaving: Option<(Instant, Ending)>,
    ending: Option<Ending>,
}

pub(super) use self::secrets::Secrets;
pub(super) use self::settings::device_queues;

/// Runs a server until it ends or is to be started anew.
pub(super) fn run(program: &mut Program, settings: Arc<ServerOptions>) -> Ending {
    match Server::start(program, settings) {
        Ok(server) => server.run(),
        Err(ending) => ending,
    }
}

impl<'p> Server<'p> {
    fn start(program: &'p mut Program, settings: Arc<ServerOptions>) -> Result<Self, Ending> {
        let options = program.options.clone();
        let connection = options.connections[0].clone();
        allow_open_files(settings::open_files(&settings));
        // First, since this is what fails when something is wrong.
        let (listeners, sockets) = Listeners::open(&options, &settings).map_err(Ending::fatal)?;
        let state = connect::State::new(&options, &settings).map_err(Ending::fatal)?;
        let Some(Secrets { wraps, token_key }) = program.secrets.clone() else {
            return Err(Ending::fatal("the keys of the server are missing"));
        };
        let auth = auth::State::new(&settings, token_key);
        let status = status::State::new(&options).map_err(Ending::fatal)?;
        let fatal = |error: StartError| Ending::fatal(error.to_string());
        // The control thread, and about one for each worker.
        let threads = 1 + setup::workers(&options);
        let limits = JobLimits::for_host(threads, options.user.is_some());
        let jobs = Jobs::new(limits, options.script_security)
            .map_err(|error| Ending::fatal(format!("cannot watch scripts: {error}")))?;
        if program.interface.is_none() {
            program.open_interface(&options, &connection, None)?;
        } else {
            program.note_restart(Hook::Up);
        }
        let mut workers = start_workers(&options, sockets).map_err(fatal)?;
        let failed = |_| Ending::fatal("packet workers do not answer");
        let forwarding = settings::forwarding(&options, &settings);
        workers
            .send(Command::SetForwarding(forwarding))
            .map_err(failed)?;
        let mut errors = 0;
        if let Some(interface) = &mut program.interface {
            workers.attach_tun(interface.take_queues()).map_err(fatal)?;
            errors = interface.add_routes(&options, None, &mut program.env);
        }
        // Capabilities belong to threads: a worker started before the drop keeps none it needs not.
        program.drop_privileges()?;
        scripts::check_export(&settings).map_err(Ending::fatal)?;
        log::info!(in Data, "packet engine: {}, {} worker(s)", workers.engine(), workers.count());
        let tunnel_config = program.server_tunnel_config(&connection, wraps.clone());
        let acceptor = Acceptor::new(settings::acceptor(&options, &settings, wraps));
        super::log_completed(errors);
        program.note_up();
        Ok(Server {
            status,
            worker_stats: workers.stats(),
            program,
            options,
            settings,
            listeners,
            workers,
            acceptor,
            tunnel_config,
            clients: Clients::default(),
            timers: Timers::default(),
            deferrals: Timers::default(),
            jobs,
            running: scripts::Running::default(),
            state,
            auth,
            stale_check: tap::StaleCheck::default(),
            looks: update::Looks::default(),
            next_tick: Instant::now() + TICK,
            more: false,
            leaving: None,
            ending: None,
        })
    }

    fn run(mut self) -> Ending {
        let mut batch = Batch::new();
        let ending = loop {
            if let Some(ending) = self.ending.take() {
                break ending;
            }
            let ready = self.wait();
            for signal in self.program.signals.pending() {
                self.take_signal(signal);
            }
            self.take_worker_events();
            for (index, ready) in ready.into_iter().enumerate() {
                match (ready, index.checked_sub(self.listeners.udp.len())) {
                    (false, _) => {}
                    (true, None) => self.take_datagrams(index, &mut batch),
                    (true, Some(tcp)) if tcp == self.listeners.tcp.len() => self.take_shared(),
                    (true, Some(tcp)) => self.take_connections(tcp),
                }
            }
            self.take_script_results();
            self.check_deferred();
            let now = now();
            // Each once: whatever one of them does, the others have their turn.
            for client in self.timers.due(now.instant) {
                self.with_client(client, |_, client| client.tunnel.handle_timeout(now));
            }
            if now.instant >= self.next_tick {
                self.next_tick = now.instant + TICK;
                self.tick(now);
            }
        };
        self.finish(ending)
    }

    fn finish(mut self, ending: Ending) -> Ending {
        for handle in self.clients.handles() {
            self.close(handle, "server-exit");
        }
        self.state.save_pool();
        self.finish_scripts();
        let Server {
            program, workers, ..
        } = self;
        let queues = workers.stop();
        if let Some(interface) = &mut program.interface {
            interface.give_back(queues);
        }
        ending
    }

    // ---- waiting and input ---------------------------------------------------------------------

    /// Sleeps until something happens; which listeners have something.
    fn wait(&mut self) -> Vec<bool> {
        self.workers.wake();
        let leaving = self.leaving.as_ref().map(|(at, _)| *at);
        let now = Instant::now();
        let deadline = [
            self.timers.next(),
            self.deferrals.next(),
            self.jobs.next_timeout(),
            self.listeners.next_rested(now),
            leaving,
        ]
        .into_iter()
        .flatten()
        .fold(self.next_tick, Instant::min);
        // Rounded up: waking a little early would only spin.
        let mut wait = deadline.saturating_duration_since(now) + Duration::from_micros(999);
        if std::mem::take(&mut self.more) {
            wait = Duration::ZERO;
        }
        let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
        let mut fds = vec![
            PollFd::new(self.program.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.workers.event_fd(), PollFlags::POLLIN),
            PollFd::new(self.jobs.as_fd(), PollFlags::POLLIN),
        ];
        let others = fds.len();
        fds.extend(self.listeners.poll_fds(now));
        // EINTR and the like just mean another look.
        let _ = poll(&mut fds, timeout);
        let is_ready = |fd: &PollFd<'_>| fd.any().unwrap_or(false);
        fds[others..].iter().map(is_ready).collect()
    }

    fn take_signal(&mut self, signal: Signal) {
        match signal {
            Signal::Usr2 => self.log_statistics(),
            Signal::Usr1 => self.leave(Ending::RESTART, Cause::Signal(signal)),
            Signal::Hup => self.leave(Ending::Reload, Cause::Signal(signal)),
            Signal::Term | Signal::Int => self.leave(Ending::Exit(0), Cause::Signal(signal)),
        }
    }

    fn take_datagrams(&mut self, listener: usize, batch: &mut Batch) {
        let (mut all, mut noise) = (0, 0);
        for _ in 0..BATCHES_PER_TURN {
            if let Err(error) = self.listeners.udp[listener].control.receive(batch) {
                log::warn!(in Link, "control socket: {error}");
                return;
            }
            for &(address, mtu) in batch.path_mtus() {
                self.command(Command::PathMtu(address, mtu));
            }
            let number = listener as u16;
            for datagram in batch.datagrams() {
                all += 1;
                match datagram {
                    Some((from, datagram)) => {
                        noise += usize::from(!self.take_datagram(number, from, datagram));
                    }
                    None => self.listeners.udp[listener].too_long += 1,
                }
            }
            if !batch.is_full() {
                let rests = 2 * noise > all;
                self.listeners.udp[listener].rests_until =
                    rests.then(|| Instant::now() + NOISE_REST);
                return;
            }
        }
        self.more = true;
    }

    /// A packet that is not from a worker's own peer, or no data packet. False if nobody
    /// has a use for it.
    fn take_datagram(&mut self, listener: u16, from: Endpoint, datagram: &mut [u8]) -> bool {
        let now = now();
        if let Some(handle) = self.clients.at(Place::of(listener, &from)) {
            let is_data = matches!(wire::parse(datagram), Ok(Header::Data { .. }));
            if is_data {
                self.command(Command::Datagram(listener, from, Box::from(&*datagram)));
                return true;
            }
            let len = datagram.len() as u64;
            self.with_client(handle, |_, client| {
                client.control_bytes.0 += len;
                client.tunnel.handle_datagram(now, from, datagram);
            });
            return true;
        }
        if let Ok(Header::Data { .. }) = wire::parse(datagram) {
            self.command(Command::Datagram(listener, from, Box::from(&*datagram)));
            return true;
        }
        if self.leaving.is_some() {
            return false;
        }
        match self.acceptor.judge(now, from, datagram) {
            Verdict::Drop(_) => return false,
            Verdict::Reply(answer) => self.send_datagram(listener, &from, &answer),
            Verdict::Accept(accepted) => self.accept(now, listener, from, &accepted),
        }
        true
    }

    fn take_worker_events(&mut self) {
        self.workers.clear_event_fd();
        for _ in 0..EVENTS_PER_TURN {
            let Ok(event) = self.workers.events().try_recv() else {
                return;
            };
            match event {
                WorkerEvent::Control {
                    listener,
                    from,
                    mut datagram,
                } => {
                    self.take_datagram(listener, from, &mut datagram);
                }
                WorkerEvent::Occ(handle, message) => {
                    if message.first() == Some(&OCC_EXIT) {
                        self.close(handle, "remote-exit");
                    }
                }
                WorkerEvent::Floated(handle, endpoint) => self.floated(handle, endpoint),
                WorkerEvent::FloatConflict(handle, endpoint) => {
                    self.float_conflict(handle, endpoint);
                }
                WorkerEvent::Learned {
                    peer,
                    station,
                    replaced,
                } => self.station_learned(peer, station, replaced),
                WorkerEvent::Forgotten(peer, station) => self.station_forgotten(peer, station),
                WorkerEvent::StreamClosed(stream, end) => {
                    if let Some(handle) = self.clients.at(Place::Stream(stream)) {
                        log::notice!(in Link, "{}: connection closed: {}", self.label(handle), link::end_text(end));
                        self.close(handle, "connection-reset");
                    }
                }
                WorkerEvent::Notice(text) => log::notice!(in Data, "{text}"),
                WorkerEvent::Failed(text) => {
                    log::error!("packet worker: {text}");
                    self.end(Ending::RESTART, Cause::Reason("worker-failed"));
                }
            }
        }
        self.more = true;
    }

    fn take_connections(&mut self, tcp: usize) {
        for _ in 0..ACCEPTS_PER_TURN {
            match self.listeners.tcp[tcp].accept() {
                Ok((stream, from)) => {
                    let from = SocketAddr::new(from.ip().to_canonical(), from.port());
                    match &self.listeners.share {
                        Some(share) => share.give(stream, from),
                        None => self.connected(stream, Endpoint::new(from)),
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                // It ended before its turn came.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    log::warn!(in Link, "TCP: accept: {error}");
                    self.listeners.tcp_pauses = true;
                    return;
                }
            }
        }
        self.more = true;
    }

    /// Connections that `port-share` found to be OpenVPN's.
    fn take_shared(&mut self) {
        for _ in 0..ACCEPTS_PER_TURN {
            let taken = self.listeners.share.as_ref().and_then(PortShare::take);
            let Some((stream, from)) = taken else {
                return;
            };
            self.connected(stream, Endpoint::new(from));
        }
    }

    // ---- clients come --------------------------------------------------------------------------

    fn accept(&mut self, now: Now, listener: u16, from: Endpoint, accepted: &Accepted) {
        let config = self.client_tunnel_config(&from);
        let tunnel = Tunnel::accept(config, accepted, from, now, rand::random());
        self.welcome(now, listener, from, tunnel);
    }

    /// A TCP connection was made.
    fn connected(&mut self, stream: TcpStream, from: Endpoint) {
        if self.leaving.is_some() {
            return;
        }
        log::notice!(in Link, "TCP connection established with {}", setup::address_text(from.remote));
        let now = now();
        let id = self.clients.new_stream();
        let endpoint = Endpoint {
            stream: Some(id),
            ..from
        };
        let config = StreamConfig {
            queue_limit: self.settings.tcp_queue_limit as usize,
            max_packet: setup::max_stream_packet(&self.options.connections[0]),
        };
        self.command(Command::AddStream(id, stream, config));
        let config = self.client_tunnel_config(&endpoint);
        let tunnel = Tunnel::listen(config, endpoint, now, rand::random());
        // Connections have no listener of their own: any worker can serve them.
        self.welcome(now, 0, endpoint, tunnel);
    }

    fn client_tunnel_config(&self, from: &Endpoint) -> TunnelConfig {
        let mut config = self.tunnel_config.clone();
        config.reneg_sec = setup::reneg_sec(&self.options);
        if from.stream.is_some() {
            config.transport = Transport::Tcp;
        }
        config
    }

    /// Takes a client in, if there is room for it. Whoever was at its place is gone then.
    fn welcome(&mut self, now: Now, listener: u16, endpoint: Endpoint, tunnel: Tunnel) {
        let place = Place::of(listener, &endpoint);
        if let Some(other) = self.clients.at(place) {
            self.close(other, "replaced");
        }
        let Some(peer_id) = self.state.ids.acquire(now.instant) else {
            log::warn!(
                in Link, "MULTI: new incoming connection from {} refused: --max-clients {} reached",
                setup::plain_address(endpoint.remote), self.settings.max_clients
            );
            if let Some(stream) = endpoint.stream {
                self.command(Command::CloseStream(stream));
            }
            return;
        };
        let mut env = settings::client_env(&self.program.env, &self.settings);
        env.set_untrusted(endpoint.remote);
        let handle = self.clients.new_handle();
        let timers = setup::keepalive(&self.options, None);
        self.clients.insert(Box::new(Client {
            handle,
            peer_id,
            listener,
            place,
            endpoint,
            tunnel,
            stage: Stage::Handshake,
            end: None,
            since_unix: now.unix,
            last_active_unix: now.unix,
            common_name: String::new(),
            named: false,
            username: None,
            calls_itself: None,
            compresses: false,
            peer_info: PeerInfo::default(),
            metadata: None,
            hooks: ClientHooks::new(settings::hooks(&self.settings)),
            waiting: Vec::new(),
            deferred: Vec::new(),
            login: None,
            token: None,
            config: ClientConfig::default(),
            source: None,
            addresses: Addresses::default(),
            wanted: Vec::new(),
            changes: Vec::new(),
            negotiated: None,
            stats: Arc::default(),
            keepalive: Keepalive::new(timers, now.instant),
            env,
            control_bytes: (0, 0),
        }));
        self.with_client(handle, |_, _| {});
    }

    // ---- clients' output -----------------------------------------------------------------------

    /// Does something with a client and then whatever its control channel wants done.
    fn with_client(&mut self, handle: PeerHandle, act: impl FnOnce(&mut Self, &mut Client)) {
        let Some(mut client) = self.clients.check_out(handle) else {
            return;
        };
        act(self, &mut client);
        let end = self.drain(&mut client);
        let deadline = client.tunnel.poll_timeout();
        let deferred = client.deferred.iter().map(Deferred::due).min();
        self.clients.check_in(client);
        self.workers.wake();
        match end {
            None => {
                self.timers.set(handle, deadline);
                self.deferrals.set(handle, deferred);
            }
            Some(reason) => self.close(handle, reason),
        }
    }

    /// Sends and does what the client's control channel asks for; the reason if it has ended.
    fn drain(&mut self, client: &mut Client) -> Option<&'static str> {
        let now = now();
        let mut datagram = Vec::new();
        loop {
            while let Some(to) = client.tunnel.poll_transmit(now, &mut datagram) {
                client.control_bytes.1 += datagram.len() as u64;
                match to.stream {
                    Some(stream) => self.command(Command::SendControl(stream, datagram.clone())),
                    None => self.send_datagram(client.listener, &to, &datagram),
                }
            }
            let Some(event) = client.tunnel.poll_event() else {
                return client.end;
            };
            if let Some(end) = self.take_event(client, event) {
                return Some(end);
            }
        }
    }

    fn take_event(&mut self, client: &mut Client, event: tunnel::Event) -> Option<&'static str> {
        let handle = client.handle;
        match event {
            tunnel::Event::Log(verb, text) => {
                log::debug!(verb, Control, "{} {text}", client.label());
            }
            tunnel::Event::ClientKey(metadata) => self.check_client_key(client, metadata),
            tunnel::Event::Connected {
                common_name, tls, ..
            } => {
                self.identified(client, common_name, &tls);
            }
            tunnel::Event::Authenticate(request) => self.authenticate(client, *request),
            tunnel::Event::Ready => self.configure(client),
            tunnel::Event::Negotiated(negotiated) => self.set_peer(client, negotiated),
            tunnel::Event::InstallKey(key_id, keys) => {
                self.command(Command::InstallKey(handle, key_id, keys));
            }
            tunnel::Event::UseKey(key_id) => self.command(Command::UseKey(handle, key_id)),
            tunnel::Event::RemoveKey(key_id) => self.command(Command::RemoveKey(handle, key_id)),
            tunnel::Event::CrResponse(response) => self.take_response(client, &response),
            tunnel::Event::PeerExit => {
                log::notice!("{} the client leaves", client.label());
            }
            tunnel::Event::Failed { reason, text } => {
                log::notice!("{} {text}", client.label());
                return Some(reason);
            }
            // What only a server says.
            tunnel::Event::PushReply(_)
            | tunnel::Event::AuthToken(_)
            | tunnel::Event::PushUpdate(_)
            | tunnel::Event::Message(_) => {}
        }
        None
    }

    fn send_datagram(&self, listener: u16, to: &Endpoint, datagram: &[u8]) {
        let Some(listener) = self.listeners.udp.get(usize::from(listener)) else {
            return;
        };
        if let Err(error) = listener.control.send_to(to, datagram) {
            log::info!(in Link, "write to {}: {error}", to.remote);
        }
    }

    // ---- clients move and go -------------------------------------------------------------------

    fn floated(&mut self, handle: PeerHandle, endpoint: Endpoint) {
        let before = self.label(handle);
        let Some(listener) = self.clients.find(handle).map(|client| client.listener) else {
            return;
        };
        // The data plane knows those only that have their keys.
        if let Some(other) = self.clients.at(Place::of(listener, &endpoint))
            && other != handle
        {
            self.close(other, "floated");
        }
        self.clients.moved(handle, endpoint);
        self.with_client(handle, |_, client| {
            log::notice!("{before} floated to {}", endpoint.remote);
            client.env.set_trusted(endpoint.remote);
            client
                .tunnel
                .handle_command(now(), tunnel::Command::Floated(endpoint));
        });
    }

    /// A client was heard from the place of another. It may have it only if it is the same one that
    /// has come anew: with the certificate and the user name of the other (protocol §2.9).
    fn float_conflict(&mut self, handle: PeerHandle, endpoint: Endpoint) {
        let Some(client) = self.clients.get(handle) else {
            return;
        };
        let place = Place::of(client.listener, &endpoint);
        let identity = client.identity();
        // It may be there by now, and nobody else.
        let Some(other) = self.clients.at(place).filter(|other| *other != handle) else {
            return;
        };
        let same = self
            .clients
            .get(other)
            .is_some_and(|other| other.identity() == identity);
        if same {
            self.close(other, "floated");
        } else {
            log::notice!(
                "{}: float to {} refused: another client is there",
                self.label(handle),
                endpoint.remote
            );
        }
    }

    /// Ends a client. Everything of it is gone afterwards.
    fn close(&mut self, handle: PeerHandle, reason: &'static str) {
        self.timers.set(handle, None);
        self.deferrals.set(handle, None);
        let Some(client) = self.clients.remove(handle) else {
            return;
        };
        log::notice!(
            "{} SIGUSR1[soft,{reason}] received, client-instance restarting",
            client.label()
        );
        self.command(Command::RemovePeer(handle));
        if let Place::Stream(stream) = client.place {
            self.command(Command::CloseStream(stream));
        }
        self.disconnect(*client);
    }

    // ---- once a second -------------------------------------------------------------------------

    fn tick(&mut self, now: Now) {
        self.listeners.tcp_pauses = false;
        self.program.chores(now);
        if self
            .leaving
            .as_ref()
            .is_some_and(|(at, _)| now.instant >= *at)
        {
            self.ending = self.leaving.take().map(|(_, ending)| ending);
            return;
        }
        for handle in self.clients.handles() {
            let mut due = None;
            self.with_client(handle, |server, client| {
                if client.stage == Stage::Up {
                    let usage = tunnel::Command::Usage(client.key_usage());
                    client.tunnel.handle_command(now, usage);
                    server.renew_token_if_due(client, now.unix);
                }
                due = client.keepalive.tick(now.instant, client.sample());
                client.note_activity(now.instant, now.unix);
                if due == Some(Due::Ping) && client.stage == Stage::Up {
                    server.command(Command::SendPayload(handle, PING.to_vec()));
                }
            });
            if let Some(due) = due.filter(|due| *due != Due::Ping) {
                let (text, reason) = reason_of(due);
                log::notice!("{} {text}", self.label(handle));
                self.close(handle, reason);
            }
        }
        self.check_stale_stations(now.instant);
        self.look_at_files();
        self.write_files(now);
    }

    // ---- ends ----------------------------------------------------------------------------------

    fn end(&mut self, ending: Ending, cause: Cause) {
        if self.ending.is_none() {
            self.program.cause = cause;
            self.ending = Some(ending);
        }
    }

    /// Ends, after telling the clients if `explicit-exit-notify` wants that.
    fn leave(&mut self, ending: Ending, cause: Cause) {
        let notify = self.options.connections[0].explicit_exit_notify;
        if notify == 0 || self.leaving.is_some() || self.clients.count() == 0 {
            self.end(ending, cause);
            return;
        }
        for handle in self.clients.handles() {
            let restart = tunnel::Command::Restart {
                next_remote: notify == 2,
                text: String::new(),
            };
            self.with_client(handle, |_, client| {
                if client.endpoint.stream.is_none() {
                    client.tunnel.handle_command(now(), restart);
                }
            });
        }
        self.program.cause = cause;
        self.leaving = Some((Instant::now() + SHUTDOWN_WAIT, ending));
    }

    /// Queues a command for the workers, who are woken at the end of a client's turn.
    fn command(&mut self, command: Command) {
        if self.workers.queue(command).is_err() {
            log::error!("packet worker does not answer, restarting");
            self.end(Ending::RESTART, Cause::Reason("worker-failed"));
        }
    }

    fn label(&mut self, handle: PeerHandle) -> String {
        self.clients
            .get(handle)
            .map(|client| client.label())
            .unwrap_or_default()
    }
}

fn start_workers(options: &Options, sockets: WorkerSockets) -> Result<Workers, StartError> {
    let WorkerSockets { sockets, ranges } = sockets;
    let config = settings::worker_options(options, ranges);
    match sockets.is_empty() {
        true => Workers::start_without_udp(setup::workers(options), &config),
        false => Workers::start(sockets, &config),
    }
}

/// What is said of a client whose time is over, and the reason of its end.
fn reason_of(due: Due) -> (&'static str, &'static str) {
    match due {
        Due::Ping | Due::Restart => (
            "Inactivity timeout (--ping-restart), restarting",
            "ping-restart",
        ),
        Due::Exit => ("Inactivity timeout (--ping-exit), exiting", "ping-exit"),
        Due::Inactive => ("Inactivity timeout (--inactive), exiting", "inactive"),
        Due::SessionTimeout => ("Session timeout, exiting", "session-timeout"),
    }
}
