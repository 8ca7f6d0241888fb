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
        let message = "holds no key; make one: ringway --genkey auth-token FILE";
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
    let root = options.chroot.as_deref();
    let export = server.tls_export_cert.as_ref().map(|folder| {
        let inside = folder.path.strip_prefix("/").unwrap_or(&folder.path);
        root.map_or_else(|| folder.path.clone(), |root| root.join(inside))
    });
    let share = server.port_share.as_ref().and_then(|s| s.dir.as_deref());
    for (option, directory) in [
        ("tmp-dir", Some(server.tmp_dir.as_path())),
        ("port-share", share),
        ("tls-export-cert", export.as_deref()),
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

#[cfg(test)]
mod tests {
    use super::super::tests::{Directory, none};
    use crate::check::check_options;
    use crate::config::{Diagnostic, parse_text};

    /// What a check says about a server with these further lines.
    fn found(dir: &Directory, extra: &str) -> Vec<String> {
        let pem = dir.file("a.pem", "x", 0o644);
        let key = dir.file("a.key", "x", 0o600);
        let text = format!(
            "dev tun\nserver 10.8.0.0 255.255.255.0\nca {pem}\ncert {pem}\nkey {key}\n\
             keepalive 10 60\nscript-security 2\n{extra}\n"
        );
        let loaded = parse_text("t", text.as_bytes()).unwrap();
        check_options(&loaded.options, &none)
            .iter()
            .map(Diagnostic::to_string)
            .collect()
    }

    #[test]
    fn files_of_clients_are_read() {
        let dir = Directory::new("check-ccd");
        let ccd = dir.0.join("ccd");
        std::fs::create_dir_all(ccd.join("folder")).unwrap();
        let line = format!("client-config-dir {}", ccd.display());
        std::fs::write(ccd.join("good"), "iroute 10.0.0.0\n").unwrap();
        assert!(found(&dir, &line).is_empty(), "{:?}", found(&dir, &line));
        std::fs::write(ccd.join("bad"), "push \"echo a\"\niroute x\n").unwrap();
        std::fs::write(ccd.join("odd"), "push \"frob\"\n").unwrap();
        let list = found(&dir, &line);
        assert_eq!(
            list,
            [
                format!(
                    "{}/bad:2: iroute: \"x\" is not an IPv4 address",
                    ccd.display()
                ),
                format!("{}/odd:1: push: \"frob\": unknown option", ccd.display()),
            ]
        );
        for n in 0..150 {
            std::fs::write(ccd.join(format!("many{n}")), "x\n").unwrap();
        }
        let list = found(&dir, &line);
        assert_eq!(list.len(), 101);
        assert!(list[100].starts_with("client-config-dir: 52 more findings in "));
    }

    #[test]
    fn what_a_server_names_is_looked_at() {
        let dir = Directory::new("check-server");
        let ipp = dir.file(
            "ipp",
            "a,10.8.0.2,\nb,10.8.0.3\n\nc\nd,,fd00::1\ne,x,\n",
            0o644,
        );
        let list = found(&dir, &format!("ifconfig-pool-persist {ipp}"));
        let skipped = "ifconfig-pool-persist: not a line";
        assert_eq!(list.len(), 2, "{list:?}");
        assert!(
            list[0].starts_with(&format!("{ipp}:4: {skipped}")),
            "{list:?}"
        );
        assert!(
            list[1].starts_with(&format!("{ipp}:6: {skipped}")),
            "{list:?}"
        );
        let token = "-----BEGIN OpenVPN auth-token server key-----\nAA==\n\
                     -----END OpenVPN auth-token server key-----\n";
        let good = dir.file("token", token, 0o600);
        let login = "auth-user-pass-verify /bin/sh via-file\nauth-gen-token";
        let text = format!("{login}\nauth-gen-token-secret {good}");
        assert!(found(&dir, &text).is_empty(), "{:?}", found(&dir, &text));
        let pem = dir.file("a.pem", "x", 0o644);
        for (extra, expected) in [
            (
                "client-config-dir /nonexistent".to_owned(),
                "client-config-dir: cannot read /nonexistent: ",
            ),
            (
                "ifconfig-pool-persist /nonexistent/ipp".to_owned(),
                "ifconfig-pool-persist: cannot write /nonexistent/ipp: ",
            ),
            (
                "tmp-dir /nonexistent".to_owned(),
                "tmp-dir: cannot write into /nonexistent",
            ),
            (
                "tls-verify /bin/true\ntls-export-cert /tmp\nchroot /nonexistent".to_owned(),
                "tls-export-cert: cannot write into /nonexistent/tmp",
            ),
            (
                "client-connect /nonexistent/script".to_owned(),
                "t:8: client-connect: /nonexistent/script does not exist",
            ),
            (format!("tls-verify {pem}"), "t:8: tls-verify: "),
            (
                "max-clients 254".to_owned(),
                "max-clients: 254 clients may come in, but the pool has 253",
            ),
            (format!("tls-crypt-v2 {pem}"), "t:8: tls-crypt-v2: "),
            (
                format!("{login}\nauth-gen-token-secret {pem}"),
                "t:10: auth-gen-token-secret: holds no key",
            ),
        ] {
            let list = found(&dir, &extra);
            assert!(
                list.iter().any(|line| line.starts_with(expected)),
                "{extra}: {list:?}"
            );
        }
        assert!(found(&dir, "max-clients 253").is_empty());
    }
}
