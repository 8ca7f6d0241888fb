//! TCP and proxies of connections.

use super::*;
use crate::config::options::Proto;
use crate::config::proxy::{HttpProxyAuth, Proxy};

#[test]
fn tcp_follows_the_role() {
    let proto = |text: &str| {
        let connection = parse(text).options.connections.remove(0);
        (connection.proto, connection.family, connection.bind)
    };
    let client = |proto: &str| format!("{CLIENT}proto {proto}\n");
    let peer = |text: &str| format!("{PEER}{text}\n");
    for (text, expected) in [
        (client("tcp"), (Proto::TcpClient, Family::Any, false)),
        (client("tcp6-client"), (Proto::TcpClient, Family::V6, false)),
        (client("udp6"), (Proto::Udp, Family::V6, false)),
        (peer("proto tcp4"), (Proto::TcpServer, Family::V4, true)),
        (
            peer("proto tcp-client\nremote a"),
            (Proto::TcpClient, Family::Any, false),
        ),
        (
            peer("proto tcp-client\nremote a\nlport 7"),
            (Proto::TcpClient, Family::Any, true),
        ),
        (
            peer("remote a 1194 tcp-server"),
            (Proto::TcpServer, Family::Any, true),
        ),
        (
            peer("local 192.0.2.1 80 tcp"),
            (Proto::TcpServer, Family::Any, true),
        ),
    ] {
        assert_eq!(proto(&text), expected, "{text}");
    }
    let forced = parse(&format!("{CLIENT}remote b 443 tcp\nproto-force tcp\n")).options;
    assert_eq!(forced.connections.len(), 1);
    assert_eq!(forced.connections[0].remote.as_deref(), Some("b"));
    let local = parse(&peer("local 192.0.2.1 80 tcp")).options;
    assert_eq!(local.connections[0].lport, 80);
    let notify = parse(&format!("{CLIENT}proto tcp\nexplicit-exit-notify 2\n"));
    assert_eq!(notify.options.connections[0].explicit_exit_notify, 0);
    assert!(warnings(&notify)[0].starts_with("t.conf:9: explicit-exit-notify: no effect"));
}

#[test]
fn http_proxies() {
    let http = |text: &str| {
        let loaded = parse(&format!("{CLIENT}proto tcp\n{text}\n"));
        match loaded.options.connections[0].proxy.clone() {
            Some(Proxy::Http(proxy)) => proxy,
            other => panic!("{other:?}"),
        }
    };
    for (text, auth) in [
        ("http-proxy p 3128", HttpProxyAuth::None),
        ("http-proxy p 3128 auto", HttpProxyAuth::Auto),
        ("http-proxy p 3128 auto-nct", HttpProxyAuth::AutoNoClear),
        ("http-proxy p 3128 stdin", HttpProxyAuth::Basic),
        ("http-proxy p 3128 file basic", HttpProxyAuth::Basic),
        ("http-proxy p 3128 file digest", HttpProxyAuth::Digest),
        ("http-proxy p 3128 file none", HttpProxyAuth::None),
        (
            "<http-proxy-user-pass>\nu\np\n</http-proxy-user-pass>\nhttp-proxy p 3128",
            HttpProxyAuth::Auto,
        ),
    ] {
        let proxy = http(text);
        assert_eq!((proxy.host.as_str(), proxy.port), ("p", 3128));
        assert_eq!(
            (proxy.auth, proxy.version.as_str()),
            (auth, "1.0"),
            "{text}"
        );
    }
    assert_eq!(
        http("http-proxy p 1 stdin").credentials,
        Some(Credentials::Ask)
    );
    let full = http(
        "http-proxy-option VERSION 1.1\nhttp-proxy-option AGENT \"a b\"\nhttp-proxy p 1\n\
         http-proxy-option CUSTOM-HEADER X-A v\nhttp-proxy-option EXT1 \"X-B: w\"",
    );
    assert_eq!(
        (full.version.as_str(), full.agent.as_deref()),
        ("1.1", Some("a b"))
    );
    assert_eq!(
        full.headers,
        [
            ("X-A".to_owned(), Some("v".to_owned())),
            ("X-B: w".to_owned(), None)
        ]
    );
}

#[test]
fn socks_proxies() {
    let loaded = parse(&format!("{CLIENT}socks-proxy s\n"));
    assert!(matches!(&loaded.options.connections[0].proxy,
        Some(Proxy::Socks(proxy)) if proxy.port == 1080 && proxy.credentials.is_none()));
    let block = parse(
        "client\ndev tun\nca a\ncert c\nkey k\nremote-cert-tls server\n<connection>\n\
         remote a 443 tcp-client\nsocks-proxy ::1 9050 login\n</connection>\n<connection>\n\
         remote b\n</connection>\n",
    );
    let [first, second] = &block.options.connections[..] else {
        panic!()
    };
    assert!(matches!(&first.proxy, Some(Proxy::Socks(proxy))
        if proxy.port == 9050 && proxy.credentials.is_some() && proxy.position.line == 9));
    assert!(second.proxy.is_none() && second.proto == Proto::Udp);
}

#[test]
fn faults() {
    for (extra, expected) in [
        (
            "http-proxy p 1",
            "t.conf:8: http-proxy: needs TCP towards the peer: proto tcp-client",
        ),
        (
            "http-proxy p 1 f ntlm2",
            "t.conf:8: http-proxy: NTLM is not supported, its digests are broken; use auto, digest or basic",
        ),
        (
            "http-proxy p 1 f kerberos",
            "t.conf:8: http-proxy: \"kerberos\" is not one of: none, basic, digest",
        ),
        (
            "proto tcp\nhttp-proxy p 1\nsocks-proxy q",
            "t.conf:9: http-proxy: cannot be used together with socks-proxy; delete one",
        ),
        (
            "proto tcp\nhttp-proxy-option VERSION 1.1",
            "t.conf:9: http-proxy-option: no http-proxy is named that this could belong to",
        ),
        (
            "http-proxy-option VERSION 2",
            "t.conf:8: http-proxy-option: \"2\" is not one of: 1.0, 1.1",
        ),
        (
            "http-proxy-option FOO",
            "t.conf:8: http-proxy-option: \"FOO\" with these parameters is not one of: VERSION v, AGENT text, CUSTOM-HEADER name [value]",
        ),
        (
            "proto tcp-server",
            "t.conf:8: proto: a client connects; use tcp-client instead of tcp-server",
        ),
        (
            "proto-force tcp",
            "t.conf:8: proto-force: no remote uses it",
        ),
    ] {
        assert_eq!(fault(&format!("{CLIENT}{extra}\n")), expected);
    }
    for (extra, expected) in [
        (
            "proto tcp-client",
            "t.conf:6: proto: tcp-client needs a remote to connect to",
        ),
        (
            "proto tcp\nremote a\nremote b",
            "t.conf:6: proto: tcp-server waits for one peer; name at most one remote",
        ),
        (
            "proto tcp\nremote a\nnobind",
            "t.conf:8: nobind: cannot be used with proto tcp-server, which waits at a port",
        ),
        (
            "proto tcp\nsocks-proxy s",
            "t.conf:7: socks-proxy: cannot be used with proto tcp-server, which waits for the peer",
        ),
        (
            "socks-proxy s",
            "t.conf:6: socks-proxy: needs a remote to send to",
        ),
        (
            "local 192.0.2.1\nlocal 192.0.2.2",
            "t.conf:7: local: only a server can listen at several places",
        ),
    ] {
        assert_eq!(fault(&format!("{PEER}{extra}\n")), expected);
    }
}
