//! The worker: one pinned thread that moves packets between a TUN queue, a UDP socket and TCP
//! connections.
//!
//! Each turn of its loop is one batch, in this order; no stage knows another:
//!
//! ```text
//!  1  wait      one sleep for TUN, UDP, TCP and commands               engine
//!  2  commands  peers, keys, device; drained once per batch            worker
//!     handover  packets of this worker's sessions that others read     worker
//!  3  errors    path MTU and ICMP noise from the socket's error queue  transmit
//!  4  receive   header -> peer -> open in place -> source -> mssfix    receive
//!               the same for the packets of TCP connections            streams, receive
//!  5  deliver   from peer to peer: as 6 and 7; to the device: coalesce
//!               the whole batch, one vectored write each               receive
//!  6  transmit  route -> mssfix -> split to final place -> seal        transmit
//!  7  flush     GSO sends; fall back and answer too-big on refusal     transmit
//!               one write for each TCP connection, a queue if full     streams
//!  8  release   buffers back to the engine; counters published         worker
//! ```
//!
//! Nothing in stages 1 and 3 to 8 locks, allocates or logs per packet. A packet that cannot go on is a
//! [`DropReason`] counter and never ends a batch.

mod engine;
mod group;
mod handover;
mod receive;
mod streams;
mod syscalls;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod transmit;

use std::cell::Cell;
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{self, Receiver, Sender, TrySendError};
use nix::sys::eventfd::{EfdFlags, EventFd};

use self::engine::Engine;
use self::handover::{Batch, Bell, Handover};
use self::receive::Receive;
use self::streams::Streams;
use self::transmit::{Slab, Stage, Transmit};
use crate::command::{Command, Endpoint, Event, Forwarding, StreamConfig, StreamId};
use crate::error::{DropReason, StartError};
use crate::peer::PeerTable;
use crate::pool::{Failures, Inbox, RxMessage};
use crate::stats::{WorkerStats, add};
use crate::sys::sched;
use crate::tun::{DeviceKind, TunQueue};
use crate::udp::UdpSocket;

pub use self::engine::IoChoice;
pub use self::group::{GroupStats, WorkerOptions, Workers};

/// Commands that may wait for the worker.
const COMMAND_QUEUE: usize = 256;

/// Events that may wait for the control thread.
const EVENT_QUEUE: usize = 1024;

/// Control packets, which anybody can send, leave this much of the queue to what the worker and
/// authenticated peers have to say.
const RESERVED_EVENTS: usize = 128;

/// Batches in a row without any work before the worker pauses in each: an error that the kernel
/// reports again and again must not take a whole CPU.
const MAX_FRUITLESS: u32 = 256;

/// How long that pause is.
const PAUSE: Duration = Duration::from_millis(1);

/// How long the end of a worker may wait to be told.
const LAST_WORD_LIMIT: Duration = Duration::from_secs(1);

/// How long [`WorkerHandle::send`] waits for room before it gives the worker up.
const SEND_LIMIT: Duration = Duration::from_secs(5);

/// The turn of a server's worker at its processor, in nanoseconds: the shortest there is, so that packets
/// do not wait for the end of other threads' turns, above all the control thread's with its handshakes.
/// A link by itself has none of those, and would pay for more changes of thread.
const SERVER_TURN_NS: u64 = 100_000;

/// What a worker starts with.
#[derive(Debug)]
pub struct WorkerConfig {
    /// Its socket; `None` where TCP connections carry everything.
    pub udp: Option<UdpSocket>,
    /// Its TUN queue, if it is open already; see [`Command::AttachTun`].
    pub tun: Option<TunQueue>,
    /// Which engine to use.
    pub io: IoChoice,
    /// How long to look for more packets before sleeping. It keeps a CPU busy for that long after
    /// each packet and saves the time of waking up.
    pub busy_poll: Duration,
    /// The CPU to stay on; the scheduler's choice when `None`.
    pub cpu: Option<usize>,
    /// The thread's name, at most 15 bytes.
    pub name: String,
}

