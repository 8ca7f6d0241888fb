//! The reliability layer: order, acknowledgement and retransmission (protocol document §2.2).
//!
//! One [`ReliableSend`], [`ReliableRecv`] and [`AckQueue`] exist per key state and direction. They
//! hold packets *before* wrapping, because a retransmission keeps packet id, payload and opcode but
//! carries new acks and a new replay id. Nothing here knows TLS, keys or sockets, and time comes in.
//!
//! ```text
//!  TLS bytes -> push -> [ id 4 | id 5 | id 6 ] -> poll -> wrap -> wire        ack(id) empties a slot
//!  wire -> unwrap -> receive -> [ 9 | - | 11 ] -> next -> TLS                 AckQueue answers
//! ```

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::packet::{AckList, MAX_ACKS, Opcode};

/// Send window towards a peer that is not known to be 2.6 or later.
pub const SEND_WINDOW_OLD: usize = 4;
/// Send window towards a peer known to be 2.6 or later.
pub const SEND_WINDOW: usize = 6;
/// Receive window.
pub const RECV_WINDOW: usize = 12;
/// Acks put on a packet that carries something else.
pub const ACKS_PER_CONTROL: usize = 4;
/// Largest payload kept for reordering: the largest `max-packet-size` a peer can have, and some.
pub const MAX_PAYLOAD: usize = 2048 + 100;

/// Later packets acked before one is sent again without waiting for its timer.
const FAST_RETRANSMIT_ACKS: u8 = 3;
/// The retransmission timer stops doubling here, in units of `tls-timeout`. Stock peers never stop,
/// which leaves five tries within the usual 60 s of `hand-window`: with 20 % loss the slowest of 500
/// simulated handshakes then takes 254 s, with a limit of 4 it takes 46 s and with 2 it takes 26 s.
const MAX_BACKOFF: u32 = 2;

/// Packets sent and not acked yet.
#[derive(Debug)]
pub struct ReliableSend {
    /// Unacked packets, ids rising.
    slots: VecDeque<Sent>,
    next_id: u32,
    window: usize,
    tls_timeout: Duration,
    /// The latest time seen; what is due at once is due then.
    seen: Option<Instant>,
}

#[derive(Debug)]
struct Sent {
    id: u32,
    opcode: Opcode,
    payload: Vec<u8>,
    /// When to send; `None` is at once.
    due: Option<Instant>,
    /// Wait after the next transmission.
    timeout: Duration,
    transmitted: bool,
    later_acks: u8,
}

impl ReliableSend {
    /// An empty queue whose first packet has id 0. `window` is the largest distance between the
    /// oldest unacked id and a new one ([`SEND_WINDOW_OLD`] or [`SEND_WINDOW`]), `tls_timeout` the
    /// time to the first retransmission.
    pub fn new(window: usize, tls_timeout: Duration) -> Self {
        Self::starting_at(0, window, tls_timeout)
    }

    /// As [`ReliableSend::new`], with another first id: a server that answered statelessly has
    /// already used id 0 (protocol document §3).
    pub fn starting_at(id: u32, window: usize, tls_timeout: Duration) -> Self {
        ReliableSend {
            slots: VecDeque::with_capacity(window),
            next_id: id,
            window,
            tls_timeout,
            seen: None,
        }
    }

    /// Whether the window has room for another packet.
    pub fn can_send(&self) -> bool {
        self.slots
            .front()
            .is_none_or(|oldest| (self.next_id.wrapping_sub(oldest.id) as usize) < self.window)
    }

    /// Queues a packet and returns its id; `None`, and nothing queued, when the window is full.
    pub fn push(&mut self, opcode: Opcode, payload: Vec<u8>) -> Option<u32> {
        if !self.can_send() {
            return None;
        }
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        self.slots.push_back(Sent {
            id,
            opcode,
            payload,
            due: None,
            timeout: self.tls_timeout,
            transmitted: false,
            later_acks: 0,
        });
        Some(id)
    }

    /// The peer has received `id`. Returns whether it was outstanding; repeated acks and acks for
    /// ids never sent change nothing. The third new ack for later ids makes a packet due at once.
    pub fn ack(&mut self, id: u32) -> bool {
        let Some(at) = self
            .slots
            .iter()
            .position(|slot| slot.id == id && slot.transmitted)
        else {
            return false;
        };
        self.slots.remove(at);
        for earlier in self.slots.iter_mut().take(at) {
            earlier.later_acks = earlier.later_acks.saturating_add(1);
            if earlier.later_acks >= FAST_RETRANSMIT_ACKS && earlier.transmitted {
                earlier.later_acks = 0;
                earlier.due = None;
            }
        }
        true
    }

