//! Whole configurations: what typical files mean, and what is said about bad ones.

use proptest::prelude::*;
use ringway_dataplane::frame::Mac;
use ringway_dataplane::framing::Framing;
use ringway_dataplane::key_slot::{Cipher, Digest};
use ringway_dataplane::tun::DeviceKind;

use super::directives::{CLIENT_ONLY, CONNECTION, Class, DIRECTIVES, INLINE, PULL_ONLY};
use super::draft::{Draft, Given};
use super::options::{
    Connection, Credentials, Family, Fragment, IoEngine, MssFix, RouteAddr, RouteGateway, Topology,
    VerifyX509Kind, Wrap,
};
use super::*;
use crate::proto::TlsRole;

mod client_config;
mod proxy;
mod server;

fn parse(text: &str) -> Loaded {
    parse_text("t.conf", text.as_bytes()).unwrap_or_else(|error| panic!("{error}"))
}

fn fault(text: &str) -> String {
    parse_text("t.conf", text.as_bytes())
        .unwrap_err()
        .to_string()
}

fn warnings(loaded: &Loaded) -> Vec<String> {
    loaded.warnings.iter().map(Diagnostic::to_string).collect()
}

/// The least a client needs, and the least a peer needs.
const CLIENT: &str = "client\ndev tun\nremote vpn.example.org\nca ca\ncert c\nkey k\n\
                      remote-cert-tls server\n";
const PEER: &str = "dev tun\ntls-server\nca ca\ncert c\nkey k\n";

#[test]
fn tap() {
    let loaded = parse(
        "dev lan0\ndev-type tap\nremote 192.0.2.2\ntls-client\nca ca\ncert c\nkey k\n\
         remote-cert-tls server\nifconfig 10.9.0.1 255.255.255.0\nlladdr 02:00:5e:10:00:01\n\
         route-gateway dhcp\n",
    );
    assert!(loaded.warnings.is_empty(), "{:?}", warnings(&loaded));
    let options = &loaded.options;
    assert_eq!(options.dev_type, DeviceKind::Tap);
    assert!(options.has_subnet());
    assert_eq!(options.lladdr, Some(Mac([2, 0, 0x5e, 0x10, 0, 1])));
    assert_eq!(options.route_gateway, Some(RouteGateway::Dhcp));
    let by_name = parse(&CLIENT.replace("dev tun", "dev tap3"));
    assert_eq!(by_name.options.dev_type, DeviceKind::Tap);
    let other = parse(&CLIENT.replace("dev tun", "dev tap3\ndev-type tun"));
    assert_eq!(other.options.dev_type, DeviceKind::Tun);
}

#[test]
fn point_to_point() {
    let loaded = parse(
        "dev tun0\nproto udp\nlocal 192.0.2.1\nremote 192.0.2.2 5000\nport 4000\n\
         tls-client\nifconfig 10.9.0.1 10.9.0.2\nifconfig-ipv6 fd00::1/64 fd00::2\n\
         route 172.16.0.0 255.240.0.0\nca \"/etc/my keys/ca.crt\"\ncert a.crt\nkey a.key\n\
         remote-cert-tls server\ntls-auth ta.key 1\ncipher AES-256-CBC\nauth SHA256\n\
         keepalive 10 60\npersist-key\npersist-tun\nreneg-sec 600\nverb 3\n",
    );
    let options = &loaded.options;
    assert!(loaded.warnings.is_empty(), "{:?}", warnings(&loaded));
    assert!(!options.pull && options.tls_role == TlsRole::Client);
    let connection = &options.connections[0];
    assert_eq!(options.connections.len(), 1);
    assert_eq!(connection.remote.as_deref(), Some("192.0.2.2"));
    assert_eq!((connection.rport, connection.lport), (5000, 4000));
    assert_eq!(connection.local.as_deref(), Some("192.0.2.1"));
    assert!(connection.bind && !connection.float);
    assert!(
        matches!(&connection.wrap, Wrap::TlsAuth { key, direction: Some(1) }
        if key.name() == "ta.key" && key.position.line == 14)
    );
    assert_eq!(connection.mssfix, MssFix::Mtu(1492));
    assert_eq!((options.ping, options.ping_restart), (10, 60));
    // Without negotiation `cipher` is what the peer is assumed to use.
    assert_eq!(options.data_ciphers_fallback, Some(Cipher::Aes256Cbc));
    assert_eq!(options.auth, Digest::Sha256);
    assert_eq!(options.ca.as_ref().unwrap().name(), "/etc/my keys/ca.crt");
    assert_eq!(
        (options.reneg_sec, options.tran_window, options.verb),
        (600, 3600, 3)
    );
}

