//! Which peer a hardware address is behind: what a TAP server's switch has learned (protocol §11).
//!
//! Every frame of a peer is shown to [`MacTable::learn`]. All memory is reserved when the table is made,
//! and learning, moving and finding neither allocate nor look at more than one address. Two limits, of
//! each peer and of the table, keep a peer that makes addresses up from crowding out others. A new
//! address that finds a limit reached takes the place of the peer's own address not heard for longest,
//! if that has been silent for [`RECLAIM_AFTER`]; otherwise it is refused and stays unknown.
//!
//! ```text
//!   (vlan, mac) -> slot            peer -> newest .. oldest, by the links between slots
//!   slots  | 7@a peer 1 | 7@b peer 2 | free | 7@c peer 1 | ...
//! ```
//!
//! `learn-address` may object to what was learned: [`MacTable::veto`] takes an address from a peer, which
//! then does not get it again.

use std::collections::HashMap;

use crate::command::PeerHandle;
use crate::frame::Mac;

/// Seconds of silence after which an address may give way to a new one of its peer: the ageing time
/// that IEEE 802.1D recommends for bridges.
pub const RECLAIM_AFTER: u32 = 300;

/// No slot.
const NONE: u32 = u32::MAX;

/// A host in a VLAN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Station {
    /// Its VLAN; [`super::vlan::NONE`] without `vlan-tagging`.
    pub vlan: u16,
    /// Its address.
    pub mac: Mac,
}

/// As in a status file: `02:00:5e:10:00:01@7`.
impl std::fmt::Display for Station {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.mac, self.vlan)
    }
}

/// What a frame taught.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// Nothing: the address was known to be there.
    Known,
    /// Only that the known address is still there: it was last heard in another second.
    Heard,
    /// A new address. `replaced` was forgotten for it.
    New {
        /// An address of the same peer.
        replaced: Option<Station>,
    },
    /// The address was behind another peer until now. `replaced` was forgotten for it.
    Moved {
        /// Where it was.
        from: PeerHandle,
        /// An address of the peer where it is now.
        replaced: Option<Station>,
    },
    /// Nothing, for this reason. What was known of the address stays.
    Refused(Refusal),
}

/// Why an address is not learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A group address or all zero: nobody's source.
    NoStation,
    /// The peer may not have it.
    Vetoed,
    /// The peer has as many as it may.
    PeerFull,
    /// The table is full.
    TableFull,
    /// There is no such peer.
    UnknownPeer,
}

/// An address that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The address.
    pub station: Station,
    /// The peer it is behind.
    pub peer: PeerHandle,
    /// When it was last heard, in the clock of [`MacTable::learn`].
    pub heard: u32,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct MacTable {
    limit: usize,
    by_station: HashMap<Station, u32>,
    slots: Vec<Slot>,
    /// First of the free slots, linked by `older`.
    free: u32,
    peers: HashMap<PeerHandle, List>,
    /// The slot of the last frame: several in a row come from one host.
    last: u32,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    known: Known,
    /// The peer that may not have it. When that is the owner, nobody has it.
    vetoed: Option<PeerHandle>,
    /// Neighbours in the owner's list.
    newer: u32,
    older: u32,
}

impl Slot {
    fn is_valid(&self) -> bool {
        self.vetoed != Some(self.known.peer)
    }
}

/// A peer's addresses, ordered by when they were heard, to the second.
#[derive(Debug)]
struct List {
    newest: u32,
    oldest: u32,
    count: usize,
    limit: usize,
}

impl MacTable {
    /// A table for up to `limit` addresses, for which it reserves memory: about 80 bytes each.
    ///
    /// # Panics
    /// With a limit of 2^32 - 1 or more.
    pub fn new(limit: usize) -> Self {
        assert!(limit < NONE as usize, "slots have 32-bit numbers");
        MacTable {
            limit,
            // A hash table that is at most half full makes room for itself in place.
            by_station: HashMap::with_capacity(2 * limit),
            slots: Vec::with_capacity(limit),
            free: NONE,
            peers: HashMap::new(),
            last: NONE,
        }
    }

    /// Lets a peer have up to `limit` addresses. One that has more keeps them.
    pub fn set_peer(&mut self, peer: PeerHandle, limit: usize) {
        let list = self.peers.entry(peer).or_insert(List {
            newest: NONE,
            oldest: NONE,
            count: 0,
            limit,
        });
        list.limit = limit;
    }

    /// Forgets a peer and its addresses, each of which it had is told to `forgotten`.
    pub fn remove_peer(&mut self, peer: PeerHandle, mut forgotten: impl FnMut(Station)) {
        while let Some(slot) = self.oldest_of(peer) {
            let old = self.slots[slot as usize];
            self.release(slot);
            if old.is_valid() {
                forgotten(old.known.station);
            }
        }
        self.peers.remove(&peer);
    }

