//! The io_uring engine: one ring to receive from the socket, to write bursts to the TUN device and to
//! wait for everything.
//!
//! ```text
//!  multishot recvmsg  -> receive slots (provided buffers)   armed for good, re-armed when it ends
//!  poll               -> TUN device                         then a burst of plain reads
//!  poll               -> epoll of the TCP connections       once there is one
//!  multishot poll     -> eventfd
//!  writev             -> TUN device                         a batch in one call, none of them waits
//! ```
//!
//! Datagrams are sent by plain calls. `docs/engines.md` has the figures behind each choice.
//!
//! Why exclusive access to the slots is sound: the ring is set up with SINGLE_ISSUER and
//! DEFER_TASKRUN, so the kernel fills provided buffers only while this thread is inside
//! `io_uring_enter`, which every function here calls through `&mut self`. [`Uring::write`] does not
//! return before each of its requests has completed (or the ring is dead, is never entered again, and
//! cancels them when dropped, before the memory it owns), so no request outlives the borrow of the
//! memory it reads.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use io_uring::types::{CancelBuilder, Fd, RecvMsgOut, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use nix::poll::PollFlags;
use nix::sys::epoll::Epoll;
use nix::sys::eventfd::EventFd;

use super::buf_ring::BufRing;
use super::cmsg::{self, CONTROL_LEN, NAME_LEN};
use super::socket;
use crate::cipher::Segment;
use crate::device::Device;
use crate::offload::coalesce::TunWrite;
use crate::pool::{
    ASSEMBLY, Failures, Inbox, MAX_PACKETS, RX_SLOTS, RxMessage, SLOT_LEN, STREAM_AREA,
};
use crate::tun::TunQueue;
use crate::udp::{self, UdpSocket};

const ENTRIES: u32 = 256;

/// Completions the kernel can note before it must keep them elsewhere.
const COMPLETIONS: u32 = 1024;

const RX_GROUP: u16 = 0;

/// What a completion is about, in the upper half of its user data; an index in the lower.
const RX: u64 = 1 << 32;
const TUN: u64 = 2 << 32;
const WAKE: u64 = 3 << 32;
const WRITE: u64 = 4 << 32;
const STREAMS: u64 = 5 << 32;
const KIND: u64 = !0 << 32;

/// Where the payload begins in a receive slot: behind the kernel's header, the address and the
/// control data.
const PAYLOAD: usize = 16 + NAME_LEN + CONTROL_LEN;

/// See the module's documentation.
pub(crate) struct Uring {
    // Dropped in this order: the ring before the memory its requests know.
    ring: IoUring,
    rx: BufRing,
    recv_header: Box<libc::msghdr>,
    udp: Option<Arc<UdpSocket>>,
    wake: Arc<EventFd>,
    /// Readable when TCP connections want attention; `None` as long as there are none.
    streams: Option<Arc<Epoll>>,
    device: Device,
    iovecs: Vec<libc::iovec>,
    /// The device takes writes that must not wait; otherwise plain calls write.
    bursts: bool,
    armed: Armed,
    /// Writes submitted and not completed.
    outstanding: usize,
    woken: bool,
    /// The ring failed with requests queued whose memory may be gone; it is never entered again.
    dead: bool,
    /// What completed while writes were waited for.
    pending: Inbox,
}

#[derive(Clone, Copy, Default)]
struct Armed {
    rx: bool,
    tun: bool,
    wake: bool,
    streams: bool,
}

