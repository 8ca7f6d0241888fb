//! Network namespaces and the wires between them.
//!
//! Every namespace is called `rwlab-<owner pid>-<owner start time>-<number>-<role>`. The first
//! two parts name the process that made it, so that a later lab can remove what a killed one left
//! behind without ever touching a living one's.
//!
//! ```text
//!   direct:   cl 192.0.2.1 ------ veth ------ 192.0.2.2 sv
//!   relayed:  cl 192.0.2.1 -- .254 rl 198.51.100.254 -- 198.51.100.1 sv
//! ```

use std::ffi::OsStr;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command;

/// Name of the outside interface in every namespace at the end of a wire.
pub const OUTSIDE: &str = "out0";

const PREFIX: &str = "rwlab-";
const KEEP_MARK: &str = ".keep";
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A namespace made by a [`Lab`]; a cheap handle, the lab owns the real thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// The name as `ip netns` shows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that will run inside and die with the thread that started it. The child's
    /// process id is the program's own: the wrappers replace themselves.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command
            .args([
                "netns",
                "exec",
                &self.name,
                "setpriv",
                "--pdeathsig",
                "KILL",
                "--",
            ])
            .arg(program);
        command
    }

    /// Runs a program inside, to its successful end.
    ///
    /// # Errors
    /// As [`command::run`].
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        command::succeed(self.command(program).args(args), Duration::from_secs(30))
    }

    /// Runs `ip` inside, with its words separated by blanks: `ns.ip("link set lo up")`.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn ip(&self, words: &str) -> Result<String> {
        let mut args = vec!["-n", self.name.as_str()];
        args.extend(words.split_whitespace());
        command::run("ip", &args)
    }

    /// Switches an offload of an interface, e.g. `tx-udp-segmentation`, and checks that the kernel
    /// took it.
    ///
    /// # Errors
    /// When `ethtool` fails or the feature did not change.
    pub fn set_offload(&self, interface: &str, feature: &str, on: bool) -> Result<()> {
        let value = if on { "on" } else { "off" };
        self.run("ethtool", &["-K", interface, feature, value])?;
        let features = self.run("ethtool", &["-k", interface])?;
        let line = features
            .lines()
            .find_map(|line| line.trim().strip_prefix(feature)?.strip_prefix(": "))
            .with_context(|| format!("{interface} has no feature {feature}"))?;
        if line.split_whitespace().next() != Some(value) {
            bail!("{interface}: {feature} stays {line}");
        }
        Ok(())
    }

    /// Sets an interface's MTU in bytes.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_mtu(&self, interface: &str, mtu: u32) -> Result<()> {
        self.ip(&format!("link set {interface} mtu {mtu}"))
            .map(drop)
    }

    /// Names of all interfaces inside, without `lo`.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn interfaces(&self) -> Result<Vec<String>> {
        let text = self.ip("-o link show")?;
        Ok(text
            .lines()
            .filter_map(|line| line.split(": ").nth(1))
            .map(|name| name.split('@').next().unwrap_or(name).to_owned())
            .filter(|name| name != "lo")
            .collect())
    }

    /// All routes of both families, one per line, without those the kernel keeps for itself
    /// (multicast, link-local): two texts are equal when nothing was left behind.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn routes(&self) -> Result<String> {
        let mut lines: Vec<String> = Vec::new();
        for family in ["-4", "-6"] {
            let text = self.ip(&format!("{family} route show table all"))?;
            lines.extend(
                text.lines()
                    .map(|line| line.trim_end().to_owned())
                    .filter(|line| !line.starts_with("multicast ") && !line.contains("fe80:")),
            );
        }
        lines.sort();
        Ok(lines.join("\n"))
    }

    fn pids(&self) -> Vec<Pid> {
        command::run("ip", &["netns", "pids", &self.name])
            .unwrap_or_default()
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok())
            .map(Pid::from_raw)
            .collect()
    }
}

/// The two ends of a wire (or of a relayed path) with their outside addresses.
#[derive(Clone, Debug)]
pub struct Path2 {
    /// The client's end.
    pub client: Namespace,
    /// The server's end.
    pub server: Namespace,
    /// Addresses the client dials to reach the server: IPv4, IPv6.
    pub server_addresses: [IpAddr; 2],
    /// The relay's namespace, when there is one between them.
    pub relay: Option<Namespace>,
}

