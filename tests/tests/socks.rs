//! UDP through SOCKS proxies: Ringway behind one, towards OpenVPN and towards itself, and OpenVPN
//! behind the same one.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ringway_lab::certs::Pki;
use ringway_lab::link::{Link, LinkSpec, Mode, Outside};
use ringway_lab::netns::Lab;
use ringway_lab::peer::{Peer, UP, Vpn};
use ringway_lab::proxy::{Kind, PASSWORD, Proxy, USER};
use ringway_lab::{note, ready, traffic};

const SOON: Duration = Duration::from_secs(30);
const PORT: u16 = 1080;

/// Who is behind the proxy, and who at the other end.
struct Case {
    client: Peer,
    server: Peer,
    mode: Mode,
    outside: Outside,
    kind: Kind,
    /// The peer is named by something that only the proxy resolves.
    by_name: bool,
    /// The proxy goes away in the middle.
    cut: bool,
}

#[test]
fn udp_through_socks() -> Result<()> {
    if !ready("udp_through_socks") {
        return Ok(());
    }
    let subject = Peer::subject();
    let plain = Case {
        client: subject,
        server: Peer::OpenVpn,
        mode: Mode::Pull,
        outside: Outside::V4,
        kind: Kind::Socks,
        by_name: false,
        cut: true,
    };
    // OpenVPN knows SOCKS over IPv4 only.
    let v6 = Case {
        mode: Mode::PointToPoint,
        outside: Outside::V6,
        kind: Kind::SocksLogin,
        cut: false,
        ..plain
    };
    let by_name = Case {
        server: subject,
        by_name: true,
        cut: false,
        ..plain
    };
    let stock = Case {
        client: Peer::OpenVpn,
        server: subject,
        cut: false,
        ..plain
    };
    for case in [plain, v6, by_name, stock] {
        run(&case)?;
    }
    Ok(())
}

fn run(case: &Case) -> Result<()> {
    let mut link = start(case)?;
    let title = link.0.spec.title();
    link.0.wait_up(SOON).with_context(|| title.clone())?;
    link.0.check(|link| carries(link))?;
    let (link, proxy) = (&mut link.0, &mut link.1);
    if case.client != Peer::OpenVpn {
        let said = link.client.whole_log();
        ensure!(said.contains("all pass a relay"), "nothing says so: {said}");
    }
    if case.cut {
        link.client.mark();
        proxy.cut()?;
        link.check(|link| {
            link.client.wait_for("forwards no more", SOON)?;
            link.client.wait_for(UP, SOON)?;
            carries(link)
        })?;
    }
    link.check(|link| link.stop())?;
    note(&format!("{title}, {:?}", case.kind));
    Ok(())
}

fn carries(link: &Link) -> Result<()> {
    let (client, server) = (link.client_namespace(), link.server_namespace());
    let far = link.server_addresses()[0];
    traffic::ping_until(client, far, SOON)?;
    // Larger than anything that crosses the outside in one piece.
    traffic::ping(client, far, 4000, 3)?;
    traffic::tcp(client, server, far, 4 << 20, SOON).map(drop)
}

/// The link, and the proxy in the namespace of its server end.
fn start(case: &Case) -> Result<(Link, Proxy)> {
    let mut lab = Lab::new()?;
    let path = lab.direct()?;
    let folder = lab.folder().to_owned();
    let spec = LinkSpec {
        mode: case.mode,
        outside: case.outside,
        ..LinkSpec::new(case.client, case.server)
    }
    .line("connect-retry 1")
    .ringway_line("ringway-workers 2");
    let address = match case.outside {
        Outside::V4 => path.server_addresses[0],
        Outside::V6 => path.server_addresses[1],
    };
    let login = folder.join("login");
    std::fs::write(&login, format!("{USER}\n{PASSWORD}\n"))?;
    let login = match case.kind {
        Kind::SocksLogin => login.display().to_string(),
        _ => String::new(),
    };
    let pki = Pki::new(&folder.join("pki"), spec.keys)?;
    let (mut near, far) = (spec.client_config(&pki, &path), spec.server_config(&pki));
    near.push(format!("socks-proxy {address} {PORT} {login}"));
    if case.by_name {
        near.retain(|line| !line.starts_with("remote "));
        near.push("remote localhost 1194".to_owned());
    }
    let proxy = Proxy::start(&path.server, (address, PORT).into(), case.kind)?;
    let server = Vpn::start(case.server, &path.server, &folder, "server", &far)?;
    let client = Vpn::start(case.client, &path.client, &folder, "client", &near)?;
    let link = Link {
        client,
        server,
        spec,
        pki,
        path,
        lab,
    };
    Ok((link, proxy))
}