impl Uring {
    /// Sets up the ring and arms receiving.
    ///
    /// # Errors
    /// The kernel or its policy has no io_uring, or lacks a feature that this engine builds on.
    pub(crate) fn new(udp: Option<Arc<UdpSocket>>, wake: Arc<EventFd>) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(COMPLETIONS)
            .build(ENTRIES)?;
        let rx = BufRing::new(RX_SLOTS, SLOT_LEN, STREAM_AREA + ASSEMBLY)?;
        // SAFETY: the buffer ring's mapping is owned by the same struct as the io_uring and is
        // dropped after it.
        unsafe {
            ring.submitter()
                .register_buf_ring_with_flags(rx.address(), rx.count(), RX_GROUP, 0)
        }?;
        let mut recv_header = Box::new(socket::empty_header());
        recv_header.msg_namelen = NAME_LEN as libc::socklen_t;
        recv_header.msg_controllen = CONTROL_LEN as _;
        let mut engine = Uring {
            ring,
            rx,
            recv_header,
            udp,
            wake,
            streams: None,
            device: Device::new(),
            iovecs: Vec::with_capacity(MAX_PACKETS * 2),
            bursts: true,
            armed: Armed::default(),
            outstanding: 0,
            woken: false,
            dead: false,
            pending: Inbox::new(),
        };
        engine.arm()?;
        engine.submit(0)?;
        engine.drain();
        // A kernel without multishot receive or poll refuses the request at once.
        let armed = (engine.armed.rx || engine.udp.is_none()) && engine.armed.wake;
        if !armed && !engine.pending.socket_error {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        Ok(engine)
    }

    pub(crate) fn rx_bytes_mut(&mut self) -> &mut [u8] {
        self.rx.bytes_mut()
    }

    /// The part of [`Uring::rx_bytes_mut`] that no message is received to.
    pub(crate) fn stream_area(&self) -> Range<usize> {
        let end = self.rx.bytes().len() - ASSEMBLY;
        end - STREAM_AREA..end
    }

    /// Waits for this epoll instance too from now on.
    pub(crate) fn watch(&mut self, streams: &Arc<Epoll>) {
        self.streams = Some(Arc::clone(streams));
    }

    /// As [`Device::hold`].
    pub(crate) fn hold_tun(&mut self, held: bool) {
        self.device.hold(held);
    }

    pub(crate) fn tun_bytes_mut(&mut self) -> &mut [u8] {
        self.device.bytes_mut()
    }

    pub(crate) fn tun(&self) -> Option<&TunQueue> {
        self.device.queue()
    }

    pub(crate) fn attach_tun(&mut self, tun: TunQueue) -> io::Result<()> {
        self.device.attach(tun)
    }

    pub(crate) fn detach_tun(&mut self) -> io::Result<Option<TunQueue>> {
        if self.armed.tun {
            self.submit(0)?;
            match self
                .ring
                .submitter()
                .register_sync_cancel(Some(second()), CancelBuilder::user_data(TUN).all())
            {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            self.drain();
            while self.armed.tun {
                self.submit(1)?;
                self.drain();
            }
        }
        Ok(self.device.detach())
    }

    /// Collects what has arrived into the empty `inbox`; with `block`, waits for something first.
    /// Returns whether the wake-up fired.
    pub(crate) fn wait(&mut self, block: bool, inbox: &mut Inbox) -> io::Result<bool> {
        self.arm()?;
        self.drain();
        // A busy device must not keep the socket from being looked at.
        if !(block && self.is_idle()) && self.has_news() {
            self.submit(0)?;
            self.drain();
        }
        while block && self.is_idle() {
            self.submit(1)?;
            self.drain();
            self.arm()?;
        }
        std::mem::swap(inbox, &mut self.pending);
        self.device.read(inbox);
        inbox.rx_calls = inbox.rx.len() as u64;
        if inbox.tun_lost.is_some() {
            // Closed here and not where it was noticed: nothing that names the descriptor is queued
            // now, so its number may be used for another file.
            drop(self.detach_tun()?);
        }
        let woken = std::mem::take(&mut self.woken);
        if woken {
            // The counter is reset; which commands wait is the queue's business.
            let _ = self.wake.read();
        }
        Ok(woken)
    }

    /// Gives the slots of a finished batch back to the kernel.
    pub(crate) fn release(&mut self, inbox: &Inbox) {
        for message in &inbox.rx {
            self.rx.give_back(message.slot);
        }
        self.rx.publish();
    }

    /// As [`Device::write`], out of the receive slots.
    pub(crate) fn write<'a>(
        &mut self,
        writes: impl Iterator<Item = TunWrite<'a>> + Clone,
        failures: &mut Failures,
    ) -> io::Result<usize> {
        if self.bursts {
            let count = self.write_burst(writes.clone(), failures)?;
            let refused = |&(_, errno): &(usize, i32)| errno == libc::EOPNOTSUPP;
            if !failures.writes.iter().any(refused) {
                return Ok(count);
            }
            // The flag was refused, with every write of the burst: an older kernel's TUN device.
            failures.writes.clear();
            self.bursts = false;
        }
        Ok(self.device.write(self.rx.bytes(), writes, failures))
    }

