//! The io_uring engine: one ring for receiving, TUN reads, sends, TUN writes and the wake-up.
//!
//! ```text
//!  multishot recvmsg  -> receive slots (provided buffer ring 0)   armed for good, re-armed when it ends
//!  multishot read     -> TUN slots     (provided buffer ring 1)   or, on older kernels, poll and read
//!  multishot poll     -> eventfd
//!  sendmsg, writev    <- submitted in bursts; sends are linked, so that none overtakes a refused one
//! ```
//!
//! Why exclusive access to the slabs is sound: the ring is set up with SINGLE_ISSUER and
//! DEFER_TASKRUN, so the kernel fills provided buffers only while this thread is inside
//! `io_uring_enter`, which every function here calls through `&mut self`. [`Uring::send`] and
//! [`Uring::write`] do not return before each of their requests has completed (or the ring is dead, is
//! never entered again, and cancels them when dropped, before the memory it owns), so no request
//! outlives the borrow of the memory it reads.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use io_uring::types::{CancelBuilder, Fd, RecvMsgOut, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use nix::poll::PollFlags;
use nix::sys::eventfd::EventFd;

use super::buf_ring::BufRing;
use super::cmsg::{self, CONTROL_LEN, NAME_LEN, SendHead};
use super::socket;
use crate::cipher::Segment;
use crate::offload::coalesce::TunWrite;
use crate::pool::{
    Failures, Inbox, MAX_PACKETS, MAX_SENDS, RX_SLOTS, RxMessage, SLOT_LEN, SendOp, TUN_SLOTS,
    TunMessage,
};
use crate::tun::TunQueue;
use crate::udp::{self, UdpSocket};

const ENTRIES: u32 = 256;

/// TUN reads that may fail in a row, each for a reason of its own, before the device counts as gone.
const MAX_TUN_FAILURES: u32 = 64;

const RX_GROUP: u16 = 0;
const TUN_GROUP: u16 = 1;

/// What a completion is about, in the upper half of its user data; an index in the lower.
const RX: u64 = 1 << 32;
const TUN: u64 = 2 << 32;
const WAKE: u64 = 3 << 32;
const SEND: u64 = 4 << 32;
const WRITE: u64 = 5 << 32;
const KIND: u64 = !0 << 32;

/// Where the payload begins in a receive slot: behind the kernel's header, the address and the
/// control data.
const PAYLOAD: usize = 16 + NAME_LEN + CONTROL_LEN;

/// How TUN packets are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TunMode {
    Multishot,
    /// The ring only says that something is there; plain reads fetch it.
    Poll,
}

/// See the module's documentation.
pub(crate) struct Uring {
    // Dropped in this order: the ring before the memory its requests know.
    ring: IoUring,
    rx: BufRing,
    tun_slots: BufRing,
    recv_header: Box<libc::msghdr>,
    messages: Box<[Message]>,
    iovecs: Vec<libc::iovec>,
    udp: Arc<UdpSocket>,
    wake: Arc<EventFd>,
    tun: Option<TunQueue>,
    tun_mode: TunMode,
    armed: Armed,
    /// Sends and writes submitted and not completed.
    outstanding: usize,
    woken: bool,
    tun_ready: bool,
    /// The ring failed with requests queued whose memory may be gone; it is never entered again.
    dead: bool,
    /// TUN reads in a row that failed for no known reason.
    tun_failures: u32,
    /// What completed while sends or writes were waited for.
    pending: Inbox,
}

#[derive(Default)]
struct Armed {
    rx: bool,
    tun: bool,
    wake: bool,
}

/// One outgoing message; the header points to its neighbours, so it is never moved while used.
struct Message {
    head: SendHead,
    iovec: libc::iovec,
    header: libc::msghdr,
}

