//! Reading Ethernet frames in place (IEEE 802.3, one 802.1Q tag).
//!
//! [`Frame`] looks at a frame without copying it and judges no address. Only the outermost tag is
//! looked behind; a frame with a second one (802.1ad) carries no IP packet as far as this crate is
//! concerned, and passes as it is.
//!
//! ```text
//!  | destination:48 | source:48 |                      ethertype:16 | payload ... |
//!  | destination:48 | source:48 | 0x8100:16 pcp:3 dei:1 vid:12 | ethertype:16 | payload ... |
//! ```
//!
//! The packet path treats a TUN packet and a frame alike: so many bytes in front of the IP packet
//! ([`link_len`]), none of them on TUN, and then the packet.

use crate::tun::DeviceKind;

/// Bytes of an Ethernet header without a tag.
pub const HEADER: usize = 14;
/// Bytes of an 802.1Q tag.
pub const TAG: usize = 4;
/// Bytes in front of the IP packet, at most.
pub const MAX_LINK: usize = HEADER + TAG;

/// Ethertype of an 802.1Q tag.
pub const VLAN: u16 = 0x8100;
/// Ethertype of IPv4.
pub const IPV4: u16 = 0x0800;
/// Ethertype of IPv6.
pub const IPV6: u16 = 0x86dd;

/// A hardware address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// To everybody.
    pub const BROADCAST: Mac = Mac([0xff; 6]);

    /// True for multicast and broadcast addresses (the group bit of IEEE 802).
    #[inline]
    pub fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}

/// As `02:00:5e:10:00:01`.
impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The text was no hardware address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a hardware address like 02:00:5e:10:00:01")]
pub struct BadMac;

/// Six pairs of hexadecimal digits with colons between them.
impl std::str::FromStr for Mac {
    type Err = BadMac;

    fn from_str(text: &str) -> Result<Self, BadMac> {
        let mut bytes = [0; 6];
        let mut pairs = text.split(':');
        for byte in &mut bytes {
            let pair = pairs.next().ok_or(BadMac)?;
            let digits = pair.len() == 2 && pair.bytes().all(|digit| digit.is_ascii_hexdigit());
            *byte = u8::from_str_radix(pair, 16)
                .ok()
                .filter(|_| digits)
                .ok_or(BadMac)?;
        }
        match pairs.next() {
            None => Ok(Mac(bytes)),
            Some(_) => Err(BadMac),
        }
    }
}

/// The content of an 802.1Q tag behind its ethertype.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tci(pub u16);

impl Tci {
    /// The VLAN id, 0 to 4095; 0 means that the tag carries a priority only.
    #[inline]
    pub fn vid(self) -> u16 {
        self.0 & 0x0fff
    }

    /// The priority (3 bits) and the drop-eligible bit, where they lie in the tag.
    #[inline]
    pub fn priority(self) -> u16 {
        self.0 & 0xf000
    }
}

/// A frame with a whole Ethernet header.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    bytes: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Looks at a frame. `None` when it is shorter than an Ethernet header.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        (bytes.len() >= HEADER).then_some(Frame { bytes })
    }

    /// Where it goes.
    #[inline]
    pub fn destination(&self) -> Mac {
        self.mac(0)
    }

    /// Where it comes from.
    #[inline]
    pub fn source(&self) -> Mac {
        self.mac(6)
    }

    /// Its 802.1Q tag, if it has a whole one.
    #[inline]
    pub fn tag(&self) -> Option<Tci> {
        (self.word(12) == VLAN && self.bytes.len() >= HEADER + TAG).then(|| Tci(self.word(14)))
    }

    /// The ethertype, that behind the tag if there is one.
    #[inline]
    pub fn ethertype(&self) -> u16 {
        self.word(self.header_len() - 2)
    }

    /// Bytes of the header, with the tag.
    #[inline]
    pub fn header_len(&self) -> usize {
        match self.tag() {
            Some(_) => HEADER + TAG,
            None => HEADER,
        }
    }

    /// Where the IP packet begins. `None` when the ethertype is not IP, or the first byte behind the
    /// header is not of the version that it says.
    #[inline]
    pub fn ip_offset(&self) -> Option<usize> {
        let offset = self.header_len();
        let version = self.bytes.get(offset)? >> 4;
        let matches = match self.word(offset - 2) {
            IPV4 => version == 4,
            IPV6 => version == 6,
            _ => false,
        };
        matches.then_some(offset)
    }

    /// `at` is even and within the header.
    #[inline]
    fn word(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    #[inline]
    fn mac(&self, at: usize) -> Mac {
        let mut mac = Mac::default();
        mac.0.copy_from_slice(&self.bytes[at..at + 6]);
        mac
    }
}

/// Bytes in front of the IP packet in what a device of this kind carries: 0 for TUN; 14 or 18 for a
/// frame with IP in it; all bytes of any other frame, so that what follows is empty and is no packet
/// to anybody.
#[inline]
pub fn link_len(kind: DeviceKind, bytes: &[u8]) -> usize {
    match kind {
        DeviceKind::Tun => 0,
        DeviceKind::Tap => Frame::parse(bytes)
            .and_then(|frame| frame.ip_offset())
            .unwrap_or(bytes.len()),
    }
}