#[test]
fn client_of_a_provider() {
    let loaded = parse(
        "client\nproto udp\nremote one.example.org 1194\nremote two.example.org 443 udp4\n\
         remote-random\ndev tun\nresolv-retry infinite\nnobind\npersist-key\npersist-tun\n\
         remote-cert-tls server\nverify-x509-name server_abc name\nauth SHA512\nauth-nocache\n\
         cipher AES-128-GCM\ntls-client\ntls-version-min 1.2\n\
         tls-cipher TLS-ECDHE-ECDSA-WITH-AES-128-GCM-SHA256\nignore-unknown-option \
         block-outside-dns-later\nsetenv opt block-outside-dns\nsetenv opt new-thing 1\n\
         block-outside-dns-later\nverb 3\nauth-user-pass\n<ca>\nCERT\n</ca>\n\
         <tls-crypt>\nKEY\n</tls-crypt>\n",
    );
    let options = &loaded.options;
    assert!(options.client && options.pull && options.remote_random);
    assert_eq!(options.connections.len(), 2);
    assert_eq!(options.connections[1].rport, 443);
    assert_eq!(options.connections[0].family, Family::Any);
    assert_eq!(options.connections[1].family, Family::V4);
    assert!(
        options
            .connections
            .iter()
            .all(|connection| !connection.bind && connection.lport == 0)
    );
    assert!(matches!(&options.connections[1].wrap, Wrap::TlsCrypt(key)
        if key.data == FileOrInline::Inline("KEY\n".into())));
    assert_eq!(options.ping_restart, 120);
    assert_eq!(options.resolv_retry, None);
    assert_eq!(options.auth_user_pass, Some(Credentials::Ask));
    assert_eq!(options.data_ciphers_fallback, None);
    let name = options.verify_x509_name.as_ref().unwrap();
    assert_eq!(
        (name.name.as_str(), name.kind),
        ("server_abc", VerifyX509Kind::Name)
    );
    assert_eq!(
        warnings(&loaded),
        [
            "t.conf:20: block-outside-dns: no effect: concerns Windows only",
            "t.conf:21: new-thing: unknown option, skipped",
        ]
    );
}

#[test]
fn generated_by_an_appliance() {
    let loaded = parse(
        "### Autogenerated ###\n\nverb 3\ndev-type tun\ndev vtun10\npersist-key\nproto udp\n\
         rport 1195\nremote 203.0.113.1\nlport 1195\npersist-tun\ntls-server\ntopology p2p\n\
         ifconfig 10.255.1.1 10.255.1.2\nping 10\nping-restart 60\nca /run/v_ca.pem\n\
         cert /run/v_cert.pem\nkey /run/v_cert.key\ndh /run/v_dh.pem\n\
         data-ciphers AES-256-GCM:?BF-CBC:DEFAULT:aes-128-cbc\nstatus /run/vtun10.status 30\n\
         peer-fingerprint '00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff:\
00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF'\n",
    );
    let options = &loaded.options;
    assert_eq!(options.dev, "vtun10");
    assert_eq!(options.tls_role, TlsRole::Server);
    assert_eq!(
        options.data_ciphers,
        [
            Cipher::Aes256Gcm,
            Cipher::Aes128Gcm,
            Cipher::ChaCha20Poly1305,
            Cipher::Aes128Cbc
        ]
    );
    assert_eq!(options.peer_fingerprint[0][1], 0x11);
    let status = options.status.as_ref().unwrap();
    assert_eq!((status.seconds, options.status_version), (30, 1));
    let warnings = warnings(&loaded);
    assert!(
        warnings.len() == 1 && warnings[0].starts_with("t.conf:20: dh: no effect"),
        "{warnings:?}"
    );
}