    /// Takes in that a frame from `station` came from `peer`, at `now` in seconds of any clock that
    /// does not go back.
    #[inline]
    pub fn learn(&mut self, now: u32, station: Station, peer: PeerHandle) -> Learned {
        if let Some(slot) = self.slots.get(self.last as usize)
            && slot.known.station == station
            && slot.known.peer == peer
            && slot.known.heard == now
            && slot.is_valid()
        {
            return Learned::Known;
        }
        self.learn_slowly(now, station, peer)
    }

    fn learn_slowly(&mut self, now: u32, station: Station, peer: PeerHandle) -> Learned {
        if station.mac.is_group() || station.mac == Mac::default() {
            return Learned::Refused(Refusal::NoStation);
        }
        let Some(&slot) = self.by_station.get(&station) else {
            return self.learn_new(now, station, peer);
        };
        let old = self.slots[slot as usize];
        if old.known.peer == peer {
            self.touch(slot, now);
        }
        if old.vetoed == Some(peer) {
            return Learned::Refused(Refusal::Vetoed);
        }
        if old.known.peer == peer {
            self.last = slot;
            return match old.known.heard == now {
                true => Learned::Known,
                false => Learned::Heard,
            };
        }
        // It leaves a slot and takes one, so only the peer's limit counts.
        let replaced = match self.make_room_for(peer, now) {
            Ok(replaced) => replaced,
            Err(refusal) => return Learned::Refused(refusal),
        };
        self.unlink(slot);
        let entry = &mut self.slots[slot as usize];
        entry.known.peer = peer;
        entry.known.heard = now;
        entry.vetoed = None;
        self.link(slot);
        self.last = slot;
        match old.is_valid() {
            true => Learned::Moved {
                from: old.known.peer,
                replaced,
            },
            false => Learned::New { replaced },
        }
    }

    fn learn_new(&mut self, now: u32, station: Station, peer: PeerHandle) -> Learned {
        let mut replaced = match self.make_room_for(peer, now) {
            Ok(replaced) => replaced,
            Err(refusal) => return Learned::Refused(refusal),
        };
        if self.by_station.len() >= self.limit {
            match self.reclaim(peer, now) {
                Some(station) => replaced = station,
                None => return Learned::Refused(Refusal::TableFull),
            }
        }
        let entry = Slot {
            known: Known {
                station,
                peer,
                heard: now,
            },
            vetoed: None,
            newer: NONE,
            older: NONE,
        };
        let slot = match self.free {
            NONE => {
                self.slots.push(entry);
                (self.slots.len() - 1) as u32
            }
            free => {
                self.free = self.slots[free as usize].older;
                self.slots[free as usize] = entry;
                free
            }
        };
        self.by_station.insert(station, slot);
        self.link(slot);
        self.last = slot;
        Learned::New { replaced }
    }

    /// As [`MacTable::learn`], but what is new to the peer is not its own before it is admitted
    /// ([`MacTable::admit`]): until then it stays where it was, or is nobody's. The answer is
    /// [`Learned::New`] or [`Learned::Moved`] once, and later frames are refused as vetoed.
    #[inline]
    pub fn ask(&mut self, now: u32, station: Station, peer: PeerHandle) -> Learned {
        let Some(from) = self.find(station).filter(|&owner| owner != peer) else {
            let learned = self.learn(now, station, peer);
            if matches!(learned, Learned::New { .. }) {
                self.veto(station, peer, None);
            }
            return learned;
        };
        let Some(slot) = self.by_station.get(&station) else {
            return Learned::Refused(Refusal::UnknownPeer);
        };
        match self.slots[*slot as usize].vetoed.replace(peer) {
            Some(before) if before == peer => Learned::Refused(Refusal::Vetoed),
            _ => Learned::Moved {
                from,
                replaced: None,
            },
        }
    }

    /// A peer that asked for another's address may ask again.
    pub fn take_back(&mut self, station: Station, peer: PeerHandle) {
        if let Some(&slot) = self.by_station.get(&station) {
            let slot = &mut self.slots[slot as usize];
            if slot.vetoed == Some(peer) && slot.known.peer != peer {
                slot.vetoed = None;
            }
        }
    }

    /// A peer may have an address: gives it to the peer, whatever was said before.
    pub fn admit(&mut self, now: u32, station: Station, peer: PeerHandle) -> Learned {
        if let Some(&slot) = self.by_station.get(&station) {
            let slot = &mut self.slots[slot as usize];
            if slot.vetoed == Some(peer) {
                slot.vetoed = None;
            }
        }
        self.learn(now, station, peer)
    }

    /// The peer that an address is behind.
    #[inline]
    pub fn find(&self, station: Station) -> Option<PeerHandle> {
        let slot = &self.slots[*self.by_station.get(&station)? as usize];
        slot.is_valid().then_some(slot.known.peer)
    }

