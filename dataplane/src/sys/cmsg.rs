//! Socket addresses and control messages as bytes, built and parsed without `unsafe`.
//!
//! ```text
//!  struct cmsghdr | len: usize | level: i32 | type: i32 | data ... | padding to usize |
//!  sockaddr_in    | family: u16 native | port: u16 big endian | address: 4 | zero: 8 |
//!  sockaddr_in6   | family: u16 native | port: u16 big endian | flow: 4 | address: 16 | scope: u32 native |
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use crate::command::Endpoint;

/// Bytes of the largest socket address used here (`sockaddr_in6`).
pub(crate) const NAME_LEN: usize = 28;

/// Room for the control data of one message: GSO or GRO size, packet info, TOS, an extended error.
pub(crate) const CONTROL_LEN: usize = 160;

const ALIGN: usize = size_of::<usize>();
const HEADER: usize = size_of::<usize>() + 8;

/// The address and control data of one outgoing message.
#[derive(Clone, Copy)]
pub(crate) struct SendHead {
    control: Aligned,
    control_len: usize,
    name: [u8; NAME_LEN],
    name_len: usize,
}

/// The kernel wants control data aligned as a `cmsghdr` is.
#[derive(Clone, Copy)]
#[repr(align(8))]
struct Aligned([u8; CONTROL_LEN]);

impl SendHead {
    pub(crate) const fn new() -> Self {
        SendHead {
            control: Aligned([0; CONTROL_LEN]),
            control_len: 0,
            name: [0; NAME_LEN],
            name_len: 0,
        }
    }

    /// Describes a message to `to` through a socket of family AF_INET6 (`v6`) or AF_INET, to be cut
    /// into datagrams of `gso_size` bytes (0: one datagram), with this outer TOS or traffic class.
    pub(crate) fn set(&mut self, v6: bool, to: &Endpoint, gso_size: u16, tos: Option<u8>) {
        self.name_len = encode_name(to.remote, v6, &mut self.name);
        self.control_len = 0;
        if gso_size != 0 {
            self.push(libc::SOL_UDP, libc::UDP_SEGMENT, &gso_size.to_ne_bytes());
        }
        let remote_v4 = to.remote.ip().to_canonical().is_ipv4();
        if let Some(tos) = tos {
            let tos = i32::from(tos).to_ne_bytes();
            if remote_v4 {
                self.push(libc::IPPROTO_IP, libc::IP_TOS, &tos);
            } else {
                self.push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &tos);
            }
        }
        // The interface a datagram came in on says nothing about the way back, except that link-local
        // addresses mean nothing without it. Forced, it would bypass the routing table.
        let ifindex = match to.remote {
            SocketAddr::V6(remote) if remote.ip().is_unicast_link_local() => to.ifindex,
            SocketAddr::V4(_) | SocketAddr::V6(_) => 0,
        };
        match to.local.map(|ip| ip.to_canonical()) {
            Some(IpAddr::V4(ip)) if remote_v4 && !v6 => {
                let mut info = [0u8; 12];
                info[..4].copy_from_slice(&ifindex.to_ne_bytes());
                info[4..8].copy_from_slice(&ip.octets());
                self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            Some(IpAddr::V4(ip)) if remote_v4 => {
                self.push_v6_info(ip.to_ipv6_mapped(), ifindex);
            }
            Some(IpAddr::V6(ip)) if !remote_v4 && v6 => self.push_v6_info(ip, ifindex),
            Some(_) | None => {}
        }
    }

    pub(crate) fn name(&self) -> &[u8] {
        &self.name[..self.name_len]
    }

    pub(crate) fn control(&self) -> &[u8] {
        &self.control.0[..self.control_len]
    }

    fn push_v6_info(&mut self, ip: Ipv6Addr, ifindex: u32) {
        let mut info = [0u8; 20];
        info[..16].copy_from_slice(&ip.octets());
        info[16..].copy_from_slice(&ifindex.to_ne_bytes());
        self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
    }

    fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        let len = HEADER + data.len();
        let space = len.next_multiple_of(ALIGN);
        let out = &mut self.control.0[self.control_len..self.control_len + space];
        out.fill(0);
        out[..ALIGN].copy_from_slice(&len.to_ne_bytes());
        out[ALIGN..ALIGN + 4].copy_from_slice(&level.to_ne_bytes());
        out[ALIGN + 4..HEADER].copy_from_slice(&kind.to_ne_bytes());
        out[HEADER..len].copy_from_slice(data);
        self.control_len += space;
    }
}

/// What the control data of a received message said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RecvInfo {
    /// Bytes of each datagram but the last in a GRO buffer; 0: one datagram.
    pub(crate) gro_size: usize,
    /// The address the message was sent to, and the interface it came in on.
    pub(crate) local: Option<(IpAddr, u32)>,
    /// An entry of the error queue: errno and the path MTU or other detail.
    pub(crate) error: Option<(i32, u32)>,
}

