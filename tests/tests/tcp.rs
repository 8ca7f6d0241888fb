//! Links over TCP, against OpenVPN in both roles: directly, through proxies, and cut in the middle.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use ringway_lab::certs::Pki;
use ringway_lab::link::{Cipher, Link, LinkSpec, Mode, Outside};
use ringway_lab::netns::Lab;
use ringway_lab::peer::{Peer, UP, Vpn};
use ringway_lab::proxy::{Kind, PASSWORD, Proxy, USER};
use ringway_lab::{cases, note, ready, traffic};

use Cipher::{Aes256CbcSha256, Aes256Gcm};
use Outside::{V4, V6};

const SOON: Duration = Duration::from_secs(30);
/// Where proxies listen, in the server end's namespace.
const PROXY: &str = "192.0.2.2:3128";

#[derive(Clone, Copy, Debug)]
enum Roles {
    /// Ringway is the `tcp-server` and `tls-server`.
    Server,
    /// Ringway is the `tcp-client` and `tls-client`.
    Client,
    /// Ringway pulls from OpenVPN's `server`.
    Pull,
    /// OpenVPN pulls from Ringway's `server`.
    Serve,
    /// Ringway on both ends.
    Both,
}

/// What runs by default: each role once.
const SHORT: [&str; 4] = [
    "server_cbc_v6",
    "client_gcm_v6",
    "pull_gcm_v4",
    "serve_gcm_v6",
];

cases! { run, SHORT,
    server_gcm_v4: Roles::Server, Aes256Gcm, V4, 1;
    server_cbc_v6: Roles::Server, Aes256CbcSha256, V6, 2;
    client_gcm_v6: Roles::Client, Aes256Gcm, V6, 2;
    client_cbc_v4: Roles::Client, Aes256CbcSha256, V4, 1;
    pull_gcm_v4: Roles::Pull, Aes256Gcm, V4, 2;
    pull_cbc_v6: Roles::Pull, Aes256CbcSha256, V6, 1;
    serve_gcm_v6: Roles::Serve, Aes256Gcm, V6, 1;
    both_gcm_v4: Roles::Both, Aes256Gcm, V4, 2;
}

/// Who is called may be the client of TLS.
#[test]
fn tls_roles_crossed() -> Result<()> {
    if !ready("tls_roles_crossed") {
        return Ok(());
    }
    for roles in [Roles::Server, Roles::Client, Roles::Both] {
        let mut link = edited(&spec(roles, Aes256Gcm, V4, 1), |client, server| {
            client.retain(|line| line != "nobind" && !line.starts_with("remote 192"));
            client.extend(["proto tcp4-server".to_owned(), "port 1194".to_owned()]);
            server.retain(|line| line != "port 1194");
            server.extend(
                ["proto tcp4-client", "nobind", "remote 192.0.2.1 1194"].map(str::to_owned),
            );
        })?;
        link.wait_up(SOON)?;
        link.check(|link| {
            let (client, server) = (link.client_namespace(), link.server_namespace());
            traffic::tcp(client, server, link.server_addresses()[0], 1 << 20, SOON)
        })?;
    }
    Ok(())
}

#[test]
fn through_proxies() -> Result<()> {
    if !ready("through_proxies") {
        return Ok(());
    }
    let login = format!("<http-proxy-user-pass>\n{USER}\n{PASSWORD}\n</http-proxy-user-pass>");
    let file = "socks-proxy 192.0.2.2 3128 LOGIN";
    let cases = [
        (Kind::Http, Roles::Client, vec!["http-proxy 192.0.2.2 3128"]),
        (
            Kind::Http,
            Roles::Pull,
            vec!["http-proxy 192.0.2.2 3128", "http-proxy-option VERSION 1.1"],
        ),
        (
            Kind::HttpBasic,
            Roles::Pull,
            vec!["http-proxy 192.0.2.2 3128 auto", &login],
        ),
        (
            Kind::HttpBasic,
            Roles::Client,
            vec!["http-proxy 192.0.2.2 3128 stdin basic", &login],
        ),
        (
            Kind::HttpDigest,
            Roles::Pull,
            vec!["http-proxy 192.0.2.2 3128 auto-nct", &login],
        ),
        (
            Kind::Socks,
            Roles::Client,
            vec!["socks-proxy 192.0.2.2 3128"],
        ),
        (Kind::SocksLogin, Roles::Pull, vec![file]),
    ];
    for (kind, roles, lines) in cases {
        let mut lab = Lab::new()?;
        let path = lab.direct()?;
        let login = lab.folder().join("login");
        std::fs::write(&login, format!("{USER}\n{PASSWORD}\n"))?;
        let mut spec = spec(roles, Aes256Gcm, V4, 1);
        for line in lines {
            let line = line.replace("LOGIN", &login.display().to_string());
            let line = line.replace(" stdin basic", &format!(" {} basic", login.display()));
            spec = spec.client_line(&line);
        }
        let _proxy = Proxy::start(&path.server, PROXY.parse()?, kind)?;
        let mut link = spec.launch(lab, path)?;
        link.wait_up(SOON).with_context(|| format!("{kind:?}"))?;
        link.check(|link| {
            let (client, server) = (link.client_namespace(), link.server_namespace());
            traffic::tcp(client, server, link.server_addresses()[0], 1 << 20, SOON)
        })?;
        link.check(|link| link.stop())?;
        note(&format!("{kind:?}: {}", link.spec.title()));
    }
    Ok(())
}

