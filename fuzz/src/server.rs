//! A server with one client: an acceptor, the tunnel it leads to, and a driver that does what an input
//! says.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ringway::proto::acceptor::{Acceptor, AcceptorConfig, Verdict};
use ringway::proto::negotiate::{Preferences, Pushed};
use ringway::proto::peer_info::iv_proto;
use ringway::proto::rate::RateLimit;
use ringway::proto::tunnel::{Command, Event, Mode, Serve, Transport, Tunnel, TunnelConfig};
use ringway::proto::wrap::tls_crypt_v2::{Metadata, ServerKey};
use ringway::proto::wrap::{ClientWraps, StaticKey, V2Server, WrapConfig};
use ringway::proto::{Now, TlsRole};
use ringway_dataplane::command::Endpoint;
use ringway_dataplane::framing::Framing;
use ringway_dataplane::key_slot::{Cipher, Digest};

use crate::tunnels::tls;

/// Number of wrappings [`client_wrap`] can make.
pub const WRAPS: u8 = 4;

/// What a client comes in: nothing, tls-auth, tls-crypt, tls-crypt-v2.
///
/// # Panics
/// Never: the key is fixed.
pub fn client_wrap(kind: u8) -> WrapConfig {
    let key = StaticKey::new([9; 256]);
    match kind % WRAPS {
        0 => WrapConfig::None,
        1 => WrapConfig::TlsAuth {
            key,
            direction: None,
            digest: Digest::Sha1,
        },
        2 => WrapConfig::TlsCrypt { key },
        _ => {
            let metadata = Metadata::Created(1_800_000_000);
            let wkc = server_key().wrap_client_key(&key, &metadata);
            WrapConfig::TlsCryptV2Client {
                key,
                wkc: wkc.expect("short metadata"),
            }
        }
    }
}

fn server_key() -> ServerKey {
    ServerKey::new([5; 128])
}

/// What a server takes such a client in.
pub fn server_wraps(kind: u8) -> Arc<ClientWraps> {
    Arc::new(match kind % WRAPS {
        3 => ClientWraps {
            fixed: client_wrap(2),
            v2: Some(V2Server {
                key: server_key(),
                force_cookie: kind & 0x40 != 0,
                max_age: (kind & 0x20 != 0).then_some(1),
            }),
        },
        fixed => ClientWraps::fixed(client_wrap(fixed)),
    })
}

/// An acceptor for such clients.
pub fn acceptor(kind: u8) -> Acceptor {
    Acceptor::new(AcceptorConfig {
        wraps: server_wraps(kind),
        hand_window: Duration::from_secs(60),
        answers: RateLimit::new(100, Duration::from_secs(10)),
        accepts: (kind & 0x80 != 0).then(|| RateLimit::new(2, Duration::from_secs(10))),
        cookie_key: [3; 32],
    })
}

/// A configuration of either end; `kind` chooses the wrap and the transport.
pub fn config(role: TlsRole, kind: u8) -> TunnelConfig {
    let second = Duration::from_secs(1);
    let client = role == TlsRole::Client;
    TunnelConfig {
        role,
        mode: if client { Mode::Pull } else { Mode::Server },
        transport: transport(kind),
        wrap: if client {
            client_wrap(kind)
        } else {
            WrapConfig::None
        },
        client_wraps: (!client).then(|| server_wraps(kind)),
        tls: tls(role),
        remote: client.then(|| endpoint(TlsRole::Server)),
        float: false,
        single_session: false,
        options: "V4,dev-type tun,link-mtu 1549,tun-mtu 1500,proto UDPv4".to_owned(),
        compare_options: true,
        peer_info: client
            .then(|| "IV_VER=2.6.14\nIV_PROTO=8094\nIV_CIPHERS=AES-256-GCM\n".to_owned()),
        username: client.then(|| "user".to_owned()),
        password: client.then(|| "password".to_owned()),
        preferences: preferences(),
        tls_timeout: 2 * second,
        hand_window: 60 * second,
        tran_window: 3600 * second,
        reneg_sec: 3600 * second,
        reneg_bytes: 0,
        reneg_pkts: 0,
        max_packet_size: 1250,
    }
}

fn preferences() -> Preferences {
    Preferences {
        data_ciphers: vec![Cipher::Aes256Gcm],
        fallback: None,
        digest: Digest::Sha1,
        framing: Framing::None,
    }
}

