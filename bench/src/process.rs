//! A process of another VPN in a namespace, and two of them.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use ringway_lab::command;
use ringway_lab::netns::Namespace;

/// Inside addresses of the client end, with prefix lengths: IPv4, IPv6.
pub(crate) const CLIENT: [&str; 2] = ["10.9.0.2/24", "fd00:9::2/64"];
/// Inside addresses of the server end, with prefix lengths: IPv4, IPv6.
pub(crate) const SERVER: [&str; 2] = ["10.9.0.1/24", "fd00:9::1/64"];
/// The server's inside addresses.
pub(crate) const FAR: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 1)),
];

/// Two connected processes.
#[derive(Debug)]
pub(crate) struct Pair {
    /// The end that connects.
    pub(crate) client: Process,
    /// The end that is dialled.
    pub(crate) server: Process,
}

impl Pair {
    /// User plus system time of both so far, in seconds.
    ///
    /// # Errors
    /// When one has ended.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        Ok(command::cpu_seconds(self.client.pid())? + command::cpu_seconds(self.server.pid())?)
    }

    /// What both have said.
    pub(crate) fn tail(&self) -> String {
        [&self.server, &self.client]
            .map(|end| format!("--- {}\n{}", end.name, end.said()))
            .join("\n")
    }
}

/// A running process with a log. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Process {
    /// Its name, and that of its interface.
    pub(crate) name: String,
    namespace: Namespace,
    log: PathBuf,
    child: Child,
    /// A file it may leave behind.
    leftover: Option<PathBuf>,
}

impl Process {
    /// A name for the interface of one end; unique on the machine.
    pub(crate) fn interface(role: &str) -> String {
        format!("rw{role}{}", std::process::id())
    }

    /// Starts `program` with `args` in `namespace`, its log in `folder`; `leftover` is removed when
    /// it ends.
    ///
    /// # Errors
    /// When it cannot start.
    pub(crate) fn start(
        name: String,
        namespace: &Namespace,
        program: &Path,
        args: &[String],
        folder: &Path,
        leftover: Option<PathBuf>,
    ) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let output = fs::File::create(&log)?;
        let child = namespace
            .command(program)
            // In the foreground, and without looking for a login name: two WireGuard customs.
            .env("WG_PROCESS_FOREGROUND", "1")
            .env("WG_SUDO", "true")
            .args(args)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self {
            name,
            namespace: namespace.clone(),
            log,
            child,
            leftover,
        })
    }

    /// Process id: the wrappers that enter the namespace replace themselves.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The namespace it runs in.
    pub(crate) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Waits until `ready` says so.
    ///
    /// # Errors
    /// When the process ends first or ten seconds pass.
    pub(crate) fn wait(&mut self, ready: impl Fn(&Self) -> bool) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !ready(self) {
            if let Some(status) = self.child.try_wait()? {
                bail!("ended with {status}: {}", self.said());
            }
            if Instant::now() > deadline {
                bail!("not ready after ten seconds: {}", self.said());
            }
            std::thread::sleep(command::POLL);
        }
        Ok(())
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself, and may have tidied up.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(file) = &self.leftover {
            let _ = fs::remove_file(file);
        }
    }
}
