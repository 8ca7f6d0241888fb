//! The plain engine: epoll, and one call for each message. It works where io_uring is refused, and
//! costs about the same (`docs/engines.md`).

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;

use crate::device::Device;
use crate::offload::coalesce::TunWrite;
use crate::pool::{ASSEMBLY, BATCH_BYTES, Failures, Inbox, MAX_MESSAGES, SLOT_LEN};
use crate::tun::TunQueue;
use crate::udp::UdpSocket;

const UDP: u64 = 0;
const TUN: u64 = 1;
const WAKE: u64 = 2;

/// See the module's documentation.
pub(crate) struct Syscalls {
    epoll: Epoll,
    udp: Arc<UdpSocket>,
    wake: Arc<EventFd>,
    device: Device,
    rx: Vec<u8>,
    /// Something may be left to receive, so there is no need to ask.
    udp_ready: bool,
}

impl Syscalls {
    pub(crate) fn new(udp: Arc<UdpSocket>, wake: Arc<EventFd>) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(udp.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, UDP))?;
        epoll.add(wake.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
        Ok(Syscalls {
            epoll,
            udp,
            wake,
            device: Device::new(),
            rx: vec![0; BATCH_BYTES + SLOT_LEN + ASSEMBLY],
            udp_ready: false,
        })
    }

    pub(crate) fn rx_bytes_mut(&mut self) -> &mut [u8] {
        &mut self.rx
    }

    pub(crate) fn tun_bytes_mut(&mut self) -> &mut [u8] {
        self.device.bytes_mut()
    }

    pub(crate) fn tun(&self) -> Option<&TunQueue> {
        self.device.queue()
    }

    pub(crate) fn attach_tun(&mut self, tun: TunQueue) -> io::Result<()> {
        if tun.is_read() {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, TUN);
            self.epoll.add(tun.as_fd(), event)?;
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
        if !(self.udp_ready && self.device.is_ready()) {
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
                _ => {
                    woken = true;
                    let _ = self.wake.read();
                }
            }
        }
        Ok(woken)
    }

    fn receive(&mut self, inbox: &mut Inbox) {
        let mut cursor = 0;
        for _ in 0..MAX_MESSAGES {
            if cursor >= BATCH_BYTES {
                return;
            }
            inbox.rx_calls += 1;
            match self.udp.receive(&mut self.rx[cursor..cursor + SLOT_LEN]) {
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