/// Reads the control data of a received message; unknown or cut-off entries are skipped.
pub(crate) fn parse(mut control: &[u8]) -> RecvInfo {
    let mut info = RecvInfo::default();
    while let Some((header, _)) = control.split_at_checked(HEADER) {
        let len = usize::from_ne_bytes(array(&header[..ALIGN]));
        let level = i32::from_ne_bytes(array(&header[ALIGN..ALIGN + 4]));
        let kind = i32::from_ne_bytes(array(&header[ALIGN + 4..]));
        let Some(data) = control.get(HEADER..len) else {
            break;
        };
        match (level, kind) {
            (libc::SOL_UDP, libc::UDP_GRO) if data.len() >= 2 => {
                // An int since the beginning; the low half is enough on either byte order's int.
                let size = match data.first_chunk::<4>() {
                    Some(bytes) => i32::from_ne_bytes(*bytes),
                    None => i32::from(u16::from_ne_bytes(array(&data[..2]))),
                };
                info.gro_size = usize::try_from(size).unwrap_or(0);
            }
            (libc::IPPROTO_IP, libc::IP_PKTINFO) if data.len() >= 12 => {
                let ifindex = u32::from_ne_bytes(array(&data[..4]));
                // `ipi_addr` is the header's destination, `ipi_spec_dst` the address to answer from.
                let ip: [u8; 4] = array(&data[4..8]);
                info.local = Some((IpAddr::V4(Ipv4Addr::from(ip)), ifindex));
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) if data.len() >= 20 => {
                let ip: [u8; 16] = array(&data[..16]);
                let ifindex = u32::from_ne_bytes(array(&data[16..20]));
                info.local = Some((Ipv6Addr::from(ip).to_canonical(), ifindex));
            }
            (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
                if data.len() >= 16 =>
            {
                // sock_extended_err: errno u32, origin, type, code, pad u8, info u32, data u32
                let errno = i32::from_ne_bytes(array(&data[..4]));
                let detail = u32::from_ne_bytes(array(&data[8..12]));
                info.error = Some((errno, detail));
            }
            _ => {}
        }
        control = control
            .get(len.next_multiple_of(ALIGN)..)
            .unwrap_or_default();
    }
    info
}

/// Writes a socket address for a socket of family AF_INET6 (`v6`; IPv4 becomes v4-mapped) or AF_INET.
/// An IPv6 address on an AF_INET socket is written as it is; the kernel refuses it.
pub(crate) fn encode_name(addr: SocketAddr, v6: bool, out: &mut [u8; NAME_LEN]) -> usize {
    let addr = match addr {
        SocketAddr::V4(v4) if v6 => {
            SocketAddr::V6(SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0))
        }
        other => other,
    };
    out.fill(0);
    out[2..4].copy_from_slice(&addr.port().to_be_bytes());
    match addr {
        SocketAddr::V4(v4) => {
            out[..2].copy_from_slice(&family(libc::AF_INET));
            out[4..8].copy_from_slice(&v4.ip().octets());
            16
        }
        SocketAddr::V6(v6) => {
            out[..2].copy_from_slice(&family(libc::AF_INET6));
            out[4..8].copy_from_slice(&v6.flowinfo().to_be_bytes());
            out[8..24].copy_from_slice(&v6.ip().octets());
            out[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
            28
        }
    }
}

/// Reads a socket address; v4-mapped addresses come out as IPv4.
pub(crate) fn decode_name(name: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(array(name.get(2..4)?));
    let kind: [u8; 2] = array(&name[..2]);
    if kind == family(libc::AF_INET) {
        let ip: [u8; 4] = array(name.get(4..8)?);
        return Some(SocketAddr::new(IpAddr::from(ip), port));
    }
    if kind != family(libc::AF_INET6) {
        return None;
    }
    let ip: [u8; 16] = array(name.get(8..24)?);
    let ip = Ipv6Addr::from(ip);
    match ip.to_ipv4_mapped() {
        Some(v4) => Some(SocketAddr::new(IpAddr::V4(v4), port)),
        None => {
            let scope = u32::from_ne_bytes(array(name.get(24..28)?));
            Some(SocketAddr::V6(SocketAddrV6::new(ip, port, 0, scope)))
        }
    }
}

fn family(value: i32) -> [u8; 2] {
    (value as u16).to_ne_bytes()
}

/// A slice known to be `N` bytes long as an array; a shorter one is filled up with zeros.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    let len = bytes.len().min(N);
    out[..len].copy_from_slice(&bytes[..len]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_round_trip_and_mapped_addresses_become_v4() {
        for text in ["192.0.2.1:1194", "[2001:db8::1]:1194", "[fe80::1%3]:9"] {
            let addr: SocketAddr = text.parse().unwrap();
            let mut name = [0; NAME_LEN];
            let len = encode_name(addr, addr.is_ipv6(), &mut name);
            assert_eq!(decode_name(&name[..len]), Some(addr));
            if addr.is_ipv4() {
                let len = encode_name(addr, true, &mut name);
                assert_eq!(len, 28);
                assert_eq!(decode_name(&name[..len]), Some(addr));
            }
        }
    }

    #[test]
    fn control_data_round_trips() {
        let to = Endpoint {
            remote: "192.0.2.1:1".parse().unwrap(),
            local: Some("192.0.2.9".parse().unwrap()),
            ifindex: 7,
            stream: None,
        };
        for v6 in [false, true] {
            let mut head = SendHead::new();
            head.set(v6, &to, 1400, Some(0x2e));
            let info = parse(head.control());
            assert_eq!(info.local, Some(("192.0.2.9".parse().unwrap(), 0)));
        }
        let to = Endpoint {
            remote: "[fe80::1%7]:1".parse().unwrap(),
            local: Some("fe80::9".parse().unwrap()),
            ifindex: 7,
            stream: None,
        };
        let mut head = SendHead::new();
        head.set(true, &to, 0, None);
        let local = parse(head.control()).local;
        assert_eq!(local, Some(("fe80::9".parse().unwrap(), 7)));
        let mut head = SendHead::new();
        head.push(libc::SOL_UDP, libc::UDP_GRO, &1424i32.to_ne_bytes());
        assert_eq!(parse(head.control()).gro_size, 1424);
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(control in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&control);
            let _ = decode_name(&control);
        }
    }
}
