//! What one worker hands to another: packets of sessions it does not hold, in batches.
//!
//! ```text
//!   worker 0                                    worker 1
//!   open batch --flush--> full (bounded) -----> drained before its own packets
//!              <--------- free           <----- given back empty
//! ```
//!
//! A lane has one producer and one consumer. It never holds more than [`BATCHES`] batches: when the
//! other worker has fallen behind, packets for it are dropped and counted, and nobody waits. All
//! packets of one flow take the same lane, so their order is kept.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use crossbeam::queue::ArrayQueue;
use nix::sys::eventfd::EventFd;

use crate::command::{Endpoint, PeerHandle};
use crate::peer::{EVERY_OTHER, Note};
use crate::pool::{RxMessage, SLOT_LEN, TunMessage};

/// Batches of a lane, made when first needed. A batch leaves at the end of its producer's turn, so
/// many may hold few packets; memory is touched only as far as they fill it.
pub(super) const BATCHES: usize = 64;

/// Bytes of a batch: two of the largest super-packets, or many small packets.
const BATCH_BYTES: usize = 2 * SLOT_LEN;

/// Messages of a batch, of each kind.
const MESSAGES: usize = 256;

/// Notes of a batch; more wait for the next one.
const NOTES: usize = 64;

/// Packets and notes on their way.
pub(super) struct Batch {
    /// What the messages point into.
    pub(super) bytes: Box<[u8]>,
    used: usize,
    /// Packets from TUN or from a peer, for the one who sends to their peers.
    pub(super) tun: Vec<TunMessage>,
    /// Single datagrams, for the one who receives from their peer.
    pub(super) rx: Vec<RxMessage>,
    /// About sessions whose halves the two workers hold.
    pub(super) notes: Vec<(PeerHandle, Note)>,
    /// Path MTUs that the kernel reported.
    pub(super) path_mtus: Vec<(IpAddr, u32)>,
}

/// One direction between two workers.
struct Lane {
    full: ArrayQueue<Box<Batch>>,
    free: ArrayQueue<Box<Batch>>,
}

/// How a worker is woken.
pub(super) struct Bell {
    asleep: AtomicBool,
    wake: Arc<EventFd>,
}

struct Outgoing {
    lane: Arc<Lane>,
    bell: Arc<Bell>,
    open: Option<Box<Batch>>,
    made: usize,
}

/// A worker's ends of all lanes it has.
pub(super) struct Handover {
    /// By worker; none to itself.
    outgoing: Vec<Option<Outgoing>>,
    incoming: Vec<Arc<Lane>>,
    bell: Arc<Bell>,
}

impl Batch {
    fn new() -> Box<Self> {
        Box::new(Batch {
            bytes: vec![0; BATCH_BYTES].into_boxed_slice(),
            used: 0,
            tun: Vec::with_capacity(MESSAGES),
            rx: Vec::with_capacity(MESSAGES),
            notes: Vec::with_capacity(NOTES),
            path_mtus: Vec::with_capacity(NOTES),
        })
    }

    fn clear(&mut self) {
        self.used = 0;
        self.tun.clear();
        self.rx.clear();
        self.notes.clear();
        self.path_mtus.clear();
    }

    fn has_room(&self, len: usize) -> bool {
        self.bytes.len() - self.used >= len && self.tun.len() < MESSAGES && self.rx.len() < MESSAGES
    }

    /// Copies `bytes` in; where they begin.
    fn append(&mut self, bytes: &[u8]) -> usize {
        let start = self.used;
        self.bytes[start..start + bytes.len()].copy_from_slice(bytes);
        // Neighbours keep off each other's cache lines.
        self.used = (start + bytes.len())
            .next_multiple_of(64)
            .min(self.bytes.len());
        start
    }
}

impl Bell {
    pub(super) fn new(wake: Arc<EventFd>) -> Arc<Self> {
        Arc::new(Bell {
            asleep: AtomicBool::new(false),
            wake,
        })
    }

    fn ring(&self) {
        // Pairs with the fence in `may_sleep`: either the sleeper sees the batch, or this sees the
        // sleeper.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed) {
            // The counter overflows only after 2^64 unread wake-ups.
            let _ = self.wake.write(1);
        }
    }
}

impl Handover {
    /// A worker without others.
    pub(super) fn alone(bell: Arc<Bell>) -> Self {
        Handover {
            outgoing: Vec::new(),
            incoming: Vec::new(),
            bell,
        }
    }

    /// The ends of all lanes between workers with these bells, in their order.
    pub(super) fn between(bells: &[Arc<Bell>]) -> Vec<Self> {
        let mut ends: Vec<Self> = bells
            .iter()
            .map(|bell| Handover::alone(Arc::clone(bell)))
            .collect();
        for from in 0..bells.len() {
            for (to, bell) in bells.iter().enumerate() {
                let outgoing = (from != to).then(|| {
                    let lane = Arc::new(Lane {
                        full: ArrayQueue::new(BATCHES),
                        free: ArrayQueue::new(BATCHES),
                    });
                    ends[to].incoming.push(Arc::clone(&lane));
                    Outgoing {
                        lane,
                        bell: Arc::clone(bell),
                        open: None,
                        made: 0,
                    }
                });
                ends[from].outgoing.push(outgoing);
            }
        }
        ends
    }

