//! The TCP connections of a worker.
//!
//! ```text
//!                 +- socket ---- one read: many packets, opened where they are
//!  engine - epoll +- socket
//!           wakes +- timer       runs while a connection is being closed
//!
//!  send slab -> one write for all packets of a flush -> what the socket did not take: queue
//! ```
//!
//! The engine waits for the epoll instance, which holds all connections; so there may be any number of
//! them, and without any the engine does not even know of it. Nothing here waits for a peer: a socket
//! that is full is watched until it has room, and its packets are queued up to a limit.

use std::collections::HashMap;
use std::io::{self, IoSlice, Read};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use socket2::SockRef;

use super::engine::Engine;
use super::receive::Receive;
use super::transmit::Transmit;
use super::{Counts, Outbox, Shared};
use crate::cipher::Segment;
use crate::command::{Endpoint, Event, StreamConfig, StreamEnd, StreamId};
use crate::error::{DropReason, StartError};
use crate::peer::PeerTable;
use crate::pool::{Failures, MAX_SENDS, STREAM_READ};
use crate::stream::queue::{Kind, SendQueue};
use crate::stream::{self, FrameReader, MAX_PACKET, PREFIX};

/// Connections looked at in one batch, so that the device and UDP get their turn. The kernel reports
/// those that are ready in turns.
const READY: usize = 16;

/// How long a connection that is closed on request may take to deliver what waits.
const LINGER: Duration = Duration::from_secs(5);

/// How often those are looked at meanwhile.
const TICK: Duration = Duration::from_millis(100);

/// What the timer's events carry; others carry the index of a connection.
const TIMER: u64 = u64::MAX;

/// See the module's documentation.
pub(super) struct Streams {
    epoll: Arc<Epoll>,
    timer: TimerFd,
    /// The timer runs.
    ticking: bool,
    slots: Vec<Option<Box<Stream>>>,
    by_id: HashMap<StreamId, usize>,
    /// How many of them are being closed.
    closing: usize,
    /// Ends that the control thread has not been told. Sized when a connection is added.
    ended: Vec<(StreamId, StreamEnd)>,
}

struct Stream {
    id: StreamId,
    socket: TcpStream,
    /// Where its packets come from.
    from: Endpoint,
    frames: FrameReader,
    queue: SendQueue,
    /// The kernel is asked to say when there is room.
    awaits_room: bool,
    /// When it ends at the latest; nothing is sent or handed on any more.
    deadline: Option<Instant>,
}

/// Whole frames of one connection in the send slab.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) id: StreamId,
    pub(super) start: usize,
    pub(super) len: usize,
}

/// A connection with something to do.
#[derive(Clone, Copy)]
struct Ready {
    slot: usize,
    readable: bool,
    writable: bool,
}