#[test]
fn connection_blocks_override_what_stands_before() {
    let loaded = parse(
        "client\ndev tun\nca ca\ncert c\nkey k\nremote-cert-tls server\nport 5000\nmssfix 1300\n\
         explicit-exit-notify 2\n<connection>\nremote a.example.org\nmssfix 1200 fixed\n\
         </connection>\n<connection>\nremote b.example.org 6000 udp6\nlocal ::1\ntun-mtu 1400\n\
         <tls-crypt>\nK\n</tls-crypt>\n</connection>\ntls-auth ta\nkey-direction 0\n",
    );
    let [a, b] = &loaded.options.connections[..] else {
        panic!("{:?}", loaded.options.connections)
    };
    assert_eq!(
        (a.rport, a.mssfix, a.explicit_exit_notify),
        (5000, MssFix::Fixed(1200), 2)
    );
    assert!(matches!(
        a.wrap,
        Wrap::TlsAuth {
            direction: Some(0),
            ..
        }
    ));
    assert_eq!(
        (b.rport, b.family, b.mssfix),
        (6000, Family::V6, MssFix::Payload(1300))
    );
    assert_eq!((b.tun_mtu, b.bind), (1400, true));
    assert!(matches!(&b.wrap, Wrap::TlsCrypt(key) if key.position.line == 18));
    assert_eq!(b.position.as_ref().unwrap().line, 15);
    let error = fault(&format!(
        "{CLIENT}<connection>\nremote x\n\ndev tun\n</connection>\n"
    ));
    assert!(
        error.starts_with("t.conf:11: dev: cannot stand in a <connection>"),
        "{error}"
    );
    let error = fault(&format!("{CLIENT}<connection>\nport 1\n</connection>\n"));
    assert!(
        error.starts_with("t.conf:8: connection: the block needs a remote"),
        "{error}"
    );
}

#[test]
fn defaults() {
    let options = parse(PEER).options;
    assert_eq!(
        options.connections,
        [Connection {
            float: true,
            ..Connection::default()
        }]
    );
    assert_eq!(options.replay_window.packets, 4096);
    assert_eq!(
        (options.reneg_sec, options.hand_window, options.tls_timeout),
        (3600, 60, 2)
    );
    assert_eq!(
        (options.ping, options.ping_restart, options.verb),
        (0, 0, 1)
    );
    assert_eq!(options.ringway_io, IoEngine::Auto);
    let other = parse(&format!("{PEER}tun-mtu 1400\n")).options;
    assert_eq!(other.connections[0].mssfix, MssFix::Fixed(1400));
    assert_eq!(other.connections[0].tun_mtu_max, 1600);
    for (text, mssfix) in [
        ("fragment 1300", MssFix::Payload(1300)),
        ("fragment 1300 mtu\ntun-mtu 1400\nmssfix", MssFix::Mtu(1300)),
        ("fragment 1300\nmssfix 1200", MssFix::Payload(1200)),
        ("mssfix", MssFix::Mtu(1492)),
        ("mssfix 0", MssFix::Off),
        ("mssfix 1300", MssFix::Payload(1300)),
        ("mssfix 1300 mtu", MssFix::Mtu(1300)),
        ("mssfix 1300 fixed", MssFix::Fixed(1300)),
    ] {
        assert_eq!(
            parse(&format!("{PEER}{text}\n")).options.connections[0].mssfix,
            mssfix
        );
    }
}