/// Writes the header of an answer to a frame to the start of `out`: `header`, the Ethernet header of
/// what is answered, with its addresses swapped. Returns its length; `None` when nobody must be
/// answered, because the frame was not for one host or not from one, and when `out` is too short.
/// An empty `header`, as on TUN, is answered with an empty one.
pub fn answer_header(header: &[u8], out: &mut [u8]) -> Option<usize> {
    let out = out.get_mut(..header.len())?;
    if header.is_empty() {
        return Some(0);
    }
    let frame = Frame::parse(header)?;
    let (destination, source) = (frame.destination(), frame.source());
    if destination.is_group() || source.is_group() || source == Mac::default() {
        return None;
    }
    out.copy_from_slice(header);
    out[..6].copy_from_slice(&source.0);
    out[6..12].copy_from_slice(&destination.0);
    Some(header.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offload::sample::{Sample, ethernet};
    use proptest::prelude::*;

    const ONE: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const TWO: Mac = Mac([2, 0, 0, 0, 0, 2]);

    #[test]
    fn fields_of_a_plain_frame() {
        let packet = Sample::udp(false).build(b"x");
        let bytes = ethernet(None, &packet);
        let frame = Frame::parse(&bytes).unwrap();
        assert_eq!((frame.destination(), frame.source()), (TWO, ONE));
        assert_eq!((frame.tag(), frame.ethertype()), (None, IPV4));
        assert_eq!(frame.ip_offset(), Some(14));
        assert_eq!(link_len(DeviceKind::Tap, &bytes), 14);
        assert_eq!(link_len(DeviceKind::Tun, &bytes), 0);
    }

    #[test]
    fn fields_of_a_tagged_frame() {
        let packet = Sample::udp(true).build(b"x");
        let bytes = ethernet(Some(0xb123), &packet);
        let frame = Frame::parse(&bytes).unwrap();
        let tag = frame.tag().unwrap();
        assert_eq!((tag.vid(), tag.priority()), (0x123, 0xb000));
        assert_eq!((frame.ethertype(), frame.header_len()), (IPV6, 18));
        assert_eq!(frame.ip_offset(), Some(18));
    }

    #[test]
    fn what_is_not_ip_has_nothing_behind_its_link() {
        let packet = Sample::udp(false).build(b"x");
        let mut arp = ethernet(None, &packet);
        arp[12..14].copy_from_slice(&[8, 6]);
        let mut other_version = ethernet(None, &packet);
        other_version[14] = 0x65;
        let mut twice = ethernet(Some(5), &packet);
        twice[16..18].copy_from_slice(&VLAN.to_be_bytes());
        let bare = ethernet(None, &packet)[..14].to_vec();
        let cut_tag = ethernet(Some(5), &packet)[..17].to_vec();
        for bytes in [
            arp,
            other_version,
            twice,
            bare,
            cut_tag,
            vec![0; 13],
            vec![],
        ] {
            assert_eq!(link_len(DeviceKind::Tap, &bytes), bytes.len());
        }
        assert!(Frame::parse(&[0; 13]).is_none());
        let cut = ethernet(Some(5), &packet)[..17].to_vec();
        let frame = Frame::parse(&cut).unwrap();
        assert_eq!((frame.tag(), frame.ethertype()), (None, VLAN));
    }

    #[test]
    fn answers_swap_the_addresses_and_go_to_one_host_only() {
        let bytes = ethernet(Some(0x2007), &[0x45]);
        let mut out = [0xee; 20];
        assert_eq!(answer_header(&bytes[..18], &mut out), Some(18));
        let answer = Frame::parse(&out).unwrap();
        assert_eq!((answer.destination(), answer.source()), (ONE, TWO));
        assert_eq!(answer.tag(), Some(Tci(0x2007)));
        assert_eq!(answer_header(&bytes[..18], &mut out[..17]), None);
        assert_eq!(answer_header(&[], &mut out), Some(0));
        for (at, value) in [(0, [0xff; 6]), (6, [0x33; 6]), (6, [0; 6])] {
            let mut bytes = bytes.clone();
            bytes[at..at + 6].copy_from_slice(&value);
            assert_eq!(answer_header(&bytes[..18], &mut out), None);
        }
    }

    #[test]
    fn addresses_as_text() {
        assert_eq!(
            "02:00:5E:10:00:0f".parse(),
            Ok(Mac([2, 0, 0x5e, 16, 0, 15]))
        );
        assert_eq!(
            Mac([2, 0, 0x5e, 16, 0, 15]).to_string(),
            "02:00:5e:10:00:0f"
        );
        for bad in [
            "",
            "02:00:5e:10:00",
            "02:00:5e:10:00:01:02",
            "2:0:5e:10:0:1",
            "02-00-5e-10-00-01",
            "02:00:5e:10:00:+1",
            "02:00:5e:10:00:0g",
        ] {
            assert_eq!(bad.parse::<Mac>(), Err(BadMac), "{bad}");
        }
        assert!(Mac::BROADCAST.is_group() && !ONE.is_group());
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..40), kind: u8) {
            let mut bytes = bytes;
            if bytes.len() > 13 {
                let kinds = [[0x81, 0], [8, 0], [0x86, 0xdd], [bytes[12], bytes[13]]];
                bytes[12..14].copy_from_slice(&kinds[usize::from(kind % 4)]);
            }
            let link = link_len(DeviceKind::Tap, &bytes);
            prop_assert!(link == bytes.len() || matches!(link, 14 | 18));
            if let Some(frame) = Frame::parse(&bytes) {
                prop_assert!(frame.header_len() <= bytes.len());
                let mut out = [0; MAX_LINK];
                let answer = answer_header(&bytes[..frame.header_len()], &mut out);
                prop_assert!(answer.is_none_or(|len| len == frame.header_len()));
            }
        }
    }
}