/// The control thread's end of a worker. Dropping it stops the worker and waits for its end.
#[derive(Debug)]
pub struct WorkerHandle {
    commands: Sender<Command>,
    wake: Arc<EventFd>,
    /// Commands are queued that the worker has not been woken for.
    unannounced: Cell<bool>,
    events: Receiver<Event>,
    event_wake: Arc<EventFd>,
    stats: Arc<WorkerStats>,
    engine: &'static str,
    thread: Option<JoinHandle<Option<TunQueue>>>,
}

/// The worker's thread has ended, or takes no commands any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the worker has ended")]
pub struct WorkerEnded;

/// Starts workers.
pub struct Worker {
    engine: Engine,
    commands: Receiver<Command>,
    peers: PeerTable,
    inbox: Inbox,
    failures: Failures,
    receive: Receive,
    transmit: Transmit,
    shared: Shared,
    /// The engine knows of the TCP connections.
    watching: bool,
    /// Batches in a row that found nothing to do.
    fruitless: u32,
    busy_poll: Duration,
}

/// Which of a group a worker is.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// Its number.
    worker: u16,
    /// The listener its socket belongs to.
    listener: u16,
}

/// Where the workers of a group put their events.
#[derive(Clone)]
struct EventQueue {
    sender: Sender<Event>,
    receiver: Receiver<Event>,
    wake: Arc<EventFd>,
}

impl EventQueue {
    fn new() -> Result<Self, StartError> {
        let (sender, receiver) = channel::bounded(EVENT_QUEUE);
        let wake = eventfd()?;
        Ok(EventQueue {
            sender,
            receiver,
            wake,
        })
    }
}

fn eventfd() -> Result<Arc<EventFd>, StartError> {
    EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
        .map(Arc::new)
        .map_err(|errno| StartError::io("cannot make an eventfd", io::Error::from(errno)))
}

/// What every stage may use.
struct Shared {
    udp: Option<Arc<UdpSocket>>,
    streams: Streams,
    handover: Handover,
    outbox: Outbox,
    counts: Counts,
    stats: Arc<WorkerStats>,
    /// What the device carries.
    kind: DeviceKind,
    started: Instant,
    /// Seconds since the start, read once per batch.
    now: u32,
}

/// Events on their way to the control thread.
struct Outbox {
    events: Sender<Event>,
    wake: Arc<EventFd>,
    sent: bool,
}

/// The batch's share of [`WorkerStats`].
#[derive(Default)]
struct Counts {
    drops: [u64; DropReason::ALL.len()],
    udp_tx_calls: u64,
    udp_rx_calls: u64,
    stream_tx_calls: u64,
    stream_rx_calls: u64,
    tun_rx_calls: u64,
    tun_tx_calls: u64,
    fallbacks: u64,
    control_packets: u64,
}

impl Worker {
    /// Starts a worker's thread and waits until its engine runs.
    ///
    /// # Errors
    /// The thread cannot be started, or the engine that `io` insists on is refused.
    pub fn start(config: WorkerConfig) -> Result<WorkerHandle, StartError> {
        let wake = eventfd()?;
        let handover = Handover::alone(Bell::new(Arc::clone(&wake)));
        Self::spawn(config, Place::default(), wake, handover, EventQueue::new()?)
    }

