//! Two whole control channels with fixed certificates, and the wire between them.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use ringway::proto::negotiate::Preferences;
use ringway::proto::tunnel::{Event, Mode, Transport, Tunnel, TunnelConfig};
use ringway::proto::wrap::{StaticKey, WrapConfig};
use ringway::proto::{Now, TlsRole};
use ringway::tls::{TlsContext, TlsSettings};
use ringway_dataplane::command::Endpoint;
use ringway_dataplane::framing::Framing;
use ringway_dataplane::key_slot::{Cipher, Digest};

static CONTEXTS: LazyLock<[Arc<TlsContext>; 2]> =
    LazyLock::new(|| [context(TlsRole::Client), context(TlsRole::Server)]);

/// One end with its clock and what it wants to send.
pub struct End {
    /// The control channel.
    pub tunnel: Tunnel,
    /// Its address.
    pub endpoint: Endpoint,
    /// Keys it has been told to send with, since the start.
    pub keys_used: usize,
    /// Whether it has given up.
    pub failed: bool,
    role: TlsRole,
    kind: u8,
    starts: u8,
}

/// Time as both ends see it, `after` the start.
pub fn now(start: Instant, after: Duration) -> Now {
    Now {
        instant: start + after,
        unix: 1_800_000_000 + after.as_secs(),
    }
}

impl End {
    /// The client's (0) or the server's (1) end; `kind` chooses the wrap, and whether
    /// the server calls too.
    pub fn new(role: TlsRole, kind: u8, start: Instant) -> Self {
        Self::started(role, kind, now(start, Duration::ZERO), 0)
    }

    /// The same program once more, which remembers nothing.
    pub fn restart(&mut self, now: Now) {
        *self = Self::started(self.role, self.kind, now, self.starts.wrapping_add(1));
    }

    /// Whether it waits for the other end to call.
    pub fn waits(&self) -> bool {
        self.role == TlsRole::Server && (self.kind / 3).is_multiple_of(2)
    }

    /// Whether its wrapping authenticates.
    pub fn is_wrapped(&self) -> bool {
        !self.kind.is_multiple_of(3)
    }

    fn started(role: TlsRole, kind: u8, now: Now, starts: u8) -> Self {
        let ports = match role {
            TlsRole::Client => [1000, 1194],
            TlsRole::Server => [1194, 1000],
        };
        let [own, far] = ports.map(|port| Endpoint::new(([192, 0, 2, 1], port).into()));
        let key = StaticKey::new([9; 256]);
        let wrap = match kind % 3 {
            0 => WrapConfig::None,
            1 => WrapConfig::TlsAuth {
                key,
                direction: None,
                digest: Digest::Sha1,
            },
            _ => WrapConfig::TlsCrypt { key },
        };
        let config = TunnelConfig {
            role,
            mode: Mode::PointToPoint,
            transport: Transport::Udp,
            wrap,
            client_wraps: None,
            tls: tls(role),
            remote: (role == TlsRole::Client || kind / 3 % 2 == 1).then_some(far),
            float: false,
            single_session: false,
            options: "V4,dev-type tun,link-mtu 1549,tun-mtu 1500,proto UDPv4".to_owned(),
            compare_options: true,
            peer_info: Some("IV_VER=2.6.14\nIV_PROTO=746\nIV_CIPHERS=AES-256-GCM\n".to_owned()),
            username: None,
            password: None,
            preferences: Preferences {
                data_ciphers: vec![Cipher::Aes256Gcm],
                fallback: None,
                digest: Digest::Sha1,
                framing: Framing::None,
            },
            tls_timeout: Duration::from_secs(2),
            hand_window: Duration::from_secs(60),
            tran_window: Duration::from_secs(3600),
            reneg_sec: Duration::from_secs(3600),
            reneg_bytes: 0,
            reneg_pkts: 0,
            max_packet_size: 1250,
        };
        let mut seed = [1 + own.remote.port() as u8; 32];
        seed[0] = starts;
        let tunnel = Tunnel::new(config, now, seed);
        End {
            tunnel,
            endpoint: own,
            keys_used: 0,
            failed: false,
            role,
            kind,
            starts,
        }
    }

    /// Takes everything it wants to send and notes its events.
    ///
    /// # Panics
    /// When it never stops, says something after it has failed, keeps too much, or sends what is no
    /// control packet.
    pub fn drain(&mut self, now: Now, out: &mut Vec<Vec<u8>>) {
        let mut datagram = Vec::new();
        let mut count = 0;
        while self.tunnel.poll_transmit(now, &mut datagram).is_some() {
            assert!((14..=1222).contains(&datagram.len()), "odd datagram");
            out.push(datagram.clone());
            count += 1;
            assert!(count < 1000, "sends without end");
        }
        while let Some(event) = self.tunnel.poll_event() {
            count += 1;
            assert!(count < 10_000, "events without end");
            assert!(!self.failed, "{event:?} after the end");
            match event {
                Event::UseKey(_) => self.keys_used += 1,
                Event::Failed { .. } => self.failed = true,
                _ => {}
            }
        }
        assert!(self.tunnel.retained() < 300 * 1024, "keeps too much");
    }

    /// Does what is due.
    ///
    /// # Panics
    /// When something is due at the same time for ever.
    pub fn handle_timeout(&mut self, now: Now, out: &mut Vec<Vec<u8>>) {
        self.tunnel.handle_timeout(now);
        self.drain(now, out);
        let due = self.tunnel.poll_timeout();
        assert!(due.is_none_or(|at| at > now.instant), "wakes for nothing");
    }
}

/// What both ends' certificates say.
pub(crate) fn tls(role: TlsRole) -> Arc<TlsContext> {
    CONTEXTS[usize::from(role == TlsRole::Server)].clone()
}

fn context(role: TlsRole) -> Arc<TlsContext> {
    let (cert, key): (&[u8], &[u8]) = match role {
        TlsRole::Client => (
            include_bytes!("testdata/client.crt"),
            include_bytes!("testdata/client.key"),
        ),
        TlsRole::Server => (
            include_bytes!("testdata/server.crt"),
            include_bytes!("testdata/server.key"),
        ),
    };
    let mut settings = TlsSettings::new(role);
    settings.ca = include_bytes!("testdata/ca.crt").to_vec();
    settings.cert = Some(cert.to_vec());
    settings.key = Some(key.to_vec());
    let (context, _) = TlsContext::new(&settings).expect("fixed certificates");
    Arc::new(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without this the session target could exercise nothing but the first packets.
    #[test]
    fn the_two_ends_complete_a_handshake() {
        for kind in 0..3 {
            let start = Instant::now();
            let mut ends =
                [TlsRole::Client, TlsRole::Server].map(|role| End::new(role, kind, start));
            for _ in 0..20 {
                for from in [0, 1] {
                    let mut out = Vec::new();
                    ends[from].drain(now(start, Duration::ZERO), &mut out);
                    let source = ends[from].endpoint;
                    for mut datagram in out {
                        let to = &mut ends[1 - from].tunnel;
                        to.handle_datagram(now(start, Duration::ZERO), source, &mut datagram);
                    }
                }
            }
            assert!(
                ends.iter().all(|end| end.keys_used == 1 && !end.failed),
                "wrap {kind}"
            );
        }
    }
}
