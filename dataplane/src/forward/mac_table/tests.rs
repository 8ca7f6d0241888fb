//! The table by hand, and against a model that does everything the long way.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const ONE: PeerHandle = PeerHandle(1);
const TWO: PeerHandle = PeerHandle(2);

fn station(n: u32) -> Station {
    let [a, b, c, d] = n.to_be_bytes();
    Station {
        vlan: 1,
        mac: Mac([2, 0, a, b, c, d]),
    }
}

fn table(limit: usize, per_peer: usize) -> MacTable {
    let mut table = MacTable::new(limit);
    for peer in [ONE, TWO] {
        table.set_peer(peer, per_peer);
    }
    table
}

const NEW: Learned = Learned::New { replaced: None };

#[test]
fn addresses_are_learned_found_and_move() {
    let mut table = table(10, 10);
    assert_eq!(table.find(station(1)), None);
    assert_eq!(table.learn(0, station(1), ONE), NEW);
    assert_eq!(table.learn(0, station(1), ONE), Learned::Known);
    assert_eq!(table.find(station(1)), Some(ONE));
    let moved = Learned::Moved {
        from: ONE,
        replaced: None,
    };
    assert_eq!(table.learn(1, station(1), TWO), moved);
    assert_eq!(table.find(station(1)), Some(TWO));
    // The same address in another VLAN is another host.
    let elsewhere = Station {
        vlan: 2,
        ..station(1)
    };
    assert_eq!(table.find(elsewhere), None);
    assert_eq!(table.learn(1, elsewhere, ONE), NEW);
    assert_eq!(table.find(station(1)), Some(TWO));
    assert_eq!(table.forget(station(1)), Some(TWO));
    assert_eq!((table.find(station(1)), table.len()), (None, 1));
    assert_eq!(table.learn(1, station(1), TWO), NEW);
}

#[test]
fn nobody_is_a_group_or_zero() {
    let mut table = table(10, 10);
    for first in [[0xff; 6], [1, 0, 0x5e, 0, 0, 1], [0; 6]] {
        let station = Station {
            vlan: 0,
            mac: Mac(first),
        };
        let refused = Learned::Refused(Refusal::NoStation);
        assert_eq!(table.learn(0, station, ONE), refused);
    }
    let refused = Learned::Refused(Refusal::UnknownPeer);
    assert_eq!(table.learn(0, station(1), PeerHandle(9)), refused);
    assert!(table.is_empty());
}

#[test]
fn a_peer_that_makes_addresses_up_hurts_only_itself() {
    let mut table = table(100, 3);
    assert_eq!(table.learn(0, station(1000), TWO), NEW);
    for n in 0..3 {
        assert_eq!(table.learn(n, station(n), ONE), NEW);
    }
    for n in 3..1000 {
        let refused = Learned::Refused(Refusal::PeerFull);
        assert_eq!(table.learn(10, station(n), ONE), refused);
    }
    // Also with the addresses of others, which stay where they are.
    let refused = Learned::Refused(Refusal::PeerFull);
    assert_eq!(table.learn(10, station(1000), ONE), refused);
    assert_eq!(table.find(station(1000)), Some(TWO));
    assert_eq!(table.len(), 4);
    // What has been silent for long gives way, the longest first: 1, as 0 was heard again.
    assert_eq!(table.learn(10, station(0), ONE), Learned::Heard);
    assert_eq!(table.learn(10, station(0), ONE), Learned::Known);
    let late = 1 + RECLAIM_AFTER;
    let replaced = Some(station(1));
    let learned = table.learn(late, station(7), ONE);
    assert_eq!(learned, Learned::New { replaced });
    assert_eq!(table.learn(late, station(8), ONE), refused);
    let learned = table.learn(late + 1, station(1000), ONE);
    let replaced = Some(station(2));
    assert_eq!(
        learned,
        Learned::Moved {
            from: TWO,
            replaced
        }
    );
}

