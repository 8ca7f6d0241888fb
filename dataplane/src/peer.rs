//! The peers of a worker: which one a datagram or an inner packet belongs to, and what is known of
//! the path to each.

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering::Relaxed;

use crate::command::{Endpoint, Forwarding, PeerConfig, PeerHandle, Port, Prefix, Roles, StreamId};
use crate::forward::mac_table::Station;
use crate::forward::vlan::{self, DevicePort};
use crate::forward::{Destination, Receivers, Routes, Switch};
use crate::fragment::{self, Cutter, Reassembler};
use crate::frame;
use crate::framing::Framing;
use crate::ip::IpView;
use crate::key_slot::{Halves, KeySlots};
use crate::pool::MAX_DATAGRAM;
use crate::stats::{KeyStats, add};
use crate::tun::DeviceKind;
use crate::wire;

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

/// Bytes that may be in front of an inner IP packet.
fn max_link(kind: DeviceKind) -> usize {
    match kind {
        DeviceKind::Tun => 0,
        // A tag is the most there can be.
        DeviceKind::Tap => frame::MAX_LINK,
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
    /// The listener whose packets it receives.
    listener: u16,
    routes: Routes,
    slots: Vec<Option<Box<Peer>>>,
    /// Slots without a peer.
    free: Vec<usize>,
    by_handle: HashMap<PeerHandle, usize>,
    /// By listener and outer address; two listeners may hear different peers from one.
    by_address: HashMap<(u16, SocketAddr), usize>,
    /// All peers at one outer address, for path MTUs; not those with a TCP connection, which the
    /// kernel cuts to fit by itself.
    by_ip: BTreeSet<(IpAddr, usize)>,
    by_stream: HashMap<StreamId, usize>,
    by_peer_id: HashMap<u32, usize>,
    /// Peers that something was asked of since the last publication. Sized when a peer is added.
    touched: Vec<usize>,
    /// Peers with something that ends by time. Sized when a peer is added.
    timed: Vec<usize>,
    /// The peer of point to point, when there is exactly one.
    only: Option<usize>,
    /// What the device carries.
    kind: DeviceKind,
}

impl PeerTable {
    /// The table of this worker, whose socket is one of this listener.
    pub(crate) fn new(worker: u16, listener: u16) -> Self {
        PeerTable {
            worker,
            listener,
            ..PeerTable::default()
        }
    }

    /// Says what the device carries.
    pub(crate) fn set_kind(&mut self, kind: DeviceKind) {
        self.kind = kind;
        for peer in self.slots.iter_mut().flatten() {
            peer.link = max_link(kind);
            peer.fit_mss();
        }
    }

    pub(crate) fn set_forwarding(&mut self, forwarding: Forwarding) {
        self.routes.set_forwarding(forwarding);
        self.find_only();
    }

    /// There may be many peers, told apart strictly.
    #[inline]
    pub(crate) fn is_server(&self) -> bool {
        self.routes.forwarding() != Forwarding::PointToPoint
    }

    /// Gives a prefix to a peer.
    pub(crate) fn add_route(&mut self, handle: PeerHandle, prefix: Prefix) {
        if let Some(index) = self.index_of(handle) {
            self.routes.add(index, prefix);
        }
    }

    /// Takes a prefix away from a peer.
    pub(crate) fn remove_route(&mut self, handle: PeerHandle, prefix: Prefix) {
        if let Some(index) = self.index_of(handle) {
            self.routes.remove(index, prefix);
        }
    }

    /// Makes a peer a port of the switch.
    pub(crate) fn set_port(&mut self, handle: PeerHandle, port: Port) {
        let index = self.index_of(handle);
        let Some((peer, routes)) = index.and_then(|index| self.with_routes(index)) else {
            return;
        };
        let moved = std::mem::replace(&mut peer.vlan, port.vlan) != port.vlan;
        if let Some(switch) = routes.switch_mut() {
            if moved {
                switch.remove_peer(handle);
            }
            switch.set_port(handle, port);
        }
    }

    /// A peer may have an address.
    pub(crate) fn admit(&mut self, handle: PeerHandle, station: Station, now: u32) {
        if let Some(switch) = self.routes.switch_mut() {
            switch.admit(now, station, handle);
        }
    }

    /// Forgets the addresses not heard for `age` seconds. `tell` is told of those of peers that are heard
    /// here; what it refuses to hear stays.
    pub(crate) fn forget_stations(
        &mut self,
        now: u32,
        age: u32,
        tell: &mut dyn FnMut(PeerHandle, Station) -> bool,
    ) {
        let (slots, by_handle) = (&self.slots, &self.by_handle);
        let is_heard_here = |handle: PeerHandle| {
            let index = by_handle.get(&handle).copied();
            let peer = index.and_then(|index| slots[index].as_ref());
            peer.is_some_and(|peer| peer.halves.receive)
        };
        if let Some(switch) = self.routes.switch_mut() {
            switch.expire(now, age, |handle, station| {
                !is_heard_here(handle) || tell(handle, station)
            });
        }
    }

    /// How the device takes part in VLANs, if there are any.
    #[inline]
    pub(crate) fn device_port(&self) -> Option<DevicePort> {
        self.routes.switch().and_then(Switch::device)
    }

    /// Adds a peer, or gives a known one a new configuration.
    pub(crate) fn set(&mut self, handle: PeerHandle, config: PeerConfig) {
        if let Some(&index) = self.by_handle.get(&handle) {
            self.unindex(index);
            if let Some(peer) = &mut self.slots[index] {
                let known = &peer.config.endpoint;
                if (known.remote, known.stream) != (config.endpoint.remote, config.endpoint.stream)
                {
                    peer.forget_limits();
                }
                // Halves do not move between workers while there are keys.
                let roles = peer.config.roles;
                peer.reconfigure(PeerConfig { roles, ..config });
                peer.told = Told::default();
                peer.fit_mss();
            }
            self.index(index);
            return;
        }
        let mut peer = Box::new(Peer::new(handle, config, self.worker));
        peer.link = max_link(self.kind);
        let peer = Some(peer);
        let index = match self.free.pop() {
            Some(index) => {
                self.slots[index] = peer;
                index
            }
            None => {
                self.slots.push(peer);
                self.slots.len() - 1
            }
        };
        for list in [&mut self.touched, &mut self.timed] {
            list.reserve(self.slots.len().saturating_sub(list.len()));
        }
        self.by_handle.insert(handle, index);
        self.index(index);
    }

    pub(crate) fn remove(&mut self, handle: PeerHandle) {
        if let Some(index) = self.by_handle.remove(&handle) {
            self.unindex(index);
            self.routes.remove_peer(index);
            if let Some(switch) = self.routes.switch_mut() {
                switch.remove_peer(handle);
            }
            self.slots[index] = None;
            self.free.push(index);
            for list in [&mut self.touched, &mut self.timed] {
                list.retain(|&other| other != index);
            }
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

    /// How many slots there are, with and without a peer.
    pub(crate) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The peer in this slot, if it is one to look at only.
    #[inline]
    pub(crate) fn peek(&self, index: usize) -> Option<&Peer> {
        self.slots.get(index)?.as_deref()
    }

    /// The peer in this slot, which is published after the batch.
    #[inline]
    pub(crate) fn get(&mut self, index: usize) -> Option<&mut Peer> {
        self.with_routes(index).map(|(peer, _)| peer)
    }

    /// The peer in this slot, and what decides about its packets.
    #[inline]
    pub(crate) fn with_routes(&mut self, index: usize) -> Option<(&mut Peer, &mut Routes)> {
        let peer = self.slots.get_mut(index)?.as_deref_mut()?;
        if !std::mem::replace(&mut peer.touched, true) {
            self.touched.push(index);
        }
        Some((peer, &mut self.routes))
    }

    /// Publishes the counters of the peers that anything was done with, and passes on with `tell`
    /// what other workers must know of them.
    pub(crate) fn publish(&mut self, tell: &mut dyn FnMut(u16, PeerHandle, Note) -> bool) {
        for index in self.touched.drain(..) {
            if let Some(Some(peer)) = self.slots.get_mut(index) {
                peer.touched = false;
                peer.publish(tell);
                if peer.is_timed() && !std::mem::replace(&mut peer.timed, true) {
                    self.timed.push(index);
                }
            }
        }
    }

    /// Takes in what another worker says of a session whose other half it holds.
    pub(crate) fn take_note(&mut self, handle: PeerHandle, note: Note, now: u32) {
        let Some(index) = self.index_of(handle) else {
            return;
        };
        match note {
            Note::Endpoint(endpoint) => self.relocate(index, endpoint),
            Note::Station(station) => {
                if let Some(switch) = self.routes.switch_mut() {
                    switch.hear(now, station, handle);
                }
            }
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
        let mut next = 0;
        while let Some(&(_, index)) = self
            .by_ip
            .range((address, next)..=(address, usize::MAX))
            .next()
        {
            next = index + 1;
            if let Some(peer) = self.get(index)
                && peer.halves.send
            {
                news = peer.set_path_mtu(mtu, refuses_fragments, now).or(news);
            }
        }
        news
    }

    /// Forgets limits whose time has passed, and what other workers were told: a command from the
    /// control thread may have crossed it.
    pub(crate) fn expire_limits(&mut self, now: u32) {
        let mut timed = std::mem::take(&mut self.timed);
        timed.retain(|&index| {
            let Some(Some(peer)) = self.slots.get_mut(index) else {
                return false;
            };
            peer.told = Told::default();
            if peer.limits_expire != 0 && now >= peer.limits_expire {
                peer.forget_limits();
                if !std::mem::replace(&mut peer.touched, true) {
                    self.touched.push(index);
                }
            }
            peer.timed = peer.is_timed();
            peer.timed
        });
        self.timed = timed;
    }

    /// The peer a received data packet may belong to. Whether it may come from this address is for
    /// the caller to check.
    #[inline]
    pub(crate) fn find(&self, peer_id: Option<u32>, from: &SocketAddr) -> Option<usize> {
        if self.only.is_some() {
            return self.only;
        }
        let named = peer_id.filter(|&id| id != wire::PEER_ID_NONE);
        let found = named.and_then(|id| self.by_peer_id.get(&id).copied());
        // With many peers an id that is none of theirs is wrong, whatever the address.
        if found.is_some() || named.is_some() && self.is_server() {
            return found;
        }
        self.by_address(from)
    }

    /// The peer whose connection this is.
    #[inline]
    pub(crate) fn by_stream(&self, id: StreamId) -> Option<usize> {
        self.by_stream.get(&id).copied()
    }

    /// The connection of the peer, when there is exactly one peer and it has one.
    #[inline]
    pub(crate) fn only_stream(&self) -> Option<StreamId> {
        self.slots[self.only?].as_ref()?.config.endpoint.stream
    }

    /// The listener whose packets this worker receives.
    pub(crate) fn own_listener(&self) -> u16 {
        self.listener
    }

    /// The listener that peers heard at this worker's socket must have come by, if that matters.
    #[inline]
    pub(crate) fn listener(&self) -> Option<u16> {
        self.is_server().then_some(self.listener)
    }

    /// The peer at this address, as this worker's listener sees it.
    pub(crate) fn by_address(&self, from: &SocketAddr) -> Option<usize> {
        self.by_address.get(&(self.listener, *from)).copied()
    }

    /// Whether a peer that was heard from `endpoint` must not move there, because another has it.
    #[inline]
    pub(crate) fn is_taken(&self, index: usize, endpoint: &Endpoint) -> bool {
        self.is_server()
            && self.peek(index).is_some_and(|peer| {
                let config = &peer.config;
                config.endpoint.remote != endpoint.remote
                    && self
                        .by_address
                        .get(&(config.listener, endpoint.remote))
                        .is_some_and(|&owner| owner != index)
            })
    }

    /// Which peers an inner packet goes to: in point to point the only one there is. The VLAN counts for a
    /// switch.
    #[inline]
    pub(crate) fn destination(&self, packet: &[u8], vlan: u16) -> Destination {
        if let Some(switch) = self.routes.switch() {
            return match switch.receivers(vlan, packet) {
                Receivers::Everyone => Destination::Everyone,
                Receivers::Nobody => Destination::Nobody,
                Receivers::Peer(handle) => match self.index_of(handle) {
                    Some(index) => Destination::Peer(index),
                    None => Destination::Nobody,
                },
            };
        }
        if self.is_server() {
            let link = frame::link_len(self.kind, packet);
            return match IpView::parse(&packet[link..]) {
                Some(ip) => self.routes.destination(&ip),
                None => Destination::Nobody,
            };
        }
        match self.only {
            Some(index) => Destination::Peer(index),
            None => Destination::Nobody,
        }
    }

    /// A peer was heard here, authenticated, from a new endpoint.
    pub(crate) fn move_endpoint(&mut self, index: usize, to: Endpoint) {
        self.relocate(index, to);
        let server = self.is_server();
        if let Some(peer) = self.get(index) {
            peer.moved = server;
        }
    }

    fn relocate(&mut self, index: usize, to: Endpoint) {
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
            let endpoint = &peer.config.endpoint;
            match endpoint.stream {
                Some(id) => {
                    self.by_stream.insert(id, index);
                }
                None => {
                    self.by_address
                        .insert((peer.config.listener, endpoint.remote), index);
                    self.by_ip.insert((endpoint.remote.ip(), index));
                }
            }
            if let Some(id) = peer.config.rx_peer_id {
                self.by_peer_id.insert(id, index);
            }
        }
        self.find_only();
    }

    fn unindex(&mut self, index: usize) {
        if let Some(Some(peer)) = self.slots.get(index) {
            let Endpoint { remote, stream, .. } = &peer.config.endpoint;
            let key = (peer.config.listener, *remote);
            if let Some(id) = stream
                && self.by_stream.get(id) == Some(&index)
            {
                self.by_stream.remove(id);
            }
            if self.by_address.get(&key) == Some(&index) {
                self.by_address.remove(&key);
            }
            self.by_ip.remove(&(remote.ip(), index));
            if let Some(id) = peer.config.rx_peer_id
                && self.by_peer_id.get(&id) == Some(&index)
            {
                self.by_peer_id.remove(&id);
            }
        }
    }

    fn find_only(&mut self) {
        self.only = match self.by_handle.len() {
            1 if !self.is_server() => self.by_handle.values().next().copied(),
            _ => None,
        };
    }
}
