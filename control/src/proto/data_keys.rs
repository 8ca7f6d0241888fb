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
}

impl DataKeyTable {
    pub(super) fn new(tran_window: Duration) -> Self {
        DataKeyTable {
            tran_window,
            keys: Vec::new(),
            sending: None,
            next: None,
        }
    }

    /// A key was made. With `new_session` every older key belongs to a session that is gone.
    pub(super) fn installed(
        &mut self,
        key_id: u8,
        new_session: bool,
        defer_until: Instant,
        now: Instant,
    ) {
        self.keys.retain(|k| k.key_id != key_id);
        for key in &mut self.keys {
            let end = now + self.tran_window;
            key.must_die = Some(match key.must_die {
                _ if new_session => now,
                Some(at) => at.min(end),
                None => end,
            });
        }
        self.keys.push(DataKey {
            key_id,
            must_die: None,
        });
        let at = if new_session || self.sending.is_none() {
            now
        } else {
            // Never so late that the peer has already forgotten the old key.
            defer_until
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

    #[test]
    fn the_first_key_sends_at_once_and_the_second_waits() {
        let t = Instant::now();
        let mut keys = DataKeyTable::new(3600 * S);
        keys.installed(0, true, t + 60 * S, t);
        assert_eq!(keys.poll(t), [KeyChange::Use(0)]);
        keys.retire_sending(t + 100 * S);
        keys.installed(1, false, t + 160 * S, t + 101 * S);
        assert_eq!(keys.poll(t + 159 * S), []);
        assert_eq!(keys.sending(), Some(0));
        assert_eq!(keys.poll(t + 160 * S), [KeyChange::Use(1)]);
        assert_eq!(keys.poll(t + 3699 * S), []);
        assert_eq!(keys.poll(t + 3700 * S), [KeyChange::Remove(0)]);
    }

    #[test]
    fn a_new_session_ends_every_older_key() {
        let t = Instant::now();
        let mut keys = DataKeyTable::new(3600 * S);
        keys.installed(0, true, t, t);
        keys.poll(t);
        keys.installed(1, false, t, t);
        keys.poll(t + 2 * S);
        keys.installed(0, true, t + 60 * S, t + 3 * S);
        assert_eq!(
            keys.poll(t + 3 * S),
            [KeyChange::Use(0), KeyChange::Remove(1)]
        );
    }

    #[test]
    fn a_short_transition_window_does_not_strand_the_sender() {
        let t = Instant::now();
        let mut keys = DataKeyTable::new(2 * S);
        keys.installed(0, true, t, t);
        keys.poll(t);
        keys.retire_sending(t + 10 * S);
        keys.installed(1, false, t + 70 * S, t + 10 * S);
        assert_eq!(keys.poll(t + 11 * S), [KeyChange::Use(1)]);
    }
}
