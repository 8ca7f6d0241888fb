//! The table of clients: by number, by where they are, by name.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;

use ringway_dataplane::command::{Endpoint, PeerHandle, StreamId};

use super::client::Client;

/// Where a control packet came from, as far as it says whose it is: the connection, or the listener
/// and the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// A TCP connection.
    Stream(StreamId),
    /// A UDP address, at this listener.
    Address(u16, SocketAddr),
}

impl Place {
    /// The place of an endpoint that was heard at this listener.
    pub(super) fn of(listener: u16, endpoint: &Endpoint) -> Self {
        match endpoint.stream {
            Some(stream) => Place::Stream(stream),
            None => Place::Address(listener, endpoint.remote),
        }
    }
}

/// All clients, those still in their handshake included.
#[derive(Default)]
pub(super) struct Clients {
    all: BTreeMap<PeerHandle, Client>,
    places: HashMap<Place, PeerHandle>,
    names: HashMap<String, HashSet<PeerHandle>>,
    last: u32,
}

impl Clients {
    /// A number that no client has had before.
    pub(super) fn new_handle(&mut self) -> PeerHandle {
        self.last = self.last.wrapping_add(1);
        PeerHandle(self.last)
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.all.len()
    }

    /// Takes a client in. Whoever was at its place before is to be closed first.
    pub(super) fn insert(&mut self, client: Client) {
        self.places.insert(client.place, client.handle);
        self.all.insert(client.handle, client);
    }

    /// Takes a client out.
    pub(super) fn remove(&mut self, handle: PeerHandle) -> Option<Client> {
        let client = self.all.remove(&handle)?;
        if self.places.get(&client.place) == Some(&handle) {
            self.places.remove(&client.place);
        }
        self.forget_name(&client.name, handle);
        Some(client)
    }

    /// The client with this number.
    pub(super) fn get(&mut self, handle: PeerHandle) -> Option<&mut Client> {
        self.all.get_mut(&handle)
    }

    /// The client at this place.
    pub(super) fn at(&self, place: Place) -> Option<PeerHandle> {
        self.places.get(&place).copied()
    }

    /// All numbers, oldest first.
    pub(super) fn handles(&self) -> Vec<PeerHandle> {
        self.all.keys().copied().collect()
    }

    /// All clients, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Client> {
        self.all.values()
    }

    /// All clients, oldest first.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Client> {
        self.all.values_mut()
    }

    /// A client was heard elsewhere.
    pub(super) fn moved(&mut self, handle: PeerHandle, endpoint: Endpoint) {
        let Some(client) = self.all.get_mut(&handle) else {
            return;
        };
        if self.places.get(&client.place) == Some(&handle) {
            self.places.remove(&client.place);
        }
        client.endpoint = endpoint;
        client.place = Place::of(client.listener, &endpoint);
        self.places.insert(client.place, handle);
    }

    /// A client is known by this name from now on.
    pub(super) fn set_name(&mut self, handle: PeerHandle, name: &str) {
        let Some(client) = self.all.get_mut(&handle) else {
            return;
        };
        let before = std::mem::replace(&mut client.name, name.to_owned());
        self.forget_name(&before, handle);
        self.names.entry(name.to_owned()).or_default().insert(handle);
    }

    /// The others with the name of this client.
    pub(super) fn namesakes(&self, handle: PeerHandle) -> Vec<PeerHandle> {
        let name = self.all.get(&handle).map(|client| client.name.as_str());
        let same = name.and_then(|name| self.names.get(name));
        same.into_iter().flatten().copied().filter(|&other| other != handle).collect()
    }

    fn forget_name(&mut self, name: &str, handle: PeerHandle) {
        if let Some(same) = self.names.get_mut(name) {
            same.remove(&handle);
            if same.is_empty() {
                self.names.remove(name);
            }
        }
    }
}
