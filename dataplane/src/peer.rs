//! A peer of a worker: its keys, what was counted of it, and what is known of the path to it. The
//! module `table` has all of them and finds the one a packet belongs to.

mod table;

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;

use crate::command::{Endpoint, PeerConfig, PeerHandle, Roles};
use crate::forward::mac_table::Station;
use crate::forward::vlan;
use crate::fragment::{self, Cutter, Reassembler};
use crate::framing::Framing;
use crate::key_slot::{Halves, KeySlots};
use crate::pool::MAX_DATAGRAM;
use crate::stats::{KeyStats, add};

pub(crate) use self::table::PeerTable;

/// Seconds a learned path MTU is believed (the kernel's own `mtu_expires`).
const PATH_MTU_LIFETIME: u32 = 600;

/// Path MTUs below these are not believed (the kernel's own `min_pmtu`, and RFC 8200 §5): a forged
/// report must not be able to close the tunnel.
const MIN_PATH_MTU_V4: u32 = 552;
const MIN_PATH_MTU_V6: u32 = 1280;

/// Seconds between two log lines about one peer's path MTU.
const NOTICE_INTERVAL: u32 = 10;

/// In place of a worker's number: all others.
pub(crate) const EVERY_OTHER: u16 = u16::MAX;

/// Too-big hints to the inside in one second.
const HINTS_PER_SECOND: u32 = 32;

/// A peer and the data half of its session.
pub(crate) struct Peer {
    pub(crate) handle: PeerHandle,
    pub(crate) config: PeerConfig,
    pub(crate) keys: KeySlots,
    /// With `fragment`, where the sending half is.
    pub(crate) cutter: Option<Cutter>,
    /// With `fragment`, where the receiving half is.
    pub(crate) reassembler: Option<Box<Reassembler>>,
    /// Which halves of its session this worker holds.
    pub(crate) halves: Halves,
    /// The VLAN it is in.
    pub(crate) vlan: u16,
    /// Bytes and packets under each key_id since its key was installed.
    pub(crate) sent: [Totals; 8],
    pub(crate) received: [Totals; 8],
    /// Largest datagram that may be sent at all, in bytes of UDP payload.
    pub(crate) datagram_limit: usize,
    /// Largest datagram that may be part of a GSO send.
    pub(crate) gso_limit: usize,
    /// When both limits are forgotten, in the worker's seconds.
    limits_expire: u32,
    /// Counted since the last publication.
    pub(crate) sums: Sums,
    /// Bytes that may be in front of an inner IP packet.
    link: usize,
    /// Largest MSS allowed in a SYN: the configured one, or what the path carries if that is less.
    pub(crate) mss_v4: u16,
    pub(crate) mss_v6: u16,
    /// As the kernel reported it; 0: nothing known.
    path_mtu: u32,
    /// When the last log line about it was written.
    noticed: Option<u32>,
    hints: u32,
    hints_second: u32,
    /// The epoch last asked for, and of which key_id.
    epoch_change: Option<(u8, u16)>,
    told: Told,
    /// It was heard from a new endpoint, which the other workers must know.
    moved: bool,
    /// The second in which the control thread was last told of a conflict about an address.
    conflict: Option<u32>,
    /// In the table's list of those to publish.
    touched: bool,
    /// In the table's list of those with something that ends by time.
    timed: bool,
}

/// What a worker tells the one with the other half of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    /// Where the peer was heard.
    Endpoint(Endpoint),
    /// The sending half of this key_id is to move to this epoch.
    Epoch(u8, u16),
    /// Largest MSS for IPv4 and IPv6.
    Mss(u16, u16),
    /// A hardware address was heard behind it.
    Station(Station),
}

/// The last note of each kind.
#[derive(Default)]
struct Told {
    endpoint: Option<Note>,
    epoch: Option<Note>,
    mss: Option<Note>,
}

/// An empty one for packets as large as the configuration allows.
fn reassembler(config: &PeerConfig) -> Box<Reassembler> {
    let largest = config.fragment.map_or(0, |fragment| fragment.largest);
    Box::new(Reassembler::new(
        usize::from(largest) + config.framing.added(),
    ))
}

