//! Packets in a TCP stream (protocol §1, framing).
//!
//! ```text
//!   | length:16 | packet ... | length:16 | packet ... |
//! ```
//!
//! The length does not count itself. There is no way to find the next packet after a bad length, so
//! that one ends the connection. Nothing here does I/O: a [`FrameReader`] finds the packets in what
//! was read, a [`queue::SendQueue`] keeps what could not be written yet.

pub mod queue;

use std::ops::Range;

/// Bytes of the length in front of each packet.
pub const PREFIX: usize = 2;

/// The longest packet that a length can announce.
pub const MAX_PACKET: usize = u16::MAX as usize;

/// A packet's length is 0 or more than the reader takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a packet of {len} bytes where 1 to {max} are possible")]
pub struct BadLength {
    /// What the stream says.
    pub len: usize,
    /// The longest packet the reader takes.
    pub max: usize,
}

/// Finds packets in a stream that arrives in pieces, without copying any but those cut in two.
///
/// ```
/// # use ringway_dataplane::stream::FrameReader;
/// let mut frames = FrameReader::new(1500);
/// let mut buffer = [0; 2 + 1500 + 4096];
/// for read in [&b"\x00\x03one\x00"[..], b"\x05three"] {
///     let begun = frames.resume(&mut buffer);
///     buffer[begun..][..read.len()].copy_from_slice(read);
///     let filled = begun + read.len();
///     let mut at = 0;
///     while let Some(packet) = frames.next(&buffer[..filled], &mut at).unwrap() {
///         println!("{:?}", &buffer[packet]);
///     }
///     frames.keep(&buffer[at..filled]);
/// }
/// ```
#[derive(Debug)]
pub struct FrameReader {
    max: usize,
    /// The beginning of a frame whose end has not arrived; shorter than the longest frame. Memory is
    /// taken when there first is one, for the longest at once.
    begun: Vec<u8>,
}

impl FrameReader {
    /// A reader of packets of 1 to `max_packet` bytes ([`MAX_PACKET`] at most).
    pub fn new(max_packet: usize) -> Self {
        FrameReader {
            max: max_packet.min(MAX_PACKET),
            begun: Vec::new(),
        }
    }

    /// The longest packet it takes.
    pub fn max_packet(&self) -> usize {
        self.max
    }

    /// Copies the beginning of a frame that [`FrameReader::keep`] was given to the front of `buffer`,
    /// where what is read next belongs right behind it. Returns its length, less than
    /// [`PREFIX`]` + max_packet`.
    ///
    /// # Panics
    /// If `buffer` is shorter than that.
    pub fn resume(&mut self, buffer: &mut [u8]) -> usize {
        let len = self.begun.len();
        buffer[..len].copy_from_slice(&self.begun);
        self.begun.clear();
        len
    }

    /// Where in `bytes` the packet is whose frame begins at `at`, which moves on to the next frame;
    /// `None` when the end of the frame has not arrived. Bytes before `at` may have changed meanwhile.
    ///
    /// # Errors
    /// The stream cannot be read on.
    pub fn next(&self, bytes: &[u8], at: &mut usize) -> Result<Option<Range<usize>>, BadLength> {
        let Some(&[high, low]) = bytes.get(*at..*at + PREFIX) else {
            return Ok(None);
        };
        let len = usize::from(u16::from_be_bytes([high, low]));
        if len == 0 || len > self.max {
            return Err(BadLength { len, max: self.max });
        }
        let start = *at + PREFIX;
        if bytes.len() - start < len {
            return Ok(None);
        }
        *at = start + len;
        Ok(Some(start..start + len))
    }

    /// Keeps what is left when [`FrameReader::next`] finds no more.
    pub fn keep(&mut self, rest: &[u8]) {
        if rest.is_empty() {
            return;
        }
        if self.begun.capacity() == 0 {
            self.begun.reserve_exact(PREFIX + self.max);
        }
        self.begun.extend_from_slice(rest);
    }
}

/// Writes the length in front of a packet of `len` bytes ([`MAX_PACKET`] at most) to the beginning of
/// `frame`.
///
/// # Panics
/// If `frame` is shorter than [`PREFIX`].
pub fn write_prefix(frame: &mut [u8], len: usize) {
    debug_assert!((1..=MAX_PACKET).contains(&len));
    frame[..PREFIX].copy_from_slice(&(len as u16).to_be_bytes());
}

