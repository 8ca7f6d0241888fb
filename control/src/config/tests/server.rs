//! Configurations of servers.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::*;
use crate::config::options::{Ifconfig, Proto, RouteGateway};
use crate::config::server::{
    AuthGenToken, AuthVia, Listen, Pool, PortShare, Rate, ServerOptions, VlanAccept,
};
use crate::tls::VerifyClientCert;

/// The least a server needs.
const SERVER: &str = "dev tun\nserver 10.8.0.0 255.255.255.0\nca ca\ncert c\nkey k\n\
                      keepalive 10 120\n";
/// The same without addresses, on the device of the test.
const BARE: &str = "mode server\ntls-server\nca ca\ncert c\nkey k\nkeepalive 10 120\n";

fn server(text: &str) -> (Options, ServerOptions) {
    let mut options = parse(text).options;
    let server = *options.server.take().expect("a server");
    (options, server)
}

fn with(extra: &str) -> ServerOptions {
    server(&format!("{SERVER}{extra}\n")).1
}

fn v4(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

fn pool(start: &str, end: &str, netmask: Option<&str>) -> Option<Pool> {
    Some(Pool {
        start: v4(start),
        end: v4(end),
        netmask: netmask.map(v4),
    })
}

/// The sample of OpenVPN's documentation with the settings it has by default, as Debian ships it.
#[test]
fn sample_of_a_distribution() {
    let loaded = parse(
        "port 1194\nproto udp\ndev tun\nca ca.crt\ncert server.crt\n\
         key server.key  # This file should be kept secret\ndh dh2048.pem\ntopology subnet\n\
         server 10.8.0.0 255.255.255.0\nifconfig-pool-persist /var/log/openvpn/ipp.txt\n\
         ;push \"route 192.168.10.0 255.255.255.0\"\n;client-to-client\nkeepalive 10 120\n\
         ;tls-auth ta.key 0 # This file is secret\npersist-key\npersist-tun\n\
         status /var/log/openvpn/openvpn-status.log\nverb 3\nexplicit-exit-notify 1\n",
    );
    let found = warnings(&loaded);
    assert!(
        found.len() == 1 && found[0].starts_with("t.conf:7: dh: no effect"),
        "{found:?}"
    );
    let options = loaded.options;
    assert_eq!(options.tls_role, TlsRole::Server);
    assert!(!options.pull && options.topology == Topology::Subnet);
    assert_eq!(
        options.ifconfig,
        Some(Ifconfig {
            local: v4("10.8.0.1"),
            remote_netmask: v4("255.255.255.0")
        })
    );
    assert_eq!(
        options.route_gateway,
        Some(RouteGateway::Addr(v4("10.8.0.2")))
    );
    assert_eq!((options.ping, options.ping_restart), (10, 240));
    assert_eq!(options.connections.len(), 1);
    assert_eq!(options.connections[0].explicit_exit_notify, 1);
    let server = options.server.unwrap();
    assert_eq!(
        server.ifconfig_pool,
        pool("10.8.0.2", "10.8.0.254", Some("255.255.255.0"))
    );
    assert_eq!(
        server.push,
        [
            "route-gateway 10.8.0.1",
            "topology subnet",
            "ping 10",
            "ping-restart 120"
        ]
    );
    let persist = server.ifconfig_pool_persist.unwrap();
    assert_eq!(
        (persist.path.to_str(), persist.seconds),
        (Some("/var/log/openvpn/ipp.txt"), 600)
    );
    assert_eq!(server.listen, [Listen::default()]);
}

/// As widely used installation scripts write it around an easy-rsa authority.
#[test]
fn written_by_an_installer() {
    let loaded = parse(
        "local 192.0.2.1\nport 1194\nproto udp6\ndev tun\nuser nobody\ngroup nogroup\n\
         persist-key\npersist-tun\nkeepalive 10 120\ntopology subnet\n\
         server 10.8.0.0 255.255.255.0\nifconfig-pool-persist ipp.txt\n\
         push \"dhcp-option DNS 94.140.14.14\"\npush \"redirect-gateway def1 bypass-dhcp\"\n\
         server-ipv6 fd42:42:42:42::/112\ntun-ipv6\npush tun-ipv6\n\
         push \"route-ipv6 2000::/3\"\npush \"redirect-gateway ipv6\"\ndh none\n\
         ecdh-curve prime256v1\ntls-crypt tls-crypt.key\ncrl-verify crl.pem\nca ca.crt\n\
         cert server_x.crt\nkey server_x.key\nauth SHA256\ncipher AES-128-GCM\n\
         ncp-ciphers AES-128-GCM\ntls-server\ntls-version-min 1.2\n\
         tls-cipher TLS-ECDHE-ECDSA-WITH-AES-128-GCM-SHA256\n\
         client-config-dir /etc/openvpn/ccd\nstatus /var/log/openvpn/status.log\nverb 3\n"
            .replace("local 192.0.2.1\n", "")
            .as_str(),
    );
    let found = warnings(&loaded);
    assert_eq!(found.len(), 2, "{found:?}");
    let options = loaded.options;
    let six = options.ifconfig_ipv6.unwrap();
    assert_eq!(
        (six.local, six.remote),
        (v6("fd42:42:42:42::1"), v6("fd42:42:42:42::2"))
    );
    assert_eq!(options.data_ciphers_fallback, None);
    let server = options.server.unwrap();
    assert_eq!(
        server.ifconfig_ipv6_pool,
        Some((v6("fd42:42:42:42::2"), 112))
    );
    assert_eq!(
        server.push,
        [
            "dhcp-option DNS 94.140.14.14",
            "redirect-gateway def1 bypass-dhcp",
            "tun-ipv6",
            "route-ipv6 2000::/3",
            "redirect-gateway ipv6",
            "tun-ipv6",
            "route-gateway 10.8.0.1",
            "topology subnet",
            "ping 10",
            "ping-restart 120",
        ]
    );
    assert_eq!(server.listen[0].family, Family::V6);
}

/// A road-warrior script over TCP, with a certificate authority inline.
#[test]
fn over_tcp_with_inline_keys() {
    let (options, server) = server(
        "local 192.0.2.1\nport 443\nproto tcp\ndev tun\n<ca>\nA\n</ca>\n<cert>\nC\n</cert>\n\
         <key>\nK\n</key>\ndh none\nauth SHA512\n<tls-crypt-v2>\nV\n</tls-crypt-v2>\n\
         topology subnet\nserver 10.8.0.0 255.255.255.0\n\
         push \"redirect-gateway def1 ipv6 bypass-dhcp\"\npush \"block-outside-dns\"\n\
         keepalive 10 120\nuser nobody\ngroup nogroup\npersist-key\npersist-tun\nverb 3\n\
         crl-verify crl.pem\ntcp-nodelay\nport-share 127.0.0.1 8443 /run/share\n",
    );
    assert_eq!(options.connections[0].proto, Proto::TcpServer);
    assert!(matches!(&options.connections[0].wrap,
        Wrap::TlsCryptV2Server { force_cookie: false, beside, .. } if **beside == Wrap::None));
    assert_eq!(
        server.listen,
        [Listen {
            local: Some("192.0.2.1".into()),
            port: 443,
            tcp: true,
            family: Family::Any
        }]
    );
    assert_eq!(server.push.last().unwrap(), "socket-flags TCP_NODELAY");
    assert_eq!(
        server.port_share,
        Some(PortShare {
            host: "127.0.0.1".into(),
            port: 8443,
            dir: Some("/run/share".into())
        })
    );
}

/// Settings read back from OpenVPN 2.7.6 (`verb 4`) for the same lines.
#[test]
fn expansion_of_server() {
    let case = |text: &str| server(&format!("ca ca\ncert c\nkey k\n{text}\n"));

    for (text, remote, range, pushes, routes) in [
        (
            "dev tun\nserver 10.8.0.0 255.255.255.248",
            "255.255.255.248",
            pool("10.8.0.2", "10.8.0.6", Some("255.255.255.248")),
            &["route-gateway 10.8.0.1", "topology subnet"][..],
            0,
        ),
        (
            "dev tun\nserver 10.8.0.0 255.255.255.0\ntopology net30",
            "10.8.0.2",
            pool("10.8.0.4", "10.8.0.251", None),
            &["route 10.8.0.1", "topology net30"],
            1,
        ),
        (
            "dev tun\nserver 10.8.0.0 255.255.255.248\ntopology net30",
            "10.8.0.2",
            pool("10.8.0.4", "10.8.0.7", None),
            &["route 10.8.0.1", "topology net30"],
            1,
        ),
        (
            "dev tun\nserver 10.8.0.0 255.255.255.0\ntopology net30\nclient-to-client",
            "10.8.0.2",
            pool("10.8.0.4", "10.8.0.251", None),
            &["route 10.8.0.0 255.255.255.0", "topology net30"],
            1,
        ),
        (
            "dev tun\nserver 10.8.0.0 255.255.255.0\ntopology p2p",
            "10.8.0.2",
            pool("10.8.0.4", "10.8.0.251", None),
            &["topology p2p"],
            1,
        ),
        (
            "dev tun\nserver 10.8.0.0 255.255.255.0 nopool",
            "255.255.255.0",
            None,
            &["route-gateway 10.8.0.1", "topology subnet"],
            0,
        ),
        (
            "dev tap\nserver 10.8.0.0 255.255.255.252\ntopology net30",
            "255.255.255.252",
            pool("10.8.0.2", "10.8.0.2", Some("255.255.255.252")),
            &["route-gateway 10.8.0.1"],
            0,
        ),
    ] {
        let (options, server) = case(text);
        let ifconfig = options.ifconfig.unwrap();
        assert_eq!(ifconfig.local, v4("10.8.0.1"), "{text}");
        assert_eq!(ifconfig.remote_netmask, v4(remote), "{text}");
        assert_eq!(server.ifconfig_pool, range, "{text}");
        assert_eq!(server.push, *pushes, "{text}");
        assert_eq!(options.route.len(), routes, "{text}");
    }
    let (options, server) = case("dev tun\nserver-ipv6 fd00:1::/64");
    assert_eq!(server.ifconfig_ipv6_pool, Some((v6("fd00:1::1000"), 64)));
    assert_eq!(server.push, ["tun-ipv6"]);
    assert_eq!(options.ifconfig_ipv6.unwrap().local, v6("fd00:1::1"));
}

#[test]
fn expansion_of_server_bridge() {
    let case = |text: &str| server(&format!("dev tap0\nca ca\ncert c\nkey k\n{text}\n"));
    let (options, full) =
        case("server-bridge 10.8.0.4 255.255.255.0 10.8.0.50 10.8.0.100\nkeepalive 10 60");
    assert_eq!(options.ifconfig, None);
    assert_eq!(
        full.ifconfig_pool,
        pool("10.8.0.50", "10.8.0.100", Some("255.255.255.0"))
    );
    assert_eq!(
        full.push,
        ["route-gateway 10.8.0.4", "ping 10", "ping-restart 60"]
    );
    assert!(!full.bridge_dhcp);
    let (_, dhcp) = case("server-bridge");
    assert!(dhcp.bridge_dhcp && dhcp.ifconfig_pool.is_none());
    assert_eq!(dhcp.push, ["route-gateway dhcp"]);
    let (_, silent) = case("server-bridge nogw");
    assert!(silent.bridge_dhcp && silent.push.is_empty());
}

#[test]
fn each_option_has_its_effect() {
    let plain = with("");
    assert_eq!(
        (plain.max_clients, plain.max_routes_per_client),
        (1024, 256)
    );
    assert_eq!(plain.connect_freq, None);
    assert_eq!(
        plain.connect_freq_initial,
        Rate {
            n: 100,
            seconds: 10
        }
    );
    assert_eq!(plain.tcp_queue_limit, 64);
    assert_eq!(plain.verify_client_cert, VerifyClientCert::Require);
    assert_eq!((plain.vlan_pvid, plain.vlan_accept), (1, VlanAccept::All));

    assert_eq!(with("max-clients 5").max_clients, 5);
    assert_eq!(with("max-routes-per-client 7").max_routes_per_client, 7);
    assert_eq!(
        with("connect-freq 3 4").connect_freq,
        Some(Rate { n: 3, seconds: 4 })
    );
    assert_eq!(with("connect-freq-initial 1 2").connect_freq_initial.n, 1);
    assert_eq!(with("tcp-queue-limit 9").tcp_queue_limit, 9);
    assert_eq!(
        with("stale-routes-check 30").stale_routes_check,
        Some((30, 30))
    );
    assert_eq!(
        with("stale-routes-check 30 7").stale_routes_check,
        Some((30, 7))
    );
    assert_eq!(
        with("ifconfig-pool-persist f 0")
            .ifconfig_pool_persist
            .unwrap()
            .seconds,
        0
    );
    assert_eq!(
        with("ifconfig-push-constraint 10.8.0.0 255.255.0.0").ifconfig_push_constraint,
        Some((v4("10.8.0.0"), v4("255.255.0.0")))
    );
    assert!(with("client-to-client").client_to_client);
    assert!(with("duplicate-cn").duplicate_cn);
    assert!(with("opt-verify").opt_verify);
    assert!(with("compress migrate").compress_migrate);
    assert!(with("client-config-dir ccd\nccd-exclusive").ccd_exclusive);
    let seconds = |text: &str| with(&format!("client-config-dir ccd\n{text}")).push_update;
    assert_eq!(seconds(""), None);
    assert_eq!(seconds("ringway-push-update"), Some(5));
    assert_eq!(seconds("ringway-push-update 60"), Some(60));
    assert_eq!(with("tmp-dir /run/t").tmp_dir.to_str(), Some("/run/t"));
    assert_eq!(with("push \"echo a\"").push[0], "echo a");

    let login = with(
        "script-security 3\nauth-user-pass-verify \"/a b\" via-env\nusername-as-common-name\n\
         verify-client-cert none\nauth-user-pass-optional\n\
         auth-gen-token 86400 600 external-auth\nauth-gen-token-secret t.key",
    );
    let (script, via) = login.auth_user_pass_verify.unwrap();
    assert_eq!(
        (script.argv[0].as_str(), script.argv[1].as_str(), via),
        ("/a", "b", AuthVia::Env)
    );
    assert!(login.username_as_common_name && login.auth_user_pass_optional);
    assert_eq!(login.verify_client_cert, VerifyClientCert::None);
    assert_eq!(
        login.auth_gen_token,
        Some(AuthGenToken {
            lifetime: 86400,
            renewal: 600,
            external_auth: true
        })
    );
    assert_eq!(login.auth_gen_token_secret.unwrap().name(), "t.key");
    let token = |text: &str| {
        with(&format!("auth-user-pass-verify /v via-file\n{text}"))
            .auth_gen_token
            .unwrap()
    };
    // Renewed with the keys.
    assert_eq!(token("auth-gen-token").renewal, 3600);
    assert_eq!(token("auth-gen-token 5\nreneg-sec 500").renewal, 500);
    assert_eq!(token("auth-gen-token external-auth").lifetime, 0);

    let scripts = with(
        "client-connect /c\nclient-disconnect /d\nlearn-address /l\ntls-verify /t\n\
         tls-crypt-v2 v2.key force-cookie\ntls-crypt-v2-verify /v\ntls-crypt-v2-max-age 30\n\
         client-crresponse /r\nauth-user-pass-verify /p via-file\ntls-export-cert /e",
    );
    assert_eq!(scripts.tls_crypt_v2_max_age, Some(30));
    let export = scripts.tls_export_cert.as_ref().unwrap();
    assert_eq!(export.path, std::path::Path::new("/e"));
    let names: Vec<_> = scripts
        .scripts()
        .map(|(name, script)| (name, script.argv[0].clone()))
        .collect();
    for (name, program) in [
        ("auth-user-pass-verify", "/p"),
        ("client-connect", "/c"),
        ("client-disconnect", "/d"),
        ("learn-address", "/l"),
        ("tls-verify", "/t"),
        ("tls-crypt-v2-verify", "/v"),
        ("client-crresponse", "/r"),
    ] {
        assert!(names.contains(&(name, program.to_owned())), "{name}");
    }

    let tap = server(&format!(
        "dev tap\n{BARE}vlan-tagging\nvlan-accept untagged\nvlan-pvid 4094\n"
    ));
    assert!(tap.1.vlan_tagging && tap.1.vlan_pvid == 4094);
    assert_eq!(tap.1.vlan_accept, VlanAccept::Untagged);
}

#[test]
fn several_places_to_listen() {
    let list = with(
        "proto udp4\nport 1200\nlocal 192.0.2.1\nlocal 192.0.2.2 1300\n\
         local * 443 tcp-server\nlocal ::1 1194 udp6",
    )
    .listen;
    let place = |local: Option<&str>, port, tcp, family| Listen {
        local: local.map(str::to_owned),
        port,
        tcp,
        family,
    };
    assert_eq!(
        list,
        [
            place(Some("192.0.2.1"), 1200, false, Family::V4),
            place(Some("192.0.2.2"), 1300, false, Family::V4),
            place(None, 443, true, Family::Any),
            place(Some("::1"), 1194, false, Family::V6),
        ]
    );
}

#[test]
fn keys_beside_those_of_clients() {
    let wrap = |text: &str| {
        let (options, _) = server(&format!("{SERVER}{text}\n"));
        options.connections[0].wrap.clone()
    };
    assert!(matches!(wrap("tls-crypt-v2 a force-cookie\ntls-auth b 0"),
        Wrap::TlsCryptV2Server { key, force_cookie: true, beside } if key.name() == "a"
        && matches!(&*beside, Wrap::TlsAuth { direction: Some(0), .. })));
    assert!(
        matches!(wrap("tls-crypt c\ntls-crypt-v2 a allow-noncookie"),
        Wrap::TlsCryptV2Server { force_cookie: false, beside, .. }
        if matches!(&*beside, Wrap::TlsCrypt(_)))
    );
    let error = fault(&format!("{CLIENT}tls-crypt-v2 k force-cookie\n"));
    assert!(
        error.starts_with("t.conf:8: tls-crypt-v2: force-cookie"),
        "{error}"
    );
}

#[test]
fn faults_of_servers() {
    for (extra, expected) in [
        (
            "remote a",
            "t.conf:7: remote: a server waits for clients; delete it",
        ),
        (
            "nobind",
            "t.conf:7: nobind: a server waits at a port; delete it",
        ),
        ("pull", "pull: is for clients; delete it or use tls-client"),
        (
            "client",
            "t.conf:2: server: cannot be used together with tls-client or client; delete one",
        ),
        (
            "ifconfig-pool 10.8.0.2 10.8.0.9",
            "t.conf:7: ifconfig-pool: cannot be used together with server, which sets it; delete one",
        ),
        (
            "server-bridge",
            "t.conf:7: server-bridge: cannot be used together with server; delete one",
        ),
        (
            "server 10.8.0.1 255.255.255.0",
            "t.conf:7: server: 10.8.0.1 is not the first address of its network: 10.8.0.0",
        ),
        (
            "server 10.8.0.0 255.0.255.0",
            "t.conf:7: server: \"255.0.255.0\" is not a netmask",
        ),
        (
            "server 10.0.0.0 255.0.0.0",
            "t.conf:7: server: the network is larger than a /16 of 65536 addresses",
        ),
        (
            "server 10.8.0.0 255.255.255.252",
            "t.conf:7: server: the network must hold at least a /29 (255.255.255.248)",
        ),
        (
            "server 10.8.0.0 255.255.255.0 pool",
            "t.conf:7: server: \"pool\" is not one of: nopool",
        ),
        (
            "server-ipv6 fd00::/63",
            "t.conf:7: server-ipv6: the prefix must be between /64 and /124, not /63",
        ),
        (
            "ifconfig-ipv6-pool fd00::/64",
            "t.conf:7: ifconfig-ipv6-pool: needs ifconfig-ipv6: the server's own address",
        ),
        (
            "client-cert-not-required",
            "t.conf:7: client-cert-not-required: removed from OpenVPN; write verify-client-cert none",
        ),
        (
            "verify-client-cert none",
            "t.conf:7: verify-client-cert: none and optional need auth-user-pass-verify",
        ),
        (
            "verify-client-cert maybe",
            "t.conf:7: verify-client-cert: \"maybe\" is not one of: none, optional, require",
        ),
        (
            "username-as-common-name",
            "t.conf:7: username-as-common-name: needs auth-user-pass-verify",
        ),
        (
            "auth-user-pass-optional",
            "t.conf:7: auth-user-pass-optional: needs auth-user-pass-verify",
        ),
        (
            "auth-user-pass-verify /v",
            "t.conf:7: auth-user-pass-verify: a second parameter is needed: via-file or via-env",
        ),
        (
            "auth-user-pass-verify /v via-x",
            "t.conf:7: auth-user-pass-verify: \"via-x\" is not one of: via-file, via-env",
        ),
        (
            "auth-gen-token 3600 60",
            "t.conf:7: auth-gen-token: the renewal time 60 must be at least twice hand-window: 120",
        ),
        (
            "auth-gen-token\nreneg-sec 0",
            "t.conf:7: auth-gen-token: needs a time to renew tokens: its second value, or reneg-sec above 0",
        ),
        (
            "auth-gen-token external",
            "t.conf:7: auth-gen-token: \"external\" is not one of: external-auth",
        ),
        (
            "ccd-exclusive",
            "t.conf:7: ccd-exclusive: needs client-config-dir",
        ),
        (
            "ringway-push-update",
            "t.conf:7: ringway-push-update: needs client-config-dir",
        ),
        (
            "client-config-dir /tmp\nringway-push-update 0",
            "t.conf:8: ringway-push-update: \"0\" is not a number from 1 to 3600",
        ),
        (
            "port-share localhost 80",
            "t.conf:7: port-share: needs TCP: proto tcp-server",
        ),
        (
            "proto tcp\nconnect-freq 1 2",
            "t.conf:8: connect-freq: concerns UDP only; see max-clients for TCP",
        ),
        (
            "proto tcp-client",
            "t.conf:7: proto: a server is connected to; use tcp-server",
        ),
        (
            "local 192.0.2.1\nlocal 192.0.2.1",
            "t.conf:8: local: this place is named twice",
        ),
        (
            "max-clients 0",
            "t.conf:7: max-clients: \"0\" is not a number from 1 to 16777215",
        ),
        (
            "max-clients 16777216",
            "t.conf:7: max-clients: \"16777216\" is not a number from 1 to 16777215",
        ),
        (
            "push \"a,b\"",
            "t.conf:7: push: a comma cannot be pushed, options are split at commas",
        ),
        (
            "keepalive 10 50000",
            "t.conf:7: keepalive: the second time must not exceed 43200 on a server",
        ),
        (
            "vlan-tagging",
            "t.conf:7: vlan-tagging: needs a tap device: dev tap",
        ),
        ("vlan-pvid 5", "t.conf:7: vlan-pvid: needs vlan-tagging"),
        (
            "vlan-pvid 4095",
            "t.conf:7: vlan-pvid: \"4095\" is not a number from 1 to 4094",
        ),
        (
            "up-delay",
            "t.conf:7: up-delay: cannot be used with a server",
        ),
        (
            "redirect-gateway",
            "t.conf:7: redirect-gateway: is for clients; to set it there: push \"redirect-gateway ...\"",
        ),
        (
            "auth-user-pass",
            "t.conf:7: auth-user-pass: is for clients; see auth-user-pass-verify",
        ),
        (
            "iroute 10.0.0.0",
            "t.conf:7: iroute: is for one client: its file in client-config-dir, or client-connect",
        ),
        (
            "tls-crypt-v2 k maybe",
            "t.conf:7: tls-crypt-v2: \"maybe\" is not one of: force-cookie, allow-noncookie",
        ),
        (
            "tls-auth a\ntls-crypt b",
            "t.conf:8: tls-crypt: only one of tls-auth, tls-crypt and tls-crypt-v2 is possible",
        ),
        (
            "socket-flags TCP_CORK",
            "t.conf:7: socket-flags: \"TCP_CORK\" is not one of: TCP_NODELAY",
        ),
        (
            "plugin x",
            "t.conf:7: plugin: plugins are not supported yet; use scripts",
        ),
    ] {
        let found = fault(&format!("{SERVER}{extra}\n"));
        assert!(
            found == expected || found.ends_with(expected),
            "{extra}: {found}"
        );
    }
    for (text, expected) in [
        (
            "dev tun\nmode server\n",
            "t.conf:2: mode: server needs tls-server",
        ),
        (
            "dev tun\nserver-bridge\nca a\ncert c\nkey k\n",
            "t.conf:2: server-bridge: needs a tap device: dev tap",
        ),
        (
            "dev tap\nserver-bridge 10.8.0.4 255.255.255.0 10.9.0.5\n",
            "t.conf:2: server-bridge: write: server-bridge gateway netmask first-address last-address, or server-bridge alone",
        ),
    ] {
        assert_eq!(fault(text), expected);
    }
    for (extra, expected) in [
        (
            "ifconfig-pool 10.8.0.9 10.8.0.2",
            "t.conf:8: ifconfig-pool: 10.8.0.9 is behind 10.8.0.2",
        ),
        (
            "ifconfig-pool 10.8.0.2 10.9.0.2",
            "t.conf:8: ifconfig-pool: more than 65536 addresses",
        ),
        (
            "ifconfig-pool 10.8.0.2 10.8.0.9",
            "t.conf:8: ifconfig-pool: needs ifconfig: the server's own address",
        ),
        (
            "ifconfig-pool-persist f",
            "t.conf:8: ifconfig-pool-persist: needs ifconfig-pool or ifconfig-ipv6-pool",
        ),
        (
            "topology net30\nifconfig 10.8.0.1 10.8.0.2\nifconfig-pool 10.8.0.4 10.8.0.6",
            "t.conf:10: ifconfig-pool: topology net30 needs four addresses for each client",
        ),
        (
            "topology p2p\nifconfig 10.8.0.1 10.8.0.2\nifconfig-pool 10.8.0.4 10.8.0.6 255.255.255.0",
            "t.conf:10: ifconfig-pool: a netmask is only possible with topology subnet or a tap device",
        ),
    ] {
        assert_eq!(fault(&format!("dev tun\n{BARE}{extra}\n")), expected);
    }
}

#[test]
fn options_that_need_a_server() {
    for option in [
        "client-connect /c",
        "client-config-dir d",
        "ringway-push-update",
        "duplicate-cn",
        "auth-user-pass-verify /v via-file",
        "tls-verify /v",
        "ifconfig-pool 10.0.0.1 10.0.0.2",
        "port-share h 1",
        "verify-client-cert",
        "vlan-tagging",
    ] {
        let name = option.split(' ').next().unwrap();
        assert_eq!(
            fault(&format!("{PEER}{option}\n")),
            format!("t.conf:6: {name}: needs mode server")
        );
    }
    let migrate = fault(&format!("{PEER}compress migrate\n"));
    assert_eq!(migrate, "t.conf:6: compress: \"migrate\" is for servers");
    for option in [
        "max-clients 5",
        "push \"echo a\"",
        "tmp-dir /tmp",
        "tls-export-cert /tmp",
    ] {
        let name = option.split(' ').next().unwrap();
        assert_eq!(
            warnings(&parse(&format!("{PEER}{option}\n"))),
            [format!("t.conf:6: {name}: no effect without mode server")]
        );
    }
}

#[test]
fn warnings_of_servers() {
    let warned = |text: &str| warnings(&parse(&format!("{SERVER}{text}\n")));
    assert!(warned("")[..].is_empty());
    for (text, part) in [
        (
            "duplicate-cn\nifconfig-pool-persist f",
            "t.conf:8: ifconfig-pool-persist: does not work with duplicate-cn",
        ),
        (
            "duplicate-cn\nclient-config-dir d",
            "t.conf:8: client-config-dir: together with duplicate-cn",
        ),
        (
            "ifconfig 10.8.0.1 255.255.255.0",
            "t.conf:7: ifconfig: no effect: server sets it",
        ),
        (
            "auth-gen-token",
            "t.conf:7: auth-gen-token: no effect without auth-user-pass-verify",
        ),
        (
            "tls-crypt-v2-max-age 5",
            "t.conf:7: tls-crypt-v2-max-age: no effect without tls-crypt-v2",
        ),
        (
            "script-security 2\nauth-user-pass-verify /v via-env",
            "t.conf:8: auth-user-pass-verify: via-env hands the password over only",
        ),
        (
            "learn-address ./script",
            "t.conf:7: learn-address: is not run: scripts need \"script-security 2\"",
        ),
        (
            "push \"rout 10.0.0.0\"",
            "t.conf:7: push: \"rout 10.0.0.0\": unknown option",
        ),
        (
            "push \"route 10.0.0.0 255.0.255.0\"",
            "t.conf:7: push: pushed \"route 10.0.0.0 255.0.255.0\" skipped:",
        ),
        (
            "push \"remote a\"",
            "t.conf:7: push: \"remote a\": clients do not take it from a server",
        ),
        (
            "tls-export-cert /x",
            "t.conf:7: tls-export-cert: no effect without tls-verify",
        ),
        ("hash-size 5 5", "t.conf:7: hash-size: no effect"),
        (
            "proto tcp\nexplicit-exit-notify 1",
            "t.conf:8: explicit-exit-notify: no effect",
        ),
    ] {
        let found = warned(text);
        assert!(
            found.len() == 1 && found[0].starts_with(part),
            "{text}: {found:?}"
        );
    }
    let quiet = warnings(&parse(
        "dev tun\nserver 10.8.0.0 255.255.255.0\nca a\ncert c\nkey k\n",
    ));
    assert!(
        quiet.len() == 1 && quiet[0].starts_with("keepalive: not set"),
        "{quiet:?}"
    );
}

proptest! {
    /// The pool lies inside the network, apart from the network's first and last address and the
    /// server's own.
    #[test]
    fn pools_stay_inside(prefix in 16u32..=29, network in 0u32..0xe000_0000, topology in 0..3usize) {
        let mask = u32::MAX << (32 - prefix);
        let network = network & mask;
        let word = ["subnet", "net30", "p2p"][topology];
        let (options, server) = server(&format!(
            "dev tun\nca ca\ncert c\nkey k\ntopology {word}\nserver {} {}\n",
            Ipv4Addr::from(network), Ipv4Addr::from(mask)
        ));
        let pool = server.ifconfig_pool.unwrap();
        let (start, end) = (u32::from(pool.start), u32::from(pool.end));
        prop_assert!(start <= end && start & mask == network && end & mask == network);
        prop_assert!(start > u32::from(options.ifconfig.unwrap().local));
        prop_assert!(word != "subnet" || end < network | !mask);
        prop_assert!(word != "net30" || (end - start) % 4 == 3);
    }
}
