//! `fragment`: cutting packets that are too large for one datagram, and putting them together again
//! (protocol §7.10).
//!
//! A header of four bytes, big endian, stands in front of every payload, inside the encryption and in
//! front of the compression framing:
//!
//! ```text
//!   bits   31..29 | 28..15          | 14..10 | 9..2     | 1..0
//!          0      | max size / 4    | index  | sequence | type: 0 whole, 1 part, 2 last part
//!
//!   | header | framed packet |                    whole: all bits of the header are zero
//!   | header | size bytes | header | size bytes | header | the rest |    index 0, 1, 2 (last)
//! ```
//!
//! All parts but the last are equally long, a multiple of 4 bytes, which the header of the last part
//! repeats; at most 32 parts make a packet. Nothing here does I/O or reads the clock.

use std::ops::Range;

use crate::error::DropReason;

/// Bytes of the header.
pub const HEADER_LEN: usize = 4;

/// Most parts of a packet.
pub const MAX_PARTS: usize = 32;

/// Packets that may be incomplete at a time, and how far a packet may lag behind the newest one.
const WINDOW: u8 = 25;

/// Seconds an incomplete packet waits for its next part.
const LIFETIME: u32 = 10;

/// Sizes are multiples of this.
const UNIT: usize = 4;

/// How packets of a peer are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Longest part, in bytes without its header; at least [`Fragment::MIN_PAYLOAD`].
    pub payload: u16,
    /// Longest inner packet that is put together, in bytes without compression framing.
    pub largest: u16,
}

impl Fragment {
    /// A smaller limit is not kept to: what remained of a datagram would be headers only.
    pub const MIN_PAYLOAD: u16 = 32;
}

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// A packet in one piece.
    Whole,
    /// A part that others follow; its own length is that of every part.
    Part {
        /// Which packet it belongs to.
        sequence: u8,
        /// Its place, from 0.
        index: u8,
    },
    /// The last part.
    Last {
        /// Which packet it belongs to.
        sequence: u8,
        /// Its place, from 0.
        index: u8,
        /// Bytes of each other part, a multiple of 4.
        size: u16,
    },
}

impl Header {
    /// Reads the header in front of a payload.
    ///
    /// # Errors
    /// [`DropReason::BadFragment`] if it is cut short, of an unknown type, or says "whole" and more.
    pub fn parse(payload: &[u8]) -> Result<Self, DropReason> {
        let bytes = payload
            .first_chunk::<HEADER_LEN>()
            .ok_or(DropReason::BadFragment)?;
        let bits = u32::from_be_bytes(*bytes);
        let sequence = (bits >> 2) as u8;
        let index = (bits >> 10 & 0x1f) as u8;
        match bits & 3 {
            0 if bits == 0 => Ok(Header::Whole),
            1 => Ok(Header::Part { sequence, index }),
            2 => Ok(Header::Last {
                sequence,
                index,
                size: (bits >> 15 & 0x3fff) as u16 * UNIT as u16,
            }),
            _ => Err(DropReason::BadFragment),
        }
    }

    /// The header's bytes; of an index only five bits are written, of a size what 4 divides.
    pub fn to_bytes(self) -> [u8; HEADER_LEN] {
        let place =
            |sequence: u8, index: u8| u32::from(sequence) << 2 | u32::from(index & 0x1f) << 10;
        let bits = match self {
            Header::Whole => 0,
            Header::Part { sequence, index } => 1 | place(sequence, index),
            Header::Last {
                sequence,
                index,
                size,
            } => 2 | place(sequence, index) | u32::from(size / UNIT as u16) << 15,
        };
        bits.to_be_bytes()
    }
}

/// How one framed packet is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    len: usize,
    size: usize,
    count: usize,
}

impl Cut {
    /// A packet of `len` bytes, framing included, in parts of at most `limit` bytes: one if it fits,
    /// otherwise as few as possible and about equally long. `None` if 32 do not do.
    pub fn new(len: usize, limit: usize) -> Option<Self> {
        if len <= limit {
            return Some(Cut {
                len,
                size: len,
                count: 1,
            });
        }
        let most = limit / UNIT * UNIT;
        if most == 0 {
            return None;
        }
        let size = len.div_ceil(len.div_ceil(most)).next_multiple_of(UNIT);
        let count = len.div_ceil(size);
        (count <= MAX_PARTS && size <= usize::from(u16::MAX)).then_some(Cut { len, size, count })
    }

