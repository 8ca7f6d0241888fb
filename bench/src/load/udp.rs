//! Streams of numbered datagrams, sent and received many at a time where the kernel can.
//!
//! ```text
//!   | token:64 | number:64 | stream:16 | kind:8 | 0:8 | filling ... |    20 bytes and more
//! ```
//!
//! Up to 64 datagrams leave by one call (`UDP_SEGMENT`) and arrive by one
//! (`UDP_GRO`); a kernel or a path that refuses gets them one by one.

use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::Instant;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
    sockopt,
};
use socket2::{Domain, Protocol, Socket, Type};

use super::flow::{Batch, Counters, LOOK, Pacer, Stop};
use super::protocol::Sent;
use super::sequence::{Arrival, Sequence};

/// Smallest payload: the header alone.
pub const MIN_SIZE: usize = 20;
/// Largest payload of a datagram over IPv4.
pub const MAX_SIZE: usize = 65_507;
/// Payload when no size is given: fits a tunnel inside an MTU of 1500.
pub const DEFAULT_SIZE: usize = 1200;
/// Most datagrams of one call.
const GSO_SEGMENTS: usize = 64;
/// Socket buffers asked for; the kernel gives what `rmem_max` and `wmem_max` allow, to root all.
const BUFFER: usize = 8 << 20;

/// What a datagram is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Tells the sink where the source's socket is.
    Hello = 0,
    /// Load.
    Data = 1,
}

/// The first bytes of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The test it belongs to.
    pub token: u64,
    /// Its number within the stream.
    pub number: u64,
    /// The stream, from 0.
    pub stream: u16,
    /// What it is for.
    pub kind: Kind,
}

impl Header {
    /// Writes the header into the first [`MIN_SIZE`] bytes.
    pub fn write(&self, out: &mut [u8]) {
        out[..8].copy_from_slice(&self.token.to_be_bytes());
        out[8..16].copy_from_slice(&self.number.to_be_bytes());
        out[16..18].copy_from_slice(&self.stream.to_be_bytes());
        out[18..20].copy_from_slice(&[self.kind as u8, 0]);
    }

    /// Reads a header; `None` when there is none.
    #[must_use]
    pub fn read(datagram: &[u8]) -> Option<Self> {
        let (token, rest) = datagram.split_first_chunk()?;
        let (number, rest) = rest.split_first_chunk()?;
        let (stream, rest) = rest.split_first_chunk()?;
        Some(Self {
            token: u64::from_be_bytes(*token),
            number: u64::from_be_bytes(*number),
            stream: u16::from_be_bytes(*stream),
            kind: match rest.first()? {
                0 => Kind::Hello,
                1 => Kind::Data,
                _ => return None,
            },
        })
    }
}

/// Binds a socket for load: large buffers, joined datagrams where the kernel offers it.
///
/// # Errors
/// When the address or port is not to be had.
pub fn bind(address: SocketAddr) -> Result<UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    // All are wishes: a smaller buffer or no GRO only makes the generator slower.
    if setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).is_err() {
        let _ = socket.set_recv_buffer_size(BUFFER);
    }
    let _ = socket.set_send_buffer_size(BUFFER);
    let _ = setsockopt(&socket, sockopt::UdpGroSegment, &true);
    socket
        .bind(&address.into())
        .with_context(|| format!("cannot bind UDP {address}"))?;
    let socket: UdpSocket = socket.into();
    socket.set_read_timeout(Some(LOOK))?;
    socket.set_write_timeout(Some(LOOK))?;
    Ok(socket)
}

/// What one sender sends.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    /// Header of its first datagram.
    pub first: Header,
    /// Payload bytes per datagram.
    pub size: usize,
    /// Datagrams per second; as many as go when `None`.
    pub per_second: Option<f64>,
    /// One datagram per call, even where the kernel would take many.
    pub single: bool,
}

