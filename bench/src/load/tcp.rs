//! One TCP stream: written by one end, counted by the other.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::flow::{Batch, Counters, LOOK, Pacer, Stop};
use super::protocol::{Sent, is_timeout};

/// Bytes per write when no size is given.
pub const WRITE: usize = 128 * 1024;

/// Bytes per read.
const READ: usize = 256 * 1024;

/// Writes blocks of `size` bytes at the pace until `until`, then closes its direction.
///
/// # Errors
/// When the stream breaks.
pub fn send(
    mut stream: &TcpStream,
    size: usize,
    per_second: Option<f64>,
    until: Instant,
    stop: &Stop,
) -> Result<Sent> {
    stream.set_write_timeout(Some(LOOK))?;
    let block = vec![0x5a; size];
    let mut pacer = Pacer::new(per_second, Instant::now());
    let mut sent = Sent::default();
    'blocks: loop {
        let now = Instant::now();
        if now >= until || stop.is_set() {
            break;
        }
        if let Err(wait) = pacer.take(now, 1) {
            std::thread::sleep(wait.min(until - now).min(LOOK));
            continue;
        }
        let mut written = 0;
        while written < size {
            match stream.write(&block[written..]) {
                Ok(n) => {
                    written += n;
                    sent.bytes += n as u64;
                }
                Err(error) if is_timeout(error.kind()) => {
                    if Instant::now() >= until || stop.is_set() {
                        break 'blocks;
                    }
                }
                Err(error) => return Err(error).context("a TCP stream broke"),
            }
        }
    }
    // The other end may have closed first; it has counted what it got.
    let _ = stream.shutdown(Shutdown::Write);
    Ok(sent)
}

/// Counts what arrives until the other end closes or `stop` is set.
///
/// # Errors
/// When the stream breaks.
pub fn receive(mut stream: &TcpStream, counters: &Counters, stop: &Stop) -> Result<()> {
    stream.set_read_timeout(Some(LOOK))?;
    let mut block = vec![0; READ];
    while !stop.is_set() {
        match stream.read(&mut block) {
            Ok(0) => break,
            Ok(n) => counters.add(&Batch {
                bytes: n as u64,
                ..Batch::default()
            }),
            Err(error) if is_timeout(error.kind()) => {}
            Err(error) => return Err(error).context("a TCP stream broke"),
        }
    }
    Ok(())
}

/// How long a receiver may go on after the sender's time is over: what fills the buffers of a slow
/// link still has to arrive.
pub const DRAIN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn all_that_is_sent_is_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let far = listener.accept().unwrap().0;
        let stop = Stop::default();
        let until = Instant::now() + Duration::from_millis(200);
        let sender = std::thread::spawn(move || {
            send(&near, 5000, Some(200.0), until, &Stop::default()).unwrap()
        });
        let counters = Counters::default();
        receive(&far, &counters, &stop).unwrap();
        let sent = sender.join().unwrap();
        assert_eq!(counters.received().bytes, sent.bytes);
        assert!(sent.bytes >= 5000 && sent.bytes % 5000 == 0, "{sent:?}");
    }
}
