//! VLANs of a TAP server (`vlan-tagging`, `vlan-accept`, `vlan-pvid`; protocol §11): each client is an
//! untagged port of a switch, the device is a port that `vlan-accept` describes. Frames go only to
//! ports of their VLAN.
//!
//! ```text
//!   client's frame            to the device
//!   any VLAN tag      -> drop
//!   untagged, or      -> VLAN of the client | tagged:   with the client's tag
//!   priority tag                            | untagged: as it is, if the client's VLAN is the device's
//!                                           | all:      as it is, or with the tag of another VLAN
//!
//!   device's frame            to clients
//!   VLAN tag          -> its VLAN, without the tag      (untagged: drop)
//!   priority tag      -> VLAN of the device, as it is
//!   untagged          -> VLAN of the device, as it is   (tagged: drop)
//! ```
//!
//! A priority tag has VLAN id 0 (IEEE 802.1Q). Towards the device it keeps its priority and gets the id.
//! Nothing here holds a frame or counts it; [`remove_tag`] and [`write_tag`] work in place.

use crate::frame::{Frame, HEADER, TAG, Tci, VLAN};
use crate::offload::VnetHdr;

/// Bytes of the two addresses, in front of a tag.
const ADDRESSES: usize = 12;

/// VLAN of everything where there is no `vlan-tagging`.
pub const NONE: u16 = 0;
/// Smallest and largest `vlan-pvid`; 1 is the default.
pub const PVID: std::ops::RangeInclusive<u16> = 1..=4094;

/// `vlan-accept`: which frames the device takes and gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Accept {
    /// With a tag and without one.
    #[default]
    All,
    /// With a tag.
    Tagged,
    /// Without one.
    Untagged,
}

/// The device as a port of the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DevicePort {
    /// `vlan-accept`
    pub accept: Accept,
    /// `vlan-pvid` of the server.
    pub pvid: u16,
}

/// A frame of the device that goes to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FromDevice {
    /// Its VLAN: that of the clients it may go to.
    pub vlan: u16,
    /// [`remove_tag`] first.
    pub tagged: bool,
}

/// How a client's frame is handed to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToDevice {
    /// As it is.
    Plain,
    /// With this tag in front, which needs [`TAG`] bytes more.
    Insert(Tci),
    /// With this content in the tag that it has.
    Change(Tci),
}

impl DevicePort {
    /// What becomes of a frame from the device; `None` drops it.
    #[inline]
    pub fn from_device(&self, frame: &[u8]) -> Option<FromDevice> {
        let tagged = match vlan_id(frame)? {
            Vid::Untagged if self.accept == Accept::Tagged => return None,
            Vid::Untagged => None,
            // As it is even with `vlan-accept tagged`, like OpenVPN.
            Vid::Priority(_) => None,
            Vid::Tagged(_) if self.accept == Accept::Untagged => return None,
            Vid::Tagged(tag) => Some(tag.vid()),
        };
        Some(FromDevice {
            vlan: tagged.unwrap_or(self.pvid),
            tagged: tagged.is_some(),
        })
    }

    /// What becomes of a frame for the device from a client of VLAN `pvid`; `None` drops it. The client
    /// was allowed to send it: [`from_client`].
    #[inline]
    pub fn to_device(&self, pvid: u16, frame: &[u8]) -> Option<ToDevice> {
        match self.accept {
            Accept::Untagged => (pvid == self.pvid).then_some(ToDevice::Plain),
            Accept::All if pvid == self.pvid => Some(ToDevice::Plain),
            Accept::All | Accept::Tagged => match vlan_id(frame)? {
                Vid::Untagged => Some(ToDevice::Insert(Tci(pvid))),
                Vid::Priority(tag) => Some(ToDevice::Change(Tci(tag.priority() | pvid))),
                Vid::Tagged(_) => None,
            },
        }
    }
}

/// Whether a client may send this frame: not one with a VLAN of its own choice.
#[inline]
pub fn from_client(frame: &[u8]) -> bool {
    let tag = Frame::parse(frame).map(|frame| frame.tag());
    tag.is_some_and(|tag| tag.is_none_or(|tag| tag.vid() == 0))
}

