//! Waiting for many sockets and many deadlines.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// Sockets reported by one call.
const BATCH: usize = 256;

/// Sockets and deadlines, each with a client's number. A closed socket leaves by itself.
pub(super) struct Events {
    epoll: Epoll,
    ready: Vec<EpollEvent>,
    /// Earliest first. A client keeps the one that counts in mind; others are skipped.
    deadlines: BinaryHeap<Reverse<(Instant, u32)>>,
}

impl Events {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            ready: vec![EpollEvent::empty(); BATCH],
            deadlines: BinaryHeap::new(),
        })
    }

    pub(super) fn watch(&self, socket: &UdpSocket, number: u32) -> io::Result<()> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, number.into());
        Ok(self.epoll.add(socket, event)?)
    }

    pub(super) fn schedule(&mut self, at: Instant, number: u32) {
        self.deadlines.push(Reverse((at, number)));
    }

    /// Waits for a socket or a deadline, at most `most`; the clients with something to read.
    pub(super) fn wait(&mut self, most: Duration, numbers: &mut Vec<u32>) {
        numbers.clear();
        let until = self.deadlines.peek().map(|Reverse((at, _))| *at);
        let left = until.map_or(most, |at| at.saturating_duration_since(Instant::now()));
        // Rounded up: waking a little early would only spin.
        let millis = left.min(most).as_micros().div_ceil(1000) as u16;
        // EINTR just means another look.
        let count = self
            .epoll
            .wait(&mut self.ready, EpollTimeout::from(millis))
            .unwrap_or(0);
        numbers.extend(self.ready[..count].iter().map(|event| event.data() as u32));
    }

    /// The next deadline that has passed.
    pub(super) fn passed(&mut self, now: Instant) -> Option<(Instant, u32)> {
        let Reverse((at, number)) = *self.deadlines.peek()?;
        (at <= now).then(|| {
            self.deadlines.pop();
            (at, number)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_and_deadlines_wake() {
        let mut events = Events::new().unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        events.watch(&socket, 7).unwrap();
        let now = Instant::now();
        events.schedule(now + Duration::from_secs(3600), 1);
        events.schedule(now, 2);
        let mut numbers = Vec::new();
        events.wait(Duration::from_secs(60), &mut numbers);
        assert!(numbers.is_empty());
        assert_eq!(events.passed(Instant::now()), Some((now, 2)));
        assert_eq!(events.passed(Instant::now()), None);
        socket.send_to(b"x", socket.local_addr().unwrap()).unwrap();
        events.wait(Duration::from_secs(60), &mut numbers);
        assert_eq!(numbers, [7]);
    }
}
