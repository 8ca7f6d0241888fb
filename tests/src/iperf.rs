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

/// What one run is to carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpLoad {
    /// Length in seconds.
    pub seconds: u32,
    /// Connections side by side.
    pub streams: u32,
    /// Who sends.
    pub direction: Direction,
}

/// Who sends, seen from the namespace that connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The connecting end.
    Forward,
    /// The listening end.
    Reverse,
    /// Both at once, each with all streams.
    Both,
}

/// What one run carried; with [`Direction::Both`] the sum of the two directions.
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
    /// As [`Server::load`].
    pub fn tcp(&self, namespace: &Namespace, seconds: u32, reverse: bool) -> Result<TcpResult> {
        let direction = if reverse {
            Direction::Reverse
        } else {
            Direction::Forward
        };
        self.load(
            namespace,
            TcpLoad {
                seconds,
                streams: 1,
                direction,
            },
        )
    }

    /// Runs a load whose connecting end is in `namespace`.
    ///
    /// # Errors
    /// When iperf3 fails or takes 15 seconds longer.
    pub fn load(&self, namespace: &Namespace, load: TcpLoad) -> Result<TcpResult> {
        let (address, length) = (self.address.to_string(), load.seconds.to_string());
        let streams = load.streams.to_string();
        let mut client = namespace.command("iperf3");
        client.args([
            "-J",
            "-c",
            &address,
            "-t",
            &length,
            "-P",
            &streams,
            "--connect-timeout",
            "5000",
        ]);
        match load.direction {
            Direction::Forward => {}
            Direction::Reverse => drop(client.arg("-R")),
            Direction::Both => drop(client.arg("--bidir")),
        }
        let patience = Duration::from_secs(u64::from(load.seconds) + 15);
        let finished = command::finish(&mut client, patience)?;
        let json: serde_json::Value = serde_json::from_str(&finished.stdout)
            .with_context(|| format!("iperf3 said {} {}", finished.stdout, finished.stderr))?;
        if let Some(error) = json.get("error") {
            bail!("iperf3: {error}");
        }
        parse(&json["end"], load.direction)
    }
}

/// Reads the `end` part of iperf3's JSON.
fn parse(end: &serde_json::Value, direction: Direction) -> Result<TcpResult> {
    let mut result = TcpResult {
        bytes: 0,
        bits_per_second: 0.0,
        retransmits: 0,
    };
    let names: &[[&str; 2]] = match direction {
        Direction::Forward | Direction::Reverse => &[["sum_received", "sum_sent"]],
        Direction::Both => &[
            ["sum_received", "sum_sent"],
            ["sum_received_bidir_reverse", "sum_sent_bidir_reverse"],
        ],
    };
    for [received, sent] in names {
        let received = &end[received];
        result.bytes += received["bytes"]
            .as_u64()
            .context("iperf3 counted no bytes")?;
        result.bits_per_second += received["bits_per_second"]
            .as_f64()
            .context("iperf3 has no rate")?;
        result.retransmits += end[sent]["retransmits"].as_u64().unwrap_or(0);
    }
    Ok(result)
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_are_added() {
        let end = serde_json::json!({
            "sum_sent": {"retransmits": 2},
            "sum_received": {"bytes": 10, "bits_per_second": 80.0},
            "sum_sent_bidir_reverse": {"retransmits": 1},
            "sum_received_bidir_reverse": {"bytes": 5, "bits_per_second": 40.0},
        });
        let both = parse(&end, Direction::Both).unwrap();
        assert_eq!((both.bytes, both.retransmits), (15, 3));
        assert_eq!(both.bits_per_second, 120.0);
        assert_eq!(parse(&end, Direction::Forward).unwrap().bytes, 10);
        assert!(parse(&serde_json::json!({}), Direction::Forward).is_err());
    }
}
