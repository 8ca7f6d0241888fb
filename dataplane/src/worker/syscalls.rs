//! The plain engine: epoll, and one call for each message. It works where io_uring is refused, and
//! costs about the same (`docs/engines.md`).

use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;

use crate::device::Device;
use crate::offload::coalesce::TunWrite;
use crate::pool::{ASSEMBLY, BATCH_BYTES, Failures, Inbox, MAX_MESSAGES, SLOT_LEN, STREAM_AREA};
use crate::tun::TunQueue;
use crate::udp::UdpSocket;

const UDP: u64 = 0;
const TUN: u64 = 1;
const WAKE: u64 = 2;
const STREAMS: u64 = 3;

/// See the module's documentation.
pub(crate) struct Syscalls {
    epoll: Epoll,
    udp: Option<Arc<UdpSocket>>,
    wake: Arc<EventFd>,
    device: Device,
    rx: Vec<u8>,
    /// Something may be left to receive, so there is no need to ask.
    udp_ready: bool,
    /// There are TCP connections, which are asked for each time.
    streams: bool,
    /// The device is not to be read now.
    held: bool,
}

impl Syscalls {
    pub(crate) fn new(udp: Option<Arc<UdpSocket>>, wake: Arc<EventFd>) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        if let Some(udp) = &udp {
            epoll.add(udp.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, UDP))?;
        }
        epoll.add(wake.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
        Ok(Syscalls {
            epoll,
            udp,
            wake,
            device: Device::new(),
            rx: vec![0; BATCH_BYTES + SLOT_LEN + STREAM_AREA + ASSEMBLY],
            udp_ready: false,
            streams: false,
            held: false,
        })
    }

    pub(crate) fn rx_bytes_mut(&mut self) -> &mut [u8] {
        &mut self.rx
    }

    /// As [`crate::sys::ring::Uring::stream_area`].
    pub(crate) fn stream_area(&self) -> Range<usize> {
        let end = self.rx.len() - ASSEMBLY;
        end - STREAM_AREA..end
    }

    /// As [`crate::sys::ring::Uring::watch`].
    pub(crate) fn watch(&mut self, streams: &Epoll) -> io::Result<()> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, STREAMS);
        self.epoll.add(streams.0.as_fd(), event)?;
        self.streams = true;
        Ok(())
    }

    /// As [`Device::hold`].
    pub(crate) fn hold_tun(&mut self, held: bool) -> io::Result<()> {
        if held == self.held {
            return Ok(());
        }
        self.held = held;
        self.device.hold(held);
        if let Some(tun) = self.device.queue()
            && tun.is_read()
        {
            self.epoll.modify(tun.as_fd(), &mut tun_event(held))?;
        }
        Ok(())
    }

    pub(crate) fn tun_bytes_mut(&mut self) -> &mut [u8] {
        self.device.bytes_mut()
    }

    pub(crate) fn tun(&self) -> Option<&TunQueue> {
        self.device.queue()
    }

    pub(crate) fn attach_tun(&mut self, tun: TunQueue) -> io::Result<()> {
        if tun.is_read() {
            self.epoll.add(tun.as_fd(), tun_event(self.held))?;
        }
        self.device.attach(tun)
    }

    pub(crate) fn detach_tun(&mut self) -> io::Result<Option<TunQueue>> {
        let Some(tun) = self.device.detach() else {
            return Ok(None);
        };
        if tun.is_read() {
            self.epoll.delete(tun.as_fd())?;
        }
        Ok(Some(tun))
    }

    /// As [`crate::sys::ring::Uring::wait`].
    pub(crate) fn wait(&mut self, block: bool, inbox: &mut Inbox) -> io::Result<bool> {
        let mut woken = false;
        if self.streams || !(self.udp_ready && self.device.is_ready()) {
            let waits = block && !self.udp_ready && !self.device.is_ready();
            woken = self.poll(waits, inbox)?;
        }
        if self.udp_ready {
            self.receive(inbox);
        }
        self.device.read(inbox);
        if inbox.tun_lost.is_some() {
            // It would be reported as ready for ever.
            drop(self.detach_tun());
        }
        Ok(woken)
    }

    /// As [`Device::write`], out of the receive slab.
    pub(crate) fn write<'a>(
        &mut self,
        writes: impl Iterator<Item = TunWrite<'a>>,
        failures: &mut Failures,
    ) -> usize {
        self.device.write(&self.rx, writes, failures)
    }

    fn poll(&mut self, block: bool, inbox: &mut Inbox) -> io::Result<bool> {
        let timeout = if block {
            EpollTimeout::NONE
        } else {
            EpollTimeout::ZERO
        };
        let mut events = [EpollEvent::empty(); 4];
        let count = loop {
            match self.epoll.wait(&mut events, timeout) {
                Err(Errno::EINTR) => {}
                result => break result?,
            }
        };
        let mut woken = false;
        for event in &events[..count] {
            match event.data() {
                UDP => {
                    self.udp_ready = true;
                    inbox.socket_error |= event.events().contains(EpollFlags::EPOLLERR);
                }
                TUN => self.device.set_ready(),
                STREAMS => inbox.streams = true,
                _ => {
                    woken = true;
                    let _ = self.wake.read();
                }
            }
        }
        Ok(woken)
    }

    fn receive(&mut self, inbox: &mut Inbox) {
        let Some(udp) = &self.udp else {
            return;
        };
        let mut cursor = 0;
        for _ in 0..MAX_MESSAGES {
            if cursor >= BATCH_BYTES {
                return;
            }
            inbox.rx_calls += 1;
            match udp.receive(&mut self.rx[cursor..cursor + SLOT_LEN]) {
                Ok(Some(message)) => {
                    let len = message.len;
                    inbox.rx.push(crate::pool::RxMessage {
                        start: cursor,
                        ..message
                    });
                    cursor += len.next_multiple_of(64);
                }
                Ok(None) => {}
                Err(error) => {
                    if error.kind() == io::ErrorKind::WouldBlock {
                        self.udp_ready = false;
                    } else {
                        inbox.socket_error = true;
                    }
                    return;
                }
            }
        }
    }
}

/// What to wait for at the device. Without any flag only its loss is reported.
fn tun_event(held: bool) -> EpollEvent {
    let flags = if held {
        EpollFlags::empty()
    } else {
        EpollFlags::EPOLLIN
    };
    EpollEvent::new(flags, TUN)
}