/// What such an end's packets travel by.
pub fn transport(kind: u8) -> Transport {
    if kind & 0x10 == 0 {
        Transport::Udp
    } else {
        Transport::Tcp
    }
}

/// Where an end is.
pub fn endpoint(role: TlsRole) -> Endpoint {
    let port = match role {
        TlsRole::Client => 1000,
        TlsRole::Server => 1194,
    };
    Endpoint::new(([192, 0, 2, 1], port).into())
}

/// The server, with whatever it has for its client.
pub struct Server {
    /// Judges what comes while there is no tunnel.
    pub acceptor: Acceptor,
    /// The client's tunnel.
    pub tunnel: Option<Tunnel>,
    /// The last question about the client.
    pub request: u32,
    /// Answers of an agreeable driver are given at once.
    pub agreeable: bool,
    /// Keys it has been told to send with.
    pub keys_used: usize,
    kind: u8,
}

impl Server {
    /// Over TCP the client has connected just now.
    pub fn new(kind: u8, agreeable: bool, now: Now) -> Self {
        let tunnel = (transport(kind) == Transport::Tcp).then(|| {
            let config = config(TlsRole::Server, kind);
            Tunnel::listen(config, endpoint(TlsRole::Client), now, [8; 32])
        });
        Server {
            acceptor: acceptor(kind),
            tunnel,
            request: 0,
            agreeable,
            keys_used: 0,
            kind,
        }
    }

    /// A datagram from the client's address. What it is answered with goes to `out`.
    pub fn take(&mut self, now: Now, datagram: &mut [u8], out: &mut Vec<Vec<u8>>) {
        let from = endpoint(TlsRole::Client);
        if let Some(tunnel) = &mut self.tunnel {
            tunnel.handle_datagram(now, from, datagram);
        } else if transport(self.kind) == Transport::Udp {
            match self.acceptor.judge(now, from, datagram) {
                Verdict::Drop(_) => {}
                Verdict::Reply(reply) => out.push(reply),
                Verdict::Accept(accepted) => {
                    let config = config(TlsRole::Server, self.kind);
                    self.tunnel = Some(Tunnel::accept(config, &accepted, from, now, [8; 32]));
                }
            }
        }
        self.drain(now, out);
    }

    /// Tells the tunnel something, if there is one.
    pub fn command(&mut self, now: Now, command: Command, out: &mut Vec<Vec<u8>>) {
        if let Some(tunnel) = &mut self.tunnel {
            tunnel.handle_command(now, command);
        }
        self.drain(now, out);
    }

    /// Does what is due.
    ///
    /// # Panics
    /// When something is due at the same time for ever.
    pub fn handle_timeout(&mut self, now: Now, out: &mut Vec<Vec<u8>>) {
        if let Some(tunnel) = &mut self.tunnel {
            tunnel.handle_timeout(now);
        }
        self.drain(now, out);
        let due = self.tunnel.as_ref().and_then(Tunnel::poll_timeout);
        assert!(due.is_none_or(|at| at > now.instant), "wakes for nothing");
    }

    /// Takes what it wants to send, and its events.
    ///
    /// # Panics
    /// When it never stops, keeps too much, or sends what is no control packet.
    pub fn drain(&mut self, now: Now, out: &mut Vec<Vec<u8>>) {
        for _ in 0..1000 {
            let Some(tunnel) = &mut self.tunnel else {
                return;
            };
            let mut datagram = Vec::new();
            let mut count = 0;
            while tunnel.poll_transmit(now, &mut datagram).is_some() {
                assert!((14..=1222).contains(&datagram.len()), "odd datagram");
                out.push(datagram.clone());
                count += 1;
                assert!(count < 1000, "sends without end");
            }
            assert!(tunnel.retained() < 300 * 1024, "keeps too much");
            let Some(event) = tunnel.poll_event() else {
                return;
            };
            let answer = match event {
                Event::Failed { .. } => {
                    self.tunnel = None;
                    return;
                }
                Event::UseKey(_) => {
                    self.keys_used += 1;
                    None
                }
                Event::Authenticate(request) => {
                    self.request = request.request;
                    Some(Command::Authenticated {
                        request: request.request,
                    })
                }
                Event::Ready => Some(serve()),
                _ => None,
            };
            if let Some(answer) = answer.filter(|_| self.agreeable) {
                tunnel.handle_command(now, answer);
            }
        }
        panic!("events without end");
    }
}