/// A set of namespaces and a folder for files, removed together when the lab is dropped, also by
/// a panic.
#[derive(Debug)]
pub struct Lab {
    id: String,
    folder: PathBuf,
    namespaces: Vec<Namespace>,
    keep: bool,
    _turn: Flock<fs::File>,
}

impl Lab {
    /// Waits for this machine's turn (one lab at a time), removes leftovers of dead owners, and
    /// makes an empty lab with a folder of its own.
    ///
    /// # Errors
    /// When not root, or when another lab holds the machine for more than 20 minutes.
    pub fn new() -> Result<Self> {
        let turn = take_turn()?;
        reap()?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        let started = start_time(pid).context("cannot read own start time")?;
        let id = format!("{PREFIX}{pid}-{started}-{number}");
        let folder = std::env::temp_dir().join(&id);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let keep = std::env::var_os("RINGWAY_LAB_KEEP").is_some();
        Ok(Self {
            id,
            folder,
            namespaces: Vec::new(),
            keep,
            _turn: turn,
        })
    }

    /// Where this lab's files go.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Keeps the folder (configurations, keys, logs) when the lab ends. `RINGWAY_LAB_KEEP=1` in
    /// the environment does the same.
    pub fn keep_files(&mut self) {
        self.keep = true;
    }

    /// Makes a namespace with `lo` up.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn namespace(&mut self, role: &str) -> Result<Namespace> {
        let name = format!("{}-{role}", self.id);
        command::run("ip", &["netns", "add", &name])?;
        let namespace = Namespace { name };
        // Recorded first, so that a failure below is cleaned up too.
        self.namespaces.push(namespace.clone());
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Two namespaces joined by one veth pair, both ends called [`OUTSIDE`], MTU 1500.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn direct(&mut self) -> Result<Path2> {
        let client = self.namespace("cl")?;
        let server = self.namespace("sv")?;
        wire(&client, OUTSIDE, &server, OUTSIDE)?;
        address(&client, OUTSIDE, "192.0.2.1/24", "2001:db8:1::1/64")?;
        address(&server, OUTSIDE, "192.0.2.2/24", "2001:db8:1::2/64")?;
        Ok(Path2 {
            client,
            server,
            server_addresses: ["192.0.2.2".parse()?, "2001:db8:1::2".parse()?],
            relay: None,
        })
    }

    /// Two namespaces that see each other only through a relay process in a third one (see
    /// [`crate::relay`]); the client dials the relay.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn relayed(&mut self) -> Result<Path2> {
        let client = self.namespace("cl")?;
        let relay = self.namespace("rl")?;
        let server = self.namespace("sv")?;
        wire(&client, OUTSIDE, &relay, "left0")?;
        wire(&server, OUTSIDE, &relay, "right0")?;
        address(&client, OUTSIDE, "192.0.2.1/24", "2001:db8:1::1/64")?;
        address(&relay, "left0", "192.0.2.254/24", "2001:db8:1::fe/64")?;
        address(&relay, "right0", "198.51.100.254/24", "2001:db8:2::fe/64")?;
        address(&server, OUTSIDE, "198.51.100.1/24", "2001:db8:2::1/64")?;
        Ok(Path2 {
            client,
            server,
            server_addresses: ["192.0.2.254".parse()?, "2001:db8:1::fe".parse()?],
            relay: Some(relay),
        })
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for namespace in &self.namespaces {
            remove(namespace);
        }
        if self.keep {
            // Without the mark the next lab removes the folder; no harm beyond that.
            let _ = fs::write(self.folder.join(KEEP_MARK), "");
            crate::note(&format!("files kept in {}", self.folder.display()));
        } else if let Err(error) = fs::remove_dir_all(&self.folder) {
            crate::note(&format!("cannot remove {}: {error}", self.folder.display()));
        }
    }
}