/// Bytes and packets.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) bytes: u64,
    pub(crate) packets: u64,
}

/// A batch's share of [`crate::stats::PeerStats`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sums {
    pub(crate) wire_tx: Totals,
    pub(crate) wire_rx: Totals,
    pub(crate) tun_rx_bytes: u64,
    pub(crate) tun_tx_bytes: u64,
}

impl Peer {
    fn new(handle: PeerHandle, config: PeerConfig, worker: u16) -> Self {
        let halves = halves(config.roles, worker);
        let sends = config.fragment.filter(|_| halves.send);
        let receives = config.fragment.filter(|_| halves.receive);
        Peer {
            handle,
            cutter: sends.map(Cutter::new),
            reassembler: receives.map(|_| reassembler(&config)),
            halves,
            vlan: vlan::NONE,
            mss_v4: config.mss_v4,
            mss_v6: config.mss_v6,
            config,
            keys: KeySlots::new(),
            sent: [Totals::default(); 8],
            received: [Totals::default(); 8],
            datagram_limit: MAX_DATAGRAM,
            gso_limit: MAX_DATAGRAM,
            limits_expire: 0,
            sums: Sums::default(),
            link: 0,
            path_mtu: 0,
            noticed: None,
            hints: 0,
            hints_second: 0,
            epoch_change: None,
            told: Told::default(),
            moved: false,
            conflict: None,
            touched: false,
            timed: false,
        }
    }

    /// Takes over a configuration with the same roles, and keeps what it does not change.
    fn reconfigure(&mut self, config: PeerConfig) {
        let kept = self.config.fragment == config.fragment
            && self.config.framing.added() == config.framing.added();
        self.config = config;
        self.keys
            .reconfigure(self.config.tx_peer_id, self.key_framing());
        if kept {
            return;
        }
        let fragment = self.config.fragment;
        self.cutter = match (fragment, self.cutter.take()) {
            (Some(fragment), Some(mut cutter)) => {
                cutter.reconfigure(fragment);
                Some(cutter)
            }
            (fragment, _) => fragment.filter(|_| self.halves.send).map(Cutter::new),
        };
        let receives = fragment.filter(|_| self.halves.receive);
        self.reassembler = receives.map(|_| reassembler(&self.config));
    }

    /// The framing that keys apply: with `fragment` none, because it comes before the cutting.
    pub(crate) fn key_framing(&self) -> Framing {
        match self.config.fragment {
            Some(_) => Framing::None,
            None => self.config.framing,
        }
    }

    /// The longest inner packet that leaves in one piece, in a datagram of at most `datagram` bytes; 0
    /// if there is none, or no key to send with.
    pub(crate) fn max_inner(&mut self, datagram: usize) -> usize {
        let most = self.keys.sender().map_or(0, |key| key.max_inner(datagram));
        match &self.cutter {
            None => most,
            Some(cutter) => most
                .saturating_sub(fragment::HEADER_LEN)
                .min(cutter.limit())
                .saturating_sub(self.config.framing.added()),
        }
    }

    /// Bytes of the outer IP and UDP headers.
    pub(crate) fn outer_headers(&self) -> usize {
        match self.config.endpoint.remote {
            SocketAddr::V4(_) => 20 + 8,
            SocketAddr::V6(_) => 40 + 8,
        }
    }

    /// Takes in a path MTU the kernel reported. Datagrams beyond it leave GSO, which does not
    /// fragment; where fragments are refused they cannot be sent at all. Returns it if it is news.
    fn set_path_mtu(&mut self, mtu: u32, refuses_fragments: bool, now: u32) -> Option<u32> {
        let mtu = mtu.max(match self.config.endpoint.remote {
            SocketAddr::V4(_) => MIN_PATH_MTU_V4,
            SocketAddr::V6(_) => MIN_PATH_MTU_V6,
        });
        let payload = mtu as usize - self.outer_headers();
        // Nothing reports that a path got wider, so a larger one is old or forged.
        if payload > MAX_DATAGRAM || (self.path_mtu != 0 && mtu > self.path_mtu) {
            return None;
        }
        self.limits_expire = now.saturating_add(PATH_MTU_LIFETIME);
        if mtu == self.path_mtu {
            return None;
        }
        self.path_mtu = mtu;
        self.gso_limit = payload;
        if refuses_fragments {
            self.datagram_limit = payload;
        }
        self.fit_mss();
        let quiet = self
            .noticed
            .is_some_and(|then| now.saturating_sub(then) < NOTICE_INTERVAL);
        if quiet {
            return None;
        }
        self.noticed = Some(now);
        Some(mtu)
    }