/// What every client gets.
pub fn serve() -> Command {
    Command::Serve(Box::new(Serve {
        preferences: preferences(),
        features: iv_proto::PULL,
        peer_id: Some(0),
        push: vec!["ping 10".to_owned()],
        tokens: vec!["auth-token SESS_ID_x".to_owned()],
        tun_mtu: Some(1500),
        username: None,
        extensions: 0,
    }))
}

/// What the client makes of that.
pub fn pulled() -> Command {
    Command::Pulled(Pushed {
        cipher: Some(Cipher::Aes256Gcm),
        peer_id: Some(0),
        ekm: true,
        cc_exit: true,
        dyn_tls_crypt: true,
        aead_epoch: true,
        framing: None,
    })
}

/// Time as both ends see it, `after` the start.
pub fn now(start: Instant, after: Duration) -> Now {
    crate::tunnels::now(start, after)
}

/// The client, and the wire to its server.
pub struct Wire {
    /// Time since the start.
    pub time: Duration,
    /// One end.
    pub client: Tunnel,
    /// The other.
    pub server: Server,
    /// Datagrams under way, and whether they go to the server.
    pub flight: std::collections::VecDeque<(bool, Vec<u8>)>,
    /// Keys the client has been told to send with.
    pub keys_used: usize,
    start: Instant,
}

impl Wire {
    /// The client calls at once.
    pub fn new(kind: u8, agreeable: bool) -> Self {
        let start = Instant::now();
        let begin = now(start, Duration::ZERO);
        Wire {
            time: Duration::ZERO,
            client: Tunnel::new(config(TlsRole::Client, kind), begin, [7; 32]),
            server: Server::new(kind, agreeable, begin),
            flight: std::collections::VecDeque::new(),
            keys_used: 0,
            start,
        }
    }

    /// The time.
    pub fn now(&self) -> Now {
        now(self.start, self.time)
    }

    /// Takes what both ends want to send, and the client's events.
    ///
    /// # Panics
    /// When an end never stops, or keeps too much.
    pub fn drain(&mut self) {
        let now = self.now();
        let mut out = Vec::new();
        self.server.drain(now, &mut out);
        self.flight.extend(out.into_iter().map(|d| (false, d)));
        for _ in 0..1000 {
            let mut datagram = Vec::new();
            while self.client.poll_transmit(now, &mut datagram).is_some() {
                self.flight.push_back((true, datagram.clone()));
                assert!(self.flight.len() < 10_000, "more and more datagrams");
            }
            assert!(self.client.retained() < 300 * 1024, "keeps too much");
            match self.client.poll_event() {
                Some(Event::PushReply(_)) => self.client.handle_command(now, pulled()),
                Some(Event::UseKey(_)) => self.keys_used += 1,
                Some(_) => {}
                None => return,
            }
        }
        panic!("events without end");
    }

    /// A datagram arrives at one end.
    pub fn deliver(&mut self, to_server: bool, mut datagram: Vec<u8>) {
        let now = self.now();
        if to_server {
            let mut out = Vec::new();
            self.server.take(now, &mut datagram, &mut out);
            self.flight.extend(out.into_iter().map(|d| (false, d)));
        } else {
            let from = endpoint(TlsRole::Server);
            self.client.handle_datagram(now, from, &mut datagram);
        }
    }

    /// Tells the server's tunnel something.
    pub fn command(&mut self, command: Command) {
        let mut out = Vec::new();
        self.server.command(self.now(), command, &mut out);
        self.flight.extend(out.into_iter().map(|d| (false, d)));
    }

    /// Time passes.
    pub fn pass(&mut self, time: Duration) {
        self.time += time;
        let now = self.now();
        let mut out = Vec::new();
        self.server.handle_timeout(now, &mut out);
        self.flight.extend(out.into_iter().map(|d| (false, d)));
        self.client.handle_timeout(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without this the target could exercise nothing but the first packets.
    #[test]
    fn an_agreeable_server_connects_its_client() {
        for kind in (0..WRAPS).chain(0x10..0x10 + WRAPS) {
            let mut wire = Wire::new(kind, true);
            for _ in 0..200 {
                wire.drain();
                if let Some((to_server, datagram)) = wire.flight.pop_front() {
                    wire.deliver(to_server, datagram);
                }
            }
            assert_eq!((wire.keys_used, wire.server.keys_used), (1, 1), "{kind:#x}");
        }
    }
}