#[test]
fn a_full_table_takes_nothing_new_but_keeps_moving() {
    let mut table = table(4, 3);
    for n in 0..3 {
        assert_eq!(table.learn(0, station(n), ONE), NEW);
    }
    assert_eq!(table.learn(0, station(3), TWO), NEW);
    let refused = Learned::Refused(Refusal::TableFull);
    assert_eq!(table.learn(0, station(4), TWO), refused);
    let moved = table.learn(0, station(0), TWO);
    assert!(matches!(moved, Learned::Moved { from: ONE, .. }));
    // TWO's oldest, not another's.
    let replaced = Some(station(3));
    let learned = table.learn(RECLAIM_AFTER, station(4), TWO);
    assert_eq!(learned, Learned::New { replaced });
}

#[test]
fn silence_ages_and_talk_keeps_young() {
    let mut table = table(10, 10);
    for n in 0..4 {
        table.learn(0, station(n), ONE);
    }
    table.learn(60, station(1), ONE);
    table.learn(70, station(2), TWO);
    let mut gone = Vec::new();
    table.expire(100, 60, |_| false);
    assert_eq!(table.len(), 4);
    table.expire(100, 60, |known| {
        gone.push(known.station);
        true
    });
    gone.sort();
    assert_eq!(gone, [station(0), station(3)]);
    assert_eq!(table.len(), 2);
    // Freed places are used again and are not aged twice.
    table.learn(100, station(9), ONE);
    table.expire(101, 50, |known| panic!("{known:?}"));
    assert_eq!(table.find(station(9)), Some(ONE));
}

#[test]
fn a_peer_takes_its_addresses_along() {
    let mut table = table(10, 10);
    for n in 0..6 {
        table.learn(n, station(n), if n < 4 { ONE } else { TWO });
    }
    table.veto(station(3), ONE, None);
    let mut gone = Vec::new();
    table.remove_peer(ONE, |station| gone.push(station));
    assert_eq!(gone, [station(0), station(1), station(2)]);
    assert_eq!(table.len(), 2);
    let refused = Learned::Refused(Refusal::UnknownPeer);
    assert_eq!(table.learn(9, station(0), ONE), refused);
    assert_eq!(table.learn(9, station(3), TWO), NEW);
    table.remove_peer(PeerHandle(7), |station| panic!("{station}"));
}

#[test]
fn a_veto_holds_for_its_peer_only() {
    let mut table = table(10, 10);
    let vetoed = Learned::Refused(Refusal::Vetoed);
    // A new address: nobody has it, and the peer does not get it again.
    table.learn(0, station(1), ONE);
    table.veto(station(1), ONE, None);
    assert_eq!(table.find(station(1)), None);
    assert_eq!(table.learn(0, station(1), ONE), vetoed);
    assert_eq!(table.iter().count(), 0);
    assert_eq!(table.learn(1, station(1), TWO), NEW);
    assert_eq!(table.find(station(1)), Some(TWO));
    // A move: it goes back.
    assert!(matches!(
        table.learn(2, station(1), ONE),
        Learned::Moved { from: TWO, .. }
    ));
    table.veto(station(1), ONE, Some(TWO));
    assert_eq!(table.find(station(1)), Some(TWO));
    assert_eq!(table.learn(2, station(1), ONE), vetoed);
    assert_eq!(table.learn(2, station(1), TWO), Learned::Known);
    // Late, when it has moved on.
    table.veto(station(1), ONE, None);
    assert_eq!(table.find(station(1)), Some(TWO));
    table.veto(station(5), ONE, None);
    // The one it would go back to has gone.
    table.learn(3, station(2), TWO);
    table.learn(3, station(2), ONE);
    table.remove_peer(TWO, |_| ());
    table.veto(station(2), ONE, Some(TWO));
    assert_eq!(table.find(station(2)), None);
}

