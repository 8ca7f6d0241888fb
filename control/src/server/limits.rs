//! How many clients there may be, which numbers they get, and who has to go (protocol §11).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use ringway_dataplane::command::PeerHandle;

/// How long a peer-id stays unused after its client is gone, if others are left: packets that are
/// still on their way meet nobody then.
const REST: Duration = Duration::from_secs(60);

/// Peer-ids, one for each client: with `max-clients n` they are 0 to n - 1.
///
/// The lowest one that is free is given out, but one that was given back a moment ago only when
/// there is no other.
#[derive(Debug)]
pub struct PeerIds {
    max: u32,
    /// This one and all above were never given out.
    fresh: u32,
    free: BTreeSet<u32>,
    /// Given back a moment ago, the longest ago first.
    resting: VecDeque<(Instant, u32)>,
}

impl PeerIds {
    /// For this many clients (`max-clients`).
    pub fn new(max_clients: u32) -> Self {
        PeerIds {
            max: max_clients,
            fresh: 0,
            free: BTreeSet::new(),
            resting: VecDeque::new(),
        }
    }

    /// A peer-id; `None` if there are as many clients as there may be.
    pub fn acquire(&mut self, now: Instant) -> Option<u32> {
        while let Some(&(since, id)) = self.resting.front()
            && now.saturating_duration_since(since) >= REST
        {
            self.resting.pop_front();
            self.free.insert(id);
        }
        if let Some(id) = self.free.pop_first() {
            return Some(id);
        }
        if self.fresh < self.max {
            self.fresh += 1;
            return Some(self.fresh - 1);
        }
        self.resting.pop_front().map(|(_, id)| id)
    }

    /// Gives a peer-id back, once.
    pub fn release(&mut self, id: u32, now: Instant) {
        debug_assert!(
            id < self.fresh
                && !self.free.contains(&id)
                && self.resting.iter().all(|(_, resting)| *resting != id),
            "peer-id {id} is not in use"
        );
        self.resting.push_back((now, id));
    }

    /// How many are in use.
    pub fn in_use(&self) -> u32 {
        self.fresh - (self.free.len() + self.resting.len()) as u32
    }

    /// Whether there are as many clients as there may be.
    pub fn is_full(&self) -> bool {
        self.in_use() >= self.max
    }
}

/// Which clients have which common name.
#[derive(Debug, Default)]
pub struct CommonNames {
    duplicates: bool,
    clients: BTreeMap<String, Vec<PeerHandle>>,
}

impl CommonNames {
    /// No clients yet. With `duplicates` (`duplicate-cn`) several may have one name.
    pub fn new(duplicates: bool) -> Self {
        CommonNames {
            duplicates,
            clients: BTreeMap::new(),
        }
    }

    /// A client with this name was authenticated. Those that have to go for it are left out from
    /// now on. Without a name (no certificate) a client is not known, and nobody has to go.
    #[must_use = "these clients have to go"]
    pub fn enter(&mut self, common_name: &str, client: PeerHandle) -> Vec<PeerHandle> {
        if common_name.is_empty() {
            return Vec::new();
        }
        let named = self.clients.entry(common_name.to_owned()).or_default();
        let older = match self.duplicates {
            true => Vec::new(),
            false => std::mem::take(named),
        };
        if !named.contains(&client) {
            named.push(client);
        }
        older.into_iter().filter(|older| *older != client).collect()
    }

    /// A client with this name is gone.
    pub fn leave(&mut self, common_name: &str, client: PeerHandle) {
        if let Some(named) = self.clients.get_mut(common_name) {
            named.retain(|known| *known != client);
            if named.is_empty() {
                self.clients.remove(common_name);
            }
        }
    }

    /// The clients with this name.
    pub fn of(&self, common_name: &str) -> &[PeerHandle] {
        self.clients.get(common_name).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn peer_ids_rest_when_there_are_others() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut ids = PeerIds::new(3);
        assert_eq!(ids.acquire(at(0)), Some(0));
        assert_eq!(ids.acquire(at(0)), Some(1));
        ids.release(0, at(1));
        assert_eq!(ids.acquire(at(2)), Some(2), "not 0 again so soon");
        assert!(!ids.is_full());
        assert_eq!(ids.acquire(at(3)), Some(0), "but rather than none");
        assert!(ids.is_full());
        assert_eq!(ids.acquire(at(3)), None);
        ids.release(2, at(4));
        ids.release(1, at(5));
        assert_eq!(ids.acquire(at(65)), Some(1), "the lowest of the rested");
        assert_eq!(ids.acquire(at(65)), Some(2));
        assert_eq!(PeerIds::new(0).acquire(at(0)), None);
    }

    proptest! {
        #[test]
        fn nobody_shares_a_peer_id(
            steps in proptest::collection::vec((any::<bool>(), any::<usize>(), 0u64..40), 0..100),
        ) {
            let mut now = Instant::now();
            let mut ids = PeerIds::new(5);
            let mut used: Vec<u32> = Vec::new();
            for (come, which, seconds) in steps {
                now += Duration::from_secs(seconds);
                if come {
                    match ids.acquire(now) {
                        Some(id) => {
                            prop_assert!(id < 5 && !used.contains(&id));
                            used.push(id);
                        }
                        None => prop_assert_eq!(used.len(), 5),
                    }
                } else if !used.is_empty() {
                    ids.release(used.swap_remove(which % used.len()), now);
                }
                prop_assert_eq!(ids.in_use() as usize, used.len());
                prop_assert_eq!(ids.is_full(), used.len() == 5);
            }
        }
    }

    #[test]
    fn the_older_client_goes() {
        let (a, b, c) = (PeerHandle(1), PeerHandle(2), PeerHandle(3));
        let mut names = CommonNames::new(false);
        assert_eq!(names.enter("x", a), []);
        assert_eq!(names.enter("x", a), [], "a renegotiation");
        assert_eq!(names.enter("y", b), []);
        assert_eq!(names.enter("x", c), [a]);
        names.leave("x", a);
        assert_eq!(names.of("x"), [c]);
        names.leave("x", c);
        assert_eq!(names.of("x"), []);
        assert_eq!(names.clients.len(), 1);
    }

    #[test]
    fn clients_without_a_name_leave_each_other_alone() {
        let mut names = CommonNames::new(false);
        assert_eq!(names.enter("", PeerHandle(1)), []);
        assert_eq!(names.enter("", PeerHandle(2)), []);
        names.leave("", PeerHandle(1));
        assert!(names.of("").is_empty() && names.clients.is_empty());
    }

    #[test]
    fn several_with_one_name() {
        let (a, b) = (PeerHandle(1), PeerHandle(2));
        let mut names = CommonNames::new(true);
        assert_eq!(names.enter("x", a), []);
        assert_eq!(names.enter("x", b), []);
        assert_eq!(names.of("x"), [a, b]);
        names.leave("x", a);
        assert_eq!(names.of("x"), [b]);
    }
}
