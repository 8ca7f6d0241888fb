//! Several workers on one port and one device, as one.
//!
//! ```text
//!   UDP port    socket 0   socket 1   ...       one each; the kernel steers by peer-id
//!   worker         0  <=======> 1  <=> ...      handover
//!   TUN device  queue 0    (writer)   ...
//! ```
//!
//! The two halves of a session are on two workers: the one its packets are steered to opens them, the
//! next one seals. The device is read by all workers but the one that opens, which only writes; so with
//! two workers there is a single queue and nothing is handed over. With more, the others read and hand
//! over to the one that seals: a session's packet ids have one source, because its peer's replay window
//! may be short.
//!
//! A server has many peers to spread, so each session is on one worker as a whole: the one its packets
//! are steered to, among those of the listener that the peer came by.
//!
//! ```text
//!   listener 0   socket 0   socket 1      listener 1   socket 2      peer-id % workers of the listener
//!   worker           0 <=====> 1 <========================> 2        handover
//!   device        queue 0    queue 1                     queue 2     each read and written
//! ```
//!
//! A TCP connection, and with it both halves of its peer's session, is on the worker `id % workers`.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crossbeam::channel::{self, Receiver};

use super::handover::{Bell, Handover};
use super::{
    EventQueue, IoChoice, Place, Worker, WorkerConfig, WorkerEnded, WorkerHandle, eventfd,
};
use crate::command::{Command, Event, Forwarding, PeerConfig, PeerHandle, Roles, StreamId};
use crate::error::{DropReason, StartError};
use crate::stats::WorkerStats;
use crate::steering;
use crate::tun::TunQueue;
use crate::udp::UdpSocket;
use crate::wire::{self, Header};

/// How long a worker may take to give a queue up.
const DETACH_LIMIT: Duration = Duration::from_secs(1);

/// How the workers of a group run.
#[derive(Clone, Debug, Default)]
pub struct WorkerOptions {
    /// Which engine to use.
    pub io: IoChoice,
    /// CPUs to stay on, used in turn; the scheduler's choice when there are none.
    pub cpus: Vec<usize>,
    /// As [`WorkerConfig::busy_poll`].
    pub busy_poll: Duration,
    /// The workers of each listener, in the order of their sockets' group; a worker's socket belongs to
    /// the first listener that names it. Without any, all workers are those of listener 0.
    pub listeners: Vec<Range<u16>>,
}

/// Workers that share a port and a device. Dropping it stops them and waits for their end.
#[derive(Debug)]
pub struct Workers {
    handles: Vec<WorkerHandle>,
    /// What [`Workers::stop`] gives back; the workers have handles of their own.
    queues: Vec<TunQueue>,
    roles: HashMap<PeerHandle, Roles>,
    listeners: Vec<Range<u16>>,
    forwarding: Forwarding,
}

impl Workers {
    /// How many queues a device needs for this many workers.
    pub fn queues(forwarding: Forwarding, workers: usize) -> usize {
        match forwarding {
            // All but one read; from the third on the writing one has a queue of its own.
            Forwarding::PointToPoint if workers <= 2 => 1,
            Forwarding::PointToPoint | Forwarding::Routed { .. } | Forwarding::Switched { .. } => {
                workers
            }
        }
    }

    /// Starts one worker for each socket of a group (see [`UdpSocket::open_group`]).
    ///
    /// # Errors
    /// As [`Worker::start`]; also for a listener without workers, or of workers that do not exist.
    pub fn start(sockets: Vec<UdpSocket>, options: &WorkerOptions) -> Result<Self, StartError> {
        Self::start_with(sockets.into_iter().map(Some).collect(), options)
    }

    /// Starts so many workers without UDP, for TCP connections only.
    ///
    /// # Errors
    /// As [`Worker::start`].
    pub fn start_without_udp(workers: usize, options: &WorkerOptions) -> Result<Self, StartError> {
        Self::start_with((0..workers.max(1)).map(|_| None).collect(), options)
    }

