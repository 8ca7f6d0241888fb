//! One server and several clients on one network: each a process in a namespace of its own.
//!
//! ```text
//!   sv 192.0.2.1 ---+                   +--- c0 192.0.2.10
//!   2001:db8:1::1   +-- sw: a bridge ---+--- c1 192.0.2.11
//!                                       +--- ...
//! ```
//!
//! Inside, the server has 10.9.0.1 and fd00:9::1, and a client what it was given
//! ([`Site::inside`] asks its kernel). The device is called `tun0` everywhere, TAP devices too.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;

use crate::certs::{Authority, KeyKind, Pki};
use crate::command::POLL;
use crate::link::Wrap;
use crate::netns::{Lab, Namespace, OUTSIDE};
use crate::peer::{Peer, UP, Vpn};
use crate::traffic;

/// How long anything may take that takes a second on a machine with nothing else to do.
pub const SOON: Duration = Duration::from_secs(40);

/// Device of every end.
pub const DEVICE: &str = "tun0";

/// What a site's server and clients have in common, and what only the server has.
#[derive(Clone, Debug)]
pub struct SiteSpec {
    /// Program of the server.
    pub server: Peer,
    /// `udp4`, `udp6`, `tcp4` or `tcp6`.
    pub proto: &'static str,
    /// Control channel wrap.
    pub wrap: Wrap,
    /// Ethernet frames instead of IP packets.
    pub tap: bool,
    /// `subnet`, `net30` or `p2p`.
    pub topology: &'static str,
    /// The line that makes it a server.
    pub network: &'static str,
    /// Names with a certificate: the common name, and the files' name.
    pub names: Vec<&'static str>,
    /// Namespaces for clients.
    pub hosts: usize,
    /// Lines of the server's file after those for the choices above. `%F` stands for the lab's
    /// folder.
    pub lines: Vec<String>,
}

impl SiteSpec {
    /// A TUN server with topology subnet and tls-crypt over UDP on IPv4, with three clients.
    #[must_use]
    pub fn new(server: Peer) -> Self {
        Self {
            server,
            proto: "udp4",
            wrap: Wrap::TlsCrypt,
            tap: false,
            topology: "subnet",
            network: "server 10.9.0.0 255.255.255.0",
            names: vec!["anna", "berta", "clara"],
            hosts: 3,
            lines: Vec::new(),
        }
    }

    /// Adds a line to the server's file; `%F` stands for the lab's folder.
    #[must_use]
    pub fn line(mut self, line: &str) -> Self {
        self.lines.push(line.to_owned());
        self
    }

    /// One line naming the choices.
    #[must_use]
    pub fn title(&self) -> String {
        format!(
            "{} server, {} {}, {:?}, {}",
            self.server.name(),
            if self.tap { "tap" } else { "tun" },
            self.topology,
            self.wrap,
            self.proto
        )
    }

    /// Makes the network and the keys, nothing running yet: for labs that write files first.
    ///
    /// # Errors
    /// When the kernel refuses or a file cannot be written.
    pub fn prepare(&self) -> Result<Site> {
        let mut lab = Lab::new()?;
        let (server, hosts) = network(&mut lab, self.hosts)?;
        let mut authority = Authority::new(&lab.folder().join("pki"), KeyKind::EcdsaP256)?;
        for name in &self.names {
            authority.issue_client(name)?;
        }
        if self.wrap == Wrap::TlsCryptV2 {
            authority.pki().add_tls_crypt_v2()?;
        }
        Ok(Site {
            spec: self.clone(),
            server_namespace: server,
            hosts,
            server: None,
            clients: Vec::new(),
            authority,
            lab,
        })
    }

    /// Makes the network and the keys and starts the server.
    ///
    /// # Errors
    /// As [`SiteSpec::prepare`] and [`Site::start_server`].
    pub fn start(&self) -> Result<Site> {
        let mut site = self.prepare()?;
        site.start_server()?;
        Ok(site)
    }
}

/// One client to be started.
#[derive(Clone, Debug)]
pub struct ClientSpec {
    peer: Peer,
    host: usize,
    name: String,
    proto: Option<&'static str>,
    remote: Option<&'static str>,
    certificate: bool,
    lines: Vec<String>,
}