#[test]
fn fragment_is_an_option_of_a_connection() {
    let loaded = parse(
        "client\ndev tun\nca ca\ncert c\nkey k\nremote-cert-tls server\nfragment 1300\n\
         <connection>\nremote a.example.org\nfragment 1200 mtu\n</connection>\n\
         <connection>\nremote b.example.org\n</connection>\n",
    );
    let [a, b] = &loaded.options.connections[..] else {
        panic!("{:?}", loaded.options.connections)
    };
    let fragment = |size, mtu| Some(Fragment { size, mtu });
    assert_eq!(
        (a.fragment, a.mssfix),
        (fragment(1200, true), MssFix::Mtu(1200))
    );
    assert_eq!(
        (b.fragment, b.mssfix),
        (fragment(1300, false), MssFix::Payload(1300))
    );
    for bad in [
        "fragment 67",
        "fragment",
        "fragment 1300 fixed",
        "fragment x",
    ] {
        let error = fault(&format!("{PEER}{bad}\n"));
        assert!(error.contains("fragment"), "{error}");
    }
    let error = fault(
        "dev tun\nserver 10.8.0.0 255.255.255.0\nproto tcp\nca ca\ncert c\nkey k\n\
                       fragment 1300\n",
    );
    assert_eq!(
        error,
        "t.conf:7: fragment: is for UDP; delete it, TCP cuts by itself"
    );
}

#[test]
fn single_options() {
    let with = |text: &str| parse(&format!("{CLIENT}{text}\n")).options;
    assert_eq!(with("comp-lzo no").compress, Framing::Lzo);
    assert_eq!(with("compress").compress, Framing::Stub);
    assert_eq!(with("setenv A b\nsetenv-safe C d").setenv.len(), 2);
    assert_eq!(with("setenv-safe C d").setenv[0].0, "OPENVPN_C");
    assert_eq!(
        with("up \"/a/up.sh one 'two three'\"\nscript-security 2")
            .up
            .unwrap()
            .argv,
        ["/a/up.sh", "one", "two three"]
    );
    assert_eq!(with("ringway-cpus 1,4-6").ringway_cpus, [1, 4, 5, 6]);
    assert_eq!(with("keepalive 5 20").ping_restart, 20);
    assert_eq!(with("ping-exit 9").ping_restart, 0);
    assert_eq!(with("topology subnet").topology, Topology::Subnet);
    assert_eq!(with("remote-cert-ku a0 88").remote_cert_ku, [0xa0, 0x88]);
    assert_eq!(
        with("route 10.0.0.0 255.0.0.0 net_gateway 7").route[0].gateway,
        Some(RouteAddr::NetGateway)
    );
    assert_eq!(
        with("dhcp-option DOMAIN a.example").dhcp_option,
        ["DOMAIN a.example"]
    );
    assert_eq!(
        with("compat-mode 2.3.0\ncipher AES-256-CBC").data_ciphers_fallback,
        Some(Cipher::Aes256Cbc)
    );
    assert!(with("bind").connections[0].bind);
    assert!(with("lport 4000").connections[0].bind);
    assert!(!with("port 4000").connections[0].bind);
    assert_eq!(
        with("proto udp6\nlocal [::1]").connections[0].family,
        Family::V6
    );
}

