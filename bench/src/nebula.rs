//! A pair of Nebula processes, for comparison; `nebula-cert` has to lie beside `nebula`.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use ringway_lab::command;
use ringway_lab::link::Cipher;
use ringway_lab::netns::{Namespace, OUTSIDE, Path2};

use crate::process::{CLIENT, Pair, Process, SERVER};
use crate::program::Binary;

const PORT: u16 = 4242;
/// The client's outside address on a direct path.
const DIALLER: &str = "192.0.2.1";

/// Starts `binary` in both namespaces of `path`, files in `folder`, with tunnel devices of `mtu`.
/// It carries IPv4 inside, under AES-256-GCM or ChaCha20-Poly1305.
///
/// # Errors
/// When a certificate cannot be made, one does not start, or it has no such cipher.
pub(crate) fn start(
    binary: &Binary,
    folder: &Path,
    path: &Path2,
    mtu: u32,
    cipher: Cipher,
) -> Result<Pair> {
    let cipher = match cipher {
        Cipher::Aes256Gcm => "aes",
        Cipher::ChaCha20Poly1305 => "chachapoly",
        Cipher::Aes256CbcSha256 | Cipher::Aes128CbcSha1 => {
            anyhow::bail!("it has no {}", cipher.name())
        }
    };
    let maker = binary.path.with_file_name("nebula-cert");
    let make = |args: &[&str]| {
        let mut command = Command::new(&maker);
        command.args(args).current_dir(folder);
        command::succeed(&mut command, Duration::from_secs(10))
            .with_context(|| format!("{} is needed", maker.display()))
    };
    make(&["ca", "-name", "bench", "-duration", "24h"])?;
    let begin = |namespace: &Namespace, role: &str, own: &str, other: &str, dial: IpAddr| {
        let name = Process::interface(role);
        make(&["sign", "-name", &name, "-ip", own])?;
        let (other, _) = other.split_once('/').context("an address without length")?;
        let config = folder.join(format!("{name}.yml"));
        fs::write(
            &config,
            file(
                folder,
                &name,
                &format!("\"{other}\": [\"{dial}:{PORT}\"]"),
                cipher,
                mtu,
            ),
        )?;
        let mut args = binary.words.clone();
        args.extend(["-config".to_owned(), config.display().to_string()]);
        let mut process = Process::start(name, namespace, &binary.path, &args, folder, None)?;
        process.wait(|process| {
            let words = format!("-o -4 addr show dev {}", process.name);
            let shown = process.namespace().ip(&words);
            shown.is_ok_and(|text| text.contains(own))
        })?;
        Ok::<_, anyhow::Error>(process)
    };
    let [client, server] = [CLIENT[0], SERVER[0]];
    Ok(Pair {
        server: begin(&path.server, "sv", server, client, DIALLER.parse()?)?,
        client: begin(&path.client, "cl", client, server, path.server_addresses[0])?,
    })
}

/// The configuration of one end, with the offloads this program has.
fn file(folder: &Path, name: &str, host: &str, cipher: &str, mtu: u32) -> String {
    let folder = folder.display();
    format!(
        "pki: {{ca: {folder}/ca.crt, cert: {folder}/{name}.crt, key: {folder}/{name}.key}}\n\
         static_host_map: {{{host}}}\n\
         lighthouse: {{am_lighthouse: false, hosts: []}}\n\
         listen: {{host: 0.0.0.0, port: {PORT}, udp_offloads: true, \
         read_buffer: 4194304, write_buffer: 4194304}}\n\
         cipher: {cipher}\n\
         punchy: {{punch: false}}\n\
         local_allow_list: {{interfaces: {{{OUTSIDE}: true}}}}\n\
         tun: {{dev: {name}, mtu: {mtu}, tx_queue: 500, use_offloads: true}}\n\
         logging: {{level: error, format: text}}\n\
         firewall:\n\
         \x20 outbound: [{{port: any, proto: any, host: any}}]\n\
         \x20 inbound: [{{port: any, proto: any, host: any}}]\n"
    )
}
