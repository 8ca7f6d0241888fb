//! The control connection: one JSON object per line, each line at most [`LINE_LIMIT`] bytes.
//!
//! ```text
//!   source -> sink                      sink -> source
//!   Hello { Test(Request) }             Reply::Accepted { token } | Reply::Refused { reason }
//!   (streams arrive, each beginning
//!    with Hello { Data } on TCP)        Reply::Started
//!                                       Reply::Sample, one per interval
//!   Sent                                Reply::Done
//! ```
//!
//! Every connection begins with the protocol's version, which is checked before anything else is
//! read, so that two different releases say so instead of misunderstanding each other.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::meter::Sample;
use super::udp;

/// Version of this protocol; both ends must have the same.
pub const VERSION: u32 = 1;
/// Port when none is given: TCP for control and streams, UDP for streams; the next one for probes.
pub const PORT: u16 = 5210;
/// Longest line, in bytes.
pub const LINE_LIMIT: usize = 4096;
/// Most streams of one direction.
pub const MAX_STREAMS: u16 = 128;
/// Longest test, in seconds.
pub const MAX_SECONDS: f64 = 86_400.0;

/// First line of every TCP connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`] of the sender.
    pub ringway_load: u32,
    /// What the connection is for.
    pub purpose: Purpose,
}

impl Hello {
    /// A first line for this release.
    #[must_use]
    pub fn new(purpose: Purpose) -> Self {
        Self {
            ringway_load: VERSION,
            purpose,
        }
    }

    /// Reads a first line, its version before the rest.
    ///
    /// # Errors
    /// When it is no first line, or of another version.
    pub fn parse(line: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            ringway_load: u32,
        }
        let version: Version = serde_json::from_str(line)
            .ok()
            .context("not a ringway load source")?;
        ensure!(
            version.ringway_load == VERSION,
            "the other end speaks version {} of the load protocol, this one version {VERSION}: \
             use the same release on both",
            version.ringway_load
        );
        serde_json::from_str(line)
            .ok()
            .context("a malformed first line")
    }
}

/// What a connection is for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// Control of a new test.
    Test(Request),
    /// A TCP stream of the running test.
    Data {
        /// The token of [`Reply::Accepted`].
        token: u64,
        /// Whether the source sends on it.
        up: bool,
    },
}

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Load {
    /// TCP streams.
    Tcp,
    /// Numbered UDP datagrams.
    Udp,
    /// Nothing but probes.
    Idle,
}

/// One test.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// What is sent.
    pub load: Load,
    /// Streams in each direction that is used.
    pub streams: u16,
    /// Bytes per write (TCP) or payload bytes per datagram (UDP).
    pub size: u32,
    /// Writes or datagrams per second over all streams of a direction; as many as go when absent.
    pub per_second: Option<f64>,
    /// One datagram per system call, in both directions: what programs do that know nothing of
    /// segmentation. Otherwise the kernel gets many at once, and a tunnel may see them joined.
    #[serde(default)]
    pub single: bool,
    /// How long the senders send, in seconds.
    pub seconds: f64,
    /// The source sends.
    pub up: bool,
    /// The sink sends.
    pub down: bool,
    /// Round-trip probes beside the load.
    pub probes: bool,
    /// Seconds between two samples.
    pub interval: f64,
}