/// Sends a stream until `until`, to the connected peer or to `to`.
///
/// # Errors
/// When the network refuses for good; a full queue or a port not yet open is only a datagram less.
pub fn send(
    socket: &UdpSocket,
    to: Option<SocketAddr>,
    stream: &Stream,
    until: Instant,
    stop: &Stop,
) -> Result<Sent> {
    let size = stream.size;
    let most = if stream.single { 1 } else { GSO_SEGMENTS };
    let mut burst = (MAX_SIZE / size).clamp(1, most);
    if let Some(rate) = stream.per_second {
        // A millisecond's worth at most: a pace is there to avoid bursts.
        burst = burst.min((rate / 1000.0) as usize).max(1);
    }
    let to = to.map(SockaddrStorage::from);
    let mut buffer = vec![0x5a; burst * size];
    let mut pacer = Pacer::new(stream.per_second, Instant::now());
    let mut header = stream.first;
    let mut sent = Sent::default();
    loop {
        let now = Instant::now();
        if now >= until || stop.is_set() {
            return Ok(sent);
        }
        let count = match pacer.take(now, burst) {
            Ok(count) => count,
            Err(wait) => {
                std::thread::sleep(wait.min(until - now).min(LOOK));
                continue;
            }
        };
        for datagram in buffer.chunks_exact_mut(size).take(count) {
            header.write(datagram);
            header.number += 1;
        }
        let payload = &buffer[..count * size];
        match send_message(socket, to.as_ref(), payload, size) {
            Ok(()) => {
                sent.packets += count as u64;
                sent.bytes += payload.len() as u64;
            }
            // Nothing left: the numbers go to the next datagrams.
            Err(error) if is_passing(error) => header.number -= count as u64,
            // No segmentation here, or a datagram larger than the path's MTU: one by one.
            Err(Errno::EINVAL | Errno::EIO | Errno::EMSGSIZE | Errno::EOPNOTSUPP) if count > 1 => {
                header.number -= count as u64;
                burst = 1;
            }
            Err(error) => return Err(error).context("cannot send UDP"),
        }
    }
}

/// Announces a stream's socket to the sink.
///
/// # Errors
/// When the network refuses for good.
pub fn announce(socket: &UdpSocket, header: &Header) -> Result<()> {
    let mut datagram = [0; MIN_SIZE];
    header.write(&mut datagram);
    match socket.send(&datagram) {
        Err(error)
            if error
                .raw_os_error()
                .is_none_or(|e| !is_passing(Errno::from_raw(e))) =>
        {
            Err(error).context("cannot send UDP")
        }
        _ => Ok(()),
    }
}

fn is_passing(error: Errno) -> bool {
    matches!(
        error,
        Errno::EAGAIN | Errno::EINTR | Errno::ENOBUFS | Errno::ECONNREFUSED
    )
}

fn send_message(
    socket: &UdpSocket,
    to: Option<&SockaddrStorage>,
    payload: &[u8],
    size: usize,
) -> nix::Result<()> {
    let segment = u16::try_from(size).unwrap_or(u16::MAX);
    let gso = [ControlMessage::UdpGsoSegments(&segment)];
    let control: &[ControlMessage<'_>] = if payload.len() > size { &gso } else { &[] };
    let slices = [IoSlice::new(payload)];
    sendmsg(socket.as_raw_fd(), &slices, control, MsgFlags::empty(), to).map(drop)
}

/// Receives one batch: calls `each` with the sender and every datagram.
///
/// # Errors
/// When the socket fails; a time-out is no error and calls nothing.
pub fn receive_batch(
    socket: &UdpSocket,
    buffer: &mut [u8],
    mut each: impl FnMut(Option<SocketAddr>, &[u8]),
) -> Result<()> {
    let mut control = nix::cmsg_space!(i32);
    let mut slices = [IoSliceMut::new(buffer)];
    let message = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut slices,
        Some(&mut control),
        MsgFlags::empty(),
    );
    let (bytes, from, segment) = match message {
        Ok(message) => {
            let segment = message.cmsgs().ok().and_then(|mut all| {
                all.find_map(|one| match one {
                    ControlMessageOwned::UdpGroSegments(size) => usize::try_from(size).ok(),
                    _ => None,
                })
            });
            (message.bytes, message.address.and_then(address), segment)
        }
        Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNREFUSED) => return Ok(()),
        Err(error) => return Err(error).context("cannot receive UDP"),
    };
    let size = segment.filter(|&size| size > 0).unwrap_or(bytes.max(1));
    for datagram in buffer[..bytes].chunks(size) {
        each(from, datagram);
    }
    Ok(())
}

fn address(storage: SockaddrStorage) -> Option<SocketAddr> {
    match (storage.as_sockaddr_in(), storage.as_sockaddr_in6()) {
        (Some(v4), _) => Some(SocketAddr::new(v4.ip().into(), v4.port())),
        (_, Some(v6)) => Some(SocketAddr::new(v6.ip().into(), v6.port())),
        _ => None,
    }
}

