#![no_main]
//! Ethernet frames as they come from a TAP device or a peer: where the IP packet is, cutting it as the
//! slow reference does and joining it again, answers in a frame, MSS, VLAN tags.

#[allow(dead_code, reason = "each target uses its part")]
#[path = "../../dataplane/src/offload/reference.rs"]
mod reference;

use libfuzzer_sys::fuzz_target;
use ringway_dataplane::cipher::Segment;
use ringway_dataplane::forward::vlan::{self, Accept, DevicePort, ToDevice};
use ringway_dataplane::frame::{self, Frame, TAG};
use ringway_dataplane::offload::coalesce::{Coalescer, TunCaps};
use ringway_dataplane::offload::split::{MAX_SEGMENTS, plan_at};
use ringway_dataplane::offload::vnet_hdr::VnetHdr;
use ringway_dataplane::tun::DeviceKind;
use ringway_dataplane::{icmp, mss};

fuzz_target!(|data: &[u8]| {
    let Some((raw, frame)) = data.split_first_chunk::<{ VnetHdr::LEN }>() else {
        return;
    };
    let link = frame::link_len(DeviceKind::Tap, frame);
    assert!(link == frame.len() || matches!(link, 14 | 18));
    split(raw, frame, link);
    answers(frame, link);
    tags(frame);
    for partial in [false, true] {
        let mut bytes = frame.to_vec();
        mss::clamp(&mut bytes[link..], 1360, 1340, partial);
        assert_eq!(bytes[..link], frame[..link]);
    }
});

fn split(raw: &[u8; VnetHdr::LEN], frame: &[u8], link: usize) {
    let header = VnetHdr::read(raw).expect("ten bytes");
    let expected = reference::split_frame(&reference::Header::read(raw), frame);
    let Ok(plan) = plan_at(&header, frame, link) else {
        assert!(expected.is_none(), "refused");
        return;
    };
    assert!((1..=MAX_SEGMENTS).contains(&plan.count()));
    let mut buffer = Vec::new();
    let mut segments = Vec::new();
    for i in 0..plan.count() {
        let (start, len) = (buffer.len(), plan.len_of(i));
        buffer.resize(start + len, 0xee);
        plan.write(frame, i, &mut buffer[start..]);
        segments.push(Segment { start, len });
    }
    let cut = |buffer: &[u8], s: &Segment| buffer[s.start..s.start + s.len].to_vec();
    let made: Vec<Vec<u8>> = segments.iter().map(|s| cut(&buffer, s)).collect();
    assert_eq!(Some(&made), expected.as_ref());
    if made.len() == 1 {
        return;
    }
    let caps = TunCaps {
        tso: true,
        uso: true,
    };
    let mut coalescer = Coalescer::new(segments.len());
    coalescer.set_kind(DeviceKind::Tap);
    coalescer.coalesce(&mut buffer, &segments, caps);
    let again = coalescer.writes().flat_map(|write| {
        let joined = write.slices.iter().flat_map(|s| cut(&buffer, s));
        let header = reference::Header::read(write.vnet);
        reference::split_frame(&header, &joined.collect::<Vec<u8>>()).expect("a good super-packet")
    });
    assert_eq!(again.collect::<Vec<_>>(), made);
}

fn answers(frame: &[u8], link: usize) {
    let mut out = [0; icmp::MAX_LEN];
    for written in [
        icmp::too_big_at(frame, link, 1400, &mut out),
        icmp::no_route_at(frame, link, &mut out),
    ] {
        if written.is_some() {
            let (ours, theirs) = (Frame::parse(&out), Frame::parse(frame));
            let (ours, theirs) = (ours.expect("a frame"), theirs.expect("a frame"));
            assert_eq!(ours.destination(), theirs.source());
            assert_eq!(ours.source(), theirs.destination());
            assert_eq!(ours.tag(), theirs.tag());
        }
    }
}

/// The VLAN of the client that sent it.
const CLIENT: u16 = 7;

fn tags(frame: &[u8]) {
    for accept in [Accept::All, Accept::Tagged, Accept::Untagged] {
        for pvid in [1, CLIENT] {
            let port = DevicePort { accept, pvid };
            from_device(port, frame);
            if vlan::from_client(frame) {
                to_device(port, frame);
            }
        }
    }
}

fn from_device(port: DevicePort, frame: &[u8]) {
    let tag = Frame::parse(frame).and_then(|frame| frame.tag());
    let mut copy = frame.to_vec();
    let removed = vlan::remove_tag(&mut VnetHdr::default(), &mut copy);
    assert_eq!(removed, tag.map_or(0, |_| TAG));
    if tag.is_some() {
        assert_eq!(copy[TAG..], [&frame[..12], &frame[16..]].concat());
    }
    let Some(from) = port.from_device(frame) else {
        return;
    };
    let vlan = tag.map_or(0, |tag| tag.vid());
    assert_eq!(from.tagged, vlan != 0);
    assert_eq!(from.vlan, if from.tagged { vlan } else { port.pvid });
}

/// What the device gets of a client's frame is in the client's VLAN and otherwise the same.
fn to_device(port: DevicePort, frame: &[u8]) {
    let Some(action) = port.to_device(CLIENT, frame) else {
        return;
    };
    let mut copy = [&[0; TAG], frame].concat();
    let written = match (action, vlan::write_tag(action, &mut copy)) {
        (ToDevice::Plain, None) => frame,
        (ToDevice::Insert(_), Some(0)) => {
            assert_eq!([&copy[..12], &copy[16..]].concat(), frame);
            &copy[..]
        }
        (ToDevice::Change(_), Some(TAG)) => {
            let changed = &copy[TAG..];
            assert_eq!(changed[..14], frame[..14]);
            assert_eq!(changed[14] & 0xf0, frame[14] & 0xf0, "the priority");
            assert_eq!(changed[16..], frame[16..]);
            changed
        }
        other => panic!("{other:?}"),
    };
    if let Some(again) = port.from_device(written) {
        assert_eq!(again.vlan, CLIENT);
    }
}
