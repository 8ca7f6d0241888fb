//! Links and their features, by route netlink and ethtool's netlink, both of the network namespace
//! of the calling thread. (Files below `/sys/class/net` may belong to another one.)

mod ethtool;
mod links;

pub(crate) use ethtool::{Ethtool, Feature};
pub(crate) use links::{LinkState, links, set_txqueuelen};

use std::fmt::Debug;
use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};

/// Room for one batch of answers. The kernel fills at most 32 KiB per read of a dump.
const RECEIVE_BUFFER: usize = 64 * 1024;

/// Whether a request is about one object or all of them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    One,
    All,
}

/// A socket of one netlink protocol: one request, its answers, done.
struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Netlink {
            socket,
            sequence: 0,
        })
    }

    /// Sends a request and collects its answers.
    fn ask<T>(&mut self, request: T, scope: Scope) -> io::Result<Vec<T>>
    where
        T: NetlinkSerializable + NetlinkDeserializable + Debug,
    {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST
            | match scope {
                Scope::One => NLM_F_ACK,
                Scope::All => NLM_F_DUMP,
            };
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        retry(|| self.socket.send(&bytes, 0))?;

        let mut answers = Vec::new();
        let mut buffer = Vec::with_capacity(RECEIVE_BUFFER);
        loop {
            buffer.clear();
            retry(|| self.socket.recv(&mut buffer, 0))?;
            if take(&buffer, self.sequence, &mut answers)? {
                return Ok(answers);
            }
        }
    }
}

/// Reads one datagram of answers; `true` when nothing more will come. A message that cannot be read
/// is skipped: this program looks at a few attributes only.
fn take<T: NetlinkDeserializable + Debug>(
    datagram: &[u8],
    sequence: u32,
    answers: &mut Vec<T>,
) -> io::Result<bool> {
    const HEADER: usize = 16;
    let mut rest = datagram;
    while let Some(length) = rest.first_chunk::<4>() {
        let length = u32::from_ne_bytes(*length) as usize;
        if length < HEADER || length > rest.len() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let (message, after) = rest.split_at(length.next_multiple_of(4).min(rest.len()));
        rest = after;
        let Ok(message) = NetlinkMessage::<T>::deserialize(&message[..length]) else {
            continue;
        };
        if message.header.sequence_number != sequence {
            continue;
        }
        match message.payload {
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(error) => {
                return match error.code {
                    None => Ok(true),
                    Some(code) => Err(io::Error::from_raw_os_error(code.get().saturating_neg())),
                };
            }
            NetlinkPayload::InnerMessage(inner) => answers.push(inner),
            _ => {}
        }
    }
    Ok(false)
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