    /// Starts a worker that is one of a group.
    fn spawn(
        config: WorkerConfig,
        place: Place,
        wake: Arc<EventFd>,
        handover: Handover,
        queue: EventQueue,
    ) -> Result<WorkerHandle, StartError> {
        let (commands, command_queue) = channel::bounded(COMMAND_QUEUE);
        let stats = Arc::new(WorkerStats::default());
        let (started, start) = channel::bounded(1);
        let shared = Shared {
            udp: config.udp.map(Arc::new),
            streams: Streams::new()?,
            handover,
            outbox: Outbox {
                events: queue.sender,
                wake: Arc::clone(&queue.wake),
                sent: false,
            },
            counts: Counts::default(),
            stats: Arc::clone(&stats),
            kind: DeviceKind::Tun,
            started: Instant::now(),
            now: 0,
        };
        let (tun, io, cpu, busy_poll) = (config.tun, config.io, config.cpu, config.busy_poll);
        let thread_wake = Arc::clone(&wake);
        let thread = std::thread::Builder::new()
            .name(config.name)
            .spawn(move || {
                // The ring belongs to the thread that makes it, so the engine is made here.
                match Worker::new(shared, place, command_queue, &thread_wake, io, cpu, tun) {
                    Ok(mut worker) => {
                        worker.busy_poll = busy_poll;
                        let _ = started.send(Ok(worker.engine.name()));
                        worker.run()
                    }
                    Err(error) => {
                        let _ = started.send(Err(error));
                        None
                    }
                }
            })
            .map_err(|error| StartError::io("cannot start a worker thread", error))?;
        let engine = start.recv().unwrap_or_else(|_| {
            let error = io::Error::from(io::ErrorKind::BrokenPipe);
            Err(StartError::io("the worker ended while starting", error))
        })?;
        Ok(WorkerHandle {
            commands,
            wake,
            unannounced: Cell::new(false),
            events: queue.receiver,
            event_wake: queue.wake,
            stats,
            engine,
            thread: Some(thread),
        })
    }

    fn new(
        shared: Shared,
        place: Place,
        commands: Receiver<Command>,
        wake: &Arc<EventFd>,
        io: IoChoice,
        cpu: Option<usize>,
        tun: Option<TunQueue>,
    ) -> Result<Self, StartError> {
        let (engine, notice) = Engine::new(io, shared.udp.as_ref(), wake)
            .map_err(|error| StartError::io("cannot set up the I/O engine", error))?;
        let gso = shared.udp.as_ref().is_some_and(|udp| udp.has_gso());
        let mut worker = Worker {
            engine,
            commands,
            peers: PeerTable::new(place.worker, place.listener),
            inbox: Inbox::new(),
            failures: Failures::new(),
            receive: Receive::new(),
            transmit: Transmit::new(gso),
            shared,
            watching: false,
            fruitless: 0,
            busy_poll: Duration::ZERO,
        };
        if let Some(notice) = notice {
            worker.shared.fall_back(notice);
        }
        let udp = worker.shared.udp.clone();
        for name in udp.iter().flat_map(|udp| udp.missing_offloads()) {
            let text = format!("the kernel has no UDP {name}; doing without");
            worker.shared.fall_back(text);
        }
        if let Some(id) = cpu
            && !core_affinity::set_for_current(core_affinity::CoreId { id })
        {
            worker
                .shared
                .notice(format!("cannot stay on CPU {id}; the scheduler chooses"));
        }
        if let Some(tun) = tun {
            worker
                .attach_tun(tun)
                .map_err(|error| StartError::io("cannot use the TUN device", error))?;
        }
        Ok(worker)
    }