    fn start_with(
        sockets: Vec<Option<UdpSocket>>,
        options: &WorkerOptions,
    ) -> Result<Self, StartError> {
        let cpus = &options.cpus;
        let listeners = options.listeners.clone();
        for range in &listeners {
            if range.is_empty() || usize::from(range.end) > sockets.len() {
                let error = io::Error::from(io::ErrorKind::InvalidInput);
                let what = format!("no workers {range:?} among {}", sockets.len());
                return Err(StartError::io(what, error));
            }
        }
        let events = EventQueue::new()?;
        let wakes = sockets
            .iter()
            .map(|_| eventfd())
            .collect::<Result<Vec<_>, _>>()?;
        let bells: Vec<_> = wakes
            .iter()
            .map(|wake| Bell::new(Arc::clone(wake)))
            .collect();
        let ends = Handover::between(&bells);
        let mut handles = Vec::with_capacity(sockets.len());
        for (number, ((udp, wake), handover)) in
            sockets.into_iter().zip(wakes).zip(ends).enumerate()
        {
            let config = WorkerConfig {
                udp,
                tun: None,
                io: options.io,
                busy_poll: options.busy_poll,
                cpu: cpus.get(number % cpus.len().max(1)).copied(),
                name: format!("ringway-w{number}"),
            };
            let worker = number as u16;
            let listener = listeners.iter().position(|range| range.contains(&worker));
            let place = Place {
                worker,
                listener: listener.unwrap_or(0) as u16,
            };
            handles.push(Worker::spawn(
                config,
                place,
                wake,
                handover,
                events.clone(),
            )?);
        }
        Ok(Workers {
            handles,
            queues: Vec::new(),
            roles: HashMap::new(),
            listeners,
            forwarding: Forwarding::default(),
        })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.handles.len()
    }

    /// Reads from and writes to these queues of a device from now on, instead of any earlier ones;
    /// [`Workers::queues`] says how many are of use, and with fewer some workers only write.
    ///
    /// # Errors
    /// No descriptor is left, a queue cannot be made one for writing only, or a worker has ended.
    pub fn attach_tun(&mut self, mut queues: Vec<TunQueue>) -> Result<(), StartError> {
        let one_writes = self.forwarding == Forwarding::PointToPoint && queues.len() > 1;
        let writer = if one_writes { queues.pop() } else { None };
        if let Some(queue) = writer {
            let made = if queue.is_read() {
                queue.into_writer()
            } else {
                Ok(queue)
            };
            queues.push(made.map_err(|error| {
                StartError::io("cannot make a TUN queue one for writing only", error)
            })?);
        }
        self.queues = queues;
        self.share_queues()
    }

    /// Gives the device up; inner packets are dropped until another is attached.
    ///
    /// # Errors
    /// A worker has ended.
    pub fn detach_tun(&mut self) -> Result<(), WorkerEnded> {
        self.queues.clear();
        let queued = self.to_all(|| Command::DetachTun);
        self.wake();
        queued
    }

    /// Queues a command for the workers it is for, and wakes them. Waits only when a queue is full.
    ///
    /// # Errors
    /// One of them has ended, or has not made room for some seconds.
    pub fn send(&mut self, command: Command) -> Result<(), WorkerEnded> {
        let queued = self.queue(command);
        self.wake();
        queued
    }

    /// Wakes the workers for which something was queued.
    pub fn wake(&self) {
        self.handles.iter().for_each(WorkerHandle::wake);
    }

