//! The peers of a worker: which one a datagram or an inner packet belongs to, and what is known of
//! the path to each.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering::Relaxed;

use crate::command::{Endpoint, PeerConfig, PeerHandle, Roles};
use crate::frame;
use crate::key_slot::{Halves, KeySlots};
use crate::pool::MAX_DATAGRAM;
use crate::stats::{KeyStats, add};
use crate::tun::DeviceKind;

/// Seconds a learned path MTU is believed (the kernel's own `mtu_expires`).
const PATH_MTU_LIFETIME: u32 = 600;

/// Path MTUs below these are not believed (the kernel's own `min_pmtu`, and RFC 8200 §5): a forged
/// report must not be able to close the tunnel.
const MIN_PATH_MTU_V4: u32 = 552;
const MIN_PATH_MTU_V6: u32 = 1280;

/// Seconds between two log lines about one peer's path MTU.
const NOTICE_INTERVAL: u32 = 10;

/// Too-big hints to the inside in one second.
const HINTS_PER_SECOND: u32 = 32;

/// A peer and the data half of its session.
pub(crate) struct Peer {
    pub(crate) handle: PeerHandle,
    pub(crate) config: PeerConfig,
    pub(crate) keys: KeySlots,
    /// Which halves of its session this worker holds.
    pub(crate) halves: Halves,
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
    /// In the table's list of those to publish.
    touched: bool,
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
}