impl Streams {
    pub(super) fn new() -> Result<Self, StartError> {
        let fail = |errno: Errno| StartError::io("cannot make an epoll instance", errno.into());
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(fail)?;
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags).map_err(fail)?;
        epoll
            .add(timer.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, TIMER))
            .map_err(fail)?;
        Ok(Streams {
            epoll: Arc::new(epoll),
            timer,
            ticking: false,
            slots: Vec::new(),
            by_id: HashMap::new(),
            closing: 0,
            ended: Vec::new(),
        })
    }

    /// What becomes readable when a connection wants attention.
    pub(super) fn epoll(&self) -> &Arc<Epoll> {
        &self.epoll
    }

    /// Takes a connection over; see [`crate::command::Command::AddStream`].
    ///
    /// # Errors
    /// The id is taken. The one that has it stays, the new one is closed.
    pub(super) fn add(
        &mut self,
        id: StreamId,
        socket: TcpStream,
        config: StreamConfig,
    ) -> Result<(), String> {
        if self.by_id.contains_key(&id) {
            return Err(format!("there is a TCP connection {} already", id.0));
        }
        let free = self.slots.iter().position(Option::is_none);
        let slot = free.unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.ended.reserve(self.slots.len());
        match Stream::new(id, socket, config, &self.epoll, slot) {
            Ok(stream) => {
                self.slots[slot] = Some(Box::new(stream));
                self.by_id.insert(id, slot);
            }
            Err(error) => self.refuse(id, &error),
        }
        Ok(())
    }

    /// Reports a connection that could not be taken over.
    pub(super) fn refuse(&mut self, id: StreamId, error: &io::Error) {
        self.ended.push((id, ended_by(error)));
    }

    /// Ends a connection in good order; see [`crate::command::Command::CloseStream`].
    pub(super) fn close(&mut self, id: StreamId) {
        let Some(stream) = self.by_id(id) else {
            return;
        };
        if stream.deadline.is_none() {
            stream.deadline = Some(Instant::now() + LINGER);
            stream.finish();
            self.closing += 1;
        }
    }

    /// Ends a connection at once. Does nothing if it has ended.
    pub(super) fn end(&mut self, id: StreamId, mut why: StreamEnd) {
        let Some(slot) = self.by_id.remove(&id) else {
            return;
        };
        if let Some(stream) = self.slots[slot].take()
            && stream.deadline.is_some()
        {
            self.closing -= 1;
            why = StreamEnd::Closed;
        }
        self.ended.push((id, why));
    }

    /// The longest packet that a connection takes now.
    ///
    /// # Errors
    /// Why it takes none.
    pub(super) fn room(&self, id: StreamId) -> Result<usize, DropReason> {
        let slot = self.by_id.get(&id).and_then(|&slot| self.slots.get(slot));
        match slot.and_then(Option::as_deref) {
            Some(stream) if stream.deadline.is_some() => Err(DropReason::NoRoute),
            Some(stream) if !stream.queue.has_room(Kind::Data) => Err(DropReason::StreamFull),
            Some(stream) => Ok(stream.frames.max_packet()),
            None => Err(DropReason::NoRoute),
        }
    }

    /// Whether packets wait for room in its socket.
    pub(super) fn awaits_room(&self, id: StreamId) -> bool {
        let slot = self.by_id.get(&id).and_then(|&slot| self.slots.get(slot));
        slot.is_some_and(|slot| slot.as_ref().is_some_and(|stream| stream.awaits_room))
    }

    /// Sends all frames of a flush, each connection's by one write; `runs` is empty afterwards.
    pub(super) fn send(&mut self, slab: &[u8], runs: &mut Vec<Run>, counts: &mut Counts) {
        // Frames are sealed in the order of the slab.
        runs.sort_unstable_by_key(|run| (run.id, run.start));
        for runs in runs.chunk_by(|a, b| a.id == b.id) {
            let mut pieces: ArrayVec<&[u8], MAX_SENDS> = ArrayVec::new();
            let (mut start, mut end) = (runs[0].start, runs[0].start);
            for run in runs {
                if run.start != end {
                    pieces.push(&slab[start..end]);
                    start = run.start;
                }
                end = run.start + run.len;
            }
            pieces.push(&slab[start..end]);
            self.write(runs[0].id, &pieces, Kind::Data, counts);
        }
        runs.clear();
    }

    /// Sends one control packet.
    pub(super) fn control(&mut self, id: StreamId, packet: &[u8], counts: &mut Counts) {
        if !(1..=MAX_PACKET).contains(&packet.len()) {
            counts.drop(DropReason::TooBig, 1);
            return;
        }
        let mut frame = vec![0; PREFIX + packet.len()];
        stream::write_prefix(&mut frame, packet.len());
        frame[PREFIX..].copy_from_slice(packet);
        self.write(id, &[&frame], Kind::Control, counts);
    }

    /// Tells the control thread which connections have ended, and keeps the timer running as long as
    /// it is needed.
    pub(super) fn report(&mut self, outbox: &mut Outbox) {
        if self.ended.is_empty() && self.closing == 0 && !self.ticking {
            return;
        }
        let told = self
            .ended
            .iter()
            .take_while(|&&(id, end)| outbox.send(Event::StreamClosed(id, end)))
            .count();
        self.ended.drain(..told);
        let needed = self.closing > 0 || !self.ended.is_empty();
        if needed != self.ticking {
            // A timer that cannot be set makes a connection end later, with the next event.
            let _ = if needed {
                let often = Expiration::Interval(TICK.into());
                self.timer.set(often, TimerSetTimeFlags::empty())
            } else {
                self.timer.unset()
            };
            self.ticking = needed;
        }
    }

    /// Gives back what a past rush has left.
    pub(super) fn shrink(&mut self) {
        for stream in self.slots.iter_mut().flatten() {
            stream.queue.shrink();
        }
    }

    /// Which connections have something to do.
    fn ready(&mut self) -> ArrayVec<Ready, READY> {
        let mut events = [EpollEvent::empty(); READY];
        // Interrupted: whatever is ready stays ready.
        let count = self
            .epoll
            .wait(&mut events, EpollTimeout::ZERO)
            .unwrap_or(0);
        let mut ready = ArrayVec::new();
        for event in &events[..count] {
            if event.data() == TIMER {
                let _ = self.timer.wait();
                self.expire();
                continue;
            }
            let flags = event.events();
            ready.push(Ready {
                slot: event.data() as usize,
                readable: flags != EpollFlags::EPOLLOUT,
                writable: flags.contains(EpollFlags::EPOLLOUT),
            });
        }
        ready
    }

    /// Ends those whose time is over.
    fn expire(&mut self) {
        if self.closing == 0 {
            return;
        }
        let now = Instant::now();
        for slot in 0..self.slots.len() {
            if let Some(stream) = &self.slots[slot]
                && stream.deadline.is_some_and(|deadline| now >= deadline)
            {
                self.end(stream.id, StreamEnd::Closed);
            }
        }
    }

    /// Reads once to the beginning of `buffer`: where from, and how many bytes are there now, those of
    /// a frame that had begun before included.
    fn read(
        &mut self,
        slot: usize,
        buffer: &mut [u8],
        counts: &mut Counts,
    ) -> Option<(Endpoint, usize)> {
        let stream = self.slots.get_mut(slot)?.as_deref_mut()?;
        let begun = stream.frames.resume(buffer);
        counts.stream_rx_calls += 1;
        let id = stream.id;
        match (&stream.socket).read(&mut buffer[begun..][..STREAM_READ]) {
            Ok(0) => self.end(id, StreamEnd::EndOfFile),
            Ok(_) if stream.deadline.is_some() => {}
            Ok(read) => return Some((stream.from, begun + read)),
            Err(error) if is_busy(&error) => stream.frames.keep(&buffer[..begun]),
            Err(error) => self.end(id, ended_by(&error)),
        }
        None
    }

    /// The next packet of what was read, as in [`FrameReader::next`]; when there is none, the rest is
    /// kept for the next time.
    fn next(
        &mut self,
        slot: usize,
        bytes: &[u8],
        at: &mut usize,
        counts: &mut Counts,
    ) -> Option<Segment> {
        // It may have ended meanwhile, for what a packet turned out to be.
        let stream = self.slots.get_mut(slot)?.as_deref_mut()?;
        match stream.frames.next(bytes, at) {
            Ok(Some(packet)) => Some(Segment {
                start: packet.start,
                len: packet.len(),
            }),
            Ok(None) => {
                stream.frames.keep(&bytes[*at..]);
                None
            }
            Err(_) => {
                let id = stream.id;
                counts.drop(DropReason::Malformed, 1);
                self.end(id, StreamEnd::BadFrame);
                None
            }
        }
    }

    /// Writes what waits to a socket that may have room.
    fn flush(&mut self, slot: usize, counts: &mut Counts) {
        let Some(Some(stream)) = self.slots.get_mut(slot) else {
            return;
        };
        let id = stream.id;
        let result = stream
            .flush(counts)
            .and_then(|()| stream.await_room(&self.epoll, slot));
        if let Err(error) = result {
            self.end(id, ended_by(&error));
        }
    }

    /// Writes pieces of whole frames behind all that waits.
    fn write(&mut self, id: StreamId, pieces: &[&[u8]], kind: Kind, counts: &mut Counts) {
        let slot = self.by_id.get(&id).copied();
        let stream = slot.and_then(|slot| Some((slot, self.slots[slot].as_deref_mut()?)));
        let Some((slot, stream)) = stream.filter(|(_, stream)| stream.deadline.is_none()) else {
            let lost = pieces.iter().map(|piece| stream::frames(piece).count());
            counts.drop(DropReason::NoRoute, lost.sum());
            return;
        };
        let result = stream
            .write(pieces, kind, counts)
            .and_then(|()| stream.await_room(&self.epoll, slot));
        if let Err(error) = result {
            self.end(id, ended_by(&error));
        }
    }

    fn by_id(&mut self, id: StreamId) -> Option<&mut Stream> {
        let &slot = self.by_id.get(&id)?;
        self.slots[slot].as_deref_mut()
    }
}

