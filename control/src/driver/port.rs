//! Getting a port that was in use a moment ago.
//!
//! A process that is killed may hold its ports a little longer than it lives: the kernel takes an io_uring
//! apart, and closes the sockets it knows, only after the process has gone. Who starts the program anew at
//! once, as a service manager does, is not to hear that its own port is taken.

use std::io;
use std::time::{Duration, Instant};

use ringway_dataplane::error::StartError;

use crate::log;

/// How long a port that is in use is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// Pause between two attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// What is left of the patience with one place to listen at, in however many forms it is tried.
pub(super) struct Patience {
    left: Duration,
}

/// Why a port cannot be had.
pub(super) trait Refusal {
    /// Somebody else has it.
    fn is_in_use(&self) -> bool;
}

impl Refusal for io::Error {
    fn is_in_use(&self) -> bool {
        self.kind() == io::ErrorKind::AddrInUse
    }
}

impl Refusal for StartError {
    fn is_in_use(&self) -> bool {
        match self {
            StartError::Io { source, .. } => source.is_in_use(),
            StartError::Key(_) => false,
        }
    }
}

impl Patience {
    /// About a second.
    pub(super) fn new() -> Self {
        Patience { left: PATIENCE }
    }

    /// Binds with `bind`, again and again as long as the port is in use and there is patience. A line in
    /// the log tells that this helped.
    ///
    /// # Errors
    /// The last one of `bind`.
    pub(super) fn bind<T, E: Refusal>(
        &mut self,
        mut bind: impl FnMut() -> Result<T, E>,
    ) -> Result<T, E> {
        let began = Instant::now();
        let mut waited = false;
        loop {
            match bind() {
                Err(error) if error.is_in_use() && !self.left.is_zero() => {}
                Ok(bound) if waited => {
                    let ms = began.elapsed().as_millis();
                    log::notice!(in Link, "The port was still in use; it was free after {ms} ms");
                    return Ok(bound);
                }
                outcome => return outcome,
            }
            waited = true;
            std::thread::sleep(PAUSE);
            self.left = self.left.saturating_sub(PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket as StdSocket};

    use ringway_dataplane::udp::{Family, UdpConfig, UdpSocket};

    use super::*;

    #[test]
    fn a_port_is_had_as_soon_as_it_is_free() {
        let holder = StdSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let config = UdpConfig {
            local: Some(Ipv4Addr::LOCALHOST.into()),
            port: holder.local_addr().unwrap().port(),
            ..UdpConfig::new(Family::V4)
        };
        let mut holder = Some(holder);
        let mut attempts = 0;
        for workers in [1, 2] {
            let bound = Patience::new().bind(|| {
                attempts += 1;
                if attempts == 3 {
                    holder = None;
                }
                UdpSocket::open_group(&config, workers)
            });
            assert_eq!(bound.unwrap().len(), workers);
        }
        assert_eq!(attempts, 4);
    }

    #[test]
    fn patience_ends_and_is_shared_by_all_attempts() {
        let mut patience = Patience { left: 5 * PAUSE };
        for expected in [6, 1] {
            let mut attempts = 0;
            let outcome = patience.bind(|| -> io::Result<()> {
                attempts += 1;
                Err(io::ErrorKind::AddrInUse.into())
            });
            assert!(outcome.unwrap_err().is_in_use());
            assert_eq!(attempts, expected);
        }
    }

    #[test]
    fn other_refusals_are_final() {
        let mut attempts = 0;
        let outcome = Patience::new().bind(|| -> Result<(), _> {
            attempts += 1;
            let denied = io::ErrorKind::PermissionDenied.into();
            Err(StartError::io("cannot bind", denied))
        });
        assert!(!outcome.unwrap_err().is_in_use());
        assert_eq!(attempts, 1);
    }
}