    /// Keeps datagrams of this size and above out of GSO for some time.
    pub(crate) fn limit_gso(&mut self, too_large: usize, now: u32, seconds: u32) {
        self.gso_limit = self.gso_limit.min(too_large.saturating_sub(1));
        self.limits_expire = self.limits_expire.max(now.saturating_add(seconds));
    }

    /// Whether the sender of a packet that the kernel will fragment may be told of the path MTU.
    pub(crate) fn may_hint(&mut self, now: u32) -> bool {
        if self.path_mtu == 0 {
            return false;
        }
        if self.hints_second != now {
            self.hints_second = now;
            self.hints = 0;
        }
        self.hints += 1;
        self.hints <= HINTS_PER_SECOND
    }

    /// Whether the control thread may be told that this peer is heard from another's address.
    pub(crate) fn may_report_conflict(&mut self, now: u32) -> bool {
        self.conflict.replace(now) != Some(now)
    }

    /// Makes the MSS limits, and the size of fragments, follow the configuration, the path and the
    /// sending key.
    pub(crate) fn fit_mss(&mut self) {
        (self.mss_v4, self.mss_v6) = (self.config.mss_v4, self.config.mss_v6);
        if let Some(cutter) = &mut self.cutter {
            cutter.fit(None);
        }
        if self.path_mtu == 0 || self.keys.sender().is_none() {
            return;
        }
        let datagram = self.path_mtu as usize - self.outer_headers();
        let inner = self.max_inner(datagram);
        if let Some(cutter) = &mut self.cutter {
            cutter.fit(Some(inner + self.config.framing.added()));
        }
        let inner = inner.saturating_sub(self.link);
        let fit = |mss: u16, headers: usize| {
            let room = u16::try_from(inner.saturating_sub(headers)).unwrap_or(u16::MAX);
            mss.min(room)
        };
        self.mss_v4 = fit(self.mss_v4, 20 + 20);
        self.mss_v6 = fit(self.mss_v6, 40 + 20);
    }

    /// Counts `packets` sealed datagrams of `bytes` in total under the sending key.
    pub(crate) fn count_sent(&mut self, bytes: usize, packets: usize) {
        let totals = Totals {
            bytes: bytes as u64,
            packets: packets as u64,
        };
        self.sums.wire_tx.add(totals);
        if let Some(key_id) = self.keys.sender_key_id() {
            self.sent[usize::from(key_id & 7)].add(totals);
        }
    }

    /// Counts one opened datagram.
    pub(crate) fn count_received(&mut self, bytes: usize, key_id: u8) {
        let totals = Totals {
            bytes: bytes as u64,
            packets: 1,
        };
        self.sums.wire_rx.add(totals);
        self.received[usize::from(key_id & 7)].add(totals);
    }

    /// A key was installed: what its key_id counted belonged to another one.
    pub(crate) fn start_counting(&mut self, key_id: u8) {
        self.sent[usize::from(key_id & 7)] = Totals::default();
        self.received[usize::from(key_id & 7)] = Totals::default();
    }

