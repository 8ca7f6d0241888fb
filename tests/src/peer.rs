//! One VPN process: its configuration, its log, its life.
//!
//! Ringway and OpenVPN take the same files and say the same words, so a lab treats them alike and
//! only [`Peer`] tells them apart.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command;
use crate::netns::Namespace;

/// The log line with which a link has come up.
pub const UP: &str = "Initialization Sequence Completed";

/// Which program to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Debian's `openvpn`.
    OpenVpn,
    /// Another `openvpn`, of the version the lab wants: the file `RINGWAY_OPENVPN_27` names.
    OpenVpn27,
    /// `ringway` of this workspace.
    Ringway,
}

impl Peer {
    /// The peer the labs are about: Ringway, unless `RINGWAY_LAB_SUBJECT=openvpn` asks to try the
    /// labs themselves with OpenVPN on both ends.
    #[must_use]
    pub fn subject() -> Self {
        match std::env::var("RINGWAY_LAB_SUBJECT").as_deref() {
            Ok("openvpn") => Self::OpenVpn,
            _ => Self::Ringway,
        }
    }

    /// Short name for reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenVpn => "openvpn",
            Self::OpenVpn27 => "openvpn 2.7",
            Self::Ringway => "ringway",
        }
    }

    /// The program file. Ringway is taken from `RINGWAY_BIN`, else from beside the running
    /// program (`target/debug` or `target/release`), else from the newer of the two build folders.
    ///
    /// # Errors
    /// When there is none.
    pub fn binary(self) -> Result<PathBuf> {
        match self {
            Self::OpenVpn => command::find("openvpn").context("openvpn is not installed"),
            Self::OpenVpn27 => std::env::var_os("RINGWAY_OPENVPN_27")
                .map(PathBuf::from)
                .context("RINGWAY_OPENVPN_27 names no program"),
            Self::Ringway => ringway_binary(),
        }
    }

    /// The `--version` line.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn version(self) -> Result<String> {
        // OpenVPN ends its --version with status 1.
        let finished = command::finish(
            Command::new(self.binary()?).arg("--version"),
            Duration::from_secs(10),
        )?;
        Ok(finished
            .stdout
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned())
    }
}

/// A running (or ended) VPN process in a namespace. Dropping it kills it.
#[derive(Debug)]
pub struct Vpn {
    peer: Peer,
    name: String,
    namespace: Namespace,
    config: PathBuf,
    log: PathBuf,
    child: Child,
    seen: usize,
}

impl Vpn {
    /// Writes `lines` into `folder/name.conf` and starts the program in `namespace`, its output
    /// going to `folder/name.log`.
    ///
    /// # Errors
    /// When a file cannot be written or the program cannot start.
    pub fn start(
        peer: Peer,
        namespace: &Namespace,
        folder: &Path,
        name: &str,
        lines: &[String],
    ) -> Result<Self> {
        let config = folder.join(format!("{name}.conf"));
        fs::write(&config, lines.join("\n") + "\n")?;
        let log = folder.join(format!("{name}.log"));
        let child = spawn(peer, namespace, &config, &log)?;
        Ok(Self {
            peer,
            name: name.to_owned(),
            namespace: namespace.clone(),
            config,
            log,
            child,
            seen: 0,
        })
    }

    /// Starts the same program with the same file again, after it has ended. Later waits look only
    /// at what the new process says.
    ///
    /// # Errors
    /// When the old one still runs or the new one cannot start.
    pub fn start_again(&mut self) -> Result<()> {
        if self.is_running() {
            bail!("{} still runs", self.name);
        }
        self.mark();
        self.child = spawn(self.peer, &self.namespace, &self.config, &self.log)?;
        Ok(())
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Which program this is.
    #[must_use]
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// The namespace it runs in.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The configuration file it was started with.
    #[must_use]
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Everything it has said since its first start.
    #[must_use]
    pub fn whole_log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// What it has said since the last [`Vpn::mark`].
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(bytes.get(self.seen..).unwrap_or_default()).into_owned()
    }

    /// Makes [`Vpn::log`] and the waits forget what was said up to now.
    pub fn mark(&mut self) {
        self.seen = fs::metadata(&self.log).map_or(0, |data| data.len() as usize);
    }

    /// Number of log lines since the last mark holding `text`, upper or lower case.
    #[must_use]
    pub fn count(&self, text: &str) -> usize {
        let text = text.to_lowercase();
        self.log()
            .to_lowercase()
            .lines()
            .filter(|line| line.contains(&text))
            .count()
    }

