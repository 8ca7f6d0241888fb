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

use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crossbeam::channel::{self, Receiver};

use super::handover::{Bell, Handover};
use super::{EventQueue, IoChoice, Worker, WorkerConfig, WorkerEnded, WorkerHandle, eventfd};
use crate::command::{Command, Event, PeerHandle, Roles};
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
}

/// Workers that share a port and a device. Dropping it stops them and waits for their end.
#[derive(Debug)]
pub struct Workers {
    handles: Vec<WorkerHandle>,
    /// What [`Workers::stop`] gives back; the workers have handles of their own.
    queues: Vec<TunQueue>,
    roles: HashMap<PeerHandle, Roles>,
}

impl Workers {
    /// How many queues a device needs so that this many workers can serve one peer.
    pub fn queues(workers: usize) -> usize {
        // All but one read; from the third on the writing one has a queue of its own.
        if workers <= 2 { 1 } else { workers }
    }

    /// Starts one worker for each socket of a group (see [`UdpSocket::open_group`]).
    ///
    /// # Errors
    /// As [`Worker::start`].
    pub fn start(sockets: Vec<UdpSocket>, options: &WorkerOptions) -> Result<Self, StartError> {
        let cpus = &options.cpus;
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
            let number = number as u16;
            handles.push(Worker::spawn(
                config,
                number,
                wake,
                handover,
                events.clone(),
            )?);
        }
        Ok(Workers {
            handles,
            queues: Vec::new(),
            roles: HashMap::new(),
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
        let writer = if queues.len() > 1 { queues.pop() } else { None };
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
        self.handles
            .iter()
            .try_for_each(|worker| worker.send(Command::DetachTun))
    }

    /// Queues a command for the workers it is for. Waits only when a queue is full.
    ///
    /// # Errors
    /// One of them has ended, or has not made room for some seconds.
    pub fn send(&mut self, command: Command) -> Result<(), WorkerEnded> {
        match command {
            Command::SetPeer(handle, mut config) => {
                let first = self.roles.is_empty();
                let roles = *self
                    .roles
                    .entry(handle)
                    .or_insert_with(|| roles(config.rx_peer_id, self.handles.len()));
                config.roles = roles;
                for worker in &self.handles {
                    worker.send(Command::SetPeer(handle, config.clone()))?;
                }
                if first && self.handles.len() > 1 && !self.queues.is_empty() {
                    // Who reads and who writes is known now.
                    self.share_queues().map_err(|_| WorkerEnded)?;
                }
                Ok(())
            }
            Command::RemovePeer(handle) => {
                self.roles.remove(&handle);
                self.handles
                    .iter()
                    .try_for_each(|worker| worker.send(Command::RemovePeer(handle)))
            }
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
                self.handles[usize::from(sender)].send(command)
            }
            Command::Datagram(_, ref datagram) => {
                // Anything else is for worker 0 to count.
                let peer_id = match wire::parse(datagram) {
                    Ok(Header::Data { peer_id, .. }) => peer_id,
                    Ok(Header::Control) | Err(_) => None,
                };
                let worker = steering::worker_of(peer_id, self.handles.len());
                self.handles[worker].send(command)
            }
            Command::PathMtu(address, mtu) => self
                .handles
                .iter()
                .try_for_each(|worker| worker.send(Command::PathMtu(address, mtu))),
            Command::AttachTun(queue) => self.attach_tun(vec![queue]).map_err(|_| WorkerEnded),
            Command::DetachTun => self.detach_tun(),
            Command::Barrier(done) => self
                .handles
                .iter()
                .try_for_each(|worker| worker.send(Command::Barrier(done.clone()))),
            Command::Stop => self
                .handles
                .iter()
                .try_for_each(|worker| worker.send(Command::Stop)),
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

    fn to_halves(
        &self,
        handle: PeerHandle,
        command: impl Fn() -> Command,
    ) -> Result<(), WorkerEnded> {
        let Roles { send, receive } = self.roles_of(handle);
        self.handles[usize::from(receive)].send(command())?;
        if send != receive {
            self.handles[usize::from(send)].send(command())?;
        }
        Ok(())
    }

    fn roles_of(&self, handle: PeerHandle) -> Roles {
        let known = self.roles.get(&handle).copied();
        known.unwrap_or_else(|| roles(None, self.handles.len()))
    }

    /// The one that opens gets a handle for writing, the others one queue each as far as there are
    /// enough, beginning with the one that seals.
    fn share_queues(&self) -> Result<(), StartError> {
        let fail = |error| StartError::io("cannot share the TUN device between workers", error);
        let count = self.handles.len();
        let known = self.roles.values().next().copied();
        let Roles { send, receive } = known.unwrap_or_else(|| roles(None, count));
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
            let writes_only = count > 1 && worker == usize::from(receive);
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
fn roles(rx_peer_id: Option<u32>, workers: usize) -> Roles {
    let workers = workers.max(1);
    let receive = steering::worker_of(rx_peer_id, workers);
    Roles {
        send: ((receive + 1) % workers) as u16,
        receive: receive as u16,
    }
}

fn ended(_: WorkerEnded) -> StartError {
    let error = io::Error::from(io::ErrorKind::BrokenPipe);
    StartError::io("a worker has ended", error)
}
