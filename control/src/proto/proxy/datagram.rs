//! Datagrams to and from a SOCKS proxy (RFC 1928 §7).
//!
//! ```text
//!   | 0:16 | FRAG:8 | kind:8 | address: 4, 16, or 1 + length | port:16 | the peer's datagram ... |
//! ```
//! Each direction has the header of the peer: where to, and where from.

use std::net::SocketAddr;

use super::ProxyError;
use super::socks::{push_address, push_place, read_address};

/// Reserved bytes and the number of a fragment; nobody fragments here.
const WHOLE: [u8; 3] = [0; 3];

/// The header of every datagram to one peer, and what is taken from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    header: Vec<u8>,
    /// `None` as long as only its name is known.
    address: Option<SocketAddr>,
    /// It may be anywhere (`float`).
    float: bool,
}

impl Peer {
    /// `host` is an address, or a name that the proxy resolves: until an answer says which address
    /// that is, and all further datagrams go there. With `float` datagrams from anywhere are taken.
    ///
    /// # Errors
    /// A host name that the protocol has no room for: 1 to 255 bytes.
    pub fn new(host: &str, port: u16, float: bool) -> Result<Self, ProxyError> {
        let mut header = WHOLE.to_vec();
        push_place(&mut header, host, port)?;
        let address = read_address(&header[WHOLE.len()..]).and_then(|(address, _)| address);
        Ok(Peer {
            header,
            address: address.map(canonical),
            float,
        })
    }

    /// What is to be in front of a datagram to the peer.
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// How many bytes of this datagram from the proxy are in front of the peer's own; `None` when it
    /// is not from the peer.
    pub fn strip(&mut self, datagram: &[u8]) -> Option<usize> {
        let rest = datagram.strip_prefix(&WHOLE)?;
        let (from, len) = read_address(rest)?;
        let from = canonical(from?);
        match self.address {
            Some(address) if address == from || self.float => {}
            Some(_) => return None,
            None => {
                self.address = Some(from);
                self.header.truncate(WHOLE.len());
                push_address(&mut self.header, from);
            }
        }
        Some(WHOLE.len() + len)
    }
}

/// An IPv4 address inside an IPv6 one as such.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn to_and_from_an_address() {
        let mut peer = Peer::new("192.0.2.9", 1194, false).unwrap();
        let header = [0, 0, 0, 1, 192, 0, 2, 9, 4, 0xaa];
        assert_eq!(peer.header(), header);
        assert_eq!(peer.strip(&[&header[..], b"data"].concat()), Some(10));
        for (index, what) in [
            (0, "reserved"),
            (2, "a fragment"),
            (3, "a kind that is none"),
            (7, "another address"),
            (9, "another port"),
        ] {
            let mut other = header;
            other[index] ^= 0x40;
            assert_eq!(peer.strip(&other), None, "{what}");
        }
        assert_eq!(peer.strip(&header[..9]), None);
        let mapped = [
            &[0, 0, 0, 4][..],
            &[0; 10],
            &[255, 255, 192, 0, 2, 9, 4, 0xaa],
        ]
        .concat();
        assert_eq!(peer.strip(&mapped), Some(22));
        assert_eq!(peer.header(), header);
    }

    #[test]
    fn a_name_until_an_answer_has_the_address() {
        let mut peer = Peer::new("vpn", 9, false).unwrap();
        assert_eq!(peer.header(), [0, 0, 0, 3, 3, b'v', b'p', b'n', 0, 9]);
        // An answer that does not tell.
        assert_eq!(peer.strip(&[0, 0, 0, 3, 3, b'v', b'p', b'n', 0, 9]), None);
        let answer = [0, 0, 0, 1, 192, 0, 2, 9, 0, 9];
        assert_eq!(peer.strip(&answer), Some(10));
        assert_eq!(peer.header(), answer);
        assert_eq!(peer.strip(&[0, 0, 0, 1, 192, 0, 2, 8, 0, 9]), None);
        assert!(Peer::new("", 9, false).is_err());
    }

    #[test]
    fn a_peer_that_floats() {
        let mut peer = Peer::new("192.0.2.9", 9, true).unwrap();
        let header = peer.header().to_vec();
        assert_eq!(peer.strip(&[0, 0, 0, 1, 192, 0, 2, 8, 0, 9]), Some(10));
        assert_eq!(peer.header(), header, "answers do not move it");
    }

    proptest! {
        #[test]
        fn any_datagram(
            host in "[a-z.]{1,255}|192\\.0\\.2\\.1",
            start in prop::collection::vec(0u8..5, 0..5),
            rest: Vec<u8>,
            float: bool,
        ) {
            let mut peer = Peer::new(&host, 1, float).unwrap();
            let datagram = [start, rest].concat();
            if let Some(len) = peer.strip(&datagram) {
                prop_assert!(len <= datagram.len());
                prop_assert_eq!(peer.strip(&datagram), Some(len), "the same again");
            }
        }
    }
}