    fn write_burst<'a>(
        &mut self,
        writes: impl Iterator<Item = TunWrite<'a>>,
        failures: &mut Failures,
    ) -> io::Result<usize> {
        let Some(queue) = self.device.queue() else {
            return Ok(0);
        };
        let (fd, with_header) = (Fd(queue.as_raw_fd()), queue.has_vnet_header());
        self.iovecs.clear();
        let mut count = 0;
        for write in writes {
            let needed = write.slices.len() + 1;
            if self.iovecs.len() + needed > self.iovecs.capacity() {
                self.finish(failures)?;
                self.iovecs.clear();
                self.iovecs.reserve(needed);
            }
            let first = self.iovecs.len();
            if with_header {
                self.iovecs.push(iovec(write.vnet));
            }
            for &Segment { start, len } in write.slices {
                self.iovecs
                    .push(iovec(&self.rx.bytes()[start..start + len]));
            }
            let list = &self.iovecs[first..];
            // Without the flag a write that the device refuses would be tried again later, behind
            // those that follow it, and keep the worker waiting.
            let entry = opcode::Writev::new(fd, list.as_ptr(), list.len() as u32)
                .rw_flags(libc::RWF_NOWAIT)
                .build()
                .user_data(WRITE | count as u64);
            if self.ring.submission().is_full() {
                self.submit(0)?;
                self.drain_with(Some(failures));
            }
            self.push(entry)?;
            self.outstanding += 1;
            count += 1;
        }
        self.finish(failures)?;
        Ok(count)
    }

    /// Submits and waits until every write has completed.
    fn finish(&mut self, failures: &mut Failures) -> io::Result<()> {
        while self.outstanding > 0 {
            self.submit(self.outstanding)?;
            self.drain_with(Some(failures));
        }
        Ok(())
    }

    /// Arms whatever multishot request has ended.
    fn arm(&mut self) -> io::Result<()> {
        if let (false, Some(udp)) = (self.armed.rx, &self.udp) {
            let fd = Fd(udp.as_raw_fd());
            let entry = opcode::RecvMsgMulti::new(fd, &raw const *self.recv_header, RX_GROUP)
                .build()
                .user_data(RX);
            self.push(entry)?;
            self.armed.rx = true;
        }
        if !self.armed.wake {
            let entry = opcode::PollAdd::new(Fd(self.wake.as_fd().as_raw_fd()), poll_in())
                .multi(true)
                .build()
                .user_data(WAKE);
            self.push(entry)?;
            self.armed.wake = true;
        }
        if let (false, false, Some(streams)) =
            (self.armed.streams, self.pending.streams, &self.streams)
        {
            let entry = opcode::PollAdd::new(Fd(streams.0.as_raw_fd()), poll_in())
                .build()
                .user_data(STREAMS);
            self.push(entry)?;
            self.armed.streams = true;
        }
        if let (false, true, Some(tun)) = (
            self.armed.tun,
            self.device.wants_poll(),
            self.device.queue(),
        ) && tun.is_read()
        {
            let entry = opcode::PollAdd::new(Fd(tun.as_raw_fd()), poll_in())
                .build()
                .user_data(TUN);
            self.push(entry)?;
            self.armed.tun = true;
        }
        Ok(())
    }

    fn push(&mut self, entry: squeue::Entry) -> io::Result<()> {
        loop {
            // SAFETY: every pointer in an entry is to memory that this struct owns and keeps in place
            // (receive header, iovecs), or that the caller has borrowed for longer than the request
            // lives (see `finish`).
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return Ok(());
            }
            self.submit(0)?;
            self.drain();
        }
    }

    /// Submits what is queued, lets the kernel complete what it can, waits for `want` completions.
    fn submit(&mut self, want: usize) -> io::Result<()> {
        loop {
            if self.dead {
                return Err(io::Error::from_raw_os_error(libc::EOWNERDEAD));
            }
            match self.ring.submit_and_wait(want) {
                Ok(_) => return Ok(()),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    // The completion queue must be emptied first; the caller does that next.
                    Some(libc::EBUSY) => return Ok(()),
                    // Short of memory; what is queued stays queued.
                    Some(libc::EAGAIN) => {
                        std::thread::yield_now();
                        return Ok(());
                    }
                    _ => {
                        self.dead = true;
                        return Err(error);
                    }
                },
            }
        }
    }

    /// Whether entering the kernel can bring anything without waiting: the flags in the shared memory
    /// tell, so that looking again and again takes no call.
    fn has_news(&mut self) -> bool {
        let queue = self.ring.submission();
        !queue.is_empty() || queue.taskrun() || queue.cq_overflow()
    }

    fn is_idle(&self) -> bool {
        self.pending.rx.is_empty()
            && !self.pending.socket_error
            && !self.pending.streams
            && !self.device.is_ready()
            && !self.woken
    }

    fn drain(&mut self) {
        self.drain_with(None);
    }

    fn drain_with(&mut self, mut failures: Option<&mut Failures>) {
        let Uring {
            ring,
            pending,
            rx,
            recv_header,
            armed,
            device,
            outstanding,
            woken,
            ..
        } = self;
        for entry in ring.completion() {
            let (result, flags) = (entry.result(), entry.flags());
            match entry.user_data() & KIND {
                RX => {
                    armed.rx &= cqueue::more(flags);
                    if let Some(slot) = cqueue::buffer_select(flags) {
                        match parse_received(rx, recv_header, slot, result) {
                            Some(message) => pending.rx.push(message),
                            None => {
                                rx.give_back(slot);
                                rx.publish();
                            }
                        }
                    }
                    // The slots running dry is no error; receiving is armed again after the batch.
                    if result < 0 && result != -libc::ENOBUFS {
                        pending.socket_error = true;
                    }
                }
                TUN => {
                    armed.tun = false;
                    if result >= 0 {
                        device.set_ready();
                    }
                }
                STREAMS => {
                    armed.streams = false;
                    pending.streams = true;
                }
                WAKE => {
                    armed.wake &= cqueue::more(flags);
                    *woken = true;
                }
                WRITE => {
                    *outstanding = outstanding.saturating_sub(1);
                    if let (Some(failures), true) = (&mut failures, result < 0) {
                        let index = (entry.user_data() & !KIND) as usize;
                        failures.writes.push((index, -result));
                    }
                }
                _ => {}
            }
        }
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        // Nothing may be queued behind the cancellation; a dead ring is not entered.
        let _ = self.submit(0);
        // Nothing may be filled into the slots once they are freed. An error means that there was
        // nothing to cancel.
        let _ = self
            .ring
            .submitter()
            .register_sync_cancel(Some(second()), CancelBuilder::any());
        // The cancelled requests hold the socket and the device until their completions are run here;
        // left to the kernel, that is some time after the ring is closed, and a restart would find
        // the port in use.
        for _ in 0..COMPLETIONS {
            self.drain();
            let Armed {
                rx,
                tun,
                wake,
                streams,
            } = self.armed;
            if !(rx || tun || wake || streams) || self.submit(0).is_err() {
                break;
            }
        }
    }
}