impl ClientSpec {
    /// The program `peer` in namespace number `host`, with the certificate of `name`.
    #[must_use]
    pub fn new(peer: Peer, host: usize, name: &str) -> Self {
        Self {
            peer,
            host,
            name: name.to_owned(),
            proto: None,
            remote: None,
            certificate: true,
            lines: Vec::new(),
        }
    }

    /// Adds a line to its file; `%F` stands for the lab's folder.
    #[must_use]
    pub fn line(mut self, line: &str) -> Self {
        self.lines.push(line.to_owned());
        self
    }

    /// It has no certificate.
    #[must_use]
    pub fn without_certificate(mut self) -> Self {
        self.certificate = false;
        self
    }

    /// Another address than the server's, of somebody who passes on what comes.
    #[must_use]
    pub fn remote(mut self, address: &'static str) -> Self {
        self.remote = Some(address);
        self
    }

    /// Another transport than the site's.
    #[must_use]
    pub fn proto(mut self, proto: &'static str) -> Self {
        self.proto = Some(proto);
        self
    }
}

/// A site. Dropping it ends every process and removes namespaces and files.
#[derive(Debug)]
pub struct Site {
    /// The clients in the order they were started.
    pub clients: Vec<Vpn>,
    /// The server; none before it was started.
    pub server: Option<Vpn>,
    /// What it was made from.
    pub spec: SiteSpec,
    /// Where the server runs.
    pub server_namespace: Namespace,
    /// Where clients run.
    pub hosts: Vec<Namespace>,
    /// Issues and revokes.
    pub authority: Authority,
    /// Namespaces and files; declared last, so that it goes last.
    pub lab: Lab,
}

impl Site {
    /// Starts the server and waits until it serves.
    ///
    /// # Errors
    /// When it does not.
    pub fn start_server(&mut self) -> Result<()> {
        let lines = self.server_config();
        let mut server = Vpn::start(
            self.spec.server,
            &self.server_namespace,
            self.lab.folder(),
            "server",
            &lines,
        )?;
        server.wait_up(SOON)?;
        self.server = Some(server);
        Ok(())
    }

    /// The running server.
    ///
    /// # Errors
    /// When there is none.
    pub fn server(&mut self) -> Result<&mut Vpn> {
        self.server.as_mut().context("no server was started")
    }

    /// Waits until the server has said what it has to say: `stock` of OpenVPN, `ours` of Ringway;
    /// nothing when that is empty.
    ///
    /// # Errors
    /// When it does not soon.
    pub fn server_says(&mut self, stock: &str, ours: &str) -> Result<()> {
        let server = self.server()?;
        let text = match server.peer() {
            Peer::OpenVpn | Peer::OpenVpn27 => stock,
            Peer::Ringway => ours,
        };
        server.wait_for(text, SOON).map(drop)
    }

    /// One of a Ringway server's counters, such as `drop replay`. The server's log begins anew with
    /// it.
    ///
    /// # Errors
    /// When it has no such counter.
    pub fn counter(&mut self, name: &str) -> Result<u64> {
        let server = self.server()?;
        server.mark();
        server.signal(Signal::SIGUSR2)?;
        let name = format!("{name},");
        server.wait_for(&name, SOON)?;
        let log = server.log();
        let value = log.split(&name).nth(1).and_then(|rest| rest.lines().next());
        let value = value.context("half a line")?;
        value.parse().with_context(|| format!("{name}{value}"))
    }

    /// Starts a client without waiting; its number in [`Site::clients`].
    ///
    /// # Errors
    /// When it cannot start.
    pub fn launch(&mut self, client: &ClientSpec) -> Result<usize> {
        let number = self.clients.len();
        let lines = self.client_config(client);
        self.clients.push(Vpn::start(
            client.peer,
            self.hosts.get(client.host).context("no such host")?,
            self.lab.folder(),
            &format!("client{number}-{}", client.name),
            &lines,
        )?);
        Ok(number)
    }

