//! A pair of user-space WireGuard processes, for comparison.
//!
//! Every such program takes an interface name, makes the device, and listens on
//! `/var/run/wireguard/NAME.sock` for the cross-platform configuration protocol: lines of
//! `key=value`, an empty line, an answer that ends in `errno=0`. Interface names are unique on the
//! machine, because the sockets of all namespaces share that folder.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use aws_lc_rs::agreement::{PrivateKey, X25519};
use ringway_lab::netns::{Namespace, Path2};

use crate::process::{CLIENT, Pair, Process, SERVER};
use crate::program::Binary;

const PORT: u16 = 51820;

/// Starts `binary` in both namespaces of `path`, logs in `folder`, and configures the two for each
/// other with tunnel devices of `mtu`.
///
/// # Errors
/// When one does not start or refuses its configuration.
pub(crate) fn start(binary: &Binary, folder: &Path, path: &Path2, mtu: u32) -> Result<Pair> {
    let keys = [keys()?, keys()?];
    let pair = Pair {
        client: end(binary, folder, &path.client, "cl")?,
        server: end(binary, folder, &path.server, "sv")?,
    };
    let dial = format!("endpoint={}:{PORT}\n", path.server_addresses[0]);
    configure(&pair.client, &keys[0], &keys[1], &dial)?;
    configure(&pair.server, &keys[1], &keys[0], "")?;
    up(&pair.client, CLIENT, mtu)?;
    up(&pair.server, SERVER, mtu)?;
    Ok(pair)
}

/// A private and a public key, in hexadecimal.
fn keys() -> Result<[String; 2]> {
    let mut private = [0; 32];
    aws_lc_rs::rand::fill(&mut private).context("no random bytes")?;
    let key = PrivateKey::from_private_key(&X25519, &private).context("no X25519 key")?;
    let public = key.compute_public_key().context("no public key")?;
    Ok([hex(&private), hex(public.as_ref())])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn socket(name: &str) -> PathBuf {
    Path::new("/var/run/wireguard").join(format!("{name}.sock"))
}

fn end(binary: &Binary, folder: &Path, namespace: &Namespace, role: &str) -> Result<Process> {
    let name = Process::interface(role);
    let mut args = binary.words.clone();
    args.extend(["-f".to_owned(), name.clone()]);
    let leftover = Some(socket(&name));
    let mut process = Process::start(name, namespace, &binary.path, &args, folder, leftover)?;
    process.wait(|process| UnixStream::connect(socket(&process.name)).is_ok())?;
    Ok(process)
}

fn configure(end: &Process, own: &[String; 2], other: &[String; 2], dial: &str) -> Result<()> {
    let mut socket = UnixStream::connect(socket(&end.name))?;
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
        bail!("{} refused its configuration: {}", end.name, answer.trim());
    }
    Ok(())
}

fn up(end: &Process, [v4, v6]: [&str; 2], mtu: u32) -> Result<()> {
    let (name, namespace) = (&end.name, end.namespace());
    namespace.ip(&format!("link set {name} mtu {mtu} up"))?;
    namespace.ip(&format!("addr add {v4} dev {name}"))?;
    namespace.ip(&format!("addr add {v6} dev {name} nodad"))?;
    Ok(())
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
