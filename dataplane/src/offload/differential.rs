//! Split and coalesce against the slow [`reference`](super::reference), over random traffic of every
//! kind: both families, options, extension headers, ECN, fragments, odd sizes, bad checksums,
//! repetitions, truncated packets and trailing bytes.

use proptest::prelude::*;
use proptest::sample::Index;

use super::coalesce::{Coalescer, MAX_SLICES, OPEN_FLOWS, TunCaps};
use super::reference::{self, Header};
use super::sample::{Sample, ethernet, payload};
use super::split::plan_at;
use super::vnet_hdr::VnetHdr;
use crate::cipher::Segment;
use crate::error::DropReason;
use crate::frame;
use crate::tun::DeviceKind::{self, Tap, Tun};

/// Splits with the code under test; `None` is [`DropReason::BadOffload`].
fn split(kind: DeviceKind, hdr: &VnetHdr, packet: &[u8]) -> Option<Vec<Vec<u8>>> {
    let plan = match plan_at(hdr, packet, frame::link_len(kind, packet)) {
        Ok(plan) => plan,
        Err(reason) => {
            assert_eq!(reason, DropReason::BadOffload);
            return None;
        }
    };
    let segment = |i| {
        // Nothing may be left of what was there, and nothing behind may change.
        let mut out = vec![0xee; plan.len_of(i) + 8];
        plan.write(packet, i, &mut out);
        assert_eq!(out.split_off(plan.len_of(i)), [0xee; 8]);
        out
    };
    Some((0..plan.count()).map(segment).collect())
}

fn reference_split(kind: DeviceKind, hdr: &VnetHdr, packet: &[u8]) -> Option<Vec<Vec<u8>>> {
    let hdr = Header::read(&hdr.to_bytes());
    match kind {
        Tun => reference::split(&hdr, packet),
        Tap => reference::split_frame(&hdr, packet),
    }
}

/// What is around a packet: nothing on TUN; a frame without a tag or with one.
#[derive(Clone, Copy, Debug)]
enum Around {
    Nothing,
    Frame(Option<u16>),
}

impl Around {
    fn kind(self) -> DeviceKind {
        match self {
            Around::Nothing => Tun,
            Around::Frame(_) => Tap,
        }
    }

    /// Bytes in front of the packet.
    fn link(self) -> usize {
        match self {
            Around::Nothing => 0,
            Around::Frame(None) => 14,
            Around::Frame(Some(_)) => 18,
        }
    }

    fn wrap(self, packet: Vec<u8>) -> Vec<u8> {
        match self {
            Around::Nothing => packet,
            Around::Frame(tag) => ethernet(tag, &packet),
        }
    }
}

fn any_around() -> impl Strategy<Value = Around> {
    prop_oneof![
        2 => Just(Around::Nothing),
        1 => Just(Around::Frame(None)),
        1 => any::<u16>().prop_map(|tag| Around::Frame(Some(tag))),
    ]
}

/// What stands between the addresses and the transport header.
#[derive(Clone, Debug)]
enum Extra {
    None,
    /// IPv4 options, a multiple of four bytes.
    Options(Vec<u8>),
    /// IPv6 extension headers: kind and content.
    Extensions(Vec<(u8, [u8; 6])>),
}

impl Extra {
    /// Puts them into a packet without any. Returns how many bytes were added; lengths and checksums
    /// are left to the caller.
    fn insert(&self, packet: &mut Vec<u8>) -> usize {
        let before = packet.len();
        match (self, packet[0] >> 4) {
            (Extra::Options(options), 4) => {
                packet[0] += options.len() as u8 / 4;
                packet.splice(20..20, options.iter().copied());
            }
            (Extra::Extensions(headers), 6) => {
                for (kind, content) in headers.iter().rev() {
                    let header = [&[packet[6], 0], &content[..]].concat();
                    packet.splice(40..40, header);
                    packet[6] = *kind;
                }
            }
            _ => {}
        }
        packet.len() - before
    }
}

fn any_extra() -> impl Strategy<Value = Extra> {
    let options = proptest::collection::vec(any::<[u8; 4]>(), 1..=10);
    let kind = prop_oneof![
        6 => Just(0u8), 6 => Just(60), 2 => Just(43), 1 => Just(44), 1 => Just(51), 1 => Just(135)
    ];
    // A length of zero units, and mostly no segments left.
    let content = any::<[u8; 6]>().prop_map(|mut content| {
        content[1] &= 1;
        content
    });
    let extensions = proptest::collection::vec((kind, content), 1..5);
    prop_oneof![
        2 => Just(Extra::None),
        1 => options.prop_map(|options| Extra::Options(options.concat())),
        1 => extensions.prop_map(Extra::Extensions),
    ]
}