    /// The longest packet, framing included, that can be cut in parts of at most `limit` bytes.
    pub fn longest(limit: usize) -> usize {
        limit / UNIT * UNIT * MAX_PARTS
    }

    /// How many parts there are, at least one.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Where the `index`th part is in the packet.
    pub fn part(&self, index: usize) -> Range<usize> {
        let start = (index * self.size).min(self.len);
        start..(start + self.size).min(self.len)
    }

    /// What stands in front of the `index`th part of the packet with this number.
    pub fn header(&self, sequence: u8, index: usize) -> Header {
        let place = index as u8;
        match index + 1 {
            _ if self.count == 1 => Header::Whole,
            next if next == self.count => Header::Last {
                sequence,
                index: place,
                size: self.size as u16,
            },
            _ => Header::Part {
                sequence,
                index: place,
            },
        }
    }
}

/// The sending half: what the packets to a peer are cut to, and their numbers.
#[derive(Clone, Debug)]
pub struct Cutter {
    configured: usize,
    limit: usize,
    sequence: u8,
}

impl Cutter {
    /// Parts as long as the configuration allows.
    pub fn new(config: Fragment) -> Self {
        let configured = usize::from(config.payload.max(Fragment::MIN_PAYLOAD));
        Cutter {
            configured,
            limit: configured,
            sequence: 0,
        }
    }

    /// Takes over another configuration.
    pub fn reconfigure(&mut self, config: Fragment) {
        self.configured = Cutter::new(config).configured;
        self.limit = self.configured;
    }

    /// Keeps parts within `path` bytes, headers not counted; `None` when nothing is known of the path.
    pub fn fit(&mut self, path: Option<usize>) {
        let path = path.map_or(self.configured, |path| {
            path.max(usize::from(Fragment::MIN_PAYLOAD))
        });
        self.limit = self.configured.min(path);
    }

    /// Longest part at present.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// How a packet of `len` bytes, framing included, leaves, and its number.
    pub fn cut(&mut self, len: usize) -> Option<(Cut, u8)> {
        let cut = Cut::new(len, self.limit)?;
        if cut.count > 1 {
            self.sequence = self.sequence.wrapping_add(1);
        }
        Some((cut, self.sequence))
    }
}

/// What became of a received payload.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken<'a> {
    /// It is a packet behind its header.
    Whole,
    /// It is kept; more parts are to come.
    Kept,
    /// It was what this packet still lacked.
    Packet(&'a [u8]),
}

/// The receiving half: packets of one peer that are not complete yet.
///
/// It holds at most 25 of them, each in a buffer of the largest packet's length. A buffer is made
/// when there is none to use again, so a peer without loss has one or two.
#[derive(Debug)]
pub struct Reassembler {
    largest: usize,
    newest: Option<u8>,
    partials: Vec<Partial>,
    given_up: usize,
}

#[derive(Debug)]
struct Partial {
    /// Not in use when there are no parts.
    parts: usize,
    sequence: u8,
    size: usize,
    /// Bit by index.
    have: u32,
    /// Index and end of the last part, once it is there.
    last: Option<(u8, usize)>,
    /// When its newest part came.
    heard: u32,
    bytes: Box<[u8]>,
}

impl Reassembler {
    /// Nothing received yet. `largest` is the longest packet, in bytes with framing.
    pub fn new(largest: usize) -> Self {
        Reassembler {
            largest,
            newest: None,
            partials: Vec::new(),
            given_up: 0,
        }
    }

    /// Bytes of the longest packet.
    pub fn largest(&self) -> usize {
        self.largest
    }