    fn run(mut self) -> Option<TunQueue> {
        loop {
            match self.batch() {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    let reason = format!("the packet path stopped: {error}");
                    self.shared.outbox.send_last(Event::Failed(reason));
                    break;
                }
            }
        }
        self.publish();
        self.shared.outbox.flush();
        self.engine.detach_tun().ok().flatten()
    }

    /// One turn of the loop; the stages are named at the top of this file. Returns false when told
    /// to stop. An error is the engine's end.
    fn batch(&mut self) -> io::Result<bool> {
        self.inbox.clear();
        let woken = self.wait()?;
        self.pause_if_idle(woken);
        self.tick();
        if !self.run_commands()? {
            return Ok(false);
        }
        self.take_over();
        if self.inbox.socket_error {
            self.transmit.read_errors(&mut self.peers, &mut self.shared);
        }
        if let Some(errno) = self.inbox.tun_lost {
            let error = io::Error::from_raw_os_error(errno);
            self.shared
                .notice(format!("the TUN device is gone ({error})"));
        }
        for notice in self.inbox.notices.drain(..) {
            self.shared.fall_back(notice);
        }

        for index in 0..self.inbox.rx.len() {
            let message = self.inbox.rx[index];
            self.receive.message(
                &message,
                &mut self.engine,
                &mut self.peers,
                &mut self.failures,
                &mut self.shared,
                &mut self.transmit,
            )?;
        }
        if self.inbox.streams {
            streams::receive(
                &mut self.receive,
                &mut self.engine,
                &mut self.peers,
                &mut self.failures,
                &mut self.shared,
                &mut self.transmit,
            )?;
        }
        self.receive.deliver(
            &mut self.engine,
            &mut self.peers,
            &mut self.failures,
            &mut self.shared,
            &mut self.transmit,
        )?;

        self.shared.counts.tun_rx_calls += self.inbox.tun.len() as u64;
        if let Some(port) = self.peers.device_port() {
            let bytes = self.engine.tun_bytes_mut();
            transmit::untag(port, &mut self.inbox.tun, bytes, &mut self.shared.counts);
        }
        self.transmit.packets(&mut Stage {
            engine: &mut self.engine,
            peers: &mut self.peers,
            failures: &mut self.failures,
            shared: &mut self.shared,
            sources: &self.inbox.tun,
            slab: Slab::Device,
        });

        self.engine.release(&self.inbox);
        self.shared.counts.udp_rx_calls += self.inbox.rx_calls;
        let held = match self.peers.only_stream() {
            // Its packets have nowhere else to go: the device keeps them, and tells who sends them.
            Some(id) => self.shared.streams.awaits_room(id),
            None => false,
        };
        self.engine.hold_tun(held)?;
        self.publish();
        self.shared.handover.flush();
        self.shared.streams.report(&mut self.shared.outbox);
        self.shared.outbox.flush();
        Ok(true)
    }

    /// Handles what other workers handed over; of each one lane-full at most, so that the own packets
    /// get their turn.
    fn take_over(&mut self) {
        for source in 0..self.shared.handover.sources() {
            for _ in 0..handover::BATCHES {
                let Some(mut batch) = self.shared.handover.take(source) else {
                    break;
                };
                self.handed_over(&mut batch);
                self.shared.handover.give_back(source, batch);
            }
        }
    }

    /// Handles a datagram that arrived elsewhere.
    fn pass_on(&mut self, from: Endpoint, datagram: &[u8], own: bool) {
        let mut stage = Stage {
            engine: &mut self.engine,
            peers: &mut self.peers,
            failures: &mut self.failures,
            shared: &mut self.shared,
            sources: &[],
            slab: Slab::Device,
        };
        self.receive
            .passed_on(from, datagram, own, &mut stage, &mut self.transmit);
    }

    fn handed_over(&mut self, batch: &mut Batch) {
        for &(handle, note) in &batch.notes {
            self.peers.take_note(handle, note, self.shared.now);
        }
        for &(address, mtu) in &batch.path_mtus {
            transmit::learn_path_mtu(address, mtu, &mut self.peers, &mut self.shared);
        }
        for message in &batch.rx {
            let &RxMessage {
                start, len, from, ..
            } = message;
            self.pass_on(from, &batch.bytes[start..start + len], false);
        }
        self.transmit.packets(&mut Stage {
            engine: &mut self.engine,
            peers: &mut self.peers,
            failures: &mut self.failures,
            shared: &mut self.shared,
            sources: &batch.tun,
            slab: Slab::HandedOver(&mut batch.bytes),
        });
    }

    /// Waits for something to do: by looking again and again as long as `busy_poll` says, then asleep.
    /// Returns whether there may be commands or packets of other workers.
    fn wait(&mut self) -> io::Result<bool> {
        if !self.busy_poll.is_zero() {
            let began = Instant::now();
            loop {
                let woken = self.engine.wait(false, &mut self.inbox)?;
                if woken || !self.inbox.is_empty() || self.shared.handover.has_work() {
                    return Ok(true);
                }
                if began.elapsed() >= self.busy_poll {
                    break;
                }
                std::hint::spin_loop();
            }
        }
        let block = self.shared.handover.may_sleep();
        let woken = self.engine.wait(block, &mut self.inbox)?;
        self.shared.handover.awake();
        Ok(woken || !block)
    }

    /// Waiting that keeps finding nothing is slowed down.
    fn pause_if_idle(&mut self, woken: bool) {
        if woken || !self.inbox.rx.is_empty() || !self.inbox.tun.is_empty() || self.inbox.streams {
            self.fruitless = 0;
            return;
        }
        self.fruitless = self.fruitless.saturating_add(1);
        if self.fruitless > MAX_FRUITLESS {
            std::thread::sleep(PAUSE);
        }
    }

    /// Reads the clock; what ends by time is looked at once a second.
    fn tick(&mut self) {
        let now = self.shared.seconds();
        if now != self.shared.now {
            self.shared.now = now;
            self.peers.expire_limits(now);
            self.shared.streams.shrink();
        }
    }

    fn run_commands(&mut self) -> io::Result<bool> {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Stop => return Ok(false),
                Command::AttachTun(tun) => {
                    if let Err(error) = self.attach_tun(tun) {
                        self.shared
                            .notice(format!("cannot use the TUN device: {error}"));
                    }
                }
                Command::DetachTun => drop(self.engine.detach_tun()?),
                Command::AddStream(id, socket, config) => {
                    if let Err(error) = self.add_stream(id, socket, config) {
                        self.shared.notice(error);
                    }
                }
                Command::SendControl(id, packet) => {
                    let Shared {
                        streams, counts, ..
                    } = &mut self.shared;
                    streams.control(id, &packet, counts);
                }
                Command::CloseStream(id) => self.shared.streams.close(id),
                // Whoever asked may have gone.
                Command::Barrier(done) => drop(done.try_send(())),
                Command::SendPayload(handle, payload) => {
                    let mut stage = Stage {
                        engine: &mut self.engine,
                        peers: &mut self.peers,
                        failures: &mut self.failures,
                        shared: &mut self.shared,
                        sources: &[],
                        slab: Slab::Device,
                    };
                    self.transmit.payload(handle, &payload, &mut stage);
                    self.transmit.flush(&mut stage);
                }
                Command::Datagram(_, from, datagram) => self.pass_on(from, &datagram, true),
                Command::PathMtu(address, mtu) => {
                    transmit::learn_path_mtu(address, mtu, &mut self.peers, &mut self.shared);
                }
                other => self.change_peers(other),
            }
        }
        Ok(true)
    }

    fn change_peers(&mut self, command: Command) {
        match command {
            Command::SetPeer(handle, config) => self.peers.set(handle, *config),
            Command::RemovePeer(handle) => {
                // What has been counted since the last batch would be lost with it.
                self.publish_peers();
                self.peers.remove(handle);
            }
            Command::SetForwarding(forwarding) => {
                self.peers.set_forwarding(forwarding);
                if forwarding != Forwarding::PointToPoint {
                    // Without it packets wait a little longer on a busy machine.
                    let _ = sched::set_turn(SERVER_TURN_NS);
                }
            }
            Command::AddRoute(handle, prefix) => self.peers.add_route(handle, prefix),
            Command::RemoveRoute(handle, prefix) => self.peers.remove_route(handle, prefix),
            Command::SetPort(handle, port) => self.peers.set_port(handle, port),
            Command::AdmitStation(handle, station) => {
                self.peers.admit(handle, station, self.shared.now);
            }
            Command::ForgetStations(age) => {
                let outbox = &mut self.shared.outbox;
                self.peers
                    .forget_stations(self.shared.now, age, &mut |handle, station| {
                        outbox.send(Event::Forgotten(handle, station))
                    });
            }
            Command::InstallKey(handle, key_id, keys) => {
                let Some(peer) = self.peers.by_handle(handle) else {
                    return;
                };
                let framing = peer.key_framing();
                let config = &peer.config;
                let installed = peer.keys.install(
                    key_id,
                    &keys,
                    peer.halves,
                    config.tx_peer_id,
                    framing,
                    (config.replay_window, config.replay_time),
                );
                match installed {
                    Ok(()) => peer.start_counting(key_id),
                    Err(error) => self
                        .shared
                        .notice(format!("key {key_id} cannot be used: {error}")),
                }
            }
            Command::UseKey(handle, key_id) => {
                let Some(peer) = self.peers.by_handle(handle) else {
                    return;
                };
                if peer.keys.use_key(key_id) {
                    peer.fit_mss();
                } else {
                    self.shared
                        .notice(format!("key {key_id} is to be used but not installed"));
                }
            }
            Command::RemoveKey(handle, key_id) => {
                if let Some(peer) = self.peers.by_handle(handle) {
                    peer.keys.remove(key_id);
                }
            }
            Command::SendPayload(..)
            | Command::AddStream(..)
            | Command::SendControl(..)
            | Command::CloseStream(_)
            | Command::Datagram(..)
            | Command::PathMtu(..)
            | Command::AttachTun(_)
            | Command::DetachTun
            | Command::Barrier(_)
            | Command::Stop => {}
        }
    }

    fn add_stream(
        &mut self,
        id: StreamId,
        socket: TcpStream,
        config: StreamConfig,
    ) -> Result<(), String> {
        if !self.watching {
            if let Err(error) = self.engine.watch(self.shared.streams.epoll()) {
                self.shared.streams.refuse(id, &error);
                return Err(format!("cannot wait for TCP connections: {error}"));
            }
            self.watching = true;
        }
        self.shared.streams.add(id, socket, config)
    }

    fn attach_tun(&mut self, tun: TunQueue) -> io::Result<()> {
        drop(self.engine.detach_tun()?);
        let caps = tun.caps();
        let offloads = [(caps.tso, "TCP"), (caps.uso, "UDP")];
        for (_, name) in offloads
            .into_iter()
            .filter(|(has, _)| tun.has_vnet_header() && !has)
        {
            let text = format!("the device has no {name} segmentation offload; doing without");
            self.shared.fall_back(text);
        }
        self.shared.kind = tun.kind();
        self.peers.set_kind(tun.kind());
        self.receive.set_device(tun.kind(), caps);
        self.engine.attach_tun(tun)
    }

    fn publish_peers(&mut self) {
        let handover = &mut self.shared.handover;
        self.peers
            .publish(&mut |worker, peer, note| handover.note(worker, peer, note));
    }

    fn publish(&mut self) {
        self.publish_peers();
        let counts = std::mem::take(&mut self.shared.counts);
        let stats = &self.shared.stats;
        for (total, count) in stats.drops.iter().zip(counts.drops) {
            if count != 0 {
                add(total, count);
            }
        }
        add(&stats.udp_tx_calls, counts.udp_tx_calls);
        add(&stats.udp_rx_calls, counts.udp_rx_calls);
        add(&stats.stream_tx_calls, counts.stream_tx_calls);
        add(&stats.stream_rx_calls, counts.stream_rx_calls);
        add(&stats.tun_rx_calls, counts.tun_rx_calls);
        add(&stats.tun_tx_calls, counts.tun_tx_calls);
        add(&stats.fallbacks, counts.fallbacks);
        add(&stats.control_packets, counts.control_packets);
        add(&stats.batches, 1);
    }
}

