//! A synchronous route-netlink socket: one request, its answers, done.
//!
//! Requests carry a sequence number and answers to anything older are skipped, so an abandoned
//! exchange cannot confuse the next one. Error answers carry the kernel's own explanation where it
//! has one (extended acknowledgements). The socket keeps working after a drop of privileges as long
//! as CAP_NET_ADMIN stays with the calling thread.

use std::fmt;
use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::errno::Errno;

/// Room for one batch of answers. The kernel fills at most 32 KiB per read of a dump.
const RECEIVE_BUFFER: usize = 64 * 1024;

/// Dumps that the kernel calls inconsistent (something changed meanwhile) are repeated this often.
const DUMP_ATTEMPTS: usize = 4;

/// A connected `NETLINK_ROUTE` socket of the network namespace it was opened in.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetlinkError {
    /// The error number the kernel (or the socket) gave.
    pub errno: Errno,
    /// The kernel's explanation, often empty.
    pub detail: String,
}

impl Netlink {
    /// Opens a socket in the current network namespace.
    pub fn open() -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Explanations, short error answers and filtered dumps are comforts that old kernels lack.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        let _ = socket.set_netlink_get_strict_chk(true);
        Ok(Netlink {
            socket,
            sequence: 0,
        })
    }

    /// Sends a request that changes something and waits until the kernel has done it. `flags` are
    /// added to `NLM_F_REQUEST | NLM_F_ACK`.
    pub(crate) fn change(
        &mut self,
        request: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), NetlinkError> {
        self.exchange(request, NLM_F_REQUEST | NLM_F_ACK | flags)
            .map(drop)
    }

    /// Sends a request for one object and returns what the kernel answered.
    pub(crate) fn query(
        &mut self,
        request: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        self.exchange(request, NLM_F_REQUEST | NLM_F_ACK)
            .map(|answers| answers.messages)
    }

    /// Lists all objects that match the request.
    pub(crate) fn dump(
        &mut self,
        request: &RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        for _ in 0..DUMP_ATTEMPTS {
            let answers = self.exchange(request.clone(), NLM_F_REQUEST | NLM_F_DUMP)?;
            if !answers.interrupted {
                return Ok(answers.messages);
            }
        }
        Err(NetlinkError {
            errno: Errno::EINTR,
            detail: "the table changed during every attempt to read it".into(),
        })
    }

    fn exchange(
        &mut self,
        request: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Answers, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        retry_interrupted(|| self.socket.send(&bytes, 0))?;

        let mut answers = Answers::default();
        let mut buffer = Vec::with_capacity(RECEIVE_BUFFER);
        loop {
            buffer.clear();
            retry_interrupted(|| self.socket.recv(&mut buffer, 0))?;
            if self.take_answers(&buffer, &mut answers)? {
                return Ok(answers);
            }
        }
    }

    /// Reads one datagram of answers; `true` when the exchange is complete.
    fn take_answers(&self, datagram: &[u8], answers: &mut Answers) -> Result<bool, NetlinkError> {
        let mut rest = datagram;
        while let Some((message, remaining)) = next_message(rest)? {
            rest = remaining;
            if message.header.sequence_number != self.sequence {
                continue;
            }
            answers.interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(true),
                NetlinkPayload::Error(error) => {
                    let Some(code) = error.code else {
                        return Ok(true);
                    };
                    let explained = message.header.flags & NLM_F_ACK_TLVS != 0;
                    return Err(NetlinkError {
                        errno: Errno::from_raw(code.get().saturating_neg()),
                        detail: explained
                            .then(|| explanation(&error.header))
                            .flatten()
                            .unwrap_or_default(),
                    });
                }
                NetlinkPayload::InnerMessage(inner) => answers.messages.push(inner),
                _ => {}
            }
        }
        Ok(false)
    }
}

impl NetlinkError {
    /// An error of ours, phrased like one of the kernel's.
    pub(crate) fn new(errno: Errno, detail: impl Into<String>) -> Self {
        NetlinkError {
            errno,
            detail: detail.into(),
        }
    }