    /// Takes a payload, header included. `now` is in seconds and does not go backwards.
    ///
    /// A part that contradicts what is there of its packet begins it anew: the peer has started
    /// again, and parts of two packets must not meet. What was there counts as given up.
    ///
    /// # Errors
    /// [`DropReason::BadFragment`]: a header that makes no sense, a part that is empty, of a wrong
    /// length or beyond the largest packet, or one that is there already.
    pub fn take(&mut self, now: u32, payload: &[u8]) -> Result<Taken<'_>, DropReason> {
        let (sequence, index, size, is_last) = match Header::parse(payload)? {
            Header::Whole => return Ok(Taken::Whole),
            Header::Part { sequence, index } => {
                (sequence, index, payload.len() - HEADER_LEN, false)
            }
            Header::Last {
                sequence,
                index,
                size,
            } => (sequence, index, usize::from(size), true),
        };
        let part = &payload[HEADER_LEN..];
        let start = usize::from(index) * size;
        let end = start + part.len();
        if part.is_empty()
            || part.len() > size
            || !size.is_multiple_of(UNIT)
            || size > usize::from(u16::MAX)
            || end > self.largest
        {
            return Err(DropReason::BadFragment);
        }
        self.advance(sequence, now);
        let largest = self.largest;
        let (slot, given_up) = {
            let slot = self.slot(sequence, size, largest);
            let partial = &mut self.partials[slot];
            if partial.have & 1 << index != 0 && partial.bytes[start..end] == *part {
                return Err(DropReason::BadFragment);
            }
            let mut given_up = 0;
            if partial.contradicts(size, index, is_last) {
                given_up = partial.parts;
                partial.begin(sequence, size);
            }
            partial.bytes[start..end].copy_from_slice(part);
            partial.have |= 1 << index;
            partial.parts += 1;
            partial.heard = now;
            if is_last {
                partial.last = Some((index, end));
            }
            (slot, given_up)
        };
        self.given_up += given_up;
        let partial = &mut self.partials[slot];
        match partial.last {
            Some((last, len)) if partial.parts == usize::from(last) + 1 => {
                partial.parts = 0;
                Ok(Taken::Packet(&partial.bytes[..len]))
            }
            _ => Ok(Taken::Kept),
        }
    }

    /// How many parts were given up since the last call, because the rest of their packet did not come
    /// in time.
    pub fn take_given_up(&mut self) -> usize {
        std::mem::take(&mut self.given_up)
    }

    /// A part of this packet arrived: gives up what is too old, in time or in numbers. A number far
    /// behind is that of a peer that has started again.
    fn advance(&mut self, sequence: u8, now: u32) {
        let newest = match self.newest {
            Some(newest) if newest.wrapping_sub(sequence) < WINDOW => newest,
            _ => sequence,
        };
        self.newest = Some(newest);
        for partial in &mut self.partials {
            let lag = newest.wrapping_sub(partial.sequence);
            if lag >= WINDOW || now.saturating_sub(partial.heard) >= LIFETIME {
                self.given_up += std::mem::take(&mut partial.parts);
            }
        }
    }

    /// The slot of this packet, or an unused one made ready for it.
    fn slot(&mut self, sequence: u8, size: usize, largest: usize) -> usize {
        let mut unused = None;
        for (index, partial) in self.partials.iter().enumerate() {
            if partial.parts == 0 {
                unused = Some(index);
            } else if partial.sequence == sequence {
                return index;
            }
        }
        let index = unused.unwrap_or_else(|| {
            // Those in use have different numbers out of a window of 25.
            self.partials.push(Partial::new(largest));
            self.partials.len() - 1
        });
        self.partials[index].begin(sequence, size);
        index
    }
}

impl Partial {
    fn new(largest: usize) -> Self {
        Partial {
            parts: 0,
            sequence: 0,
            size: 0,
            have: 0,
            last: None,
            heard: 0,
            bytes: vec![0; largest].into(),
        }
    }

    fn begin(&mut self, sequence: u8, size: usize) {
        (self.parts, self.have, self.last) = (0, 0, None);
        (self.sequence, self.size) = (sequence, size);
    }