#[test]
fn faults_name_place_option_and_remedy() {
    for (extra, expected) in [
        ("frobnicate 1", "t.conf:8: frobnicate: unknown option"),
        (
            "keepalve 1 2",
            "t.conf:8: keepalve: unknown option; did you mean keepalive?",
        ),
        (
            "server 10.8.0.0 255.255.255.0",
            "t.conf:8: server: cannot be used together with tls-client or client; delete one",
        ),
        (
            "proto icmp",
            "t.conf:8: proto: \"icmp\" is not one of: udp, tcp, tcp-client, tcp-server, each also with 4 or 6 after udp or tcp",
        ),
        (
            "secret k",
            "t.conf:8: secret: tunnels without TLS are not supported; use tls-server and tls-client with peer-fingerprint",
        ),
        ("verb", "t.conf:8: verb: 1 parameter(s) are needed, 0 given"),
        (
            "verb 3 4",
            "t.conf:8: verb: at most 1 parameter(s) are possible, 2 given",
        ),
        (
            "verb x",
            "t.conf:8: verb: \"x\" is not a number from 0 to 15",
        ),
        (
            "cipher BF-CBC",
            "t.conf:8: cipher: \"BF-CBC\" is not supported; use AES-256-GCM, or see ringway --show-ciphers",
        ),
        (
            "data-ciphers BF-CBC",
            "t.conf:8: data-ciphers: \"BF-CBC\" is not supported; remove it, or see ringway --show-ciphers",
        ),
        (
            "tls-server",
            "t.conf:8: tls-server: cannot be used together with tls-client or client; delete one",
        ),
        (
            "keepalive 10 60\nping 5",
            "t.conf:9: ping: cannot be used together with keepalive, which sets it; delete one",
        ),
        (
            "keepalive 10 15",
            "t.conf:8: keepalive: the second time must be at least twice the first: 20",
        ),
        (
            "nobind\nlport 5",
            "t.conf:8: nobind: cannot be used together with lport; delete one",
        ),
        (
            "dev vpn0",
            "t.conf:8: dev: add \"dev-type tun\" or \"dev-type tap\" for a device named vpn0",
        ),
        (
            "dev-type lan",
            "t.conf:8: dev-type: \"lan\" is not one of: tun, tap",
        ),
        (
            "lladdr 02:00:00:00:00:01",
            "t.conf:8: lladdr: a tun device has no hardware address; delete it or use tap",
        ),
        (
            "lladdr 02:00:00:00:00",
            "t.conf:8: lladdr: \"02:00:00:00:00\" is not a hardware address like 02:00:5e:10:00:01",
        ),
        (
            "route-gateway dhcp",
            "t.conf:8: route-gateway: \"dhcp\" needs a tap device; name the gateway's address",
        ),
        (
            "dev tap\nifconfig 10.0.0.1 10.0.0.2",
            "t.conf:9: ifconfig: on a tap device the second value must be a netmask",
        ),
        (
            "tls-auth a\ntls-crypt b",
            "t.conf:9: tls-crypt: only one of tls-auth, tls-crypt and tls-crypt-v2 is possible",
        ),
        (
            "tls-version-min 1.3\ntls-version-max 1.2",
            "t.conf:9: tls-version-max: is below tls-version-min; nothing is left to speak",
        ),
        (
            "ifconfig 10.0.0.1 255.255.255.0",
            "t.conf:8: ifconfig: the second value must be the peer's address; for a netmask add \"topology subnet\"",
        ),
        (
            "peer-id 5",
            "t.conf:8: peer-id: only a server can send this option",
        ),
        (
            "<verb>\n3\n</verb>",
            "t.conf:8: verb: cannot be given as an inline block",
        ),
        (
            "genkey secret f",
            "t.conf:8: genkey: only possible on the command line",
        ),
        (
            "config other",
            "t.conf:8: config: files are nested more than 10 deep",
        ),
        (
            "ringway-workers 17",
            "t.conf:8: ringway-workers: \"17\" is not a number of workers from 1 to 16, or auto",
        ),
        (
            "ringway-busy-poll soon",
            "t.conf:8: ringway-busy-poll: \"soon\" is not a number of microseconds from 0 to 1000000",
        ),
        (
            "proto udp4\nlocal ::1",
            "t.conf:9: local: an IPv6 address does not fit proto udp4 or tcp4; leave out the 4",
        ),
        (
            "static-challenge q 1",
            "t.conf:8: static-challenge: needs auth-user-pass",
        ),
    ] {
        assert_eq!(fault(&format!("{CLIENT}{extra}\n")), expected);
    }
    for (text, expected) in [
        (
            "",
            "no role: one of client, tls-client and tls-server is needed",
        ),
        ("client\n", "dev: a device is needed, e.g. \"dev tun\""),
        (
            "client\ndev tun\n",
            "remote: a client needs a server to connect to",
        ),
        (
            "dev tun\ntls-server\nca c\n",
            "cert: a tls-server needs a certificate and its key",
        ),
        ("dev tun\ntls-client\n", "ca: one of ca, capath"),
        (
            "dev tun\ntls-client\nca c\ncert d\n",
            "t.conf:4: cert: its private key is needed: key",
        ),
        (
            "dev tun\ntls-client\nnobind\n",
            "t.conf:3: nobind: without a remote",
        ),
    ] {
        let error = fault(text);
        assert!(error.starts_with(expected), "{text:?}: {error}");
    }
}