    /// Queues a command for the workers it is for; [`Workers::wake`] is to follow. A client takes
    /// several commands, and being woken is what costs.
    ///
    /// # Errors
    /// As [`Workers::send`].
    pub fn queue(&mut self, command: Command) -> Result<(), WorkerEnded> {
        match command {
            Command::SetPeer(handle, mut config) => {
                let first = self.roles.is_empty();
                let known = self.roles.get(&handle).copied();
                config.roles = known.unwrap_or_else(|| self.roles_for(&config));
                self.roles.insert(handle, config.roles);
                for worker in &self.handles {
                    worker.queue(Command::SetPeer(handle, config.clone()))?;
                }
                let split = self.forwarding == Forwarding::PointToPoint;
                if split && first && self.handles.len() > 1 && !self.queues.is_empty() {
                    // Who reads and who writes is known now.
                    self.share_queues().map_err(|_| WorkerEnded)?;
                }
                Ok(())
            }
            Command::RemovePeer(handle) => {
                self.roles.remove(&handle);
                self.to_all(|| Command::RemovePeer(handle))
            }
            Command::SetForwarding(forwarding) => {
                self.forwarding = forwarding;
                self.to_all(|| Command::SetForwarding(forwarding))?;
                match self.queues.is_empty() {
                    true => Ok(()),
                    false => self.share_queues().map_err(|_| WorkerEnded),
                }
            }
            Command::AddRoute(handle, prefix) => self.to_all(|| Command::AddRoute(handle, prefix)),
            Command::RemoveRoute(handle, prefix) => {
                self.to_all(|| Command::RemoveRoute(handle, prefix))
            }
            Command::SetPort(handle, port) => self.to_all(|| Command::SetPort(handle, port)),
            Command::AdmitStation(handle, station) => {
                self.to_all(|| Command::AdmitStation(handle, station))
            }
            Command::ForgetStations(age) => self.to_all(|| Command::ForgetStations(age)),
            Command::InstallKey(handle, key_id, keys) => {
                self.to_halves(handle, || Command::InstallKey(handle, key_id, keys.clone()))
            }
            Command::UseKey(handle, key_id) => {
                self.to_halves(handle, || Command::UseKey(handle, key_id))
            }
            Command::RemoveKey(handle, key_id) => {
                self.to_halves(handle, || Command::RemoveKey(handle, key_id))
            }
            Command::SendPayload(handle, _) => {
                let sender = self.roles_of(handle).send;
                self.handles[usize::from(sender)].queue(command)
            }
            Command::AddStream(id, ..) | Command::SendControl(id, _) | Command::CloseStream(id) => {
                let owner = stream_roles(id, self.handles.len()).receive;
                self.handles[usize::from(owner)].queue(command)
            }
            Command::Datagram(listener, _, ref datagram) => {
                // Anything else is for the first worker to count.
                let peer_id = match wire::parse(datagram) {
                    Ok(Header::Data { peer_id, .. }) => peer_id,
                    Ok(Header::Control) | Err(_) => None,
                };
                let workers = self.workers_of(listener);
                let worker = workers.start + steered(peer_id, workers.len());
                self.handles[usize::from(worker)].queue(command)
            }
            Command::PathMtu(address, mtu) => self.to_all(|| Command::PathMtu(address, mtu)),
            Command::AttachTun(queue) => self.attach_tun(vec![queue]).map_err(|_| WorkerEnded),
            Command::DetachTun => self.detach_tun(),
            Command::Barrier(done) => self.to_all(|| Command::Barrier(done.clone())),
            Command::Stop => self.to_all(|| Command::Stop),
        }
    }

    /// Where the events of all of them arrive.
    pub fn events(&self) -> &Receiver<Event> {
        self.handles[0].events()
    }