    /// Whether a part cannot belong to the same packet as those that are there.
    fn contradicts(&self, size: usize, index: u8, is_last: bool) -> bool {
        let beyond = match (self.last, is_last) {
            (Some(_), true) => true,
            (Some((last, _)), false) => index >= last,
            (None, true) => u64::from(self.have) >> index != 0,
            (None, false) => false,
        };
        self.size != size || self.have & 1 << index != 0 || beyond
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(seed: u8, len: usize) -> Vec<u8> {
        (0..len)
            .map(|i| seed.wrapping_add((i * 7 + i / 251) as u8))
            .collect()
    }

    fn parts(packet: &[u8], limit: usize, sequence: u8) -> Vec<Vec<u8>> {
        let cut = Cut::new(packet.len(), limit).unwrap();
        (0..cut.count())
            .map(|i| {
                let header = cut.header(sequence, i).to_bytes();
                [&header, &packet[cut.part(i)]].concat()
            })
            .collect()
    }

    #[test]
    fn the_first_number_may_be_any() {
        // The second packet's parts come first, and the first one's are just as new.
        for first in 0..=255u8 {
            let packets = [packet(1, 300), packet(2, 300)];
            let [older, newer] =
                [0, 1].map(|i| parts(&packets[i], 200, first.wrapping_add(i as u8)));
            let mut reassembler = Reassembler::new(1500);
            assert!(matches!(reassembler.take(0, &newer[0]), Ok(Taken::Kept)));
            assert!(matches!(reassembler.take(0, &older[0]), Ok(Taken::Kept)));
            assert!(matches!(
                reassembler.take(0, &newer[1]),
                Ok(Taken::Packet(_))
            ));
            assert!(matches!(
                reassembler.take(0, &older[1]),
                Ok(Taken::Packet(_))
            ));
        }
    }

    #[test]
    fn headers_have_the_published_layout() {
        assert_eq!(Header::Whole.to_bytes(), [0, 0, 0, 0]);
        let part = Header::Part {
            sequence: 0x81,
            index: 3,
        };
        // 1 | 0x81 << 2 | 3 << 10
        assert_eq!(part.to_bytes(), [0, 0, 0x0e, 0x05]);
        let last = Header::Last {
            sequence: 0xff,
            index: 31,
            size: 1300,
        };
        // 2 | 0xff << 2 | 31 << 10 | 325 << 15
        assert_eq!(last.to_bytes(), [0x00, 0xa2, 0xff, 0xfe]);
        let bad = Err(DropReason::BadFragment);
        assert_eq!(Header::parse(&[0, 0, 0]), bad);
        assert_eq!(Header::parse(&[0, 0, 0, 3]), bad);
        assert_eq!(Header::parse(&[0, 0, 0, 4]), bad);
        assert_eq!(Header::parse(&[0x80, 0, 0, 0]), bad);
    }

    #[test]
    fn cuts_are_few_and_equal() {
        let sizes = |len, limit| {
            let cut = Cut::new(len, limit).unwrap();
            let lens = (0..cut.count()).map(|i| cut.part(i).len());
            lens.collect::<Vec<_>>()
        };
        assert_eq!(sizes(0, 1000), [0]);
        assert_eq!(sizes(1000, 1000), [1000]);
        assert_eq!(sizes(1001, 1000), [504, 497]);
        assert_eq!(sizes(1001, 1001), [1001]);
        // The limit for several parts is a multiple of 4.
        assert_eq!(sizes(2002, 1001), [668, 668, 666]);
        assert_eq!(sizes(1500, 1272), [752, 748]);
        assert_eq!(sizes(32 * 64, 64), [64; 32]);
        assert_eq!(Cut::longest(64), 32 * 64);
        assert_eq!(Cut::new(32 * 64 + 1, 64), None);
        assert_eq!(Cut::new(5, 3), None);
    }

    #[test]
    fn parts_in_any_order_make_the_packet() {
        let whole = packet(1, 100);
        let cut = parts(&whole, 40, 9);
        assert_eq!(cut.len(), 3);
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [2, 0, 1]] {
            let mut reassembler = Reassembler::new(1600);
            for &i in &order[..2] {
                assert_eq!(reassembler.take(0, &cut[i]), Ok(Taken::Kept));
            }
            let taken = reassembler.take(0, &cut[order[2]]);
            assert_eq!(taken, Ok(Taken::Packet(&whole)));
            assert_eq!(reassembler.partials.len(), 1);
        }
    }