impl Request {
    /// Says what is wrong with a request; a sink trusts nothing it is asked.
    ///
    /// # Errors
    /// When a number is outside its limits or nothing would be done.
    pub fn check(&self) -> Result<()> {
        let sizes = match self.load {
            Load::Udp => udp::MIN_SIZE..=udp::MAX_SIZE,
            Load::Tcp | Load::Idle => 1..=4 << 20,
        };
        ensure!(
            (1..=MAX_STREAMS).contains(&self.streams),
            "streams must be 1 to {MAX_STREAMS}"
        );
        ensure!(
            sizes.contains(&(self.size as usize)),
            "the size must be {} to {} bytes",
            sizes.start(),
            sizes.end()
        );
        ensure!(
            self.seconds >= 0.1 && self.seconds <= MAX_SECONDS,
            "a test takes 0.1 to {MAX_SECONDS} seconds"
        );
        ensure!(
            self.interval >= 0.02 && self.interval <= MAX_SECONDS,
            "the interval must be at least 0.02 seconds"
        );
        ensure!(
            self.per_second
                .is_none_or(|rate| rate.is_finite() && rate > 0.0),
            "the rate must be above zero"
        );
        ensure!(
            self.up || self.down || self.probes,
            "neither a load nor probes: nothing to do"
        );
        ensure!(
            (self.load == Load::Idle) != (self.up || self.down),
            "a load needs a direction, and an idle test has none"
        );
        Ok(())
    }

    /// Datagrams or writes per second of one stream.
    #[must_use]
    pub fn stream_rate(&self) -> Option<f64> {
        self.per_second.map(|rate| rate / f64::from(self.streams))
    }
}

/// What the sink says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The test will be done.
    Accepted {
        /// Marks every stream, datagram and probe of the test.
        token: u64,
    },
    /// It will not.
    Refused {
        /// One line for a person.
        reason: String,
    },
    /// Every stream is there; both ends begin.
    Started,
    /// What arrived at the sink in one interval.
    Sample(Sample),
    /// The end.
    Done {
        /// What the sink received.
        received: Option<Received>,
        /// What it sent.
        sent: Option<Sent>,
    },
}

/// What a sending end did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// Payload bytes the kernel took.
    pub bytes: u64,
    /// Datagrams the kernel took; 0 for TCP.
    pub packets: u64,
}

impl std::ops::AddAssign for Sent {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.packets += other.packets;
    }
}

/// What a receiving end counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Received {
    /// Payload bytes, duplicates not counted.
    pub bytes: u64,
    /// Different datagrams; 0 for TCP.
    pub packets: u64,
    /// Datagrams seen before.
    pub duplicates: u64,
    /// Datagrams that came after one with a higher number.
    pub reordered: u64,
    /// From the first byte to the last, in seconds.
    pub seconds: f64,
    /// The receiver's clock at its first byte, in seconds since 1970.
    pub began_unix: f64,
}

/// A connection read and written line by line, never waiting longer than asked.
#[derive(Debug)]
pub struct Lines {
    stream: TcpStream,
    pending: Vec<u8>,
}

impl Lines {
    /// Takes a connected stream over.
    ///
    /// # Errors
    /// When its options cannot be set.
    pub fn new(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(Duration::from_secs(5)))?;
        Ok(Self {
            stream,
            pending: Vec::new(),
        })
    }

    /// The stream itself, for a connection whose lines are over.
    #[must_use]
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }

    /// A second handle that only writes.
    ///
    /// # Errors
    /// When the descriptor cannot be duplicated.
    pub fn writer(&self) -> Result<TcpStream> {
        Ok(self.stream.try_clone()?)
    }

    /// The next line; `None` when none is complete within `wait`.
    ///
    /// # Errors
    /// When the other end has closed, or sends a line that is too long or no text.
    pub fn next(&mut self, wait: Duration) -> Result<Option<String>> {
        let deadline = Instant::now() + wait;
        loop {
            if let Some(end) = self.pending.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).take(end).collect();
                return Ok(Some(
                    String::from_utf8(line)
                        .ok()
                        .context("a line that is no text")?,
                ));
            }
            ensure!(
                self.pending.len() < LINE_LIMIT,
                "a line of more than {LINE_LIMIT} bytes"
            );
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.stream.set_read_timeout(Some(left))?;
            let mut block = [0; 1024];
            match self.stream.read(&mut block) {
                Ok(0) => bail!("the other end closed the control connection"),
                Ok(n) => self.pending.extend_from_slice(&block[..n]),
                Err(error) if is_timeout(error.kind()) => {}
                Err(error) => return Err(error).context("the control connection broke"),
            }
        }
    }

    /// The next line as a message.
    ///
    /// # Errors
    /// As [`Lines::next`], and when it is not such a message.
    pub fn receive<T: DeserializeOwned>(&mut self, wait: Duration) -> Result<Option<T>> {
        let Some(line) = self.next(wait)? else {
            return Ok(None);
        };
        let message = serde_json::from_str(&line).ok();
        Ok(Some(
            message.context("the other end sent something unexpected")?,
        ))
    }

    /// Writes one message.
    ///
    /// # Errors
    /// When the other end does not take it within 5 seconds.
    pub fn send(&mut self, message: &impl Serialize) -> Result<()> {
        send(&mut self.stream, message)
    }
}