    /// Starts a client and waits until it is connected; its number in [`Site::clients`].
    ///
    /// # Errors
    /// When it does not connect soon.
    pub fn join(&mut self, client: &ClientSpec) -> Result<usize> {
        let number = self.launch(client)?;
        self.clients[number].wait_up(SOON)?;
        Ok(number)
    }

    /// Starts clients together and waits for all of them.
    ///
    /// # Errors
    /// When one does not connect soon.
    pub fn join_all(&mut self, clients: &[ClientSpec]) -> Result<()> {
        let first = self.clients.len();
        for client in clients {
            self.launch(client)?;
        }
        for client in &mut self.clients[first..] {
            client.wait_for(UP, SOON)?;
        }
        Ok(())
    }

    /// Global addresses of a client's device, IPv4 and IPv6, as its kernel has them.
    ///
    /// # Errors
    /// When one is missing.
    pub fn inside(&self, client: usize) -> Result<[IpAddr; 2]> {
        addresses(self.clients[client].namespace())
    }

    /// The server's addresses inside, IPv4 and IPv6.
    #[must_use]
    pub fn server_inside(&self) -> [IpAddr; 2] {
        [
            IpAddr::from([10, 9, 0, 1]),
            IpAddr::from([0xfd00u16, 9, 0, 0, 0, 0, 0, 1]),
        ]
    }

    /// Pings from 0 bytes to far above the MTU both ways and checked TCP content between a
    /// client and the server, over both families.
    ///
    /// # Errors
    /// The first thing that does not get through.
    pub fn carries(&self, client: usize) -> Result<()> {
        let own = self.inside(client)?;
        let far = self.server_inside();
        let namespace = self.clients[client].namespace();
        for family in [0, 1] {
            traffic::ping_until(namespace, far[family], SOON)?;
            for size in [0, 56, 1472, 4000] {
                traffic::ping(namespace, far[family], size, 1)?;
                traffic::ping(&self.server_namespace, own[family], size, 1)?;
            }
            let to = &self.server_namespace;
            traffic::tcp(namespace, to, far[family], 256 << 10, SOON)?;
        }
        Ok(())
    }

    /// Whether the first client's host gets answers from `to` within a few tries.
    ///
    /// # Errors
    /// When `ping` cannot be started.
    pub fn reaches(&self, client: usize, to: IpAddr) -> Result<bool> {
        answers(self.clients[client].namespace(), to)
    }