impl Uring {
    /// Sets up the ring and arms receiving.
    ///
    /// # Errors
    /// The kernel or its policy has no io_uring, or lacks a feature that this engine builds on.
    pub(crate) fn new(udp: Arc<UdpSocket>, wake: Arc<EventFd>) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(ENTRIES * 4)
            .build(ENTRIES)?;
        let rx = BufRing::new(RX_SLOTS, SLOT_LEN)?;
        let tun_slots = BufRing::new(TUN_SLOTS, SLOT_LEN)?;
        for (buffers, group) in [(&rx, RX_GROUP), (&tun_slots, TUN_GROUP)] {
            // SAFETY: the buffer ring's mapping is owned by the same struct as the io_uring and is
            // dropped after it.
            unsafe {
                ring.submitter().register_buf_ring_with_flags(
                    buffers.address(),
                    buffers.count(),
                    group,
                    0,
                )
            }?;
        }
        let mut recv_header = Box::new(socket::empty_header());
        recv_header.msg_namelen = NAME_LEN as libc::socklen_t;
        recv_header.msg_controllen = CONTROL_LEN as _;
        let messages = (0..MAX_SENDS)
            .map(|_| Message {
                head: SendHead::new(),
                iovec: libc::iovec {
                    iov_base: std::ptr::null_mut(),
                    iov_len: 0,
                },
                header: socket::empty_header(),
            })
            .collect();
        let mut engine = Uring {
            ring,
            rx,
            tun_slots,
            recv_header,
            messages,
            iovecs: Vec::with_capacity(MAX_PACKETS * 2),
            udp,
            wake,
            tun: None,
            tun_mode: TunMode::Multishot,
            armed: Armed::default(),
            outstanding: 0,
            woken: false,
            tun_ready: false,
            dead: false,
            tun_failures: 0,
            pending: Inbox::new(),
        };
        engine.arm()?;
        engine.submit(0)?;
        engine.drain();
        // A kernel without multishot receive or poll refuses the request at once.
        let armed = engine.armed.rx && engine.armed.wake;
        if !armed && !engine.pending.socket_error {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        Ok(engine)
    }

    pub(crate) fn rx_bytes_mut(&mut self) -> &mut [u8] {
        self.rx.bytes_mut()
    }

    pub(crate) fn tun_bytes_mut(&mut self) -> &mut [u8] {
        self.tun_slots.bytes_mut()
    }

    pub(crate) fn tun(&self) -> Option<&TunQueue> {
        self.tun.as_ref()
    }

    pub(crate) fn attach_tun(&mut self, tun: TunQueue) -> io::Result<()> {
        // A multishot read waits by polling, which the kernel does only for a blocking descriptor.
        if tun.is_read() {
            tun.set_nonblocking(self.tun_mode == TunMode::Poll)?;
        }
        self.tun_failures = 0;
        self.tun = Some(tun);
        Ok(())
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
        let tun = self.tun.take();
        self.tun_ready = false;
        self.pending.tun_lost = None;
        let Uring {
            pending, tun_slots, ..
        } = self;
        if self.tun_mode == TunMode::Multishot {
            for message in &pending.tun {
                tun_slots.give_back(message.slot);
            }
            tun_slots.publish();
        }
        pending.tun.clear();
        Ok(tun)
    }

    /// Collects what has arrived into the empty `inbox`; with `block`, waits for something first.
    /// Returns whether the wake-up fired.
    pub(crate) fn wait(&mut self, block: bool, inbox: &mut Inbox) -> io::Result<bool> {
        self.arm()?;
        self.drain();
        if self.is_idle() {
            self.submit(0)?;
            self.drain();
        }
        while self.is_idle() && block {
            self.submit(1)?;
            self.drain();
            self.arm()?;
        }
        if std::mem::take(&mut self.tun_ready) {
            self.read_tun();
        }
        std::mem::swap(inbox, &mut self.pending);
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
        if self.tun_mode == TunMode::Multishot {
            for message in &inbox.tun {
                self.tun_slots.give_back(message.slot);
            }
            self.tun_slots.publish();
        }
    }