/// A proxy that refuses ends the attempt with a line that says so.
#[test]
fn a_proxy_that_refuses() -> Result<()> {
    if !ready("a_proxy_that_refuses") {
        return Ok(());
    }
    for (kind, line, says) in [
        (
            Kind::HttpBasic,
            "http-proxy 192.0.2.2 3128",
            "none are configured",
        ),
        (
            Kind::SocksLogin,
            "socks-proxy 192.0.2.2 3128",
            "none are configured",
        ),
        (Kind::Http, "socks-proxy 192.0.2.2 3128", "timed out"),
    ] {
        let mut lab = Lab::new()?;
        let path = lab.direct()?;
        let _proxy = Proxy::start(&path.server, PROXY.parse()?, kind)?;
        let spec = spec(Roles::Client, Aes256Gcm, V4, 1)
            .client_line(line)
            .client_line("connect-timeout 3");
        let mut link = spec.launch(lab, path)?;
        link.client.wait_for(says, SOON)?;
        link.client.wait_for("SIGUSR1[soft,proxy-error]", SOON)?;
        link.client.stop()?;
    }
    Ok(())
}

/// The connection is cut without either end having done anything: both see it, and meet again.
#[test]
fn cut_in_the_middle() -> Result<()> {
    if !ready("cut_in_the_middle") {
        return Ok(());
    }
    for (roles, kind) in [
        (Roles::Client, Kind::Socks),
        (Roles::Pull, Kind::Socks),
        (Roles::Both, Kind::Http),
    ] {
        let mut lab = Lab::new()?;
        let path = lab.direct()?;
        let mut proxy = Proxy::start(&path.server, PROXY.parse()?, kind)?;
        let option = if kind == Kind::Http {
            "http-proxy"
        } else {
            "socks-proxy"
        };
        let spec = spec(roles, Aes256Gcm, V4, 1).client_line(&format!("{option} 192.0.2.2 3128"));
        let mut link = spec.launch(lab, path)?;
        link.wait_up(SOON)?;
        link.client.mark();
        proxy.cut()?;
        link.check(|link| {
            link.client.wait_for("connection-reset", SOON)?;
            link.client.wait_for(UP, SOON)?;
            let (client, server) = (link.client_namespace(), link.server_namespace());
            traffic::ping_until(client, link.server_addresses()[0], SOON)?;
            traffic::tcp(client, server, link.server_addresses()[0], 1 << 20, SOON)
        })?;
    }
    Ok(())
}

/// A peer that ends is seen at once; it may come back. Nobody else may call meanwhile.
#[test]
fn a_peer_that_closes() -> Result<()> {
    if !ready("a_peer_that_closes") {
        return Ok(());
    }
    for roles in [Roles::Server, Roles::Client, Roles::Both] {
        let mut link = spec(roles, Aes256Gcm, V4, 1).start()?;
        link.check(|link| {
            let other = link.client_namespace().command("/bin/bash");
            refused(other)?;
            link.server.mark();
            link.client.stop()?;
            link.server.wait_for("connection-reset", SOON)?;
            link.client.start_again()?;
            link.client.wait_up(SOON)?;
            link.server.wait_up(SOON)?;
            let far = link.server_addresses()[0];
            traffic::ping_until(link.client_namespace(), far, SOON)?;
            link.client.mark();
            link.server.stop()?;
            link.client.wait_for("connection-reset", SOON)?;
            link.server.start_again()?;
            link.client.wait_up(SOON)?;
            traffic::ping_until(link.client_namespace(), far, SOON)?;
            link.stop()
        })?;
    }
    Ok(())
}