    /// Whether everything pushed has been acked.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Packets not acked yet.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// The next packet due at `now`, oldest first: opcode, packet id, payload. It counts as sent,
    /// and is due again after its timer, which then doubles. Call until `None`.
    pub fn poll(&mut self, now: Instant) -> Option<(Opcode, u32, &[u8])> {
        self.seen = Some(now);
        let slot = self
            .slots
            .iter_mut()
            .find(|slot| slot.due.is_none_or(|due| due <= now))?;
        slot.due = Some(now + slot.timeout);
        slot.timeout = (slot.timeout * 2).min(self.tls_timeout * MAX_BACKOFF);
        slot.transmitted = true;
        slot.later_acks = 0;
        Some((slot.opcode, slot.id, &slot.payload))
    }

    /// When [`ReliableSend::poll`] next has something; a time in the past when it has now. `None`
    /// when nothing is outstanding, and before the first poll.
    pub fn deadline(&self) -> Option<Instant> {
        self.slots
            .iter()
            .filter_map(|slot| slot.due.or(self.seen))
            .min()
    }

    /// Makes everything unacked due at `now`: the peer is evidently there (protocol document §2.4).
    pub fn resend_all_now(&mut self, now: Instant) {
        self.seen = Some(now);
        for slot in &mut self.slots {
            slot.due = None;
            slot.timeout = self.tls_timeout;
        }
    }
}

/// What became of a received packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecvOutcome {
    /// New and kept: ack it.
    Stored,
    /// Received before: ack it again, the first ack may be lost.
    Duplicate,
    /// Too far ahead, or too large to be kept: dropped, and must not be acked.
    OutOfWindow,
}

/// Packets received, brought into order.
#[derive(Debug)]
pub struct ReliableRecv {
    /// The id [`ReliableRecv::next`] waits for; `slots[0]` is for it.
    expected: u32,
    slots: VecDeque<Option<Vec<u8>>>,
    window: usize,
}

impl ReliableRecv {
    /// Expects id 0 first and keeps packets up to `window` ids ahead ([`RECV_WINDOW`]).
    pub fn new(window: usize) -> Self {
        Self::starting_at(0, window)
    }

    /// As [`ReliableRecv::new`], with another first id.
    pub fn starting_at(id: u32, window: usize) -> Self {
        ReliableRecv {
            expected: id,
            slots: VecDeque::with_capacity(window),
            window,
        }
    }

    /// Takes the payload of an authenticated packet.
    pub fn receive(&mut self, id: u32, payload: &[u8]) -> RecvOutcome {
        let ahead = id.wrapping_sub(self.expected);
        if ahead > u32::MAX / 2 {
            return RecvOutcome::Duplicate;
        }
        let ahead = ahead as usize;
        if ahead >= self.window || payload.len() > MAX_PAYLOAD {
            return RecvOutcome::OutOfWindow;
        }
        if ahead >= self.slots.len() {
            self.slots.resize_with(ahead + 1, || None);
        }
        match &mut self.slots[ahead] {
            Some(_) => RecvOutcome::Duplicate,
            empty => {
                *empty = Some(payload.to_vec());
                RecvOutcome::Stored
            }
        }
    }

    /// The next payload in order, if it is there. A reset's payload is empty.
    #[expect(
        clippy::should_implement_trait,
        reason = "unlike an iterator it yields again after None"
    )]
    pub fn next(&mut self) -> Option<Vec<u8>> {
        let payload = self.slots.front_mut()?.take()?;
        self.slots.pop_front();
        self.expected = self.expected.wrapping_add(1);
        Some(payload)
    }

    /// The id [`ReliableRecv::next`] waits for.
    pub fn expected(&self) -> u32 {
        self.expected
    }
}

/// Ids to acknowledge.
///
/// Every array of acks is filled up with the ids acked most recently, so that a lost ack costs no
/// retransmission (2.6 does the same; older peers ignore acks they know).
#[derive(Debug, Default)]
pub struct AckQueue {
    /// Not sent yet, oldest first.
    pending: VecDeque<u32>,
    /// Sent before, the most recent first.
    recent: arrayvec::ArrayVec<u32, MAX_ACKS>,
}

impl AckQueue {
    /// Nothing to acknowledge.
    pub fn new() -> Self {
        Self::default()
    }

