//! One face for both engines, so that the batch code knows neither.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use nix::sys::epoll::Epoll;
use nix::sys::eventfd::EventFd;

use super::syscalls::Syscalls;
use crate::offload::coalesce::TunWrite;
use crate::pool::{Failures, Inbox};
use crate::sys::ring::Uring;
use crate::tun::TunQueue;
use crate::udp::UdpSocket;

/// Which engine moves the packets (`ringway-io`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum IoChoice {
    /// io_uring where it is allowed and able, plain calls otherwise.
    #[default]
    Auto,
    /// io_uring or nothing.
    Uring,
    /// Plain calls.
    Syscalls,
}

/// An engine owns the receive and the TUN slab, because its kernel side may know them; the send
/// slab is the worker's.
pub(crate) enum Engine {
    Uring(Box<Uring>),
    Syscalls(Syscalls),
}

impl Engine {
    /// Starts the chosen engine. The string is a line to log when it is not the first choice.
    pub(crate) fn new(
        choice: IoChoice,
        udp: Option<&Arc<UdpSocket>>,
        wake: &Arc<EventFd>,
    ) -> io::Result<(Self, Option<String>)> {
        let mut notice = None;
        if choice != IoChoice::Syscalls {
            match Uring::new(udp.cloned(), Arc::clone(wake)) {
                Ok(engine) => return Ok((Engine::Uring(Box::new(engine)), None)),
                Err(error) if choice == IoChoice::Uring => return Err(error),
                Err(error) => {
                    notice = Some(format!(
                        "io_uring is not available ({error}); using plain system calls"
                    ));
                }
            }
        }
        let engine = Syscalls::new(udp.cloned(), Arc::clone(wake))?;
        Ok((Engine::Syscalls(engine), notice))
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Engine::Uring(_) => "io_uring",
            Engine::Syscalls(_) => "plain system calls",
        }
    }

    pub(crate) fn rx_bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Engine::Uring(engine) => engine.rx_bytes_mut(),
            Engine::Syscalls(engine) => engine.rx_bytes_mut(),
        }
    }

    /// The part of [`Engine::rx_bytes_mut`] for what is read from TCP connections.
    pub(crate) fn stream_area(&self) -> Range<usize> {
        match self {
            Engine::Uring(engine) => engine.stream_area(),
            Engine::Syscalls(engine) => engine.stream_area(),
        }
    }

    /// Waits for this epoll instance of TCP connections too from now on, and says so in the inbox.
    pub(crate) fn watch(&mut self, streams: &Arc<Epoll>) -> io::Result<()> {
        match self {
            Engine::Uring(engine) => {
                engine.watch(streams);
                Ok(())
            }
            Engine::Syscalls(engine) => engine.watch(streams),
        }
    }

    /// Leaves what arrives in the TUN device, or reads it again.
    pub(crate) fn hold_tun(&mut self, held: bool) -> io::Result<()> {
        match self {
            Engine::Uring(engine) => {
                engine.hold_tun(held);
                Ok(())
            }
            Engine::Syscalls(engine) => engine.hold_tun(held),
        }
    }

    pub(crate) fn tun_bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Engine::Uring(engine) => engine.tun_bytes_mut(),
            Engine::Syscalls(engine) => engine.tun_bytes_mut(),
        }
    }

    pub(crate) fn tun(&self) -> Option<&TunQueue> {
        match self {
            Engine::Uring(engine) => engine.tun(),
            Engine::Syscalls(engine) => engine.tun(),
        }
    }

    pub(crate) fn attach_tun(&mut self, tun: TunQueue) -> io::Result<()> {
        match self {
            Engine::Uring(engine) => engine.attach_tun(tun),
            Engine::Syscalls(engine) => engine.attach_tun(tun),
        }
    }

    pub(crate) fn detach_tun(&mut self) -> io::Result<Option<TunQueue>> {
        match self {
            Engine::Uring(engine) => engine.detach_tun(),
            Engine::Syscalls(engine) => engine.detach_tun(),
        }
    }

    /// Collects what has arrived into the empty `inbox`; with `block`, waits for something first.
    /// Returns whether the wake-up fired.
    pub(crate) fn wait(&mut self, block: bool, inbox: &mut Inbox) -> io::Result<bool> {
        match self {
            Engine::Uring(engine) => engine.wait(block, inbox),
            Engine::Syscalls(engine) => engine.wait(block, inbox),
        }
    }

    /// The batch in `inbox` is done with; its buffers may be filled again.
    pub(crate) fn release(&mut self, inbox: &Inbox) {
        match self {
            Engine::Uring(engine) => engine.release(inbox),
            Engine::Syscalls(_) => {}
        }
    }

    /// Writes packets out of the receive slab to the TUN device, in order, and notes what failed.
    /// Returns how many writes were made.
    pub(crate) fn write<'a>(
        &mut self,
        writes: impl Iterator<Item = TunWrite<'a>> + Clone,
        failures: &mut Failures,
    ) -> io::Result<usize> {
        match self {
            Engine::Uring(engine) => engine.write(writes, failures),
            Engine::Syscalls(engine) => Ok(engine.write(writes, failures)),
        }
    }
}
