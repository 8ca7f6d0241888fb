//! Both I/O engines carry everything, also where the kernel segments nothing for them.

use std::time::Duration;

use anyhow::Result;
use ringway_lab::link::{Cipher, LinkSpec};
use ringway_lab::netns::OUTSIDE;
use ringway_lab::peer::Peer;
use ringway_lab::{chosen, note, ready, traffic};

#[test]
fn uring_gcm() -> Result<()> {
    engine("uring_gcm", "uring", Cipher::Aes256Gcm)
}

#[test]
fn uring_cbc() -> Result<()> {
    engine("uring_cbc", "uring", Cipher::Aes256CbcSha256)
}

#[test]
fn syscalls_gcm() -> Result<()> {
    engine("syscalls_gcm", "syscalls", Cipher::Aes256Gcm)
}

#[test]
fn syscalls_cbc() -> Result<()> {
    engine("syscalls_cbc", "syscalls", Cipher::Aes128CbcSha1)
}

fn engine(name: &str, engine: &str, cipher: Cipher) -> Result<()> {
    if !ready(name) || !chosen(name, &["uring_gcm", "syscalls_cbc"]) {
        return Ok(());
    }
    if Peer::subject() == Peer::OpenVpn {
        note(&format!("SKIP {name}: openvpn has one engine"));
        return Ok(());
    }
    let line = format!("ringway-io {engine}");
    let spec = LinkSpec {
        cipher,
        ..LinkSpec::new(Peer::Ringway, Peer::OpenVpn)
    };
    let mut link = spec.client_line(&line).start()?;
    link.check(|link| traffic::everything(link, 8 << 20))?;
    link.check(|link| {
        for namespace in [link.client_namespace(), link.server_namespace()] {
            namespace.set_offload(OUTSIDE, "tx-udp-segmentation", false)?;
        }
        let (client, server) = (link.client_namespace(), link.server_namespace());
        let far = link.server_addresses()[1];
        traffic::tcp(client, server, far, 8 << 20, Duration::from_secs(60)).map(drop)
    })?;
    drop(link);
    // Both ends, where super-packets stay whole all the way.
    let spec = LinkSpec {
        cipher,
        ..LinkSpec::new(Peer::Ringway, Peer::Ringway)
    };
    let mut link = spec.line(&line).start()?;
    link.check(|link| traffic::everything(link, 32 << 20))?;
    note(&format!("{line} with {} carried everything", cipher.name()));
    Ok(())
}