    #[test]
    fn an_incomplete_packet_ends_by_time_and_by_numbers() {
        let whole = packet(1, 100);
        let cut = parts(&whole, 40, 9);
        let other = parts(&packet(2, 80), 40, 10);
        let mut reassembler = Reassembler::new(1600);
        // Its newest part counts.
        assert_eq!(reassembler.take(0, &cut[0]), Ok(Taken::Kept));
        assert_eq!(reassembler.take(9, &cut[1]), Ok(Taken::Kept));
        assert_eq!(reassembler.take(18, &cut[2]), Ok(Taken::Packet(&whole)));
        assert_eq!(reassembler.take(20, &cut[0]), Ok(Taken::Kept));
        assert_eq!(reassembler.take(30, &other[0]), Ok(Taken::Kept));
        assert_eq!(reassembler.take_given_up(), 1);
        assert_eq!(reassembler.take(30, &cut[1]), Ok(Taken::Kept));
        assert_eq!(reassembler.take(30, &cut[2]), Ok(Taken::Kept));
        assert_eq!(reassembler.take_given_up(), 0);

        // 25 numbers on, the parts of number 9 are old; those of 10 are not.
        let later = parts(&packet(3, 80), 40, 34);
        assert_eq!(reassembler.take(30, &later[0]), Ok(Taken::Kept));
        assert_eq!(reassembler.take_given_up(), 2);
        assert_eq!(
            reassembler.take(30, &other[1]),
            Ok(Taken::Packet(&packet(2, 80)))
        );
        // A peer that starts again counts from elsewhere.
        let restarted = parts(&whole, 40, 0);
        assert_eq!(reassembler.take(30, &restarted[0]), Ok(Taken::Kept));
        assert_eq!(reassembler.take_given_up(), 1);
    }

    #[test]
    fn parts_of_two_packets_never_meet() {
        let mut reassembler = Reassembler::new(1600);
        let old = parts(&packet(1, 100), 40, 9);
        for new_len in [100, 99, 60, 120] {
            let mut came = false;
            assert_eq!(reassembler.take(0, &old[1]), Ok(Taken::Kept));
            let new = packet(2, new_len);
            for part in parts(&new, 40, 9) {
                match reassembler.take(0, &part).unwrap() {
                    Taken::Packet(bytes) => {
                        assert_eq!(bytes, new);
                        came = true;
                    }
                    other => assert_eq!(other, Taken::Kept),
                }
            }
            // With parts of the same size the new packet is found out late, and lost with the old.
            assert_eq!(came, [60, 120].contains(&new_len));
            assert!(reassembler.take_given_up() > 0, "{new_len}");
            let after = parts(&packet(3, 80), 40, 200);
            assert_eq!(reassembler.take(0, &after[0]), Ok(Taken::Kept));
            assert!(reassembler.take(0, &after[1]).is_ok());
            reassembler.take_given_up();
        }
    }

    #[test]
    fn bad_parts_are_refused_and_leave_the_packet_alone() {
        let whole = packet(1, 100);
        let cut = parts(&whole, 40, 9);
        let mut reassembler = Reassembler::new(100);
        assert_eq!(reassembler.take(0, &cut[0]), Ok(Taken::Kept));
        let with = |header: Header, len: usize| [&header.to_bytes()[..], &packet(7, len)].concat();
        let part = |index| Header::Part { sequence: 9, index };
        let last = |index, size| Header::Last {
            sequence: 9,
            index,
            size,
        };
        for bad in [
            cut[0].clone(),
            with(part(1), 0),
            with(part(1), 35),
            with(part(2), 36),
            with(part(31), 4096),
            with(last(2, 36), 0),
            with(last(2, 36), 37),
            with(last(2, 36), 29),
            with(last(1, 0), 1),
        ] {
            assert_eq!(reassembler.take(0, &bad), Err(DropReason::BadFragment));
        }
        assert_eq!(reassembler.take(0, &cut[1]), Ok(Taken::Kept));
        assert_eq!(reassembler.take(0, &cut[2]), Ok(Taken::Packet(&whole)));
        assert_eq!(reassembler.take_given_up(), 0);
    }

    #[test]
    fn the_cutter_follows_the_path_and_numbers_what_it_cuts() {
        let config = Fragment {
            payload: 1300,
            largest: 1600,
        };
        let mut cutter = Cutter::new(config);
        assert_eq!(cutter.cut(1300).unwrap().0.count(), 1);
        let (cut, first) = cutter.cut(1500).unwrap();
        assert_eq!(cut.count(), 2);
        assert_eq!(cutter.cut(1500).unwrap().1, first.wrapping_add(1));
        cutter.fit(Some(500));
        assert_eq!(
            (cutter.limit(), cutter.cut(1500).unwrap().0.count()),
            (500, 3)
        );
        cutter.fit(Some(5000));
        assert_eq!(cutter.limit(), 1300);
        cutter.fit(Some(0));
        assert_eq!(cutter.limit(), 32);
        cutter.fit(None);
        assert_eq!(cutter.limit(), 1300);
        assert_eq!(cutter.cut(Cut::longest(1300) + 1), None);
    }