    /// Waits until a log line since the last mark holds `text`; returns the time it took.
    ///
    /// # Errors
    /// When it does not appear within `timeout` or the process ends first; the message holds the
    /// end of the log.
    pub fn wait_for(&mut self, text: &str, timeout: Duration) -> Result<Duration> {
        let start = Instant::now();
        loop {
            let ended = !self.is_running();
            if self.count(text) > 0 {
                return Ok(start.elapsed());
            }
            if ended || start.elapsed() > timeout {
                bail!(
                    "{} ({}) {} without saying {text:?} in {:.1} s\n{}",
                    self.name,
                    self.peer.name(),
                    if ended { "ended" } else { "runs" },
                    start.elapsed().as_secs_f64(),
                    self.tail()
                );
            }
            std::thread::sleep(command::POLL);
        }
    }

    /// Waits until the link is up ([`UP`] since the last mark).
    ///
    /// # Errors
    /// As [`Vpn::wait_for`].
    pub fn wait_up(&mut self, timeout: Duration) -> Result<Duration> {
        self.wait_for(UP, timeout)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id())?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Waits for the process to end.
    ///
    /// # Errors
    /// When it still runs after `timeout`.
    pub fn wait_exit(&mut self, timeout: Duration) -> Result<ExitStatus> {
        match command::wait(&mut self.child, timeout) {
            Some(status) => Ok(status),
            None => bail!(
                "{} still runs after {timeout:?}\n{}",
                self.name,
                self.tail()
            ),
        }
    }

    /// Ends it with SIGTERM and waits; it has to end by itself, cleanly, within 15 seconds.
    ///
    /// # Errors
    /// When it does not end, or not with status 0 (OpenVPN in its exit may also re-raise SIGTERM).
    pub fn stop(&mut self) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        let status = self.wait_exit(Duration::from_secs(15))?;
        if !status.success() && status.signal() != Some(Signal::SIGTERM as i32) {
            bail!("{} ended with {status}\n{}", self.name, self.tail());
        }
        Ok(())
    }

    /// Kills it at once, as a crash would, and waits.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// User plus system time of all its threads, in seconds (`/proc/PID/stat`, proc(5)).
    ///
    /// # Errors
    /// When the process is gone.
    pub fn cpu_seconds(&self) -> Result<f64> {
        command::cpu_seconds(self.child.id())
    }

    /// The last 40 lines of the log, with a heading.
    #[must_use]
    pub fn tail(&self) -> String {
        let log = self.whole_log();
        let lines: Vec<&str> = log.lines().collect();
        let from = lines.len().saturating_sub(40);
        format!(
            "--- {} ({})\n{}\n---",
            self.name,
            self.peer.name(),
            lines[from..].join("\n")
        )
    }
}

impl Drop for Vpn {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A command that runs the program on `config` in `namespace`; for runs that are expected to end
/// by themselves.
///
/// # Errors
/// When the program is missing.
pub fn run_config(peer: Peer, namespace: &Namespace, config: &Path) -> Result<Command> {
    let mut command = namespace.command(peer.binary()?);
    command.arg("--config").arg(config);
    Ok(command)
}

fn spawn(peer: Peer, namespace: &Namespace, config: &Path, log: &Path) -> Result<Child> {
    let output = fs::OpenOptions::new().create(true).append(true).open(log)?;
    let mut command = run_config(peer, namespace, config)?;
    command
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))
}

fn ringway_binary() -> Result<PathBuf> {
    if let Some(given) = std::env::var_os("RINGWAY_BIN") {
        return Ok(PathBuf::from(given));
    }
    let mut folders = Vec::new();
    if let Ok(me) = std::env::current_exe() {
        // target/PROFILE/program or target/PROFILE/deps/test-hash.
        folders.extend(me.ancestors().skip(1).take(2).map(Path::to_owned));
    }
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    let mut built = [target.join("release"), target.join("debug")];
    built.sort_by_key(|folder| {
        folder
            .join("ringway")
            .metadata()
            .and_then(|m| m.modified())
            .ok()
    });
    folders.extend(built.into_iter().rev());
    folders
        .into_iter()
        .map(|folder| folder.join("ringway"))
        .find(|file| file.is_file())
        .context("ringway is not built (cargo build -p ringway) and RINGWAY_BIN is not set")
}