fn any_sample() -> impl Strategy<Value = Sample> {
    let ip = (any::<u8>(), any::<u8>(), any::<bool>(), any::<u16>());
    let tcp = (any::<u32>(), any::<u32>(), any::<u8>(), any::<u16>());
    let options = proptest::collection::vec(any::<[u8; 4]>(), 0..=10);
    (any::<bool>(), any::<bool>(), ip, tcp, options).prop_map(|(ipv6, is_tcp, ip, tcp, options)| {
        Sample {
            tcp: is_tcp,
            tos: ip.0,
            ttl: ip.1,
            df: ip.2,
            id: ip.3,
            seq: tcp.0,
            ack: tcp.1,
            flags: tcp.2,
            window: tcp.3,
            options: options.concat(),
            ..Sample::tcp(ipv6)
        }
    })
}

/// A super-packet and its header, as a kernel would hand them over.
fn super_packet(
    sample: &Sample,
    extra: &Extra,
    around: Around,
    data: &[u8],
    size: u16,
) -> (VnetHdr, Vec<u8>) {
    let (mut hdr, mut packet) = sample.build_super(data, size);
    let added = extra.insert(&mut packet);
    hdr.csum_start += (added + around.link()) as u16;
    // The kernel's hint may be anything.
    hdr.hdr_len = hdr.hdr_len.wrapping_mul(3);
    let (at, len) = if sample.ipv6 {
        (4, packet.len() - 40)
    } else {
        (2, packet.len())
    };
    packet[at..at + 2].copy_from_slice(&(len as u16).to_be_bytes());
    (hdr, around.wrap(packet))
}

proptest! {
    #[test]
    fn splitting_is_as_in_the_reference(
        sample in any_sample(),
        extra in any_extra(),
        around in any_around(),
        data in proptest::collection::vec(any::<u8>(), 1..9000),
        size in 1u16..3000,
        ecn: bool,
    ) {
        let (mut hdr, packet) = super_packet(&sample, &extra, around, &data, size);
        if ecn {
            hdr.gso_type |= VnetHdr::ECN;
        }
        let expected = reference_split(around.kind(), &hdr, &packet);
        if let Some(segments) = &expected {
            for segment in segments {
                prop_assert!(reference::is_sound(&segment[around.link()..]));
            }
        }
        prop_assert_eq!(split(around.kind(), &hdr, &packet), expected);
    }

    /// Also about what is refused both must agree.
    #[test]
    fn contradictions_are_judged_as_in_the_reference(
        sample in any_sample(),
        extra in any_extra(),
        around in any_around(),
        len in 1usize..600,
        damage in proptest::collection::vec((any::<Index>(), any::<u8>()), 0..4),
        field in 0usize..7,
        value: u16,
        cut in 0usize..200,
        more in 0usize..3,
    ) {
        let (mut hdr, mut packet) = super_packet(&sample, &extra, around, &payload(len), 100);
        match field {
            0 => hdr.gso_type = value as u8 & 0x87,
            1 => hdr.gso_type = value as u8,
            2 => hdr.gso_size = value % 700,
            3 => hdr.csum_start = value % 700,
            4 => hdr.csum_offset = value % 20,
            5 => hdr.flags = value as u8,
            _ => {}
        }
        for (at, value) in damage {
            let at = at.index(packet.len().min(100));
            packet[at] = value;
        }
        match more {
            0 => packet.truncate(packet.len().saturating_sub(cut)),
            1 => packet.extend(vec![0; cut]),
            _ => {}
        }
        let kind = around.kind();
        prop_assert_eq!(split(kind, &hdr, &packet), reference_split(kind, &hdr, &packet));
    }
}

/// What is odd about one packet of a flow.
#[derive(Clone, Copy, Debug)]
enum Oddity {
    Nothing,
    /// These TCP flags are changed.
    Flags(u8),
    /// Another TOS, mostly in the ECN bits.
    Tos(u8),
    Ttl,
    NoDf,
    FlowLabel,
    Window,
    Ack,
    /// The last option (a timestamp's echo) is another.
    Option,
    /// The id goes this far beyond what is next.
    Id(u16),
    /// As does the sequence number.
    Seq(u32),
    /// The packet before, once more.
    Again,
    /// The reserved flag, more fragments, and an offset.
    Fragment(u16),
    Extra(u8),
    /// A bit of the packet is flipped behind the ports, checksums stay as they are.
    Damage,
    /// As sent by a host that does not use UDP checksums.
    NoChecksum,
    UdpLength,
    Truncated,
    Trailing,
    /// An IP packet of another protocol.
    Protocol,
}