    /// Acknowledge `id` with the next packet.
    pub fn add(&mut self, id: u32) {
        if self.pending.contains(&id) {
            return;
        }
        if self.pending.len() >= RECV_WINDOW {
            // Only a peer that ignores our window gets here; it will send the packet again.
            self.pending.pop_front();
        }
        self.pending.push_back(id);
    }

    /// The acks for one packet, at most `max` (and 8): pending ones, then repetitions.
    pub fn take(&mut self, max: usize) -> AckList {
        let max = max.min(MAX_ACKS);
        let mut acks = AckList::new();
        let mut repeated = self.recent.clone();
        for _ in 0..self.pending.len().min(max) {
            let Some(id) = self.pending.pop_front() else {
                break;
            };
            acks.push(id);
            self.recent.retain(|recent| *recent != id);
            repeated.retain(|recent| *recent != id);
            if self.recent.is_full() {
                self.recent.pop();
            }
            self.recent.insert(0, id);
        }
        repeated.truncate(max - acks.len());
        acks.extend(repeated);
        acks
    }

    /// Whether an id waits for its first acknowledgement.
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    const TIMEOUT: Duration = Duration::from_secs(2);

    fn poll_ids(send: &mut ReliableSend, now: Instant) -> Vec<u32> {
        std::iter::from_fn(|| send.poll(now).map(|(_, id, _)| id)).collect()
    }

    #[test]
    fn window_counts_from_the_oldest_unacked_id() {
        let now = Instant::now();
        let mut send = ReliableSend::new(4, TIMEOUT);
        for id in 0..4 {
            assert_eq!(send.push(Opcode::ControlV1, vec![]), Some(id));
        }
        assert_eq!(send.push(Opcode::ControlV1, vec![]), None);
        assert_eq!(poll_ids(&mut send, now), [0, 1, 2, 3]);
        assert!(send.ack(2));
        assert!(!send.can_send(), "id 0 is still outstanding");
        assert!(send.ack(0));
        assert!(send.can_send());
        assert_eq!(send.push(Opcode::ControlV1, vec![]), Some(4));
        assert!(!send.can_send(), "1..=4 is a full window again");
    }

    #[test]
    fn timer_doubles_up_to_its_cap() {
        let start = Instant::now();
        let mut send = ReliableSend::new(4, TIMEOUT);
        assert_eq!(send.deadline(), None);
        send.push(Opcode::HardResetClientV2, vec![]);
        assert_eq!(poll_ids(&mut send, start), [0]);
        let mut at = start;
        for wait in [2, 4, 4, 4] {
            let due = at + Duration::from_secs(wait);
            assert_eq!(send.deadline(), Some(due));
            assert_eq!(
                poll_ids(&mut send, due - Duration::from_millis(1)),
                [0u32; 0]
            );
            assert_eq!(poll_ids(&mut send, due), [0]);
            at = due;
        }
        assert!(send.ack(0));
        assert!(!send.ack(0), "acked twice");
        assert_eq!(send.deadline(), None);
        assert!(send.is_empty());
    }

    #[test]
    fn third_later_ack_retransmits() {
        let now = Instant::now();
        let mut send = ReliableSend::new(6, TIMEOUT);
        for _ in 0..6 {
            send.push(Opcode::ControlV1, vec![]);
        }
        poll_ids(&mut send, now);
        for id in [1, 2] {
            assert!(send.ack(id));
        }
        assert!(!send.ack(2), "a repeated ack does not count");
        assert_eq!(poll_ids(&mut send, now), [0u32; 0]);
        assert!(send.ack(3));
        assert_eq!(send.deadline(), Some(now));
        assert_eq!(poll_ids(&mut send, now), [0]);
        assert!(send.ack(4) && send.ack(5));
        assert_eq!(poll_ids(&mut send, now), [0u32; 0], "counting starts again");
    }

    #[test]
    fn acks_for_what_was_never_sent_change_nothing() {
        let mut send = ReliableSend::new(4, TIMEOUT);
        send.push(Opcode::ControlV1, vec![1]);
        assert!(!send.ack(0), "queued, but not on the wire yet");
        assert!(!send.ack(17));
        assert!(!send.is_empty());
    }

    #[test]
    fn resend_all_now_sends_all_in_order_and_resets_timers() {
        let now = Instant::now();
        let mut send = ReliableSend::new(4, TIMEOUT);
        for _ in 0..3 {
            send.push(Opcode::ControlV1, vec![]);
        }
        poll_ids(&mut send, now);
        let later = now + Duration::from_secs(1);
        send.resend_all_now(later);
        assert_eq!(send.deadline(), Some(later));
        assert_eq!(poll_ids(&mut send, later), [0, 1, 2]);
        assert_eq!(send.deadline(), Some(later + TIMEOUT));
    }

