//! The peers of a worker: which one a datagram or an inner packet belongs to.

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use super::{Note, Peer, Told};
use crate::command::{Endpoint, Forwarding, PeerConfig, PeerHandle, Port, Prefix, StreamId};
use crate::forward::mac_table::Station;
use crate::forward::vlan::DevicePort;
use crate::forward::{Destination, Receivers, Routes, Switch};
use crate::frame;
use crate::ip::IpView;
use crate::tun::DeviceKind;
use crate::wire;

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

/// Bytes that may be in front of an inner IP packet.
fn max_link(kind: DeviceKind) -> usize {
    match kind {
        DeviceKind::Tun => 0,
        // A tag is the most there can be.
        DeviceKind::Tap => frame::MAX_LINK,
    }
}
