//! A pair of user-space WireGuard processes, for comparison.
//!
//! Every such program takes an interface name, makes the device, and listens on
//! `/var/run/wireguard/NAME.sock` for the cross-platform configuration protocol: lines of
//! `key=value`, an empty line, an answer that ends in `errno=0`. Interface names are unique on the
//! machine, because the sockets of all namespaces share that folder.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use aws_lc_rs::agreement::{PrivateKey, X25519};
use ringway_lab::command;
use ringway_lab::netns::{Namespace, Path2};

const PORT: u16 = 51820;
const SOCKETS: &str = "/var/run/wireguard";
const CLIENT: [&str; 2] = ["10.9.0.2/24", "fd00:9::2/64"];
const SERVER: [&str; 2] = ["10.9.0.1/24", "fd00:9::1/64"];

/// Two connected processes. Dropping it ends them.
#[derive(Debug)]
pub(crate) struct Pair {
    client: End,
    server: End,
}

impl Pair {
    /// The server's addresses inside: IPv4, IPv6.
    pub(crate) const SERVER: [IpAddr; 2] = [
        IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1)),
        IpAddr::V6(Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 1)),
    ];

    /// Starts `binary` in both namespaces of `path`, logs in `folder`, and configures the two for
    /// each other with tunnel devices of `mtu`.
    ///
    /// # Errors
    /// When one does not start or refuses its configuration.
    pub(crate) fn start(binary: &Path, folder: &Path, path: &Path2, mtu: u32) -> Result<Self> {
        let keys = [keys()?, keys()?];
        let client = End::start(binary, folder, &path.client, "cl")?;
        let server = End::start(binary, folder, &path.server, "sv")?;
        let pair = Self { client, server };
        let dial = format!("endpoint={}:{PORT}\n", path.server_addresses[0]);
        pair.client.configure(&keys[0], &keys[1], &dial)?;
        pair.server.configure(&keys[1], &keys[0], "")?;
        pair.client.up(CLIENT, mtu)?;
        pair.server.up(SERVER, mtu)?;
        Ok(pair)
    }

    /// User plus system time of both processes so far, in seconds.
    ///
    /// # Errors
    /// When one has ended.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        Ok(command::cpu_seconds(self.client.child.id())?
            + command::cpu_seconds(self.server.child.id())?)
    }

    /// Process id of the server end.
    pub(crate) fn server_pid(&self) -> u32 {
        self.server.child.id()
    }

    /// What both have said.
    pub(crate) fn tail(&self) -> String {
        [&self.server, &self.client]
            .map(|end| {
                let said = fs::read(&end.log).unwrap_or_default();
                format!("--- {}\n{}", end.name, String::from_utf8_lossy(&said))
            })
            .join("\n")
    }
}

/// A private and a public key, in hexadecimal.
fn keys() -> Result<[String; 2]> {
    let mut private = [0; 32];
    aws_lc_rs::rand::fill(&mut private)
        .ok()
        .context("no random bytes")?;
    let key = PrivateKey::from_private_key(&X25519, &private).context("no X25519 key")?;
    let public = key.compute_public_key().ok().context("no public key")?;
    Ok([hex(&private), hex(public.as_ref())])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Debug)]
struct End {
    name: String,
    namespace: Namespace,
    log: PathBuf,
    child: Child,
}

impl End {
    fn start(binary: &Path, folder: &Path, namespace: &Namespace, role: &str) -> Result<Self> {
        let name = format!("rw{role}{}", std::process::id());
        let log = folder.join(format!("{name}.log"));
        let output = fs::File::create(&log)?;
        let child = namespace
            .command(binary)
            // In the foreground, wireguard-go by the one and its relatives by the other.
            .env("WG_PROCESS_FOREGROUND", "1")
            .env("WG_SUDO", "true")
            .args(["-f", &name])
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let mut end = Self {
            name,
            namespace: namespace.clone(),
            log,
            child,
        };
        end.wait()?;
        Ok(end)
    }

    fn socket(&self) -> PathBuf {
        Path::new(SOCKETS).join(format!("{}.sock", self.name))
    }

    /// Waits until the control socket takes connections.
    fn wait(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while UnixStream::connect(self.socket()).is_err() {
            if let Some(status) = self.child.try_wait()? {
                let said = fs::read_to_string(&self.log).unwrap_or_default();
                bail!("ended with {status}: {said}");
            }
            if Instant::now() > deadline {
                bail!("{} does not appear", self.socket().display());
            }
            std::thread::sleep(command::POLL);
        }
        Ok(())
    }

    fn configure(&self, own: &[String; 2], other: &[String; 2], dial: &str) -> Result<()> {
        let mut socket = UnixStream::connect(self.socket())?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        let text = format!(
            "set=1\nprivate_key={}\nlisten_port={PORT}\nreplace_peers=true\npublic_key={}\n\
             {dial}replace_allowed_ips=true\nallowed_ip=0.0.0.0/0\nallowed_ip=::/0\n\n",
            own[0], other[1]
        );
        socket.write_all(text.as_bytes())?;
        let mut answer = Vec::new();
        let mut piece = [0; 256];
        // The answer ends in an empty line; not every program closes the connection after it.
        while !answer.ends_with(b"\n\n") {
            match socket.read(&mut piece)? {
                0 => break,
                n => answer.extend_from_slice(&piece[..n]),
            }
        }
        let answer = String::from_utf8_lossy(&answer);
        if answer.trim() != "errno=0" {
            bail!("{} refused its configuration: {}", self.name, answer.trim());
        }
        Ok(())
    }

    fn up(&self, addresses: [&str; 2], mtu: u32) -> Result<()> {
        let name = &self.name;
        self.namespace
            .ip(&format!("link set {name} mtu {mtu} up"))?;
        let [v4, v6] = addresses;
        self.namespace.ip(&format!("addr add {v4} dev {name}"))?;
        self.namespace
            .ip(&format!("addr add {v6} dev {name} nodad"))?;
        Ok(())
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // It may have ended by itself, and may have removed its socket.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(self.socket());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_pairs_are_fresh_hexadecimal() {
        let [a, b] = [keys().unwrap(), keys().unwrap()];
        assert_ne!(a[0], b[0]);
        assert_ne!(a[0], a[1]);
        for key in a {
            assert!(key.len() == 64 && key.chars().all(|c| c.is_ascii_hexdigit()));
        }
        assert_eq!(hex(&[0, 255, 16]), "00ff10");
    }
}