    #[test]
    fn ids_wrap() {
        let now = Instant::now();
        let mut send = ReliableSend::starting_at(u32::MAX - 1, 4, TIMEOUT);
        let mut recv = ReliableRecv::starting_at(u32::MAX - 1, 12);
        for byte in 0..4 {
            send.push(Opcode::ControlV1, vec![byte]);
        }
        let ids = poll_ids(&mut send, now);
        assert_eq!(ids, [u32::MAX - 1, u32::MAX, 0, 1]);
        assert_eq!(send.push(Opcode::ControlV1, vec![]), None);
        for (&id, byte) in ids.iter().zip(0..4).rev() {
            assert_eq!(recv.receive(id, &[byte]), RecvOutcome::Stored);
            assert!(send.ack(id));
        }
        let bytes: Vec<u8> = std::iter::from_fn(|| recv.next()).flatten().collect();
        assert_eq!(bytes, [0, 1, 2, 3]);
        assert!(send.is_empty());
    }

    #[test]
    fn receive_window() {
        let mut recv = ReliableRecv::new(12);
        assert_eq!(recv.receive(12, b"x"), RecvOutcome::OutOfWindow);
        assert_eq!(recv.receive(11, b"last"), RecvOutcome::Stored);
        assert_eq!(recv.receive(11, b"other"), RecvOutcome::Duplicate);
        assert_eq!(recv.next(), None);
        assert_eq!(recv.receive(0, b"first"), RecvOutcome::Stored);
        assert_eq!(recv.next().as_deref(), Some(&b"first"[..]));
        assert_eq!(recv.next(), None, "1 is missing");
        assert_eq!(recv.receive(0, b"first"), RecvOutcome::Duplicate);
        assert_eq!(recv.receive(u32::MAX, b"old"), RecvOutcome::Duplicate);
        assert_eq!(recv.receive(12, b"x"), RecvOutcome::Stored);
        let huge = vec![0; MAX_PAYLOAD + 1];
        assert_eq!(recv.receive(1, &huge), RecvOutcome::OutOfWindow);
        assert_eq!(recv.receive(1, &huge[1..]), RecvOutcome::Stored);
    }

    #[test]
    fn acks_repeat_the_most_recent() {
        let mut acks = AckQueue::new();
        assert!(acks.take(8).is_empty());
        for id in 0..3 {
            acks.add(id);
            acks.add(id);
        }
        assert!(acks.has_pending());
        assert_eq!(acks.take(2).as_slice(), [0, 1]);
        assert_eq!(acks.take(4).as_slice(), [2, 1, 0], "pending, then newest");
        assert!(!acks.has_pending());
        assert_eq!(acks.take(4).as_slice(), [2, 1, 0], "repeated");
        acks.add(0);
        assert_eq!(
            acks.take(2).as_slice(),
            [0, 2],
            "acked again moves to front"
        );
        for id in 3..10 {
            acks.add(id);
        }
        assert_eq!(acks.take(8).as_slice(), [3, 4, 5, 6, 7, 8, 9, 0]);
        assert_eq!(acks.take(100).as_slice(), [9, 8, 7, 6, 5, 4, 3, 0]);
    }

    #[test]
    fn ack_queue_is_bounded() {
        let mut acks = AckQueue::new();
        for id in 0..1000 {
            acks.add(id);
        }
        assert_eq!(acks.pending.len(), RECV_WINDOW);
    }

    /// One side of a simulated link.
    struct Side {
        send: ReliableSend,
        recv: ReliableRecv,
        acks: AckQueue,
        to_send: VecDeque<Vec<u8>>,
        received: Vec<u8>,
    }

    struct Flying {
        at: Instant,
        to: usize,
        id: Option<u32>,
        acks: AckList,
        payload: Vec<u8>,
    }

    impl Side {
        fn new(window: usize, chunks: u8) -> Self {
            Side {
                send: ReliableSend::new(window, TIMEOUT),
                recv: ReliableRecv::new(RECV_WINDOW),
                acks: AckQueue::new(),
                to_send: (0..chunks).map(|n| vec![n; 3]).collect(),
                received: Vec::new(),
            }
        }

