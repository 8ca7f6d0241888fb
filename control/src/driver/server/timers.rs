//! When each client's control channel wants to be woken: thousands of deadlines, of which few change
//! at a time.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use ringway_dataplane::command::PeerHandle;

/// The deadlines of all clients, the nearest first.
#[derive(Debug, Default)]
pub(super) struct Timers {
    queue: BTreeSet<(Instant, PeerHandle)>,
    set: HashMap<PeerHandle, Instant>,
}

impl Timers {
    /// Sets the one deadline of a client, or takes it away.
    pub(super) fn set(&mut self, client: PeerHandle, at: Option<Instant>) {
        let before = match at {
            Some(at) => self.set.insert(client, at),
            None => self.set.remove(&client),
        };
        if before == at {
            return;
        }
        if let Some(before) = before {
            self.queue.remove(&(before, client));
        }
        if let Some(at) = at {
            self.queue.insert((at, client));
        }
    }

    /// The nearest deadline.
    pub(super) fn next(&self) -> Option<Instant> {
        self.queue.first().map(|&(at, _)| at)
    }

    /// The clients whose deadline has come; their deadlines are gone then.
    pub(super) fn due(&mut self, now: Instant) -> Vec<PeerHandle> {
        std::iter::from_fn(|| self.pop(now)).collect()
    }

    fn pop(&mut self, now: Instant) -> Option<PeerHandle> {
        let &(at, client) = self.queue.first()?;
        if at > now {
            return None;
        }
        self.queue.pop_first();
        self.set.remove(&client);
        Some(client)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_nearest_comes_first_and_a_new_deadline_replaces_the_old() {
        let mut timers = Timers::default();
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        for (client, s) in [(1, 5), (2, 3), (3, 9)] {
            timers.set(PeerHandle(client), Some(at(s)));
        }
        timers.set(PeerHandle(2), Some(at(7)));
        timers.set(PeerHandle(3), None);
        assert_eq!(timers.next(), Some(at(5)));
        assert_eq!(timers.due(at(4)), []);
        assert_eq!(timers.due(at(8)), [PeerHandle(1), PeerHandle(2)]);
        assert_eq!(timers.due(at(99)), []);
        // Two clients at the same moment are both found.
        timers.set(PeerHandle(4), Some(at(1)));
        timers.set(PeerHandle(5), Some(at(1)));
        assert_eq!(timers.due(at(1)), [PeerHandle(4), PeerHandle(5)]);
    }
}