impl WorkerHandle {
    /// Queues a command and wakes the worker. Waits only when the queue is full.
    ///
    /// # Errors
    /// The worker has ended, or has not made room for some seconds.
    pub fn send(&self, command: Command) -> Result<(), WorkerEnded> {
        self.queue(command)?;
        self.wake();
        Ok(())
    }

    /// Queues a command, which waits for the next [`WorkerHandle::wake`] or for whatever else wakes
    /// the worker. Waits only when the queue is full.
    ///
    /// # Errors
    /// As [`WorkerHandle::send`].
    pub fn queue(&self, command: Command) -> Result<(), WorkerEnded> {
        let full = match self.commands.try_send(command) {
            Ok(()) => None,
            Err(TrySendError::Full(command)) => Some(command),
            Err(TrySendError::Disconnected(_)) => return Err(WorkerEnded),
        };
        self.unannounced.set(true);
        let Some(command) = full else {
            return Ok(());
        };
        self.wake();
        let queued = self.commands.send_timeout(command, SEND_LIMIT);
        self.unannounced.set(true);
        queued.map_err(|_| WorkerEnded)
    }

    /// Wakes the worker if a command was queued since the last call.
    pub fn wake(&self) {
        if self.unannounced.take() {
            // The counter overflows only after 2^64 unread wake-ups.
            let _ = self.wake.write(1);
        }
    }

