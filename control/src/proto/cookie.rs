//! The cookie of the stateless UDP handshake (protocol document §3).
//!
//! A server answers a first packet with a session id that is a MAC of the client's address and
//! session id and of the time, and keeps nothing. A client that echoes it has proved that it receives
//! at its address, and only then is memory spent on it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use aws_lc_rs::{constant_time, hmac};

use super::packet::SessionId;

/// Time slots, the current one included, whose cookies are taken.
const SLOTS: u64 = 3;

/// Makes and checks cookies.
pub struct CookieJar {
    key: hmac::Key,
    slot_secs: u64,
}

impl CookieJar {
    /// `key` is random and lives as long as the process; a slot is half of `hand_window`.
    pub fn new(key: &[u8; 32], hand_window: Duration) -> Self {
        CookieJar {
            key: hmac::Key::new(hmac::HMAC_SHA256, key),
            slot_secs: hand_window.as_secs().saturating_add(1).div_euclid(2).max(1),
        }
    }

    /// The server's session id for a client, at `unix` seconds.
    pub fn session_id(&self, unix: u64, client: SocketAddr, client_sid: SessionId) -> SessionId {
        self.cookie(unix / self.slot_secs, client, client_sid)
    }

    /// Whether `echoed` was given to this client in the current slot or the two before.
    pub fn is_valid(
        &self,
        unix: u64,
        client: SocketAddr,
        client_sid: SessionId,
        echoed: SessionId,
    ) -> bool {
        let current = unix / self.slot_secs;
        (0..SLOTS).any(|back| {
            current.checked_sub(back).is_some_and(|slot| {
                let cookie = self.cookie(slot, client, client_sid);
                constant_time::verify_slices_are_equal(&cookie.0, &echoed.0).is_ok()
            })
        })
    }

    fn cookie(&self, slot: u64, client: SocketAddr, client_sid: SessionId) -> SessionId {
        let mut mac = hmac::Context::with_key(&self.key);
        mac.update(&slot.to_be_bytes());
        match client.ip() {
            IpAddr::V4(ip) => {
                mac.update(&[4]);
                mac.update(&ip.octets());
            }
            IpAddr::V6(ip) => {
                mac.update(&[6]);
                mac.update(&ip.octets());
            }
        }
        mac.update(&client.port().to_be_bytes());
        mac.update(&client_sid.0);
        let mut sid = SessionId([0; 8]);
        sid.0.copy_from_slice(&mac.sign().as_ref()[..8]);
        if sid.is_zero() {
            // Zero is no session id; still the same for the same client.
            sid.0[7] = 1;
        }
        sid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SID: SessionId = SessionId(*b"client 1");

    fn jar(key: u8) -> CookieJar {
        CookieJar::new(&[key; 32], Duration::from_secs(60))
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn cookies_last_from_60_to_90_seconds() {
        let jar = jar(1);
        let client = address("192.0.2.1:1194");
        for start in [9000, 9015, 9029] {
            let cookie = jar.session_id(start, client, SID);
            for later in [0, 1, 30, 60] {
                assert!(jar.is_valid(start + later, client, SID, cookie), "{later}");
            }
            assert!(!jar.is_valid(start + 90, client, SID, cookie));
            assert!(!jar.is_valid(start - 30, client, SID, cookie), "the future");
        }
    }

    #[test]
    fn everything_counts() {
        let jar1 = jar(1);
        let client = address("192.0.2.1:1194");
        let cookie = jar1.session_id(9000, client, SID);
        for other in ["192.0.2.2:1194", "192.0.2.1:1195", "[2001:db8::1]:1194"] {
            assert!(!jar1.is_valid(9000, address(other), SID, cookie), "{other}");
        }
        assert!(!jar1.is_valid(9000, client, SessionId(*b"client 2"), cookie));
        assert!(!jar(2).is_valid(9000, client, SID, cookie));
        let mut wrong = cookie;
        wrong.0[7] ^= 1;
        assert!(!jar1.is_valid(9000, client, SID, wrong));
    }

    #[test]
    fn early_times_and_short_windows_never_panic() {
        let jar = CookieJar::new(&[0; 32], Duration::ZERO);
        let client = address("192.0.2.1:1");
        let cookie = jar.session_id(0, client, SID);
        assert!(jar.is_valid(0, client, SID, cookie));
        let _ = CookieJar::new(&[0; 32], Duration::MAX).session_id(u64::MAX, client, SID);
    }
}