    /// `peer` may not have this address, which it was the last to be heard with. It goes back to
    /// `before`, where it was, or to nobody. Does nothing when the address is elsewhere by now.
    pub fn veto(&mut self, station: Station, peer: PeerHandle, before: Option<PeerHandle>) {
        let Some(&slot) = self.by_station.get(&station) else {
            return;
        };
        if self.slots[slot as usize].known.peer != peer {
            return;
        }
        self.slots[slot as usize].vetoed = Some(peer);
        let room = |list: &List| list.count < list.limit;
        if let Some(before) = before
            && before != peer
            && self.peers.get(&before).is_some_and(room)
        {
            self.unlink(slot);
            self.slots[slot as usize].known.peer = before;
            self.link(slot);
        }
    }

    /// Forgets an address. Returns the peer that had it.
    pub fn forget(&mut self, station: Station) -> Option<PeerHandle> {
        let slot = *self.by_station.get(&station)?;
        let old = self.slots[slot as usize];
        self.release(slot);
        old.is_valid().then_some(old.known.peer)
    }

    /// Forgets what has not been heard for `age` seconds (`stale-routes-check`), and tells it to
    /// `forgotten`; what that answers with false stays until the next time. Looks at every slot, so it
    /// is for a timer.
    pub fn expire(&mut self, now: u32, age: u32, mut forgotten: impl FnMut(Known) -> bool) {
        for slot in 0..self.slots.len() {
            let entry = self.slots[slot];
            let used = self.by_station.get(&entry.known.station) == Some(&(slot as u32));
            let old = used && now.saturating_sub(entry.known.heard) >= age;
            if old && (!entry.is_valid() || forgotten(entry.known)) {
                self.release(slot as u32);
            }
        }
    }

    /// Every known address, in no order.
    pub fn iter(&self) -> impl Iterator<Item = Known> + '_ {
        let slots = self
            .by_station
            .values()
            .map(|&slot| &self.slots[slot as usize]);
        slots.filter(|slot| slot.is_valid()).map(|slot| slot.known)
    }

    /// How many addresses take up room, those that were vetoed included.
    pub fn len(&self) -> usize {
        self.by_station.len()
    }

    /// True when nothing has been learned.
    pub fn is_empty(&self) -> bool {
        self.by_station.is_empty()
    }

    /// Sees to it that the peer may have one address more; what it lost for that.
    fn make_room_for(&mut self, peer: PeerHandle, now: u32) -> Result<Option<Station>, Refusal> {
        let list = self.peers.get(&peer).ok_or(Refusal::UnknownPeer)?;
        if list.count < list.limit {
            return Ok(None);
        }
        self.reclaim(peer, now).ok_or(Refusal::PeerFull)
    }

    /// Frees the peer's oldest address if it has been silent for long enough. The inner value is the
    /// address, if the peer really had it.
    fn reclaim(&mut self, peer: PeerHandle, now: u32) -> Option<Option<Station>> {
        let slot = self.oldest_of(peer)?;
        let old = self.slots[slot as usize];
        if now.saturating_sub(old.known.heard) < RECLAIM_AFTER {
            return None;
        }
        self.release(slot);
        Some(old.is_valid().then_some(old.known.station))
    }

    fn oldest_of(&self, peer: PeerHandle) -> Option<u32> {
        let list = self.peers.get(&peer)?;
        (list.oldest != NONE).then_some(list.oldest)
    }

    /// Heard again.
    fn touch(&mut self, slot: u32, now: u32) {
        if self.slots[slot as usize].known.heard != now {
            self.slots[slot as usize].known.heard = now;
            self.unlink(slot);
            self.link(slot);
        }
    }

    /// Puts a slot in front of its owner's list.
    fn link(&mut self, slot: u32) {
        let Some(list) = self.peers.get_mut(&self.slots[slot as usize].known.peer) else {
            return;
        };
        let before = std::mem::replace(&mut list.newest, slot);
        list.count += 1;
        match before {
            NONE => list.oldest = slot,
            before => self.slots[before as usize].newer = slot,
        }
        self.slots[slot as usize].newer = NONE;
        self.slots[slot as usize].older = before;
    }

    /// Takes a slot out of its owner's list.
    fn unlink(&mut self, slot: u32) {
        let Slot {
            known,
            newer,
            older,
            ..
        } = self.slots[slot as usize];
        let Some(list) = self.peers.get_mut(&known.peer) else {
            return;
        };
        list.count -= 1;
        match newer {
            NONE => list.newest = older,
            newer => self.slots[newer as usize].older = older,
        }
        match older {
            NONE => list.oldest = newer,
            older => self.slots[older as usize].newer = newer,
        }
    }

    /// Frees a slot.
    fn release(&mut self, slot: u32) {
        self.unlink(slot);
        self.by_station
            .remove(&self.slots[slot as usize].known.station);
        // Not to be taken for one that is in use.
        self.slots[slot as usize].known.station = Station::default();
        self.slots[slot as usize].older = self.free;
        self.free = slot;
        self.last = NONE;
    }
}

#[cfg(test)]
mod tests;
