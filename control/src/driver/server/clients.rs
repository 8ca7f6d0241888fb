//! The table of clients: by number, and by where they are.

use std::collections::{BTreeMap, HashMap};
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
    all: BTreeMap<PeerHandle, Box<Client>>,
    places: HashMap<Place, PeerHandle>,
    last: u32,
    last_stream: u32,
}

impl Clients {
    /// A number that no client has had before.
    pub(super) fn new_handle(&mut self) -> PeerHandle {
        self.last = self.last.wrapping_add(1);
        PeerHandle(self.last)
    }

    /// A number for a connection, not used again for a very long time.
    pub(super) fn new_stream(&mut self) -> StreamId {
        self.last_stream = self.last_stream.wrapping_add(1);
        StreamId(self.last_stream)
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.all.len()
    }

    /// Takes a client in. Whoever was at its place before is to be closed first.
    pub(super) fn insert(&mut self, client: Box<Client>) {
        self.places.insert(client.place, client.handle);
        self.all.insert(client.handle, client);
    }

    /// Takes a client out.
    pub(super) fn remove(&mut self, handle: PeerHandle) -> Option<Box<Client>> {
        let client = self.all.remove(&handle)?;
        if self.places.get(&client.place) == Some(&handle) {
            self.places.remove(&client.place);
        }
        Some(client)
    }

    /// Takes a client out of the table for a moment, to work on it and on the rest; it keeps its
    /// place. [`Clients::check_in`] puts it back.
    pub(super) fn check_out(&mut self, handle: PeerHandle) -> Option<Box<Client>> {
        self.all.remove(&handle)
    }

    /// Puts a client back.
    pub(super) fn check_in(&mut self, client: Box<Client>) {
        self.all.insert(client.handle, client);
    }

    /// The client with this number.
    pub(super) fn get(&mut self, handle: PeerHandle) -> Option<&mut Client> {
        self.all.get_mut(&handle).map(Box::as_mut)
    }

    /// The client with this number.
    pub(super) fn find(&self, handle: PeerHandle) -> Option<&Client> {
        self.all.get(&handle).map(Box::as_ref)
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
        self.all.values().map(Box::as_ref)
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
}