        /// Everything this side has to say at `now`.
        fn transmit(&mut self, now: Instant) -> Vec<(Option<u32>, AckList, Vec<u8>)> {
            while self.send.can_send()
                && let Some(chunk) = self.to_send.pop_front()
            {
                self.send.push(Opcode::ControlV1, chunk);
            }
            let mut out = Vec::new();
            while let Some((_, id, payload)) = self.send.poll(now) {
                let payload = payload.to_vec();
                out.push((Some(id), self.acks.take(ACKS_PER_CONTROL), payload));
            }
            while self.acks.has_pending() {
                out.push((None, self.acks.take(MAX_ACKS), Vec::new()));
            }
            out
        }
    }

    /// Both sides send `chunks` payloads over a link that loses, duplicates and reorders; returns
    /// how long that took.
    fn simulate(seed: u64, loss: f64, reorder: f64, windows: [usize; 2]) -> Duration {
        simulate_chunks(seed, loss, reorder, windows, 40)
    }

    fn simulate_chunks(
        seed: u64,
        loss: f64,
        reorder: f64,
        windows: [usize; 2],
        chunks: u8,
    ) -> Duration {
        let mut rng = StdRng::seed_from_u64(seed);
        let start = Instant::now();
        let mut now = start;
        let mut sides = windows.map(|window| Side::new(window, chunks));
        let mut wire: Vec<Flying> = Vec::new();
        loop {
            for (from, side) in sides.iter_mut().enumerate() {
                for (id, acks, payload) in side.transmit(now) {
                    let copies = if rng.random_bool(0.05) { 2 } else { 1 };
                    for _ in 0..copies {
                        if rng.random_bool(loss) {
                            continue;
                        }
                        let held = if rng.random_bool(reorder) { 30 } else { 0 };
                        wire.push(Flying {
                            at: now + Duration::from_millis(20 + held + rng.random_range(0..3)),
                            to: 1 - from,
                            id,
                            acks: acks.clone(),
                            payload: payload.clone(),
                        });
                    }
                }
            }
            let done = sides
                .iter()
                .all(|side| side.send.is_empty() && side.to_send.is_empty());
            if done && wire.is_empty() {
                break;
            }
            let next = wire
                .iter()
                .map(|packet| packet.at)
                .chain(sides.iter().filter_map(|side| side.send.deadline()))
                .min()
                .expect("something is outstanding");
            assert!(next > now, "the link makes progress");
            now = next;
            assert!(now - start < Duration::from_secs(3600), "seed {seed} hangs");
            let (arrived, flying) = wire.into_iter().partition(|packet| packet.at <= now);
            wire = flying;
            let arrived: Vec<Flying> = arrived;
            for packet in arrived {
                let side = &mut sides[packet.to];
                for ack in packet.acks {
                    side.send.ack(ack);
                }
                if let Some(id) = packet.id {
                    match side.recv.receive(id, &packet.payload) {
                        RecvOutcome::Stored | RecvOutcome::Duplicate => side.acks.add(id),
                        RecvOutcome::OutOfWindow => panic!("both keep to their windows"),
                    }
                }
                while let Some(payload) = side.recv.next() {
                    side.received.extend(payload);
                }
            }
        }
        let expected: Vec<u8> = (0..chunks).flat_map(|n| [n; 3]).collect();
        for side in &sides {
            assert_eq!(side.received, expected, "seed {seed}");
        }
        now - start
    }

    #[test]
    fn bad_links_deliver_everything_in_order() {
        for seed in 0..300 {
            let (loss, reorder) =
                [(0.0, 0.3), (0.05, 0.0), (0.2, 0.3), (0.5, 0.3)][seed as usize % 4];
            simulate(seed, loss, reorder, [SEND_WINDOW, SEND_WINDOW_OLD]);
        }
    }

    #[test]
    fn moderate_loss_stays_far_below_the_hand_window() {
        let slowest = (0..200)
            .map(|seed| simulate(seed, 0.05, 0.3, [SEND_WINDOW; 2]))
            .max()
            .expect("not empty");
        assert!(slowest < Duration::from_secs(30), "{slowest:?}");
    }

    #[test]
    fn heavy_loss_leaves_a_handshake_inside_the_hand_window() {
        // Five packets each way are a full handshake.
        let slowest = (0..500)
            .map(|seed| simulate_chunks(seed, 0.2, 0.3, [SEND_WINDOW_OLD; 2], 5))
            .max()
            .expect("not empty");
        assert!(slowest < Duration::from_secs(40), "{slowest:?}");
    }

    #[test]
    fn a_clean_link_never_waits_for_a_timer() {
        let time = simulate(1, 0.0, 0.0, [SEND_WINDOW; 2]);
        assert!(time < TIMEOUT, "{time:?}");
    }
}