    /// Publishes what was counted and the state of the sending key's key_id. Where another worker
    /// holds the other half of the session, `tell` passes on what that one needs to know; false when
    /// it could not, and the next publication tries again.
    pub(crate) fn publish(&mut self, tell: &mut dyn FnMut(u16, PeerHandle, Note) -> bool) {
        let sums = std::mem::take(&mut self.sums);
        let stats = &self.config.stats;
        if self.halves.send {
            add(&stats.wire_tx_bytes, sums.wire_tx.bytes);
            add(&stats.wire_tx_packets, sums.wire_tx.packets);
            add(&stats.tun_rx_bytes, sums.tun_rx_bytes);
            stats.path_mtu.store(u64::from(self.path_mtu), Relaxed);
        }
        if self.halves.receive {
            add(&stats.wire_rx_bytes, sums.wire_rx.bytes);
            add(&stats.wire_rx_packets, sums.wire_rx.packets);
            add(&stats.tun_tx_bytes, sums.tun_tx_bytes);
        }
        self.publish_keys();
        let roles = self.config.roles;
        let mut news = |told: &mut Option<Note>, worker, note| {
            if *told != Some(note) && tell(worker, self.handle, note) {
                *told = Some(note);
            }
        };
        if self.halves.receive && !self.halves.send {
            let endpoint = Note::Endpoint(self.config.endpoint);
            news(&mut self.told.endpoint, roles.send, endpoint);
            if let Some((key_id, epoch)) = self.epoch_change {
                let change = Note::Epoch(key_id, epoch);
                news(&mut self.told.epoch, roles.send, change);
            }
        } else if self.halves.send && !self.halves.receive {
            let mss = Note::Mss(self.mss_v4, self.mss_v6);
            news(&mut self.told.mss, roles.receive, mss);
        }
        if self.moved
            && tell(
                EVERY_OTHER,
                self.handle,
                Note::Endpoint(self.config.endpoint),
            )
        {
            self.moved = false;
        }
    }

    /// Something of it ends by time.
    fn is_timed(&self) -> bool {
        self.limits_expire != 0 || !self.told.is_nothing()
    }

    fn publish_keys(&mut self) {
        let stats = &self.config.stats;
        let Some(key_id) = self.keys.sender_key_id() else {
            return;
        };
        let slot = usize::from(key_id & 7);
        if let Some(key) = self.keys.sender() {
            self.sent[slot].publish(&stats.key_tx, key.aead_usage());
            stats.key_tx_packets.store(key.packets(), Relaxed);
            stats.epoch.store(u64::from(key.epoch()), Relaxed);
        }
        let Some(key) = self.keys.receiver(key_id) else {
            return;
        };
        self.received[slot].publish(&stats.key_rx, key.aead_usage());
        stats.key_auth_failures.store(key.auth_failures(), Relaxed);
        if let Some(epoch) = key.wants_epoch() {
            self.follow_epoch(key_id, epoch);
        }
    }

    /// The sending half of this key is to move to `epoch`, here or where it is.
    pub(crate) fn follow_epoch(&mut self, key_id: u8, epoch: u16) {
        self.keys.advance_epoch(key_id, epoch);
        self.epoch_change = Some((key_id, epoch));
    }

    /// Takes in what the worker with the other half says.
    fn take_note(&mut self, note: Note) {
        match note {
            // The table's business, which finds peers by it.
            Note::Endpoint(_) | Note::Station(_) => {}
            Note::Epoch(key_id, epoch) => self.keys.advance_epoch(key_id, epoch),
            Note::Mss(v4, v6) => (self.mss_v4, self.mss_v6) = (v4, v6),
        }
    }

    fn forget_limits(&mut self) {
        self.datagram_limit = MAX_DATAGRAM;
        self.gso_limit = MAX_DATAGRAM;
        self.limits_expire = 0;
        self.path_mtu = 0;
        self.fit_mss();
    }
}

impl Told {
    fn is_nothing(&self) -> bool {
        self.endpoint.is_none() && self.epoch.is_none() && self.mss.is_none()
    }
}

/// What a worker holds of a session with these roles.
fn halves(roles: Roles, worker: u16) -> Halves {
    Halves {
        send: roles.send == worker,
        receive: roles.receive == worker,
    }
}

impl Totals {
    fn publish(self, stats: &KeyStats, aead_usage: u64) {
        stats.bytes.store(self.bytes, Relaxed);
        stats.packets.store(self.packets, Relaxed);
        stats.aead_usage.store(aead_usage, Relaxed);
    }

    fn add(&mut self, more: Totals) {
        self.bytes = self.bytes.wrapping_add(more.bytes);
        self.packets = self.packets.wrapping_add(more.packets);
    }
}