/// Takes the tag out of a frame that has one, and out of the counts of its virtio header. Returns how
/// many bytes further the frame begins now; 0 and no change when there is no tag.
pub fn remove_tag(header: &mut VnetHdr, frame: &mut [u8]) -> usize {
    if Frame::parse(frame).is_none_or(|frame| frame.tag().is_none()) {
        return 0;
    }
    frame.copy_within(..ADDRESSES, TAG);
    // Without the flag the field means nothing.
    header.csum_start = header.csum_start.saturating_sub(TAG as u16);
    header.hdr_len = header.hdr_len.saturating_sub(TAG as u16);
    TAG
}

/// Writes a tag into `bytes`, which are [`TAG`] bytes of room and a frame behind them, and gives the
/// place where the frame begins now: 0, or [`TAG`] when the frame already had a tag, whose content is
/// changed. `None` for what is no frame, or no [`ToDevice`] but [`ToDevice::Plain`], and nothing is
/// changed.
///
/// For a frame that is part of a super-packet, or becomes one, this comes before coalescing, so that
/// headers are counted right.
pub fn write_tag(action: ToDevice, bytes: &mut [u8]) -> Option<usize> {
    let frame = Frame::parse(bytes.get(TAG..)?)?;
    match action {
        ToDevice::Plain => None,
        ToDevice::Insert(tag) => {
            bytes.copy_within(TAG..TAG + ADDRESSES, 0);
            bytes[ADDRESSES..ADDRESSES + 2].copy_from_slice(&VLAN.to_be_bytes());
            bytes[ADDRESSES + 2..HEADER + 2].copy_from_slice(&tag.0.to_be_bytes());
            Some(0)
        }
        ToDevice::Change(tag) => {
            frame.tag()?;
            bytes[TAG + HEADER..TAG + HEADER + 2].copy_from_slice(&tag.0.to_be_bytes());
            Some(TAG)
        }
    }
}

enum Vid {
    Untagged,
    Priority(Tci),
    Tagged(Tci),
}