#[derive(Clone, Debug)]
struct Step {
    flow: usize,
    len: usize,
    oddity: Oddity,
    at: Index,
    bits: u8,
}

fn any_oddity() -> impl Strategy<Value = Oddity> {
    use Oddity::*;
    let flag = (0u32..8).prop_map(|bit| Flags(1 << bit));
    let rare = prop_oneof![
        4 => flag,
        2 => prop_oneof![1u8..4, any::<u8>()].prop_map(Tos),
        2 => prop_oneof![Just(1), Just(u16::MAX), any::<u16>()].prop_map(Id),
        2 => prop_oneof![Just(1), Just(u32::MAX), any::<u32>()].prop_map(Seq),
        2 => prop_oneof![Just(0x8000u16), Just(0x2000), any::<u16>()].prop_map(Fragment),
        1 => any::<u8>().prop_map(Extra),
        4 => Just(Damage),
        2 => Just(Again),
        12 => prop::sample::select(vec![
            Ttl, NoDf, FlowLabel, Window, Ack, Option, NoChecksum, UdpLength, Truncated, Trailing,
            Protocol,
        ]),
    ];
    prop_oneof![5 => Just(Nothing), 1 => rare]
}

fn any_step(flows: usize) -> impl Strategy<Value = Step> {
    let len = prop_oneof![8 => Just(64usize), 2 => 0usize..200, 1 => Just(1401)];
    let flow = prop_oneof![2 => Just(0), 3 => 0..flows];
    (flow, len, any_oddity(), any::<Index>(), 0u8..8).prop_map(|(flow, len, oddity, at, bits)| {
        Step {
            flow,
            len,
            oddity,
            at,
            bits,
        }
    })
}

/// The flows of random traffic, of all kinds in turn.
fn flows(count: usize) -> Vec<Sample> {
    let flow = |i: usize| {
        let kind = Sample::tcp(i % 4 >= 2);
        Sample {
            tcp: i.is_multiple_of(2),
            source_port: 40_000 + (i / 4) as u16,
            options: [1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8][..i / 4 % 2 * 12].to_vec(),
            // Both wrap soon.
            seq: u32::MAX - 500,
            id: u16::MAX - 3,
            // ECE everywhere, URG or CWR everywhere: only the first is joined.
            flags: 0x10 | [0, 0, 0, 0x80, 0x40, 0x20, 0, 0][i / 2 % 8],
            ..kind
        }
    };
    (0..count).map(flow).collect()
}

/// The packets of these steps.
fn traffic(steps: &[Step], flow_count: usize, fixed_id: bool) -> Vec<Vec<u8>> {
    let mut flows = flows(flow_count);
    let mut packets: Vec<Vec<u8>> = Vec::new();
    for step in steps {
        let flow = &mut flows[step.flow];
        if let (Oddity::Again, Some(last)) = (step.oddity, packets.last().cloned()) {
            packets.push(last);
            continue;
        }
        match step.oddity {
            Oddity::Id(by) => flow.id = flow.id.wrapping_add(by),
            Oddity::Seq(by) => flow.seq = flow.seq.wrapping_add(by),
            _ => {}
        }
        packets.push(packet(flow, step));
        flow.id = flow.id.wrapping_add(u16::from(!fixed_id));
        flow.seq = flow.seq.wrapping_add(step.len as u32);
    }
    packets
}