#[test]
fn what_was_asked_for_is_used_once_admitted() {
    let mut table = table(10, 10);
    let vetoed = Learned::Refused(Refusal::Vetoed);
    assert_eq!(table.ask(0, station(1), ONE), NEW);
    assert_eq!(table.find(station(1)), None);
    assert_eq!(table.ask(0, station(1), ONE), vetoed);
    table.admit(1, station(1), ONE);
    assert_eq!(table.find(station(1)), Some(ONE));
    assert_eq!(table.ask(1, station(1), ONE), Learned::Known);
    assert_eq!(table.ask(2, station(1), ONE), Learned::Heard);
    // Another one that wants it does not take it away by asking.
    let moved = Learned::Moved {
        from: ONE,
        replaced: None,
    };
    assert_eq!(table.ask(2, station(1), TWO), moved);
    assert_eq!(table.ask(2, station(1), TWO), vetoed);
    assert_eq!(table.find(station(1)), Some(ONE));
    assert_eq!(table.ask(2, station(1), ONE), Learned::Known);
    table.admit(3, station(1), TWO);
    assert_eq!(table.find(station(1)), Some(TWO));
    // As in the table of another worker, where nobody asked.
    table.admit(3, station(2), ONE);
    assert_eq!(table.find(station(2)), Some(ONE));
}

#[test]
fn memory_is_reserved_once() {
    let mut table = table(64, 64);
    let before = (table.by_station.capacity(), table.slots.capacity());
    for n in 0..10_000 {
        // Everybody is new, and old at once.
        table.learn(n * RECLAIM_AFTER, station(n), ONE);
        if n % 3 == 0 {
            table.forget(station(n));
        }
    }
    assert_eq!(
        (table.by_station.capacity(), table.slots.capacity()),
        before
    );
    assert!(table.slots.len() <= 64);
}

#[derive(Clone, Debug)]
enum Step {
    Learn(u32, u8, u32),
    Forget(u32),
    Remove(u8),
    Set(u8, usize),
    Veto(u32, u8, Option<u8>),
    Expire(u32),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => (0u32..24, 0u8..4, prop_oneof![9 => Just(0u32), 1 => 1u32..400])
            .prop_map(|(station, peer, later)| Step::Learn(station, peer, later)),
        2 => (0u32..24).prop_map(Step::Forget),
        1 => (0u8..4).prop_map(Step::Remove),
        2 => (0u8..4, 0usize..8).prop_map(|(peer, limit)| Step::Set(peer, limit)),
        2 => (0u32..24, 0u8..4, proptest::option::of(0u8..4))
            .prop_map(|(station, peer, before)| Step::Veto(station, peer, before)),
        1 => (0u32..600).prop_map(Step::Expire),
    ]
}

/// Owner, when heard, in which order within a second, and who may not have it.
type Entry = (PeerHandle, u32, u64, Option<PeerHandle>);

/// The rules, by looking at everything each time.
#[derive(Default)]
struct Model {
    limit: usize,
    entries: BTreeMap<Station, Entry>,
    limits: BTreeMap<PeerHandle, usize>,
    order: u64,
}

impl Model {
    fn count(&self, peer: PeerHandle) -> usize {
        self.entries
            .values()
            .filter(|entry| entry.0 == peer)
            .count()
    }

    fn next(&mut self) -> u64 {
        self.order += 1;
        self.order
    }

    fn reclaim(&mut self, peer: PeerHandle, now: u32) -> Option<Option<Station>> {
        let of_peer = self.entries.iter().filter(|(_, entry)| entry.0 == peer);
        let (&station, &entry) = of_peer.min_by_key(|(_, entry)| entry.2)?;
        if now - entry.1 < RECLAIM_AFTER {
            return None;
        }
        self.entries.remove(&station);
        Some((entry.3 != Some(peer)).then_some(station))
    }

    fn learn(&mut self, now: u32, station: Station, peer: PeerHandle) -> Learned {
        let old = self.entries.get(&station).copied();
        if let Some(old) = old {
            if old.0 == peer && old.1 != now {
                let order = self.next();
                self.entries.insert(station, (peer, now, order, old.3));
            }
            if old.3 == Some(peer) {
                return Learned::Refused(Refusal::Vetoed);
            }
            if old.0 == peer {
                return match old.1 == now {
                    true => Learned::Known,
                    false => Learned::Heard,
                };
            }
        }
        let Some(&limit) = self.limits.get(&peer) else {
            return Learned::Refused(Refusal::UnknownPeer);
        };
        let mut replaced = None;
        if self.count(peer) >= limit {
            match self.reclaim(peer, now) {
                Some(station) => replaced = station,
                None => return Learned::Refused(Refusal::PeerFull),
            }
        }
        if old.is_none() && self.entries.len() >= self.limit {
            match self.reclaim(peer, now) {
                Some(station) => replaced = station,
                None => return Learned::Refused(Refusal::TableFull),
            }
        }
        let order = self.next();
        self.entries.insert(station, (peer, now, order, None));
        match old {
            Some(old) if old.3 != Some(old.0) => Learned::Moved {
                from: old.0,
                replaced,
            },
            _ => Learned::New { replaced },
        }
    }
}

