//! A source and a sink in the namespaces of a lab: the same programs that run on two real hosts.

use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use ringway_lab::command;
use ringway_lab::netns::Namespace;
use serde::de::DeserializeOwned;

use super::protocol::PORT;

static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Says which program has the `source` and `sink` subcommands, when it is not the running one. Only
/// the first call counts.
pub fn use_program(program: PathBuf) {
    let _ = PROGRAM.set(program);
}

fn program() -> Result<PathBuf> {
    match PROGRAM.get() {
        Some(program) => Ok(program.clone()),
        None => Ok(std::env::current_exe()?),
    }
}

/// A sink in a namespace. Dropping it ends it.
#[derive(Debug)]
pub struct Sink {
    child: Child,
    address: SocketAddr,
}

impl Sink {
    /// Starts a sink on an address of the namespace and waits until it listens.
    ///
    /// # Errors
    /// When it ends instead; it has said why on standard error.
    pub fn start(namespace: &Namespace, ip: IpAddr) -> Result<Self> {
        let mut child = namespace
            .command(program()?)
            .args([
                "sink",
                "--bind",
                &ip.to_string(),
                "--port",
                &PORT.to_string(),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the sink")?;
        let stdout = child.stdout.take().context("no standard output")?;
        let sink = Self {
            child,
            address: SocketAddr::new(ip, PORT),
        };
        let mut lines = BufReader::new(stdout).lines();
        let first = lines.next().transpose()?.unwrap_or_default();
        if !first.starts_with("listening") {
            bail!("the sink does not listen on {}", sink.address);
        }
        // What it says about each test is in the source's outcome too; read so that it never waits.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(sink)
    }

    /// Starts a source in `namespace` with `words` as options, e.g. `--udp --rate 10M`.
    ///
    /// # Errors
    /// When it cannot start.
    pub fn source(&self, namespace: &Namespace, words: &str) -> Result<Source> {
        let child = namespace
            .command(program()?)
            .args(["source", &self.address.to_string(), "--json"])
            .args(words.split_whitespace())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start the source")?;
        let mut source = Source {
            what: words.to_owned(),
            child,
            output: None,
        };
        // Read beside, because a long report fills the pipe.
        let stdout = source.child.stdout.take().context("no standard output")?;
        let stderr = source.child.stderr.take().context("no standard error")?;
        source.output = Some(std::thread::spawn(move || {
            let errors = std::thread::spawn(move || std::io::read_to_string(stderr));
            let text = std::io::read_to_string(stdout)?;
            let errors = errors.join().unwrap_or_else(|_| Ok(String::new()))?;
            Ok((text, errors))
        }));
        Ok(source)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

type Output = std::io::Result<(String, String)>;

/// A running source. Dropping it ends it.
#[derive(Debug)]
pub struct Source {
    what: String,
    child: Child,
    output: Option<std::thread::JoinHandle<Output>>,
}

impl Source {
    /// Waits for its end and reads its outcome; calls `meanwhile` again and again until then.
    ///
    /// # Errors
    /// When it fails, or still runs after `timeout`.
    pub fn finish<T: DeserializeOwned>(
        mut self,
        timeout: Duration,
        mut meanwhile: impl FnMut(),
    ) -> Result<T> {
        let deadline = Instant::now() + timeout;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if Instant::now() >= deadline {
                bail!("source {}: still running after {timeout:?}", self.what);
            }
            meanwhile();
            std::thread::sleep(command::POLL / 2);
        };
        let output = self.output.take().map(std::thread::JoinHandle::join);
        let Some(Ok(output)) = output else {
            bail!("source {}: its output was lost", self.what);
        };
        let (text, errors) = output?;
        if !status.success() {
            bail!("source {}: {status}: {}", self.what, errors.trim());
        }
        serde_json::from_str(&text)
            .with_context(|| format!("source {}: outcome {text:?}", self.what))
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