    /// Sends `ops` out of `tx`, in order. When one fails, those behind it are not tried and reported
    /// with `ECANCELED`: what is tried again must not come after what followed it, because a peer's
    /// replay window may be shorter than one send.
    pub(crate) fn send(
        &mut self,
        tx: &[u8],
        ops: &[SendOp],
        failures: &mut Failures,
    ) -> io::Result<()> {
        let mut done = 0;
        for chunk in ops.chunks(MAX_SENDS) {
            // A chain ends where it is submitted, so all of it must fit in.
            if !self.has_room(chunk.len()) {
                self.submit(0)?;
                self.drain_with(Some(failures));
            }
            for (index, op) in chunk.iter().enumerate() {
                let payload = &tx[op.start..op.start + op.len];
                let message = &mut self.messages[index];
                message
                    .head
                    .set(self.udp.is_v6(), &op.to, op.gso_size, op.tos);
                message.iovec = iovec(payload);
                let control = message.head.control();
                message.header.msg_controllen = control.len() as _;
                message.header.msg_control = control.as_ptr().cast_mut().cast();
                let name = message.head.name();
                message.header.msg_namelen = name.len() as libc::socklen_t;
                message.header.msg_name = name.as_ptr().cast_mut().cast();
                message.header.msg_iov = &raw mut message.iovec;
                message.header.msg_iovlen = 1;
                let mut entry =
                    opcode::SendMsg::new(Fd(self.udp.as_raw_fd()), &raw const message.header)
                        .flags((libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as u32)
                        .build()
                        .user_data(SEND | (done + index) as u64);
                if index + 1 < chunk.len() {
                    entry = entry.flags(squeue::Flags::IO_LINK);
                }
                self.push_operation(entry, failures)?;
            }
            self.finish(failures)?;
            done += chunk.len();
            if !failures.sends.is_empty() {
                break;
            }
        }
        failures
            .sends
            .extend((done..ops.len()).map(|index| (index, libc::ECANCELED)));
        Ok(())
    }

    /// Writes packets out of the receive slab to the TUN device, in order. Returns how many writes
    /// were made.
    pub(crate) fn write<'a>(
        &mut self,
        writes: impl Iterator<Item = TunWrite<'a>>,
        failures: &mut Failures,
    ) -> io::Result<usize> {
        let Some(fd) = self.tun.as_ref().map(|tun| Fd(tun.as_raw_fd())) else {
            return Ok(0);
        };
        let with_header = self.tun.as_ref().is_some_and(TunQueue::has_vnet_header);
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
            let entry = opcode::Writev::new(fd, list.as_ptr(), list.len() as u32)
                .build()
                .user_data(WRITE | count as u64);
            self.push_operation(entry, failures)?;
            count += 1;
        }
        self.finish(failures)?;
        Ok(count)
    }

    /// Queues a send or a write. Its memory is kept alive and in place by the caller until
    /// [`Uring::finish`].
    fn push_operation(&mut self, entry: squeue::Entry, failures: &mut Failures) -> io::Result<()> {
        if self.ring.submission().is_full() {
            self.submit(0)?;
            self.drain_with(Some(failures));
        }
        self.push(entry)?;
        self.outstanding += 1;
        Ok(())
    }

    /// Submits and waits until every send and write has completed.
    fn finish(&mut self, failures: &mut Failures) -> io::Result<()> {
        while self.outstanding > 0 {
            self.submit(self.outstanding)?;
            self.drain_with(Some(failures));
        }
        Ok(())
    }

    /// Whether so many entries can be queued without submitting.
    fn has_room(&mut self, entries: usize) -> bool {
        let queue = self.ring.submission();
        queue.capacity() - queue.len() >= entries
    }

    /// Arms whatever multishot request has ended.
    fn arm(&mut self) -> io::Result<()> {
        if !self.armed.rx {
            let fd = Fd(self.udp.as_raw_fd());
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
        if let (false, None, Some(tun)) = (self.armed.tun, self.pending.tun_lost, &self.tun)
            && tun.is_read()
        {
            let fd = Fd(tun.as_raw_fd());
            let entry = match self.tun_mode {
                // Length 0 means the provided buffer's length.
                TunMode::Multishot => opcode::ReadMulti::new(fd, 0, TUN_GROUP).build(),
                TunMode::Poll => opcode::PollAdd::new(fd, poll_in()).build(),
            };
            self.push(entry.user_data(TUN))?;
            self.armed.tun = true;
        }
        Ok(())
    }

    fn push(&mut self, entry: squeue::Entry) -> io::Result<()> {
        loop {
            // SAFETY: every pointer in an entry is to memory that this struct owns and keeps in place
            // (receive header, message headers, iovecs), or that the caller has borrowed for longer
            // than the request lives (see `finish`).
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

    fn is_idle(&self) -> bool {
        self.pending.rx.is_empty()
            && self.pending.tun.is_empty()
            && !self.pending.socket_error
            && self.pending.tun_lost.is_none()
            && !self.tun_ready
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
            tun_slots,
            recv_header,
            armed,
            tun_mode,
            tun_ready,
            woken,
            outstanding,
            tun,
            tun_failures,
            ..
        } = self;
        let vnet = tun.as_ref().is_some_and(TunQueue::has_vnet_header);
        for entry in ring.completion() {
            let (result, flags) = (entry.result(), entry.flags());
            let index = (entry.user_data() & !KIND) as usize;
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
                TUN if *tun_mode == TunMode::Poll => {
                    armed.tun = false;
                    *tun_ready = result >= 0;
                }
                TUN => {
                    armed.tun &= cqueue::more(flags);
                    if let Some(slot) = cqueue::buffer_select(flags) {
                        match usize::try_from(result) {
                            Ok(len) if len > 0 => {
                                *tun_failures = 0;
                                pending.tun.push(TunMessage {
                                    slot,
                                    start: usize::from(slot) * SLOT_LEN,
                                    len,
                                    vnet,
                                });
                            }
                            _ => {
                                tun_slots.give_back(slot);
                                tun_slots.publish();
                            }
                        }
                    }
                    match -result {
                        // The far end of a handed-over descriptor is closed.
                        0 => pending.tun_lost = Some(libc::EPIPE),
                        libc::EINVAL | libc::EOPNOTSUPP => {
                            *tun_mode = TunMode::Poll;
                            *tun_ready = true;
                            pending.notices.push(
                                "io_uring cannot read the TUN device in multishot form here; \
                                 polling it instead"
                                    .to_owned(),
                            );
                        }
                        libc::EBADFD | libc::EBADF | libc::ENODEV => {
                            pending.tun_lost = Some(-result);
                        }
                        // Cancelled, or out of slots until the batch ends.
                        libc::ECANCELED | libc::ENOBUFS => {}
                        errno if errno > 0 => {
                            // Tried again, but not for ever.
                            *tun_failures += 1;
                            if *tun_failures == MAX_TUN_FAILURES {
                                pending.tun_lost = Some(errno);
                            }
                        }
                        _ => {}
                    }
                }
                WAKE => {
                    armed.wake &= cqueue::more(flags);
                    *woken = true;
                }
                kind @ (SEND | WRITE) => {
                    *outstanding = outstanding.saturating_sub(1);
                    if let (Some(failures), true) = (&mut failures, result < 0) {
                        let list = match kind {
                            SEND => &mut failures.sends,
                            _ => &mut failures.writes,
                        };
                        list.push((index, -result));
                    }
                }
                _ => {}
            }
        }
        if let (true, TunMode::Poll, Some(tun)) = (self.tun_ready, self.tun_mode, self.tun.as_ref())
        {
            let _ = tun.set_nonblocking(true);
        }
    }

    /// Reads the TUN device with plain calls into the slots, all of which are free between batches.
    fn read_tun(&mut self) {
        let Some(tun) = &self.tun else {
            return;
        };
        if !self.pending.tun.is_empty() {
            // Slots that an earlier multishot read filled; their turn is first.
            self.tun_ready = true;
            return;
        }
        let vnet = tun.has_vnet_header();
        let slot_len = self.tun_slots.slot_len();
        for slot in 0..self.tun_slots.count() {
            let start = usize::from(slot) * slot_len;
            let buf = &mut self.tun_slots.bytes_mut()[start..start + slot_len];
            match tun.file().read(buf) {
                Ok(0) => {
                    self.pending.tun_lost = Some(libc::EPIPE);
                    break;
                }
                Ok(len) => self.pending.tun.push(TunMessage {
                    slot,
                    start,
                    len,
                    vnet,
                }),
                Err(error) => {
                    let errno = error.raw_os_error();
                    if matches!(errno, Some(libc::EBADFD | libc::ENODEV)) {
                        self.pending.tun_lost = errno;
                    }
                    break;
                }
            }
        }
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        // Nothing may be filled into the slots once they are freed. An error means that there was
        // nothing to cancel.
        let _ = self
            .ring
            .submitter()
            .register_sync_cancel(Some(second()), CancelBuilder::any());
        self.drain();
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
    use crate::pool::Failures;
    use crate::worker::testing::{FakeTun, loopback_socket};
    use nix::sys::eventfd::EfdFlags;

    fn engine(udp: UdpSocket) -> Option<Uring> {
        let wake = EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK).unwrap();
        match Uring::new(Arc::new(udp), Arc::new(wake)) {
            Ok(engine) => Some(engine),
            Err(error) => {
                eprintln!("skipped: no io_uring ({error})");
                None
            }
        }
    }

    #[test]
    fn without_multishot_reads_the_device_is_polled() {
        let Some(mut engine) = engine(loopback_socket()) else {
            return;
        };
        engine.tun_mode = TunMode::Poll;
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
    fn more_operations_than_entries_complete_in_order() {
        let udp = loopback_socket();
        let receiver = loopback_socket();
        let to = crate::command::Endpoint::new(receiver.local_addr().unwrap());
        let Some(mut engine) = engine(udp) else {
            return;
        };
        let tx: Vec<u8> = (0..=255).collect();
        let ops: Vec<_> = (0..250)
            .map(|start| SendOp {
                start,
                len: 1,
                gso_size: 0,
                tos: None,
                to,
                peer: 0,
                source: None,
            })
            .collect();
        let mut failures = Failures::new();
        engine.send(&tx, &ops, &mut failures).unwrap();
        assert!(failures.sends.is_empty());
        let mut buf = [0; 8];
        for start in 0..250 {
            receiver.receive(&mut buf).unwrap().unwrap();
            assert_eq!(usize::from(buf[0]), start);
        }
    }
}