    /// Writes an executable script into the lab's folder.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn script(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.file(name, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(path)
    }

    /// Writes a file into the lab's folder; folders on its way are made.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn file(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.lab.folder().join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&path, self.expand(text))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// What a file in the lab's folder holds; nothing when there is none.
    #[must_use]
    pub fn text(&self, name: &str) -> String {
        let bytes = fs::read(self.lab.folder().join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until a file in the lab's folder pleases.
    ///
    /// # Errors
    /// When it does not soon; with what it holds.
    pub fn wait_text(&self, name: &str, pleases: impl Fn(&str) -> bool) -> Result<String> {
        let start = Instant::now();
        loop {
            let text = self.text(name);
            if pleases(&text) {
                return Ok(text);
            }
            if start.elapsed() > SOON {
                bail!("{name} stays\n{text}");
            }
            std::thread::sleep(POLL);
        }
    }

    /// Runs a check and adds the ends of all logs to its error.
    ///
    /// # Errors
    /// The check's.
    pub fn check<T>(&mut self, check: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        check(self).map_err(|error| {
            let tails = self.server.iter().chain(&self.clients).map(Vpn::tail);
            let tails: Vec<String> = tails.collect();
            anyhow::anyhow!("{}\n{error:#}\n{}", self.spec.title(), tails.join("\n"))
        })
    }

    /// The server's file.
    #[must_use]
    pub fn server_config(&self) -> Vec<String> {
        let spec = &self.spec;
        let mut lines = common(spec, self.authority.pki(), "server", spec.proto);
        lines.extend(
            [
                "port 1194",
                "dh none",
                spec.network,
                "server-ipv6 fd00:9::/64",
            ]
            .map(str::to_owned),
        );
        lines.push(format!("topology {}", spec.topology));
        lines.extend(spec.lines.iter().map(|line| self.expand(line)));
        lines
    }

    fn client_config(&self, client: &ClientSpec) -> Vec<String> {
        let spec = &self.spec;
        let proto = client.proto.unwrap_or(spec.proto);
        let mut lines = common(spec, self.authority.pki(), &client.name, proto);
        let server = if proto.ends_with('6') {
            "2001:db8:1::1"
        } else {
            "192.0.2.1"
        };
        let address = client.remote.unwrap_or(server);
        if client
            .lines
            .iter()
            .any(|line| line.starts_with("tls-crypt-v2 "))
        {
            lines.retain(|line| !line.starts_with("tls-crypt-v2 "));
        }
        if !client.certificate {
            lines.retain(|line| !line.starts_with("cert ") && !line.starts_with("key "));
        }
        lines.push(format!("remote {address} 1194"));
        lines.extend(["client", "remote-cert-tls server", "connect-retry 1 2"].map(str::to_owned));
        if !client.lines.iter().any(|line| line.starts_with("lport")) {
            lines.push("nobind".to_owned());
        }
        lines.extend(client.lines.iter().map(|line| self.expand(line)));
        lines
    }

    fn expand(&self, text: &str) -> String {
        text.replace("%F", &self.lab.folder().display().to_string())
    }
}

/// Whether `to` answers one of three pings.
///
/// # Errors
/// When `ping` cannot be started.
pub fn answers(from: &Namespace, to: IpAddr) -> Result<bool> {
    let to = to.to_string();
    let mut command = from.command("ping");
    command.args(["-n", "-q", "-i", "0.1", "-c", "3", "-W", "1", &to]);
    let finished = crate::command::finish(&mut command, Duration::from_secs(20))?;
    Ok(finished.status.success())
}

/// Global addresses of a namespace's [`DEVICE`], IPv4 and IPv6.
///
/// # Errors
/// When one is missing.
pub fn addresses(namespace: &Namespace) -> Result<[IpAddr; 2]> {
    let text = namespace.ip(&format!("-o addr show dev {DEVICE} scope global"))?;
    let find = |family: &str| -> Result<IpAddr> {
        let mut words = text.split_whitespace().skip_while(|word| *word != family);
        let address = words
            .nth(1)
            .with_context(|| format!("no {family} address on {DEVICE}: {text}"))?;
        let address = address.split('/').next().unwrap_or(address);
        address.parse().with_context(|| address.to_owned())
    };
    Ok([find("inet")?, find("inet6")?])
}

fn common(spec: &SiteSpec, pki: &Pki, name: &str, proto: &str) -> Vec<String> {
    let file = |name: &str| pki.file(name).display().to_string();
    let mut lines = vec![
        format!("dev {DEVICE}"),
        format!("dev-type {}", if spec.tap { "tap" } else { "tun" }),
        format!("proto {}", role_of(proto, name)),
        format!("ca {}", file("ca.crt")),
        format!("cert {}", file(&format!("{name}.crt"))),
        format!("key {}", file(&format!("{name}.key"))),
        "verb 3".to_owned(),
    ];
    let end = if name == "server" { "server" } else { "client" };
    match spec.wrap {
        Wrap::Plain => {}
        Wrap::TlsAuth => {
            let direction = if end == "server" { 0 } else { 1 };
            lines.push(format!("tls-auth {} {direction}", file("tls-auth.key")));
        }
        Wrap::TlsCrypt => lines.push(format!("tls-crypt {}", file("tls-crypt.key"))),
        Wrap::TlsCryptV2 => {
            let cookie = if end == "server" { " force-cookie" } else { "" };
            lines.push(format!(
                "tls-crypt-v2 {}{cookie}",
                file(&format!("v2-{end}.key"))
            ));
        }
    }
    lines
}

/// `tcp4` is `tcp4-server` or `tcp4-client` in a file.
fn role_of(proto: &str, name: &str) -> String {
    match (proto.starts_with("tcp"), name) {
        (true, "server") => format!("{proto}-server"),
        (true, _) => format!("{proto}-client"),
        (false, _) => proto.to_owned(),
    }
}

/// The server's and the clients' namespaces on one bridge.
fn network(lab: &mut Lab, hosts: usize) -> Result<(Namespace, Vec<Namespace>)> {
    let switch = lab.namespace("sw")?;
    // Without snooping: a report that comes late must not cost a neighbour solicitation.
    switch.ip("link add br0 type bridge mcast_snooping 0")?;
    switch.ip("link set br0 up")?;
    let server = lab.namespace("sv")?;
    plug(&switch, &server, "psv", "192.0.2.1", "2001:db8:1::1")?;
    let mut clients = Vec::new();
    for number in 0..hosts {
        let client = lab.namespace(&format!("c{number}"))?;
        let (v4, v6) = (
            format!("192.0.2.{}", 10 + number),
            format!("2001:db8:1::1{number:x}"),
        );
        plug(&switch, &client, &format!("pc{number}"), &v4, &v6)?;
        clients.push(client);
    }
    Ok((server, clients))
}

fn plug(switch: &Namespace, host: &Namespace, port: &str, v4: &str, v6: &str) -> Result<()> {
    crate::netns::wire(host, OUTSIDE, switch, port)?;
    crate::netns::address(host, OUTSIDE, &format!("{v4}/24"), &format!("{v6}/64"))?;
    switch.ip(&format!("link set {port} master br0"))?;
    Ok(())
}

/// Makes `folder` a filesystem of its own with `kilobytes` of room, in the whole machine's view;
/// dropping it takes it away.
#[derive(Debug)]
pub struct TinyDisk {
    folder: PathBuf,
}

impl TinyDisk {
    /// Mounts it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn mount(folder: &Path, kilobytes: u32) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let size = format!("size={kilobytes}k,mode=755");
        let place = folder.to_str().context("path is not UTF-8")?;
        crate::command::run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", place])?;
        Ok(Self {
            folder: folder.to_owned(),
        })
    }
}