/// The next packet of a flow.
fn packet(flow: &Sample, step: &Step) -> Vec<u8> {
    let mut sample = flow.clone();
    match step.oddity {
        Oddity::Flags(bit) => sample.flags ^= bit,
        Oddity::Tos(bits) => sample.tos ^= bits,
        Oddity::Ttl => sample.ttl -= 1,
        Oddity::NoDf => sample.df = false,
        Oddity::FlowLabel => sample.flow_label ^= 1,
        Oddity::Window => sample.window ^= 1,
        Oddity::Ack => sample.ack ^= 1,
        Oddity::Option => {
            if let Some(last) = sample.options.last_mut() {
                *last ^= 1;
            }
        }
        _ => {}
    }
    let mut packet = sample.build(&payload(step.len));
    let at = sample.transport();
    match step.oddity {
        Oddity::Fragment(field) if !sample.ipv6 => {
            packet[6..8].copy_from_slice(&field.to_be_bytes());
            reference::complete(&mut packet);
        }
        Oddity::Extra(kind) => {
            let extra = match sample.ipv6 {
                true => {
                    Extra::Extensions(vec![([0, 43, 44, 51, 60][usize::from(kind % 5)], [0; 6])])
                }
                false => Extra::Options(vec![1; 4]),
            };
            extra.insert(&mut packet);
            reference::complete(&mut packet);
        }
        Oddity::Damage => {
            // With other ports it would be another flow's packet.
            let at = at + 4 + step.at.index(packet.len() - at - 4);
            packet[at] ^= 1 << step.bits;
        }
        Oddity::NoChecksum if !sample.tcp => packet[at + 6..at + 8].fill(0),
        Oddity::UdpLength if !sample.tcp => packet[at + 5] ^= 1,
        Oddity::Truncated => packet.truncate(step.at.index(packet.len())),
        Oddity::Trailing => packet.extend(vec![0; usize::from(step.bits) + 1]),
        Oddity::Protocol => packet[if sample.ipv6 { 6 } else { 9 }] = [1, 50, 59][step.at.index(3)],
        _ => {}
    }
    packet
}

/// How a packet is wrapped into a frame.
#[derive(Clone, Copy, Debug)]
enum Wrapping {
    Plain,
    /// Another source address than the flow's other frames have.
    OtherHost,
    /// Another tag content.
    OtherTag,
    /// Bytes behind the packet.
    Padded(usize),
    /// Another ethertype.
    Arp,
    Twice,
    Cut,
}

fn any_wrapping() -> impl Strategy<Value = Wrapping> {
    use Wrapping::*;
    prop_oneof![
        12 => Just(Plain),
        1 => prop_oneof![
            Just(OtherHost), Just(OtherTag), (1usize..50).prop_map(Padded), Just(Arp), Just(Twice),
            Just(Cut),
        ],
    ]
}

impl Wrapping {
    /// Half of the flows have a tag.
    fn wrap(self, flow: usize, packet: &[u8]) -> Vec<u8> {
        let tag = (flow % 8 >= 4).then_some(0x2000 + flow as u16);
        let mut frame = match self {
            Wrapping::OtherTag => ethernet(tag.map(|tag| tag ^ 0x8000), packet),
            _ => ethernet(tag, packet),
        };
        match self {
            Wrapping::OtherHost => frame[11] ^= 1,
            Wrapping::Padded(len) => frame.extend(vec![0; len]),
            Wrapping::Arp => frame[12..14].copy_from_slice(&[8, 6]),
            Wrapping::Twice => {
                frame.splice(12..12, [0x81, 0, 0, 9]);
            }
            Wrapping::Cut => frame.truncate(17),
            Wrapping::Plain | Wrapping::OtherTag => {}
        }
        frame
    }
}

/// One write to TUN: which packets it was made of, its header and its bytes.
struct Written {
    packets: Vec<usize>,
    hdr: VnetHdr,
    bytes: Vec<u8>,
}

/// Coalesces packets that lie apart in a buffer, as in a receive slab.
fn coalesce(kind: DeviceKind, packets: &[Vec<u8>], caps: TunCaps) -> Vec<Written> {
    let mut buf = vec![0xa5; 3];
    let mut segments = Vec::new();
    for packet in packets {
        segments.push(Segment {
            start: buf.len(),
            len: packet.len(),
        });
        buf.extend(packet);
        buf.extend([0xa5; 25]);
    }
    let mut coalescer = Coalescer::new(packets.len());
    coalescer.set_kind(kind);
    coalescer.coalesce(&mut buf, &segments, caps);
    let written = |write: super::TunWrite<'_>| {
        assert!((1..=MAX_SLICES).contains(&write.slices.len()));
        let slices = write.slices.iter();
        Written {
            packets: slices
                .clone()
                .map(|slice| segments.partition_point(|s| s.start <= slice.start) - 1)
                .collect(),
            hdr: VnetHdr::read(write.vnet).unwrap(),
            bytes: slices
                .flat_map(|slice| buf[slice.start..][..slice.len].to_vec())
                .collect(),
        }
    };
    coalescer.writes().map(written).collect()
}