impl Stream {
    fn new(
        id: StreamId,
        socket: TcpStream,
        config: StreamConfig,
        epoll: &Epoll,
        slot: usize,
    ) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        let remote = socket.peer_addr()?;
        let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
        epoll.add(
            socket.as_fd(),
            EpollEvent::new(EpollFlags::EPOLLIN, slot as u64),
        )?;
        Ok(Stream {
            id,
            socket,
            from: Endpoint {
                stream: Some(id),
                ..Endpoint::new(remote)
            },
            frames: FrameReader::new(config.max_packet),
            queue: SendQueue::new(config.queue_limit),
            awaits_room: false,
            deadline: None,
        })
    }

    /// Writes pieces of whole frames, and queues what the socket does not take as far as it may.
    fn write(&mut self, pieces: &[&[u8]], kind: Kind, counts: &mut Counts) -> io::Result<()> {
        // Room may have come since the kernel last said so: it says so only when there is much.
        self.flush(counts)?;
        let mut sent = 0;
        if self.queue.is_empty() {
            let slices: ArrayVec<IoSlice<'_>, MAX_SENDS> =
                pieces.iter().map(|piece| IoSlice::new(piece)).collect();
            sent = self.send(&slices, counts)?;
            if sent == pieces.iter().map(|piece| piece.len()).sum::<usize>() {
                return Ok(());
            }
        }
        for frame in pieces.iter().flat_map(|piece| stream::frames(piece)) {
            if sent == 0 {
                if !self.queue.push(frame, kind) {
                    counts.drop(DropReason::StreamFull, 1);
                }
            } else {
                let part = sent.min(frame.len());
                self.queue.push_rest(&frame[part..], kind);
                sent -= part;
            }
        }
        Ok(())
    }

    /// Writes what waits, as far as there is room.
    fn flush(&mut self, counts: &mut Counts) -> io::Result<()> {
        if self.queue.is_empty() {
            return Ok(());
        }
        let sent = self.send(&self.queue.slices(), counts)?;
        self.queue.advance(sent);
        self.finish();
        Ok(())
    }

    /// Says that nothing follows, once all has left that is to leave.
    fn finish(&self) {
        if self.deadline.is_some() && self.queue.is_empty() {
            // An error means that it has ended already, which the next read reports.
            let _ = self.socket.shutdown(Shutdown::Write);
        }
    }

    /// Asks the kernel to say when there is room, if something waits for it.
    fn await_room(&mut self, epoll: &Epoll, slot: usize) -> io::Result<()> {
        let wanted = !self.queue.is_empty();
        if wanted != self.awaits_room {
            let mut flags = EpollFlags::EPOLLIN;
            flags.set(EpollFlags::EPOLLOUT, wanted);
            let mut event = EpollEvent::new(flags, slot as u64);
            epoll.modify(self.socket.as_fd(), &mut event)?;
            self.awaits_room = wanted;
        }
        Ok(())
    }

    /// One write; how many bytes the socket took.
    fn send(&self, slices: &[IoSlice<'_>], counts: &mut Counts) -> io::Result<usize> {
        counts.stream_tx_calls += 1;
        match SockRef::from(&self.socket).send_vectored_with_flags(slices, libc::MSG_NOSIGNAL) {
            Err(error) if is_busy(&error) => Ok(0),
            result => result,
        }
    }
}