    /// Hands a packet or super-packet for peers to `worker`: `bytes` is all of `message`. False when
    /// that one has fallen behind.
    pub(super) fn tun(&mut self, worker: u16, bytes: &[u8], message: &TunMessage) -> bool {
        let Some(batch) = self.batch(worker, bytes.len()) else {
            return false;
        };
        let start = batch.append(bytes);
        batch.tun.push(TunMessage {
            start,
            len: bytes.len(),
            ..*message
        });
        true
    }

    /// The numbers of the other workers.
    pub(super) fn others(&self) -> impl Iterator<Item = u16> + use<> {
        let own = self.outgoing.iter().position(Option::is_none);
        // A group is far smaller than 2^16.
        (0..self.outgoing.len() as u16).filter(move |&worker| Some(usize::from(worker)) != own)
    }

    /// Hands a received datagram to `worker`. False when that one has fallen behind.
    pub(super) fn datagram(&mut self, worker: u16, bytes: &[u8], from: Endpoint) -> bool {
        let Some(batch) = self.batch(worker, bytes.len()) else {
            return false;
        };
        let start = batch.append(bytes);
        batch.rx.push(RxMessage {
            slot: 0,
            start,
            len: bytes.len(),
            gro_size: 0,
            from,
        });
        true
    }

    /// Tells `worker`, or [`EVERY_OTHER`], something about a session. False when there is no room now;
    /// some may have been told then.
    pub(super) fn note(&mut self, worker: u16, peer: PeerHandle, note: Note) -> bool {
        if worker == EVERY_OTHER {
            let untold = self
                .others()
                .filter(|&worker| !self.note(worker, peer, note));
            return untold.count() == 0;
        }
        let Some(batch) = self.batch(worker, 0) else {
            return false;
        };
        if batch.notes.len() == NOTES {
            return false;
        }
        batch.notes.push((peer, note));
        true
    }

    /// Tells all others of a path MTU, as far as there is room: the kernel reports again.
    pub(super) fn path_mtu(&mut self, address: IpAddr, mtu: u32) {
        for worker in 0..self.outgoing.len() {
            if let Some(batch) = self.batch(worker as u16, 0)
                && batch.path_mtus.len() < NOTES
            {
                batch.path_mtus.push((address, mtu));
            }
        }
    }

    /// Sends what was handed over in this batch on its way.
    pub(super) fn flush(&mut self) {
        for outgoing in self.outgoing.iter_mut().flatten() {
            outgoing.flush();
        }
    }

    /// How many workers have a lane to this one.
    pub(super) fn sources(&self) -> usize {
        self.incoming.len()
    }

    /// The next batch from the `source`th of them.
    pub(super) fn take(&self, source: usize) -> Option<Box<Batch>> {
        self.incoming.get(source)?.full.pop()
    }

    /// Gives a batch back that [`Handover::take`] gave.
    pub(super) fn give_back(&self, source: usize, mut batch: Box<Batch>) {
        batch.clear();
        if let Some(lane) = self.incoming.get(source) {
            // There are never more than fit in.
            let _ = lane.free.push(batch);
        }
    }

    /// Whether a batch is waiting for this worker.
    pub(super) fn has_work(&self) -> bool {
        self.incoming.iter().any(|lane| !lane.full.is_empty())
    }

    /// Says that this worker is about to sleep. False when something is waiting for it, so that it
    /// must not.
    pub(super) fn may_sleep(&self) -> bool {
        if self.incoming.is_empty() {
            return true;
        }
        self.bell.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let idle = !self.has_work();
        if !idle {
            self.awake();
        }
        idle
    }

    /// Says that it sleeps no more.
    pub(super) fn awake(&self) {
        self.bell.asleep.store(false, Ordering::Relaxed);
    }

    /// The open batch for `worker`, with room for so many bytes and one message more.
    fn batch(&mut self, worker: u16, len: usize) -> Option<&mut Batch> {
        let outgoing = self.outgoing.get_mut(usize::from(worker))?.as_mut()?;
        if outgoing
            .open
            .as_ref()
            .is_some_and(|open| !open.has_room(len))
        {
            outgoing.flush();
        }
        if outgoing.open.is_none() {
            outgoing.open = outgoing.empty();
        }
        outgoing
            .open
            .as_deref_mut()
            .filter(|open| open.has_room(len))
    }
}

impl Outgoing {
    fn empty(&mut self) -> Option<Box<Batch>> {
        let free = self.lane.free.pop();
        if free.is_none() && self.made < BATCHES {
            self.made += 1;
            return Some(Batch::new());
        }
        free
    }