/// The last note of each kind.
#[derive(Default)]
struct Told {
    endpoint: Option<Note>,
    epoch: Option<Note>,
    mss: Option<Note>,
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
        Peer {
            handle,
            halves: halves(config.roles, worker),
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
            touched: false,
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

    /// Makes the MSS limits follow the configuration, the path and the sending key.
    pub(crate) fn fit_mss(&mut self) {
        (self.mss_v4, self.mss_v6) = (self.config.mss_v4, self.config.mss_v6);
        if self.path_mtu == 0 {
            return;
        }
        let datagram = self.path_mtu as usize - self.outer_headers();
        let Some(key) = self.keys.sender() else {
            return;
        };
        let inner = key.max_inner(datagram).saturating_sub(self.link);
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
            Note::Endpoint(_) => {}
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

/// All peers. An index stays valid until its peer is removed, which happens only between batches.
#[derive(Default)]
pub(crate) struct PeerTable {
    /// The number of the worker whose table this is.
    worker: u16,
    slots: Vec<Option<Box<Peer>>>,
    by_handle: HashMap<PeerHandle, usize>,
    by_address: HashMap<SocketAddr, usize>,
    by_peer_id: HashMap<u32, usize>,
    /// Peers that something was asked of since the last publication. Sized when a peer is added.
    touched: Vec<usize>,
    /// The peer, when there is exactly one.
    only: Option<usize>,
    /// Bytes that may be in front of an inner IP packet.
    link: usize,
}

impl PeerTable {
    /// The table of this worker.
    pub(crate) fn new(worker: u16) -> Self {
        PeerTable {
            worker,
            ..PeerTable::default()
        }
    }

    /// Says what the device carries.
    pub(crate) fn set_kind(&mut self, kind: DeviceKind) {
        self.link = match kind {
            DeviceKind::Tun => 0,
            // A tag is the most there can be.
            DeviceKind::Tap => frame::MAX_LINK,
        };
        for peer in self.slots.iter_mut().flatten() {
            peer.link = self.link;
            peer.fit_mss();
        }
    }

    /// Adds a peer, or gives a known one a new configuration.
    pub(crate) fn set(&mut self, handle: PeerHandle, config: PeerConfig) {
        if let Some(&index) = self.by_handle.get(&handle) {
            self.unindex(index);
            if let Some(peer) = &mut self.slots[index] {
                if peer.config.endpoint.remote != config.endpoint.remote {
                    peer.forget_limits();
                }
                peer.keys.reconfigure(config.tx_peer_id, config.framing);
                let roles = peer.config.roles;
                peer.config = config;
                // Halves do not move between workers while there are keys.
                peer.config.roles = roles;
                peer.told = Told::default();
                peer.fit_mss();
            }
            self.index(index);
            return;
        }
        let mut peer = Box::new(Peer::new(handle, config, self.worker));
        peer.link = self.link;
        let peer = Some(peer);
        let index = match self.slots.iter().position(Option::is_none) {
            Some(index) => {
                self.slots[index] = peer;
                index
            }
            None => {
                self.slots.push(peer);
                self.slots.len() - 1
            }
        };
        self.touched.reserve(self.slots.len());
        self.by_handle.insert(handle, index);
        self.index(index);
    }

    pub(crate) fn remove(&mut self, handle: PeerHandle) {
        if let Some(index) = self.by_handle.remove(&handle) {
            self.unindex(index);
            self.slots[index] = None;
            self.find_only();
        }
    }

    pub(crate) fn by_handle(&mut self, handle: PeerHandle) -> Option<&mut Peer> {
        let index = *self.by_handle.get(&handle)?;
        self.get(index)
    }

    pub(crate) fn index_of(&self, handle: PeerHandle) -> Option<usize> {
        self.by_handle.get(&handle).copied()
    }

    /// The peer in this slot, which is published after the batch.
    #[inline]
    pub(crate) fn get(&mut self, index: usize) -> Option<&mut Peer> {
        let peer = self.slots.get_mut(index)?.as_deref_mut()?;
        if !std::mem::replace(&mut peer.touched, true) {
            self.touched.push(index);
        }
        Some(peer)
    }

    /// Publishes the counters of the peers that anything was done with, and passes on with `tell`
    /// what other workers must know of them.
    pub(crate) fn publish(&mut self, tell: &mut dyn FnMut(u16, PeerHandle, Note) -> bool) {
        for index in self.touched.drain(..) {
            if let Some(Some(peer)) = self.slots.get_mut(index) {
                peer.touched = false;
                peer.publish(tell);
            }
        }
    }

    /// Takes in what another worker says of a session whose other half it holds.
    pub(crate) fn take_note(&mut self, handle: PeerHandle, note: Note) {
        let Some(index) = self.index_of(handle) else {
            return;
        };
        match note {
            Note::Endpoint(endpoint) => self.move_endpoint(index, endpoint),
            note => {
                if let Some(peer) = self.get(index) {
                    peer.take_note(note);
                }
            }
        }
    }

    /// Takes in a path MTU for all peers at this address. Returns it if that is worth a log line.
    pub(crate) fn set_path_mtu(
        &mut self,
        address: IpAddr,
        mtu: u32,
        refuses_fragments: bool,
        now: u32,
    ) -> Option<u32> {
        let mut news = None;
        for index in 0..self.slots.len() {
            let at_address = self.slots[index].as_ref().is_some_and(|peer| {
                peer.halves.send && peer.config.endpoint.remote.ip() == address
            });
            if at_address && let Some(peer) = self.get(index) {
                news = peer.set_path_mtu(mtu, refuses_fragments, now).or(news);
            }
        }
        news
    }

    /// Forgets limits whose time has passed, and what other workers were told: a command from the
    /// control thread may have crossed it.
    pub(crate) fn expire_limits(&mut self, now: u32) {
        for index in 0..self.slots.len() {
            if let Some(Some(peer)) = self.slots.get_mut(index) {
                peer.told = Told::default();
            }
            let expired = self.slots[index]
                .as_ref()
                .is_some_and(|peer| peer.limits_expire != 0 && now >= peer.limits_expire);
            if expired && let Some(peer) = self.get(index) {
                peer.forget_limits();
            }
        }
    }

    /// The peer a received data packet may belong to. Whether it may come from this address is for
    /// the caller to check.
    #[inline]
    pub(crate) fn find(&self, peer_id: Option<u32>, from: &SocketAddr) -> Option<usize> {
        if self.only.is_some() {
            return self.only;
        }
        if let Some(index) = peer_id.and_then(|id| self.by_peer_id.get(&id)) {
            return Some(*index);
        }
        self.by_address(from)
    }

    pub(crate) fn by_address(&self, from: &SocketAddr) -> Option<usize> {
        self.by_address.get(from).copied()
    }

    /// The peer an inner packet from the TUN device goes to: the only one there is.
    #[inline]
    pub(crate) fn route(&self, _packet: &[u8]) -> Option<usize> {
        self.only
    }

    /// A peer was heard, authenticated, from a new endpoint.
    pub(crate) fn move_endpoint(&mut self, index: usize, to: Endpoint) {
        self.unindex(index);
        if let Some(peer) = self.get(index) {
            let moved = peer.config.endpoint.remote != to.remote;
            peer.config.endpoint = to;
            if moved {
                peer.forget_limits();
            }
        }
        self.index(index);
    }

    fn index(&mut self, index: usize) {
        if let Some(Some(peer)) = self.slots.get(index) {
            self.by_address.insert(peer.config.endpoint.remote, index);
            if let Some(id) = peer.config.rx_peer_id {
                self.by_peer_id.insert(id, index);
            }
        }
        self.find_only();
    }

    fn unindex(&mut self, index: usize) {
        if let Some(Some(peer)) = self.slots.get(index) {
            let remote = &peer.config.endpoint.remote;
            if self.by_address.get(remote) == Some(&index) {
                self.by_address.remove(remote);
            }
            if let Some(id) = peer.config.rx_peer_id
                && self.by_peer_id.get(&id) == Some(&index)
            {
                self.by_peer_id.remove(&id);
            }
        }
    }

    fn find_only(&mut self) {
        self.only = match self.by_handle.len() {
            1 => self.by_handle.values().next().copied(),
            _ => None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framing::Framing;
    use crate::key_slot::Cipher;
    use crate::worker::testing::key_pair;
    use std::sync::Arc;

    fn config(remote: &str, rx_peer_id: Option<u32>) -> PeerConfig {
        PeerConfig {
            endpoint: Endpoint::new(remote.parse().unwrap()),
            float: false,
            tx_peer_id: None,
            rx_peer_id,
            framing: Framing::None,
            mss_v4: 0,
            mss_v6: 0,
            segment_to: 0,
            replay_window: 64,
            replay_time: 15,
            passtos: false,
            guard_recursion: false,
            block_ipv6: false,
            roles: Roles::default(),
            stats: Arc::default(),
        }
    }

    #[test]
    fn one_peer_gets_everything_and_two_are_told_apart() {
        let mut table = PeerTable::default();
        let stranger: SocketAddr = "192.0.2.99:1".parse().unwrap();
        assert_eq!(table.find(None, &stranger), None);
        table.set(PeerHandle(1), config("192.0.2.1:1194", None));
        assert_eq!(table.find(Some(7), &stranger), Some(0));
        assert_eq!(table.route(&[]), Some(0));
        table.set(PeerHandle(2), config("192.0.2.2:1194", Some(7)));
        assert_eq!(table.find(Some(7), &stranger), Some(1));
        assert_eq!(table.find(Some(8), &stranger), None);
        let first: SocketAddr = "192.0.2.1:1194".parse().unwrap();
        assert_eq!(table.find(Some(8), &first), Some(0));
        assert_eq!(table.route(&[]), None);
        table.remove(PeerHandle(1));
        assert_eq!(table.find(None, &first), Some(1));
    }

    #[test]
    fn a_moved_peer_is_found_at_its_new_address_only() {
        let mut table = PeerTable::default();
        table.set(PeerHandle(1), config("192.0.2.1:1194", None));
        table.set(PeerHandle(2), config("192.0.2.2:1194", None));
        let to = Endpoint::new("198.51.100.1:5".parse().unwrap());
        table.move_endpoint(0, to);
        assert_eq!(table.by_address(&to.remote), Some(0));
        assert_eq!(table.by_address(&"192.0.2.1:1194".parse().unwrap()), None);
        // A peer that took over another's address keeps it when the other goes.
        table.move_endpoint(1, to);
        table.remove(PeerHandle(1));
        assert_eq!(table.by_address(&to.remote), Some(1));
    }

    #[test]
    fn path_limits_are_learned_and_forgotten() {
        let mut table = PeerTable::default();
        table.set(PeerHandle(1), config("192.0.2.1:1194", None));
        let ip = "192.0.2.1".parse().unwrap();
        let limits = |table: &mut PeerTable| {
            let peer = table.get(0).unwrap();
            (peer.datagram_limit, peer.gso_limit)
        };
        assert_eq!(table.set_path_mtu(ip, 1400, false, 5), Some(1400));
        assert_eq!(limits(&mut table), (MAX_DATAGRAM, 1372));
        // No second line so soon, and none about another address or a wider path.
        assert_eq!(table.set_path_mtu(ip, 1300, true, 6), None);
        let other = "192.0.2.2".parse().unwrap();
        assert_eq!(table.set_path_mtu(other, 1200, true, 99), None);
        assert_eq!(table.set_path_mtu(ip, 1400, true, 99), None);
        assert_eq!(limits(&mut table), (1272, 1272));
        table.expire_limits(605);
        assert_eq!(limits(&mut table), (1272, 1272));
        table.expire_limits(606);
        assert_eq!(limits(&mut table), (MAX_DATAGRAM, MAX_DATAGRAM));
    }

    #[test]
    fn a_forged_path_mtu_leaves_room_to_work() {
        for (remote, mtu, payload) in [
            ("192.0.2.1:1194", 552, 524),
            ("[2001:db8::1]:1194", 1280, 1232),
        ] {
            let remote: SocketAddr = remote.parse().unwrap();
            let mut table = PeerTable::default();
            table.set(PeerHandle(1), config(&remote.to_string(), None));
            assert_eq!(table.set_path_mtu(remote.ip(), 0, true, 5), Some(mtu));
            assert_eq!(table.get(0).unwrap().datagram_limit, payload);
        }
    }

    #[test]
    fn a_narrow_path_lowers_the_mss_until_it_is_forgotten() {
        let (keys, _) = key_pair(Cipher::Aes256Gcm);
        let mut table = PeerTable::default();
        let mut wide = config("192.0.2.1:1194", None);
        (wide.mss_v4, wide.mss_v6) = (1400, 0);
        table.set(PeerHandle(1), wide);
        let peer = table.get(0).unwrap();
        peer.keys
            .install(0, &keys, Halves::BOTH, Some(1), Framing::None, (64, 15))
            .unwrap();
        peer.keys.use_key(0);
        table.set_path_mtu("192.0.2.1".parse().unwrap(), 1300, false, 5);
        let peer = table.get(0).unwrap();
        // 1300 less IP, UDP and sealing, less the inner IP and TCP headers; `mssfix 0` stays off.
        assert_eq!((peer.mss_v4, peer.mss_v6), (1300 - 28 - 24 - 40, 0));
        table.move_endpoint(0, Endpoint::new("192.0.2.7:1".parse().unwrap()));
        assert_eq!(table.get(0).unwrap().mss_v4, 1400);
    }

    #[test]
    fn only_peers_that_did_something_are_published() {
        let mut table = PeerTable::default();
        for i in 0..3u32 {
            table.set(PeerHandle(i), config("192.0.2.1:1194", Some(i)));
        }
        table.get(1).unwrap().count_received(10, 0);
        assert_eq!(table.touched, [1]);
        table.get(1).unwrap().count_received(10, 0);
        assert_eq!(table.touched, [1]);
        table.publish(&mut |_, _, _| true);
        assert!(table.touched.is_empty());
        let stats = Arc::clone(&table.get(1).unwrap().config.stats);
        assert_eq!(stats.wire_rx_bytes.load(Relaxed), 20);
    }
}