/// Removes namespaces and folders whose owner is gone.
///
/// # Errors
/// When the namespaces cannot be listed.
pub fn reap() -> Result<()> {
    let list = command::run("ip", &["netns", "list"])?;
    for name in list
        .lines()
        .filter_map(|line| line.split_whitespace().next())
    {
        if owner_is_dead(name) {
            remove(&Namespace {
                name: name.to_owned(),
            });
        }
    }
    if let Ok(entries) = fs::read_dir(std::env::temp_dir()) {
        for entry in entries.flatten() {
            let name = entry.file_name();
            if name.to_str().is_some_and(owner_is_dead) && !kept(&entry.path()) {
                // Another reaper may have been faster.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
    Ok(())
}

/// A folder somebody asked to keep is not a leftover.
fn kept(folder: &Path) -> bool {
    folder.join(KEEP_MARK).exists()
}

pub(crate) fn wire(a: &Namespace, a_name: &str, b: &Namespace, b_name: &str) -> Result<()> {
    a.ip(&format!(
        "link add {a_name} type veth peer name {b_name} netns {}",
        b.name
    ))?;
    a.ip(&format!("link set {a_name} up"))?;
    b.ip(&format!("link set {b_name} up"))?;
    Ok(())
}

pub(crate) fn address(namespace: &Namespace, interface: &str, v4: &str, v6: &str) -> Result<()> {
    namespace.ip(&format!("addr add {v4} dev {interface}"))?;
    namespace.ip(&format!("addr add {v6} dev {interface} nodad"))?;
    Ok(())
}

fn remove(namespace: &Namespace) {
    for pid in namespace.pids() {
        // Already gone is as good.
        let _ = kill(pid, Signal::SIGKILL);
    }
    if let Err(error) = command::run("ip", &["netns", "del", &namespace.name]) {
        crate::note(&format!(
            "cannot remove namespace {}: {error}",
            namespace.name
        ));
    }
}

fn take_turn() -> Result<Flock<fs::File>> {
    let path = std::env::temp_dir().join("ringway-lab.lock");
    let mut file = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    let deadline = Instant::now() + Duration::from_secs(1200);
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(turn) => return Ok(turn),
            Err((back, _)) if Instant::now() < deadline => file = back,
            Err((_, error)) => bail!("another lab holds {}: {error}", path.display()),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// True only for a name in this module's form whose process no longer exists.
fn owner_is_dead(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else {
        return false;
    };
    let mut parts = rest.split('-');
    let (Some(pid), Some(started)) = (parts.next(), parts.next()) else {
        return false;
    };
    let (Ok(pid), Ok(started)) = (pid.parse::<u32>(), started.parse::<u64>()) else {
        return false;
    };
    start_time(pid) != Some(started)
}

/// Field 22 of `/proc/PID/stat`: start time in clock ticks since boot (proc(5)).
fn start_time(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = &text[text.rfind(')')? + 1..];
    after_name.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_dead_owners_are_reaped() {
        let me = std::process::id();
        let started = start_time(me).unwrap();
        assert!(!owner_is_dead(&format!("{PREFIX}{me}-{started}-0-cl")));
        assert!(owner_is_dead(&format!("{PREFIX}{me}-{}-0-cl", started + 1)));
        assert!(!owner_is_dead("somebody-else"));
        assert!(!owner_is_dead("rwlab-x-y"));
    }

    #[test]
    fn a_dropped_lab_leaves_nothing() {
        if !crate::ready("a_dropped_lab_leaves_nothing") {
            return;
        }
        let mut lab = Lab::new().unwrap();
        let folder = lab.folder().to_owned();
        let path = lab.direct().unwrap();
        let mut sleeper = path.client.command("sleep").arg("1000").spawn().unwrap();
        path.client
            .run("ping", &["-c1", "-W2", "192.0.2.2"])
            .unwrap();
        path.client
            .set_offload(OUTSIDE, "tx-udp-segmentation", false)
            .unwrap();
        drop(lab);
        assert!(!folder.exists());
        let names = command::run("ip", &["netns", "list"]).unwrap();
        assert!(!names.contains(path.client.name()) && !names.contains(path.server.name()));
        assert!(command::wait(&mut sleeper, Duration::from_secs(5)).is_some());
    }
}