    fn flush(&mut self) {
        let Some(batch) = self.open.take() else {
            return;
        };
        // There are never more than fit in.
        let _ = self.lane.full.push(batch);
        self.bell.ring();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::eventfd::EfdFlags;

    const PLAIN: TunMessage = TunMessage {
        start: 0,
        len: 0,
        vnet: false,
        from: None,
        vlan: 0,
    };

    fn pair() -> (Handover, Handover) {
        let bells: Vec<_> = (0..2)
            .map(|_| {
                let wake = EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK).unwrap();
                Bell::new(Arc::new(wake))
            })
            .collect();
        let mut ends = Handover::between(&bells).into_iter();
        (ends.next().unwrap(), ends.next().unwrap())
    }

    #[test]
    fn packets_arrive_in_order_and_batches_come_back() {
        let (mut a, b) = pair();
        let mut next = 0u32;
        for _ in 0..50 {
            for _ in 0..40 {
                assert!(a.tun(1, &next.to_be_bytes(), &PLAIN));
                next += 1;
            }
            a.flush();
            let mut got = next - 40;
            while let Some(batch) = b.take(0) {
                for message in &batch.tun {
                    let bytes = &batch.bytes[message.start..][..message.len];
                    assert_eq!(bytes, got.to_be_bytes());
                    got += 1;
                }
                b.give_back(0, batch);
            }
            assert_eq!(got, next);
        }
        assert!(a.outgoing[1].as_ref().unwrap().made <= 2);
    }

    #[test]
    fn a_worker_that_falls_behind_costs_packets_and_no_wait() {
        let (mut a, b) = pair();
        let packet = vec![7; 60_000];
        let taken = (0..200).filter(|_| a.tun(1, &packet, &PLAIN)).count();
        assert_eq!(taken, BATCHES * (BATCH_BYTES / 60_032));
        assert!(!a.note(1, PeerHandle(1), Note::Mss(1, 2)));
        a.flush();
        // Room again as soon as it has caught up a little.
        let batch = b.take(0).unwrap();
        b.give_back(0, batch);
        assert!(a.tun(1, &packet, &PLAIN));
    }

    #[test]
    fn a_sleeper_is_woken_once() {
        let (mut a, b) = pair();
        assert!(b.may_sleep());
        assert!(a.datagram(1, b"x", Endpoint::new("192.0.2.1:1".parse().unwrap())));
        a.flush();
        assert!(a.note(1, PeerHandle(1), Note::Epoch(0, 5)));
        a.flush();
        assert_eq!(b.bell.wake.read().unwrap(), 1);
        assert!(!b.may_sleep());
        let first = b.take(0).unwrap();
        assert_eq!((first.rx.len(), first.notes.len()), (1, 0));
        let second = b.take(0).unwrap();
        assert_eq!(second.notes, [(PeerHandle(1), Note::Epoch(0, 5))]);
        assert!(b.may_sleep());
        b.awake();
        assert!(b.bell.wake.read().is_err());
    }

    #[test]
    fn every_other_worker_is_told() {
        let bells: Vec<_> = (0..3)
            .map(|_| {
                let wake = EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK).unwrap();
                Bell::new(Arc::new(wake))
            })
            .collect();
        let mut ends = Handover::between(&bells);
        assert_eq!(ends[1].others().collect::<Vec<_>>(), [0, 2]);
        assert!(ends[1].note(EVERY_OTHER, PeerHandle(4), Note::Epoch(0, 1)));
        ends[1].flush();
        for (end, source) in [(0, 0), (2, 1)] {
            let batch = ends[end].take(source).unwrap();
            assert_eq!(batch.notes, [(PeerHandle(4), Note::Epoch(0, 1))]);
        }
        for _ in 0..BATCHES {
            ends[1].note(2, PeerHandle(4), Note::Epoch(0, 1));
            ends[1].flush();
        }
        // One that cannot be told does not keep the others from hearing it.
        assert!(!ends[1].note(EVERY_OTHER, PeerHandle(4), Note::Epoch(0, 2)));
        ends[1].flush();
        let batch = ends[0].take(0).unwrap();
        assert_eq!(batch.notes, [(PeerHandle(4), Note::Epoch(0, 2))]);
        let mut alone = Handover::alone(Arc::clone(&bells[0]));
        assert!(alone.note(EVERY_OTHER, PeerHandle(4), Note::Epoch(0, 1)));
    }

    #[test]
    fn nothing_goes_to_oneself_or_to_nobody() {
        let (mut a, _b) = pair();
        assert!(!a.tun(0, b"x", &PLAIN));
        assert!(!a.tun(2, b"x", &PLAIN));
        let wake = EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK).unwrap();
        let mut alone = Handover::alone(Bell::new(Arc::new(wake)));
        assert!(!alone.note(0, PeerHandle(0), Note::Mss(0, 0)));
        assert!(alone.may_sleep());
    }
}