    /// Whether the object already exists.
    pub fn exists(&self) -> bool {
        self.errno == Errno::EEXIST
    }

    /// Whether the object or its device is gone already, so that there is nothing left to remove.
    pub fn gone(&self) -> bool {
        matches!(
            self.errno,
            Errno::ESRCH | Errno::ENODEV | Errno::ENOENT | Errno::EADDRNOTAVAIL | Errno::ENXIO
        )
    }
}

impl fmt::Display for NetlinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.errno.desc())?;
        if !self.detail.is_empty() {
            write!(f, " ({})", self.detail)?;
        }
        Ok(())
    }
}

impl std::error::Error for NetlinkError {}

impl From<io::Error> for NetlinkError {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(raw) => NetlinkError::new(Errno::from_raw(raw), ""),
            None => NetlinkError::new(Errno::EIO, error.to_string()),
        }
    }
}

#[derive(Debug, Default)]
struct Answers {
    messages: Vec<RouteNetlinkMessage>,
    interrupted: bool,
}

type Parsed<'a> = (NetlinkMessage<RouteNetlinkMessage>, &'a [u8]);

/// Cuts the first message off `bytes`. A message this program cannot read is an error only when it
/// breaks the framing; unknown contents are skipped by the caller's sequence check.
fn next_message(bytes: &[u8]) -> Result<Option<Parsed<'_>>, NetlinkError> {
    const HEADER: usize = 16;
    let Some(length) = bytes.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_ne_bytes(*length) as usize;
    if length < HEADER || length > bytes.len() {
        return Err(NetlinkError::new(
            Errno::EBADMSG,
            "the kernel's answer is malformed",
        ));
    }
    let message = NetlinkMessage::deserialize(&bytes[..length])
        .map_err(|error| NetlinkError::new(Errno::EBADMSG, error.to_string()))?;
    let next = length.next_multiple_of(4).min(bytes.len());
    Ok(Some((message, &bytes[next..])))
}

/// The text attribute of an extended acknowledgement: after the 16-byte header of the request,
/// attributes of `u16 length, u16 type`, type 1 being a string.
fn explanation(header_and_attributes: &[u8]) -> Option<String> {
    const TEXT: u16 = 1;
    let mut rest = header_and_attributes.get(16..)?;
    while let Some((head, _)) = rest.split_first_chunk::<4>() {
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let value = rest.get(4..length)?;
        if u16::from_ne_bytes([head[2], head[3]]) == TEXT {
            let text = String::from_utf8_lossy(value);
            return Some(text.trim_end_matches('\0').to_owned());
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

fn retry_interrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn explanation_is_found_after_the_request_header() {
        let mut bytes = vec![0; 16];
        bytes.extend_from_slice(&8u16.to_ne_bytes());
        bytes.extend_from_slice(&2u16.to_ne_bytes());
        bytes.extend_from_slice(&[9; 4]);
        bytes.extend_from_slice(&9u16.to_ne_bytes());
        bytes.extend_from_slice(&1u16.to_ne_bytes());
        bytes.extend_from_slice(b"Nope\0\0\0\0");
        assert_eq!(explanation(&bytes).as_deref(), Some("Nope"));
        assert_eq!(explanation(&bytes[..16]), None);
    }

    #[test]
    fn errors_read_like_the_kernels() {
        let error = NetlinkError::new(Errno::EEXIST, "");
        assert!(error.exists());
        assert_eq!(error.to_string(), "File exists");
        let error = NetlinkError::new(Errno::EINVAL, "bad gateway");
        assert_eq!(error.to_string(), "Invalid argument (bad gateway)");
    }

    proptest! {
        #[test]
        fn framing_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut rest = bytes.as_slice();
            while let Ok(Some((_, remaining))) = next_message(rest) {
                prop_assert!(remaining.len() < rest.len());
                rest = remaining;
            }
            let _ = explanation(&bytes);
        }
    }
}