impl Drop for TinyDisk {
    fn drop(&mut self) {
        let place = self.folder.display().to_string();
        if let Err(error) = crate::command::run("umount", &["-l", &place]) {
            crate::note(&format!("cannot unmount {place}: {error}"));
        }
    }
}

/// Runs a lab with Ringway as the server; with the stock server too when the long forms of the
/// labs are asked for.
///
/// # Errors
/// The lab's, with the time it took printed otherwise.
pub fn each_server(test: &str, lab: impl Fn(Peer) -> Result<()>) -> Result<()> {
    let subject = Peer::subject();
    let stock = (crate::full() && subject != Peer::OpenVpn).then_some(Peer::OpenVpn);
    with_servers(test, &[Some(subject), stock], lab)
}

/// Runs a lab with Ringway as the server, then with the stock one.
///
/// # Errors
/// As [`each_server`].
pub fn both_servers(test: &str, lab: impl Fn(Peer) -> Result<()>) -> Result<()> {
    let subject = Peer::subject();
    let stock = (subject != Peer::OpenVpn).then_some(Peer::OpenVpn);
    with_servers(test, &[Some(subject), stock], lab)
}

fn with_servers(
    test: &str,
    servers: &[Option<Peer>],
    lab: impl Fn(Peer) -> Result<()>,
) -> Result<()> {
    if !crate::ready(test) {
        return Ok(());
    }
    for &server in servers.iter().flatten() {
        let start = Instant::now();
        lab(server).with_context(|| format!("{test}, {} server", server.name()))?;
        crate::note(&format!(
            "{test}, {} server: {:.1} s",
            server.name(),
            start.elapsed().as_secs_f64()
        ));
    }
    Ok(())
}

/// Programs for three clients of a server: mostly the other program, so that both kinds of client
/// meet both kinds of server.
#[must_use]
pub fn programs(server: Peer) -> [Peer; 3] {
    let subject = Peer::subject();
    if server == Peer::OpenVpn {
        [subject, Peer::OpenVpn, subject]
    } else {
        [Peer::OpenVpn, subject, Peer::OpenVpn]
    }
}