/// Takes whole frames apart that [`write_prefix`] made: each with its length in front.
pub fn frames(mut whole: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let &[high, low] = whole.first_chunk()?;
        let len = PREFIX + usize::from(u16::from_be_bytes([high, low]));
        let (frame, rest) = whole.split_at_checked(len)?;
        whole = rest;
        Some(frame)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const MAX: usize = 300;

    /// What a reader makes of a stream that arrives in these pieces.
    fn read(stream: &[u8], cuts: &[usize]) -> (Vec<Vec<u8>>, Option<BadLength>) {
        let mut frames = FrameReader::new(MAX);
        let mut packets = Vec::new();
        let mut buffer = vec![0; PREFIX + MAX + stream.len()];
        let mut from = 0;
        for cut in cuts.iter().copied().chain([stream.len()]) {
            let piece = &stream[from..cut];
            from = cut;
            let begun = frames.resume(&mut buffer);
            assert!(begun < PREFIX + MAX);
            buffer[begun..][..piece.len()].copy_from_slice(piece);
            let filled = begun + piece.len();
            let mut at = 0;
            loop {
                match frames.next(&buffer[..filled], &mut at) {
                    Ok(Some(packet)) => {
                        packets.push(buffer[packet.clone()].to_vec());
                        // As opening in place does.
                        buffer[packet].fill(0xee);
                    }
                    Ok(None) => break,
                    Err(bad) => return (packets, Some(bad)),
                }
            }
            frames.keep(&buffer[at..filled]);
            assert!(frames.begun.capacity() <= PREFIX + MAX);
        }
        (packets, None)
    }

    fn join(packets: &[Vec<u8>]) -> Vec<u8> {
        let mut stream = Vec::new();
        for packet in packets {
            let at = stream.len();
            stream.extend_from_slice(&[0; PREFIX]);
            write_prefix(&mut stream[at..], packet.len());
            stream.extend_from_slice(packet);
        }
        stream
    }

    fn cuts(len: usize) -> impl Strategy<Value = Vec<usize>> {
        vec(0..=len, 0..12).prop_map(|mut cuts| {
            cuts.sort_unstable();
            cuts
        })
    }

    fn packets_and_cuts() -> impl Strategy<Value = (Vec<Vec<u8>>, Vec<usize>)> {
        vec(vec(any::<u8>(), 1..=MAX), 0..20).prop_flat_map(|packets| {
            let len = join(&packets).len();
            (Just(packets), cuts(len))
        })
    }

    proptest! {
        #[test]
        fn any_cutting_gives_the_same_packets((packets, cuts) in packets_and_cuts()) {
            let stream = join(&packets);
            prop_assert_eq!(read(&stream, &cuts), (packets.clone(), None));
            let whole: Vec<_> = frames(&stream).map(|frame| frame[PREFIX..].to_vec()).collect();
            prop_assert_eq!(whole, packets);
        }

        #[test]
        fn noise_reads_the_same_however_it_is_cut(
            (noise, cuts) in vec(prop_oneof![Just(0u8), Just(1), any::<u8>()], 0..900)
                .prop_flat_map(|noise| {
                    let len = noise.len();
                    (Just(noise), cuts(len))
                })
        ) {
            prop_assert_eq!(read(&noise, &cuts), read(&noise, &[]));
        }
    }

    #[test]
    fn a_stream_of_single_bytes_gives_its_packets() {
        let packets: Vec<_> = (1..=MAX).map(|len| vec![len as u8; len]).collect();
        let stream = join(&packets);
        let cuts: Vec<_> = (0..stream.len()).collect();
        assert_eq!(read(&stream, &cuts), (packets, None));
    }

    #[test]
    fn zero_and_too_long_end_the_stream_behind_what_was_good() {
        for len in [0, MAX + 1, MAX_PACKET] {
            let mut stream = join(&[b"good".to_vec()]);
            stream.extend_from_slice(&(len as u16).to_be_bytes());
            let bad = BadLength { len, max: MAX };
            assert_eq!(read(&stream, &[]), (vec![b"good".to_vec()], Some(bad)));
        }
        assert_eq!(read(&join(&[vec![7; MAX]]), &[]).1, None);
    }
}