    /// An eventfd that is readable when events may be waiting; see [`WorkerHandle::event_fd`].
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.handles[0].event_fd()
    }

    /// Makes [`Workers::event_fd`] unreadable until the next event.
    pub fn clear_event_fd(&self) {
        self.handles[0].clear_event_fd();
    }

    /// Their counters.
    pub fn stats(&self) -> GroupStats {
        GroupStats(self.handles.iter().map(WorkerHandle::stats).collect())
    }

    /// Which engine runs, in words for a log line.
    pub fn engine(&self) -> &'static str {
        self.handles[0].engine()
    }

    /// Stops them after their current batch and gives the device's queues back.
    pub fn stop(mut self) -> Vec<TunQueue> {
        for worker in self.handles.drain(..) {
            drop(worker.stop());
        }
        std::mem::take(&mut self.queues)
    }

    fn to_all(&self, command: impl Fn() -> Command) -> Result<(), WorkerEnded> {
        self.handles
            .iter()
            .try_for_each(|worker| worker.queue(command()))
    }

    fn to_halves(
        &self,
        handle: PeerHandle,
        command: impl Fn() -> Command,
    ) -> Result<(), WorkerEnded> {
        let Roles { send, receive } = self.roles_of(handle);
        self.handles[usize::from(receive)].queue(command())?;
        if send != receive {
            self.handles[usize::from(send)].queue(command())?;
        }
        Ok(())
    }

    fn roles_of(&self, handle: PeerHandle) -> Roles {
        let known = self.roles.get(&handle).copied();
        known.unwrap_or_else(|| split_roles(None, self.handles.len()))
    }

    /// Which workers are to hold a new peer: in point to point one each for its halves, otherwise
    /// one, of its listener.
    fn workers_of(&self, listener: u16) -> Range<u16> {
        let listener = self.listeners.get(usize::from(listener)).cloned();
        listener.unwrap_or(0..self.handles.len() as u16)
    }

    fn roles_for(&self, config: &PeerConfig) -> Roles {
        if let Some(id) = config.endpoint.stream {
            return stream_roles(id, self.handles.len());
        }
        if self.forwarding == Forwarding::PointToPoint {
            return split_roles(config.rx_peer_id, self.handles.len());
        }
        let workers = self.workers_of(config.listener);
        let worker = workers.start + steered(config.rx_peer_id, workers.len());
        Roles {
            send: worker,
            receive: worker,
        }
    }

    /// In point to point the one that opens gets a handle for writing, the others one queue each as far
    /// as there are enough, beginning with the one that seals. Otherwise each gets the queue of its
    /// number, or a handle for writing.
    fn share_queues(&self) -> Result<(), StartError> {
        let fail = |error| StartError::io("cannot share the TUN device between workers", error);
        let count = self.handles.len();
        let split = self.forwarding == Forwarding::PointToPoint;
        let known = self.roles.values().next().copied();
        let Roles { send, receive } = match split {
            true => known.unwrap_or_else(|| split_roles(None, count)),
            false => Roles::default(),
        };
        // Two readers of one queue, even for a moment, would change the order of packets.
        if count > 1 {
            for worker in &self.handles {
                worker.send(Command::DetachTun).map_err(ended)?;
            }
            for worker in &self.handles {
                let (done, finished) = channel::bounded(1);
                worker.send(Command::Barrier(done)).map_err(ended)?;
                // A worker that ends instead reports that itself.
                let _ = finished.recv_timeout(DETACH_LIMIT);
            }
        }
        let mut queues = self.queues.iter().filter(|queue| queue.is_read());
        let written = self.queues.iter().rfind(|queue| !queue.is_read());
        let Some(written) = written.or(self.queues.first()) else {
            return Ok(());
        };
        for step in 0..count {
            let worker = (usize::from(send) + step) % count;
            let writes_only =
                split && count > 1 && send != receive && worker == usize::from(receive);
            let read = if writes_only { None } else { queues.next() };
            let queue = match read {
                Some(queue) => queue.try_clone(),
                None => written.writer(),
            };
            self.handles[worker]
                .send(Command::AttachTun(queue.map_err(fail)?))
                .map_err(ended)?;
        }
        Ok(())
    }
}

/// The counters of several workers, added up.
#[derive(Clone, Debug, Default)]
pub struct GroupStats(Vec<Arc<WorkerStats>>);

impl GroupStats {
    /// Packets dropped for this reason.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.sum(|stats| &stats.drops[reason as usize])
    }

    /// The sum of one counter.
    pub fn sum(&self, counter: impl Fn(&WorkerStats) -> &AtomicU64) -> u64 {
        let values = self.0.iter().map(|stats| counter(stats).load(Relaxed));
        values.fold(0, u64::wrapping_add)
    }
}

/// Which workers hold the halves of a session: the filter of [`UdpSocket::open_group`] decides who
/// receives, and the next one seals.
fn split_roles(rx_peer_id: Option<u32>, workers: usize) -> Roles {
    let receive = steered(rx_peer_id, workers);
    Roles {
        send: (receive + 1) % workers.max(1) as u16,
        receive,
    }
}

/// Which of so many workers the filter gives a peer's packets to.
fn steered(rx_peer_id: Option<u32>, workers: usize) -> u16 {
    steering::worker_of(rx_peer_id, workers.max(1)) as u16
}

/// Both halves of a session stay where its TCP connection is.
fn stream_roles(id: StreamId, workers: usize) -> Roles {
    let owner = (id.0 % workers.max(1) as u32) as u16;
    Roles {
        send: owner,
        receive: owner,
    }
}

fn ended(_: WorkerEnded) -> StartError {
    let error = io::Error::from(io::ErrorKind::BrokenPipe);
    StartError::io("a worker has ended", error)
}