#[test]
fn warnings_say_what_does_not_hold() {
    let warned = |text: &str| warnings(&parse(&format!("{CLIENT}{text}\n")));
    assert!(warned("")[..].is_empty());
    for (text, part) in [
        (
            "cipher AES-256-CBC",
            "t.conf:8: cipher: not in data-ciphers (AES-256-GCM:",
        ),
        (
            "up /bin/up",
            "t.conf:8: up: is not run: scripts need \"script-security 2\"",
        ),
        (
            "comp-lzo",
            "t.conf:8: comp-lzo: packets are sent uncompressed",
        ),
        (
            "tls-version-min 1.0",
            "t.conf:8: tls-version-min: TLS 1.0 cannot be spoken",
        ),
        (
            "data-ciphers none:DEFAULT",
            "cipher: \"none\" is among the ciphers",
        ),
        (
            "auth none\ndata-ciphers AES-256-CBC",
            "t.conf:8: auth: \"none\" leaves",
        ),
        ("fast-io", "t.conf:8: fast-io: no effect: "),
        (
            "setenv FORWARD_COMPATIBLE 1\nnewer x",
            "t.conf:9: newer: unknown option, skipped",
        ),
        ("setenv opt plugin x", "t.conf:8: plugin: skipped: "),
    ] {
        let found = warned(text);
        assert!(
            found.len() == 1 && found[0].starts_with(part),
            "{text}: {found:?}"
        );
    }
    let open = parse("client\ndev tun\nremote x\nca a\ncert c\nkey k\n");
    assert!(
        warnings(&open)[0].starts_with("remote-cert-tls: not set"),
        "{:?}",
        warnings(&open)
    );
}