proptest! {
    #[test]
    fn behaves_like_the_model(steps in proptest::collection::vec(any_step(), 0..200), limit in 0usize..16) {
        let mut table = MacTable::new(limit);
        let mut model = Model { limit, ..Model::default() };
        let mut now = 0;
        for step in steps {
            match step {
                Step::Learn(n, peer, later) => {
                    now += later;
                    let peer = PeerHandle(peer.into());
                    prop_assert_eq!(
                        table.learn(now, station(n), peer),
                        model.learn(now, station(n), peer)
                    );
                }
                Step::Forget(n) => {
                    let old = model.entries.remove(&station(n));
                    let owner = old.filter(|old| old.3 != Some(old.0)).map(|old| old.0);
                    prop_assert_eq!(table.forget(station(n)), owner);
                }
                Step::Remove(peer) => {
                    let peer = PeerHandle(peer.into());
                    let mut gone = Vec::new();
                    table.remove_peer(peer, |station| gone.push(station));
                    model.limits.remove(&peer);
                    let mut expected = Vec::new();
                    model.entries.retain(|station, entry| {
                        if entry.0 == peer && entry.3 != Some(peer) {
                            expected.push((entry.2, *station));
                        }
                        entry.0 != peer
                    });
                    expected.sort();
                    prop_assert!(gone.into_iter().eq(expected.into_iter().map(|(_, s)| s)));
                }
                Step::Set(peer, limit) => {
                    table.set_peer(PeerHandle(peer.into()), limit);
                    model.limits.insert(PeerHandle(peer.into()), limit);
                }
                Step::Veto(n, peer, before) => {
                    let peer = PeerHandle(peer.into());
                    let before = before.map(|before| PeerHandle(before.into()));
                    table.veto(station(n), peer, before);
                    if let Some(old) = model.entries.get(&station(n)).copied()
                        && old.0 == peer
                    {
                        let back = before.filter(|before| {
                            *before != peer
                                && model.limits.get(before).is_some_and(|&limit| model.count(*before) < limit)
                        });
                        let order = match back {
                            Some(_) => model.next(),
                            None => old.2,
                        };
                        let entry = (back.unwrap_or(peer), old.1, order, Some(peer));
                        model.entries.insert(station(n), entry);
                    }
                }
                Step::Expire(age) => {
                    let mut gone = Vec::new();
                    table.expire(now, age, |known| {
                        gone.push(known.station);
                        true
                    });
                    gone.sort();
                    let mut expected = Vec::new();
                    model.entries.retain(|station, entry| {
                        let old = now - entry.1 >= age;
                        if old && entry.3 != Some(entry.0) {
                            expected.push(*station);
                        }
                        !old
                    });
                    prop_assert_eq!(gone, expected);
                }
            }
            prop_assert_eq!(table.len(), model.entries.len());
            for n in 0..24 {
                let entry = model.entries.get(&station(n));
                let owner = entry.filter(|entry| entry.3 != Some(entry.0)).map(|entry| entry.0);
                prop_assert_eq!(table.find(station(n)), owner);
            }
            for (peer, list) in &table.peers {
                prop_assert_eq!(list.count, model.count(*peer));
            }
        }
    }
}

#[test]
fn stations_as_in_a_status_file() {
    let mac = Mac([2, 0, 0x5e, 0x10, 0, 1]);
    let text = Station { vlan: 7, mac }.to_string();
    assert_eq!(text, "02:00:5e:10:00:01@7");
}
