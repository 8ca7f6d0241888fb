//! The streams of one end of a running test, whichever end it is: one thread each.

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Instant;

use anyhow::{Result, bail};

use super::flow::{Counters, Stop};
use super::protocol::{Request, Sent};
use super::{tcp, udp};

/// A stream this end sends.
#[derive(Debug)]
pub enum Outgoing {
    /// A TCP stream.
    Tcp(TcpStream),
    /// A UDP stream.
    Udp {
        /// Where it leaves.
        socket: UdpSocket,
        /// Where it goes, unless the socket is connected.
        to: Option<SocketAddr>,
        /// Its number.
        stream: u16,
    },
}

/// What this end receives.
#[derive(Debug)]
pub enum Incoming {
    /// A TCP stream.
    Tcp(TcpStream),
    /// All UDP streams that arrive at one socket.
    Udp(UdpSocket),
}

/// What all threads of a test share.
#[derive(Debug)]
pub struct Shared {
    /// What is asked for.
    pub request: Request,
    /// Marks what belongs to the test.
    pub token: u64,
    /// What this end has received.
    pub counters: Counters,
    /// Ends the receivers, and the senders before their time.
    pub stop: Stop,
    /// When the senders end.
    pub until: Instant,
}

/// Running senders.
pub type Senders<'s> = Vec<ScopedJoinHandle<'s, Result<Sent>>>;
/// Running receivers.
pub type Receivers<'s> = Vec<ScopedJoinHandle<'s, Result<()>>>;

/// Starts a thread for each stream to send.
pub fn send<'s>(
    scope: &'s Scope<'s, '_>,
    shared: &'s Shared,
    outgoing: Vec<Outgoing>,
) -> Senders<'s> {
    let start = |one: Outgoing| scope.spawn(move || send_one(shared, &one));
    outgoing.into_iter().map(start).collect()
}

fn send_one(shared: &Shared, outgoing: &Outgoing) -> Result<Sent> {
    let (size, rate) = (shared.request.size as usize, shared.request.stream_rate());
    match outgoing {
        Outgoing::Tcp(stream) => tcp::send(stream, size, rate, shared.until, &shared.stop),
        Outgoing::Udp { socket, to, stream } => {
            let stream = udp::Stream {
                first: udp::Header {
                    token: shared.token,
                    number: 0,
                    stream: *stream,
                    kind: udp::Kind::Data,
                },
                size,
                per_second: rate,
                single: shared.request.single,
            };
            udp::send(socket, *to, &stream, shared.until, &shared.stop)
        }
    }
}

/// Starts a thread for each socket to receive on.
pub fn receive<'s>(
    scope: &'s Scope<'s, '_>,
    shared: &'s Shared,
    incoming: Vec<Incoming>,
) -> Receivers<'s> {
    let start = |one: Incoming| scope.spawn(move || receive_one(shared, &one));
    incoming.into_iter().map(start).collect()
}

fn receive_one(shared: &Shared, incoming: &Incoming) -> Result<()> {
    match incoming {
        Incoming::Tcp(stream) => tcp::receive(stream, &shared.counters, &shared.stop),
        Incoming::Udp(socket) => udp::receive(
            socket,
            shared.token,
            shared.request.streams,
            &shared.counters,
            &shared.stop,
        ),
    }
}

/// The sum of what finished senders sent.
///
/// # Errors
/// The first sender's.
pub fn sum(senders: Senders<'_>) -> Result<Sent> {
    let mut total = Sent::default();
    for sender in senders {
        total += join(sender)?;
    }
    Ok(total)
}

/// Waits for a thread.
///
/// # Errors
/// Its own, or that it panicked.
pub fn join<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    match thread.join() {
        Ok(outcome) => outcome,
        Err(_) => bail!("a thread of the load generator panicked"),
    }
}

/// Sets the stop when dropped, so that an error on the way leaves no thread running.
#[derive(Debug)]
pub struct StopOnDrop<'a>(pub &'a Stop);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.set();
    }
}