#[test]
fn command_line_and_files() {
    let dir = std::env::temp_dir().join(format!("ringway-config-{}", std::process::id()));
    std::fs::create_dir_all(dir.join("sub")).unwrap();
    let main = dir.join("main.conf");
    std::fs::write(
        &main,
        format!(
            "{CLIENT}verb 2\ncd {}\nconfig more.conf\n",
            dir.join("sub").display()
        ),
    )
    .unwrap();
    std::fs::write(dir.join("sub/more.conf"), "extra-certs chain.pem\nmute 7\n").unwrap();
    std::fs::write(
        dir.join("loop.conf"),
        format!("config {}\n", dir.join("loop.conf").display()),
    )
    .unwrap();
    let args = |text: &str| -> Vec<String> { text.split_whitespace().map(str::to_owned).collect() };
    let file = main.display().to_string();

    let loaded = load(&args(&format!(
        "--config {file} --verb 4 --setenv a b --float"
    )))
    .unwrap();
    assert_eq!((loaded.options.verb, loaded.options.mute), (4, 7));
    assert!(loaded.options.connections[0].float);
    assert_eq!(loaded.options.setenv, [("a".to_owned(), "b".to_owned())]);
    assert_eq!(
        loaded.options.cd.as_deref(),
        Some(dir.join("sub").as_path())
    );
    assert_eq!(
        loaded.options.extra_certs.unwrap().path(),
        Some(dir.join("sub/chain.pem").as_path())
    );
    assert_eq!(
        load(&args(&format!("--verb 4 --config {file}")))
            .unwrap()
            .options
            .verb,
        2
    );
    assert_eq!(load(&args(&file)).unwrap().options.verb, 2);

    let error = |text: &str| load(&args(text)).unwrap_err().to_string();
    assert_eq!(
        error("--verb 3 --verb x"),
        "command line:3: verb: \"x\" is not a number from 0 to 15"
    );
    assert!(error(&format!("--config {file} -v 3")).contains("command line:1: config: at most 1"));
    assert!(
        error("/nonexistent/x.conf")
            .starts_with("command line:1: config: cannot read /nonexistent/x.conf: ")
    );
    let nested = error(&dir.join("loop.conf").display().to_string());
    assert!(
        nested.ends_with("config: files are nested more than 10 deep"),
        "{nested}"
    );

    let all = load_all(&args(&format!(
        "--verb x --fast-io --frob --config {file} --port 0"
    )))
    .unwrap_err();
    let all: Vec<_> = all
        .iter()
        .map(|finding| (finding.severity, finding.line))
        .collect();
    let error = Severity::Error;
    assert_eq!(
        all,
        [(Severity::Warning, 3), (error, 1), (error, 4), (error, 7)]
    );
    assert!(load_all(&args(&file)).is_ok());
    std::fs::remove_dir_all(&dir).unwrap();
}

/// Options the parser itself acts on.
const BY_PARSER: [&str; 4] = ["config", "cd", "connection", "ignore-unknown-option"];

#[test]
fn every_honoured_option_is_handled() {
    let position = Position::new("t", 1);
    let unhandled = Err("cannot be used here".to_owned());
    for directive in DIRECTIVES {
        let elsewhere = BY_PARSER.contains(&directive.name)
            || directive.places.has(PULL_ONLY)
            || directive.places.has(CLIENT_ONLY);
        if directive.class != Class::Honoured || elsewhere {
            continue;
        }
        let words = vec!["?".to_owned(); usize::from(directive.min)];
        let inline = directive.places.has(INLINE).then(String::new);
        let given = || Given {
            name: directive.name,
            args: &words,
            inline: inline.clone(),
            position: &position,
            base: None,
        };
        let result = set::set(&mut Draft::default(), None, given());
        assert_ne!(result, unhandled, "{}", directive.name);
        if directive.places.has(CONNECTION) {
            let result = set::set(
                &mut Draft::default(),
                Some(&mut Default::default()),
                given(),
            );
            assert_ne!(result, unhandled, "{} in a block", directive.name);
        }
    }
}

#[test]
fn inline_keys_stay_out_of_debug_output() {
    let options = parse(&format!("{CLIENT}<tls-crypt>\nSECRET\n</tls-crypt>\n")).options;
    assert!(!format!("{options:?}").contains("SECRET"));
}

proptest! {
    #[test]
    fn any_text_is_survived(text in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse_text("x", &text);
    }

    #[test]
    fn any_values_are_survived(
        index in 0..DIRECTIVES.len(),
        words in proptest::collection::vec("[ -~]{0,12}|[0-9]{1,20}|default|::|10\\.0\\.0\\.1", 0..4),
    ) {
        let words: Vec<_> = words.iter().map(|word| lexer::quote(word)).collect();
        let text = format!("{CLIENT}{} {}\n", DIRECTIVES[index].name, words.join(" "));
        if let Err(error) = parse_text("x", text.as_bytes()) {
            prop_assert!(!error.to_string().contains('\n'));
        }
    }
}