/// Stage 4 for TCP: reads from the connections that have something, and hands their packets on.
pub(super) fn receive(
    receive: &mut Receive,
    engine: &mut Engine,
    peers: &mut PeerTable,
    failures: &mut Failures,
    shared: &mut Shared,
    transmit: &mut Transmit,
) -> io::Result<()> {
    let area = engine.stream_area();
    let mut start = area.start;
    for ready in shared.streams.ready() {
        if ready.writable {
            shared.streams.flush(ready.slot, &mut shared.counts);
        }
        if !ready.readable {
            continue;
        }
        if area.end - start < PREFIX + MAX_PACKET + STREAM_READ {
            // Whatever was read before is done with then.
            receive.deliver(engine, peers, failures, shared, transmit)?;
            start = area.start;
        }
        let buffer = &mut engine.rx_bytes_mut()[start..area.end];
        let Some((from, len)) = shared.streams.read(ready.slot, buffer, &mut shared.counts) else {
            continue;
        };
        let mut at = 0;
        loop {
            let bytes = &engine.rx_bytes_mut()[start..start + len];
            let next = shared
                .streams
                .next(ready.slot, bytes, &mut at, &mut shared.counts);
            let Some(mut packet) = next else {
                break;
            };
            packet.start += start;
            receive.make_room(engine, peers, failures, shared, transmit)?;
            receive.datagram(packet, &from, engine, peers, shared);
        }
        start = (start + len).next_multiple_of(64).min(area.end);
    }
    Ok(())
}

/// The call would have had to wait, or was interrupted; the kernel says when to try again.
fn is_busy(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

fn ended_by(error: &io::Error) -> StreamEnd {
    match error.raw_os_error() {
        Some(libc::ECONNRESET | libc::EPIPE | libc::ENOTCONN) => StreamEnd::Reset,
        errno => StreamEnd::Io(errno.unwrap_or(libc::EIO)),
    }
}
