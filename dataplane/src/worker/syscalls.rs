//! The plain engine: epoll, and one call for each message. At the super-packet sizes of the packet
//! path it moves as much as io_uring, and it works where io_uring is refused.

use std::io::{self, IoSlice, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;

use arrayvec::ArrayVec;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;

use crate::cipher::Segment;
use crate::offload::coalesce::{self, TunWrite};
use crate::pool::{Failures, Inbox, MAX_MESSAGES, SLOT_LEN, SendOp, TunMessage};
use crate::sys::cmsg::SendHead;
use crate::tun::TunQueue;
use crate::udp::UdpSocket;

/// Bytes after which no further message joins a batch.
const BATCH_BYTES: usize = 512 * 1024;

/// Most slices of one TUN write, the virtio header included.
const MAX_SLICES: usize = coalesce::MAX_SLICES + 1;

const UDP: u64 = 0;
const TUN: u64 = 1;
const WAKE: u64 = 2;

/// See the module's documentation.
pub(crate) struct Syscalls {
    epoll: Epoll,
    udp: Arc<UdpSocket>,
    wake: Arc<EventFd>,
    tun: Option<TunQueue>,
    rx: Vec<u8>,
    tun_slab: Vec<u8>,
    /// Something may be left to read, so there is no need to ask.
    udp_ready: bool,
    tun_ready: bool,
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
            tun: None,
            rx: vec![0; BATCH_BYTES + SLOT_LEN],
            tun_slab: vec![0; BATCH_BYTES + SLOT_LEN],
            udp_ready: false,
            tun_ready: false,
        })
    }

    pub(crate) fn rx_bytes_mut(&mut self) -> &mut [u8] {
        &mut self.rx
    }

    pub(crate) fn tun_bytes_mut(&mut self) -> &mut [u8] {
        &mut self.tun_slab
    }

    pub(crate) fn tun(&self) -> Option<&TunQueue> {
        self.tun.as_ref()
    }

    pub(crate) fn attach_tun(&mut self, tun: TunQueue) -> io::Result<()> {
        if tun.is_read() {
            tun.set_nonblocking(true)?;
            let event = EpollEvent::new(EpollFlags::EPOLLIN, TUN);
            self.epoll.add(tun.as_fd(), event)?;
        }
        self.tun = Some(tun);
        Ok(())
    }

    pub(crate) fn detach_tun(&mut self) -> io::Result<Option<TunQueue>> {
        self.tun_ready = false;
        let Some(tun) = self.tun.take() else {
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
        if !(self.udp_ready && self.tun_ready) {
            let waits = block && !self.udp_ready && !self.tun_ready;
            woken = self.poll(waits, inbox)?;
        }
        if self.udp_ready {
            self.receive(inbox);
        }
        if self.tun_ready {
            self.read_tun(inbox);
        }
        Ok(woken)
    }

    /// As [`crate::sys::ring::Uring::send`].
    pub(crate) fn send(&mut self, tx: &[u8], ops: &[SendOp], failures: &mut Failures) {
        let mut head = SendHead::new();
        for (index, op) in ops.iter().enumerate() {
            head.set(self.udp.is_v6(), &op.to, op.gso_size, op.tos);
            if let Err(error) = self.udp.send(&head, &tx[op.start..op.start + op.len]) {
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                failures.sends.push((index, errno));
                // What may be tried again must not come after what followed it.
                failures
                    .sends
                    .extend((index + 1..ops.len()).map(|index| (index, libc::ECANCELED)));
                return;
            }
        }
    }

    pub(crate) fn write<'a>(
        &mut self,
        writes: impl Iterator<Item = TunWrite<'a>>,
        failures: &mut Failures,
    ) -> usize {
        let Some(tun) = &self.tun else {
            return 0;
        };
        let mut count = 0;
        for write in writes {
            let mut slices: ArrayVec<IoSlice<'_>, MAX_SLICES> = ArrayVec::new();
            if tun.has_vnet_header() {
                slices.push(IoSlice::new(write.vnet));
            }
            for &Segment { start, len } in write.slices.iter().take(slices.remaining_capacity()) {
                slices.push(IoSlice::new(&self.rx[start..start + len]));
            }
            if let Err(error) = tun.file().write_vectored(&slices) {
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                failures.writes.push((count, errno));
            }
            count += 1;
        }
        count
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
                TUN => self.tun_ready = true,
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

    fn read_tun(&mut self, inbox: &mut Inbox) {
        let Some(tun) = &self.tun else {
            self.tun_ready = false;
            return;
        };
        let mut cursor = 0;
        for _ in 0..MAX_MESSAGES {
            if cursor >= BATCH_BYTES {
                return;
            }
            match tun
                .file()
                .read(&mut self.tun_slab[cursor..cursor + SLOT_LEN])
            {
                Ok(len) if len > 0 => {
                    inbox.tun.push(TunMessage {
                        slot: 0,
                        start: cursor,
                        len,
                        vnet: tun.has_vnet_header(),
                    });
                    cursor += len.next_multiple_of(64);
                }
                Ok(_) => {
                    // The far end of a handed-over descriptor is closed.
                    inbox.tun_lost = Some(libc::EPIPE);
                    let _ = self.detach_tun();
                    return;
                }
                Err(error) => {
                    self.tun_ready = false;
                    let errno = error.raw_os_error();
                    if matches!(errno, Some(libc::EBADFD | libc::ENODEV)) {
                        // Gone: it would be reported as ready for ever.
                        inbox.tun_lost = errno;
                        let _ = self.detach_tun();
                    }
                    return;
                }
            }
        }
    }
}