/// Finds the parts of a multishot receive in its slot.
fn parse_received(
    rx: &BufRing,
    header: &libc::msghdr,
    slot: u16,
    result: i32,
) -> Option<RxMessage> {
    let start = usize::from(slot) * rx.slot_len();
    let len = usize::try_from(result).ok()?;
    let buffer = rx.bytes().get(start..start + len.min(rx.slot_len()))?;
    let out = RecvMsgOut::parse(buffer, header).ok()?;
    let info = cmsg::parse(out.control_data());
    let len = out.payload_data().len();
    udp::received(out.name_data(), &info, slot, start + PAYLOAD, len)
}

fn iovec(bytes: &[u8]) -> libc::iovec {
    libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    }
}

fn poll_in() -> u32 {
    PollFlags::POLLIN.bits() as u32
}

fn second() -> Timespec {
    Timespec::new().sec(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offload::coalesce::TunCaps;
    use crate::offload::vnet_hdr::VnetHdr;
    use crate::pool::Failures;
    use crate::pool::MAX_MESSAGES;
    use crate::tun::DeviceKind;
    use crate::udp::UdpConfig;
    use crate::worker::testing::{
        FakeTun, PATIENCE, in_network_namespace, loopback_config, loopback_socket,
    };
    use nix::sys::eventfd::EfdFlags;

    fn engine(udp: UdpSocket) -> Option<Uring> {
        let wake = EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK).unwrap();
        match Uring::new(Some(Arc::new(udp)), Arc::new(wake)) {
            Ok(engine) => Some(engine),
            Err(error) => {
                eprintln!("skipped: no io_uring ({error})");
                None
            }
        }
    }

    #[test]
    fn the_device_is_polled_and_read_in_bursts() {
        let Some(mut engine) = engine(loopback_socket()) else {
            return;
        };
        let (queue, tun) = FakeTun::new(false);
        engine.attach_tun(queue).unwrap();
        let mut inbox = Inbox::new();
        for round in 0..3u8 {
            for i in 0..40 {
                tun.inject(&[round, i, 7]);
            }
            let mut got = Vec::new();
            while got.len() < 40 {
                inbox.clear();
                engine.wait(true, &mut inbox).unwrap();
                for message in &inbox.tun {
                    let bytes = &engine.tun_bytes_mut()[message.start..][..message.len];
                    got.push(bytes.to_vec());
                }
                engine.release(&inbox);
            }
            let expected: Vec<_> = (0..40).map(|i| vec![round, i, 7]).collect();
            assert_eq!(got, expected);
        }
        assert!(engine.detach_tun().unwrap().is_some());
    }

    #[test]
    fn more_messages_than_slots_all_arrive_and_slots_come_back() {
        let udp = loopback_socket();
        let to = crate::command::Endpoint::new(udp.local_addr().unwrap());
        let Some(mut engine) = engine(udp) else {
            return;
        };
        let sender = loopback_socket();
        let mut inbox = Inbox::new();
        for _ in 0..3 {
            for i in 0..100u8 {
                sender.send_to(&to, &[i; 10]).unwrap();
            }
            let mut got = Vec::new();
            while got.len() < 100 {
                inbox.clear();
                engine.wait(true, &mut inbox).unwrap();
                assert!(inbox.rx.len() <= usize::from(RX_SLOTS));
                for message in &inbox.rx {
                    assert_eq!(message.len, 10);
                    got.push(engine.rx_bytes_mut()[message.start]);
                }
                engine.release(&inbox);
            }
            assert_eq!(got, (0..100).collect::<Vec<u8>>());
        }
    }

    #[test]
    fn a_full_device_refuses_instead_of_stopping_the_worker() {
        let Some(mut engine) = engine(loopback_socket()) else {
            return;
        };
        let (queue, tun) = FakeTun::new(false);
        engine.attach_tun(queue).unwrap();
        let packets = 400_u16;
        for number in 0..packets {
            let start = usize::from(number) * 32_000;
            let slab = engine.rx_bytes_mut();
            slab[start % 65_536..][..2].copy_from_slice(&number.to_be_bytes());
            let slice = [Segment {
                start: start % 65_536,
                len: 32_000,
            }];
            let mut failures = Failures::new();
            let write = TunWrite {
                vnet: &[0; VnetHdr::LEN],
                slices: &slice,
            };
            engine.write([write].into_iter(), &mut failures).unwrap();
            for (_, errno) in failures.writes {
                assert_eq!(errno, libc::EAGAIN);
            }
        }
        let mut last = None;
        let mut count = 0;
        while let Some(packet) = tun.next(std::time::Duration::ZERO) {
            let number = u16::from_be_bytes([packet[0], packet[1]]);
            assert!(last < Some(number));
            last = Some(number);
            count += 1;
        }
        assert!(0 < count && count < packets);
    }

    #[test]
    fn the_port_is_free_as_soon_as_the_engine_is_gone() {
        // Other tests take free ports as well.
        in_network_namespace(|| {
            let first = loopback_socket();
            let config = UdpConfig {
                port: first.local_addr().unwrap().port(),
                ..loopback_config()
            };
            drop(first);
            for _ in 0..50 {
                let udp = UdpSocket::open(&config).unwrap();
                let Some(mut engine) = engine(udp) else {
                    return;
                };
                let (queue, _tun) = FakeTun::new(false);
                engine.attach_tun(queue).unwrap();
                engine.wait(false, &mut Inbox::new()).unwrap();
            }
        });
    }

    #[test]
    fn a_device_with_more_than_a_batch_does_not_hide_the_socket() {
        let udp = loopback_socket();
        let to = crate::command::Endpoint::new(udp.local_addr().unwrap());
        let Some(mut engine) = engine(udp) else {
            return;
        };
        let (queue, tun) = FakeTun::new(false);
        engine.attach_tun(queue).unwrap();
        for _ in 0..3 * MAX_MESSAGES {
            tun.inject(&[7; 20]);
        }
        let mut inbox = Inbox::new();
        engine.wait(true, &mut inbox).unwrap();
        assert_eq!(inbox.tun.len(), MAX_MESSAGES);
        engine.release(&inbox);
        loopback_socket().send_to(&to, &[1; 10]).unwrap();
        inbox.clear();
        engine.wait(true, &mut inbox).unwrap();
        assert_eq!((inbox.tun.len(), inbox.rx.len()), (MAX_MESSAGES, 1));
    }

    #[test]
    fn looking_without_waiting_finds_what_arrives() {
        let udp = loopback_socket();
        let to = crate::command::Endpoint::new(udp.local_addr().unwrap());
        let Some(mut engine) = engine(udp) else {
            return;
        };
        let (queue, tun) = FakeTun::new(false);
        engine.attach_tun(queue).unwrap();
        let sender = loopback_socket();
        let mut inbox = Inbox::new();
        for round in 0..3 {
            sender.send_to(&to, &[round; 10]).unwrap();
            tun.inject(&[round; 20]);
            let deadline = std::time::Instant::now() + PATIENCE;
            let (mut rx, mut tuns) = (0, 0);
            while (rx, tuns) != (1, 1) {
                assert!(std::time::Instant::now() < deadline);
                inbox.clear();
                engine.wait(false, &mut inbox).unwrap();
                rx += inbox.rx.len();
                tuns += inbox.tun.len();
                engine.release(&inbox);
            }
        }
    }

    #[test]
    fn a_device_that_cannot_promise_not_to_wait_is_written_by_plain_calls() {
        let Some(mut engine) = engine(loopback_socket()) else {
            return;
        };
        // The kernel refuses the flag for this one, as older kernels do for a TUN device.
        let full = std::fs::File::options()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let caps = TunCaps {
            tso: false,
            uso: false,
        };
        let queue = TunQueue::from_file(full, DeviceKind::Tun, false, caps);
        engine.attach_tun(queue).unwrap();
        let slice = [Segment { start: 0, len: 9 }];
        let write = || TunWrite {
            vnet: &[0; VnetHdr::LEN],
            slices: &slice,
        };
        let mut failures = Failures::new();
        let writes = [write(), write()];
        let count = engine.write(writes.into_iter(), &mut failures).unwrap();
        assert_eq!(count, 2);
        assert_eq!(failures.writes, [(0, libc::ENOSPC), (1, libc::ENOSPC)]);
        assert!(!engine.bursts);
    }
}