/// Splitting what was written gives its packets back; but ids that stay the same, which mean nothing,
/// are counted up.
fn stands_for(kind: DeviceKind, write: &Written, packets: &[Vec<u8>]) -> Result<(), TestCaseError> {
    let given: Vec<&Vec<u8>> = write.packets.iter().map(|&i| &packets[i]).collect();
    if let [packet] = given[..] {
        prop_assert_eq!(write.hdr, VnetHdr::default());
        prop_assert_eq!(&write.bytes, packet);
        return Ok(());
    }
    let again = reference_split(kind, &write.hdr, &write.bytes).expect("a super-packet");
    prop_assert_eq!(again.len(), given.len());
    let link = frame::link_len(kind, given[0]);
    let ips: Vec<&[u8]> = given.iter().map(|packet| &packet[link..]).collect();
    prop_assert!(ips.iter().all(|ip| reference::is_sound(ip)));
    let same_id = ips[0][0] >> 4 == 4 && ips[0][4..6] == ips[1][4..6];
    let blank = |ip: &[u8]| match same_id {
        true => reference::without_atomic_id(ip.to_vec()),
        false => ip.to_vec(),
    };
    for (again, packet) in again.iter().zip(given) {
        prop_assert_eq!(&again[..link], &packet[..link]);
        prop_assert_eq!(blank(&again[link..]), blank(&packet[link..]));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// The same packets are joined as in the reference, and splitting what was written gives them
    /// back bit for bit.
    #[test]
    fn coalescing_is_as_in_the_reference(
        steps in proptest::collection::vec(any_step(OPEN_FLOWS), 0..150),
        fixed_id: bool,
        tso: bool,
        uso in prop::bool::weighted(0.8),
    ) {
        let packets = traffic(&steps, OPEN_FLOWS, fixed_id);
        let writes = coalesce(Tun, &packets, TunCaps { tso, uso });
        let groups: Vec<Vec<usize>> = writes.iter().map(|write| write.packets.clone()).collect();
        let expected = reference::coalesce(&packets, tso, uso, OPEN_FLOWS);
        prop_assert_eq!(Some(&groups), expected.as_ref());
        for write in writes {
            stands_for(Tun, &write, &packets)?;
        }
    }

    /// The same of frames: with and without a tag, some of a flow with another Ethernet header, some
    /// padded, some with anything in them.
    #[test]
    fn coalescing_frames_is_as_in_the_reference(
        steps in proptest::collection::vec((any_step(OPEN_FLOWS), any_wrapping()), 0..150),
        tso: bool,
        uso in prop::bool::weighted(0.8),
    ) {
        let (steps, wrappings): (Vec<Step>, Vec<Wrapping>) = steps.into_iter().unzip();
        let packets = traffic(&steps, OPEN_FLOWS, false);
        let frames: Vec<Vec<u8>> = packets
            .iter()
            .zip(&steps)
            .zip(&wrappings)
            .map(|((packet, step), wrapping)| wrapping.wrap(step.flow, packet))
            .collect();
        let writes = coalesce(Tap, &frames, TunCaps { tso, uso });
        let groups: Vec<Vec<usize>> = writes.iter().map(|write| write.packets.clone()).collect();
        let expected = reference::coalesce_frames(&frames, tso, uso, OPEN_FLOWS);
        prop_assert_eq!(Some(&groups), expected.as_ref());
        for write in writes {
            stands_for(Tap, &write, &frames)?;
        }
    }

    /// With more flows than may be open, fewer packets are joined, but each flow keeps its order.
    #[test]
    fn many_flows_keep_their_order(
        steps in proptest::collection::vec(any_step(3 * OPEN_FLOWS), 0..300),
    ) {
        let packets = traffic(&steps, 3 * OPEN_FLOWS, false);
        let writes = coalesce(Tun, &packets, TunCaps { tso: true, uso: true });
        let order: Vec<usize> = writes.iter().flat_map(|write| write.packets.clone()).collect();
        for flow in 0..3 * OPEN_FLOWS {
            let of_flow: Vec<usize> = order.iter().copied().filter(|&i| steps[i].flow == flow).collect();
            let known = of_flow.iter().all(|&i| !matches!(steps[i].oddity, Oddity::Protocol | Oddity::Again));
            prop_assert!(!known || of_flow.is_sorted(), "flow {}: {:?}", flow, of_flow);
        }
        let mut sorted = order;
        sorted.sort_unstable();
        prop_assert_eq!(sorted, (0..packets.len()).collect::<Vec<_>>());
    }
}