/// `None` for what is no frame, or ends within its tag.
#[inline]
fn vlan_id(bytes: &[u8]) -> Option<Vid> {
    let frame = Frame::parse(bytes)?;
    match frame.tag() {
        None if frame.ethertype() == VLAN => None,
        None => Some(Vid::Untagged),
        Some(tag) if tag.vid() == 0 => Some(Vid::Priority(tag)),
        Some(tag) => Some(Vid::Tagged(tag)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame;
    use crate::offload::sample::{Sample, ethernet, payload};
    use crate::offload::split;
    use proptest::prelude::*;

    fn tagged(tag: Option<u16>) -> Vec<u8> {
        ethernet(tag, &Sample::udp(false).build(b"inside"))
    }

    #[test]
    fn from_the_device() {
        let to = |vlan, tagged| Some(FromDevice { vlan, tagged });
        // accept, untagged, priority tag, VLAN 7
        for (accept, expected) in [
            (Accept::All, [to(3, false), to(3, false), to(7, true)]),
            (Accept::Tagged, [None, to(3, false), to(7, true)]),
            (Accept::Untagged, [to(3, false), to(3, false), None]),
        ] {
            let port = DevicePort { accept, pvid: 3 };
            for (tag, expected) in [None, Some(0x6000), Some(0x6007)].into_iter().zip(expected) {
                assert_eq!(
                    port.from_device(&tagged(tag)),
                    expected,
                    "{accept:?} {tag:?}"
                );
            }
            assert_eq!(port.from_device(&tagged(None)[..13]), None);
            assert_eq!(port.from_device(&tagged(Some(7))[..17]), None);
        }
    }

    #[test]
    fn to_the_device() {
        use ToDevice::{Change, Insert, Plain};
        // accept, client's VLAN, untagged, priority tag
        for (accept, pvid, plain, priority) in [
            (Accept::All, 3, Some(Plain), Some(Plain)),
            (
                Accept::All,
                9,
                Some(Insert(Tci(9))),
                Some(Change(Tci(0x6009))),
            ),
            (
                Accept::Tagged,
                3,
                Some(Insert(Tci(3))),
                Some(Change(Tci(0x6003))),
            ),
            (
                Accept::Tagged,
                9,
                Some(Insert(Tci(9))),
                Some(Change(Tci(0x6009))),
            ),
            (Accept::Untagged, 3, Some(Plain), Some(Plain)),
            (Accept::Untagged, 9, None, None),
        ] {
            let port = DevicePort { accept, pvid: 3 };
            assert_eq!(
                port.to_device(pvid, &tagged(None)),
                plain,
                "{accept:?} {pvid}"
            );
            assert_eq!(port.to_device(pvid, &tagged(Some(0x6000))), priority);
        }
        let port = DevicePort {
            accept: Accept::Tagged,
            pvid: 3,
        };
        assert_eq!(port.to_device(9, &tagged(Some(9))), None);
        assert_eq!(port.to_device(9, &tagged(Some(9))[..17]), None);
    }

    #[test]
    fn clients_choose_no_vlan() {
        assert!(from_client(&tagged(None)));
        assert!(from_client(&tagged(Some(0xe000))));
        assert!(!from_client(&tagged(Some(1))));
        assert!(!from_client(&[0; 13]));
    }

    #[test]
    fn a_super_packet_without_its_tag_is_split_like_one_that_never_had_any() {
        let sample = Sample::tcp(false);
        let (plain, packet) = sample.build_super(&payload(5000), 1000);
        let mut header = VnetHdr {
            csum_start: plain.csum_start + 18,
            hdr_len: plain.hdr_len + 18,
            ..plain
        };
        let mut bytes = ethernet(Some(7), &packet);
        let start = remove_tag(&mut header, &mut bytes);
        let bytes = &bytes[start..];
        assert_eq!(bytes, ethernet(None, &packet));
        let plan = split::plan_at(&header, bytes, frame::HEADER).unwrap();
        assert_eq!(plan.count(), 5);
        assert_eq!(header.hdr_len, plain.hdr_len + 14);
    }

    proptest! {
        #[test]
        fn a_tag_written_can_be_taken_out_again(vid in PVID, inside in proptest::collection::vec(any::<u8>(), 0..60)) {
            let plain = ethernet(None, &inside);
            let mut bytes = [&[0xee; TAG], &plain[..]].concat();
            prop_assert_eq!(write_tag(ToDevice::Insert(Tci(vid)), &mut bytes), Some(0));
            prop_assert_eq!(&bytes, &ethernet(Some(vid), &inside));
            let changed = [&[0xee; TAG], &bytes[..]].concat();
            let mut again = changed.clone();
            let to = ToDevice::Change(Tci(0x4001));
            prop_assert_eq!(write_tag(to, &mut again), Some(TAG));
            prop_assert_eq!(&again[TAG..], &ethernet(Some(0x4001), &inside));
            prop_assert_eq!(write_tag(ToDevice::Plain, &mut again), None);
            let mut header = VnetHdr::default();
            prop_assert_eq!(remove_tag(&mut header, &mut bytes), TAG);
            prop_assert_eq!(&bytes[TAG..], &plain);
            prop_assert_eq!(header, VnetHdr::default());
        }

        #[test]
        fn garbage_is_dropped_or_left_as_it_is(mut bytes in proptest::collection::vec(any::<u8>(), 0..24), tag: bool, pvid in PVID) {
            if tag && bytes.len() >= 14 {
                bytes[12..14].copy_from_slice(&VLAN.to_be_bytes());
            }
            for accept in [Accept::All, Accept::Tagged, Accept::Untagged] {
                let port = DevicePort { accept, pvid: 1 };
                if let Some(from) = port.from_device(&bytes) {
                    prop_assert!(from.vlan == 1 || from.tagged);
                    let mut copy = bytes.clone();
                    let removed = remove_tag(&mut VnetHdr::default(), &mut copy);
                    prop_assert!(!from.tagged || removed == TAG);
                }
                if let Some(action) = port.to_device(pvid, &bytes) {
                    let mut copy = [&[0; TAG], &bytes[..]].concat();
                    let at = write_tag(action, &mut copy);
                    prop_assert_eq!(at.is_none(), action == ToDevice::Plain);
                    if let Some(at) = at {
                        let tag = Frame::parse(&copy[at..]).unwrap().tag().unwrap();
                        prop_assert_eq!(tag.vid(), pvid);
                    }
                }
            }
            let _ = from_client(&bytes);
        }
    }
}