/// Writes one message to a stream.
///
/// # Errors
/// When the other end does not take it.
pub fn send(stream: &mut TcpStream, message: &impl Serialize) -> Result<()> {
    let line = serde_json::to_string(message)? + "\n";
    stream
        .write_all(line.as_bytes())
        .context("the control connection broke")
}

/// Whether a read ended only because its time was over.
#[must_use]
pub fn is_timeout(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn request() -> Request {
        Request {
            load: Load::Udp,
            streams: 1,
            size: 64,
            per_second: None,
            single: false,
            seconds: 1.0,
            up: true,
            down: false,
            probes: false,
            interval: 1.0,
        }
    }

    fn pair() -> (TcpStream, Lines) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, Lines::new(listener.accept().unwrap().0).unwrap())
    }

    #[test]
    fn requests_outside_the_limits_are_refused() {
        request().check().unwrap();
        let wrong = [
            Request {
                streams: 0,
                ..request()
            },
            Request {
                streams: 5000,
                ..request()
            },
            Request {
                size: 3,
                ..request()
            },
            Request {
                size: 70_000,
                ..request()
            },
            Request {
                seconds: f64::NAN,
                ..request()
            },
            Request {
                seconds: 1e9,
                ..request()
            },
            Request {
                interval: 0.0,
                ..request()
            },
            Request {
                per_second: Some(f64::INFINITY),
                ..request()
            },
            Request {
                up: false,
                ..request()
            },
            Request {
                load: Load::Idle,
                ..request()
            },
        ];
        for request in wrong {
            assert!(request.check().is_err(), "{request:?}");
        }
    }

    #[test]
    fn another_version_is_named_before_the_rest_is_understood() {
        let error = Hello::parse(r#"{"ringway_load":9,"purpose":"dance"}"#).unwrap_err();
        assert!(error.to_string().contains("version 9"), "{error}");
        assert!(Hello::parse("GET / HTTP/1.1").is_err());
        assert!(Hello::parse(r#"{"ringway_load":1,"purpose":"dance"}"#).is_err());
        let line = serde_json::to_string(&Hello::new(Purpose::Test(request()))).unwrap();
        assert!(matches!(Hello::parse(&line).unwrap().purpose, Purpose::Test(r) if r == request()));
    }

    #[test]
    fn lines_may_come_in_pieces_but_not_without_end() {
        let (mut near, mut far) = pair();
        let moment = Duration::from_millis(20);
        near.write_all(b"\"on").unwrap();
        assert!(far.next(moment).unwrap().is_none());
        near.write_all(b"e\"\n\"two\"\n").unwrap();
        assert_eq!(far.next(moment * 50).unwrap().unwrap(), "\"one\"");
        assert_eq!(far.receive::<String>(moment * 50).unwrap().unwrap(), "two");
        near.write_all(&[b'x'; LINE_LIMIT + 1024]).unwrap();
        assert!(far.next(moment * 50).is_err());
    }

    #[test]
    fn a_closed_connection_is_an_error() {
        let (near, mut far) = pair();
        drop(near);
        assert!(far.next(Duration::from_secs(2)).is_err());
    }
}
