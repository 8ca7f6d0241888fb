//! iperf3 through a link, with time limits.

use std::net::IpAddr;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::command;
use crate::netns::Namespace;

/// An iperf3 server in a namespace. Dropping it ends it.
#[derive(Debug)]
pub struct Server {
    child: Child,
    address: IpAddr,
}

/// What one run carried.
#[derive(Clone, Copy, Debug)]
pub struct TcpResult {
    /// Bytes the receiver got.
    pub bytes: u64,
    /// Received bits per second.
    pub bits_per_second: f64,
    /// Segments sent again.
    pub retransmits: u64,
}

impl Server {
    /// Starts `iperf3 -s` on an inside address and waits until it listens.
    ///
    /// # Errors
    /// When it does not listen within 5 seconds.
    pub fn start(namespace: &Namespace, address: IpAddr) -> Result<Self> {
        let child = namespace
            .command("iperf3")
            .args(["-s", "-B", &address.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start iperf3")?;
        let mut server = Self { child, address };
        for _ in 0..250 {
            let listening = namespace.run("ss", &["-Hltn", "sport", "=", ":5201"])?;
            if !listening.trim().is_empty() {
                return Ok(server);
            }
            if server.child.try_wait()?.is_some() {
                break;
            }
            std::thread::sleep(command::POLL);
        }
        bail!("iperf3 does not listen on {address}")
    }

    /// Sends one TCP stream from `namespace` for `seconds`.
    ///
    /// # Errors
    /// When iperf3 fails or takes 15 seconds longer.
    pub fn tcp(&self, namespace: &Namespace, seconds: u32, reverse: bool) -> Result<TcpResult> {
        let (address, length) = (self.address.to_string(), seconds.to_string());
        let mut client = namespace.command("iperf3");
        client.args([
            "-J",
            "-c",
            &address,
            "-t",
            &length,
            "--connect-timeout",
            "5000",
        ]);
        if reverse {
            client.arg("-R");
        }
        let finished = command::finish(&mut client, Duration::from_secs(u64::from(seconds) + 15))?;
        let json: serde_json::Value = serde_json::from_str(&finished.stdout)
            .with_context(|| format!("iperf3 said {} {}", finished.stdout, finished.stderr))?;
        if let Some(error) = json.get("error") {
            bail!("iperf3: {error}");
        }
        let received = &json["end"]["sum_received"];
        Ok(TcpResult {
            bytes: received["bytes"]
                .as_u64()
                .context("iperf3 counted no bytes")?,
            bits_per_second: received["bits_per_second"]
                .as_f64()
                .context("iperf3 has no rate")?,
            retransmits: json["end"]["sum_sent"]["retransmits"].as_u64().unwrap_or(0),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
