//! `fragment`, between Ringway and OpenVPN, over a path that takes no larger datagrams: both ends set
//! "don't fragment", so what is cut wrongly is lost.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use ringway_lab::link::{Cipher, Link, LinkSpec, Mode, Outside};
use ringway_lab::netns::{Lab, Namespace, OUTSIDE};
use ringway_lab::peer::Peer;
use ringway_lab::{cases, full, note, ready, traffic};

use Cipher::{Aes256CbcSha256, Aes256Gcm};
use Outside::{V4, V6};

/// The smallest MTU that IPv6 allows.
const MTU: usize = 1280;

const SOON: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug)]
enum Roles {
    /// Ringway is the `tls-server`.
    TlsServer,
    /// Ringway is the `tls-client`.
    TlsClient,
    /// Ringway pulls from OpenVPN's `server`.
    Pull,
    /// Ringway on both ends.
    Both,
}

/// What runs by default: each role, cipher and address family once.
const SHORT: [&str; 3] = ["tls_server_cbc_v6", "tls_client_gcm_v4", "pull_gcm_v4"];

cases! { run, SHORT,
    tls_server_gcm_v4: Roles::TlsServer, Aes256Gcm, V4, 1;
    tls_server_gcm_v6: Roles::TlsServer, Aes256Gcm, V6, 2;
    tls_server_cbc_v4: Roles::TlsServer, Aes256CbcSha256, V4, 2;
    tls_server_cbc_v6: Roles::TlsServer, Aes256CbcSha256, V6, 1;
    tls_client_gcm_v4: Roles::TlsClient, Aes256Gcm, V4, 2;
    tls_client_gcm_v6: Roles::TlsClient, Aes256Gcm, V6, 1;
    tls_client_cbc_v4: Roles::TlsClient, Aes256CbcSha256, V4, 1;
    tls_client_cbc_v6: Roles::TlsClient, Aes256CbcSha256, V6, 2;
    pull_gcm_v4: Roles::Pull, Aes256Gcm, V4, 1;
    pull_cbc_v6: Roles::Pull, Aes256CbcSha256, V6, 2;
    both_gcm_v4: Roles::Both, Aes256Gcm, V4, 2;
}

/// More fragments than two, and a framing, which is in the first one only.
#[test]
fn a_large_tun_mtu_and_a_compression_framing() -> Result<()> {
    if !ready("a_large_tun_mtu_and_a_compression_framing") {
        return Ok(());
    }
    for (roles, framing) in [
        (Roles::TlsServer, "comp-lzo no"),
        (Roles::TlsClient, "compress stub"),
    ] {
        let spec = spec(roles, Aes256Gcm, V4, 1)
            .line("tun-mtu 6000")
            .line(framing)
            .line("allow-compression yes");
        case(&spec)?;
    }
    Ok(())
}

/// The path gets narrower while the link is up: both ends hear of it and cut smaller.
#[test]
fn a_path_that_gets_narrower() -> Result<()> {
    if !ready("a_path_that_gets_narrower") {
        return Ok(());
    }
    for roles in [Roles::TlsServer, Roles::TlsClient] {
        let spec = LinkSpec {
            both: vec!["fragment 1400".to_owned(), "mtu-disc yes".to_owned()],
            ..spec(roles, Aes256Gcm, V4, 1)
        };
        let mut link = spec.start()?;
        link.check(|link| {
            let [client, server] = namespaces(link);
            let (near, far) = (link.client_addresses()[0], link.server_addresses()[0]);
            traffic::ping(&client, far, 1300, 2)?;
            for end in [&client, &server] {
                end.set_mtu(OUTSIDE, MTU as u32)?;
            }
            // Each end loses what was too large, once, and knows.
            for (from, to) in [(&client, far), (&server, near)] {
                let _ = traffic::ping(from, to, 1300, 1);
            }
            for (from, to) in [(&client, far), (&server, near)] {
                for size in [56, 1200, 1300, 1400, 1472] {
                    traffic::ping(from, to, size, 2)?;
                }
            }
            traffic::tcp(&client, &server, far, 1 << 20, SOON)?;
            no_complaints(link)
        })?;
    }
    Ok(())
}

fn spec(roles: Roles, cipher: Cipher, outside: Outside, workers: u16) -> LinkSpec {
    let subject = Peer::subject();
    let (client, server, mode) = match roles {
        Roles::TlsServer => (Peer::OpenVpn, subject, Mode::PointToPoint),
        Roles::TlsClient => (subject, Peer::OpenVpn, Mode::PointToPoint),
        Roles::Pull => (subject, Peer::OpenVpn, Mode::Pull),
        Roles::Both => (subject, subject, Mode::PointToPoint),
    };
    LinkSpec {
        cipher,
        outside,
        mode,
        ..LinkSpec::new(client, server)
    }
    .line(&format!("fragment {MTU} mtu"))
    .line("mtu-disc yes")
    .ringway_line(&format!("ringway-workers {workers}"))
}

fn run(roles: Roles, cipher: Cipher, outside: Outside, workers: u16) -> Result<()> {
    case(&spec(roles, cipher, outside, workers))
}

fn case(spec: &LinkSpec) -> Result<()> {
    let start = std::time::Instant::now();
    let mut lab = Lab::new()?;
    let path = lab.direct()?;
    for end in [&path.client, &path.server] {
        end.set_mtu(OUTSIDE, MTU as u32)?;
    }
    let mut link = spec.launch(lab, path)?;
    link.wait_up(SOON)?;
    link.check(|link| {
        around_the_limit(link)?;
        traffic::everything(link, 1 << 20)?;
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

/// Every size about where one datagram ends and a second one begins, both ways.
fn around_the_limit(link: &Link) -> Result<()> {
    let headers = if link.spec.outside == V6 { 48 } else { 28 };
    let limit = match link.spec.cipher {
        Aes256CbcSha256 => (MTU - headers - 4 - 32 - 16) / 16 * 16 - 5 - 4,
        _ => MTU - headers - 24 - 4,
    };
    let step = if full() { 1 } else { 3 };
    let [client, server] = namespaces(link);
    let own: [IpAddr; 2] = link.client_addresses();
    let far: [IpAddr; 2] = link.server_addresses();
    traffic::ping_until(&client, far[0], SOON)?;
    for inner in (limit - 9..=limit + 9).step_by(step) {
        traffic::ping(&client, far[0], inner - 28, 1)?;
        traffic::ping(&server, own[0], inner - 28, 1)?;
    }
    for inner in [limit - 1, limit, limit + 1] {
        traffic::ping(&client, far[1], inner - 48, 1)?;
    }
    Ok(())
}

/// Neither end found anything wrong with a fragment or with the other's options.
fn no_complaints(link: &Link) -> Result<()> {
    for end in [&link.client, &link.server] {
        for text in ["FRAG", "mtu-dynamic", "link-mtu", "mismatch"] {
            let found = end.whole_log().lines().any(|line| line.contains(text));
            ensure!(!found, "{text} in a log");
        }
    }
    Ok(())
}

fn namespaces(link: &Link) -> [Namespace; 2] {
    [
        link.client_namespace().clone(),
        link.server_namespace().clone(),
    ]
}
