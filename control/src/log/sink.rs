//! Where lines end: standard output, a file, or the system logger.
//!
//! A write that fails is dropped: there is nobody left to tell, and the tunnel must not end because
//! a disk is full.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use nix::unistd::{dup2_stderr, dup2_stdout};
use time::OffsetDateTime;

use super::{LogConfig, Severity, Target};

/// The socket of the system logger.
const SYSLOG_SOCKET: &str = "/dev/log";

/// Facility "system daemons" (RFC 3164 §4.1.1).
const FACILITY_DAEMON: u8 = 3;

/// An open destination.
#[derive(Debug)]
pub(super) enum Sink {
    Stdout,
    File(File),
    Syslog(Syslog),
}

/// A connection to the system logger that is made anew when the logger restarts.
#[derive(Debug)]
pub(super) struct Syslog {
    path: PathBuf,
    program: String,
    socket: Option<UnixDatagram>,
}

impl Sink {
    /// Opens the target of `config`. Only a log file can fail; the system logger may also start
    /// later than this program.
    pub(super) fn open(config: &LogConfig) -> io::Result<Self> {
        match &config.target {
            Target::Stdout => Ok(Sink::Stdout),
            Target::File { path, append } => {
                let file = OpenOptions::new()
                    .create(true)
                    .append(true)
                    .mode(0o640)
                    .open(path)?;
                if !append && file.metadata()?.is_file() {
                    file.set_len(0)?;
                }
                if config.redirect_stdio {
                    dup2_stdout(&file)?;
                    dup2_stderr(&file)?;
                }
                Ok(Sink::File(file))
            }
            Target::Syslog { program } => {
                Ok(Sink::Syslog(Syslog::new(Path::new(SYSLOG_SOCKET), program)))
            }
        }
    }

    /// Writes a whole line with its newline.
    pub(super) fn write(&mut self, severity: Severity, errors_to_stderr: bool, line: &str) {
        let is_error = matches!(severity, Severity::Fatal | Severity::Error);
        let _ = match self {
            Sink::Stdout if errors_to_stderr && is_error => {
                io::stderr().lock().write_all(line.as_bytes())
            }
            Sink::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout
                    .write_all(line.as_bytes())
                    .and_then(|()| stdout.flush())
            }
            Sink::File(file) => file.write_all(line.as_bytes()),
            Sink::Syslog(_) => Ok(()),
        };
    }
}

impl Syslog {
    fn new(path: &Path, program: &str) -> Self {
        let mut syslog = Syslog {
            path: path.to_owned(),
            program: program.to_owned(),
            socket: None,
        };
        // Connected now, while the path is still in reach of a later chroot.
        syslog.connect();
        syslog
    }

    /// Sends one line; never waits for a logger that does not read.
    pub(super) fn send(&mut self, now: OffsetDateTime, severity: Severity, text: &str) {
        let message = syslog_message(now, severity, &self.program, std::process::id(), text);
        if self.socket.is_none() {
            self.connect();
        }
        let Some(socket) = &self.socket else { return };
        match socket.send(message.as_bytes()) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => {
                self.connect();
                if let Some(socket) = &self.socket {
                    let _ = socket.send(message.as_bytes());
                }
            }
        }
    }

    fn connect(&mut self) {
        let connected = UnixDatagram::unbound().and_then(|socket| {
            socket.set_nonblocking(true)?;
            socket.connect(&self.path)?;
            Ok(socket)
        });
        // A failure keeps the old socket: after a chroot it may come back, the path will not.
        if let Ok(socket) = connected {
            self.socket = Some(socket);
        }
    }
}

/// A message as local loggers read it (RFC 3164 §4.1 without the host name).
fn syslog_message(
    now: OffsetDateTime,
    severity: Severity,
    program: &str,
    pid: u32,
    text: &str,
) -> String {
    let level = match severity {
        Severity::Fatal | Severity::Error => 3,
        Severity::Warning => 4,
        Severity::Info => 5,
    };
    let month = now.month().to_string();
    format!(
        "<{}>{} {:2} {:02}:{:02}:{:02} {program}[{pid}]: {text}",
        FACILITY_DAEMON * 8 + level,
        &month[..3],
        now.day(),
        now.hour(),
        now.minute(),
        now.second()
    )
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-02 20:02:56 UTC);

    #[test]
    fn syslog_format() {
        assert_eq!(
            syslog_message(NOW, Severity::Info, "openvpn", 12, "up"),
            "<29>Nov  2 20:02:56 openvpn[12]: up"
        );
        assert!(syslog_message(NOW, Severity::Warning, "x", 1, "").starts_with("<28>"));
        assert!(syslog_message(NOW, Severity::Fatal, "x", 1, "").starts_with("<27>"));
    }

    #[test]
    fn syslog_reconnects_to_a_restarted_logger() {
        let path = std::env::temp_dir().join(format!("ringway-syslog-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let mut syslog = Syslog::new(&path, "vpn");
        syslog.send(NOW, Severity::Info, "lost, nobody listens yet");
        let mut buffer = [0; 200];
        for round in 0..2 {
            let logger = UnixDatagram::bind(&path).unwrap();
            logger.set_nonblocking(true).unwrap();
            syslog.send(NOW, Severity::Info, &format!("round {round}"));
            let length = logger.recv(&mut buffer).unwrap();
            let text = String::from_utf8_lossy(&buffer[..length]);
            assert!(text.ends_with(&format!("]: round {round}")), "{text}");
            drop(logger);
            std::fs::remove_file(&path).unwrap();
        }
    }
}
