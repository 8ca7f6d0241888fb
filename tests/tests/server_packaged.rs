//! A server as Debian's packages lead to: the sample `server.conf` of `openvpn` as it is, certificates
//! made by `easy-rsa`, started with the arguments of the package's service; clients of both programs
//! with the sample `client.conf`.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringway_lab::command::{succeed, wait};
use ringway_lab::peer::{Peer, UP, Vpn};
use ringway_lab::site::{SOON, Site, SiteSpec, each_server, programs};
use ringway_lab::{note, traffic};

const SAMPLES: &str = "/usr/share/doc/openvpn/examples/sample-config-files";
const EASY_RSA: &str = "/usr/share/easy-rsa";

#[test]
fn sample_files_and_easy_rsa() -> Result<()> {
    if !Path::new(SAMPLES).is_dir() || !Path::new(EASY_RSA).is_dir() {
        note("SKIP sample_files_and_easy_rsa: no documentation of openvpn, or no easy-rsa");
        return Ok(());
    }
    each_server("sample_files_and_easy_rsa", |server| {
        let spec = SiteSpec {
            names: Vec::new(),
            hosts: 2,
            ..SiteSpec::new(server)
        };
        spec.prepare()?.check(|site| {
            easy_rsa(site)?;
            fs::copy(
                format!("{SAMPLES}/server.conf"),
                site.lab.folder().join("server.conf"),
            )?;
            serves(site)
        })
    })
}

/// What the documentation of `easy-rsa` tells to type, and the files where the samples expect them.
/// Only the parameters of Diffie-Hellman are not made anew, which would take minutes.
fn easy_rsa(site: &Site) -> Result<()> {
    let script = "set -e
        cd %F
        export EASYRSA=/usr/share/easy-rsa EASYRSA_PKI=%F/easy EASYRSA_BATCH=1
        for words in init-pki 'build-ca nopass' 'build-server-full server nopass' \\
            'build-client-full client1 nopass' 'build-client-full client2 nopass'; do
            $EASYRSA/easyrsa $words
        done
        cp easy/ca.crt easy/issued/*.crt easy/private/*.key .
        openssl genpkey -quiet -genparam -algorithm DH -pkeyopt group:ffdhe2048 -out dh2048.pem
        ";
    let script = site.script("easy.sh", script)?;
    let mut command = std::process::Command::new("sh");
    succeed(command.arg(script), Duration::from_secs(60)).map(drop)
}

fn serves(site: &mut Site) -> Result<()> {
    let mut server = start_server(site)?;
    site.wait_text("log", |text| text.contains(UP))?;
    let sample = fs::read_to_string(format!("{SAMPLES}/client.conf"))?;
    for (number, host) in site.hosts.iter().enumerate() {
        let name = format!("client{}", number + 1);
        // What its comments ask the reader to edit.
        let edited = sample
            .replace("remote my-server-1 1194", "remote 192.0.2.1 1194")
            .replace("cert client.crt", &format!("cert {name}.crt"))
            .replace("key client.key", &format!("key {name}.key"));
        let lines = [format!("cd {}", site.lab.folder().display()), edited];
        let peer = programs(site.spec.server)[number];
        site.clients
            .push(Vpn::start(peer, host, site.lab.folder(), &name, &lines)?);
    }
    let far = "10.8.0.1".parse()?;
    for client in &mut site.clients {
        client.wait_for(UP, SOON)?;
        let from = client.namespace();
        traffic::ping_until(from, far, SOON)?;
        traffic::tcp(from, &site.server_namespace, far, 256 << 10, SOON)?;
    }
    // The service asks for version 2.
    site.wait_text("var/openvpn-status.log", |text| text.starts_with("TITLE,"))?;
    kill(Pid::from_raw(i32::try_from(server.id())?), Signal::SIGTERM)?;
    let status = wait(&mut server, SOON).context("the server does not end")?;
    ensure!(
        status.success() || site.spec.server == Peer::OpenVpn,
        "ended with {status}"
    );
    let kept = site.text("var/ipp.txt");
    ensure!(
        kept.contains("client1,10.8.0.") && kept.contains("client2,10.8.0."),
        "addresses are not kept: {kept:?}"
    );
    Ok(())
}

/// In the folder of its files and with the service's arguments; `/var/log/openvpn` is a folder of the
/// lab for it.
fn start_server(site: &Site) -> Result<Child> {
    let folder = site.lab.folder();
    fs::create_dir_all(folder.join("var"))?;
    let log = fs::File::create(folder.join("log"))?;
    let script = "mkdir -p /var/log/openvpn && mount --bind var /var/log/openvpn && exec \"$0\" \
        --status status-server.log --status-version 2 --suppress-timestamps --config server.conf";
    let mut command = site.server_namespace.command("sh");
    command
        .args(["-c", script])
        .arg(site.spec.server.binary()?)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    Ok(command.spawn()?)
}
