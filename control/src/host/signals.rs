//! Signals as events: a descriptor to wait on and a list of what arrived.
//!
//! SIGPIPE needs no care here: it is ignored from the start of every Rust program.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use signal_hook::consts::signal::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;

/// What OpenVPN reacts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGUSR1: soft restart.
    Usr1,
    /// SIGHUP: restart with the configuration read anew.
    Hup,
    /// SIGUSR2: statistics to the log.
    Usr2,
    /// SIGTERM: end.
    Term,
    /// SIGINT: end.
    Int,
}

/// The handlers, in place until the end of the process.
#[derive(Debug)]
pub struct Signals {
    delivery: SignalDelivery<UnixStream, SignalOnly>,
}

impl Signals {
    /// Installs the handlers.
    pub fn install() -> io::Result<Self> {
        let (read, write) = UnixStream::pair()?;
        let delivery = SignalDelivery::with_pipe(
            read,
            write,
            SignalOnly,
            [SIGUSR1, SIGHUP, SIGUSR2, SIGTERM, SIGINT],
        )?;
        Ok(Signals { delivery })
    }

    /// The signals that arrived since the last call, each kind once, those that end the process
    /// first. Does not wait.
    pub fn pending(&mut self) -> Vec<Signal> {
        let mut arrived: Vec<Signal> = self
            .delivery
            .pending()
            .filter_map(|number| match number {
                SIGUSR1 => Some(Signal::Usr1),
                SIGHUP => Some(Signal::Hup),
                SIGUSR2 => Some(Signal::Usr2),
                SIGTERM => Some(Signal::Term),
                SIGINT => Some(Signal::Int),
                _ => None,
            })
            .collect();
        arrived.sort_by_key(|signal| match signal {
            Signal::Term => 0,
            Signal::Int => 1,
            Signal::Hup => 2,
            Signal::Usr1 => 3,
            Signal::Usr2 => 4,
        });
        arrived
    }
}

impl AsFd for Signals {
    /// Readable when a signal is pending; [`Signals::pending`] empties it.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.delivery.get_read().as_fd()
    }
}

impl Signal {
    /// The name in log lines.
    pub fn name(self) -> &'static str {
        match self {
            Signal::Usr1 => "SIGUSR1",
            Signal::Hup => "SIGHUP",
            Signal::Usr2 => "SIGUSR2",
            Signal::Term => "SIGTERM",
            Signal::Int => "SIGINT",
        }
    }

    /// The value of the `signal` variable for `down` scripts.
    pub fn script_name(self) -> &'static str {
        match self {
            Signal::Usr1 => "sigusr1",
            Signal::Hup => "sighup",
            Signal::Usr2 => "sigusr2",
            Signal::Term => "sigterm",
            Signal::Int => "sigint",
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    fn readable(signals: &Signals, timeout: PollTimeout) -> bool {
        let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        loop {
            match poll(&mut fds, timeout) {
                Err(nix::errno::Errno::EINTR) => {}
                result => return result.unwrap() > 0,
            }
        }
    }

    #[test]
    fn signals_wake_and_are_told_once() {
        let mut signals = Signals::install().unwrap();
        assert!(!readable(&signals, PollTimeout::ZERO));
        assert_eq!(signals.pending(), []);
        for number in [SIGUSR2, SIGUSR1, SIGTERM, SIGUSR1, SIGHUP, SIGINT] {
            signal_hook::low_level::raise(number).unwrap();
        }
        assert!(readable(&signals, PollTimeout::from(5000u16)));
        assert_eq!(
            signals.pending(),
            [
                Signal::Term,
                Signal::Int,
                Signal::Hup,
                Signal::Usr1,
                Signal::Usr2
            ]
        );
        assert_eq!(signals.pending(), []);
        assert!(!readable(&signals, PollTimeout::ZERO));
    }

    #[test]
    fn a_broken_pipe_is_an_error_not_the_end() {
        use std::io::Write;
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert_eq!(
            ours.write_all(b"x").unwrap_err().kind(),
            io::ErrorKind::BrokenPipe
        );
    }
}