/// Counts the streams of a test that arrive on one socket until `stop` is set. Datagrams with
/// another token or from outside `streams` are not counted at all.
///
/// # Errors
/// When the socket fails.
pub fn receive(
    socket: &UdpSocket,
    token: u64,
    streams: u16,
    counters: &Counters,
    stop: &Stop,
) -> Result<()> {
    let mut sequences = vec![None; usize::from(streams)];
    let mut buffer = vec![0; 1 << 16];
    while !stop.is_set() {
        let mut batch = Batch::default();
        receive_batch(socket, &mut buffer, |_, datagram| {
            count(&mut sequences, token, datagram, &mut batch);
        })?;
        if batch.packets > 0 || batch.duplicates > 0 {
            counters.add(&batch);
        }
    }
    Ok(())
}

fn count(sequences: &mut [Option<Sequence>], token: u64, datagram: &[u8], batch: &mut Batch) {
    let ours = Header::read(datagram).filter(|h| h.token == token && h.kind == Kind::Data);
    let Some(header) = ours else { return };
    let Some(sequence) = sequences.get_mut(usize::from(header.stream)) else {
        return;
    };
    match sequence.get_or_insert_default().add(header.number) {
        Arrival::New { skipped } => batch.missing += skipped as i64,
        Arrival::Late => {
            batch.missing -= 1;
            batch.reordered += 1;
        }
        Arrival::Duplicate => {
            batch.duplicates += 1;
            return;
        }
        Arrival::Damaged => return,
    }
    batch.packets += 1;
    batch.bytes += datagram.len() as u64;
}

/// Whether an I/O error is only a time-out or a port not yet open.
#[must_use]
pub fn is_quiet(kind: ErrorKind) -> bool {
    super::protocol::is_timeout(kind) || kind == ErrorKind::ConnectionRefused
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Duration;

    const HEADER: Header = Header {
        token: 7,
        number: 0,
        stream: 1,
        kind: Kind::Data,
    };

    #[test]
    fn headers_are_read_back() {
        let mut datagram = [0; 30];
        HEADER.write(&mut datagram);
        assert_eq!(Header::read(&datagram), Some(HEADER));
        assert_eq!(Header::read(&datagram[..MIN_SIZE - 2]), None);
        datagram[18] = 9;
        assert_eq!(Header::read(&datagram), None);
    }

    #[test]
    fn foreign_datagrams_are_not_counted() {
        let mut sequences = vec![None; 2];
        let mut batch = Batch::default();
        let mut datagram = [0; 100];
        for header in [
            HEADER,
            Header { token: 8, ..HEADER },
            Header {
                stream: 2,
                ..HEADER
            },
            Header {
                kind: Kind::Hello,
                ..HEADER
            },
            Header {
                number: 3,
                ..HEADER
            },
            Header {
                number: u64::MAX,
                ..HEADER
            },
        ] {
            header.write(&mut datagram);
            count(&mut sequences, 7, &datagram, &mut batch);
        }
        count(&mut sequences, 7, b"short", &mut batch);
        assert_eq!((batch.packets, batch.bytes, batch.missing), (2, 200, 2));
    }

    #[test]
    fn a_stream_arrives_whole_joined_or_not() {
        for (size, rate, single) in [
            (64, 100_000.0, false),
            (64, 10_000.0, true),
            (1200, 50.0, false),
            (40_000, 100.0, false),
        ] {
            let far = bind("127.0.0.1:0".parse().unwrap()).unwrap();
            let near = bind("127.0.0.1:0".parse().unwrap()).unwrap();
            near.connect(far.local_addr().unwrap()).unwrap();
            let (counters, stop) = (Arc::new(Counters::default()), Stop::default());
            let receiver = {
                let (counters, stop) = (Arc::clone(&counters), stop.clone());
                std::thread::spawn(move || receive(&far, 7, 2, &counters, &stop).unwrap())
            };
            let stream = Stream {
                first: HEADER,
                size,
                per_second: Some(rate),
                single,
            };
            let until = Instant::now() + Duration::from_millis(100);
            let sent = send(&near, None, &stream, until, &Stop::default()).unwrap();
            counters.settle(Duration::from_millis(100), Duration::from_secs(5));
            stop.set();
            receiver.join().unwrap();
            let received = counters.received();
            assert_eq!(
                (received.packets, received.bytes),
                (sent.packets, sent.bytes)
            );
            assert!(sent.packets > 0 && received.duplicates + received.reordered == 0);
        }
    }
}