/// A server that shares its port: clients of both kinds come in.
#[test]
fn a_shared_port() -> Result<()> {
    if !ready("a_shared_port") {
        return Ok(());
    }
    let mut lab = Lab::new()?;
    let path = lab.direct()?;
    // The other server: a proxy, because it answers.
    let _other = Proxy::start(&path.server, "127.0.0.1:8443".parse()?, Kind::Http)?;
    let spec = spec(Roles::Serve, Aes256Gcm, V4, 1).server_line("port-share 127.0.0.1 8443");
    let mut link = spec.launch(lab, path)?;
    link.wait_up(SOON)?;
    link.check(|link| {
        let script = "exec 3<>/dev/tcp/192.0.2.2/1194
            printf 'CONNECT 127.0.0.1:8443 HTTP/1.0\\r\\n\\r\\n' >&3; head -n1 <&3";
        for _ in 0..3 {
            let answer = link.client_namespace().run("/bin/bash", &["-c", script])?;
            ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
        let (client, server) = (link.client_namespace(), link.server_namespace());
        traffic::tcp(client, server, link.server_addresses()[0], 1 << 20, SOON)?;
        link.stop()
    })
}

/// Signals end a wait for a connection: one that nobody answers, and one for a peer.
#[test]
fn signals_while_there_is_no_connection() -> Result<()> {
    if !ready("signals_while_there_is_no_connection") {
        return Ok(());
    }
    for signal in [Signal::SIGTERM, Signal::SIGUSR1, Signal::SIGHUP] {
        // Nobody has the first address, and nobody answers at it.
        let mut link = edited(&spec(Roles::Both, Aes256Gcm, V4, 1), |client, _| {
            client.retain(|line| !line.starts_with("remote 192"));
            client.push("remote 192.0.2.77 1194".to_owned());
        })?;
        link.check(|link| {
            for (end, says) in [
                (&mut link.server, "Listening for incoming TCP"),
                (&mut link.client, "Attempting to establish TCP"),
            ] {
                end.wait_for(says, SOON)?;
                end.mark();
                end.signal(signal)?;
                if signal == Signal::SIGTERM {
                    end.wait_for("SIGTERM[hard,] received, process exiting", SOON)?;
                    ensure!(end.wait_exit(SOON)?.success(), "a signal is a good end");
                } else {
                    let name = format!("{}[hard,] received, process restarting", signal.as_str());
                    end.wait_for(&name, SOON)?;
                    end.wait_for(says, SOON)?;
                    end.stop()?;
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// A link whose two files, the client end's first, were edited.
fn edited(spec: &LinkSpec, edit: impl FnOnce(&mut Vec<String>, &mut Vec<String>)) -> Result<Link> {
    let mut lab = Lab::new()?;
    let path = lab.direct()?;
    let folder = lab.folder().to_owned();
    let pki = Pki::new(&folder.join("pki"), spec.keys)?;
    let (mut near, mut far) = (spec.client_config(&pki, &path), spec.server_config(&pki));
    edit(&mut near, &mut far);
    let server = Vpn::start(spec.server, &path.server, &folder, "server", &far)?;
    let client = Vpn::start(spec.client, &path.client, &folder, "client", &near)?;
    Ok(Link {
        client,
        server,
        spec: spec.clone(),
        pki,
        path,
        lab,
    })
}

fn refused(mut shell: std::process::Command) -> Result<()> {
    let status = shell
        .args(["-c", "exec 3<>/dev/tcp/192.0.2.2/1194"])
        .stderr(std::process::Stdio::null())
        .status()?;
    ensure!(!status.success(), "a second peer was let in");
    Ok(())
}

fn spec(roles: Roles, cipher: Cipher, outside: Outside, workers: u16) -> LinkSpec {
    let subject = Peer::subject();
    let (client, server, mode) = match roles {
        Roles::Server => (Peer::OpenVpn, subject, Mode::PointToPoint),
        Roles::Client => (subject, Peer::OpenVpn, Mode::PointToPoint),
        Roles::Pull => (subject, Peer::OpenVpn, Mode::Pull),
        Roles::Serve => (Peer::OpenVpn, subject, Mode::Pull),
        Roles::Both => (subject, subject, Mode::PointToPoint),
    };
    LinkSpec {
        cipher,
        outside,
        mode,
        tcp: true,
        ..LinkSpec::new(client, server)
    }
    .line("connect-retry 1")
    .line("socket-flags TCP_NODELAY")
    .ringway_line(&format!("ringway-workers {workers}"))
}

fn run(roles: Roles, cipher: Cipher, outside: Outside, workers: u16) -> Result<()> {
    case(&spec(roles, cipher, outside, workers))
}

fn case(spec: &LinkSpec) -> Result<()> {
    let start = std::time::Instant::now();
    let mut link = spec.start()?;
    link.check(|link| {
        traffic::everything(link, 4 << 20)?;
        no_complaints(link)?;
        link.stop()
    })?;
    note(&format!(
        "{}: all in {:.1} s",
        spec.title(),
        start.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// Neither end found anything wrong with the other's options or packets.
fn no_complaints(link: &Link) -> Result<()> {
    for end in [&link.client, &link.server] {
        for text in ["inconsistent", "link-mtu", "mismatch", "Bad encapsulated"] {
            let found = end.whole_log().lines().any(|line| line.contains(text));
            ensure!(!found, "{text} in a log");
        }
    }
    Ok(())
}
