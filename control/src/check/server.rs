//! What a server names: its clients' files, the pool's file, directories, the token key.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use nix::unistd::{AccessFlags, access};

use super::{fault, secret_of, writable};
use crate::config::options::{Options, Topology};
use crate::config::server::ServerOptions;
use crate::config::{Diagnostic, Severity, client_config};

/// Most findings in clients' files that are listed; the rest is counted.
const MAX_CLIENT_FINDINGS: usize = 100;

/// Checks what a server names beyond what every peer does.
pub(super) fn check(options: &Options, server: &ServerOptions, findings: &mut Vec<Diagnostic>) {
    if let Some(source) = &server.auth_gen_token_secret
        && let Some(text) = secret_of(source, findings)
        && !text.contains("-----BEGIN OpenVPN auth-token server key-----")
    {
        let message = "holds no key; make one: ringway genkey auth-token FILE";
        fault(source, message, findings);
    }
    if let Some(directory) = &server.client_config_dir {
        client_files(directory, findings);
    }
    if let Some(persist) = &server.ifconfig_pool_persist {
        if persist.seconds > 0
            && let Err(reason) = writable(&persist.path)
        {
            let message = format!("cannot write {}: {reason}", persist.path.display());
            findings.push(named("ifconfig-pool-persist", Severity::Error, message));
        }
        pool_file(&persist.path, findings);
    }
    let share = server.port_share.as_ref().and_then(|s| s.dir.as_deref());
    for (option, directory) in [
        ("tmp-dir", Some(server.tmp_dir.as_path())),
        ("port-share", share),
    ] {
        if let Some(directory) = directory
            && (!directory.is_dir() || access(directory, AccessFlags::W_OK).is_err())
        {
            let message = format!("cannot write into {}", directory.display());
            findings.push(named(option, Severity::Error, message));
        }
    }
    if let Some(size) = pool_size(options, server)
        && server.max_clients < ServerOptions::default().max_clients
        && u64::from(server.max_clients) > size
    {
        let message = format!(
            "{} clients may come in, but the pool has {size} addresses",
            server.max_clients
        );
        findings.push(named("max-clients", Severity::Warning, message));
    }
}

/// How many clients get an address from the pool.
fn pool_size(options: &Options, server: &ServerOptions) -> Option<u64> {
    let pool = server.ifconfig_pool?;
    let addresses = u64::from(u32::from(pool.end) - u32::from(pool.start)) + 1;
    let block = match options.topology {
        Topology::Net30 => 4,
        Topology::P2p | Topology::Subnet => 1,
    };
    Some(addresses / block)
}

/// Every file of `client-config-dir`, each fault at its own place.
fn client_files(directory: &Path, findings: &mut Vec<Diagnostic>) {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => {
            let message = format!("cannot read {}: {error}", directory.display());
            findings.push(named("client-config-dir", Severity::Error, message));
            return;
        }
    };
    let mut paths: Vec<_> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .collect();
    paths.sort();
    let mut found = Vec::new();
    for path in &paths {
        match client_config::load(path) {
            Ok((_, warnings)) => found.extend(warnings),
            Err(error) => found.push(error),
        }
    }
    let more = found.len().saturating_sub(MAX_CLIENT_FINDINGS);
    found.truncate(MAX_CLIENT_FINDINGS);
    findings.append(&mut found);
    if more > 0 {
        let message = format!("{more} more findings in {}", directory.display());
        findings.push(named("client-config-dir", Severity::Warning, message));
    }
}

/// Lines `name,address[,address]` of `ifconfig-pool-persist`; one that is not is skipped by a run.
fn pool_file(path: &Path, findings: &mut Vec<Diagnostic>) {
    if !path.exists() {
        return;
    }
    let text = match std::fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => {
            let message = format!("cannot read {}: {error}", path.display());
            findings.push(named("ifconfig-pool-persist", Severity::Error, message));
            return;
        }
    };
    for (line, number) in text.lines().zip(1..) {
        if line.trim().is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if !is_pool_line(line) {
            findings.push(Diagnostic {
                file: path.display().to_string(),
                line: number,
                ..named(
                    "ifconfig-pool-persist",
                    Severity::Warning,
                    "not a line \"name,address[,IPv6 address]\"; it is skipped".to_owned(),
                )
            });
        }
    }
}

fn is_pool_line(line: &str) -> bool {
    let fields: Vec<_> = line.split(',').map(str::trim).collect();
    match fields[..] {
        [name, only] => !name.is_empty() && only.parse::<IpAddr>().is_ok(),
        [name, four, six] => {
            let four = four.is_empty() || four.parse::<Ipv4Addr>().is_ok();
            let six = six.is_empty() || six.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6());
            !name.is_empty() && four && six
        }
        _ => false,
    }
}

/// A finding about an option without a place.
fn named(option: &str, severity: Severity, message: String) -> Diagnostic {
    Diagnostic {
        severity,
        option: option.to_owned(),
        ..Diagnostic::general(message)
    }
}