    /// Where events arrive.
    pub fn events(&self) -> &Receiver<Event> {
        &self.events
    }

    /// An eventfd that is readable when events may be waiting. Call
    /// [`WorkerHandle::clear_event_fd`] before emptying [`WorkerHandle::events`].
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.event_wake.as_fd()
    }

    /// Makes [`WorkerHandle::event_fd`] unreadable until the next event.
    pub fn clear_event_fd(&self) {
        // It is non-blocking; nothing to read is no error.
        let _ = self.event_wake.read();
    }

    /// The worker's counters.
    pub fn stats(&self) -> Arc<WorkerStats> {
        Arc::clone(&self.stats)
    }

    /// Which engine runs, in words for a log line.
    pub fn engine(&self) -> &'static str {
        self.engine
    }

    /// Stops the worker after its current batch and gives its TUN queue back.
    pub fn stop(mut self) -> Option<TunQueue> {
        self.join()
    }

    fn join(&mut self) -> Option<TunQueue> {
        let thread = self.thread.take()?;
        // An error means that it has ended already.
        let _ = self.send(Command::Stop);
        thread.join().ok().flatten()
    }
}

impl Drop for WorkerHandle {
    fn drop(&mut self) {
        drop(self.join());
    }
}

impl Shared {
    fn seconds(&self) -> u32 {
        u32::try_from(self.started.elapsed().as_secs()).unwrap_or(u32::MAX)
    }

    fn notice(&mut self, text: String) {
        self.outbox.send(Event::Notice(text));
    }

    /// Reports that a fallback took over.
    fn fall_back(&mut self, text: String) {
        self.counts.fallbacks += 1;
        self.notice(text);
    }
}

impl Outbox {
    /// Queues an event; false when the queue is full.
    fn send(&mut self, event: Event) -> bool {
        let sent = self.events.try_send(event).is_ok();
        self.sent |= sent;
        sent
    }

    /// Queues the last event there will be, if need be when there is room again.
    fn send_last(&mut self, event: Event) {
        self.flush();
        self.sent |= self.events.send_timeout(event, LAST_WORD_LIMIT).is_ok();
    }

    /// Whether the queue may take what nobody has authenticated.
    fn has_room_for_strangers(&self) -> bool {
        self.events.len() < EVENT_QUEUE - RESERVED_EVENTS
    }

    /// Wakes the control thread if there is something new for it.
    fn flush(&mut self) {
        if std::mem::take(&mut self.sent) {
            let _ = self.wake.write(1);
        }
    }
}

impl Counts {
    fn drop(&mut self, reason: DropReason, packets: usize) {
        self.drops[reason as usize] += packets as u64;
    }
}