    proptest! {
        #[test]
        fn headers_round_trip(sequence: u8, index in 0u8..32, size in 0u16..0x4000) {
            let size = size * 4;
            for header in [
                Header::Part { sequence, index },
                Header::Last { sequence, index, size },
            ] {
                prop_assert_eq!(Header::parse(&header.to_bytes()), Ok(header));
            }
        }

        #[test]
        fn a_cut_covers_the_packet_and_keeps_to_the_limit(len in 0usize..70_000, limit in 4usize..9000) {
            let Some(cut) = Cut::new(len, limit) else {
                prop_assert!(len > Cut::longest(limit));
                return Ok(());
            };
            let mut end = 0;
            for i in 0..cut.count() {
                let part = cut.part(i);
                prop_assert_eq!(part.start, end);
                prop_assert!(part.len() <= limit && (len == 0 || !part.is_empty()));
                let is_last = i + 1 == cut.count();
                prop_assert!(is_last || part.len() == cut.size && cut.size % 4 == 0);
                end = part.end;
            }
            prop_assert_eq!(end, len);
            prop_assert_eq!(cut.count(), len.div_ceil(limit / 4 * 4).max(1).min(if len <= limit { 1 } else { 32 }));
        }

        /// Packets whose parts are shuffled within a window, lost and duplicated: what comes out is
        /// what went in, and everything that lost nothing comes out.
        #[test]
        fn any_order_loss_and_duplication(
            lens in proptest::collection::vec(1usize..1600, 1..40),
            limit in 64usize..700,
            first: u8,
            fates in proptest::collection::vec((0u8..20, 0usize..12), 1200),
        ) {
            let packets: Vec<_> = lens.iter().enumerate().map(|(i, &len)| packet(i as u8, len)).collect();
            let mut queue = Vec::new();
            let mut lost = vec![false; packets.len()];
            let mut place = 0;
            for (i, bytes) in packets.iter().enumerate() {
                for part in parts(bytes, limit, first.wrapping_add(i as u8)) {
                    let (fate, delay) = fates[place];
                    lost[i] |= fate == 0;
                    // A duplicate comes at once: one that outlives its packet would begin a new one.
                    let copies = [1, 0, 2][match fate { 0 => 1, 1 => 2, _ => 0 }];
                    queue.extend(std::iter::repeat_n((place + delay, i, part), copies));
                    place += 1;
                }
            }
            queue.sort_by_key(|(at, ..)| *at);
            let mut reassembler = Reassembler::new(1600);
            let mut came = vec![0; packets.len()];
            for (_, i, part) in &queue {
                match reassembler.take(0, part) {
                    Ok(Taken::Whole) => {
                        prop_assert_eq!(&part[HEADER_LEN..], &packets[*i]);
                        came[*i] += 1;
                    }
                    Ok(Taken::Packet(bytes)) => {
                        prop_assert_eq!(bytes, &packets[*i]);
                        came[*i] += 1;
                    }
                    Ok(Taken::Kept) | Err(DropReason::BadFragment) => {}
                    Err(other) => prop_assert!(false, "{:?}", other),
                }
                prop_assert!(reassembler.partials.len() <= usize::from(WINDOW));
            }
            for (i, count) in came.iter().enumerate() {
                prop_assert!(lost[i] && *count == 0 || !lost[i] && *count >= 1, "{i}: {count}");
            }
        }

        #[test]
        fn garbage_is_bounded_and_never_panics(
            payloads in proptest::collection::vec(
                (any::<[u8; 4]>(), 0usize..200, 0u32..30), 0..300),
        ) {
            let mut reassembler = Reassembler::new(1000);
            let mut now = 0;
            for (header, len, later) in payloads {
                now += later / 10;
                // Type and size get a chance to be good ones.
                let header = [0, header[1], header[2], header[3]];
                let payload = [&header[..], &packet(header[3], len)].concat();
                if let Ok(Taken::Packet(bytes)) = reassembler.take(now, &payload) {
                    prop_assert!(bytes.len() <= 1000);
                }
                prop_assert!(reassembler.partials.len() <= usize::from(WINDOW));
            }
        }
    }
}
