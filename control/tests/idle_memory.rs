//! How much memory a server holds for each client that is connected and idle, its TLS session
//! included. Measured as the growth of the process, so that nothing is left out.

#![expect(
    clippy::unwrap_used,
    reason = "in a test a surprise should end the test"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use ringway::proto::acceptor::{Acceptor, AcceptorConfig, Verdict};
use ringway::proto::negotiate::{Preferences, Pushed};
use ringway::proto::peer_info::iv_proto;
use ringway::proto::rate::RateLimit;
use ringway::proto::tunnel::{Command, Event, Mode, Serve, Transport, Tunnel, TunnelConfig};
use ringway::proto::wrap::{ClientWraps, StaticKey, WrapConfig};
use ringway::proto::{Now, TlsRole};
use ringway::tls::{TlsContext, TlsSettings};
use ringway_dataplane::command::Endpoint;
use ringway_dataplane::framing::Framing;
use ringway_dataplane::key_slot::{Cipher, Digest};

/// The documented limit is 64 KiB for a client all in; the data plane needs its part of it.
const MAX_PER_CLIENT: usize = 36 * 1024;
/// Clients before anything is measured: allocators and lazy statics settle.
const WARM_UP: usize = 100;
const MEASURED: usize = 400;

fn config_of(role: TlsRole, tls: Arc<TlsContext>) -> TunnelConfig {
    let server: std::net::SocketAddr = "192.0.2.1:1194".parse().unwrap();
    let wrap = WrapConfig::TlsCrypt {
        key: StaticKey::new([7; 256]),
    };
    let second = Duration::from_secs(1);
    let is_server = role == TlsRole::Server;
    TunnelConfig {
        role,
        mode: if is_server { Mode::Server } else { Mode::Pull },
        transport: Transport::Udp,
        client_wraps: is_server.then(|| Arc::new(ClientWraps::fixed(wrap.clone()))),
        wrap: if is_server { WrapConfig::None } else { wrap },
        tls,
        remote: (!is_server).then(|| Endpoint::new(server)),
        float: false,
        single_session: false,
        options: "V4,dev-type tun,link-mtu 1549,tun-mtu 1500,proto UDPv4,auth SHA1,key-method 2"
            .to_owned(),
        compare_options: true,
        peer_info: (!is_server)
            .then(|| "IV_VER=2.7.6\nIV_CIPHERS=AES-256-GCM\nIV_PROTO=8094\n".to_owned()),
        username: (!is_server).then(|| "user".to_owned()),
        password: (!is_server).then(|| "password".to_owned()),
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

/// Connects client `n` and returns the server's tunnel for it.
fn connect(n: usize, acceptor: &mut Acceptor, configs: &[TunnelConfig; 2], now: Now) -> Tunnel {
    let address = Endpoint::new(([10, 0, (n >> 8) as u8, n as u8], 1194).into());
    let server_address = configs[1].remote.unwrap();
    let mut client = Tunnel::new(configs[1].clone(), now, [n as u8; 32]);
    let mut server: Option<Tunnel> = None;
    let mut datagram = Vec::new();
    let mut up = 0;
    for _ in 0..100 {
        while client.poll_transmit(now, &mut datagram).is_some() {
            if let Some(server) = &mut server {
                server.handle_datagram(now, address, &mut datagram);
                continue;
            }
            match acceptor.judge(now, address, &datagram) {
                Verdict::Reply(mut reply) => {
                    client.handle_datagram(now, server_address, &mut reply);
                }
                Verdict::Accept(accepted) => {
                    let config = configs[0].clone();
                    server = Some(Tunnel::accept(config, &accepted, address, now, [1; 32]));
                }
                Verdict::Drop(why) => panic!("{why:?}"),
            }
        }
        while let Some(event) = client.poll_event() {
            match event {
                Event::PushReply(_) => {
                    let pushed = Pushed {
                        cipher: Some(Cipher::Aes256Gcm),
                        peer_id: Some(n as u32),
                        ekm: true,
                        cc_exit: true,
                        dyn_tls_crypt: true,
                        aead_epoch: true,
                        framing: None,
                    };
                    client.handle_command(now, Command::Pulled(pushed));
                }
                Event::UseKey(_) => up += 1,
                _ => {}
            }
        }
        let Some(server) = &mut server else { continue };
        while let Some(event) = server.poll_event() {
            let answer = match event {
                Event::Authenticate(request) => Command::Authenticated {
                    request: request.request,
                },
                Event::Ready => Command::Serve(Box::new(Serve {
                    preferences: preferences(),
                    features: iv_proto::PULL,
                    peer_id: Some(n as u32),
                    push: vec!["ifconfig 10.8.0.2 255.255.255.0".into(); 8],
                    tokens: vec!["auth-token SESS_ID_0123456789012345678901234567890".into()],
                    tun_mtu: None,
                    username: None,
                    extensions: 0,
                })),
                Event::UseKey(_) => {
                    up += 1;
                    continue;
                }
                _ => continue,
            };
            server.handle_command(now, answer);
        }
        while server.poll_transmit(now, &mut datagram).is_some() {
            client.handle_datagram(now, server_address, &mut datagram);
        }
    }
    assert_eq!(up, 2, "both ends have keys");
    server.unwrap()
}

/// Bytes of this process in memory.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    let kilobytes: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kilobytes * 1024
}

#[test]
fn an_idle_client_takes_little() {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(ca, ca_key);
    let [server, client] = [TlsRole::Server, TlsRole::Client].map(|role| {
        let key = KeyPair::generate().unwrap();
        let mut leaf = CertificateParams::default();
        leaf.distinguished_name.push(DnType::CommonName, "peer");
        let settings = TlsSettings {
            ca: ca_pem.clone().into_bytes(),
            cert: Some(leaf.signed_by(&key, &issuer).unwrap().pem().into_bytes()),
            key: Some(key.serialize_pem().into_bytes()),
            ..TlsSettings::new(role)
        };
        config_of(role, Arc::new(TlsContext::new(&settings).unwrap().0))
    });
    let now = Now {
        instant: Instant::now(),
        unix: 1_795_374_000,
    };
    let mut acceptor = Acceptor::new(AcceptorConfig {
        wraps: server.client_wraps.clone().unwrap(),
        hand_window: server.hand_window,
        answers: RateLimit::new(0, Duration::ZERO),
        accepts: None,
        cookie_key: [1; 32],
    });
    let configs = [server, client];
    let mut tunnels = Vec::with_capacity(WARM_UP + MEASURED);
    for n in 0..WARM_UP {
        tunnels.push(connect(n, &mut acceptor, &configs, now));
    }
    let before = resident();
    for n in WARM_UP..WARM_UP + MEASURED {
        tunnels.push(connect(n, &mut acceptor, &configs, now));
    }
    let each = resident().saturating_sub(before) / MEASURED;
    println!(
        "{each} bytes for an idle client, {} of them in the tunnel itself",
        size_of::<Tunnel>()
    );
    assert!(each <= MAX_PER_CLIENT, "{each} bytes for an idle client");
    assert!(tunnels.iter().all(|t| t.poll_timeout().is_some()));
}
