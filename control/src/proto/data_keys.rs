//! Which data keys exist, which one sends, and when one begins or ends.
//!
//! A new key is accepted for receiving at once. It sends only after a deferral, because the peer may
//! install its own copy later (protocol §2.6). A key that a renegotiation replaces stays valid for
//! receiving until its transition window ends (protocol §2.5).

use std::time::{Duration, Instant};

/// Longest a new key waits after it was made, when the peer's timers are coarse.
const SETTLE: Duration = Duration::from_secs(2);

/// What the data plane must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyChange {
    Use(u8),
    Remove(u8),
}

struct DataKey {
    key_id: u8,
    must_die: Option<Instant>,
}

/// The data keys of one peer.
pub(super) struct DataKeyTable {
    tran_window: Duration,
    keys: Vec<DataKey>,
    sending: Option<u8>,
    /// The key that sends next, and from when.
    next: Option<(u8, Instant)>,
    /// When the newest key was made.
    newest: Option<Instant>,
}

impl DataKeyTable {
    pub(super) fn new(tran_window: Duration) -> Self {
        DataKeyTable {
            tran_window,
            keys: Vec::new(),
            sending: None,
            next: None,
            newest: None,
        }
    }

    /// A key was made: it receives from now on.
    pub(super) fn installed(&mut self, key_id: u8) {
        self.keys.retain(|k| k.key_id != key_id);
        self.keys.push(DataKey {
            key_id,
            must_die: None,
        });
        if self.next.is_some_and(|(next, _)| next == key_id) {
            self.next = None;
        }
    }

    /// The peer has the key `key_id` too, made by a negotiation that began at `started`: it will
    /// send. With `new_session` every older key belongs to a session that is gone. `longest` is the
    /// longest deferral of the new key.
    ///
    /// The deferral is also at most half the time since the key before: the peer may renegotiate
    /// more often than we would, and forgets the old key when its next renegotiation begins.
    pub(super) fn ready(
        &mut self,
        key_id: u8,
        new_session: bool,
        started: Instant,
        longest: Duration,
        now: Instant,
    ) {
        let end = if new_session {
            now
        } else {
            now + self.tran_window
        };
        for key in self.keys.iter_mut().filter(|k| k.key_id != key_id) {
            key.must_die = Some(key.must_die.map_or(end, |at| at.min(end)));
        }
        let since_last = self
            .newest
            .replace(now)
            .map(|t| started.saturating_duration_since(t));
        let wait = since_last.map_or(longest, |d| longest.min(d / 2));
        let at = if new_session || self.sending.is_none() {
            now
        } else {
            // Never so late that the peer has already forgotten the old key.
            (started + wait)
                .max(now + SETTLE)
                .min(now + self.tran_window / 2)
        };
        self.next = Some((key_id, at));
    }

    /// A renegotiation begins: the key in use has its last window.
    pub(super) fn retire_sending(&mut self, now: Instant) {
        // A key that was to send next must begin now: its successor is coming.
        if let Some((_, at)) = &mut self.next {
            *at = now;
        }
        self.keep_until_dead(now);
    }

    /// Gives every key that has no end yet its transition window.
    pub(super) fn keep_until_dead(&mut self, now: Instant) {
        for key in &mut self.keys {
            key.must_die.get_or_insert(now + self.tran_window);
        }
    }

    /// Some key can still carry data.
    pub(super) fn any_alive(&self) -> bool {
        !self.keys.is_empty()
    }

    /// The key that sends now.
    pub(super) fn sending(&self) -> Option<u8> {
        self.sending
    }

    /// When [`poll`](Self::poll) has something to say next.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let die = self.keys.iter().filter_map(|k| k.must_die);
        die.chain(self.next.map(|(_, at)| at)).min()
    }

    /// What is due at `now`, in the order it must be done.
    pub(super) fn poll(&mut self, now: Instant) -> Vec<KeyChange> {
        let mut changes = Vec::new();
        if let Some((key_id, at)) = self.next
            && now >= at
        {
            self.next = None;
            self.sending = Some(key_id);
            changes.push(KeyChange::Use(key_id));
        }
        let sending = &mut self.sending;
        self.keys.retain(|key| {
            let dead = key.must_die.is_some_and(|at| now >= at);
            if dead {
                changes.push(KeyChange::Remove(key.key_id));
                if *sending == Some(key.key_id) {
                    *sending = None;
                }
            }
            !dead
        });
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);
    const HAND: Duration = Duration::from_secs(60);

    #[test]
    fn the_first_key_sends_at_once_and_the_second_waits() {
        let t = Instant::now();
        let mut keys = DataKeyTable::new(3600 * S);
        keys.installed(0);
        keys.ready(0, true, t, HAND, t);
        assert_eq!(keys.poll(t), [KeyChange::Use(0)]);
        keys.retire_sending(t + 1000 * S);
        keys.installed(1);
        keys.ready(1, false, t + 1000 * S, HAND, t + 1001 * S);
        assert_eq!(keys.poll(t + 1059 * S), []);
        assert_eq!(keys.sending(), Some(0));
        assert_eq!(keys.poll(t + 1060 * S), [KeyChange::Use(1)]);
        assert_eq!(keys.poll(t + 4599 * S), []);
        assert_eq!(keys.poll(t + 4600 * S), [KeyChange::Remove(0)]);
    }

    #[test]
    fn a_peer_that_rekeys_often_never_sees_a_key_it_forgot() {
        let t = Instant::now();
        let mut keys = DataKeyTable::new(3600 * S);
        keys.installed(0);
        keys.ready(0, true, t, HAND, t);
        keys.poll(t);
        for n in 1..6u32 {
            // The peer knows keys n-1 and n until it begins key n+1, eight seconds later.
            let begin = t + n * 8 * S;
            keys.retire_sending(begin);
            keys.installed(n as u8);
            keys.ready(n as u8, false, begin, HAND, begin);
            keys.poll(begin + 7 * S);
            assert_eq!(keys.sending(), Some(n as u8));
        }
    }

    #[test]
    fn a_new_session_ends_every_older_key() {
        let t = Instant::now();
        let mut keys = DataKeyTable::new(3600 * S);
        keys.installed(0);
        keys.ready(0, true, t, HAND, t);
        keys.poll(t);
        keys.installed(1);
        keys.ready(1, false, t, HAND, t);
        keys.poll(t + 2 * S);
        keys.installed(0);
        keys.ready(0, true, t, HAND, t + 3 * S);
        assert_eq!(
            keys.poll(t + 3 * S),
            [KeyChange::Use(0), KeyChange::Remove(1)]
        );
    }

    #[test]
    fn a_short_transition_window_does_not_strand_the_sender() {
        let t = Instant::now();
        let mut keys = DataKeyTable::new(2 * S);
        keys.installed(0);
        keys.ready(0, true, t, HAND, t);
        keys.poll(t);
        keys.retire_sending(t + 1000 * S);
        keys.installed(1);
        keys.ready(1, false, t + 1000 * S, HAND, t + 1000 * S);
        assert_eq!(keys.poll(t + 1001 * S), [KeyChange::Use(1)]);
    }
}
